"""A downstream recipe's run: heads trained at several learning rates, the best of them exported.

The steps are those of `Sweep`, in the order in which each recipe's `main` calls them.
"""

import math
import time
from functools import partial
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.utils import distributed
from speechbrain.utils.logger import get_logger

from lobes.heads import check_layers
from pretrained.commands.runtime import keep_freed_memory
from recipes.common.data.loaders import make_loader
from recipes.common.data.seeding import Clock, derive_seed
from recipes.common.downstream.features import add_features, load_upstream, open_cache
from recipes.common.downstream.labels import class_weights
from recipes.common.training import run
from recipes.common.training.brain import TrainingError
from recipes.common.training.command_line import read_command_line
from recipes.common.training.history import read_history
from recipes.common.training.hparams import check_same_settings, load_hparams, save_hparams
from recipes.common.training.limits import check_limits, check_used

logger = get_logger(__name__)

OF_FINE_TUNING = {"upstream_lr": ("upstream", "frozen")}  # as `check_used` takes it
BY_THE_SWEEP = {"lr": "lrs [0.001], learning rates to try", "run_folder": "output_folder"}


class Sweep:
    """Trainings of a head, one for each learning rate, on the states of an upstream.

    Arguments
    ---------
    arguments : list of str
        The command line: a hyperparameters file and options.
    brain_class : type
        The task's `DownstreamBrain`.

    Attributes
    ----------
    hparams : dict
        What the file builds.
    debug : bool
        Whether this is a quick look (`--debug`).
    cache : StateCache or None
        Of the upstream's states, once `make_loaders` was called.
    tried : dict
        The best epoch of each learning rate, once `fit` was called; see `try_rates`.

    Raises
    ------
    ValueError
        Where an option does not fit. Nothing is written then.
    """

    def __init__(self, arguments, brain_class):
        self.began = time.time()
        self.brain_class = brain_class
        self.file, self.run_opts, self.overrides = read_command_line(arguments)
        self.debug = self.run_opts["debug"]
        if "debug_batches" in self.run_opts.overridden_args:
            raise ValueError(
                "--debug_batches cannot be used here: a quick look takes all batches of "
                f"{run.QUICK_UTTERANCES} utterances of each split."
            )
        for name, instead in BY_THE_SWEEP.items():
            if name in self.overrides:
                raise ValueError(f"{name} is set by the sweep: expected --{instead}.")
        distributed.ddp_init_group(self.run_opts)
        self.hparams = load_hparams(self.file, self.overrides)
        check_rates(self.hparams["lrs"])
        check_limits(self.hparams)
        check_used(self.hparams, self.overrides, OF_FINE_TUNING)
        if not self.debug:
            check_same_settings(self.file, self.overrides, self.hparams["output_folder"])
        keep_freed_memory()
        self.upstream = load_upstream(self.hparams).to(
            self.run_opts["device"] or distributed.infer_device()
        )
        check_layers(self.hparams["last_layers"], self.upstream.states.num_layers)
        self.cache, self.tried = None, {}

    def prepare(self):
        """Have the manifests written, and return the datasets of "train", "valid" and "test"."""
        distributed.run_on_main(run.prepare, args=[self.hparams])
        return run.split_datasets(self.hparams, self.hparams["disjoint_speakers"])

    def make_loaders(self, datasets):
        """Return a loader for each dataset, of the upstream's states and of the labels.

        Arguments
        ---------
        datasets : dict
            By split: Utterances, with their labels. A quick look takes a few of each.

        Returns
        -------
        dict
        """
        if self.debug:
            self.hparams, datasets = run.quick_look(self.hparams, datasets)
        self.cache = open_cache(self.hparams, self.upstream, datasets)
        return make_loaders(self.hparams, datasets, self.cache, self.brain_class.label_keys)

    def fit(self, loaders, labels):
        """Train a head at each learning rate.

        Arguments
        ---------
        loaders : dict
            By split; the Brain finds them as `loaders`.
        labels : object
            What the labels mean, for the sizes of the head; the Brain finds it as `labels`.

        Returns
        -------
        DownstreamBrain
            The one that is best on validation.

        Raises
        ------
        TrainingError
            Where training comes to a halt at every learning rate.
        """
        steps = len(loaders["train"]) * self.hparams["number_of_epochs"]
        warn_of_rest(self.hparams, steps // self.run_opts["grad_accumulation_factor"])
        run.claim(self.hparams["output_folder"])
        sb.create_experiment_directory(self.hparams["output_folder"])
        save_hparams(self.file, self.overrides, self.hparams["output_folder"])
        brain, self.tried = try_rates(partial(self.train, loaders, labels), self.hparams["lrs"])
        return brain

    def train(self, loaders, labels, rate):
        """Return a Brain that is trained at a learning rate."""
        hparams = hparams_at(self.file, self.overrides, self.hparams["output_folder"], rate)
        brain = make_brain(self.brain_class, hparams, self.run_opts, labels, self.cache, loaders)
        brain.debug_batches = math.inf  # there are few, and a trial needs both its utterances
        brain.fit(hparams["epoch_counter"], loaders["train"], loaders["valid"])
        return brain

    def finish(self, brain):
        """Write metrics.json, export encoder and head where they are of use, and end every rank.

        Arguments
        ---------
        brain : DownstreamBrain
            Trained and evaluated.
        """
        self.report(brain)
        run.leave_together()

    @distributed.main_process_only
    def report(self, brain):
        """Write the figures of the best head and of the sweep, and export what is of use."""
        trained = brain.heads()
        if not brain.upstream.frozen:
            trained["upstream"] = brain.upstream
        figures = {
            **{key: str(self.hparams[key]) for key in ("features", "representation", "upstream")},
            "sweep": {str(rate): result for rate, result in self.tried.items()},
            "lr": brain.hparams.lr,
            "parameters": {name: run.count_parameters(module) for name, module in trained.items()},
            "utterances": run.count_utterances(self.hparams, brain.loaders),
            "valid": self.tried[brain.hparams.lr],
            "test": brain.test_figures,
        }
        facts, modules = brain.facts(), None
        if facts is not None:
            facts = {"features": brain.upstream.kind, **facts}
            modules = exported_modules(brain)
        run.report(self.hparams, figures, self.began, modules=modules, facts=facts)


def exported_modules(brain):
    """Return the heads that others can build, and the encoder that they stand on, by name."""
    modules = {name: head for name, head in brain.heads().items() if hasattr(head, "config")}
    upstream = brain.upstream
    if hasattr(upstream.states, "encoder"):
        modules[upstream.kind] = upstream.states.encoder
    return modules


def check_rates(rates):
    """Raise ValueError unless the learning rates to try are positive numbers."""
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


def make_loaders(hparams, datasets, cache, label_keys):
    """Return a loader for each split; whatever is not trained on is whole.

    Arguments
    ---------
    hparams : dict
        See `add_features` and `make_loader`; `upstream`, `representation`; of a classification
        `balanced`, whether training draws all classes equally often.
    datasets : dict
        By split: Utterances, with their labels.
    cache : StateCache or None
    label_keys : iterable of str
        The items of a batch beside the features.

    Returns
    -------
    dict
        By split: a loader.
    """
    loaders = {}
    for split, dataset in datasets.items():
        clock = Clock() if split == "train" else None
        item = add_features(dataset, hparams, cache, clock)
        dataset.set_output_keys(["id", "duration", item, *label_keys])
        cropped = clock is not None and hparams["crop"]
        longest = hparams["max_seconds"] if cropped else math.inf
        # An utterance encoder that learns normalises embeddings over the batch.
        together = (hparams["upstream"], hparams["representation"]) == ("finetune", "utterance")
        fewest = 2 if together and clock is not None else 1
        limited, shared = {**hparams, "max_seconds": longest}, clock is not None
        weights = class_weights(dataset) if shared and hparams.get("balanced") else None
        loaders[split] = make_loader(dataset, limited, clock, fewest, shared, weights=weights)
    return loaders


def hparams_at(hparams_file, overrides, output_folder, rate):
    """Build everything anew for a training at a learning rate, in a folder of its own."""
    folder = str(Path(output_folder) / f"lr_{rate}")
    own = load_hparams(hparams_file, {**overrides, "lr": rate, "run_folder": folder})
    return {**own, "output_folder": folder}


def make_brain(brain_class, hparams, run_opts, labels, cache, loaders):
    """Return a task's Brain, its head fresh.

    Arguments
    ---------
    brain_class : type
        The task's `DownstreamBrain`.
    hparams : dict
        As `hparams_at` returns them.
    run_opts : speechbrain.core.RunOptions
    labels : object
        What the labels mean, for the sizes of the head.
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
    modules = brain_class.make_modules(hparams, upstream, labels)
    recoverables = dict(modules)
    if cache is None:
        modules["upstream"] = upstream
        if not upstream.frozen:
            recoverables["upstream"] = upstream
    checkpointer = hparams["checkpointer"]()
    checkpointer.add_recoverables(recoverables)
    return brain_class(
        modules=modules,
        opt_class=hparams["optimizer"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=checkpointer,
        loaders=loaders,
        labels=labels,
        cache=cache,
        upstream=upstream,
    )


def try_rates(train_at, rates):
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
    distributed.ddp_barrier()  # the main process writes the history
    history = Path(brain.hparams.output_folder) / "history.jsonl"
    rows = read_history(history)
    if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)):
        raise ValueError(
            f"{history} lacks epochs, so that the best cannot be told. Remove {history.parent} to "
            "train at this learning rate anew."
        )
    # Of equal ones the latest, as the checkpointer has it.
    row = min(reversed(rows), key=lambda row: row["valid"][brain.criterion])
    return {"epoch": row["epoch"], **row["valid"]}
