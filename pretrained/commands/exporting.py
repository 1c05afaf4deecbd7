"""The command export: a model's encoders in another toolkit's layout."""

from pretrained.toolkits import LAYOUTS


def add_parser(commands):
    """Add the command to the parser's commands."""
    export = commands.add_parser("export", help="write the model in another toolkit's layout")
    export.add_argument("model", metavar="FOLDER", help="an exported model")
    export.add_argument("--layout", required=True, choices=LAYOUTS)
    export.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    export.set_defaults(run=export_model)


def export_model(options):
    """Export a model's encoders in another toolkit's layout."""
    from pretrained.exported import load_model
    from pretrained.toolkits import layouts

    write = getattr(layouts, f"to_{options.layout}")
    write(load_model(options.model), options.out)
    return 0
