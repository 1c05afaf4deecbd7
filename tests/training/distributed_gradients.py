"""Write the gradients of one training step of a stage, on one process or on two ranks.

    python distributed_gradients.py OUTPUT_FOLDER OUT.pt "STAGE; WHAT" ...
    torchrun --nproc_per_node=2 distributed_gradients.py OUTPUT_FOLDER OUT.pt "STAGE; WHAT" ...

OUT.pt receives what is found of each STAGE, by name. STAGE is frame, codes, spin, utterance, joint,
"joint network" or "utterance moco": the kind of the critic or the method after the stage; or
"frame visible", which predicts the units of frames without masks too. WHAT is
"gradients", or "cut": those of utterances that are cut to the shortest. With "accumulated 4" the
changes of the weights in an epoch of five batches are written, of which four make a step, and with
"evaluated" the figures of an evaluation, whose batches the ranks share.

The global batch, its masks and its crops are given: two ranks take unequal parts of it.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from speechbrain import Stage
from speechbrain.utils.distributed import ddp_init_group
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from lobes.distributed import rank, world_size
from recipes.common.data.crops import CutToShortest, SpeechBatch, span_mask
from recipes.common.data.sampler import LengthSortedBatches
from recipes.common.data.seeding import Clock
from recipes.common.training.hparams import load_hparams
from recipes.common.training.run import leave_together
from recipes.LibriSpeech.pretrain.train import stage_brain

ROOT = Path(__file__).parents[2]
SECONDS = (1.0, 2.3, 1.4, 0.7, 1.9, 1.2, 2.6)
PART = 3  # utterances of the first rank
UNITS = 16
METHODS = sorted(path.stem for path in (ROOT / "hparams" / "methods").glob("*.yaml"))
SMALL = {  # settings of methods that seven utterances suffice for
    "moco": {"queue_size": 20},
    "dino": {"prototypes": 12, "short_crops": 2},
    "ssps": {"queue_size": 20, "prototypes": 4, "positives_from": 0.0},
}


def examples(hparams=None):
    """Return the utterances of the global batch: other lengths, masks and crops each.

    With hyperparameters, they have the short crops and the reference that these ask for.
    """
    short = getattr(hparams, "short_crops", 0)
    more = [f"short_{number}" for number in range(short)]
    more += ["reference"] if getattr(hparams, "reference_seconds", 0) else []
    for number, seconds in enumerate(SECONDS):
        rng = np.random.default_rng(number)
        wav = torch.from_numpy(rng.normal(size=int(seconds * 16000)).astype("float32")) * 0.1
        frames = 1 + (len(wav) - 400) // 320
        yield {
            "id": f"utterance-{number}",
            "sig": wav,
            "units": torch.from_numpy(rng.integers(UNITS, size=frames)),
            "mask": torch.from_numpy(rng.random(frames) < 0.1 * (number + 1)),
            "first": wav[: len(wav) // 2 + 100 * number],
            "second": wav[len(wav) // 2 :],
            "other_voice": wav.flip(0),
            **{name: wav[200 * place :] for place, name in enumerate(more)},
        }


def build(stage, output):
    """Return a stage's Brain at its tiny size, without dropout."""
    overrides = {"data_folder": "none", "output_folder": str(output)}
    stage, _, kind = stage.partition(" ")
    overrides |= {} if stage == "utterance" else {"num_targets": UNITS}
    if kind:
        overrides |= {
            "frame": {"visible_weight": 0.5},
            "joint": {"critic_kind": kind},
            "utterance": {"method": kind, **SMALL.get(kind, {})},
        }[stage]
    hparams = load_hparams(
        ROOT / "recipes" / "LibriSpeech" / "pretrain" / "hparams" / f"{stage}_tiny.yaml", overrides
    )
    drop_nothing(hparams["modules"].values())
    if stage == "joint" and not kind:
        hparams["modules"]["critic"].ridge = 1.0  # 7 utterances determine no regression on 128
    # Brains are told of the backend of GPUs: what is wrapped has to leave lengths on the CPU
    run_opts = {"device": "cpu", "distributed_backend": "nccl"}
    checkpointer = hparams["checkpointer"]()
    sampler = LengthSortedBatches([1.0] * 100, 1.0, seed=0)
    brain = stage_brain(stage)(
        hparams["modules"],
        hparams["optimizer"],
        hparams,
        run_opts,
        checkpointer,
        loaders={"train": DataLoader(range(100), batch_sampler=sampler)},
    )
    brain._wrap_distributed()
    wrapped = [m for m in brain.modules.values() if isinstance(m, DistributedDataParallel)]
    assert bool(wrapped) == (world_size() > 1)
    assert all(module.device_ids is None for module in wrapped)
    brain.init_optimizers()
    return brain


def drop_nothing(modules):
    """Have nothing drop out of modules in training."""
    for part in (part for module in modules for part in module.modules()):
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout", "layer_drop"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)


