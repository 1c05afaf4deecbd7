"""A model to the Hub: the files of an exported folder, and nothing else that lies beside them."""

from pathlib import Path

from pretrained.exported import load_folder
from pretrained.sharing.snapshots import (
    CARD_FILE,
    FILES,
    HOW_TO_INSTALL,
    check_name,
    check_revision,
    file_within,
    find_files,
)


def push_to_hub(folder, repository, private=False, revision=None):
    """Put an exported folder on the Hub, as one commit. What is there already is not sent again.

    The token is that of the environment variable HF_TOKEN, or the one that `hf auth login` left.

    Arguments
    ---------
    folder : str or Path
        As a recipe leaves it in `<output_folder>/model`. It is loaded first.
    repository : str
        "organisation/name" or "user/name"; made where it is missing.
    private : bool
        Whether only those who are allowed to may see it. A repository that is there keeps what it
        is, and a public one is refused where this is asked for.
    revision : str, optional
        A branch, made where it is missing; None: "main".

    Returns
    -------
    str
        The address of the model's page.

    Raises
    ------
    FileNotFoundError
        Where there is no such folder.
    ValueError
        Where the folder does not load, its card is a link out of it or too large, or a name is
        none. Nothing is sent then.
    OSError
        Where the Hub refuses or cannot be reached.

    Example
    -------
    >>> push_to_hub("nowhere", "organisation/name")
    Traceback (most recent call last):
        ...
    FileNotFoundError: nowhere is not a folder: expected one that holds config.json.
    """
    check_name(repository)
    if revision is not None:
        check_revision(revision)
    paths = _checked_files(Path(folder))
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
    except ImportError:
        raise OSError(f"To push to the Hub: {HOW_TO_INSTALL}.") from None
    api = HfApi()
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise ValueError(
                f"{url} is public, and private was asked for. Nothing was sent: make it private "
                "there, or push to another name."
            )
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        files = [CommitOperationAdd(path.name, path) for path in paths]
        api.create_commit(repository, files, commit_message="Exported model", revision=revision)
    except ValueError:
        raise
    except Exception as error:  # no class holds the errors of every HTTP client that it has had
        raise OSError(f"{folder} could not be put on the Hub ({api.endpoint}): {error}") from error
    return str(url) if revision is None else f"{url}/tree/{revision}"


def _checked_files(folder):
    """Return the paths of a folder's files, once it has been loaded."""
    load_folder(folder)
    paths = find_files(folder)
    if (folder / CARD_FILE).exists():
        card = file_within(folder, CARD_FILE, [folder.resolve()])
        if card.stat().st_size > FILES[CARD_FILE]:
            raise ValueError(f"{card} has more than {FILES[CARD_FILE]} bytes: it is no card.")
        paths.append(card)
    return paths
