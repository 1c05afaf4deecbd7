"""What the Brain of stage B passes to its method, and when."""

import pytest
import torch
from speechbrain import Stage
from torch.nn import functional as F

from recipes.common.data.crops import SpeechBatch, both_crops
from recipes.common.training.brain import TrainingError
from recipes.common.training.hparams import check_options, read_tree
from recipes.experiments.runner import PRETRAIN, RECIPES
from recipes.LibriSpeech.pretrain import utterance
from recipes.LibriSpeech.pretrain.utterance import UtteranceBrain
from tests.training import distributed_gradients as steps
from tests.training.test_brain import make_brain, same, weights

UTTERANCE = PRETRAIN / "hparams" / "utterance_tiny.yaml"
METHODS = [path.stem for path in (RECIPES.parent / "hparams" / "methods").glob("*.yaml")]
UNUSED = {  # by method, options that do nothing with it
    "simclr": {"queue_size": 9, "short_crops": 2, "reference_seconds": 1.0, "prototypes": 5},
    "dino": {"temperature": 0.1, "queue_size": 9, "reference_seconds": 1.0},
    "vicreg": {"temperature": 0.1, "short_crops": 2},
    "moco": {"expanded_dim": 5, "positives_from": 0.5},
}


@pytest.mark.parametrize(
    ("method", "name"), [(method, name) for method, own in UNUSED.items() for name in own]
)
def test_a_setting_that_a_method_does_not_use_is_refused(method, name):
    given = {"method": method, name: UNUSED[method][name]}
    with pytest.raises(ValueError, match=f"{name} is .* does not use|no key for the .*--{name}"):
        check_options(UTTERANCE, given)


@pytest.mark.parametrize("method", METHODS)
def test_settings_of_a_method_and_of_all_are_taken(method):
    own = read_tree(RECIPES.parent / "hparams" / "methods" / f"{method}.yaml")
    given = {**own, "max_crop_seconds": 1.5, "projection_dim": 64, "line_directions": 3}
    check_options(UTTERANCE, {"method": method, **given})


def test_a_queue_beyond_the_corpus_is_warned_of(caplog, monkeypatch):
    monkeypatch.setattr(utterance, "stage_loaders", lambda *given, **more: {})
    monkeypatch.setattr(utterance, "plain_loader", lambda *given: None)
    for size in (None, 20, 21):
        hparams = {"augment": None} | ({} if size is None else {"queue_size": size})
        with caplog.at_level("WARNING"):
            UtteranceBrain.make_loaders(hparams, {"train": range(20)}, "cpu")
        assert ("queue_size is 21, more than the 20" in caplog.text) == (size == 21)


@pytest.mark.parametrize("name", ["moco", "dino"])
def test_a_teacher_follows_each_step_and_no_evaluation(name, tmp_path):
    brain, batch = make_brain(f"utterance {name}", tmp_path)
    teacher = brain.method.teacher
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.1)  # so that it has a way to go
    before = weights(teacher)
    brain.evaluate_batch(batch, Stage.VALID)
    brain.grad_accumulation_factor = 2
    brain.step = 51
    brain.fit_batch(batch)
    assert same(teacher, before), "no step was taken yet"
    brain.step = 52
    brain.fit_batch(batch)
    assert brain.optimizer_step == 1 and not same(teacher, before)


def test_keys_and_queries_are_of_the_two_crops_of_an_utterance(tmp_path):
    brain, batch = make_brain("utterance moco", tmp_path)
    brain.modules.eval()
    with torch.no_grad():
        views = brain.compute_forward(batch, Stage.VALID)
        crops = both_crops(batch)
        torch.testing.assert_close(views.projections, brain.modules.utterance_encoder(*crops))
        # The teacher is a copy still, so that a key is the query of the same crop.
        torch.testing.assert_close(views.taught, F.normalize(views.projections, dim=1))
    assert views.counts["rows"].tolist() == [len(batch)] and views.short is None


def test_short_crops_reach_the_loss_and_a_reference_the_memory(tmp_path):
    brain, batch = make_brain("utterance dino", tmp_path / "dino")
    views = brain.compute_forward(batch, Stage.TRAIN)
    encoder = brain.modules.utterance_encoder
    assert len(views.short) == 2 * len(batch) and len(views.projections) == 2 * len(batch)
    brain.modules.eval()
    views = brain.compute_forward(batch, Stage.VALID)
    for number in range(2):
        part = views.short.chunk(2)[number]
        alone = encoder(*getattr(batch, f"short_{number}"))
        torch.testing.assert_close(part, alone, rtol=1e-4, atol=1e-5)

    brain, batch = make_brain("utterance ssps", tmp_path / "ssps")
    views = brain.compute_forward(batch, Stage.TRAIN)
    brain.compute_objectives(views, batch, Stage.TRAIN)
    memory, count = brain.method.memory, len(batch)
    with torch.no_grad():
        expected = F.normalize(brain.modules.utterance_encoder.eval()(*batch.reference), dim=1)
    assert memory.filled == count
    torch.testing.assert_close(memory.references[:count], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(memory.views[:count], views.projections[count:])


def test_a_method_is_told_the_epoch_and_draws_anew_in_each_step(tmp_path):
    brain, batch = make_brain("utterance ssps", tmp_path)
    brain.method.positives_from, told = 0.5, []
    for epoch in (brain.hparams.number_of_epochs // 2, brain.hparams.number_of_epochs):
        brain.hparams.epoch_counter.current = epoch
        brain.on_stage_start(Stage.TRAIN, epoch)
        told.append(brain.method.remembers)
    brain.hparams.epoch_counter.current = 1
    brain.on_stage_start(Stage.TRAIN, 1)
    assert told == [True, True] and not brain.method.remembers
    seeds = set()
    for step in (1, 2, 3):
        brain.step = step
        seeds.add(brain.compute_forward(batch, Stage.TRAIN).seed)
    assert len(seeds) == 3


def test_what_a_method_takes_for_a_collapse_stops_the_run(tmp_path):
    brain, _ = make_brain("utterance dino", tmp_path)
    brain.check_collapse({"named_prototypes": 7.0, "target_entropy": 0.5})
    with pytest.raises(TrainingError, match="all utterances get the same"):
        brain.check_collapse({"named_prototypes": 1.0, "target_entropy": 0.5})


def test_the_audio_of_all_crops_is_counted(tmp_path):
    brain, _ = make_brain("utterance dino", tmp_path)
    rows = list(steps.examples(brain.hparams))
    names = ("first", "second", "short_0", "short_1")
    expected = sum(len(row[name]) for row in rows for name in names) / 16000
    assert brain.audio_seconds(SpeechBatch(rows)) == pytest.approx(expected)
