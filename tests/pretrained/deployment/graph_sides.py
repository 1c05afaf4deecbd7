"""Sides of rows of `tests.benchmark`: a batch encoded by onnxruntime and by torch."""

import subprocess
import sys
import tempfile
from pathlib import Path

import soundfile
import torch

from pretrained.exported import save_model

ROOT = Path(__file__).parents[3]
ROWS = 4  # of the batch, 4 to 6 s each


def graph_step(make_encoders, precisions, folder, side):
    """Frames and embeddings of a batch.

    Arguments
    ---------
    make_encoders : callable
        Returns encoders by name.
    precisions : dict
        What "ours" and "peer" are: "float32" or "int8" of onnxruntime, or "torch".
    folder : Path
        With audio in `training/`.
    side : str
        "ours" or "peer".

    Returns
    -------
    callable
        Without arguments; returns the frames and the embeddings.
    """
    encoders, precision = make_encoders(), precisions[side]
    wavs, lengths = read_batch(folder / "training")
    if precision == "torch":
        return torch_step(encoders, wavs, lengths)
    out = Path(tempfile.mkdtemp(dir=folder))  # of each row
    save_model(out / "model", encoders)
    export(out / "model", out / "onnx", precision == "int8")
    return onnx_step(out / "onnx", wavs, lengths)


def read_batch(folder):
    """Return the first files of a folder, (rows, samples), and their lengths, (rows,)."""
    paths = sorted(folder.iterdir())[:ROWS]
    clips = [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in paths]
    return torch.nn.utils.rnn.pad_sequence(clips, True), torch.tensor([len(c) for c in clips])


def torch_step(encoders, wavs, lengths):
    """Return a function that encodes the batch by the modules."""
    encoders = [encoder.eval() for encoder in encoders.values()]
    wav_lens = lengths / wavs.shape[1]

    @torch.no_grad()
    def encode():
        return [encoder(wavs, wav_lens) for encoder in encoders]

    return encode


def export(model, folder, int8):
    """Export a model by the command, in a process of its own, whose memory does not count."""
    command = [sys.executable, "-m", "pretrained", "export", model, "--layout", "onnx"]
    command += ["--out", folder, *(["--int8"] if int8 else [])]
    subprocess.run(command, cwd=ROOT, check=True)


def onnx_step(folder, wavs, lengths):
    """Return a function that encodes the batch by a folder's graphs, with torch's threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    sessions = [
        onnxruntime.InferenceSession(folder / f"{name}.onnx", options)
        for name in ("frames", "utterance")
    ]
    inputs = {"waveforms": wavs.numpy(), "lengths": lengths.numpy()}
    return lambda: [session.run(None, inputs)[0] for session in sessions]
