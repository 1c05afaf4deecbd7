"""Stage C: both encoders learn on, while a critic drives them apart.

    L = L_frame + alpha * L_utterance + beta * I(z; u)

L_frame is the cross-entropy of the units at masked frames, plus `plain_weight` times that at all
frames of the same utterance without masks: these are what the critic sees, and what it pulls at.

I(z; u) is the estimate of CLUB (https://arxiv.org/abs/2006.12013) between embeddings u and means
over frames z of the utterance without masks, or over random features of these frames, which tell
of all their moments (`critic_projections`). The critic's own steps, which maximise its likelihood,
come between the steps of the encoders. Its gradient reaches the frame encoder alone, unless
`information_trains` says otherwise: embeddings are to tell the speaker.

Of the last layer each utterance's mean and deviation are taken off (`frame_norm`), which tell much
of the speaker. What other moments tell is left to the critic.
"""

import copy
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from speechbrain import Stage

from lobes.critics.club import repeat_rows
from lobes.critics.groups import GroupIndex
from lobes.distributed import SharedCounts, rank, row_offset, unwrap
from lobes.losses import nt_xent, prediction_loss
from lobes.signal import masked_mean, to_device
from pretrained.toolkits.importing import import_weights
from recipes.common.data.crops import both_crops
from recipes.common.data.loaders import stage_loaders
from recipes.common.data.seeding import derive_rng
from recipes.common.training.meters import FrameMeter, Meter, UtteranceMeter
from recipes.common.training.pretraining_brain import PretrainingBrain
from recipes.common.units.unit_array import UnitArray, columns, read_description
from recipes.LibriSpeech.pretrain.frame import (
    all_frames,
    check_layer,
    corpus_units,
    load_encoder,
    masked_loss,
    predicted_frames,
)

FREE_SETTINGS = {
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "layer_drop",
    "feature_grad_mult",
    "temperature",
    "frame_norm",
}
ENCODERS = ("frame_encoder", "utterance_encoder")
CRITIC_FIGURES = {"critic": "critic_log_likelihood", "lower_bound": "lower_bound"}


@dataclass
class JointOutputs:
    """What both encoders make of a batch, and the parts of the loss.

    Attributes
    ----------
    masked_frames, logits : torch.Tensor
        Frames (batch, frames, d_model) with masks, and logits of `predicted_frames`.
    frames, plain_logits : torch.Tensor
        Likewise of the same utterances without masks; the logits are of all valid frames, the
        masked ones first.
    embeddings, projections : torch.Tensor
        Of the first crops, then of the second: (2 * batch, E) and (2 * batch, P).
    counts : SharedCounts
        Of `rows`, `hidden` and all `frames`.
    groups : GroupIndex
        Of what `draw_pairs` returns; set by `compute_objectives`.
    pairs : tuple of torch.Tensor
        What the critic estimates on, see `draw_pairs`; set likewise.
    parts : dict
        The terms of the loss by name, likewise.
    """

    masked_frames: torch.Tensor
    logits: torch.Tensor
    frames: torch.Tensor
    plain_logits: torch.Tensor
    embeddings: torch.Tensor
    projections: torch.Tensor
    counts: SharedCounts
    groups: GroupIndex | None = None
    pairs: tuple = ()
    parts: dict | None = None


