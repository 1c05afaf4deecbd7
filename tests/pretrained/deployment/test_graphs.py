"""ONNX graphs and torch.export's programs: the same as the modules, on rows of unequal lengths."""

import json
import re
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from lobes.frame_encoder import FrameEncoder
from lobes.heads import CTCHead, SpeakerHead
from lobes.utterance_encoder import UtteranceEncoder
from pretrained import Learn2Diss, SpeakerVerifier, Transcriber
from pretrained.__main__ import main
from pretrained.deployment import graph_files
from pretrained.deployment.graph_files import to_onnx, to_torch_export
from pretrained.exported import load_folder
from pretrained.file_states import make_states
from tests.pretrained.deployment import graph_sides
from tests.pretrained.exports import (
    LETTERS_FACTS,
    PLAIN,
    RATE,
    frame_encoder,
    modules_of,
    saved,
    seeded,
    tones,
    utterance_encoder,
    written,
)
from tests.voices import write_audio

pytestmark = pytest.mark.long

README = Path(graph_files.__file__).with_name("README.md")
needs_onnx = pytest.mark.skipif(
    not (find_spec("onnx") and find_spec("onnxruntime")), reason="the extra onnx is not installed"
)
# The base sizes' depth, kernels and scales at a fraction of their widths.
BASE_LIKE = {"conv_channels": 48, "d_model": 96, "num_layers": 12, "nhead": 12, "d_ffn": 384}
BASE_LIKE_ECAPA = {"channels": 64, "embedding_dim": 48, "attention_channels": 16}


def onnx_runner(path):
    """Return a function (waveforms, lengths) -> list of tensors."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(waveforms, lengths):
        inputs = {"waveforms": waveforms.numpy(), "lengths": lengths.numpy()}
        return [torch.from_numpy(x) for x in session.run(None, inputs)]

    return run


def runner(modules, facts, folder, name):
    to_onnx(modules, facts, folder)
    return onnx_runner(folder / f"{name}.onnx")


def random_batches(count, seconds=1.0, least=400, seed=0):
    """Yield rows of noise of any loudness, with worse noise beyond their ends, and lengths."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        lengths = generator.integers(least, int(seconds * RATE), generator.integers(1, 5))
        if number == 0:
            lengths = np.array([least])
        wavs = generator.normal(0, 3, (len(lengths), lengths.max()))
        for row, length in enumerate(lengths):
            loudness = 10 ** generator.uniform(-3, -0.5)
            noise = np.convolve(generator.normal(0, loudness, length + 7), np.ones(8) / 8, "valid")
            wavs[row, :length] = noise * np.linspace(0.01, 1, length)
        yield torch.from_numpy(wavs).float(), torch.from_numpy(lengths)


def largest_difference(found, expected):
    """Return the largest difference as a share of the largest value."""
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


@torch.no_grad()
def compare(run, module, batches, tolerance=1e-4):
    """Compare what a graph gives with what a module gives of (wavs, wav_lens)."""
    for wavs, lengths in batches:
        expected = module(wavs, lengths / wavs.shape[1])
        assert largest_difference(run(wavs, lengths)[0], expected) < tolerance


def erased(encoder, directions=3):
    generator = torch.Generator().manual_seed(0)
    encoder.add_erasure(directions)
    for part in (encoder.erasure.down, encoder.erasure.up):
        part.normal_(0, 0.3, generator=generator)
    return encoder


def whitened(encoder):
    with torch.no_grad():
        embeddings = encoder(torch.randn(20, RATE, generator=torch.Generator().manual_seed(1)))
    encoder.whiten(embeddings.mean(0), torch.cov(embeddings.double().T))
    return encoder


