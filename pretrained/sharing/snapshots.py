"""The files of an exported model: those of a local folder, or a snapshot of a model on the Hub.

The Hub is Hugging Face's, or the one that the environment variable HF_ENDPOINT names. Of a model
there only `FILES` are downloaded, and only once, into the cache that huggingface_hub keeps; its
variables HF_TOKEN, HF_HUB_OFFLINE and HF_HUB_CACHE mean what they always mean.
"""

import math
import os
import re
from pathlib import Path

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
FILES = {CONFIG_FILE: 10**6, WEIGHTS_FILE: 2**32, CARD_FILE: 10**6}  # and the most bytes of each
NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(.+))?", re.ASCII)
REVISION = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", re.ASCII)  # leads nowhere as a path
HOW_TO_INSTALL = 'pip install ".[hub]", in the folder of this project'
ANSWER_SECONDS = 10  # within which the Hub is to say what a model holds


def find_files(model, revision=None):
    """Return the paths of a model's configuration and weights. A local folder always wins.

    Arguments
    ---------
    model : str or Path
        A local folder, or the name of a model on the Hub, `organisation/name` or
        `organisation/name@revision`. A Path is always local, as is a name whose first part is a
        folder here, unless it has a revision.
    revision : str, optional
        A branch, a tag or a commit on the Hub; None: that of the name, or else "main".

    Returns
    -------
    list of Path
        Of config.json and model.safetensors: files of the folder itself, or of the Hub's cache.

    Raises
    ------
    FileNotFoundError
        Where there is no such folder, model or revision, or the Hub cannot be reached and the
        model is not in the cache.
    ValueError
        Where a file is missing, too large, or a link out of the folder or the cache; or a local
        folder is given a revision.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("config.json", "model.safetensors"):
    ...     (folder / name).touch()
    >>> [path.name for path in find_files(folder)]
    ['config.json', 'model.safetensors']
    """
    folder = Path(model)
    if folder.is_dir():
        if revision is not None:
            raise ValueError(
                f"{model} is a local folder, which has no revision {revision!r}: leave it out."
            )
        places = (folder.resolve(),)
    else:
        folder = _download(*_read_name(model, revision))
        repository = folder.resolve().parent.parent
        # Of several repositories' equal files the cache keeps one, beside the repositories.
        places = (folder.resolve(), repository / "blobs", repository.parent / "blobs")
    return [file_within(folder, name, places) for name in (CONFIG_FILE, WEIGHTS_FILE)]


def file_within(folder, name, places):
    """Return the path of a folder's file; a ValueError unless it lies in or below some places.

    Arguments
    ---------
    folder : Path
    name : str
    places : iterable of Path
        Folders without links, which links may lead to.

    Returns
    -------
    Path

    Example
    -------
    >>> folder = getfixture("tmp_path").resolve()
    >>> (folder / "a").touch()
    >>> file_within(folder, "a", [folder]).name
    'a'
    """
    path = folder / name
    if not path.is_file():
        raise ValueError(f"{path} is missing: {folder} is not the folder of an exported model.")
    if not any(path.resolve().is_relative_to(place) for place in places):
        raise ValueError(f"{path} is a link out of the folder, to {path.resolve()}: copy the file.")
    return path


def check_name(model):
    """Raise a ValueError unless a text can be the name of a model on the Hub.

    Example
    -------
    >>> check_name("organisation/name")
    >>> check_name("name")
    Traceback (most recent call last):
        ...
    ValueError: 'name' is not the name of a model on the Hub: expected organisation/name.
    """
    name = NAME.fullmatch(model)
    if name is None or name[2] is not None:
        raise ValueError(
            f"{model!r} is not the name of a model on the Hub: expected organisation/name."
        )


def check_revision(revision):
    """Raise a ValueError unless a text can be a branch, a tag or a commit.

    Example
    -------
    >>> check_revision("../main")
    Traceback (most recent call last):
        ...
    ValueError: '../main' is no revision: expected a branch, a tag or a commit, such as main.
    """
    if REVISION.fullmatch(revision) is None:
        raise ValueError(
            f"{revision!r} is no revision: expected a branch, a tag or a commit, such as main."
        )


