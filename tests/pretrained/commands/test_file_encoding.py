"""The command encode: what it writes and keeps, in batches as alone, and what it tells."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.numpy import load_file

from pretrained import Learn2Diss
from pretrained.__main__ import main
from pretrained.audio import read_speech
from pretrained.encoding import batching
from pretrained.encoding.batching import encode_all
from pretrained.exported import save_model
from tests.pretrained.exports import BAD_AUDIO, frame_encoder, utterance_encoder, written

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture
def encode(folder, tmp_path):
    """Return a function: words -> the exit code of encoding to `out`."""
    return lambda *words: main(
        ["encode", *map(str, words), "--model", str(folder), "--out", str(tmp_path / "out")]
    )


@pytest.fixture
def corpus(recording, tmp_path):
    """A folder of seven files of different lengths, two of them of the same name."""
    whole = recording(12)
    for number, name in enumerate(("a/1.wav", "b/1.wav", "b/2.flac", "c.wav", "d.wav", "e.wav")):
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        length = 4000 + 3333 * number
        written(tmp_path / "corpus" / name, whole[number * 20000 :][:length])
    soundfile.write(tmp_path / "corpus" / "f.mp3", whole[:30000].repeat(2), 32000)
    return tmp_path / "corpus"


def results(out):
    """Return the names of what lies in a folder, but for its record."""
    names = (path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return sorted(set(names) - {"encoded.jsonl"})


def test_encode_writes_what_there_is(encoders, encode, recording, tmp_path, capsys):
    files = [written(tmp_path / name, recording(1)) for name in ("a.wav", "b.flac")]
    assert encode(*files) == 0
    assert results(tmp_path / "out") == ["a.npz", "b.npz"]
    with np.load(tmp_path / "out" / "b.npz") as arrays:
        expected = Learn2Diss(encoders).encode_file(files[1])
        assert sorted(arrays) == ["frames", "utterance"]
        np.testing.assert_allclose(arrays["frames"], expected.frames[0], **CLOSE)
        np.testing.assert_allclose(arrays["utterance"], expected.utterance[0], **CLOSE)
    said = capsys.readouterr().err
    assert "2/2" in said and "done: 2 file(s) encoded, " in said
    assert said.endswith(" a second; 0 were there already; 0 failed\n")


def test_paths_below_a_folder_are_kept(encode, corpus, tmp_path):
    assert encode(corpus) == 0
    expected = ["a/1.npz", "b/1.npz", "b/2.npz", "c.npz", "d.npz", "e.npz", "f.npz"]
    assert results(tmp_path / "out") == expected


@pytest.mark.parametrize("frontend", ["fbank", "waveform"])
@pytest.mark.parametrize("backbone", ["tdnn", "ecapa"])
def test_a_file_gives_in_a_batch_what_it_gives_alone(frontend, backbone, corpus):
    encoders = {"frame_encoder": frame_encoder(frontend)}
    model = Learn2Diss(encoders | {"utterance_encoder": utterance_encoder(backbone)})
    files = sorted(map(str, corpus.rglob("*.*")))
    for seconds in (0.01, 2.0, 100.0):  # alone, some together, all together
        found = dict(encode_all(model, files, [1, 0], seconds))
        assert found.keys() == set(files)
        for file, arrays in found.items():
            expected = model.encode(read_speech(file), output_hidden_states=True)
            states = torch.stack([expected.hidden_states[layer][0] for layer in (1, 0)])
            np.testing.assert_allclose(arrays["frames"], expected.frames[0], **CLOSE)
            np.testing.assert_allclose(arrays["hidden_states"], states, **CLOSE)
            np.testing.assert_allclose(arrays["utterance"], expected.utterance[0], **CLOSE)


def test_batches_are_full_and_of_like_length(encoders, corpus, monkeypatch):
    model, batches = Learn2Diss(encoders), []
    encode = model.encode

    def noted(clips, **options):
        batches.append([len(clip) for clip in clips])
        return encode(clips, **options)

    monkeypatch.setattr(model, "encode", noted)
    files = sorted(map(str, corpus.rglob("*.*")))
    list(encode_all(model, files, batch_seconds=3.0))
    lengths = sorted(len(read_speech(file)) for file in files)
    assert [length for batch in batches for length in batch] == lengths
    assert len(batches) > 1 and all(max(batch) * len(batch) <= 48000 for batch in batches)
    assert all(
        (len(batch) + 1) * following[0] > 48000
        for batch, following in zip(batches, batches[1:], strict=False)
    )
    batches.clear()
    monkeypatch.setattr(batching, "POOL", 1.5)  # batches, of which the files are sorted
    assert len(list(encode_all(model, files[::-1], batch_seconds=1.0))) == len(files)
    assert [length for batch in batches for length in batch] != lengths


def test_a_long_file_is_encoded_as_by_encode_file(encoders, recording, tmp_path):
    file = written(tmp_path / "long.wav", recording(33))
    model = Learn2Diss(encoders)
    [(_, arrays)] = encode_all(model, [str(file)], layers=[2, 0])
    expected = model.encode_file(file)
    np.testing.assert_array_equal(arrays["frames"], expected.frames[0])
    np.testing.assert_array_equal(arrays["utterance"], expected.utterance[0])
    assert arrays["hidden_states"].shape == (2, *expected.frames[0].shape)
    np.testing.assert_array_equal(arrays["hidden_states"][0], expected.frames[0])
    whole = model.encode(read_speech(file)[: 20 * 16000], output_hidden_states=True)
    # What the first layer sees is normalised over each window, so that it is only alike.
    first, alone = arrays["hidden_states"][1][:900], whole.hidden_states[0][0, :900].numpy()
    assert np.corrcoef(first.ravel(), alone.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("form", ["npz", "npy", "safetensors"])
def test_formats_hold_the_same_arrays(form, encode, encoders, corpus, tmp_path):
    file = corpus / "c.wav"
    assert encode(file, "--format", form, "--layers", "all") == 0
    stem, out = tmp_path / "out" / "c", tmp_path / "out"
    if form == "npy":
        names = ("frames", "hidden_states", "utterance")
        assert results(out) == [f"c.{name}.npy" for name in names]
        arrays = {name: np.load(f"{stem}.{name}.npy") for name in names}
    else:
        assert results(out) == [f"c.{form}"]
        load = load_file if form == "safetensors" else lambda path: dict(np.load(path))
        arrays = load(f"{stem}.{form}")
    expected = Learn2Diss(encoders).encode(read_speech(file), output_hidden_states=True)
    assert {name: array.dtype.name for name, array in arrays.items()} == dict.fromkeys(
        ("frames", "hidden_states", "utterance"), "float32"
    )
    np.testing.assert_allclose(arrays["frames"], expected.frames[0], **CLOSE)
    states = torch.cat(expected.hidden_states)
    np.testing.assert_allclose(arrays["hidden_states"], states, **CLOSE)


def test_half_precision_is_rounded_once_and_refused_where_it_does_not_reach(
    encode, encoders, corpus, tmp_path, capsys
):
    assert encode(corpus / "c.wav", "--float16") == 0
    expected = Learn2Diss(encoders).encode(read_speech(corpus / "c.wav"))
    with np.load(tmp_path / "out" / "c.npz") as arrays:
        assert arrays["frames"].dtype == arrays["utterance"].dtype == np.float16
        np.testing.assert_allclose(arrays["frames"], expected.frames[0], rtol=1e-3, atol=1e-4)
    loud = utterance_encoder()
    with torch.no_grad():
        loud.backbone.fc.weight.mul_(1e8)
    save_model(tmp_path / "loud", {"utterance_encoder": loud})
    words = ["encode", str(corpus / "c.wav"), "--model", str(tmp_path / "loud"), "--float16"]
    assert main([*words, "--out", str(tmp_path / "none")]) == 2
    assert "utterance has values beyond half precision" in capsys.readouterr().err
    assert results(tmp_path / "none") == []


def test_what_is_there_is_kept_and_the_rest_made(encode, corpus, tmp_path, capsys):
    out = tmp_path / "out"
    assert encode(corpus) == 0
    before = {name: (out / name).stat().st_mtime_ns for name in results(out)}
    assert encode(corpus, "--batch_seconds", 1, "--num_workers", 1) == 0
    assert "0 file(s) encoded, 0.0 a second; 7 were there already" in capsys.readouterr().err
    (out / "c.npz").write_bytes((out / "c.npz").read_bytes()[:-1])  # cut short
    (out / "b" / "1.npz").unlink()
    shutil.copy(corpus / "e.wav", corpus / "d.wav")  # another recording
    (corpus / "a" / "1.wav").rename(corpus / "a" / "2.wav")
    assert encode(corpus) == 0
    assert "4 file(s) encoded" in capsys.readouterr().err
    changed = {name for name in before if before[name] != (out / name).stat().st_mtime_ns}
    assert changed == {"b/1.npz", "c.npz", "d.npz"} and (out / "a" / "2.npz").is_file()
    with np.load(out / "c.npz") as arrays:
        assert arrays["frames"].shape[1] == 32


def test_a_file_of_another_folder_is_not_taken_for_one_that_is_there(encode, corpus, tmp_path):
    shutil.copytree(corpus / "a", tmp_path / "other")  # with its times
    audio = written(tmp_path / "other" / "1.wav", read_speech(corpus / "a" / "1.wav").flip(0))
    state = (corpus / "a" / "1.wav").stat()
    os.utime(audio, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert audio.stat().st_size == state.st_size
    assert encode(corpus / "a") == 0
    first = (tmp_path / "out" / "1.npz").read_bytes()
    assert encode(tmp_path / "other") == 0
    assert (tmp_path / "out" / "1.npz").read_bytes() != first


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--format", "npy"], "--format"),
        (["--layers", "0,2"], "--layers"),
        (["--float16"], "--float16"),
        (["--float16", "--layers", "1"], "--layers and --float16"),
    ],
)
def test_other_options_are_refused_and_nothing_changes(
    words, name, encode, corpus, tmp_path, capsys
):
    assert encode(corpus / "a") == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    assert encode(corpus, *words) == 2
    message = f"the files beside it were made with another {name}: give another --out, or delete"
    assert message in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}


def test_another_model_is_refused(encode, encoders, folder, corpus, capsys):
    assert encode(corpus / "a") == 0
    save_model(folder, encoders | {"frame_encoder": frame_encoder(seed=1)})
    assert encode(corpus / "a") == 2
    assert "were made with another model" in capsys.readouterr().err
    save_model(folder, encoders)
    assert encode(corpus / "a") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layers", "3"], "--layers 3: expected different numbers from 0 to 2, such as 0,2"),
        (["--layers", "0,0"], "expected different numbers"),
        (["--layers", "-1"], "expected different numbers"),
        (["--device", "nonsense"], "--device nonsense cannot be used on this machine"),
        (["--device", "meta2"], "--device meta2 cannot be used"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    words, message, encode, corpus, tmp_path, capsys
):
    assert encode(corpus, *words) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_layers_need_a_frame_encoder(corpus, tmp_path, capsys):
    save_model(tmp_path / "voices", {"utterance_encoder": utterance_encoder()})
    command = ["encode", str(corpus), "--model", str(tmp_path / "voices"), "--layers", "0"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "the model has no frame encoder" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--batch_seconds", "--num_workers"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "x"])
def test_numbers_are_positive(option, value, encode, capsys):
    with pytest.raises(SystemExit) as caught:
        encode("a.wav", option, value)
    assert caught.value.code == 2 and "invalid positive" in capsys.readouterr().err


def test_bad_files_do_not_stop_good_ones(encode, bad_audio, recording, tmp_path, capsys):
    good = [written(tmp_path / name, recording(1)) for name in ("first.wav", "last.wav")]
    assert encode(good[0], *map(bad_audio, BAD_AUDIO), good[1]) == 2
    assert results(tmp_path / "out") == ["first.npz", "last.npz"]
    text = capsys.readouterr().err
    errors = [line for line in text.replace("\r", "\n").splitlines() if "error: " in line]
    assert len(errors) == len(BAD_AUDIO) and "Traceback" not in text
    for line, (problem, message) in zip(errors, BAD_AUDIO.items(), strict=True):
        assert f"{problem}.wav" in line and message in line
    assert text.endswith(f"0 were there already; {len(BAD_AUDIO)} failed\n")


def test_where_no_file_is_audio_nothing_is_left(encode, bad_audio, recording, tmp_path, capsys):
    bad = bad_audio(next(iter(BAD_AUDIO)))
    assert encode(bad) == 2 and not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    assert encode(bad) == 2 and results(tmp_path / "out") == ["mine.txt"]
    good = written(tmp_path / "a.wav", recording(1))
    assert encode(bad, good) == 2 and encode(bad) == 2  # what there is stays recorded
    record = tmp_path / "out" / "encoded.jsonl"
    assert record.is_file() and results(tmp_path / "out") == ["a.npz", "mine.txt"]
    header = record.read_text().partition("\n")[0]
    record.write_text(header + "\n")  # as a command leaves it that is killed before the first file
    assert encode(good, "--float16") == 0 and len(record.read_text().splitlines()) == 2


def test_a_warning_is_one_line(encode, recording, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", recording(1)[::2], 8000)
    assert encode(tmp_path / "a.wav") == 0
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    [line] = [line for line in lines if "8000 Hz" in line]
    assert line.startswith(f"warning: {tmp_path / 'a.wav'} is sampled at 8000 Hz")


def test_names_that_collide_are_refused_before_anything_is_written(
    encode, recording, tmp_path, capsys
):
    files = [written(tmp_path / name, recording(1)) for name in ("x.wav", "a.wav", "a.flac")]
    assert encode(*files) == 2
    assert not (tmp_path / "out").exists()
    assert "2 files would be written to" in capsys.readouterr().err


def test_a_write_that_fails_leaves_nothing(encode, recording, tmp_path, monkeypatch, capsys):
    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    file = written(tmp_path / "a.wav", recording(1))
    assert encode(file) == 0
    (tmp_path / "out" / "a.npz").unlink()
    replace, record = os.replace, tmp_path / "out" / "encoded.jsonl"
    monkeypatch.setattr(os, "fsync", full_disk)
    assert encode(file) == 2 and results(tmp_path / "out") == []
    assert "No space left" in capsys.readouterr().err

    def full_but_for_the_record(source, target):
        return replace(source, target) if Path(target) == record else full_disk(None)

    monkeypatch.undo()
    monkeypatch.setattr(os, "replace", full_but_for_the_record)
    assert encode(file) == 2 and results(tmp_path / "out") == []
    said = capsys.readouterr().err
    assert "error: [Errno 28] No space left" in said and said.endswith("1 failed\n")
    monkeypatch.undo()
    assert encode(file) == 0 and results(tmp_path / "out") == ["a.npz"]


def start(folder, corpus, out, *words):
    """Start the command in a process of its own."""
    command = [sys.executable, "-m", "pretrained", "encode", str(corpus), "--model", str(folder)]
    return subprocess.Popen(
        [*command, "--out", str(out), *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no process can be killed at once")
def test_a_killed_encode_goes_on(encode, folder, recording, tmp_path, capsys):
    whole, corpus, out = recording(8), tmp_path / "corpus", tmp_path / "out"
    corpus.mkdir()
    for number in range(300):
        written(corpus / f"{number:03d}.wav", whole[number * 300 :][: 5000 + 37 * number])
    running = start(folder, corpus, out, "--batch_seconds", "1")
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.npz"))) < 20 and time.monotonic() < deadline:
        time.sleep(0.005)
    running.kill()
    running.communicate()
    assert running.returncode == -signal.SIGKILL
    with open(out / "encoded.jsonl", "ab") as record:
        record.write(b'{"place": "2')  # as if it had been killed in the middle of a line
    finished = {json.loads(line)["place"] for line in _whole_lines(out)[1:]}
    times = {name: (out / f"{name}.npz").stat().st_mtime_ns for name in finished}
    assert 10 < len(finished) < 300
    capsys.readouterr()
    assert encode(corpus) == 0
    said = capsys.readouterr().err
    assert f"{300 - len(finished)} file(s) encoded" in said
    assert f"{len(finished)} were there already" in said
    assert results(out) == [f"{number:03d}.npz" for number in range(300)]  # and nothing partial
    assert times == {name: (out / f"{name}.npz").stat().st_mtime_ns for name in finished}
    other = tmp_path / "at_once"
    assert main(["encode", str(corpus), "--model", str(folder), "--out", str(other)]) == 0
    for name in results(out):
        with np.load(out / name) as found, np.load(other / name) as expected:
            for key in ("frames", "utterance"):
                np.testing.assert_allclose(found[key], expected[key], **CLOSE)


def _whole_lines(out):
    return (out / "encoded.jsonl").read_text().split("\n")[:-1]
