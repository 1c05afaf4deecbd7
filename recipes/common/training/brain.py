"""What all Brains here share: the schedule, the seeds, the checkpoints, the logs, the alarms."""

import inspect
import math
import time
from pathlib import Path

import numpy as np
import speechbrain as sb
import torch
from speechbrain.utils.distributed import main_process_only
from speechbrain.utils.logger import get_logger
from torch.nn.parallel import DistributedDataParallel

from lobes.distributed import alone, rank, sum_over_ranks, unwrap, world_size
from lobes.signal import SAMPLE_RATE
from recipes.common.data.seeding import derive_seed
from recipes.common.training.history import draw_curves, read_history, record_epoch
from recipes.common.training.meters import Meter, to_arrays

logger = get_logger(__name__)
FUSING = ("cuda", "cpu")  # devices that any torch from the lower bound on has fused optimizers for
MIN_DEVIATION = 1e-3
RECOMPILES = 16  # of a function, where torch stops at 8
DIGESTS = {  # of what a checkpoint is tied to beside its own architecture
    ("features", "digest"): "their weights, or the code that computes them",
    ("labels", "digest"): "the symbols or classes, or what training and validation are labelled",
}
DRAW_SECONDS = 20  # from one drawing of the curves to the next: it takes longer than a short epoch


class TrainingError(RuntimeError):
    """Training cannot go on: a loss that is not finite, or a representation that collapsed."""


def seconds_of(padded):
    """Return how much audio a `PaddedData` of waveforms holds, s, padding apart."""
    return float(padded.lengths.numpy().sum()) * padded.data.shape[1] / SAMPLE_RATE


