"""The command push: an exported model to the Hub."""

DESCRIPTION = """
Loads the model, puts it with its card on the Hub and prints its address. Needs the extra hub and a
token, HF_TOKEN or that of `hf auth login`. Fill in the licence in the card before.
"""


def add_parser(commands):
    """Add the command to the parser's commands."""
    push = commands.add_parser(
        "push", help="put the model on the Hugging Face Hub", description=DESCRIPTION
    )
    push.add_argument("model", metavar="FOLDER", help="an exported model")
    push.add_argument("repository", metavar="ORGANISATION/NAME", help="made where it is missing")
    push.add_argument("--private", action="store_true", help="not to be seen by everyone")
    push.add_argument("--revision", metavar="BRANCH", help="made where it is missing; main if none")
    push.set_defaults(run=push_model)


def push_model(options):
    """Put an exported model on the Hub and print its address."""
    from pretrained import push_to_hub

    print(push_to_hub(options.model, options.repository, options.private, options.revision))
    return 0
