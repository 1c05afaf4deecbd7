"""Exported models as files that run without this package: ONNX, and torch.export's programs."""

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lobes.signal import FRAME_RATE, RECEPTIVE_FIELD, SAMPLE_RATE
from pretrained.deployment.graphs import make_graphs
from pretrained.facts import TRANSCRIBER, VERIFIER, kind_of
from pretrained.plain_files import new_folder, whole_file
from pretrained.tokenizers import tokenizer_from_config

DESCRIPTION_FILE = "model.json"
INPUTS = ("waveforms", "lengths")
LEAST_WIDTH = 720  # samples of a batch: of one frame, torch.export takes its dimension for constant
OPERATORS = 20  # version of the set of ONNX
PRODUCTS = ("MatMul", "Gemm")


def to_onnx(modules, facts, folder, int8=False):
    """Write a folder that onnxruntime needs nothing else for: a graph each, and their description.

    Batch and length are dynamic. `model.json` has the sampling rate, a recogniser's symbols, a
    verifier's threshold; `pretrained/deployment/README.md` shows the use of all.

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
    _require("onnx", "onnxscript", *(["onnxruntime"] if int8 else []))
    folder = new_folder(folder)
    for name, graph in make_graphs(modules, facts).items():
        with PlainAttention():
            program = _export(graph)
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=INPUTS,
            output_names=graph.outputs,
            opset_version=OPERATORS,
            verbose=False,
        )
        model = made.model_proto
        with whole_file(folder / f"{name}.onnx") as file:
            file.write((quantise(model) if int8 else model).SerializeToString())
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
    >>> to_torch_export({"utterance_encoder": encoder}, None, folder)
    >>> embed = torch.export.load(folder / "utterance.pt2").module()
    >>> embed(torch.randn(3, 20000), torch.tensor([20000, 9000, 400])).shape
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
        with whole_file(folder / f"{name}.pt2") as file:
            torch.export.save(_export(graph), file)
    _describe(folder, modules, facts, "torch_export")


class PlainAttention(TorchFunctionMode):
    """Attention as matrix products: torch decomposes its own to views that a mask may not fit."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        (query, key, value), mask = args, kwargs["attn_mask"]
        scores = query @ key.transpose(2, 3) * query.shape[3] ** -0.5
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))
        return (scores + mask).softmax(dim=3) @ value


def quantise(model):
    """Return an ONNX model whose linear layers have weights of 8 bits, a scale for each output.

    What they take is rounded to 8 bits as it comes. Other products, of spectra or of attention,
    stay as they are.

    Arguments
    ---------
    model : onnx.ModelProto
        As `to_onnx` makes it.

    Returns
    -------
    onnx.ModelProto
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    linear = [node.name for node in model.graph.node if _is_linear(node)]
    if not linear:
        return model
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=PRODUCTS,
            nodes_to_quantize=linear,
            per_channel=True,
            reduce_range=True,  # else sums of two products overflow on processors without VNNI
            weight_type=QuantType.QInt8,
        )
        return onnx.load(path)


def _is_linear(node):
    """Return whether a node of a graph is made of a linear layer, by the names that torch left."""
    scopes = {entry.key: entry.value for entry in node.metadata_props}
    names = scopes.get("pkg.torch.onnx.name_scopes", "")
    return node.op_type in PRODUCTS and "'linear" in names


def _export(graph):
    """Return the program of a graph, its batch and its length dynamic."""
    batch = torch.export.Dim("batch")
    samples = torch.export.Dim("samples", min=LEAST_WIDTH)
    example = torch.zeros(2, 2 * SAMPLE_RATE), torch.tensor([2 * SAMPLE_RATE, SAMPLE_RATE])
    shapes = {0: batch, 1: samples}, {0: batch}
    return torch.export.export(graph, example, dynamic_shapes=shapes, strict=False)


def _describe(folder, modules, facts, layout):
    """Write what a user has to know beside the graphs."""
    kind = kind_of(facts)
    description = {"layout": layout, "sample_rate": SAMPLE_RATE, "least_samples": RECEPTIVE_FIELD}
    if "frame_encoder" in modules:
        description["frame_rate"] = FRAME_RATE
    if kind == TRANSCRIBER:
        description["symbols"] = tokenizer_from_config(facts["tokenizer"]).pieces
        description["stride"] = modules["ctc_head"].stride
    if kind == VERIFIER:
        description |= {key: facts[key] for key in ("threshold", "threshold_set_on")}
    with whole_file(folder / DESCRIPTION_FILE) as file:
        file.write((json.dumps(description, indent=2) + "\n").encode())


def _require(*packages):
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"{missing[0]} is not installed, which an export to ONNX needs: "
            'pip install "learn2diss[onnx]"'
        )