class ResumableBrain(sb.Brain):
    """A Brain whose result does not depend on where it was interrupted.

    A recipe's Brain defines `compute_forward` and `compute_objectives`, makes the `meters` of a
    stage and adds to them in `measure`.

    The learning rate rises linearly over the first `warmup` of the run and falls linearly to 0 at
    its end. It and dropout depend on (seed, epoch, step) alone.

    What training tells of an epoch in which it was interrupted is of the part after that, but for
    its loss; weights, validation and test do not depend on it.

    A step but the first of an epoch reads nothing back from the device. Losses and figures stay
    there for `log_steps` steps; a loss that is not finite is found then, and before any checkpoint
    is written.

    Arguments
    ---------
    *args, **kwargs
        As `speechbrain.Brain` takes them.
    loaders : dict
        By split; that of "train" has a `LengthSortedBatches` as its batch sampler.
    """

    shares_evaluation = False  # among the ranks, by its loaders

    def __init__(self, *args, loaders, **kwargs):
        super().__init__(*args, **kwargs)
        self.loaders = loaders
        self.unread = []
        self.drawn = time.monotonic()
        self.train_sampler = loaders["train"].batch_sampler

    def on_fit_start(self):
        """Refuse a history or a checkpoint that cannot be gone on from; recover the latest.

        With another number of processes than before, an epoch goes on at the same batch: up to as
        many as there are processes are trained on twice.
        """
        read_history(Path(self.hparams.output_folder) / "history.jsonl")
        self.check_architecture()
        self.check_batches()
        super().on_fit_start()
        latest = self.checkpointer.find_checkpoint()
        processes = world_size() if latest is None else latest.meta.get("processes", world_size())
        self.step = self.step * processes // world_size()
        if latest is not None:
            epoch, epochs = (getattr(self.hparams.epoch_counter, x) for x in ("current", "limit"))
            within = f" and {self.step} steps" if self.step else ""
            logger.info(f"Goes on after epoch {epoch} of {epochs}{within}, from {latest.path}")

    def check_architecture(self):
        """Raise ValueError where the latest checkpoint is of other encoders than these."""
        latest = self.checkpointer.find_checkpoint()
        if latest is None:
            return
        found = latest.meta.get("architecture", {})
        for name, config in self.architecture().items():
            if name == "labels" and name not in found:
                continue  # of a version that did not tell
            for key, value in config.items():
                there = found.get(name, {}).get(key)
                if there != value and (name, key) in DIGESTS:
                    raise ValueError(
                        f"{latest.path} was trained on other {name}: {DIGESTS[name, key]}, have "
                        f"the digest {there} there and {value} here. Use another output_folder, "
                        f"or the {name} of before."
                    )
                if there != value:
                    raise ValueError(
                        f"{latest.path} is a checkpoint of another architecture: {name}.{key} is "
                        f"{there} there and {value} here. Use another output_folder, or the "
                        "settings that it was trained with."
                    )

    def check_batches(self):
        """Raise ValueError where the latest checkpoint is of within an epoch of other batches."""
        latest = self.checkpointer.find_checkpoint()
        found = {} if latest is None else latest.meta.get("batches", {})
        for key, value in self.batches().items():
            if found.get(key, value) != value:
                raise ValueError(
                    f"{latest.path} was saved within an epoch whose {key} is {found[key]}; now it "
                    f"is {value}, and the batches are others. End the epoch as it was begun, or "
                    "use another output_folder."
                )

    def batches(self):
        """Return what the order of the batches depends on, and which of them make up a step."""
        sampler = self.train_sampler
        return {
            "number of utterances": len(sampler.seconds),
            "max_batch_seconds": sampler.max_batch_seconds,
            "seed": sampler.seed,
            "grad_accumulation_factor": self.grad_accumulation_factor,
            "balance of classes": sampler.weights is not None,
        }

    def architecture(self):
        """Return the configuration of each encoder, by its key in `modules`."""
        encoders = {name: unwrap(module) for name, module in self.modules.items()}
        return {name: dict(e.config) for name, e in encoders.items() if hasattr(e, "config")}

    def share_done(self):
        """Return how much of the run is done, in [0, 1]; in validation all of the epoch is."""
        epochs = self.hparams.epoch_counter.limit
        done = self.hparams.epoch_counter.current
        if self.stage == sb.Stage.TRAIN:
            done += (self.step - 1) / max(1, len(self.train_sampler)) - 1
        return min(max(done / epochs, 0.0), 1.0)

    def set_learning_rate(self, optimizer, peak):
        """Set an optimizer to the schedule's rate at this step."""
        progress, warmup = self.progress, self.hparams.warmup
        scale = (progress + 1e-3) / warmup if progress < warmup else (1 - progress) / (1 - warmup)
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, scale)

    def make_meters(self, all_ranks):
        """Return the meters of a stage, by name; what all of them tell is reported.

        Arguments
        ---------
        all_ranks : bool
            As `Meter` takes it.

        Returns
        -------
        dict
        """
        return {"figures": Meter(all_ranks)}

    def measure(self, outputs, batch):
        """Add a batch to the meters.

        Arguments
        ---------
        outputs : object
            As `compute_forward` returned them, after `compute_objectives`.
        batch : PaddedBatch
        """

    def audio_seconds(self, batch):
        """Return how much audio a batch holds, s."""
        return seconds_of(batch.sig)

    def on_stage_start(self, stage, epoch=None):
        """Start the meters; in training skip the batches that a checkpoint has behind it."""
        self.stage = stage
        training = stage == sb.Stage.TRAIN
        shared = training or self.shares_evaluation
        self.meters = self.make_meters(shared)
        self.audio, self.losses = Meter(shared), Meter(shared)
        self.stage_began = time.monotonic()
        self.epoch = self.hparams.epoch_counter.current
        self.progress = self.share_done()
        if training:
            self.train_sampler.start = self.step

    def on_fit_batch_start(self, batch, should_step):
        """Seed dropout for this step and set the learning rate."""
        seed = derive_seed(self.hparams.seed, "step", self.epoch, self.step, rank())
        torch.manual_seed(seed)
        self.progress = self.share_done()
        self.set_learning_rate(self.optimizer, self.hparams.lr)

    def _compile(self):
        """Compile the modules that the run options name, in place: their names stay as they are.

        Lengths differ from batch to batch. Unless all shapes are to be traced as dynamic at once,
        those that are seen to change become so. Blocks of one kind share their code: that of
        ECAPA-TDNN is compiled for three dilations, with padding and without, for both.
        """
        options = {"mode": self.compile_mode}
        options["dynamic"] = self.compile_using_dynamic_shape_tracing or None
        names = self.compile_module_keys or (self.modules if self.compile else [])
        if names:
            import torch._dynamo  # seconds

            torch._dynamo.config.recompile_limit = RECOMPILES
        for name in names:
            if name not in self.modules:
                raise ValueError(
                    f"compile_module_keys: there is no {name}, only {', '.join(self.modules)}."
                )
            self.modules[name].compile(**options)

    def _wrap_distributed(self):
        """Have the ranks add up the gradients of what is trained, and leave inputs where they are.

        DDP that is told the device, as SpeechBrain's is, moves the lengths there, from where an
        encoder would have to read them back in each step.
        """
        if not self.distributed_launch:
            super()._wrap_distributed()
            return
        for name, module in self.modules.items():
            if any(p.requires_grad for p in module.parameters()):
                self.modules[name] = DistributedDataParallel(
                    torch.nn.SyncBatchNorm.convert_sync_batchnorm(module),
                    find_unused_parameters=self.find_unused_parameters,
                )

    def make_optimizer(self, parameters):
        """Return an optimizer of the class that the hyperparameters name, fused where it can be.

        On a CPU, torch's own choice takes a sixth of a step's time at the base size.
        """
        can_fuse = "fused" in inspect.signature(self.opt_class).parameters
        fused = {"fused": True} if can_fuse and self.device_type in FUSING else {}
        return self.opt_class(parameters, **fused)

    def fit_batch(self, batch):
        """Train on a batch, as SpeechBrain does, and return its loss, which stays on the device.

        The last batch of an epoch makes a step with what is left.
        """
        should_step = self.step % self.grad_accumulation_factor == 0 or self.ends_epoch()
        self.on_fit_batch_start(batch, should_step)
        with self.no_sync(not should_step):
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
                loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
            self.scaler.scale(loss / self.grad_accumulation_factor).backward()
        if should_step:
            self.optimizers_step()
        self.on_fit_batch_end(batch, outputs, loss, should_step)
        return loss.detach()

    def update_average(self, loss, average):
        """Return the average loss, of training as it was when losses were last read.

        They are read at the first step too: until then a progress bar would show a loss of 0.
        """
        if self.stage != sb.Stage.TRAIN:
            return super().update_average(loss, average)
        self.unread.append((self.step, loss, True))
        read = self.step == 1 or self.step % self.hparams.log_steps == 0
        return self.read_losses(average) if read else average

    def check_loss_isfinite(self, loss):
        """Have a loss that enters no average looked at with the others."""
        self.unread.append((self.step, loss.detach(), False))

    def read_losses(self, average):
        """Take losses and figures off the device; stop all ranks if a loss is not finite.

        Arguments
        ---------
        average : float
            Of the losses before.

        Returns
        -------
        float
            Of all losses of this epoch.
        """
        for meter in (*self.meters.values(), self.audio):
            meter.read()
        unread, self.unread = self.unread, []
        steps = [step for step, _, _ in unread]
        losses = [float(loss) for loss in to_arrays([loss for _, loss, _ in unread])]
        wrong = [place for place, loss in enumerate(losses) if not math.isfinite(loss)]
        if sum_over_ranks(np.array(len(wrong))) > 0:
            found = f"{losses[wrong[0]]} at step {steps[wrong[0]]}" if wrong else "not finite"
            raise TrainingError(
                f"The loss is {found} of epoch {self.epoch}{'' if wrong else ' on another rank'}. "
                "The weights of the last checkpoint are sound. Lower the learning rate (lr), or "
                "look for an utterance with extreme values."
            )
        for (step, _, averaged), loss in zip(unread, losses, strict=True):
            average += (loss - average) / step if averaged else 0.0
        return average

    def read_losses_of_ranks(self, average):
        """Read losses as `read_losses` does, and return the mean of the averages of all ranks."""
        return float(sum_over_ranks(np.array(self.read_losses(average))) / world_size())

    def ends_epoch(self):
        """Return whether this batch is the last of the epoch."""
        return self.step == len(self.train_sampler)

    def init_optimizers(self):
        """Give all that is trained one optimizer."""
        trained = [p for p in self.modules.parameters() if p.requires_grad]
        self.optimizer = self.make_optimizer(trained)
        self.optimizers_dict = {"opt_class": self.optimizer}
        self.checkpointer.add_recoverable("optimizer", self.optimizer)

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """Add the batch to the meters."""
        with torch.no_grad(), self.training_ctx:
            self.measure(outputs, batch)
            self.audio.add("seconds", self.audio_seconds(batch), 1)

    def evaluate_batch(self, batch, stage):
        """Evaluate a batch, which each rank contrasts with itself alone."""
        torch.manual_seed(derive_seed(self.hparams.seed, "evaluation", *batch.id))
        with alone(), self.evaluation_ctx:
            outputs = self.compute_forward(batch, stage)
            loss = self.compute_objectives(outputs, batch, stage)
            self.measure(outputs, batch)
        self.losses.add("loss", loss, 1)
        return loss.detach().cpu()

    def figures(self):
        """Return what the meters of this stage tell, by name."""
        return {
            name: value
            for meter in self.meters.values()
            if not meter.empty
            for name, value in meter.figures().items()
        }

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Report a stage; after validation also save, log, draw and look for a collapse."""
        if stage == sb.Stage.TRAIN:
            stage_loss = self.read_losses_of_ranks(stage_loss)
        else:
            stage_loss = self.losses.average("loss")
        figures = {"loss": float(stage_loss), **self.figures()}
        if stage == sb.Stage.TRAIN:
            seconds = time.monotonic() - self.stage_began
            audio = 0.0 if self.audio.empty else float(self.audio.total("seconds"))
            figures["audio_seconds_per_second"] = audio / seconds
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
        """Raise TrainingError where a figure is not finite, or a representation hardly varies."""
        for name, value in figures.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise TrainingError(
                    f"{name} is {value} after epoch {self.epoch}, of which no checkpoint is kept. "
                    "Lower the learning rate (lr)."
                )
            if name.endswith("_deviation") and value < MIN_DEVIATION:
                raise TrainingError(
                    f"{name} is {value:.1e}: the representation has collapsed to a point. Lower "
                    "the learning rate (lr) or beta, or use larger batches."
                )

    @main_process_only
    def log_epoch(self, epoch):
        """Add an epoch to the train log, to the history and, where asked, to TensorBoard."""
        output = Path(self.hparams.output_folder)
        stats = {"epoch": epoch, "lr": self.optimizer.param_groups[0]["lr"]}
        figures = self.train_figures, self.valid_figures
        self.hparams.train_logger.log_stats(stats, *figures)
        if self.hparams.tensorboard:
            logger = sb.utils.train_logger.TensorboardLogger(str(output / "tensorboard"))
            logger.log_stats(stats, *figures)
            logger.writer.close()
        rows = record_epoch(output / "history.jsonl", epoch, *figures)
        last = epoch >= self.hparams.epoch_counter.limit
        if last or time.monotonic() - self.drawn > DRAW_SECONDS:
            draw_curves(rows, output / "curves.png")
            self.drawn = time.monotonic()

    def _should_save_intra_epoch_ckpt(self, *since):
        """Save after a step alone: gradients that are being added up are in no checkpoint.

        Ranks ask the first one, whose clock counts, only where losses are read as well.
        """
        after_step = self.step % self.grad_accumulation_factor == 0
        asked = world_size() == 1 or self.step % self.hparams.log_steps == 0
        return after_step and asked and super()._should_save_intra_epoch_ckpt(*since)

    def _save_intra_epoch_ckpt(self):
        self.avg_train_loss = self.read_losses_of_ranks(self.avg_train_loss)
        marks = {"batches": self.batches(), "processes": world_size()}
        marks["brain_intra_epoch_ckpt"] = True
        self.checkpointer.save_and_keep_only(
            meta={"architecture": self.architecture(), **marks},
            end_of_epoch=False,
            num_to_keep=1,
            ckpt_predicate=lambda checkpoint: "brain_intra_epoch_ckpt" in checkpoint.meta,
        )
