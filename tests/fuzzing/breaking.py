"""Broken files and options, and what is asked of whatever reads them."""

import re

from hypothesis import strategies as st

PIECES = [
    "",
    " ",
    "\t",
    ",",
    '"',
    "'",
    "\n",
    "\r\n",
    "\0",
    "\ufeff",
    "\u2028",
    "\x85",
    "é",
    "#",
    "~",
]
PIECES += ["nan", "inf", "-1", "0", "1e999", "1.5", "9" * 30, "null", "true", "[]", "{}", "[1, 2]"]
PIECES += ["../", "/", "$data_root/", "<x>", "{x}", "-", "=", ":", "%s", "\\", "\ud800"]
OPERATIONS = ("insert", "replace", "delete", "truncate", "repeat line", "drop line", "swap fields")
# What libraries say of their own affairs, which tells a user nothing.
RAW = re.compile(
    r"\x1b|https?://|Traceback|NoneType|object is not|not subscriptable|unpack|out of range$"
    r"|has no attribute|unexpected keyword|positional argument|codec can't|unhashable"
)

edits = st.lists(
    st.tuples(st.sampled_from(OPERATIONS), st.floats(0, 1, width=32), st.sampled_from(PIECES)),
    min_size=1,
    max_size=3,
)


def broken(content, changes):
    """Return bytes after some changes: (operation, place from 0 to 1, piece)."""
    for operation, place, piece in changes:
        at, piece = int(place * len(content)), piece.encode(errors="surrogatepass")
        content = _change(content, operation, at, piece)
    return content


def _change(content, operation, at, piece):
    if operation == "insert":
        return content[:at] + piece + content[at:]
    if operation == "replace":
        return content[:at] + piece + content[at + max(1, len(piece)) :]
    if operation == "delete":
        return content[:at] + content[at + 1 + len(piece) :]
    if operation == "truncate":
        return content[:at]
    first, last = content.rfind(b"\n", 0, at) + 1, content.find(b"\n", at) + 1 or len(content)
    line = content[first:last]
    if operation == "repeat line":
        return content[:last] + line + content[last:]
    if operation == "drop line":
        return content[:first] + content[last:]
    fields = re.split(rb"([ ,])", line)
    return content[:first] + b"".join(fields[::-1]) + content[last:]


def is_understood(error, names):
    """Return what is wrong with an error's message, or None where a user understands it."""
    if not isinstance(error, (ValueError, OSError)) or isinstance(error, UnicodeError):
        return f"{type(error).__name__} is no error of a wrong input"
    text = str(error)
    if found := RAW.search(text):
        return f"it passes on {found[0]!r}"
    if not any(name in text for name in names):
        return f"it names none of {', '.join(names)}"
    return None
