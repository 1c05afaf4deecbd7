"""Stage A: the frame encoder learns to predict the units of the frames that it does not see.

HuBERT (https://arxiv.org/abs/2106.07447), equation 1 at the masked frames, and, with a weight, at
the others, equation 2.
"""

from pathlib import Path

import torch
from speechbrain import Stage

from lobes.distributed import SharedCounts
from lobes.losses import prediction_loss
from pretrained.exported import load_model
from pretrained.toolkits.importing import import_weights
from recipes.common.data.loaders import stage_loaders
from recipes.common.training.meters import FrameMeter
from recipes.common.training.pretraining_brain import PretrainingBrain
from recipes.common.units.unit_array import UnitArray, columns
from recipes.common.units.unit_making import make_units


class FrameBrain(PretrainingBrain):
    """Masked prediction of pseudo-phonemes."""

    @staticmethod
    def initialise(hparams):
        """Start from public weights where `frame_weights` names them; look for the teacher."""
        if hparams["frame_weights"]:
            import_weights(hparams["modules"]["frame_encoder"], hparams["frame_weights"])
        if hparams["teacher"]:
            teacher = load_encoder(hparams["teacher"], "frame_encoder")
            check_layer(hparams["teacher_layer"], teacher)

    @staticmethod
    def make_loaders(hparams, datasets, device):
        """Make the units of all splits, and a loader for each."""
        folder = hparams["teacher"]
        teacher = load_encoder(folder, "frame_encoder") if folder else None
        own = Path(hparams["output_folder"]) / "units"
        units = corpus_units(own, hparams, datasets, teacher, device)
        return stage_loaders(hparams, datasets, units=units)

    def compute_forward(self, batch, stage):
        """Return the frames, the logits of `predicted_frames`, and the counts of these."""
        batch = batch.to(self.device, non_blocking=True)
        counts = SharedCounts(hidden=len(batch.hidden), visible=len(batch.visible))
        frames, logits = self.modules.frame_encoder(
            *batch.sig,
            mask=batch.mask.data.bool(),
            return_logits=True,
            logits_at=predicted_frames(batch, stage, self.hparams.visible_weight > 0),
        )
        return frames, logits, counts

    def compute_objectives(self, predictions, batch, stage):
        """Return the cross-entropy at the masked frames, and `visible_weight` times the others'."""
        _, logits, counts = predictions
        loss = masked_loss(logits, batch, counts)
        if not self.hparams.visible_weight:
            return loss
        of_visible, units = logits[len(batch.hidden) :], batch.units_at(batch.visible)
        visible_loss = prediction_loss(of_visible, units, counts.total("visible"))
        return loss + self.hparams.visible_weight * visible_loss

    def make_meters(self, all_ranks):
        """Return the meter of the frame encoder."""
        return {"frame": FrameMeter(all_ranks)}

    def measure(self, outputs, batch):
        """Add a batch to the meter."""
        frames, logits, _ = outputs
        self.meters["frame"].update(frames, logits, batch)


def predicted_frames(batch, stage, also_visible=False):
    """Return the frames whose units are predicted: the masked ones, then in evaluation the others.

    Arguments
    ---------
    batch : SpeechBatch
    stage : Stage
    also_visible : bool
        Whether the others are predicted in training too.

    Returns
    -------
    torch.Tensor
        Shape (n,), int64, see `SpeechBatch`.
    """
    return batch.hidden if stage == Stage.TRAIN and not also_visible else all_frames(batch)


def all_frames(batch):
    """Return the valid frames of a batch as `predicted_frames` does, the masked ones first."""
    return torch.cat([batch.hidden, batch.visible])


def masked_loss(logits, batch, counts):
    """Return the cross-entropy at the masked frames, the first of the logits.

    Arguments
    ---------
    logits : torch.Tensor
        Shape (n, num_targets), of `predicted_frames`.
    batch : SpeechBatch
    counts : SharedCounts
        With `hidden`, the number of masked frames.
    """
    units = batch.units_at(batch.hidden)
    return prediction_loss(logits[: len(units)], units, counts.total("hidden"))


def check_layer(layer, teacher):
    """Raise ValueError unless a frame encoder has a hidden state of this number."""
    most = teacher.config["num_layers"]
    if layer > most:
        raise ValueError(f"teacher_layer is {layer}: the encoder whose units are made has {most}.")


def load_encoder(folder, name):
    """Return an encoder of an exported model, by its name.

    Raises
    ------
    ValueError
        Where the folder holds none.
    """
    encoders = load_model(folder)
    if name not in encoders:
        raise ValueError(f"{folder} holds no {name}, only {', '.join(encoders)}.")
    return encoders[name]


def corpus_units(folder, hparams, datasets, teacher=None, device="cpu"):
    """Make the units of a corpus, with all ranks, and open them.

    Arguments
    ---------
    folder : Path
        Holds the units, or receives them.
    hparams : dict
        See `make_units`; `shuffle_units` deals the units out at random, as a control.
    datasets : dict
        "train", "valid" and "test": Utterances.
    teacher : FrameEncoder, optional
        The encoder whose hidden layer is clustered; MFCC without one.
    device : str or torch.device
        This rank's.

    Returns
    -------
    UnitArray
    """
    make_units(folder, datasets, hparams, teacher, device)
    seed = hparams["seed"] if hparams["shuffle_units"] else None
    return UnitArray(folder, columns(*datasets.values()), hparams["num_targets"], seed)
