"""Stage B: the utterance encoder learns to tell utterances apart, whatever was done to them.

Two crops or more of each utterance, augmented apart from each other, and the loss of a method on
what the encoder makes of them: by default NT-Xent (SimCLR, https://arxiv.org/abs/2002.05709,
equation 1); the others are in `lobes/methods`. At the end the embeddings are whitened by half, and
the directions in which lines move them are taken off: see `UtteranceEncoder.whiten` and
`recipes.common.units.lines`.
"""

from pathlib import Path

import torch
from speechbrain import Stage
from speechbrain.utils.logger import get_logger

from lobes.distributed import SharedCounts, unwrap
from lobes.methods.base import Views
from recipes.common.data.augment import UtteranceAugment
from recipes.common.data.crops import both_crops, stack_crops
from recipes.common.data.loaders import plain_loader, stage_loaders
from recipes.common.data.seeding import derive_seed
from recipes.common.training.brain import TrainingError, seconds_of
from recipes.common.training.hparams import read_tree
from recipes.common.training.meters import Meter, UtteranceMeter
from recipes.common.training.pretraining_brain import PretrainingBrain
from recipes.common.units.lines import line_directions
from recipes.common.units.passes import share_moments

logger = get_logger(__name__)


class UtteranceBrain(PretrainingBrain):
    """Learning from the crops of utterances, by the method that the hyperparameters name."""

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
        warn_of_queue(hparams.get("queue_size", 0), len(datasets["train"]))
        plain = plain_loader(datasets["train"], hparams)
        return {**stage_loaders(hparams, datasets, augment=hparams["augment"]), "plain": plain}

    @property
    def method(self):
        """The method, outside of DistributedDataParallel."""
        return unwrap(self.modules.method)

    def on_stage_start(self, stage, epoch=None):
        """Let the method get ready for an epoch of training."""
        super().on_stage_start(stage, epoch)
        if stage == Stage.TRAIN:
            seed = derive_seed(self.hparams.seed, "method", self.epoch)
            epochs = self.hparams.epoch_counter.limit
            self.method.begin_epoch(self.epoch, epochs, seed, resumed=self.step > 0)

    def compute_forward(self, batch, stage):
        """Return the `Views` that the encoder has of a batch's crops."""
        batch = batch.to(self.device, non_blocking=True)
        counts = SharedCounts(rows=len(batch))
        encoder, crops = self.modules.utterance_encoder, both_crops(batch)
        names = short_names(batch)
        long = encoder(*crops, project=True)
        short = encoder(*stack_crops(batch, names), project=True)[1] if names else None
        reference = tuple(batch.reference) if hasattr(batch, "reference") else None
        taught = self.method.teach(unwrap(encoder), crops, reference)
        seed = derive_seed(self.hparams.seed, "draws", self.epoch, self.step)
        return Views(*long, short, taught, counts, seed)

    def compute_objectives(self, predictions, batch, stage):
        """Return the method's loss."""
        return self.modules.method(predictions)

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """Let the method follow the encoder after each of its steps."""
        super().on_fit_batch_end(batch, outputs, loss, should_step)
        if should_step:
            self.method.follow(unwrap(self.modules.utterance_encoder), self.progress)

    def make_meters(self, all_ranks):
        """Return the meters of the utterance encoder and of the method."""
        return {"utterance": UtteranceMeter(all_ranks), "method": Meter(all_ranks)}

    def measure(self, outputs, batch):
        """Add a batch to the meters."""
        self.meters["utterance"].update(outputs.embeddings, *outputs.projections.chunk(2))
        for name, value in outputs.figures.items():
            self.meters["method"].add(name, value, 1)

    def check_collapse(self, figures):
        """Raise TrainingError also where the method finds that it has collapsed."""
        super().check_collapse(figures)
        problem = self.method.problem(figures)
        if problem is not None:
            raise TrainingError(problem)

    def audio_seconds(self, batch):
        """Return how much audio the crops hold, s."""
        return sum(seconds_of(batch[name]) for name in ("first", "second", *short_names(batch)))

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


def warn_of_queue(size, utterances):
    """Warn of a method's queue that holds more than there are training utterances.

    Example
    -------
    >>> warn_of_queue(100, 5000)
    """
    if size > utterances:
        logger.warning(
            f"queue_size is {size}, more than the {utterances} training utterances, which the "
            "queue then holds several times each, an utterance's own crops among what it is told "
            "from. Lower queue_size."
        )


def short_names(batch):
    """Return the names of a batch's short crops."""
    return [name for name in vars(batch) if name.startswith("short_")]


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
