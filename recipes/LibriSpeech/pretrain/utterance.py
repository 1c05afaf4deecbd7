"""Stage B: the utterance encoder learns to tell utterances apart, whatever was done to them.

Two crops of each utterance, augmented apart from each other, and NT-Xent (SimCLR,
https://arxiv.org/abs/2002.05709, equation 1) on their projected embeddings. At the end the
embeddings are whitened by half, and the directions in which lines move them are taken off: see
`UtteranceEncoder.whiten` and `lines`.
"""

from pathlib import Path

import torch

from lobes.distributed import SharedCounts, unwrap
from lobes.losses import nt_xent
from recipes.common.data.augment import UtteranceAugment
from recipes.common.data.crops import both_crops
from recipes.common.data.loaders import plain_loader, stage_loaders
from recipes.common.training.brain import PretrainingBrain, seconds_of
from recipes.common.training.hparams import read_tree
from recipes.common.training.meters import UtteranceMeter
from recipes.common.units.passes import share_moments
from recipes.LibriSpeech.pretrain.lines import line_directions


class UtteranceBrain(PretrainingBrain):
    """Contrasting pooled embeddings."""

    @staticmethod
    def initialise(hparams):
        """Start at random: nothing comes before this stage."""
        size = hparams["utterance"]["embedding_dim"]
        if hparams["line_directions"] >= size:
            raise ValueError(
                f"line_directions is {hparams['line_directions']}: expected fewer than the "
                f"embedding has dimensions, {size}."
            )

    @staticmethod
    def make_loaders(hparams, datasets, device):
        """Make a loader for each split, and one of plain training utterances."""
        plain = plain_loader(datasets["train"], hparams)
        return {**stage_loaders(hparams, datasets, augment=hparams["augment"]), "plain": plain}

    def compute_forward(self, batch, stage):
        """Return embeddings and projections of the first crops, then of the second, and counts."""
        batch = batch.to(self.device, non_blocking=True)
        counts = SharedCounts(rows=len(batch))
        return *self.modules.utterance_encoder(*both_crops(batch), project=True), counts

    def compute_objectives(self, predictions, batch, stage):
        """Return NT-Xent between the two crops of each utterance."""
        _, projections, counts = predictions
        return nt_xent(*projections.chunk(2), self.hparams.temperature, counts["rows"])

    def make_meters(self, all_ranks):
        """Return the meter of the utterance encoder."""
        return {"utterance": UtteranceMeter(all_ranks)}

    def measure(self, outputs, batch):
        """Add a batch to the meter."""
        embeddings, projections, _ = outputs
        self.meters["utterance"].update(embeddings, *projections.chunk(2))

    def audio_seconds(self, batch):
        """Return how much audio the crops hold, s."""
        return seconds_of(batch.first) + seconds_of(batch.second)

    def last_settings(self):
        """Return how many directions of lines are taken off."""
        return {"line_directions": self.hparams.line_directions}

    def last_step(self):
        """Whiten the embeddings by half, and take the directions off in which lines move them."""
        encoder = unwrap(self.modules.utterance_encoder)
        folder = Path(self.hparams.output_folder) / "moments"
        encoder.whiten(*embedding_moments(encoder, self.loaders["plain"], folder))
        count = self.hparams.line_directions
        if count:
            encoder.project_out(line_directions(encoder, self.loaders["plain"], folder, count))


def embedding_moments(encoder, loader, folder):
    """Return the mean and the covariance of embeddings, with all ranks.

    Arguments
    ---------
    encoder : UtteranceEncoder
        In evaluation mode.
    loader : torch.utils.data.DataLoader
        Of batches with `sig`.
    folder : Path
        Takes what ranks give each other, and is removed.

    Returns
    -------
    mean : torch.Tensor
        Shape (E,), float64.
    covariance : torch.Tensor
        Shape (E, E), float64.
    """
    device = next(encoder.parameters()).device

    def compute(batches):
        return {"rows": torch.cat([encoder(*batch.to(device).sig).cpu() for batch in batches])}

    parts = share_moments(folder, [encoder], loader, compute)
    rows = torch.cat([part["rows"] for part in parts]).double()
    return rows.mean(0), torch.cov(rows.T, correction=0)


def crops_of_run(run, datasets, seed):
    """Return loaders of crops that are made as a run of stage B or C made its own.

    Arguments
    ---------
    run : Path
        Folder of the run, with its hyperparams.yaml.
    datasets : dict
        "valid" and "test": Utterances.
    seed : int
        Of the draw of crops and of their augmentation, in the place of the run's.

    Returns
    -------
    dict
        See `stage_loaders`.
    """
    settings = read_tree(run / "hyperparams.yaml")
    given = settings["augment"]  # not a mapping where the augmentation is the default
    augment = UtteranceAugment(**given if isinstance(given, dict) else {})
    return stage_loaders({**settings, "seed": seed}, datasets, augment=augment)
