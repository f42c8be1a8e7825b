"""What the command line reports to the user, who can put it right."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What the user can put right: printed as one line, exit code 2."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Makes the error for a name that does not exist.

    Args:
        kind: what the name should be, for example "task".
        name: the name.
        known: all names that exist.

    Returns:
        An error that shows the names most like it or, where none is like it, all of them.
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}; {hint}")
