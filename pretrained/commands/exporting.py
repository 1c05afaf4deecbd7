"""The command export: a model in another toolkit's layout, or as graphs that run without torch."""

from pathlib import Path

from pretrained.toolkits import GRAPHS, LAYOUTS, PLAIN

DESCRIPTION = """
Layouts of toolkits (see pretrained/toolkits/README.md): speechbrain; huggingface, for transformers;
torchaudio. Graphs that run without this package (see pretrained/deployment/README.md): onnx, which
needs no torch, and torch_export.
"""


def add_parser(commands):
    """Add the command to the parser's commands."""
    export = commands.add_parser(
        "export", help="write the model in another toolkit's layout", description=DESCRIPTION
    )
    export.add_argument("model", metavar="FOLDER", help="an exported model")
    export.add_argument("--layout", required=True, choices=LAYOUTS + GRAPHS)
    export.add_argument(
        "--changes_apart",
        action="store_true",
        help="where the layout has no place for what is done to frames after the last layer (their "
        "norm, directions erased), leave it to the user: the page of toolkits tells the lines",
    )
    export.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    export.add_argument(
        "--int8", action="store_true", help="onnx only: weights of linear layers of 8 bits"
    )
    export.set_defaults(run=export_model)


def export_model(options):
    """Export a model, or its frame encoder alone, in another toolkit's layout, or as graphs."""
    if options.changes_apart and options.layout not in PLAIN:
        raise ValueError(
            f"--changes_apart is for {' and '.join(PLAIN)}: {options.layout} keeps them."
        )
    if options.int8 and options.layout != "onnx":
        raise ValueError(f"--int8 belongs to --layout onnx, not to {options.layout}.")
    if Path(options.out).resolve().is_relative_to(Path(options.model).resolve()):
        raise ValueError(f"--out {options.out} lies in the model's own folder: name another.")
    if options.layout in GRAPHS:
        export_graphs(options)
    else:
        export_layout(options)
    print(f"Written to {options.out}.")
    return 0


def export_layout(options):
    """Export a folder in another toolkit's layout."""
    from pretrained.exported import load_folder, load_model
    from pretrained.toolkits import layouts

    if options.layout == "speechbrain":
        layouts.to_speechbrain(*load_folder(options.model), options.out)
    else:
        write = getattr(layouts, f"to_{options.layout}")
        encoders = load_model(options.model)
        write(encoders, options.out, options.changes_apart)
        if options.changes_apart:
            tell_what_is_left(encoders["frame_encoder"])


def tell_what_is_left(encoder):
    """Print what is done to frames after the last layer, which an export leaves to its user."""
    from pretrained.toolkits.names import last_changes

    changes = " and ".join(last_changes(encoder)) or "nothing is done"
    print(f"Left to you, after the last layer: {changes}.")


def export_graphs(options):
    """Export what a folder is for, its encoders, its recogniser or its verifier, as graphs."""
    from pretrained.deployment.graph_files import to_onnx, to_torch_export
    from pretrained.exported import load_folder

    modules, facts = load_folder(options.model)
    if options.layout == "onnx":
        to_onnx(modules, facts, options.out, options.int8)
    else:
        to_torch_export(modules, facts, options.out)
