"""Classifying files and batches: against the head's definition, long files, the command line."""

import json

import pytest
import torch

from lobes.heads import ClassificationHead
from pretrained import Classifier
from pretrained.__main__ import main
from pretrained.exported import load_folder
from pretrained.file_states import make_states
from pretrained.interfaces import EncoderClassifier
from pretrained.sharing.card import write_card
from tests.pretrained.exports import RATE, RUN, modules_of, saved, seeded, tones, written
from tests.pretrained.toolkits.comparing import OFFLINE

FEATURES = ["fbank", "fbank_statistics", "utterance_encoder", "frame_encoder"]
LABELS = ["high", "low", "none"]


def classifier_folder(folder, features="fbank", scale=1.0):
    """Save a classifier with a random head; a large scale makes it decided."""
    modules = modules_of(features)
    states = make_states(features, modules)
    sizes = {"num_layers": states.num_layers, "in_dim": states.dim, "num_classes": len(LABELS)}
    head = modules["classification_head"] = seeded(ClassificationHead, **sizes, hidden_dim=8)
    with torch.no_grad():
        head.output.weight.mul_(scale)
    return saved(folder, modules, {"features": features, "labels": LABELS})


def slow_posteriors(folder, samples):
    """Return the posteriors of a recording taken as a whole, frame by frame as SUPERB has it."""
    modules, facts = load_folder(folder)
    head, states = modules["classification_head"], make_states(facts["features"], modules)
    with torch.no_grad():
        [frames], _ = states.eval()(torch.as_tensor(samples).float()[None])
        shares = head.weighted_sum.weights.softmax(0)
        total = 0
        for layers in frames:
            total = total + head.projection(sum(s * x for s, x in zip(shares, layers, strict=True)))
        return head.output(total / len(frames)).softmax(0)


@pytest.mark.parametrize("features", FEATURES)
def test_posteriors_are_those_of_the_mean_of_frames(features, speech, tmp_path):
    folder = classifier_folder(tmp_path / "model", features)
    clips = [speech(1.5, speaker=1), speech(1.0, speaker=2)]
    files = [written(tmp_path / f"{n}.wav", clip, subtype="FLOAT") for n, clip in enumerate(clips)]
    classifier = Classifier.from_pretrained(folder)
    wavs = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(c) for c in clips], batch_first=True)
    batch = classifier.classify_batch(wavs, torch.tensor([1.0, len(clips[1]) / len(clips[0])]))
    for clip, file, of_batch in zip(clips, files, batch, strict=True):
        expected = slow_posteriors(folder, clip)
        found = classifier.classify_file(file)
        assert list(found.scores.values()) == sorted(found.scores.values(), reverse=True)
        for one in (found, of_batch):
            scores = torch.tensor([one.scores[label] for label in LABELS])
            torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
            assert one.label == LABELS[expected.argmax()] and one.score == one.scores[one.label]


@pytest.mark.long
@pytest.mark.parametrize("features", FEATURES[:3])
def test_a_long_file_is_classified_as_the_whole_of_it(features, recording, tmp_path):
    folder = classifier_folder(tmp_path / "model", features)
    samples = recording(70)
    path = written(tmp_path / "long.wav", samples, subtype="FLOAT")
    found = Classifier.from_pretrained(folder).classify_file(path)
    scores = torch.tensor([found.scores[label] for label in LABELS])
    torch.testing.assert_close(scores, slow_posteriors(folder, samples), atol=1e-4, rtol=0)
    first = slow_posteriors(folder, samples[: 30 * RATE])
    assert (scores - first).abs().max() > 1e-3  # all of it counts


def test_the_command_prints_a_table(tmp_path, bad_audio, capsys):
    folder = classifier_folder(tmp_path / "model", scale=20.0)
    for name in ("b", "a"):
        (tmp_path / "speech").mkdir(exist_ok=True)
        written(tmp_path / "speech" / f"{name}.wav", tones(name.upper() * 3))
    command = ["classify", "--model", str(folder), str(tmp_path / "speech")]
    assert main(command) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == [str(tmp_path / "speech" / f"{n}.wav") for n in "ab"]
    classifier = Classifier.from_pretrained(folder)
    for path, label, score in rows:
        found = classifier.classify_file(path)
        assert (label, score) == (found.label, f"{found.score:.6f}")

    assert main([*command, str(bad_audio("zeros")), "--top", "2"]) == 2
    printed = capsys.readouterr()
    ranked = [line.split("\t")[1] for line in printed.out.splitlines()[:2]]
    assert ranked == list(classifier.classify_file(rows[0][0]).scores)[:2]
    assert len(printed.out.splitlines()) == 4 and "silent" in printed.err
    assert main([*command, "--top", "0"]) == 2 and "expected 1 or more" in capsys.readouterr().err


