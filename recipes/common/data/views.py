"""Two views of each utterance, of which the second is in another voice, frame by frame aligned."""

from functools import partial

from lobes.signal import SAMPLE_RATE, num_frames
from recipes.common.data.crops import SpeechBatch, add_speech, samples_of
from recipes.common.data.loaders import make_loader
from recipes.common.data.seeding import Clock, derive_rng, derive_seed


def view_loaders(hparams, datasets, change_voice):
    """Return the loaders of a stage that sees each utterance in two voices.

    Arguments
    ---------
    hparams : dict
        `max_seconds`, `crop_batches`, `seed`; also see `make_loader`.
    datasets : dict
        "train", "valid" and "test": Utterances.
    change_voice : callable
        Takes samples, shape (samples,), and a seed; returns a tensor of the same shape.

    Returns
    -------
    dict
        A loader for each, of batches with `id`, `sig` and `other_voice`.
    """
    loaders = {}
    for split, dataset in datasets.items():
        clock, training = Clock(), split == "train"
        add_speech(dataset)
        items = partial(
            view_items,
            clock=clock,
            change_voice=change_voice,
            max_frames=num_frames(round(hparams["max_seconds"] * SAMPLE_RATE)),
            seed=hparams["seed"],
        )
        takes = ["id", "speech"]
        dataset.add_dynamic_item(items, takes=takes, provides=["sig", "other_voice"])
        dataset.set_output_keys(["id", "sig", "other_voice"])
        cut = CutViews(hparams["seed"], clock) if training and hparams["crop_batches"] else None
        loaders[split] = make_loader(dataset, hparams, clock if training else None, cut=cut)
    return loaders


def view_items(utterance, wav, *, clock, change_voice, max_frames, seed):
    """Return an utterance, cropped to so many frames, as it is and in another voice.

    Returns
    -------
    tuple of torch.Tensor
        Shape (samples,) each, float32.
    """
    frames = num_frames(len(wav))
    if frames > max_frames:
        rng = derive_rng(seed, "crop", clock.epoch, utterance)
        wav = wav[samples_of(int(rng.integers(frames - max_frames + 1)), max_frames)]
    return wav, change_voice(wav, derive_seed(seed, "voice", clock.epoch, utterance))


class CutViews:
    """Makes batches of two views, each cut to the shortest utterance: nothing is padded.

    Both views of an utterance are cut at the same place, which is drawn anew in each epoch.

    Arguments
    ---------
    seed : int
        Of the run.
    clock : Clock
        The epoch that cuts are drawn for.
    """

    def __init__(self, seed, clock):
        self.seed = seed
        self.clock = clock

    def __call__(self, examples):
        """Return a `SpeechBatch` of items with `sig` and `other_voice`; others stay whole."""
        frames = min(num_frames(len(row["sig"])) for row in examples)
        return SpeechBatch([{**row, **self.cut(row, frames)} for row in examples])

    def cut(self, row, frames):
        """Return `sig` and `other_voice` of so many frames of an utterance."""
        rng = derive_rng(self.seed, "cut", self.clock.epoch, row["id"])
        start = int(rng.integers(num_frames(len(row["sig"])) - frames + 1))
        return {name: row[name][samples_of(start, frames)] for name in ("sig", "other_voice")}