@needs_onnx
@pytest.mark.parametrize("attention", ["hubert", "wavlm"])
@pytest.mark.parametrize("frontend", ["fbank", "waveform"])
def test_frames_of_50_random_batches(frontend, attention, tmp_path):
    encoder = erased(frame_encoder(frontend, attention=attention))
    run = runner({"frame_encoder": encoder}, None, tmp_path / "onnx", "frames")
    compare(run, encoder, random_batches(50))
    for wavs, lengths in random_batches(5, seed=1):
        assert run(wavs, lengths)[1].tolist() == [1 + (n - 400) // 320 for n in lengths.tolist()]


@needs_onnx
@pytest.mark.long
@pytest.mark.parametrize("kind", ["mean", "mean_std"])
def test_normed_frames_of_random_batches(kind, tmp_path):
    encoder = frame_encoder(frame_norm=kind)
    run = runner({"frame_encoder": encoder}, None, tmp_path / "onnx", "frames")
    batches = [batch for batch in random_batches(20) if batch[1].max() >= 1000]  # one frame is 0
    assert len(batches) > 5
    compare(run, encoder, batches)


@needs_onnx
@pytest.mark.parametrize("backbone", ["tdnn", "ecapa"])
def test_embeddings_of_50_random_batches(backbone, tmp_path):
    encoder = whitened(utterance_encoder(backbone))
    run = runner({"utterance_encoder": encoder}, None, tmp_path / "onnx", "utterance")
    compare(run, encoder, random_batches(50))


@needs_onnx
def test_a_row_gives_what_it_gives_alone(tmp_path):
    encoders = {"frame_encoder": frame_encoder(), "utterance_encoder": utterance_encoder()}
    to_onnx(encoders, None, tmp_path / "onnx")
    frames, utterance = (onnx_runner(tmp_path / f"onnx/{n}.onnx") for n in ("frames", "utterance"))
    wavs, lengths = next(b for b in random_batches(9) if len(b[1]) == 4)
    (found, lens), [embeddings] = frames(wavs, lengths), utterance(wavs, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = wavs[row : row + 1, :length], lengths[row : row + 1]
        own = frames(*alone)[0]
        assert largest_difference(found[row : row + 1, : lens[row]], own) < 1e-4
        assert not found[row, lens[row] :].any()
        assert largest_difference(embeddings[row : row + 1], utterance(*alone)[0]) < 1e-4
    width, longer = torch.full_like(lengths, wavs.shape[1]), torch.full_like(lengths, 2**40)
    for run in (frames, utterance):
        pairs = zip(run(wavs, longer), run(wavs, width), strict=True)
        assert all(np.array_equal(found, expected) for found, expected in pairs)


@needs_onnx
@pytest.mark.parametrize("features", ["frame_encoder", "fbank"])
@pytest.mark.parametrize("sizes", [{}, {"lstm_layers": 2, "stride": 3}])
def test_logits_up_to_each_rows_end(features, sizes, tmp_path):
    layers, dim = {"frame_encoder": (3, 32), "fbank": (1, 240)}[features]
    modules = modules_of(features, ctc_head=seeded(CTCHead, layers, dim, 3, hidden_dim=8, **sizes))
    run = runner(modules, {**LETTERS_FACTS, "features": features}, tmp_path / "onnx", "logits")
    states = make_states(features, modules)
    for wavs, lengths in random_batches(12):
        with torch.no_grad():
            expected, lens = modules["ctc_head"](*states(wavs, lengths / wavs.shape[1]))
        found, found_lens = run(wavs, lengths)
        assert found.shape == expected.shape and torch.equal(found_lens, lens)
        for row, length in enumerate(lens):
            assert largest_difference(found[row, :length], expected[row, :length]) < 1e-4


@needs_onnx
def test_symbols_decode_to_the_transcribers_text(transcriber_folder, tmp_path):
    run = runner(*load_folder(transcriber_folder), tmp_path / "onnx", "logits")
    samples = tones(" AB BA AA ")
    logits, logit_lens = run(torch.from_numpy(samples).float()[None], torch.tensor([len(samples)]))
    code = python_blocks()[1].replace("O/onnx", str(tmp_path / "onnx"))
    names = {"json": json, "logits": logits.numpy(), "logit_lens": logit_lens.numpy()}
    exec(code, names)
    path = written(tmp_path / "a.wav", samples, subtype="FLOAT")
    expected = Transcriber.from_pretrained(transcriber_folder).transcribe_file(path)
    assert names["text"] == expected == "ABBAA"


STATISTICS = {"mean": [0.1 * n for n in range(12)], "deviation": [1 + n / 9 for n in range(12)]}
SYSTEMS = [
    ("utterance_encoder", None, {"scoring": "standardised", **STATISTICS}),
    ("frame_encoder", {"num_layers": 3, "in_dim": 32, "hidden_dim": 8}, {}),
    ("fbank", {"in_dim": 240, "hidden_dim": 8, "pooling": "xvector", "embedding_dim": 6}, {}),
    ("fbank_statistics", None, {}),
]


@needs_onnx
@pytest.mark.parametrize(("features", "head", "changes"), SYSTEMS)
def test_scores_are_those_of_the_verifier(features, head, changes, speech, tmp_path):
    heads = {} if head is None else {"speaker_head": seeded(SpeakerHead, **head)}
    facts = {"features": features, **PLAIN, **changes}
    folder = saved(tmp_path / "verifier", modules_of(features, **heads), facts)
    run = runner(*load_folder(folder), tmp_path / "onnx", "embedding")
    files, wavs = [], torch.zeros(2, 2 * RATE)
    for speaker, samples in enumerate((speech(2, 1), speech(1.3, 2))):
        wavs[speaker, : len(samples)] = torch.from_numpy(samples)
        files.append(written(tmp_path / f"{speaker}.wav", samples, subtype="FLOAT"))
    a, b = run(wavs, torch.tensor([2 * RATE, int(1.3 * RATE)]))[0]
    expected = SpeakerVerifier.from_pretrained(folder).verify_files(*files)
    assert abs((a @ b).item() - expected.score) < 1e-4
    description = json.loads((tmp_path / "onnx" / "model.json").read_text())
    assert description["threshold"] == expected.threshold


@needs_onnx
def test_int8_rounds_every_linear_layer_and_no_filter(tmp_path):
    import onnx

    encoder = frame_encoder()
    for name, int8 in (("float", False), ("int8", True)):
        to_onnx({"frame_encoder": encoder}, None, tmp_path / name, int8)
    path = tmp_path / "int8" / "frames.onnx"
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    layers = 6 * encoder.config["num_layers"]  # four of the attention, two of the feed-forward part
    assert nodes.count("MatMulInteger") == layers + 1  # and the projection of features
    [wavs, lengths] = next(b for b in random_batches(9, least=8000) if len(b[1]) == 4)
    exact, rounded = (
        onnx_runner(tmp_path / name / "frames.onnx")(wavs, lengths)[0] for name in ("float", "int8")
    )
    assert torch.nn.functional.cosine_similarity(exact, rounded, dim=2)[exact.any(2)].min() > 0.99
    assert not torch.equal(exact, rounded)


@needs_onnx
def test_the_command_writes_what_the_folder_is_for(encoders_folder, folder, tmp_path, capsys):
    for place, files in (
        (folder, {"frames.onnx", "utterance.onnx"}),
        (encoders_folder, {"frames.onnx"}),
    ):
        out = tmp_path / "onnx" / place.name
        command = ["export", str(place), "--layout", "onnx", "--out", str(out)]
        assert main(command) == 0
        assert {path.name for path in out.iterdir()} == {"model.json", *files}
        assert main(command) == 2 and "is not empty" in capsys.readouterr().err


def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    folder, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    command = ["export", str(folder), "--out", str(out), "--layout"]
    assert main([*command, "speechbrain", "--int8"]) == 2
    assert "--int8 belongs to --layout onnx" in capsys.readouterr().err
    head = CTCHead(3, 32, 3, hidden_dim=8, lstm_layers=1)
    with pytest.raises(ValueError, match="has one: export it with the layout onnx"):
        to_torch_export(modules_of("frame_encoder", ctc_head=head), LETTERS_FACTS, out)
    monkeypatch.setattr(graph_files, "find_spec", lambda name: None)
    assert main([*command, "onnx"]) == 2
    assert 'pip install ".[onnx]"' in capsys.readouterr().err
    assert not out.exists()


def test_programs_of_torch_export(tmp_path):
    encoders = {
        "frame_encoder": frame_encoder(attention="wavlm", num_layers=1),
        "utterance_encoder": utterance_encoder(),
    }
    to_torch_export(encoders, None, tmp_path / "programs")
    for name, encoder in (("frames", encoders["frame_encoder"]), ("utterance", None)):
        module = torch.export.load(tmp_path / "programs" / f"{name}.pt2").module()
        encoder = encoder or encoders["utterance_encoder"]

        def run(*batch, module=module):
            found = module(*batch)
            return found if isinstance(found, tuple) else (found,)

        compare(run, encoder, random_batches(5, least=720))


@needs_onnx
def test_both_sides_of_the_benchmark_encode_the_same(encoders, tmp_path):
    write_audio(tmp_path / "training", [0.9, 0.5], ".flac", np.random.default_rng(0))
    batch = graph_sides.read_batch(tmp_path / "training")
    to_onnx(encoders, None, tmp_path / "onnx")
    ours = graph_sides.onnx_step(tmp_path / "onnx", *batch)()
    for found, expected in zip(ours, graph_sides.torch_step(encoders, *batch)(), strict=True):
        assert largest_difference(torch.from_numpy(found), expected) < 1e-4


@needs_onnx
@pytest.mark.parametrize(
    ("frontend", "attention"), [("waveform", "hubert"), ("waveform", "wavlm"), ("fbank", "hubert")]
)
def test_frames_of_the_base_sizes_depth(frontend, attention, tmp_path):
    encoder = seeded(FrameEncoder, frontend, attention=attention, **BASE_LIKE)
    run = runner({"frame_encoder": encoder}, None, tmp_path / "onnx", "frames")
    compare(run, encoder, random_batches(3))


@needs_onnx
def test_embeddings_of_the_base_sizes_scales(tmp_path):
    encoder = whitened(seeded(UtteranceEncoder, **BASE_LIKE_ECAPA))
    run = runner({"utterance_encoder": encoder}, None, tmp_path / "onnx", "utterance")
    compare(run, encoder, random_batches(3))


@needs_onnx
def test_a_file_is_encoded_without_torch(folder, recording, tmp_path):
    python = environment_without_torch(tmp_path / "venv")
    assert main(["export", str(folder), "--layout", "onnx", "--out", str(tmp_path / "onnx")]) == 0
    (tmp_path / "encode.py").write_text(python_blocks()[0], encoding="utf-8")
    path, out = written(tmp_path / "speech.flac", recording(3)), tmp_path / "encoded.npz"
    command = [python, "encode.py", "onnx", path, out]
    subprocess.run(command, cwd=tmp_path, check=True)
    expected = Learn2Diss.from_pretrained(folder).encode_file(path)
    with np.load(out) as arrays:
        for name, values in (("frames", expected.frames), ("utterance", expected.utterance)):
            assert largest_difference(torch.from_numpy(arrays[name]), values) < 1e-4
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 1


def environment_without_torch(folder):
    """Return the Python of a new environment that has three packages; skip without an index."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    install = [python, "-m", "pip", "install", "--quiet", "onnxruntime", "numpy", "soundfile"]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip reaches no package index: {done.stderr.strip().splitlines()[-1]}")
    return python


def python_blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
