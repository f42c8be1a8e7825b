"""Errors that the user of a comparison can correct."""


class ComparisonError(ValueError):
    """A comparison cannot be made as it was asked for; the message says what to change."""


def one_line(message: object) -> str:
    """Returns a message without line breaks."""
    return " ".join(str(message).split())
