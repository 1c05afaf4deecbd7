"""Stage B: the utterance encoder learns to tell utterances apart, whatever was done to them.

Two crops of each utterance, augmented apart from each other, and NT-Xent (SimCLR,
https://arxiv.org/abs/2002.05709, equation 1) on their projected embeddings. At the end the
embeddings are whitened by half: see `UtteranceEncoder.whiten`.
"""

import torch
from speechbrain.dataio.dataset import DynamicItemDataset

from lobes.losses import nt_xent, retrieval_accuracy
from lobes.signal import SAMPLE_RATE
from recipes.common.data.audio import read_speech
from recipes.common.data.augment import UtteranceAugment
from recipes.common.data.dataio import Clock, add_crops, make_loader
from recipes.common.data.seeding import derive_rng
from recipes.common.training.brain import ResumableBrain, unwrap
from recipes.common.training.experiment import read_yaml

WHITENING_UTTERANCES = 10_000  # whose covariance whitens the embeddings


class UtteranceBrain(ResumableBrain):
    """Contrasting pooled embeddings."""

    @staticmethod
    def initialise(hparams):
        """Start at random: nothing comes before this stage."""

    @staticmethod
    def make_loaders(hparams, datasets):
        """Make a loader for each split, and one of plain training utterances."""
        plain = plain_loader(datasets["train"], hparams)
        return {**utterance_loaders(hparams, datasets, hparams["augment"]), "plain": plain}

    def compute_forward(self, batch, stage):
        """Return the embeddings and the projections of the first crops, then of the second."""
        batch = batch.to(self.device)
        return self.modules.utterance_encoder(*both_crops(batch), project=True)

    def compute_objectives(self, predictions, batch, stage):
        """Return NT-Xent between the two crops of each utterance."""
        embeddings, projections = predictions
        first, second = projections.chunk(2)
        track_embeddings(self, embeddings, first, second)
        wavs, wav_lens = both_crops(batch)
        self.track("audio_seconds", wav_lens.sum() * wavs.shape[1] / SAMPLE_RATE, len(wavs))
        return nt_xent(first, second, self.hparams.temperature)

    def summarise(self):
        """Return the retrieval accuracy and how much the embeddings vary."""
        return embedding_figures(self)

    def on_evaluate_start(self, max_key=None, min_key=None):
        """Recover the last checkpoint and whiten its embeddings by half."""
        super().on_evaluate_start(max_key, min_key)
        encoder = unwrap(self.modules.utterance_encoder).eval()
        encoder.whiten(*embedding_moments(encoder, self.loaders["plain"]))


@torch.no_grad()
def embedding_moments(encoder, loader):
    """Return the mean and the covariance of embeddings.

    Arguments
    ---------
    encoder : UtteranceEncoder
        In evaluation mode.
    loader : iterable of PaddedBatch
        With `sig`.

    Returns
    -------
    mean : torch.Tensor
        Shape (E,), float64.
    covariance : torch.Tensor
        Shape (E, E), float64.
    """
    device = next(encoder.parameters()).device
    rows = torch.cat([encoder(*batch.to(device).sig).double() for batch in loader])
    return rows.mean(0), torch.cov(rows.T, correction=0)


def both_crops(batch):
    """Return the first crops of a batch followed by the second ones.

    Arguments
    ---------
    batch : PaddedBatch
        With `first` and `second`.

    Returns
    -------
    wavs : torch.Tensor
        Shape (2 * batch, samples).
    wav_lens : torch.Tensor
        Relative lengths, shape (2 * batch,).
    """
    parts = (batch.first, batch.second)
    samples = max(part.data.shape[1] for part in parts)
    wavs = [torch.nn.functional.pad(part.data, (0, samples - part.data.shape[1])) for part in parts]
    lens = [part.lengths * (part.data.shape[1] / samples) for part in parts]
    return torch.cat(wavs), torch.cat(lens)


