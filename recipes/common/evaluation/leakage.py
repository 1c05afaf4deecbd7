"""What is left between frames and utterance embeddings, by critics that saw neither in training.

A critic trained along with the encoders lags behind them, so its value proves nothing. Here the
encoders are frozen, fresh critics are fitted on a part of the training speakers' utterances and
stopped on other speakers, and what they read is told on utterances that no critic saw: of the
speakers that they were fitted on and of speakers that no encoder saw.
"""

import copy

import numpy as np
import torch
from tqdm import tqdm

from lobes.critics.club import CLUB
from lobes.critics.infonce import InfoNCE
from pretrained.audio import read_speech
from recipes.common.data.seeding import derive_rng, derive_seed
from recipes.common.evaluation.grouping import group_by

BATCH = 1024
CHECK_EVERY = 100  # steps
PATIENCE = 5  # checks without a better value, after which a fit ends
UTTERANCES_AT_ONCE = 64


@torch.no_grad()
def encode_pairs(encoders, rows, frames_per_utterance, seed):
    """Encode utterances whole, one by one.

    Arguments
    ---------
    encoders : dict
        `frame_encoder` and `utterance_encoder`, in evaluation mode.
    rows : list of dict
        With `id`, `wav` and `spk_id`.
    frames_per_utterance : int
        Frames to keep of each utterance, drawn at random: the same for all encoders.
    seed : int
        Seed of the draw.

    Returns
    -------
    dict
        `z`: (utterances, frames_per_utterance, d_model); `u`: (utterances, E); `speakers`: an array
        of numbers, (utterances,).
    """
    frames, embeddings = [], []
    for row in tqdm(rows, desc="Encoding", dynamic_ncols=True):
        wav = read_speech(row["wav"])[None]
        z = encoders["frame_encoder"](wav)[0]
        rng = derive_rng(seed, "frames", row["id"])
        frames.append(z[torch.from_numpy(rng.integers(len(z), size=frames_per_utterance))])
        embeddings.append(encoders["utterance_encoder"](wav)[0])
    speakers = np.unique([row["spk_id"] for row in rows], return_inverse=True)[1]
    return {"z": torch.stack(frames), "u": torch.stack(embeddings), "speakers": speakers}


def split_utterances(rows, seed):
    """Divide the training speakers' utterances among the critics' three uses.

    Critics are stopped on speakers that they were not fitted on. Stopped on further utterances of
    the same speakers, they go on to learn these by heart, and what they then say of an unseen
    speaker is confident and wrong.

    Arguments
    ---------
    rows : list of dict
        With `spk_id`.
    seed : int
        Seed of the division.

    Returns
    -------
    dict
        Lists of rows. "stop": all utterances of one speaker in five. "read": one in five of each
        other speaker's. "fit": the rest.
    """
    speakers = group_by(rows, lambda row: row["spk_id"])
    parts = {"fit": [], "stop": [], "read": []}
    order = derive_rng(seed, "speakers").permutation(sorted(speakers))
    for turn, speaker in enumerate(order):
        own = speakers[speaker]
        if turn % 5 == 4:
            parts["stop"] += own
            continue
        for place, row in enumerate(derive_rng(seed, "parts", speaker).permutation(len(own))):
            parts["read" if place % 5 == 3 else "fit"].append(own[row])
    return parts


def read_leakage(encoded, hidden_dim, seeds):
    """Fit fresh critics and read what frames tell of the embedding, utterance by utterance.

    Arguments
    ---------
    encoded : dict
        "fit", "stop" and any further parts to read, each as `encode_pairs` returns it.
    hidden_dim : int
        Hidden units of the critics.
    seeds : list of int
        One critic of each kind for each seed.

    Returns
    -------
    dict
        For each further part `likelihood_gain`, `info_nce`: arrays (seeds, utterances), and `club`:
        a value for each seed.
    """
    fit, stop = encoded["fit"], encoded["stop"]
    marginal = fit["u"].mean(0), fit["u"].var(0, correction=0)
    parts = {name: part for name, part in encoded.items() if name not in ("fit", "stop")}
    results = {name: {"likelihood_gain": [], "info_nce": [], "club": []} for name in parts}
    for seed in seeds:
        torch.manual_seed(derive_seed(seed, "critics"))
        dims = fit["z"].shape[2], fit["u"].shape[1], hidden_dim
        gaussian, contrast = CLUB(*dims), InfoNCE(*dims)
        fit_critic(gaussian, fit, stop, seed)
        fit_critic(contrast, fit, stop, seed)
        scale = score_scale(contrast, stop)
        for name, part in parts.items():
            results[name]["likelihood_gain"].append(likelihood_gain(gaussian, part, marginal))
            results[name]["info_nce"].append(info_nce(contrast, part, scale))
            with torch.no_grad():
                results[name]["club"].append(float(gaussian(*all_pairs(part))))
    return {
        name: {key: np.array(values) for key, values in part.items()}
        for name, part in results.items()
    }


