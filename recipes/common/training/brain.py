"""What all Brains here share: the schedule, the seeds, the checkpoints, the logs, the alarms."""

import json
import time
from pathlib import Path

import matplotlib
import speechbrain as sb
import torch
from speechbrain.utils.distributed import main_process_only
from torch.nn.parallel import DistributedDataParallel

from lobes.distributed import all_reduce_sum, alone, rank
from recipes.common.data.seeding import derive_seed

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

MIN_DEVIATION = 1e-3


class TrainingError(RuntimeError):
    """Training cannot go on: a loss that is not finite, or a representation that collapsed."""


class ResumableBrain(sb.Brain):
    """A Brain whose result does not depend on where it was interrupted.

    A recipe's Brain defines `compute_forward` and `compute_objectives`, tells `track` what to
    average and `summarise` what to report.

    The learning rate rises linearly over the first `warmup` of the run and falls linearly to 0 at
    its end. It and dropout depend on (seed, epoch, step) alone.
    """

    def on_fit_start(self):
        """Refuse a checkpoint of another architecture, then recover the latest."""
        self.check_architecture()
        super().on_fit_start()

    def check_architecture(self):
        """Raise ValueError where the latest checkpoint is of other encoders than these."""
        latest = self.checkpointer.find_checkpoint()
        if latest is None:
            return
        found, expected = latest.meta.get("architecture"), self.architecture()
        for name, config in expected.items():
            for key, value in config.items():
                if found is None or found.get(name, {}).get(key) != value:
                    there = None if found is None else found.get(name, {}).get(key)
                    raise ValueError(
                        f"{latest.path} is a checkpoint of another architecture: {name}.{key} is "
                        f"{there} there and {value} here. Use another output_folder, or the "
                        "settings that it was trained with."
                    )

    def architecture(self):
        """Return the configuration of each encoder, by its key in `modules`."""
        encoders = {name: unwrap(module) for name, module in self.modules.items()}
        return {name: e.config for name, e in encoders.items() if hasattr(e, "config")}

    def progress(self):
        """Return how much of the run is done, in [0, 1]; in validation all of the epoch is."""
        epochs = self.hparams.epoch_counter.limit
        done = self.hparams.epoch_counter.current
        if self.stage == sb.Stage.TRAIN:
            done += (self.step - 1) / max(1, len(self.train_sampler)) - 1
        return min(max(done / epochs, 0.0), 1.0)

    def set_learning_rate(self, optimizer, peak):
        """Set an optimizer to the schedule's rate at this step."""
        progress, warmup = self.progress(), self.hparams.warmup
        scale = (progress + 1e-3) / warmup if progress < warmup else (1 - progress) / (1 - warmup)
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, scale)

    def on_stage_start(self, stage, epoch=None):
        """Start the averages; in training skip the batches that a checkpoint has behind it."""
        self.totals, self.counts, self.stage = {}, {}, stage
        self.stage_began = time.monotonic()
        self.epoch = self.hparams.epoch_counter.current
        if stage == sb.Stage.TRAIN:
            self.train_sampler.start = self.step

    def on_fit_batch_start(self, batch, should_step):
        """Seed dropout for this step and set the learning rate."""
        seed = derive_seed(self.hparams.seed, "step", self.epoch, self.step, rank())
        torch.manual_seed(seed)
        self.set_learning_rate(self.optimizer, self.hparams.lr)

    def evaluate_batch(self, batch, stage):
        """Evaluate a batch: every rank has the same, and contrasts it with itself alone."""
        torch.manual_seed(derive_seed(self.hparams.seed, "evaluation", *batch.id))
        with alone():
            return super().evaluate_batch(batch, stage)

    def check_loss_isfinite(self, loss):
        """Stop all ranks at the first loss that is not finite, before it reaches a weight."""
        if all_reduce_sum((~torch.isfinite(loss.detach())).float()) > 0:
            raise TrainingError(
                f"The loss is {loss.item()} at epoch {self.epoch}, step {self.step}. The weights "
                "of the last checkpoint are sound. Lower the learning rate (lr), or look for an "
                "utterance with extreme values."
            )

    def track(self, name, total, count):
        """Add to an average.

        Arguments
        ---------
        name : str
            What is averaged.
        total : torch.Tensor
            A sum over items, of any shape.
        count : torch.Tensor or int
            The number of items.
        """
        self.totals[name] = self.totals.get(name, 0) + total.detach().double()
        self.counts[name] = self.counts.get(name, 0) + torch.as_tensor(count).to(total.device)

    def average(self, name):
        """Return a tracked average: over all ranks in training, else over this rank's data."""
        total, count = self.totals[name], self.counts[name].double()
        if self.stage == sb.Stage.TRAIN:
            total, count = all_reduce_sum(total), all_reduce_sum(count)
        return total / count.clamp(min=1)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Report a stage; after validation also save, log, draw and look for a collapse."""
        figures = {"loss": float(stage_loss), **(self.summarise() if self.totals else {})}
        if stage == sb.Stage.TRAIN:
            seconds = time.monotonic() - self.stage_began
            audio = all_reduce_sum(torch.as_tensor(self.totals.get("audio_seconds", 0.0)))
            figures["audio_seconds_per_second"] = float(audio) / seconds
            self.train_figures = figures
            return
        self.check_collapse(figures)
        if stage == sb.Stage.TEST:
            self.test_figures = figures
            return
        self.valid_figures = figures
        self.log_epoch(epoch)
        self.save_epoch({"epoch": epoch, "architecture": self.architecture()})

    def save_epoch(self, meta):
        """Save a checkpoint at the end of an epoch, and keep it alone."""
        self.checkpointer.save_and_keep_only(meta=meta, num_to_keep=1)

    def check_collapse(self, figures):
        """Raise TrainingError where a representation hardly varies."""
        for name, value in figures.items():
            if name.endswith("_deviation") and value < MIN_DEVIATION:
                raise TrainingError(
                    f"{name} is {value:.1e}: the representation has collapsed to a point. Lower "
                    "the learning rate (lr) or beta, or use larger batches."
                )

    @main_process_only
    def log_epoch(self, epoch):
        """Add an epoch to the train log, to the history and, where asked, to TensorBoard."""
        rate = self.optimizer.param_groups[0]["lr"]
        stats = {"epoch": epoch, "lr": rate}
        self.hparams.train_logger.log_stats(stats, self.train_figures, self.valid_figures)
        if self.hparams.tensorboard:
            logger = sb.utils.train_logger.TensorboardLogger(
                str(Path(self.hparams.output_folder) / "tensorboard")
            )
            logger.log_stats(stats, self.train_figures, self.valid_figures)
            logger.writer.close()
        history = Path(self.hparams.output_folder) / "history.jsonl"
        record_epoch(history, epoch, {"train": self.train_figures, "valid": self.valid_figures})
        draw_curves(history, history.with_name("curves.png"))

    def _save_intra_epoch_ckpt(self):
        self.checkpointer.save_and_keep_only(
            meta={"architecture": self.architecture(), "brain_intra_epoch_ckpt": True},
            end_of_epoch=False,
            num_to_keep=1,
            ckpt_predicate=lambda checkpoint: "brain_intra_epoch_ckpt" in checkpoint.meta,
        )


def unwrap(module):
    """Return the module inside DistributedDataParallel, or the module itself."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def record_epoch(path, epoch, figures):
    """Append an epoch to a history of JSON lines, in the place of what came from there on."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if json.loads(line)["epoch"] < epoch]
    kept.append(json.dumps({"epoch": epoch, **figures}))
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")


def draw_curves(history, path):
    """Draw every figure of a history over the epochs, a panel each, as a PNG."""
    rows = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    names = sorted({name for row in rows for part in ("train", "valid") for name in row[part]})
    columns = 3
    height = -(-len(names) // columns)
    figure, axes = pyplot.subplots(height, columns, figsize=(12, 2.6 * height), squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for name, axis in zip(names, axes.flat, strict=False):
        for part in ("train", "valid"):
            points = [(row["epoch"], row[part][name]) for row in rows if name in row[part]]
            if points:
                axis.plot(*zip(*points, strict=True), label=part, marker=".")
        axis.set_title(name.replace("_", " "), fontsize=9)
        if name == "loss":
            axis.legend(fontsize=7)
    figure.subplots_adjust(0.05, 0.05, 0.98, 0.97, hspace=0.4)
    figure.savefig(path, dpi=70)
    pyplot.close(figure)