def _read_name(model, revision):
    """Return the repository and the revision that a name on the Hub tells."""
    name = NAME.fullmatch(model) if isinstance(model, str) else None
    if name is None:
        raise FileNotFoundError(f"{model} is not a folder: expected one that holds {CONFIG_FILE}.")
    repository, own = name.groups()
    if revision is not None and own is not None:
        raise ValueError(f"{model} names a revision, and {revision!r} is another: give one.")
    revision, beginning = own if revision is None else revision, repository.partition("/")[0]
    if revision is None and os.path.isdir(beginning):
        raise FileNotFoundError(
            f"{model} is not a folder, and {beginning} is one: expected a folder that holds "
            f"{CONFIG_FILE}. If you mean the Hub's model of this name: {model}@main."
        )
    if revision is not None:
        check_revision(revision)
    return repository, revision


def _download(repository, revision):
    """Return the folder of a model of the Hub in the cache, once all of it is there."""
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.utils import HfHubHTTPError, RevisionNotFoundError
    except ImportError:
        raise FileNotFoundError(
            f"{repository} is not a folder. To look for it on the Hub: {HOW_TO_INSTALL}."
        ) from None
    revision = "main" if revision is None else revision
    wanted = {"repo_id": repository, "revision": revision, "allow_patterns": list(FILES)}
    api, asked = HfApi(), {"files_metadata": True, "timeout": ANSWER_SECONDS}
    try:
        info = api.model_info(repository, revision=revision, **asked)
    except RevisionNotFoundError:
        raise FileNotFoundError(
            f"The Hub ({api.endpoint}) has the model {repository}, but no revision {revision!r}."
        ) from None
    except Exception as error:  # no class holds the errors of every HTTP client that it has had
        answered = isinstance(error, HfHubHTTPError)
        return _cached(wanted, _why_not(repository, api.endpoint, error, answered), error)
    _check_sizes(repository, {file.rfilename: file.size for file in info.siblings})
    try:
        return Path(snapshot_download(**wanted))
    except Exception as error:
        raise OSError(
            f"{repository} could not be downloaded from the Hub: {error}. Files that are complete "
            "are kept: try again."
        ) from error


def _cached(wanted, why, error):
    """Return the folder of a model in the cache as it is; where there is none, say why."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(**wanted, local_files_only=True))
    except LocalEntryNotFoundError:
        raise FileNotFoundError(why) from error
    if not all((folder / name).is_file() for name in (CONFIG_FILE, WEIGHTS_FILE)):
        raise FileNotFoundError(f"{why} The cache holds a part of it alone, {folder}.") from error
    return folder


def _why_not(repository, endpoint, error, answered):
    """Say why a model cannot be had, for who means the Hub and for who means a folder."""
    if answered and error.response.status_code in (401, 403, 404):
        found = (
            "it has no such model, or a private one that the token (HF_TOKEN), if any, does not "
            "open"
        )
    elif answered:
        found = f"it answered {error.response.status_code}"
    else:
        found = f"it cannot be reached ({error}), and the whole of the model is not in the cache"
    return (
        f"{repository} is not a folder here, where one that holds {CONFIG_FILE} would be loaded, "
        f"and was looked for on the Hub ({endpoint}): {found}."
    )


def _check_sizes(repository, sizes):
    """Raise a ValueError unless a repository has a model's files, none of them too large."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if name not in sizes:
            raise ValueError(
                f"{repository} on the Hub has no {name}: it is not a model exported by this "
                "project. Nothing was downloaded."
            )
    for name in sizes.keys() & FILES.keys():
        size = math.inf if sizes[name] is None else sizes[name]
        if size > FILES[name]:
            raise ValueError(
                f"{name} of {repository} on the Hub has {size} bytes, and at most {FILES[name]} "
                "are taken. Nothing was downloaded."
            )