def fit_critic(critic, fit, stop, seed, steps=2000, lr=1e-3, batch=BATCH):
    """Fit a critic and leave it as it was best on the utterances set apart.

    Arguments
    ---------
    critic : lobes.critics.club.MICritic
        Changed in place.
    fit, stop : dict
        As `encode_pairs` returns them.
    seed : int
        Seed of the batches.
    steps : int
        Most steps.
    lr : float
        Adam's learning rate.
    batch : int
        Frames of a batch.
    """
    torch.manual_seed(derive_seed(seed, "fit"))
    optimizer = torch.optim.Adam(critic.parameters(), lr)
    best, best_state, waited = -float("inf"), None, 0
    held_x, held_y, held_groups = all_pairs(stop)
    for step in range(steps + 1):
        if step and step % CHECK_EVERY == 0:
            value = held_value(critic, held_x, held_y, held_groups, batch)
            waited += 1
            if value > best:
                best, waited = value, 0
                best_state = copy.deepcopy(critic.state_dict())
            if waited >= PATIENCE:
                break
        utterances = torch.randint(len(fit["u"]), (batch,))
        x = fit["z"][utterances, torch.randint(fit["z"].shape[1], (batch,))]
        groups = torch.from_numpy(fit["speakers"])[utterances]
        loss = -critic(x, fit["u"][utterances], groups, mode="objective")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    critic.load_state_dict(best_state)
    critic.eval()


@torch.no_grad()
def held_value(critic, x, y, groups, batch):
    """Return the critic's own objective on rows set apart, in batches."""
    critic.eval()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    batches = [part for part in order.split(batch) if len(part) == batch or len(order) < batch]
    values = [critic(x[p], y[p], groups[p], mode="objective") for p in batches]
    critic.train()
    return float(torch.stack(values).mean())


def all_pairs(encoded):
    """Return every frame with its utterance's embedding and the number of its speaker."""
    count = encoded["z"].shape[1]
    return (
        encoded["z"].flatten(0, 1),
        encoded["u"].repeat_interleave(count, 0),
        torch.from_numpy(encoded["speakers"]).repeat_interleave(count),
    )


def likelihood_gain(critic, encoded, marginal):
    """Return each utterance's mean of log q(u|z) above a fitted marginal, nats: (utterances,)."""
    x, y, _ = all_pairs(encoded)
    return critic.log_ratio(x, y, *marginal).view(len(encoded["u"]), -1).mean(1).numpy()


def score_scale(critic, held):
    """Return the factor of a critic's scores, in [0, 1], that reads most on speakers set apart.

    Scores fitted to some speakers are too sure of others. InfoNCE is a lower bound with scores of
    any scale, and 0 with the scale 0.
    """
    scales = np.linspace(0, 1, 11)
    return max(scales, key=lambda scale: info_nce(critic, held, scale).mean())


def info_nce(critic, encoded, scale=1.0):
    """Return each utterance's mean InfoNCE, nats: (utterances,).

    Every frame is to pick its own utterance's embedding among that and those of all utterances of
    other speakers, by the critic's scores times `scale`.
    """
    speakers = torch.from_numpy(encoded["speakers"])
    values = []
    for own in torch.arange(len(speakers)).split(UTTERANCES_AT_ONCE):
        scores = scale * critic.scores(encoded["z"][own].flatten(0, 1), encoded["u"])
        scores = scores.view(len(own), -1, len(speakers))
        positive = scores[torch.arange(len(own)), :, own]
        others = speakers[own, None] != speakers
        negatives = scores.masked_fill(~others[:, None], -float("inf"))
        total = torch.cat([positive[..., None], negatives], 2).logsumexp(2)
        count = (1 + others.sum(1)).log()[:, None]
        values.append((positive - total + count).mean(1))
    return torch.cat(values).numpy()
