"""Runs `python -m experiments bench`, as its tests do."""

from experiments import __main__ as command_line


def execute(bench, *arguments):
    return command_line.execute(command_line.parser().parse_args(["bench", bench, *arguments]))


def refused(bench, capsys, *arguments):
    """The one line on standard error with which a command is refused."""
    try:
        code = execute(bench, *arguments)
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error
