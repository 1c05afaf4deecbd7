"""The command export: a model's encoders in another toolkit's layout."""

from pretrained.toolkits import LAYOUTS


def add_parser(commands):
    """Add the command to the parser's commands."""
    export = commands.add_parser("export", help="write the model in another toolkit's layout")
    export.add_argument("model", metavar="FOLDER", help="an exported model")
    export.add_argument("--layout", required=True, choices=LAYOUTS)
    export.add_argument(
        "--erasure_apart",
        action="store_true",
        help="where the layout has no place for what erases directions from frames, write that to "
        "a file beside the weights, for the user to apply",
    )
    export.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    export.set_defaults(run=export_model)


def export_model(options):
    """Export a model, or its frame encoder alone, in another toolkit's layout."""
    if options.erasure_apart and options.layout == "speechbrain":
        raise ValueError("--erasure_apart is for huggingface and torchaudio: speechbrain holds it.")
    from pretrained.exported import load_folder, load_model
    from pretrained.toolkits import layouts

    if options.layout == "speechbrain":
        layouts.to_speechbrain(*load_folder(options.model), options.out)
    else:
        write = getattr(layouts, f"to_{options.layout}")
        write(load_model(options.model), options.out, options.erasure_apart)
    return 0