@torch.no_grad()
def track_embeddings(brain, embeddings, first, second):
    """Track what `embedding_figures` reports.

    Arguments
    ---------
    brain : ResumableBrain
        Keeps the averages.
    embeddings : torch.Tensor
        Shape (rows, E).
    first, second : torch.Tensor
        Projections of two crops of each utterance, shape (utterances, P).
    """
    count = len(first)
    brain.track("retrieval_accuracy", retrieval_accuracy(first, second) * count, count)
    brain.track("retrieval_chance", torch.tensor(1.0, device=first.device), count)
    rows = torch.nn.functional.normalize(embeddings.double(), dim=-1)
    brain.track("embedding_mean", rows.sum(0), len(rows))
    brain.track("embedding_square", rows.square().sum(0), len(rows))


def embedding_figures(brain):
    """Return what is told of an utterance encoder.

    Arguments
    ---------
    brain : ResumableBrain
        Has tracked batches by `track_embeddings`.

    Returns
    -------
    dict
        The share of first crops whose nearest second crop in the batch is of the same utterance,
        its chance level, and the standard deviation of the embeddings at unit length, averaged
        over dimensions and multiplied by sqrt(E): 1 where they spread over the whole sphere.
    """
    variance = brain.average("embedding_square") - brain.average("embedding_mean").square()
    deviation = variance.clamp(min=0).sqrt().mean() * len(variance) ** 0.5
    return {
        "retrieval_accuracy": float(brain.average("retrieval_accuracy")),
        "retrieval_chance": float(brain.average("retrieval_chance")),
        "embedding_deviation": float(deviation),
    }


def utterance_loaders(hparams, datasets, augment):
    """Return the loaders of stage B.

    Arguments
    ---------
    hparams : dict
        See `add_crops` and `make_loader`.
    datasets : dict
        "train", "valid" and "test": DynamicItemDataset.
    augment : UtteranceAugment
        Of the crops; in training it changes voices too.

    Returns
    -------
    dict
        A loader for each, of batches with `id`, `first` and `second`.
    """
    loaders = {}
    for split, dataset in datasets.items():
        clock = Clock()
        training = split == "train"
        add_crops(dataset, hparams, clock, augment, augment.change_voice if training else None)
        dataset.set_output_keys(["id", "first", "second"])
        clock = clock if training else None
        loaders[split] = make_loader(dataset, hparams, clock, min_batch_size=2)
    return loaders


def crops_of_run(run, datasets, seed):
    """Return loaders of crops that are made as a run of stage B or C made its own.

    Arguments
    ---------
    run : Path
        Folder of the run, with its hyperparams.yaml.
    datasets : dict
        "valid" and "test": DynamicItemDataset.
    seed : int
        Of the draw of crops and of their augmentation, in the place of the run's.

    Returns
    -------
    dict
        See `utterance_loaders`.
    """
    settings = read_yaml(run / "hyperparams.yaml")
    settings = settings.get("recipe", settings)
    given = settings["augment"]  # not a mapping where the augmentation is the default
    augment = UtteranceAugment(**given if isinstance(given, dict) else {})
    return utterance_loaders({**settings, "seed": seed}, datasets, augment)


def plain_loader(dataset, hparams):
    """Return a loader of utterances, drawn at random, as they are: the first `max_seconds` of each.

    Arguments
    ---------
    dataset : DynamicItemDataset
    hparams : dict
        See `make_loader`.

    Returns
    -------
    torch.utils.data.DataLoader
        Of batches with `id` and `sig`.
    """
    rng = derive_rng(hparams["seed"], "plain")
    places = rng.permutation(len(dataset))[:WHITENING_UTTERANCES].tolist()
    longest = round(hparams["max_seconds"] * SAMPLE_RATE)
    with dataset.output_keys_as(["wav", "duration"]):
        plain = DynamicItemDataset({dataset.data_ids[place]: dataset[place] for place in places})
    plain.add_dynamic_item(lambda path: read_speech(path)[:longest], takes="wav", provides="sig")
    plain.set_output_keys(["id", "sig"])
    return make_loader(plain, hparams)
