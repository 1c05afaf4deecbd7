"""Arrays in files of the usual formats."""

import io

from pretrained.plain_files import write_whole

FORMATS = ("npz", "npy", "safetensors")


def write_arrays(place, arrays, format, float16=False):
    """Write the arrays of a file, each file of them whole or not at all.

    Arguments
    ---------
    place : Path
        Without a suffix; its folder is made where it is missing.
    arrays : dict
        Arrays of float32 by name.
    format : str
        One of `FORMATS`.
    float16 : bool
        Whether to write half precision.

    Returns
    -------
    list of str
        The suffixes of the files that were written.

    Raises
    ------
    ValueError
        Where a value is beyond half precision. Nothing is written then.

    Example
    -------
    >>> import numpy as np
    >>> place = getfixture("tmp_path") / "deep" / "a.b"
    >>> write_arrays(place, {"frames": np.ones((3, 2))}, "npy")
    ['.frames.npy']
    >>> np.load(f"{place}.frames.npy").shape
    (3, 2)
    """
    if float16:
        arrays = {name: _halved(array, name, place) for name, array in arrays.items()}
    contents = _serialised(arrays, format)
    place.parent.mkdir(parents=True, exist_ok=True)
    for suffix, content in contents.items():
        write_whole(f"{place}{suffix}", content)
    return list(contents)


def _serialised(arrays, format):
    """Return the content of each file by its suffix."""
    import numpy as np
    from safetensors.numpy import save

    if format == "safetensors":
        return {".safetensors": save({k: np.ascontiguousarray(v) for k, v in arrays.items()})}
    parts = {".npz": arrays} if format == "npz" else {f".{k}.npy": v for k, v in arrays.items()}
    contents = {}
    for suffix, part in parts.items():
        content = io.BytesIO()
        np.savez(content, **part) if format == "npz" else np.save(content, part)
        contents[suffix] = content.getvalue()
    return contents


def _halved(array, name, place):
    import numpy as np

    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"{place}: {name} has values beyond half precision: leave --float16 out.")
    return half