class JointBrain(PretrainingBrain):
    """Masked prediction and contrast of utterances, with the information they share driven down."""

    @staticmethod
    def initialise(hparams):
        """Start from stages A and B, or from public weights in the place of stage A."""
        modules = hparams["modules"]
        check_receivers(hparams["information_trains"], hparams["critic_kind"])
        check_seen(hparams)
        if hparams["frame_weights"]:
            import_weights(modules["frame_encoder"], hparams["frame_weights"])
        else:
            new_head = hparams["units_folder"] is None
            start_from(modules, "frame_encoder", hparams["frame_model"], new_head)
        if makes_units(hparams):
            check_layer(hparams["teacher_layer"], modules["frame_encoder"])
        else:
            check_units(Path(os.path.normpath(hparams["units_folder"])))
        start_from(modules, "utterance_encoder", hparams["utterance_model"])

    @staticmethod
    def make_loaders(hparams, datasets, device):
        """Open the units of stage A, or cluster the encoder's own layer; make the loaders."""
        if makes_units(hparams):
            folder = Path(hparams["output_folder"]) / "units"
            teacher = copy.deepcopy(hparams["modules"]["frame_encoder"])
            units = corpus_units(folder, hparams, datasets, teacher, device)
        else:
            folder = os.path.normpath(hparams["units_folder"])
            units = UnitArray(folder, columns(*datasets.values()), hparams["num_targets"])
        return stage_loaders(hparams, datasets, units, hparams["augment"])

    def init_optimizers(self):
        """Give the encoders, the critic and the lower bound an optimizer each."""
        encoders = [p for name in ENCODERS for p in self.modules[name].parameters()]
        self.optimizer = self.make_optimizer(encoders)
        self.critics = {name: self.modules[name] for name in CRITIC_FIGURES}
        self.critic_optimizers = {
            name: self.hparams.critic_optimizer(critic.parameters())
            for name, critic in self.critics.items()
            if list(critic.parameters())  # else it is fitted in closed form
        }
        self.optimizers_dict = {"encoders": self.optimizer}
        own = {f"{name}_optimizer": optimizer for name, optimizer in self.critic_optimizers.items()}
        self.checkpointer.add_recoverables({"optimizer": self.optimizer, **own})

    @property
    def beta(self):
        """The weight of the information: 0 while the critic warms up, then rising."""
        start, stop = self.hparams.beta_starts, self.hparams.beta_reached
        risen = (self.progress - start) / max(stop - start, 1e-9)
        return self.hparams.beta * min(max(risen, 0.0), 1.0)

    def compute_forward(self, batch, stage):
        """Encode utterances with masks and without, and both crops of each: `JointOutputs`."""
        batch = batch.to(self.device, non_blocking=True)
        everywhere = all_frames(batch)
        counts = SharedCounts(rows=len(batch), hidden=len(batch.hidden), frames=len(everywhere))
        encode = partial(self.modules.frame_encoder, *batch.sig, return_logits=True)
        mask, predicted = batch.mask.data.bool(), predicted_frames(batch, stage)
        masked_frames, logits = encode(mask=mask, logits_at=predicted)
        frames, plain_logits = encode(logits_at=everywhere)
        embeddings, projections = self.modules.utterance_encoder(*both_crops(batch), project=True)
        return JointOutputs(
            masked_frames, logits, frames, plain_logits, embeddings, projections, counts
        )

    def compute_objectives(self, predictions, batch, stage):
        """Return L_frame + alpha L_utterance + beta I(z; u)."""
        frames, embeddings = predictions.frames, predictions.embeddings
        counts, projections = predictions.counts, predictions.projections.chunk(2)
        units = batch.units_at(all_frames(batch))
        predictions.groups = self.groups(counts["rows"])
        predictions.pairs = self.draw_pairs(frames, embeddings, batch, "encoders")
        predictions.parts = parts = {
            "frame_loss": masked_loss(predictions.logits, batch, counts),
            "plain_frame_loss": prediction_loss(
                predictions.plain_logits, units, counts.total("frames")
            ),
            "utterance_loss": nt_xent(*projections, self.hparams.temperature, counts["rows"]),
            "club": self.information(*predictions.pairs, predictions.groups),
        }
        loss = parts["frame_loss"] + self.hparams.plain_weight * parts["plain_frame_loss"]
        loss = loss + self.hparams.alpha * parts["utterance_loss"]
        return loss + self.beta * parts["club"] if self.beta else loss

    def information(self, frames, embeddings, groups):
        """Return the critic's estimate, whose gradient reaches encoders and not the critic."""
        critic = unwrap(self.modules.critic).requires_grad_(False)
        trains = self.hparams.information_trains
        frames = frames if "frame_encoder" in trains else frames.detach()
        embeddings = embeddings if "utterance_encoder" in trains else embeddings.detach()
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.beta > 0):
            information = critic(frames, embeddings, groups)
        critic.requires_grad_(True)
        return information

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """Train the critics on this batch's frames and embeddings, cut off from the encoders."""
        super().on_fit_batch_end(batch, outputs, loss, should_step)
        frames, embeddings = (x.detach().float() for x in (outputs.frames, outputs.embeddings))
        for step in range(self.hparams.critic_steps):
            pairs = self.draw_pairs(frames, embeddings, batch, step)
            for name, critic in self.critics.items():
                objective = critic(*pairs, outputs.groups, mode="objective")
                self.check_loss_isfinite(objective)
                if name in self.critic_optimizers:
                    (-objective).backward()
                    self.critic_optimizers[name].step()
                    self.critic_optimizers[name].zero_grad(set_to_none=True)
                if step == 0:
                    self.meters["joint"].add(CRITIC_FIGURES[name], objective, 1)

    def groups(self, rows):
        """Return the `GroupIndex` of the pairs of each utterance, from the rows of each rank."""
        pairs = self.hparams.pairs_per_utterance
        own = row_offset(rows) + np.arange(rows[rank()])
        return GroupIndex(own.repeat(pairs), self.device, rows * pairs)

    def draw_pairs(self, frames, embeddings, batch, purpose):
        """Pair means of valid frames' features with an embedding of their utterance.

        Over many frames, what is said averages out, and who says it remains.

        Arguments
        ---------
        frames : torch.Tensor
            Shape (batch, frames, d_model).
        embeddings : torch.Tensor
            Of the first crops, then of the second, shape (2 * batch, E).
        batch : SpeechBatch
            Tells which frames are valid.
        purpose : int or str
            Of the draw, which is another for each step and purpose.

        Returns
        -------
        x : torch.Tensor
            Means of `frame_features`, shape (batch * pairs_per_utterance, num_features).
        y : torch.Tensor
            Embeddings, shape (batch * pairs_per_utterance, E).
        """
        features = self.modules.frame_features(frames)
        step = self.step if self.stage == Stage.TRAIN else 0  # the ranks share an evaluation
        seed = self.hparams.seed, "pairs", self.epoch, step, purpose
        rngs = [derive_rng(*seed, utterance) for utterance in batch.id]
        pairs = self.hparams.pairs_per_utterance
        rows = np.arange(len(rngs)).repeat(pairs)
        if self.hparams.frames_per_pair is None:
            means = masked_mean(features.transpose(1, 2), batch.units.data >= 0)
            x = repeat_rows(means, self.on_device(rows))
        else:
            x = self.means_of_drawn(features, batch.frame_counts, rngs)
        crops = np.concatenate([rng.integers(2, size=pairs) for rng in rngs])
        return x, repeat_rows(embeddings, self.on_device(rows + crops * len(rngs)))

    def means_of_drawn(self, features, frame_counts, rngs):
        """Return means over frames that are drawn for each pair, row after row of the batch."""
        size = self.hparams.pairs_per_utterance, self.hparams.frames_per_pair
        drawn = [
            row * features.shape[1] + rng.integers(count, size=size)
            for row, (rng, count) in enumerate(zip(rngs, frame_counts, strict=True))
        ]
        places = self.on_device(np.concatenate(drawn))
        return repeat_rows(features.flatten(0, 1), places).mean(1)

    def on_device(self, indices):
        """Return an array as a tensor on the Brain's device, which is not waited for."""
        return to_device(torch.from_numpy(indices), self.device)

    def make_meters(self, all_ranks):
        """Return the meters of both encoders, and one of what joins them."""
        return {
            "frame": FrameMeter(all_ranks),
            "utterance": UtteranceMeter(all_ranks),
            "joint": Meter(all_ranks),
        }

    def measure(self, outputs, batch):
        """Add a batch to the meters; in evaluation the critics are read as well."""
        self.meters["frame"].update(outputs.masked_frames, outputs.logits, batch)
        self.meters["utterance"].update(outputs.embeddings, *outputs.projections.chunk(2))
        joint = self.meters["joint"]
        for name, part in outputs.parts.items():
            joint.add(name, part, 1)
        if self.stage == Stage.TRAIN:
            joint.add("beta", self.beta, 1)
        else:
            for name, critic in self.critics.items():
                objective = unwrap(critic)(*outputs.pairs, outputs.groups, mode="objective")
                joint.add(CRITIC_FIGURES[name], objective, 1)


