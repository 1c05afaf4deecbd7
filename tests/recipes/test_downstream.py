"""Downstream recipes: their commands, kills, ranks; the sweep, the loss, the controls."""

import csv
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file
from scipy.stats import binom
from speechbrain import Stage
from speechbrain.core import RunOptions
from speechbrain.dataio.dataset import DynamicItemDataset

from lobes.frame_encoder import FrameEncoder
from lobes.states import FbankStates
from lobes.utterance_encoder import UtteranceEncoder
from pretrained import SpeakerVerifier, Transcriber
from pretrained.exported import load_folder, save_model
from pretrained.tokenizers import PieceTokenizer, SymbolTokenizer
from recipes.common.data.crops import collate
from recipes.common.data.sampler import LengthSortedBatches
from recipes.common.downstream import features
from recipes.common.downstream.features import open_cache
from recipes.common.downstream.sweep import (
    best_epoch,
    check_rates,
    deal,
    hparams_at,
    make_brain,
    make_loaders,
    run,
    sweep,
    warn_of_rest,
)
from recipes.common.training.brain import TrainingError
from recipes.VoxCeleb.speakers import IdentificationBrain

TESTS = Path(__file__).parents[1]
RECIPES = TESTS.parent / "recipes"
LEXICON = "ONE W AH1 N\nTWO T UW1\nTHREE TH R IY1\nFOUR F AO1 R\nFIVE F AY1 V\nSIX S IH1 K S\n"
TASKS = {  # the recipe's folder, its hyperparameters file, options beside the small run's
    "PR": ("LibriSpeech/PR", "lexicon_tiny", {}),
    "ASR": (
        "LibriSpeech/ASR",
        "bpe_tiny",
        {"vocab_size": 15, "upstream": "finetune", "frozen_steps": 2},
    ),
    "SID": ("VoxCeleb/SpeakerID", "linear_tiny", {}),
    "xvector": ("VoxCeleb/SpeakerRec", "xvector_tiny", {"features": "fbank"}),
    "embedding": ("VoxCeleb/SpeakerRec", "embedding_tiny", {"frozen_steps": 2}),
}
RATES = [0.01, 0.003]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.fixture(scope="module")
def corpora(librispeech, voxceleb1, tmp_path_factory):
    """Made-up corpora, a lexicon and a model. Do not change them."""
    root = tmp_path_factory.mktemp("corpora")
    (root / "lexicon.txt").write_text(LEXICON)
    save_model(root / "model", encoders())
    return SimpleNamespace(
        librispeech=librispeech,
        voxceleb1=voxceleb1,
        lexicon=root / "lexicon.txt",
        model=root / "model",
    )


def encoders():
    torch.manual_seed(0)
    return {
        "frame_encoder": FrameEncoder("fbank", 16, d_model=16, num_layers=2, nhead=2, d_ffn=32),
        "utterance_encoder": UtteranceEncoder("tdnn", channels=8, embedding_dim=12),
    }


def arguments(task, corpora, output, **changes):
    """Return the command line of a small run of a task."""
    recipe, yaml, own = TASKS[task]
    speech = recipe.startswith("LibriSpeech")
    options = {
        "data_folder": corpora.librispeech if speech else corpora.voxceleb1,
        "output_folder": output,
        "features": corpora.model,
        "lrs": RATES,
        "number_of_epochs": 2,
        "max_batch_seconds": 15,
        "ckpt_interval_minutes": 0,
        "ckpt_interval_steps": 3,
        **({"lexicon": corpora.lexicon} if task == "PR" else {}),
        **own,
        **changes,
    }
    words = [str(word).replace(", ", ",") for k, v in options.items() for word in (f"--{k}", v)]
    return [str(RECIPES / recipe / "hparams" / f"{yaml}.yaml"), *words, "--noprogressbar"]


