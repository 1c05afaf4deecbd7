"""Stage A: the frame encoder learns to predict the units of the frames that it does not see.

HuBERT (https://arxiv.org/abs/2106.07447), equation 1, on masked frames alone.
"""

from pathlib import Path

from speechbrain.utils.distributed import run_on_main

from lobes.losses import masked_prediction_loss
from pretrained.exported import load_model
from pretrained.toolkits.importing import import_weights
from recipes.common.data.loaders import stage_loaders
from recipes.common.data.units import UnitArray, make_units, manifest_rows
from recipes.common.training.brain import PretrainingBrain
from recipes.common.training.meters import FrameMeter


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
    def make_loaders(hparams, datasets):
        """Make the units of all splits, and a loader for each."""
        folder = hparams["teacher"]
        teacher = load_encoder(folder, "frame_encoder") if folder else None
        units = corpus_units(Path(hparams["output_folder"]) / "units", hparams, datasets, teacher)
        return stage_loaders(hparams, datasets, units=units)

    def compute_forward(self, batch, stage):
        """Return the frames and, for each, the logits of its unit."""
        batch = batch.to(self.device)
        wavs, wav_lens = batch.sig
        mask = batch.mask.data.bool()
        return self.modules.frame_encoder(wavs, wav_lens, mask=mask, return_logits=True)

    def compute_objectives(self, predictions, batch, stage):
        """Return the cross-entropy at the masked frames."""
        _, logits = predictions
        return masked_prediction_loss(logits, batch.units.data, batch.mask.data.bool())

    def make_meters(self, all_ranks):
        """Return the meter of the frame encoder."""
        return {"frame": FrameMeter(all_ranks)}

    def measure(self, outputs, batch):
        """Add a batch to the meter."""
        self.meters["frame"].update(*outputs, batch.units.data, batch.mask.data.bool())


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


def corpus_units(folder, hparams, datasets, teacher=None):
    """Make the units of a corpus, on the main process, and open them.

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

    Returns
    -------
    UnitArray
    """
    run_on_main(make_units, args=[folder, datasets, hparams, teacher])
    rows = [row for data in datasets.values() for row in manifest_rows(data)]
    seed = hparams["seed"] if hparams["shuffle_units"] else None
    return UnitArray(folder, rows, hparams["num_targets"], shuffle_seed=seed)
