"""Exported models as files that run without this package: ONNX, and torch.export's programs."""

import io
import json
import logging
import tempfile
import warnings
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch

from lobes.signal import FRAME_RATE, RECEPTIVE_FIELD, SAMPLE_RATE
from pretrained.deployment.graphs import make_graphs
from pretrained.facts import CLASSIFIER, TRANSCRIBER, VERIFIER, kind_of
from pretrained.plain_files import new_folder, whole_file, write_whole
from pretrained.tokenizers import tokenizer_from_config

DESCRIPTION_FILE = "model.json"
INPUTS = {"waveforms": ("batch", "samples"), "lengths": ("batch",)}
LEAST_WIDTH = 720  # samples of a batch: of one frame, torch.export takes its dimension for constant
OPERATORS = 20  # version of the set of ONNX
PRODUCTS = ("MatMul", "Gemm")
FILTERS = ("mel_scale", "compute_fbanks")  # modules that map spectra to bands
EXAMPLE = torch.zeros(2, 2 * SAMPLE_RATE), torch.tensor([2 * SAMPLE_RATE, SAMPLE_RATE])


def to_onnx(modules, facts, folder, int8=False):
    """Write a folder that onnxruntime needs nothing else for: a graph each, and their description.

    Batch and length are dynamic. `model.json` has the sampling rate, a recogniser's symbols, a
    verifier's threshold, a classifier's labels; `pretrained/deployment/README.md` shows their use.

    Arguments
    ---------
    modules : dict
    facts : dict or None
        As `pretrained.exported.load_folder` returns them.
    folder : str or Path
        Missing or empty.
    int8 : bool
        Whether the weights of linear layers are of 8 bits, and their inputs rounded to 8 bits as
        they come. Convolutions, an utterance encoder's among them, stay in float32.

    Raises
    ------
    FileExistsError
        Where the folder holds anything.
    ValueError
        Where a package of the extra `onnx` is missing.

    Example
    -------
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> folder = getfixture("tmp_path") / "onnx"
    >>> encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=4)
    >>> to_onnx({"utterance_encoder": encoder}, None, folder)  # doctest: +SKIP
    >>> sorted(path.name for path in folder.iterdir())  # doctest: +SKIP
    ['model.json', 'utterance.onnx']
    """
    _require("onnx", *(["onnxruntime"] if int8 else []))
    folder = new_folder(folder)
    for name, graph in make_graphs(modules, facts).items():
        content = _trace(graph)
        write_whole(folder / f"{name}.onnx", quantise(content) if int8 else content)
    _describe(folder, modules, facts, "onnx")


def to_torch_export(modules, facts, folder):
    """Write a folder of programs that `torch.export.load` reads, with torch and nothing else.

    A batch is at least 720 samples wide, which zeros fill where a row is shorter.

    Arguments
    ---------
    modules : dict
    facts : dict or None
    folder : str or Path
        As `to_onnx` takes them.

    Raises
    ------
    FileExistsError
        Where the folder holds anything.
    ValueError
        Where a recogniser has an LSTM, whose length torch.export takes for constant.

    Example
    -------
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> folder = getfixture("tmp_path") / "programs"
    >>> encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=4)
    >>> to_torch_export({"utterance_encoder": encoder}, None, folder)  # doctest: +SKIP
    >>> embed = torch.export.load(folder / "utterance.pt2").module()  # doctest: +SKIP
    >>> embed(torch.randn(3, 20000), torch.tensor([20000, 9000, 400])).shape  # doctest: +SKIP
    torch.Size([3, 4])
    """
    head = modules.get("ctc_head")
    if head is not None and head.lstm is not None:
        raise ValueError(
            "torch.export takes the length of an LSTM's input for constant, and the ctc_head has "
            "one: export it with the layout onnx."
        )
    folder = new_folder(folder)
    for name, graph in make_graphs(modules, facts).items():
        with whole_file(folder / f"{name}.pt2") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tensors that share memory
            torch.export.save(_export(graph), file)
    _describe(folder, modules, facts, "torch_export")


def quantise(content):
    """Return an ONNX graph whose linear layers have weights of 8 bits, a scale for each output.

    What they take is rounded to 8 bits as it comes. Convolutions, recurrent layers and products of
    spectra or of attention stay as they are.

    Arguments
    ---------
    content : bytes
        Of a file as `to_onnx` makes it.

    Returns
    -------
    bytes
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load_from_string(content)
    names = [node.name for node in model.graph.node if node.op_type in PRODUCTS]
    with tempfile.TemporaryDirectory() as folder, _quiet_log():
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=PRODUCTS,
            nodes_to_exclude=[name for name in names if any(part in name for part in FILTERS)],
            per_channel=True,
            reduce_range=True,  # else sums of two products overflow on processors without VNNI
            weight_type=QuantType.QInt8,
        )
        return path.read_bytes()


@contextmanager
def _quiet_log():
    """Keep back warnings of steps that these graphs do not need."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _trace(graph):
    """Return the content of a graph's ONNX file."""
    content, named = io.BytesIO(), {**INPUTS, **graph.outputs}
    with warnings.catch_warnings():
        # The exporter that traces is to be superseded by one that takes twenty times as long, takes
        # a single frame for constant and translates no LSTM over rows of unequal lengths.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            EXAMPLE,
            content,
            dynamo=False,
            input_names=[*INPUTS],
            output_names=[*graph.outputs],
            dynamic_axes={name: dict(enumerate(axes)) for name, axes in named.items()},
            opset_version=OPERATORS,
        )
    return content.getvalue()


def _export(graph):
    """Return the program of a graph, its batch and its length dynamic."""
    batch = torch.export.Dim("batch")
    samples = torch.export.Dim("samples", min=LEAST_WIDTH)
    shapes = {0: batch, 1: samples}, {0: batch}
    return torch.export.export(graph, EXAMPLE, dynamic_shapes=shapes, strict=False)


def _describe(folder, modules, facts, layout):
    """Write what a user has to know beside the graphs."""
    kind = kind_of(facts)
    description = {"layout": layout, "sample_rate": SAMPLE_RATE, "least_samples": RECEPTIVE_FIELD}
    if "frame_encoder" in modules:
        description["frame_rate"] = FRAME_RATE
    if kind == TRANSCRIBER:
        description["symbols"] = tokenizer_from_config(facts["tokenizer"]).pieces
        description["stride"] = modules["ctc_head"].stride
    if kind == CLASSIFIER:
        description["labels"] = facts["labels"]
    if kind == VERIFIER:
        description |= {key: facts[key] for key in ("threshold", "threshold_set_on")}
    write_whole(folder / DESCRIPTION_FILE, (json.dumps(description, indent=2) + "\n").encode())


def _require(*packages):
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"{missing[0]} is not installed, which an export to ONNX needs: "
            'pip install ".[onnx]", in the folder of this project'
        )
