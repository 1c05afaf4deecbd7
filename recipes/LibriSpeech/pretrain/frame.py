"""Stage A: the frame encoder learns to predict the units of the frames that it does not see.

HuBERT (https://arxiv.org/abs/2106.07447), equation 1, on masked frames alone.
"""

from pathlib import Path

import torch
from speechbrain.utils.distributed import run_on_main

from lobes.losses import IGNORED_UNIT, masked_prediction_loss
from lobes.signal import SAMPLE_RATE
from pretrained.exported import load_model
from pretrained.toolkits.importing import import_weights
from recipes.common.data.dataio import Clock, add_frame_items, make_loader
from recipes.common.data.units import UnitArray, make_units, manifest_rows
from recipes.common.training.brain import ResumableBrain
from recipes.common.training.meters import nearest_visible_units


class FrameBrain(ResumableBrain):
    """Masked prediction of pseudo-phonemes."""

    @staticmethod
    def initialise(hparams):
        """Start from public weights where `frame_weights` names them."""
        if hparams["frame_weights"]:
            import_weights(hparams["modules"]["frame_encoder"], hparams["frame_weights"])

    @staticmethod
    def make_loaders(hparams, datasets):
        """Make the units of all splits, and a loader for each."""
        teacher = load_teacher(hparams["teacher"]) if hparams["teacher"] else None
        units = corpus_units(Path(hparams["output_folder"]) / "units", hparams, datasets, teacher)
        return frame_loaders(hparams, datasets, units)

    def compute_forward(self, batch, stage):
        """Return the frames and, for each, the logits of its unit."""
        batch = batch.to(self.device)
        wavs, wav_lens = batch.sig
        mask = batch.mask.data.bool()
        return self.modules.frame_encoder(wavs, wav_lens, mask=mask, return_logits=True)

    def compute_objectives(self, predictions, batch, stage):
        """Return the cross-entropy at the masked frames."""
        frames, logits = predictions
        track_frames(self, frames, logits, batch)
        return masked_prediction_loss(logits, batch.units.data, batch.mask.data.bool())

    def summarise(self):
        """Return the accuracies beside those of copying and of the most frequent unit."""
        return frame_figures(self)


@torch.no_grad()
def track_frames(brain, frames, logits, batch):
    """Track what `frame_figures` reports.

    Arguments
    ---------
    brain : ResumableBrain
        Keeps the averages.
    frames : torch.Tensor
        Shape (batch, frames, d_model).
    logits : torch.Tensor
        Shape (batch, frames, num_targets).
    batch : PaddedBatch
        With `sig`, `units` and `mask`.
    """
    units, mask = batch.units.data, batch.mask.data.bool()
    valid = units != IGNORED_UNIT
    hidden, visible = mask & valid, ~mask & valid
    predicted = logits.argmax(-1)
    copied = nearest_visible_units(units, mask, valid.sum(1))
    for name, guess, where in (
        ("masked_accuracy", predicted, hidden),
        ("unmasked_accuracy", predicted, visible),
        ("copy_accuracy", copied, hidden),
    ):
        brain.track(name, (guess == units)[where].sum(), where.sum())
    classes = logits.shape[-1]
    brain.track("predicted", torch.bincount(predicted[hidden], minlength=classes), hidden.sum())
    brain.track("true", torch.bincount(units[hidden], minlength=classes), hidden.sum())
    rows = frames[valid].double()
    brain.track("frame_mean", rows.sum(0), valid.sum())
    brain.track("frame_square", rows.square().sum(0), valid.sum())
    wavs, wav_lens = batch.sig
    brain.track("audio_seconds", wav_lens.sum() * wavs.shape[1] / SAMPLE_RATE, len(wavs))


def frame_figures(brain):
    """Return what is told of a frame encoder.

    Arguments
    ---------
    brain : ResumableBrain
        Has tracked batches by `track_frames`.

    Returns
    -------
    dict
        Accuracy at masked and unmasked frames; of copying the nearest visible unit and of the most
        frequent unit, at masked frames; the perplexity of the predicted and of the true units; the
        frames' standard deviation, averaged over dimensions.
    """
    figures = {
        name: float(brain.average(name))
        for name in ("masked_accuracy", "unmasked_accuracy", "copy_accuracy")
    }
    figures["majority_accuracy"] = float(brain.average("true").max())
    for name in ("predicted", "true"):
        share = brain.average(name)
        figures[f"{name}_perplexity"] = float(torch.special.entr(share).sum().exp())
    variance = brain.average("frame_square") - brain.average("frame_mean").square()
    figures["frame_deviation"] = float(variance.clamp(min=0).sqrt().mean())
    return figures


def load_teacher(folder):
    """Return the frame encoder of an exported model, whose hidden layer is to be clustered.

    Raises
    ------
    ValueError
        Where the folder holds none.
    """
    encoders = load_model(folder)
    if "frame_encoder" not in encoders:
        raise ValueError(f"teacher: {folder} holds no frame_encoder, only {', '.join(encoders)}.")
    return encoders["frame_encoder"]


def corpus_units(folder, hparams, datasets, teacher=None):
    """Make the units of a corpus, on the main process, and open them.

    Arguments
    ---------
    folder : Path
        Holds the units, or receives them.
    hparams : dict
        See `make_units`; `shuffle_units` deals the units out at random, as a control.
    datasets : dict
        "train", "valid" and "test": DynamicItemDataset.
    teacher : FrameEncoder, optional
        The encoder whose hidden layer is clustered; MFCC without one.

    Returns
    -------
    UnitArray
    """
    run_on_main(make_units, args=[folder, datasets, hparams, teacher])
    rows = [row for data in datasets.values() for row in manifest_rows(data)]
    seed = hparams["seed"] if hparams["shuffle_units"] else None
    return UnitArray(folder, rows, hparams["num_targets"], shuffle_seed=seed)


def frame_loaders(hparams, datasets, units):
    """Return the loaders of stage A.

    Arguments
    ---------
    hparams : dict
        See `add_frame_items` and `make_loader`.
    datasets : dict
        "train", "valid" and "test": DynamicItemDataset.
    units : UnitArray
        The units of all of them.

    Returns
    -------
    dict
        A loader for each, of batches with `id`, `sig`, `units` and `mask`.
    """
    loaders = {}
    for split, dataset in datasets.items():
        clock = Clock()
        add_frame_items(dataset, hparams, clock, units)
        dataset.set_output_keys(["id", "sig", "units", "mask"])
        loaders[split] = make_loader(dataset, hparams, clock if split == "train" else None)
    return loaders