def command(task, *words):
    """Run a Python command in a task's folder to its end; return what it printed."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=RECIPES / TASKS[task][0],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def figures(folder):
    return json.loads((folder / "metrics.json").read_text())["figures"]


# ---- The commands


@pytest.fixture(scope="module")
def left_alone(corpora, tmp_path_factory):
    """Each task's command, run without interruption."""
    output = tmp_path_factory.mktemp("left_alone")
    for task in TASKS:
        command(task, "train.py", *arguments(task, corpora, output / task))
    return output


@pytest.mark.long
@pytest.mark.parametrize("task", ["ASR", "SID", "embedding"])
def test_a_quick_look_runs_to_the_end(task, corpora, tmp_path):
    words = arguments(task, corpora, tmp_path / "run", frozen_steps=1000)
    said = command(task, "train.py", *words, "--debug")
    assert ("upstream rests" in said) == (task != "SID")  # which tunes nothing
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert figures(tmp_path / "run" / "debug")["test"]


CRITERIA = {"PR": "per", "ASR": "wer", "SID": "error", "xvector": "eer", "embedding": "eer"}


@pytest.mark.long
@pytest.mark.parametrize("task", TASKS)
def test_the_rate_that_is_best_on_validation_is_tested(task, left_alone):
    found = figures(left_alone / task)
    assert list(found["sweep"]) == [str(rate) for rate in RATES]
    values = [found["sweep"][str(rate)][CRITERIA[task]] for rate in RATES]
    assert found["lr"] == RATES[values.index(min(values))]
    assert found["valid"] == found["sweep"][str(found["lr"])]
    assert 0 <= found["test"][CRITERIA[task]] < math.inf and found["valid"]["epoch"] in (1, 2)
    head = "ctc_head" if task in ("PR", "ASR") else "speaker_head"
    assert found["parameters"][head] > 0
    assert ("upstream" in found["parameters"]) == (task in ("ASR", "embedding"))


