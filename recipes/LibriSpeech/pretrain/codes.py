"""The frame encoder learns targets that are made while it trains, in the place of stage A.

A teacher, the moving average of the encoder, hears each utterance without masks. The states of its
last layers are clustered online, each layer with a codebook of its own, and the encoder predicts
the codes of the frames that it does not see: SpidR (https://arxiv.org/abs/2512.20308), or DinoSR
(https://arxiv.org/abs/2305.10005) with `predict_from: last`. See `lobes/codebooks.py`.

Both papers take a layer's feed-forward output and a teacher on the student's front end; here the
states are the layers' outputs, and the teacher is a whole copy of the encoder.
"""

from dataclasses import dataclass

import numpy as np
import torch

from lobes.codebooks import teacher_decay
from lobes.distributed import SharedCounts, all_reduce_sum, rank, row_offset, unwrap
from lobes.losses import IGNORED_UNIT, prediction_loss
from lobes.signal import to_device
from pretrained.toolkits.importing import import_weights
from recipes.common.data.loaders import stage_loaders
from recipes.common.data.seeding import derive_rng
from recipes.common.training.brain import TrainingError
from recipes.common.training.meters import Meter, nearest_visible_units, perplexity
from recipes.common.training.pretraining_brain import PretrainingBrain
from recipes.LibriSpeech.pretrain.frame import predicted_frames

MIN_PERPLEXITY = 1.5


@dataclass
class CodesOutputs:
    """What the encoder and its teacher make of a batch.

    Attributes
    ----------
    frames : torch.Tensor
        Shape (batch, frames, d_model), with masks.
    logits : torch.Tensor
        Shape (codebooks, n, codes), of `predicted_frames`.
    states : torch.Tensor
        Shape (codebooks, n, d_model), the teacher's, of the same frames.
    codes : torch.Tensor
        Shape (codebooks, n), int64, the nearest codes of the states.
    counts : SharedCounts
        With `hidden`, the number of masked frames.
    """

    frames: torch.Tensor
    logits: torch.Tensor
    states: torch.Tensor
    codes: torch.Tensor
    counts: SharedCounts


class CodesBrain(PretrainingBrain):
    """Masked prediction of a moving teacher's codes."""

    def __init__(self, modules, *args, **kwargs):
        # The encoder's own head predicts the units of stages A and C, and nothing here.
        modules["frame_encoder"].head.requires_grad_(False)
        super().__init__(modules, *args, **kwargs)

    @staticmethod
    def initialise(hparams):
        """Start from public weights where `frame_weights` names them, the teacher as well."""
        if hparams["frame_weights"]:
            encoder = hparams["modules"]["frame_encoder"]
            import_weights(encoder, hparams["frame_weights"])
            hparams["modules"]["teacher"].follow(encoder, 0.0)

    @staticmethod
    def make_loaders(hparams, datasets, device):
        """Make a loader for each split, of utterances with masks."""
        return stage_loaders(hparams, datasets, masks=True)

    def compute_forward(self, batch, stage):
        """Return what the encoder predicts, and what its teacher says: `CodesOutputs`."""
        batch = batch.to(self.device, non_blocking=True)
        counts, places = SharedCounts(hidden=len(batch.hidden)), predicted_frames(batch, stage)
        frames, hidden = self.modules.frame_encoder(
            *batch.sig, mask=batch.mask.data.bool(), output_hidden_states=True
        )
        layers = self.modules.teacher.num_layers
        last = self.hparams.predict_from == "last"
        predicting = [frames] * layers if last else hidden[-layers:]
        logits = self.modules.heads(frames_at(places, predicting))
        states = frames_at(places, self.modules.teacher(*batch.sig))
        return CodesOutputs(frames, logits, states, self.modules.codebooks(states), counts)

    def compute_objectives(self, predictions, batch, stage):
        """Return the cross-entropy of the codes of masked frames, the mean over codebooks."""
        hidden = len(batch.hidden)
        logits, codes = predictions.logits[:, :hidden], predictions.codes[:, :hidden]
        count = len(codes) * predictions.counts.total("hidden")
        return prediction_loss(logits.flatten(0, 1), codes.flatten(), count)

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """Move the codebooks by this batch and, after a step, the teacher."""
        super().on_fit_batch_end(batch, outputs, loss, should_step)
        self.move_codebooks(outputs)
        if should_step:
            given = self.hparams.teacher_decay, self.hparams.teacher_timescale
            decay = teacher_decay(self.progress, *given)
            self.modules.teacher.follow(unwrap(self.modules.frame_encoder), decay)

    def move_codebooks(self, outputs):
        """Update the codebooks by the teacher's states of masked frames, of all ranks.

        Each batch counts, also where several make a step.
        """
        if outputs.counts.total("hidden") == 0:
            return
        codebooks = self.modules.codebooks
        codebooks.update(outputs.states, outputs.codes)
        revived = codebooks.revive(self.draw_states(outputs), outputs.counts.total("hidden"))
        self.meters["codes"].add("revived_codes", revived, 1)

    def draw_states(self, outputs):
        """Return the states of frames drawn from all ranks, (codebooks, codes, d_model)."""
        rows = outputs.counts["hidden"]
        rng = derive_rng(self.hparams.seed, "revive", self.epoch, self.step)
        drawn = rng.integers(rows.sum(), size=self.modules.codebooks.counts.shape)
        drawn = drawn - row_offset(rows)
        own = (drawn >= 0) & (drawn < rows[rank()])
        numbers = np.arange(len(drawn))[:, None] * rows[rank()] + drawn  # of the flattened states
        places = to_device(torch.from_numpy(np.where(own, numbers, 0)), self.device)
        own = to_device(torch.from_numpy(own), self.device)
        # One more row, for a rank without masked frames
        states = torch.nn.functional.pad(outputs.states.flatten(0, 1), (0, 0, 0, 1))
        states = states.index_select(0, places.flatten()).unflatten(0, places.shape)
        return all_reduce_sum(torch.where(own[..., None], states, 0.0))

    def make_meters(self, all_ranks):
        """Return the meter of the codes."""
        return {"codes": CodesMeter(all_ranks)}

    def measure(self, outputs, batch):
        """Add a batch to the meter."""
        self.meters["codes"].update(outputs, batch)

    def check_collapse(self, figures):
        """Raise TrainingError also where one code of a layer stands for nearly all frames."""
        super().check_collapse(figures)
        for name, value in figures.items():
            if name.startswith("code_perplexity") and value < MIN_PERPLEXITY:
                raise TrainingError(
                    f"{name} is {value:.2f}: nearly all frames have the same code, so that there "
                    "is nothing to predict. Lower the learning rate (lr), let the teacher move "
                    "more slowly (teacher_decay), or use larger batches."
                )


