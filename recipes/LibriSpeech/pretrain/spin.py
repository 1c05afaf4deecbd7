"""Spin, a stage after A: frames learn to be the same whoever speaks.

Speaker-invariant clustering (https://arxiv.org/abs/2305.11072): the utterance and a copy in another
voice, whose frames predict each other's clusters. The last layers of stage A's encoder are trained
along with the clusters; all before them stay as they are, and so does the prediction head.
"""

import numpy as np
import torch

from lobes.distributed import SharedCounts
from lobes.signal import frame_lengths, to_device, valid_samples
from lobes.swapped_prediction import swapped_prediction
from pretrained.toolkits.importing import import_weights
from recipes.common.data.views import view_loaders
from recipes.common.training.brain import TrainingError
from recipes.common.training.meters import Meter, perplexity
from recipes.common.training.pretraining_brain import PretrainingBrain
from recipes.LibriSpeech.pretrain.joint import start_from

MIN_PERPLEXITY = 1.5  # of the clusters in use


class SpinBrain(PretrainingBrain):
    """Swapped prediction between two voices of an utterance."""

    @staticmethod
    def initialise(hparams):
        """Start from stage A, or from public weights in its place."""
        modules = hparams["modules"]
        check_trained_layers(hparams["trained_layers"], modules["frame_encoder"])
        if hparams["frame_weights"]:
            import_weights(modules["frame_encoder"], hparams["frame_weights"])
        else:
            start_from(modules, "frame_encoder", hparams["frame_model"])

    @staticmethod
    def make_loaders(hparams, datasets, device):
        """Make a loader for each split."""
        return view_loaders(hparams, datasets, hparams["change_voice"])

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.freeze()

    def freeze(self):
        """Let nothing of the encoder be trained but its last layers."""
        encoder = self.modules.frame_encoder
        encoder.requires_grad_(False)
        encoder.transformer.layers[-self.hparams.trained_layers :].requires_grad_(True)

    def compute_forward(self, batch, stage):
        """Return the valid frames of both views, their cosines with the prototypes, and counts."""
        places = valid_places(batch)
        counts = SharedCounts(frames=len(places))
        batch = batch.to(self.device, non_blocking=True)
        wavs = torch.cat([batch.sig.data, batch.other_voice.data])
        frames = self.modules.frame_encoder(wavs, batch.sig.lengths.repeat(2))
        first = len(batch) * frames.shape[1]
        both = to_device(torch.from_numpy(np.concatenate([places, places + first])), self.device)
        frames = frames.flatten(0, 1).index_select(0, both)
        return frames, self.modules.codebook(frames), counts

    def compute_objectives(self, predictions, batch, stage):
        """Return the cross-entropy of each view's clusters under the other's probabilities."""
        _, scores, counts = predictions
        return swapped_prediction(
            *scores.chunk(2),
            self.hparams.temperature,
            self.hparams.sinkhorn_epsilon,
            self.hparams.sinkhorn_iterations,
            counts.total("frames"),
        )

    def make_meters(self, all_ranks):
        """Return the meter of clusters and frames."""
        return {"clusters": ClusterMeter(all_ranks)}

    def measure(self, outputs, batch):
        """Add a batch to the meter."""
        frames, scores, _ = outputs
        self.meters["clusters"].update(frames, scores)

    def check_collapse(self, figures):
        """Raise TrainingError also where nearly all frames are in one cluster."""
        super().check_collapse(figures)
        found = figures["code_perplexity"]
        if found < MIN_PERPLEXITY:
            raise TrainingError(
                f"code_perplexity is {found:.2f}: nearly all frames are in one cluster. Lower "
                "the learning rate (lr), or use larger batches."
            )


class ClusterMeter(Meter):
    """What is told of clusters: how many are in use, how often the two views are in the same."""

    @torch.no_grad()
    def update(self, frames, scores):
        """Add a batch.

        Arguments
        ---------
        frames : torch.Tensor
            Shape (2 * frames, d_model), valid frames of the first views, then of the second.
        scores : torch.Tensor
            Shape (2 * frames, codebook_size), their cosines with the prototypes.
        """
        codes = scores.argmax(1).chunk(2)
        self.add("code_agreement", (codes[0] == codes[1]).sum(), len(codes[0]))
        for name, own in zip(("first", "second"), codes, strict=True):
            counts = own.new_zeros(scores.shape[1])
            self.add(name, counts.index_add_(0, own, torch.ones_like(own)), len(own))
        self.add_moments(frames.float(), len(frames))

    def figures(self):
        """Return what was found.

        Returns
        -------
        dict
            The share of frames whose nearest prototype is the same in both views, the share that
            would be by chance, given how often each prototype is the nearest; the perplexity of
            the latter; the frames' standard deviation, averaged over dimensions.
        """
        first, second = self.average("first"), self.average("second")
        return {
            **super().figures(),
            "chance_agreement": float(first @ second),
            "code_perplexity": perplexity((first + second) / 2),
            "frame_deviation": float(self.deviation().mean()),
        }


def valid_places(batch):
    """Return the valid frames of a batch on the CPU, by their number in batch * frames: an array.

    Arguments
    ---------
    batch : SpeechBatch
        With `sig`.
    """
    lengths = frame_lengths(valid_samples(*batch.sig))
    return np.flatnonzero(np.arange(lengths.width) < lengths.counts[:, None])


def check_trained_layers(layers, encoder):
    """Raise ValueError unless a frame encoder has so many layers."""
    most = encoder.config["num_layers"]
    if layers > most:
        raise ValueError(f"trained_layers is {layers}: the frame encoder has {most} layers.")