def test_the_card_names_the_classes(tmp_path):
    folder = classifier_folder(tmp_path / "model")
    write_card(folder, {"figures": {"test": {"accuracy": 0.25}}, "seed": 7}, RUN)
    text = (folder / "README.md").read_text()
    assert "\n# Classifier of utterances\n" in text and "Classifier.from_pretrained" in text
    assert "which of\n3 classes" in text and "over time of log-mel bands" in text
    assert "The classes: high, low, none." in text and "| test.accuracy | 0.25 |" in text
    assert "pipeline_tag: audio-classification" in text and "{" not in text
    load_folder(folder)


def test_many_classes_are_not_all_on_the_card(tmp_path):
    labels = [f"speaker{n}" for n in range(80)]
    modules = {"classification_head": ClassificationHead(num_classes=80)}
    folder = saved(tmp_path / "model", modules, {"features": "fbank", "labels": labels})
    write_card(folder, {"figures": {}, "seed": 7}, RUN)
    text = (folder / "README.md").read_text()
    assert "80 classes" in text and "speaker49, ..." in text and "speaker50" not in text


@pytest.mark.parametrize("when", ["saved", "loaded"])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b"], "num_classes is 3, and facts.labels has 2"),
        (["a", "b", "b"], "facts.labels must be a list of two or more different lines"),
        (["a", "b", "c\n"], "facts.labels must be"),
        (["a", "b", ""], "facts.labels must be"),
        (["a", "b", 3], "facts.labels must be"),
        ("abc", "facts.labels must be"),
        (None, "facts.labels must be"),
    ],
)
def test_labels_that_do_not_fit(labels, message, when, tmp_path, monkeypatch):
    modules = {"classification_head": ClassificationHead(num_classes=3)}
    facts, folder = {"features": "fbank", "labels": labels}, tmp_path / "model"
    if when == "loaded":
        with monkeypatch.context() as patch:
            patch.setattr("pretrained.exported.check_modules", lambda *_: None)
            patch.setattr("pretrained.exported.check_facts", lambda *_: None)
            saved(folder, modules, facts)
    with pytest.raises(ValueError, match=message):
        saved(folder, modules, facts) if when == "saved" else load_folder(folder)
    assert folder.exists() == (when == "loaded")


def test_folders_of_other_kinds_are_refused(transcriber_folder, encoders_folder):
    for folder, held in ((transcriber_folder, "a transcriber"), (encoders_folder, "encoders only")):
        with pytest.raises(ValueError, match=f"holds {held}.*, no classifier: recipes/Table"):
            Classifier.from_pretrained(folder)


def test_speechbrains_interface_decides_the_same(speech, tmp_path):
    folder, out = classifier_folder(tmp_path / "model", "utterance_encoder"), tmp_path / "out"
    assert main(["export", str(folder), "--layout", "speechbrain", "--out", str(out)]) == 0
    assert "EncoderClassifier" in (out / "hyperparams.yaml").read_text().splitlines()[1]
    model = EncoderClassifier.from_hparams(
        source=str(out), savedir=str(tmp_path / "collected"), **OFFLINE
    )
    path = written(tmp_path / "a.wav", speech(1), subtype="FLOAT")
    expected = Classifier.from_pretrained(folder).classify_file(path)
    for found in (model.classify_file(path), model(torch.from_numpy(speech(1))[None])):
        log_posteriors, scores, indices, labels = found
        assert labels == [expected.label] == [LABELS[indices[0]]]
        assert log_posteriors.shape == (1, 3) and scores.shape == indices.shape == (1,)
        assert scores[0].exp().item() == pytest.approx(expected.score, abs=1e-5)


@pytest.mark.long
def test_a_graph_gives_the_posteriors(speech, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="graphs need onnx and onnxruntime")
    folder, out = classifier_folder(tmp_path / "model", "utterance_encoder"), tmp_path / "out"
    assert main(["export", str(folder), "--layout", "onnx", "--out", str(out)]) == 0
    assert json.loads((out / "model.json").read_text())["labels"] == LABELS
    wavs, lens = torch.zeros(2, 32000), torch.tensor([32000, 17000])
    for row, n in enumerate(lens):
        wavs[row, :n] = torch.from_numpy(speech(2, speaker=row))[:n]
    session = runtime.InferenceSession(out / "posteriors.onnx")
    inputs = {"waveforms": wavs.numpy(), "lengths": lens.numpy()}
    [found] = session.run(None, inputs)
    expected = Classifier.from_pretrained(folder).log_posteriors(wavs, lens / wavs.shape[1]).exp()
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=0)