def frames_at(places, layers):
    """Return frames of each layer by their number in batch * frames: (layers, n, d_model)."""
    return torch.stack([layer.flatten(0, 1).index_select(0, places) for layer in layers])


class CodesMeter(Meter):
    """What is told of a frame encoder by its teacher's codes, and how much its frames vary."""

    @torch.no_grad()
    def update(self, outputs, batch):
        """Add a batch.

        Arguments
        ---------
        outputs : CodesOutputs
            Of the masked frames and then, in evaluation, of the visible ones.
        batch : SpeechBatch
            With `mask`.
        """
        hidden, codes = len(batch.hidden), outputs.codes
        right = outputs.logits.argmax(-1) == codes
        count = len(codes) * hidden
        self.add("masked_accuracy", right[:, :hidden].sum(), count)
        if codes.shape[1] > hidden:
            self.add("unmasked_accuracy", right[:, hidden:].sum(), codes[:, hidden:].numel())
            copied = copied_codes(codes, batch)
            self.add("copy_accuracy", (copied == codes[:, :hidden]).sum(), count)
        found = codes.new_zeros(len(codes), outputs.logits.shape[-1])
        own = codes[:, :hidden]
        self.add("code_shares", found.scatter_add_(1, own, torch.ones_like(own)), hidden)
        self.add_moments(outputs.frames.float(), hidden + len(batch.visible))

    def figures(self):
        """Return what was found.

        Returns
        -------
        dict
            Accuracy at masked and, in evaluation, at visible frames; of the most frequent code and,
            in evaluation, of copying the nearest visible code, at masked frames: means over
            codebooks. The perplexity of each codebook, the last of which is that of the last layer.
            In training, how many codes were revived in a step. The frames' standard deviation,
            averaged over dimensions.
        """
        shares, figures = self.average("code_shares"), super().figures()
        figures["majority_accuracy"] = float(shares.max(1).mean())
        for number, row in enumerate(shares, 1):
            figures[f"code_perplexity_{number}"] = perplexity(row)
        return {**figures, "frame_deviation": float(self.deviation().mean())}


def copied_codes(codes, batch):
    """Predict each masked frame's code by copying that of the nearest visible frame.

    Arguments
    ---------
    codes : torch.Tensor
        Shape (codebooks, n), of the masked frames, then of the visible ones.
    batch : SpeechBatch
        With `mask`.

    Returns
    -------
    torch.Tensor
        Shape (codebooks, masked frames), int64; -100 where no frame of a row is visible.
    """
    mask, layers = batch.mask.data.bool(), len(codes)
    units = codes.new_full((layers, mask.numel()), IGNORED_UNIT)
    units.index_copy_(1, torch.cat([batch.hidden, batch.visible]), codes)
    lens = torch.from_numpy(batch.frame_counts).repeat(layers)
    rows = units.view(-1, mask.shape[1]), mask.repeat(layers, 1), lens
    copied = nearest_visible_units(*rows).view(layers, -1)
    return copied.index_select(1, batch.hidden)
