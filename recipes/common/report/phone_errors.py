"""Phone error rates of frames, by CTC and cross-validation over speakers."""

import numpy as np
import torch
from torch.nn import functional

from lobes.heads import BLANK, CTCHead
from pretrained.decoding import greedy_decode
from pretrained.tokenizers import SymbolTokenizer
from recipes.common.data.seeding import derive_rng, derive_seed
from recipes.common.downstream.ctc import favour_blanks
from recipes.common.evaluation.bootstrap import bootstrap_groups, group_scores
from recipes.common.evaluation.folds import split_groups
from recipes.common.evaluation.metrics import error_counts
from recipes.common.report.measures import share_reading

EPOCHS = 15
BATCH = 16
RATE = 3e-3
HIDDEN = 128


def read_phone_errors(frames, texts, speakers, seed):
    """Return how well phones are recognised by CTC on frames, by cross-validation over speakers.

    Two linear maps, fitted for 15 epochs, of which the best on speakers set apart counts. The
    control is fitted on transcripts that are dealt out at random.

    Arguments
    ---------
    frames : list of numpy.ndarray
        Shape (frames, dim) of each utterance.
    texts : list of str
        Phones of each utterance, separated by spaces.
    speakers : list
        The speaker of each utterance.
    seed : int
        Seed of the division, of weights and of batches.

    Returns
    -------
    dict
    """
    names, groups = np.unique(speakers, return_inverse=True)
    dealt = [texts[place] for place in derive_rng(seed, "dealt").permutation(len(texts))]
    tokenizer = SymbolTokenizer.from_texts(texts, "phones")
    hypotheses, guesses = [""] * len(texts), [""] * len(texts)
    for fold, parts in enumerate(split_groups(np.zeros(len(texts), int), groups, seed)):
        for own, found in ((texts, hypotheses), (dealt, guesses)):
            decoded = _fit_ctc(frames, own, tokenizer, parts, derive_seed(seed, fold))
            for place, text in zip(parts[2], decoded, strict=True):
                found[place] = text
    (errors, tokens), (control_errors, _) = (
        _count(texts, found) for found in (hypotheses, guesses)
    )
    value, control = (float(own.sum() / tokens.sum()) for own in (errors, control_errors))
    scores = group_scores(errors, tokens, np.zeros(len(texts), int), groups)[None]
    interval = np.maximum(bootstrap_groups(scores, seed), 0).tolist()
    evidence = {"group_names": names, "group_scores": scores}
    more = {"probe": "linear", "control": control, "selectivity": control - value}
    return share_reading("phone error rate", value, interval, seed, names, evidence, **more)


def _count(references, hypotheses):
    """Return the errors of each text and the phones that it has."""
    pairs = zip(references, hypotheses, strict=True)
    counts = [error_counts([reference.split()], [text.split()]) for reference, text in pairs]
    return np.array([(count["errors"], count["tokens"]) for count in counts]).T


def _fit_ctc(frames, texts, tokenizer, parts, seed):
    """Fit a CTC head on the first part, choose its epoch on the second, decode the third."""
    train, valid, test = parts
    mean = np.concatenate([frames[place] for place in train]).astype(np.float64)
    mean, deviation = mean.mean(0), np.maximum(mean.std(0), 1e-6)
    states = [torch.from_numpy(((x - mean) / deviation).astype(np.float32)) for x in frames]
    tokens = [torch.tensor(tokenizer.encode(text)) for text in texts]
    torch.manual_seed(seed)
    head = favour_blanks(CTCHead(1, frames[0].shape[1], len(tokenizer), HIDDEN))
    optimizer = torch.optim.Adam(head.parameters(), RATE)

    def run(places):
        padded = torch.nn.utils.rnn.pad_sequence([states[place] for place in places], True)
        lens = torch.tensor([len(states[place]) for place in places])
        logits, lens = head(padded[:, :, None], lens)
        return logits.log_softmax(2), lens

    def loss(places):
        log_probs, lens = run(places)
        targets = torch.cat([tokens[place] for place in places])
        sizes = torch.tensor([len(tokens[place]) for place in places])
        return functional.ctc_loss(
            log_probs.transpose(0, 1), targets, lens, sizes, BLANK, "sum", zero_infinity=True
        )

    best, best_value = None, float("inf")
    for epoch in range(EPOCHS):
        order = derive_rng(seed, "batches", epoch).permutation(train)
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            optimizer.zero_grad()
            (loss(batch) / len(batch)).backward()
            optimizer.step()
        with torch.no_grad():
            value = float(loss(valid))
        if value < best_value:
            best_value = value
            best = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    head.load_state_dict(best)
    with torch.no_grad():
        return greedy_decode(*run(test), tokenizer)
