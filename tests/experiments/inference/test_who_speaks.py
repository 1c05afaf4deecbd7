"""Made-up conversations, and the error of a Diarizer beside its controls."""

import json

import numpy as np
import pytest
import soundfile

from recipes.experiments.inference import conversations, who_speaks
from recipes.experiments.inference.diarization import diarization_errors, read_rttm
from tests.pretrained.exports import RATE, saved, utterance_encoder


def test_turns_are_where_speech_is(librispeech, tmp_path):
    arguments = [str(librispeech / "train-clean-100"), str(tmp_path / "out"), "--count", "3"]
    assert conversations.main(arguments) == 0
    paths = sorted((tmp_path / "out").glob("*.wav"))
    assert [path.name for path in paths] == ["0000.wav", "0001.wav", "0002.wav"]
    for path, speakers in zip(paths, (2, 3, 4), strict=True):
        samples, rate = soundfile.read(path)
        turns = read_rttm(path.with_suffix(".rttm"))
        assert rate == RATE and len({speaker for *_, speaker in turns}) == speakers
        place = 0.0
        for start, end, _ in turns:
            assert 0.099 < start - place < 1.001
            pause = samples[int(place * RATE) + 20 : int(start * RATE) - 20]
            assert np.std(pause) == pytest.approx(0.001, rel=0.2)
            level = np.std(samples[int(start * RATE) : int(end * RATE)])
            assert 0.05 / 1.5 < level < 0.05 * 1.5
            place = end
        assert place == pytest.approx(len(samples) / RATE, abs=0.001)
    again = [*arguments[:1], str(tmp_path / "again"), *arguments[2:]]
    assert conversations.main(again) == 0
    assert (tmp_path / "again" / "0002.wav").read_bytes() == paths[2].read_bytes()
    with pytest.raises(FileExistsError):
        conversations.main(arguments)


def test_too_few_speakers_are_refused(librispeech, tmp_path):
    with pytest.raises(SystemExit):
        conversations.main([str(librispeech / "dev-clean"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_the_command_measures_a_model_beside_its_controls(librispeech, tmp_path):
    folder = saved(tmp_path / "model", {"utterance_encoder": utterance_encoder()}, None)
    for name in ("valid", "test"):
        split = str(librispeech / "train-clean-100")
        conversations.main([split, str(tmp_path / name), "--count", "2"])
    parts = [part for name in ("valid", "test") for part in (f"--{name}", str(tmp_path / name))]
    output = tmp_path / "o"
    assert who_speaks.main(["--model", str(folder), *parts, "--output_folder", str(output)]) == 0
    figures = json.loads((output / "metrics.json").read_text())["figures"]
    assert list(figures) == ["model", "random weights", "log-mel statistics"]
    rates = {
        name: {k: v["rate"] for k, v in row.items() if k != "threshold"}
        for name, row in figures.items()
    }
    assert len({row["one_speaker"] for row in rates.values()}) == 1
    statistics = rates["log-mel statistics"]
    assert statistics["number_given"] < statistics["shuffled"]
    assert all(row["valid"] == row["test"] <= row["one_speaker"] for row in rates.values())
    with pytest.raises(ValueError, match="holds no recording"):
        who_speaks.main(
            ["--model", str(folder), *parts[:3], str(output), "--output_folder", str(output)]
        )


def test_errors_of_recordings_are_added_up():
    reference = [(0.0, 2.0, "a"), (2.0, 8.0, "b")]
    rows = [([(0, 100), (100, 400)], np.eye(2), reference)] * 2
    right = who_speaks.total_errors(rows, lambda directions, _: [0, 1])
    assert right == (0.0, 0.0, 0.0, 14.0)
    alike = who_speaks.total_errors(rows, lambda directions, _: [0, 0])
    expected = diarization_errors(reference, [(0.0, 8.0, 0)])
    assert alike.confusion == 2 * expected.confusion == 3.0 and alike.rate == expected.rate
