"""The Brain that all downstream tasks share: a head on the states of an upstream."""

import hashlib
import json
from functools import cached_property

import speechbrain as sb
import torch

from lobes.distributed import all_reduce_sum, unwrap, world_size
from lobes.signal import to_device
from recipes.common.training.brain import ResumableBrain

OPTIMIZERS = ("optimizer", "upstream_optimizer")


class DownstreamBrain(ResumableBrain):
    """A head on the states of an upstream, which may learn along.

    A task's Brain adds what follows.

    - `label_keys`: the items of a batch beside the features; the first is a number or a text.
    - `criterion`: the figure of the validation split that is lowest for the best model.
    - `make_modules(hparams, upstream, labels)`: the head and what else is trained, by name.
    - `compute_forward` and `compute_objectives`, as SpeechBrain wants them; they add to `meter`.
    - `summarise()`: the figures of a stage, made of what is in `meter`.
    - `facts()`: see below.

    Arguments
    ---------
    *args, **kwargs
        As `ResumableBrain` takes them.
    labels : object
        What the labels mean.
    cache : StateCache or None
        Holds the states of all utterances; None where the upstream computes them.
    upstream : Upstream
        What the head stands on.
    """

    label_keys = ()

    def __init__(self, *args, labels, cache, upstream, **kwargs):
        super().__init__(*args, **kwargs)
        self.labels, self.cache, self.upstream = labels, cache, upstream
        self.digest = upstream.digest()

    @property
    def meter(self):
        """The meter of this stage."""
        return self.meters["figures"]

    def figures(self):
        """Return what the task tells of this stage; nothing of a training without batches."""
        empty = self.stage == sb.Stage.TRAIN and self.meter.empty
        return {} if empty else self.summarise()

    def name_labels(self):
        """Return what the labels mean as plain values, in the order of the head's outputs."""
        return list(self.labels)

    @cached_property
    def labels_digest(self):
        """Tells other labels from these; see `digest_labels`."""
        return digest_labels(self.name_labels(), self.loaders, self.label_keys[0])

    def audio_seconds(self, batch):
        """Return how much audio a batch holds, s."""
        return float(sum(batch.duration))

    def facts(self):
        """Return what an exported folder tells, beside the weights, for the head to be used.

        None, which is the default, where the head is of no use to others: it is not exported.
        """
        return None

    def init_optimizers(self):
        """Give the head an optimizer, and the upstream another if it learns."""
        groups = [[p for head in self.heads().values() for p in head.parameters()]]
        if self.hparams.upstream == "finetune":
            groups.append(list(self.modules.upstream.parameters()))
        self.optimizers_dict = {
            name: self.make_optimizer(group)
            for name, group in zip(OPTIMIZERS, groups, strict=False)
        }
        self.optimizer = self.optimizers_dict["optimizer"]
        for name, optimizer in self.optimizers_dict.items():
            self.checkpointer.add_recoverable(name, optimizer)

    def on_fit_batch_start(self, batch, should_step):
        """Seed dropout and set each optimizer's rate; in the first steps the head learns alone.

        Until the head tells something, what it passes back would only take the upstream apart.
        """
        super().on_fit_batch_start(batch, should_step)
        if self.hparams.upstream == "finetune":
            self.modules.upstream.train(self.optimizer_step >= self.hparams.frozen_steps)
            upstream = self.optimizers_dict["upstream_optimizer"]
            self.set_learning_rate(upstream, self.hparams.upstream_lr)

    def states(self, batch):
        """Return the states of a batch on the Brain's device, cached or computed, and lengths.

        Returns
        -------
        states : torch.Tensor
            Shape (batch, frames, layers, dim).
        lens : torch.Tensor
            Shape (batch,), int64, valid frames of each row.
        """
        if self.cache is None:
            return self.run_upstream(*batch.sig)
        states, relative = batch.states
        lens = (relative.double() * states.shape[1]).round().long()
        return states, to_device(lens, states.device)

    def run_upstream(self, wavs, wav_lens):
        """Return states and lengths, without gradient as long as the head learns alone."""
        if self.stage != sb.Stage.TRAIN or self.upstream.training:
            return self.modules.upstream(wavs, wav_lens)
        with torch.no_grad():  # not through DistributedDataParallel, which would await a gradient
            return self.upstream(wavs, wav_lens)

    def mean_over_ranks(self, total, count):
        """Return this rank's share of the mean over the global batch, of a sum over its items."""
        count = all_reduce_sum(to_device(torch.as_tensor(count), total.device))
        return total * world_size() / count.clamp(min=1)

    def heads(self):
        """Return what is trained beside the upstream, by name."""
        return {k: unwrap(m) for k, m in self.modules.items() if k != "upstream"}

    def architecture(self):
        """Return what the head stands on, and the configuration of each head that has one."""
        stands_on = {"digest": self.digest, "upstream": self.hparams.upstream}
        configs = {k: head.config for k, head in self.heads().items() if hasattr(head, "config")}
        return {"features": stands_on, "labels": {"digest": self.labels_digest}, **configs}

    def save_epoch(self, meta):
        """Save a checkpoint at the end of an epoch; keep it and the best one."""
        self.checkpointer.save_and_keep_only(
            meta={**meta, **self.valid_figures},
            min_keys=[self.criterion],
            num_to_keep=1,
        )


def digest_labels(names, loaders, key):
    """Return a digest of what labels mean, and of the label of each utterance but the test's.

    Arguments
    ---------
    names : list or dict
        What the labels mean, plain values.
    loaders : dict
        By split.
    key : str
        The item that is an utterance's label.

    Returns
    -------
    str
    """
    told = hashlib.sha256(json.dumps(names).encode())
    for split in ("train", "valid"):
        dataset = loaders[split].dataset
        with dataset.output_keys_as(["id", key]):
            labels = sorted((row["id"], row[key]) for row in dataset)
        told.update(json.dumps(labels).encode())
    return told.hexdigest()
