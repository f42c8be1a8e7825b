"""Progress bars, or plain lines where neither a terminal nor a notebook can show bars."""

import contextlib
import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Self

from rich import progress
from rich.console import Console

from optkit.comparison.terminal import visible


def counting(console: Console, width: int) -> progress.Progress:
    """Makes a bar that counts what is finished.

    Args:
        console: Where to show it.
        width: Characters for what is being done.

    Returns:
        Rich's progress; disabled where lines must stand for it.
    """
    return _bars(
        console,
        progress.TextColumn(f"{{task.description:{width}}}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
    )


def _bars(console, *columns):
    # In a notebook, Rich draws bars by ipywidgets.
    in_notebook = console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
    in_terminal = console.is_terminal and not console.is_dumb_terminal
    return progress.Progress(*columns, console=console, disable=not (in_notebook or in_terminal))


class Progress(contextlib.AbstractContextManager):
    """Shows how far each optimizer's trainings are, with the best validation loss and the time left."""

    def __init__(self, console: Console, total: int):
        """Starts without bars.

        Args:
            console: Where to show them.
            total: Steps of each optimizer.
        """
        self._console = console
        self._total = total
        self._bars = _bars(
            console,
            progress.TextColumn("{task.description:20}", markup=False),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TextColumn("validation loss {task.fields[loss]}"),
            progress.TimeRemainingColumn(),
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *exception) -> None:
        self._bars.stop()

    @contextlib.contextmanager
    def optimizer(self, name: str) -> Iterator[Callable[[int, float], None]]:
        """Adds an optimizer.

        Args:
            name: Its name.

        Yields:
            What to call with the steps done and the loss.
        """
        name = visible(name)
        begin, first, lines = time.monotonic(), None, 0
        bar = self._bars.add_task(name, total=self._total, loss="")

        def show(done, loss):
            nonlocal first, lines
            self._bars.update(bar, completed=done, loss=f"{loss:.4g}")
            first = done if first is None else first
            if self._bars.disable and done * 4 // self._total > lines:
                lines = done * 4 // self._total
                left = (time.monotonic() - begin) * (self._total - done) / max(done - first, 1)
                self._console.print(
                    f"{name}: {done}/{self._total} steps, validation loss {loss:.4g}, {left:.0f} s left",
                    highlight=False,
                )

        yield show
        self._bars.update(bar, completed=self._total)