def gradients(brain, cut=False):
    """Return every parameter's gradient after one step's loss, and the critics' after theirs."""
    whole = list(examples(brain.hparams))
    if cut:
        mask = partial(span_mask, prob=0.1, length=5)
        shortest = CutToShortest({"span_mask": mask, "seed": 0}, Clock())
        frames = min(len(row["units"]) for row in whole)
        whole = [{**row, **shortest.cut(row, frames)} for row in whole]
    parts = [whole] if world_size() == 1 else [whole[:PART], whole[PART:]]
    batch = SpeechBatch(parts[rank()])
    brain.modules.train()
    # Late enough that beta has risen: the information is in the loss
    brain.hparams.epoch_counter.current = brain.hparams.number_of_epochs // 2
    brain.step = 51
    brain.on_stage_start(Stage.TRAIN, 1)
    if hasattr(brain, "method"):  # what it remembers has to be there
        brain.compute_objectives(brain.compute_forward(batch, Stage.TRAIN), batch, Stage.TRAIN)
        brain.on_stage_start(Stage.TRAIN, 1)
        brain.method.begin_epoch(2, 2, 0, resumed=False)
    found = step_critics(brain, batch)
    outputs = brain.compute_forward(batch, Stage.TRAIN)
    brain.compute_objectives(outputs, batch, Stage.TRAIN).backward()
    return found | collect(brain)


def figures_of_evaluation(brain):
    """Return what an evaluation tells, as tensors."""
    batches = LengthSortedBatches(SECONDS, 4.0, 0, None, world_size(), rank(), 2)
    brain.finalised = True
    brain.evaluate(DataLoader(list(examples()), batch_sampler=batches, collate_fn=SpeechBatch))
    return {name: torch.tensor(value) for name, value in brain.test_figures.items()}


def changes_in_an_epoch(brain, factor):
    """Return every weight's change in two steps, of which the second is of a single batch."""
    whole = list(examples(brain.hparams))
    parts = [whole] if world_size() == 1 else [whole[:PART], whole[PART:]]
    brain.modules.train()
    brain.grad_accumulation_factor = factor
    samplers = (LengthSortedBatches([1.0] * count, 1.0, seed=0) for count in range(1, 20))
    brain.train_sampler = next(sampler for sampler in samplers if len(sampler) == factor + 1)
    parameters = [p for group in brain.optimizer.param_groups for p in group["params"]]
    brain.optimizer = torch.optim.SGD(parameters, 0.1)  # Adam would take rounding for gradients
    brain.optimizers_dict = {"opt_class": brain.optimizer}
    brain.on_stage_start(Stage.TRAIN, 1)
    brain.hparams.lr = 100.0  # of which the schedule leaves little at the start
    before = weights(brain)
    for turned in range(factor + 1):
        own = parts[rank()]
        brain.step += 1
        brain.fit_batch(SpeechBatch(own[turned % len(own) :] + own[: turned % len(own)]))
    assert brain.optimizer_step == 2
    return {name: weight - before[name] for name, weight in weights(brain).items()}


def weights(brain):
    """Return every weight by its name, and every buffer: moving averages."""
    return {
        name.replace(".module.", "."): x.detach().clone()
        for name, x in brain.modules.state_dict().items()
        if x.is_floating_point()
    }


def step_critics(brain, batch):
    """Return the gradients of the critics' step, which lets a linear one see the batch."""
    found = {}
    for name, critic in getattr(brain, "critics", {}).items():
        with torch.no_grad():
            outputs = brain.compute_forward(batch, Stage.TRAIN)
        pairs = brain.draw_pairs(outputs.frames, outputs.embeddings, batch, 0)
        groups = brain.groups(outputs.counts["rows"])
        objective = critic(*pairs, groups, mode="objective")
        if objective.requires_grad:
            (-objective).backward()
        found |= {f"{name} step: {key}": value for key, value in collect(brain).items()}
    return found


def collect(brain):
    """Return the gradients by parameter and forget them."""
    found = {}
    for name, parameter in brain.modules.named_parameters():
        if parameter.grad is not None:
            found[name.replace(".module.", ".")] = parameter.grad.clone()
            parameter.grad = None
    return found


def find(stage, what, output):
    """Return what one of the words of the command asks for, of a stage."""
    torch.manual_seed(0)
    brain = build(stage, output)
    what, _, factor = what.partition(" ")
    if what == "evaluated":
        return figures_of_evaluation(brain)
    if what == "accumulated":
        return changes_in_an_epoch(brain, int(factor))
    return gradients(brain, what == "cut")


def main():
    """Compute what is asked for and write it from the first rank."""
    output, path, *asked = sys.argv[1:]
    ddp_init_group({"distributed_backend": "gloo"})
    torch.set_num_threads(1)
    found = {}
    for number, words in enumerate(asked):
        found[words] = find(*words.split("; "), Path(output) / str(number))
    if rank() == 0:
        torch.save(found, path)
    leave_together()


if __name__ == "__main__":
    main()
