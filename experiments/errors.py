"""The one error that the command line reports."""


class UserError(Exception):
    """What the user can put right: printed as one line, exit code 2."""