@pytest.mark.long
@pytest.mark.parametrize("task", ["PR", "ASR"])
def test_there_is_a_hypothesis_for_each_utterance_of_the_test(task, left_alone):
    with open(left_alone / task / "hypotheses.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(left_alone / task / "manifest" / "test-clean.csv", newline="") as file:
        texts = {row["ID"]: row["wrd"] for row in csv.DictReader(file)}
    assert [row["ID"] for row in rows] == sorted(texts) and len(rows) == 18
    if task == "ASR":
        assert {row["ID"]: row["reference"] for row in rows} == texts
    assert all("greedy" in row for row in rows)


@pytest.mark.long
@pytest.mark.parametrize("task", ["PR", "ASR"])
def test_a_transcriber_gives_the_hypotheses_of_the_recipe(task, left_alone, corpora):
    transcriber = Transcriber.from_pretrained(left_alone / task / "model")
    with open(left_alone / task / "hypotheses.csv", newline="") as file:
        for row in itertools.islice(csv.DictReader(file), 6):
            reader, chapter, _ = row["ID"].split("-")
            path = corpora.librispeech / "test-clean" / reader / chapter / f"{row['ID']}.flac"
            assert transcriber.transcribe_file(path) == row["greedy"]
    assert "| test." in (left_alone / task / "model" / "README.md").read_text()


@pytest.mark.long
@pytest.mark.parametrize("task", ["xvector", "embedding"])
def test_a_verifier_decides_by_the_threshold_of_the_recipe(task, left_alone, corpora):
    verifier = SpeakerVerifier.from_pretrained(left_alone / task / "model")
    wavs = sorted((corpora.voxceleb1 / "wav" / "id00020").glob("*/*.wav"))
    found = verifier.verify_files(wavs[0], wavs[1])
    assert found.threshold == figures(left_alone / task)["test"]["threshold"]
    assert found.same_speaker == (found.score >= found.threshold)
    assert (left_alone / task / "det.png").stat().st_size > 1000


@pytest.mark.long
def test_fine_tuning_is_exported_and_a_frozen_encoder_is_as_it_was(left_alone, corpora):
    given = load_file(corpora.model / "model.safetensors")
    for task, changed in (("PR", False), ("ASR", True), ("embedding", True)):
        found = load_file(left_alone / task / "model" / "model.safetensors")
        own = [name for name in found if "_encoder." in name]
        assert own and any(not found[name].equal(given[name]) for name in own) == changed
    assert not (left_alone / "SID" / "model").exists()
    assert set(load_folder(left_alone / "xvector" / "model")[0]) == {"speaker_head"}


# ---- Kills and ranks


def weights(folder):
    """Return what was trained at each rate: the tensors of all checkpoints and of the export."""
    tensors = dict(load_file(folder / "model" / "model.safetensors"))
    for rate in RATES:
        for saved in (folder / f"lr_{rate}" / "save").iterdir():
            # Names tell the second of the save: two of one second are in no order.
            epoch = YAML(typ="safe").load(saved / "CKPT.yaml")["epoch"]
            for path in [*saved.glob("*_head.ckpt"), *saved.glob("upstream.ckpt")]:
                state = torch.load(path)
                tensors |= {f"{rate} epoch {epoch} {path.name} {k}": v for k, v in state.items()}
    return tensors


@pytest.mark.long
@pytest.mark.parametrize(
    ("task", "points"),
    [
        ("PR", "caching,epoch,sweep,epoch,save,validation"),
        ("embedding", "epoch,sweep,epoch,save,validation"),
    ],
)
def test_a_killed_run_ends_with_the_same_weights(task, points, left_alone, corpora, tmp_path):
    train_py = RECIPES / TASKS[task][0] / "train.py"
    args = arguments(task, corpora, tmp_path)
    command(task, TESTS / "training" / "interrupted_run.py", train_py, points, *args)
    expected, found = weights(left_alone / task), weights(tmp_path)
    assert expected.keys() == found.keys()
    different = [name for name in expected if not expected[name].equal(found[name])]
    assert not different, f"{len(different)} of {len(expected)} tensors differ: {different[:3]}"
    assert figures(tmp_path)["test"] == figures(left_alone / task)["test"]


@pytest.mark.long
@pytest.mark.parametrize("task", ["ASR", "embedding"])
def test_two_ranks_train_a_recipe_that_fine_tunes(task, corpora, tmp_path):
    args = arguments(task, corpora, tmp_path, lrs=[0.003], distributed_backend="gloo")
    command(task, *TORCHRUN, "train.py", *args)
    found = figures(tmp_path)
    assert math.isfinite(found["test"][CRITERIA[task]])
    given, tuned = (
        load_file(folder / "model.safetensors") for folder in (corpora.model, tmp_path / "model")
    )
    assert any(not tuned[name].equal(given[name]) for name in given if name in tuned)


# ---- Bad input


def refuse(task, corpora, output, *messages, **changes):
    """Assert that a run is refused with all of the messages, and writes manifests at most."""
    with pytest.raises(ValueError) as caught:
        run(arguments(task, corpora, output, **changes))
    for message in messages:
        assert str(message) in str(caught.value)
    assert not output.exists() or {path.name for path in output.iterdir()} <= {"manifest"}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_a_word_without_pronunciation(corpora, tmp_path, out):
    path = tmp_path / "lexicon.txt"
    path.write_text("".join(line for line in LEXICON.splitlines(True) if "FIVE" not in line))
    refuse("PR", corpora, out, path, "FIVE: ", "add them", "--skip_bad True", lexicon=path)


def test_an_empty_transcript(corpora, librispeech_copy, out):
    path = librispeech_copy / "test-clean" / "20" / "200" / "20-200.trans.txt"
    first, rest = path.read_text().split("\n", 1)
    path.write_text(f"{first.split()[0]} \n{rest}")
    expected = f"{path}, line 1", "is not an utterance and its words"
    refuse("ASR", corpora, out, *expected, data_folder=librispeech_copy)


def test_an_empty_transcript_in_a_manifest(corpora, out):
    (out / "manifest").mkdir(parents=True)
    for name in ("train-clean-100", "dev-clean", "test-clean"):
        path = min((corpora.librispeech / name).glob("*/*/*.flac"))
        wav = f"$data_root/{path.relative_to(corpora.librispeech)}"
        (out / "manifest" / f"{name}.csv").write_text(
            f"ID,duration,wav,spk_id,wrd\n{path.stem},1.2,{wav},{path.stem[:2]},\n"
        )
    expected = out / "manifest" / "train-clean-100.csv", "no transcript: 11-110-0000"
    refuse("ASR", corpora, out, *expected, skip_prep=True)


def test_a_tokenizer_of_another_vocabulary(corpora, tmp_path, out):
    path = tmp_path / "other.model"
    PieceTokenizer.train(["ABC", "ABC CBA"], path, vocab_size=5)
    expected = out / "manifest" / "train-clean-100.csv", "tokenizer of another vocabulary", "use"
    refuse("ASR", corpora, out, *expected, tokenizer_file=path)


def test_an_unknown_speaker_in_the_test_of_identification(corpora, voxceleb1_copy, out):
    path = voxceleb1_copy / "meta" / "iden_split.txt"
    lines = path.read_text().splitlines(True)
    path.write_text("".join(line for line in lines if "id00013" not in line or line[0] == "3"))
    expected = out / "manifest" / "iden_test.csv", "speaker id00013", "move one there"
    refuse("SID", corpora, out, *expected, data_folder=voxceleb1_copy)


@pytest.mark.parametrize("task", ["xvector", "embedding"])
def test_trials_of_a_training_speaker(task, corpora, out):
    dev, train = (out / "manifest" / f"{name}.csv" for name in ("veri_dev", "train"))
    refuse(task, corpora, out, f"{dev}: ID id00017", f"is in {train} too", held_out=[])


def test_trials_of_a_missing_file(corpora, voxceleb1_copy, out):
    path, gone = voxceleb1_copy / "meta" / "veri_test2.txt", "id00020/session200/00009.wav"
    number = len(path.read_text().splitlines()) + 1
    path.write_text(path.read_text() + f"1 id00020/session200/00000.wav {gone}\n")
    expected = f"{path}, line {number}", voxceleb1_copy / "wav" / gone, "is missing"
    refuse("xvector", corpora, out, *expected, data_folder=voxceleb1_copy)


def test_a_model_without_the_encoder(corpora, tmp_path, out):
    save_model(tmp_path / "u", {"utterance_encoder": encoders()["utterance_encoder"]})
    expected = tmp_path / "u", "no frame_encoder", "--representation utterance"
    for task in ("PR", "ASR"):
        refuse(task, corpora, out, *expected, features=tmp_path / "u", upstream="frozen")


def test_bands_have_nothing_to_fine_tune(corpora, out):
    refuse("embedding", corpora, out, "fbank has no weights", "--upstream frozen", features="fbank")


@pytest.mark.parametrize("task", TASKS)
def test_more_layers_than_there_are(task, corpora, out):
    refuse(task, corpora, out, "last_layers is 4: expected 1 to", last_layers=4)


def test_a_language_model_that_is_missing(corpora, tmp_path, out):
    with pytest.raises(FileNotFoundError, match="nowhere.arpa"):
        run(arguments("ASR", corpora, out, beam_size=2, lm_file=tmp_path / "nowhere.arpa"))
    assert not list(out.glob("lr_*"))


# ---- The sweep


@pytest.mark.parametrize("rates", [[], 0.001, [0], [-0.1], ["x"], [0.1, None], [math.inf]])
def test_what_is_no_list_of_rates_is_refused(rates):
    with pytest.raises(ValueError, match="lrs"):
        check_rates({"lrs": rates})


def test_rates_are_positive_numbers():
    check_rates({"lrs": [0.001, 1]})


def at_rates(outcomes, folder):
    """Return a `train_at` whose Brain has a history of error rates, or comes to a halt."""

    def train_at(rate):
        if outcomes[rate] is None:
            raise TrainingError(f"no luck with {rate}")
        output = folder / str(rate)
        output.mkdir()
        rows = [
            {"epoch": epoch, "valid": {"wer": wer, "cer": wer / 2}}
            for epoch, wer in enumerate(outcomes[rate], 1)
        ]
        (output / "history.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        return SimpleNamespace(criterion="wer", hparams=SimpleNamespace(output_folder=output))

    return train_at


@pytest.mark.parametrize(
    ("outcomes", "best", "epoch"),
    [
        ({0.1: [0.5, 0.4], 0.2: [0.3, 0.6], 0.3: [0.9, 0.35]}, 0.2, 1),
        ({0.1: [0.5, 0.4], 0.2: [0.4, 0.5]}, 0.1, 2),
        ({0.1: None, 0.2: [0.9, 0.9], 0.3: None}, 0.2, 2),
    ],
    ids=["best epoch", "earlier of equals", "only one that ends"],
)
def test_the_sweep_keeps_the_rate_that_is_best_on_validation(outcomes, best, epoch, tmp_path):
    brain, tried = sweep(at_rates(outcomes, tmp_path), list(outcomes))
    assert brain.hparams.output_folder == tmp_path / str(best)
    assert tried[best] == {
        "epoch": epoch,
        "wer": min(outcomes[best]),
        "cer": min(outcomes[best]) / 2,
    }
    assert list(tried) == list(outcomes)
    assert {rate for rate in tried if tried[rate] is None} == {
        rate for rate in outcomes if outcomes[rate] is None
    }


def test_a_sweep_without_success_raises(tmp_path):
    with pytest.raises(TrainingError, match="no luck with 0.2"):
        sweep(at_rates({0.1: None, 0.2: None}, tmp_path), [0.1, 0.2])


def test_dealing_keeps_what_is_dealt():
    labels = {f"u{i}": i % 7 for i in range(50)}
    assert deal(labels, {"shuffle_labels": False, "seed": 1}) == labels
    dealt = deal(labels, {"shuffle_labels": True, "seed": 1})
    assert list(dealt) == list(labels) and sorted(dealt.values()) == sorted(labels.values())
    assert sum(dealt[name] == labels[name] for name in labels) < 20
    assert dealt == deal(labels, {"shuffle_labels": True, "seed": 1})
    assert dealt != deal(labels, {"shuffle_labels": True, "seed": 2})


@pytest.mark.parametrize("rate", [0.01, 1e-5, 1])
def test_each_rate_has_a_folder_and_everything_anew(rate, tmp_path):
    first, again = (hparams_of("PR", tmp_path, rate) for _ in range(2))
    assert first["lr"] == rate and first["optimizer"].keywords["lr"] == rate
    assert Path(first["output_folder"]) == tmp_path / f"lr_{rate}"
    assert first["epoch_counter"] is not again["epoch_counter"]


# ---- In the middle of training


def hparams_of(task, folder, rate=0.01, **changes):
    """Return what a task's hyperparameters file builds, for made-up data."""
    recipe, yaml, own = TASKS[task]
    given = {"data_folder": "none", "output_folder": str(folder), "features": "fbank"}
    given |= {"upstream": "frozen", "representation": "frames"}
    given |= {"lexicon": "none"} if task == "PR" else {}
    given |= {key: str(v) if isinstance(v, Path) else v for key, v in changes.items()}
    path = RECIPES / recipe / "hparams" / f"{yaml}.yaml"
    return hparams_at(path, json.dumps(given), folder, rate)


def started(hparams, labels):
    """Return a Brain at the first step of its training."""
    brain = make_brain(hparams, RunOptions(noprogressbar=True), labels, None)
    brain.train_sampler = LengthSortedBatches([1.0] * 20, 1.0, seed=0)
    brain.on_fit_start()
    brain.hparams.epoch_counter.current = 1
    brain.on_stage_start(Stage.TRAIN, 1)
    brain.modules.train()
    return brain


def step(brain, batch):
    brain.step += 1
    return brain.fit_batch(batch)


def speaker_batch():
    """Return a batch of three speakers, an utterance each."""
    rows = [
        {"id": f"u{i}", "duration": 0.5, "sig": 0.1 * torch.randn(8000), "speaker": i}
        for i in range(3)
    ]
    return collate(rows)


SPEAKERS = {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize(
    ("upstream", "steps", "told"),
    [
        ("finetune", 60, "60 of 60"),
        ("finetune", 199, "100 of 199"),
        ("finetune", 200, None),
        ("frozen", 60, None),
    ],
)
def test_a_fine_tuning_that_hardly_tunes_is_warned_of(upstream, steps, told, caplog):
    warn_of_rest({"upstream": upstream, "frozen_steps": 100}, steps)
    assert (told in caplog.text) if told else not caplog.text


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(module, before):
    return {name for name, value in module.state_dict().items() if not value.equal(before[name])}


@pytest.mark.parametrize("representation", ["frames", "utterance"])
def test_the_head_learns_alone_in_the_frozen_steps(representation, corpora, tmp_path):
    changes = {"representation": representation, "upstream": "finetune", "frozen_steps": 2}
    brain = started(hparams_of("SID", tmp_path, features=corpora.model, **changes), SPEAKERS)
    upstream, batch = brain.upstream, speaker_batch()
    learning = {name for name, p in upstream.named_parameters() if p.requires_grad}
    for thawed in (False, False, True):
        before, head = state_of(upstream), state_of(brain.modules["speaker_head"])
        step(brain, batch)
        assert upstream.training == thawed
        assert moved(brain.modules["speaker_head"], head)
        assert moved(upstream, before) >= learning if thawed else not moved(upstream, before)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in brain.optimizers_dict.values()]
    assert rates[1] / rates[0] == pytest.approx(brain.hparams.upstream_lr / brain.hparams.lr)


@pytest.mark.parametrize("representation", ["frames", "utterance"])
def test_a_frozen_upstream_never_moves(representation, corpora, tmp_path):
    given = hparams_of("SID", tmp_path, features=corpora.model, representation=representation)
    brain = started(given, SPEAKERS)
    upstream, head = state_of(brain.upstream), state_of(brain.modules["speaker_head"])
    batch = speaker_batch()
    for _ in range(3):
        step(brain, batch)
    assert not moved(brain.upstream, upstream)
    assert moved(brain.modules["speaker_head"], head)
    assert list(brain.optimizers_dict) == ["optimizer"]


def likelihood(probs, tokens):
    """Return the probability of a text: the sum over all of its alignments."""
    total = 0.0
    for path in itertools.product(range(probs.shape[1]), repeat=len(probs)):
        if [symbol for symbol, _ in itertools.groupby(path) if symbol] == tokens:
            total += math.prod(probs[t, symbol].item() for t, symbol in enumerate(path))
    return total


TEXTS = {"u0": "AB", "u1": "B", "u2": "AAB"}
FRAMES = torch.tensor([5, 3, 3])  # too few for the last: a repeated symbol needs a blank


@pytest.fixture
def recogniser(tmp_path):
    """A Brain, a batch of which one text cannot be aligned, and logits of longer, padded rows."""
    tokenizer = SymbolTokenizer(["A", "B"], "characters")
    brain = started(hparams_of("ASR", tmp_path), tokenizer)
    rows = [
        {"id": name, "duration": 1.0, "text": text, "tokens": torch.tensor(tokenizer.encode(text))}
        for name, text in TEXTS.items()
    ]
    torch.manual_seed(1)
    return brain, collate(rows), torch.randn(3, 6, 3, requires_grad=True)


def test_the_loss_is_that_of_all_alignments_by_symbol(recogniser):
    brain, batch, logits = recogniser
    loss = brain.compute_objectives((logits, FRAMES), batch, Stage.TRAIN)
    probs = logits.detach().double().softmax(2)
    expected = [
        -math.log(likelihood(probs[row, : FRAMES[row]], brain.labels.encode(text)))
        for row, text in enumerate(("AB", "B"))
    ]
    symbols = sum(map(len, TEXTS.values()))
    assert loss.item() == pytest.approx(sum(expected) / symbols, rel=1e-5)
    assert brain.average("ctc_loss").item() == pytest.approx(loss.item())
    assert brain.average("unaligned").item() == pytest.approx(1 / 3)


def test_a_text_that_cannot_be_aligned_teaches_nothing(recogniser):
    brain, batch, logits = recogniser
    brain.compute_objectives((logits, FRAMES), batch, Stage.TRAIN).backward()
    assert not logits.grad[2].any() and not logits.grad[1, 3:].any()
    assert torch.isfinite(logits.grad).all() and logits.grad[0, :5].abs().min() > 0


def test_logits_that_are_not_finite_stop_the_training(recogniser):
    brain, batch, logits = recogniser
    loss = brain.compute_objectives((logits * math.nan, FRAMES), batch, Stage.TRAIN)
    with pytest.raises(TrainingError, match="The loss is nan"):
        brain.check_loss_isfinite(loss)


def test_the_beam_decodes_the_test_beside_the_best_path(recogniser, tmp_path):
    brain, batch, logits = recogniser
    brain.hparams.beam_size = 5
    for stage in (Stage.VALID, Stage.TEST):
        brain.on_stage_start(stage)
        brain.compute_objectives((logits.detach(), FRAMES), batch, stage)
        found = brain.summarise()
        assert ("beam_wer" in found) == (stage == Stage.TEST)
    with open(tmp_path / "hypotheses.csv", newline="") as file:
        rows = {row["ID"]: row for row in csv.DictReader(file)}
    assert {name: row["reference"] for name, row in rows.items()} == TEXTS
    probs = logits.detach().double().softmax(2)
    texts = ["".join(t) for n in range(4) for t in itertools.product("AB", repeat=n)]
    for row, name in enumerate(TEXTS):
        own = probs[row, : FRAMES[row]]
        best = max(texts, key=lambda text: likelihood(own, brain.labels.encode(text)))  # noqa: B023
        assert rows[name]["beam"] == best


# ---- From the first epoch to the test, on made-up states


def trained(hparams, labels, datasets, cache):
    """Train a Brain to its end and test it, as `run` does."""
    loaders = make_loaders(hparams, datasets, cache)
    brain = make_brain(hparams, RunOptions(noprogressbar=True), labels, cache)
    brain.loaders, brain.train_sampler = loaders, loaders["train"].batch_sampler
    brain.fit(hparams["epoch_counter"], loaders["train"], loaders["valid"])
    brain.evaluate(loaders["test"], min_key=brain.criterion)
    return brain


def made_up_speakers(speakers, utterances, distance):
    """Return datasets, so many utterances of each speaker in "train" and one elsewhere, states."""
    torch.manual_seed(0)
    voices = distance * torch.randn(speakers, FbankStates.dim)
    data, states = {"train": {}, "valid": {}, "test": {}}, {}
    for split, own in data.items():
        for speaker, number in itertools.product(
            range(speakers), range(utterances if split == "train" else 1)
        ):
            name = f"{split}-{speaker}-{number}"
            own[name] = {"duration": 1.0, "wav": "none", "spk_id": f"{speaker:03d}"}
            states[name] = voices[speaker] + torch.randn(2, 1, FbankStates.dim)
    return {split: DynamicItemDataset(own) for split, own in data.items()}, states


def identify(folder, **changes):
    """Return a trained Brain of speaker identification on made-up speakers."""
    hparams = hparams_of("SID", folder, max_batch_seconds=40, **changes)
    datasets, states = made_up_speakers(100, 4, distance=1.0)
    labels = hparams["brain"].add_labels(hparams, datasets)
    return trained(hparams, labels, datasets, states)


@pytest.mark.long
def test_speakers_are_told_apart_unless_their_labels_are_dealt_out(tmp_path):
    right = identify(tmp_path / "right", number_of_epochs=6)
    assert right.test_figures["accuracy"] > 0.9
    dealt = identify(tmp_path / "dealt", number_of_epochs=12, shuffle_labels=True)
    low, high = binom.interval(0.95, 100, 1 / 100)
    assert low <= 100 * dealt.test_figures["accuracy"] <= high
    assert dealt.train_figures["accuracy"] > 0.2  # it learns what it is told


@pytest.mark.parametrize(
    ("errors", "epoch"), [((0.5, 0.2, 0.4), 2), ((0.3, 0.3, 0.4), 2)], ids=["best", "equals"]
)
def test_the_test_is_of_the_best_epoch(errors, epoch, tmp_path, monkeypatch):
    seen = {}

    def summarise(brain):
        stage = brain.stage
        if stage == Stage.TRAIN:
            return {}
        number = brain.hparams.epoch_counter.current if stage == Stage.VALID else "test"
        seen[number] = state_of(brain.modules)
        return {"error": errors[number - 1] if stage == Stage.VALID else 0.9}

    monkeypatch.setattr(IdentificationBrain, "summarise", summarise)
    brain = identify(tmp_path, number_of_epochs=3)
    same = {n for n in (1, 2, 3) if not moved(brain.modules, seen[n])}
    assert same == {epoch} and not moved(brain.modules, seen["test"])
    assert best_epoch(brain) == {
        "epoch": epoch,
        "loss": pytest.approx(0, abs=99),
        "error": min(errors),
    }


PHONES = [f"P{chr(65 + i)}" for i in range(20)]


def recognise(folder, **changes):
    """Return a trained Brain of phoneme recognition on states that tell each phone."""
    path = folder / "lexicon.txt"
    path.write_text("".join(f"W{phone} {phone}\n" for phone in PHONES))
    hparams = hparams_of("PR", folder, 0.003, lexicon=path, max_batch_seconds=10, **changes)
    torch.manual_seed(0)
    sounds, data, states = torch.randn(len(PHONES), FbankStates.dim), {}, {}
    for split, count in (("train", 200), ("valid", 20), ("test", 40)):
        data[split] = {}
        for name in (f"{split}-{number}" for number in range(count)):
            said = torch.randint(len(PHONES), (5,))
            text = " ".join(f"W{PHONES[i]}" for i in said)
            data[split][name] = {"duration": 1.0, "wav": "none", "spk_id": "1", "wrd": text}
            sound = sounds[said]
            frames = torch.stack([torch.zeros_like(sound), sound, sound], 1).flatten(0, 1)
            states[name] = (frames + 0.1 * torch.randn_like(frames))[:, None]
    datasets = {split: DynamicItemDataset(own) for split, own in data.items()}
    labels = hparams["brain"].add_labels(hparams, datasets)
    return trained(hparams, labels, datasets, states)


@pytest.mark.long
def test_phones_are_recognised_unless_their_texts_are_dealt_out(tmp_path):
    for folder in ("right", "dealt"):
        (tmp_path / folder).mkdir()
    assert recognise(tmp_path / "right", number_of_epochs=12).test_figures["per"] < 0.1
    dealt = recognise(tmp_path / "dealt", number_of_epochs=12, shuffle_labels=True)
    assert dealt.test_figures["per"] >= 0.9


def test_embeddings_that_learn_are_normalised_over_two_utterances_or_more(tmp_path):
    datasets, _ = made_up_speakers(5, 1, distance=1.0)
    for tuned, fewest in (("finetune", 2), ("frozen", 1)):
        changes = {"upstream": tuned, "representation": "utterance", "max_batch_seconds": 2.5}
        hparams = hparams_of("SID", tmp_path, **changes)
        hparams["brain"].add_labels({**hparams, "shuffle_labels": False}, datasets)
        loaders = make_loaders(hparams, datasets, None)
        assert min(map(len, loaders["train"].batch_sampler)) == fewest


def test_every_rank_waits_for_the_states(corpora, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(features, "run_on_main", lambda func, args: calls.append(func(*args)))
    path = next(corpora.librispeech.glob("*/*/*/*.flac"))
    dataset = DynamicItemDataset({"u": {"wav": str(path), "duration": 1.0}})
    given = hparams_of("SID", tmp_path, cache_folder=tmp_path / "states")
    for count in (1, 2):
        open_cache(given, features.load_upstream(given), {"train": dataset})
        assert len(calls) == count
    assert len(list((tmp_path / "states").iterdir())) == 1