def check_receivers(names, critic_kind):
    """Raise ValueError unless names are of encoders that the critic's information can train."""
    if not isinstance(names, list) or not names or not set(names) <= set(ENCODERS):
        raise ValueError(
            f"information_trains is {names!r}: expected a list of one or both of "
            f"{', '.join(ENCODERS)}, such as [frame_encoder]."
        )
    if critic_kind == "classifier" and "frame_encoder" not in names:
        raise ValueError(
            "information_trains is [utterance_encoder], which critic_kind: classifier does not "
            "reach: its gradient is that of frames. Add frame_encoder, or use another critic."
        )


def check_seen(hparams):
    """Raise ValueError where the critic would see means of frames whose means are taken off."""
    features, of_all = hparams["critic_projections"], hparams["frames_per_pair"] is None
    if hparams["frame_norm"] != "none" and of_all and not features:
        raise ValueError(
            "critic_projections is 0: the critic would see each utterance's mean frame, which "
            f"frame_norm {hparams['frame_norm']} takes off. Give it some, or --frame_norm none."
        )


def makes_units(hparams):
    """Return whether the units are made from a layer of the frame encoder at the start."""
    return bool(hparams["frame_weights"]) or hparams["units_folder"] is None


def check_units(folder):
    """Raise ValueError unless a folder holds units."""
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is not there: stage C learns the units of stage A. Name their folder "
            "(--units_folder), or have units made from a layer of the frame encoder that it "
            "starts from (--units_folder null --teacher_layer N)."
        )
    read_description(folder)


def start_from(modules, name, folder, new_head=False):
    """Load an encoder's weights from an earlier stage's export.

    Arguments
    ---------
    modules : dict
        Holds the encoder under its name.
    name : str
        `frame_encoder` or `utterance_encoder`.
    folder : str or Path
        As `pretrained.exported.save_model` leaves it.
    new_head : bool
        Whether the prediction head stays as it is here, for other units than the earlier stage's.

    Raises
    ------
    ValueError
        Where the folder is not there, lacks the encoder or holds one of another architecture.
    """
    folder = Path(os.path.normpath(folder))  # ".." after an output folder that is not there yet
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is not there: this stage starts from the {name} of an earlier one. Run that "
            "stage first, beside this one's output_folder, or name its model folder "
            "(--frame_model, --utterance_model)."
        )
    earlier = load_encoder(folder, name)
    free = FREE_SETTINGS | ({"num_targets"} if new_head else set())
    for key, value in modules[name].config.items():
        found = earlier.config.get(key)
        if found != value and key not in free:
            raise ValueError(
                f"{folder}: its {name} has {key} {found}, this stage's has {value}. Use "
                "the same architecture in both."
            )
    weights = earlier.state_dict()
    if new_head:
        weights |= {f"head.{key}": x for key, x in modules[name].head.state_dict().items()}
    modules[name].load_state_dict(weights)
