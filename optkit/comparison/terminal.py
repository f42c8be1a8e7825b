"""Shows text as it is, in characters that the terminal has."""

import io
from typing import IO, Any

from rich.console import Console
from rich.text import Text

# In place of what an encoding lacks.
_PLAIN = {"±": "+-", "↑": "^", "↓": "v"}


def visible(text: str) -> str:
    r"""Writes out what terminals and Matplotlib would obey or hide: control characters, line breaks, directions.

    Args:
        text: Any text, such as a name from a results file.

    Returns:
        One line, with escapes as in Python's string literals.

    Example:
        >>> print(visible("red: \x1b[31m, new line: \n, as it is: é"))
        red: \x1b[31m, new line: \n, as it is: é
    """
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


class Terminal(Console):
    """A console where no text is markup, an emoji code or an escape code, whatever it looks like."""

    def __init__(self, file: IO[str] | None = None):
        """Starts at 132 characters a line where there is no terminal.

        Args:
            file: Where text goes, as text alone; None for standard output, or what a notebook shows.
        """
        # In a notebook, Rich would take every file for the notebook's.
        shown = None if file is None else False
        super().__init__(
            file=file, markup=False, emoji=False, highlight=False, force_jupyter=shown, force_terminal=shown
        )
        if isinstance(self.file, io.TextIOWrapper):
            # What Rich draws by itself, such as the dots where it cuts a line.
            self.file.reconfigure(errors="replace")
        if not self.is_terminal:
            self.width = 132

    def render_str(self, text: str, **options: Any) -> Text:
        """Makes what is shown of any text: of titles, cells and messages alike.

        Args:
            text: Any text.
            **options: As Rich takes them.

        Returns:
            The text in characters that the terminal has.
        """
        return super().render_str(_encodable("\n".join(map(visible, text.split("\n"))), self.encoding), **options)


def _encodable(text, encoding):
    for character, plain in _PLAIN.items():
        if not character.encode(encoding, "ignore"):
            text = text.replace(character, plain)
    return text.encode(encoding, "backslashreplace").decode(encoding)
