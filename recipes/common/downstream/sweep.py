"""Downstream recipes: a head on the states of an upstream, its learning rate swept on validation.

`run` is what each recipe's train.py does: prepare, data, features, one training for each learning
rate, the test with the best of them alone, and the export of encoder and head as one folder.
"""

import json
import math
import time
from pathlib import Path

import ruamel.yaml
import speechbrain as sb
import torch
from speechbrain.utils.distributed import (
    ddp_barrier,
    ddp_init_group,
    infer_device,
    main_process_only,
    run_on_main,
)
from speechbrain.utils.logger import get_logger

from lobes.distributed import unwrap
from lobes.heads import check_layers
from pretrained.card import write_card
from pretrained.exported import save_model
from recipes.common.data.loaders import make_loader
from recipes.common.data.sampler import Clock
from recipes.common.data.seeding import derive_rng, derive_seed
from recipes.common.downstream.features import add_features, load_upstream, open_cache
from recipes.common.training.brain import ResumableBrain, TrainingError
from recipes.common.training.hparams import load_hparams, save_hparams
from recipes.common.training.run import (
    count_parameters,
    keep_freed_memory,
    leave_together,
    manifest_paths,
    prepare,
    quick_look,
    report,
    split_datasets,
)

logger = get_logger(__name__)
OPTIMIZERS = ("optimizer", "upstream_optimizer")


