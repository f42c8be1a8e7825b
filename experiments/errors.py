"""Errors that the command line reports to the user, who can correct them."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What the user can put right: printed as one line, exit code 2."""


def check_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Returns a name if it exists.

    Args:
        kind: what it should be the name of, for example "task".
        name: the name.
        known: all names that exist.

    Returns:
        The name.

    Raises:
        UserError: if it does not exist; it shows the names most like it or, where none is like it, all of them.
    """
    known = list(known)
    if name in known:
        return name
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
    raise UserError(f"unknown {kind} {name!r}; {hint}")