class DownstreamBrain(ResumableBrain):
    """A head on the states of an upstream, which may learn along.

    A task's Brain adds what follows.

    - `label_keys`: the items of a batch beside the features.
    - `add_labels(hparams, datasets)`: gives each utterance its labels; returns what they mean.
    - `fewer_labels(labels, datasets)`: what labels mean in `--debug`; may narrow the datasets.
    - `make_modules(hparams, upstream, labels)`: the head and what else is trained, by name.
    - `criterion`: the figure of the validation split that is lowest for the best model.
    - `facts()`: what an exported folder tells, beside the weights, for the head to be used; None
      where it is of no use to others.
    """

    label_keys = ()

    @staticmethod
    def fewer_labels(labels, datasets):
        """Return what labels mean where `--debug` runs on a few utterances."""
        return labels

    def init_optimizers(self):
        """Give the head an optimizer, and the upstream another if it learns."""
        heads = [m for name, m in self.modules.items() if name != "upstream"]
        groups = [[p for m in heads for p in m.parameters()]]
        if self.hparams.upstream == "finetune":
            groups.append(list(self.modules.upstream.parameters()))
        self.optimizers_dict = {
            name: self.opt_class(group) for name, group in zip(OPTIMIZERS, groups, strict=False)
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

    def track(self, name, total, count):
        """Add to an average of this stage; see `Meter.add`."""
        self.meters["figures"].add(name, total, count)

    def average(self, name):
        """Return an average of this stage; see `Meter.average`."""
        return self.meters["figures"].average(name)

    def figures(self):
        """Return what the task's Brain tells of the stage."""
        return self.summarise() if self.meters["figures"].totals else {}

    def audio_seconds(self, batch):
        """Return how much audio a batch holds, s."""
        return torch.as_tensor(batch.duration).sum()

    def states(self, batch):
        """Return the states of a batch on the Brain's device, cached or computed, and lengths."""
        if self.cache is None:
            return self.run_upstream(*batch.sig)
        states, relative = batch.states
        return states, (relative.double() * states.shape[1]).round().long()

    def run_upstream(self, wavs, wav_lens):
        """Return states and lengths, without gradient as long as the head learns alone."""
        if self.stage != sb.Stage.TRAIN or self.upstream.training:
            return self.modules.upstream(wavs, wav_lens)
        with torch.no_grad():  # not through DistributedDataParallel, which would await a gradient
            return self.upstream(wavs, wav_lens)

    def architecture(self):
        """Return what the head stands on, and the configuration of each head that has one."""
        stands_on = {"digest": self.digest, "upstream": self.hparams.upstream}
        heads = {k: unwrap(m) for k, m in self.modules.items() if k != "upstream"}
        return {
            "features": stands_on,
            **{k: m.config for k, m in heads.items() if hasattr(m, "config")},
        }

    def save_epoch(self, meta):
        """Save a checkpoint at the end of an epoch; keep it and the best one."""
        self.checkpointer.save_and_keep_only(
            meta={**meta, self.criterion: self.valid_figures[self.criterion]},
            min_keys=[self.criterion],
            num_to_keep=1,
        )


def run(arguments):
    """Run a downstream recipe: train a head at each learning rate, test and export the best.

    Arguments
    ---------
    arguments : list of str
        The command line: a hyperparameters file and options.

    Raises
    ------
    ValueError
        Where an option or the data does not fit. Nothing is trained then.
    TrainingError
        Where training comes to a halt at every learning rate.
    """
    began = time.time()
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)
    ddp_init_group(run_opts)
    hparams = load_hparams(hparams_file, overrides)
    check_rates(hparams)
    keep_freed_memory()

    upstream = load_upstream(hparams).to(run_opts["device"] or infer_device())
    check_layers(hparams["last_layers"], upstream.states.num_layers)
    run_on_main(prepare, args=[hparams])
    datasets = split_datasets(hparams, hparams["disjoint_speakers"])
    labels = hparams["brain"].add_labels(hparams, datasets)
    if run_opts["debug"]:
        labels = hparams["brain"].fewer_labels(labels, datasets)
        hparams, datasets = quick_look(hparams, datasets)
    cache = open_cache(hparams, upstream, datasets)
    loaders = make_loaders(hparams, datasets, cache)
    steps = len(loaders["train"]) * hparams["number_of_epochs"]
    warn_of_rest(hparams, steps // run_opts["grad_accumulation_factor"])
    sb.create_experiment_directory(hparams["output_folder"])
    save_hparams(hparams_file, overrides, hparams["output_folder"])

    def train_at(rate):
        own = hparams_at(hparams_file, overrides, hparams["output_folder"], rate)
        brain = make_brain(own, run_opts, labels, cache, loaders)
        brain.debug_batches = math.inf  # there are few, and a trial needs both its utterances
        brain.fit(own["epoch_counter"], loaders["train"], loaders["valid"])
        return brain

    brain, tried = sweep(train_at, hparams["lrs"])
    brain.evaluate(loaders["test"], min_key=brain.criterion)
    finish(brain, hparams, tried, began)
    leave_together()


def check_rates(hparams):
    """Raise ValueError unless the learning rates to try are positive numbers."""
    rates = hparams["lrs"]
    if not isinstance(rates, list) or not rates:
        raise ValueError(f"lrs is {rates!r}: expected a list of learning rates to try.")
    for rate in rates:
        if not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
            raise ValueError(f"lrs: {rate!r} is no learning rate: expected numbers above 0.")


def warn_of_rest(hparams, steps):
    """Warn of a fine-tuning in which the head learns alone to the end, or nearly.

    Arguments
    ---------
    hparams : dict
        `upstream` and `frozen_steps`.
    steps : int
        Optimizer steps of the whole training.
    """
    frozen = hparams["frozen_steps"]
    if hparams["upstream"] == "finetune" and 2 * frozen > steps:
        logger.warning(
            f"The upstream rests in {min(frozen, steps)} of {steps} steps: to fine-tune it, "
            f"lower frozen_steps ({frozen}) or train longer."
        )


def hparams_at(hparams_file, overrides, output_folder, rate):
    """Build everything anew for a training at a learning rate, in a folder of its own."""
    folder = str(Path(output_folder) / f"lr_{rate}")
    given = ruamel.yaml.YAML(typ="safe").load(overrides) or {}
    own = load_hparams(hparams_file, json.dumps({**given, "lr": rate, "run_folder": folder}))
    return {**own, "output_folder": folder}


def make_loaders(hparams, datasets, cache):
    """Return a loader for each split; whatever is not trained on is whole.

    Arguments
    ---------
    hparams : dict
        See `add_features` and `make_loader`; `brain`.
    datasets : dict
        "train", "valid" and "test": DynamicItemDataset, with their labels.
    cache : StateCache or None

    Returns
    -------
    dict
        A loader for each.
    """
    loaders = {}
    for split, dataset in datasets.items():
        clock = Clock() if split == "train" else None
        item = add_features(dataset, hparams, cache, clock)
        dataset.set_output_keys(["id", "duration", item, *hparams["brain"].label_keys])
        cropped = clock is not None and hparams["crop"]
        longest = hparams["max_seconds"] if cropped else math.inf
        # An utterance encoder that learns normalises embeddings over the batch.
        together = (hparams["upstream"], hparams["representation"]) == ("finetune", "utterance")
        fewest = 2 if together and clock is not None else 1
        loaders[split] = make_loader(dataset, {**hparams, "max_seconds": longest}, clock, fewest)
    return loaders


def make_brain(hparams, run_opts, labels, cache, loaders):
    """Return a task's Brain, its head fresh.

    Arguments
    ---------
    hparams : dict
        As `hparams_at` returns them.
    run_opts : speechbrain.core.RunOptions
    labels : object
        What `add_labels` returned.
    cache : StateCache or None
        Without one, the upstream is part of the Brain.
    loaders : dict
        By split.

    Returns
    -------
    DownstreamBrain
    """
    upstream = load_upstream(hparams)
    torch.manual_seed(derive_seed(hparams["seed"], "head"))
    modules = hparams["brain"].make_modules(hparams, upstream, labels)
    recoverables = dict(modules)
    if cache is None:
        modules["upstream"] = upstream
        if not upstream.frozen:
            recoverables["upstream"] = upstream
    checkpointer = hparams["checkpointer"]()
    checkpointer.add_recoverables(recoverables)
    brain = hparams["brain"](
        modules=modules,
        opt_class=hparams["optimizer"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=checkpointer,
        loaders=loaders,
    )
    brain.labels, brain.cache, brain.upstream = labels, cache, upstream
    brain.digest = upstream.digest()
    return brain


def sweep(train_at, rates):
    """Train at each learning rate and return the Brain that is best on validation.

    Arguments
    ---------
    train_at : callable
        Takes a rate, returns a trained Brain.
    rates : list of float
        The earlier of equally good ones is kept.

    Returns
    -------
    brain : DownstreamBrain
    tried : dict
        For each rate the best `epoch` and its figures on validation; None where training at that
        rate came to a halt.

    Raises
    ------
    TrainingError
        Where it did at every rate.
    """
    best, tried = None, {}
    for rate in rates:
        try:
            brain = train_at(rate)
        except TrainingError as error:
            tried[rate], last = None, error
            continue
        tried[rate] = best_epoch(brain)
        value = tried[rate][brain.criterion]
        if best is None or value < best[0]:
            best = value, brain
    if best is None:
        raise last
    return best[1], tried


def best_epoch(brain):
    """Return the epoch that is best on validation, with its figures."""
    ddp_barrier()  # the main process writes the history
    history = Path(brain.hparams.output_folder) / "history.jsonl"
    rows = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    # Of equal ones the latest, as the checkpointer has it.
    row = min(reversed(rows), key=lambda row: row["valid"][brain.criterion])
    return {"epoch": row["epoch"], **row["valid"]}


@main_process_only
def finish(brain, hparams, tried, began):
    """Export encoder and head, and write metrics.json and the model card that shows it.

    Arguments
    ---------
    brain : DownstreamBrain
        Trained and evaluated.
    hparams : dict
        Of the whole run.
    tried : dict
        As `sweep` returns it.
    began : float
        When the run began, s since the epoch.
    """
    output = Path(hparams["output_folder"])
    trained = {k: unwrap(m) for k, m in brain.modules.items() if k != "upstream"}
    if hparams["upstream"] == "finetune":
        trained["upstream"] = brain.upstream
    figures = {
        **{key: str(hparams[key]) for key in ("features", "representation", "upstream")},
        "sweep": {str(rate): result for rate, result in tried.items()},
        "lr": brain.hparams.lr,
        "parameters": {name: count_parameters(module) for name, module in trained.items()},
        "valid": tried[brain.hparams.lr],
        "test": brain.test_figures,
    }
    manifests = [path for paths in manifest_paths(hparams).values() for path in paths]
    report(hparams, figures, manifests, began)
    facts = brain.facts()
    if facts is not None:
        modules = {name: module for name, module in trained.items() if hasattr(module, "config")}
        if hasattr(brain.upstream.states, "encoder"):
            modules[brain.upstream.kind] = brain.upstream.states.encoder
        save_model(output / "model", modules, {"features": brain.upstream.kind, **facts})
        metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
        write_card(output / "model", metrics)


def deal(labels, hparams):
    """Return the labels of training utterances, dealt out at random where `shuffle_labels` is set.

    Arguments
    ---------
    labels : dict
        By utterance.
    hparams : dict
        `shuffle_labels`, a control that leaves nothing to learn, and `seed`.

    Returns
    -------
    dict
        Likewise.

    Example
    -------
    >>> deal({"a": 1, "b": 2}, {"shuffle_labels": False, "seed": 0})
    {'a': 1, 'b': 2}
    """
    if not hparams["shuffle_labels"]:
        return labels
    order = derive_rng(hparams["seed"], "shuffled labels").permutation(len(labels))
    values = list(labels.values())
    return {name: values[place] for name, place in zip(labels, order, strict=True)}
