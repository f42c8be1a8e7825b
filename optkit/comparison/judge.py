"""`optkit.compare`: which optimizer for this model and these data, at what cost."""

import dataclasses
import io
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from rich.table import Table

from optkit.comparison import entries, results, run
from optkit.comparison.errors import ComparisonError
from optkit.comparison.records import COMPARISON, Record, read_records
from optkit.comparison.results import Row
from optkit.comparison.store import write, writing
from optkit.comparison.table import table
from optkit.comparison.task import Task, check
from optkit.comparison.terminal import Terminal
from optkit.core.checks import check_count, check_range
from optkit.method import Method


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """The result of a comparison. A notebook shows it as a table and a figure, `print` as a table.

    Attributes:
        folder: The run's folder.
        records: What was recorded: the settings, then each training and each round.
        rows: The results, one `Row` for each optimizer, the least test loss first.
    """

    folder: pathlib.Path
    records: list[Record]
    rows: list[Row]

    @classmethod
    def read(cls, folder: str | pathlib.Path) -> "Comparison":
        """Reads the result of an earlier run.

        Args:
            folder: The run's folder.

        Returns:
            The result; optimizers that have not finished are missing.

        Raises:
            ComparisonError: If the folder holds none, or its files are damaged.
        """
        folder = pathlib.Path(folder)
        records = read_records(folder, COMPARISON)
        if not records:
            raise ComparisonError(f"there is no results.jsonl in {folder}")
        return cls(folder, records, results.summarize(records, folder))

    def table(self) -> Table:
        """Returns the table, which terminals (by `rich.print`) and notebooks show."""
        return table(self.records[0], self.rows)

    def figure(self) -> Any:
        """Returns the figure: validation losses during training, and at its end by learning rate.

        Returns:
            A `matplotlib.figure.Figure`.
        """
        from optkit.comparison import figure  # noqa: PLC0415

        return figure.draw(self.records[0], self.rows)

    def save(self, path: str | pathlib.Path) -> None:
        """Writes a report as a self-contained HTML page, and beside it as Markdown (.md) and its figure (.png).

        Args:
            path: Where the page goes, a path that ends in ".html".

        Raises:
            ComparisonError: If the path ends otherwise, or cannot be written.
        """
        from optkit.comparison import figure, report  # noqa: PLC0415

        path = pathlib.Path(path)
        if path.suffix != ".html":
            raise ComparisonError(f"the path of a report must end in .html, got {path}")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write(path, report.page(self.records, self.rows))
        write(path.with_suffix(".md"), report.markdown(self.records, self.rows, path.with_suffix(".png").name))
        write(path.with_suffix(".png"), figure.as_png(self.figure()))

    def __str__(self) -> str:
        """Returns the table as text."""
        terminal = Terminal(io.StringIO())
        terminal.print(self.table())
        return terminal.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from optkit.comparison import report  # noqa: PLC0415

        return report.fragment(self.records, self.rows)


def compare(
    optimizers: Iterable[str | Method | Callable[..., Any]],
    *,
    task: Task | None = None,
    steps: int | None = None,
    rates: int = 6,
    rounds: int = 3,
    seeds: int = 3,
    weight_decay: float = 0.0,
    tune: Iterable[str] = (),
    workers: int = 1,
    difference: float = 0.01,
    folder: str | pathlib.Path | None = None,
    **problem: Any,
) -> Comparison:
    """Compares optimizers on a model and data of your own, with the same number of trainings for each.

    Each optimizer is trained with `rates` choices of hyperparameters in each of `rounds` rounds, and each choice with
    `seeds` seeds, under the same learning-rate schedule: a warmup over a tenth of the steps, then a cosine to zero. All
    trainings of a round are one compiled program. The first round tries learning rates around the optimizer's usual
    one, later rounds those around the best one so far. The best choice on `validation` is scored on `test`. AdamW is
    always compared, because all others are measured against it.

    Use it to choose an optimizer for a model, or to test a new optimizer against established ones. Avoid it to rank
    optimizers in general: the result holds for this model, these data and this number of steps.

    Args:
        optimizers: What to compare: names (of Optax's optimizers "adamw", "sgd", "lion", "adafactor", "lamb",
            "ademamix", "adopt", "schedule_free_adamw", "sophia", "optax_muon", "momo", "dog", and "prodigy"; and those
            of `optkit.catalog`, variants as "lion_kappa:huber"), functions of optkit or Optax, your own functions of a
            learning rate, and `optkit.method.Method`. The first learning rates of your own function lie around the best
            one of AdamW.
        task: What to train. Default: None, the task that `Task.of` makes of `problem`.
        steps: Number of steps of a training. Default: None, that of the task.
        rates: How many choices of hyperparameters each round tries, at least 2. Default: 6.
        rounds: Number of rounds. Default: 3.
        seeds: Number of trainings, from different initial weights and with batches in a different order, for each
            choice. Default: 3. Differences need 5 or more, unless they are large.
        weight_decay: The weight decay of all optimizers that have one, at least 0. Default: 0.
        tune: Up to two hyperparameters to tune in addition to the learning rate, for example `("b2", "weight_decay")`.
            Rounds then search the learning rate and these in turn, with as many trainings as without. Default: none.
        workers: Number of devices that share a batch. Default: 1.
        difference: The relative difference in test loss for which the number of seeds that it needs is printed.
            Default: 0.01.
        folder: The run's folder. A run that was stopped, by whatever means, continues there. More optimizers, rounds
            and seeds extend a finished run, and nothing is trained twice. Default: None, a folder in `runs` that is
            named after everything that shapes the results.
        **problem: In place of `task`, the arguments of `Task.of`: `loss`, `params`, `train`, `validation`, `test`, and
            optionally `batch_size`, `metrics`, `state`, `name`, and others.

    Returns:
        The result.

    Raises:
        ComparisonError: If an optimizer, the task or the folder is not what it must be. It is a `ValueError`.

    Example:
        >>> import tempfile
        >>> import jax, jax.numpy as jnp, optax, optkit
        >>> x = jax.random.normal(jax.random.key(0), (60, 3))
        >>> data = {"x": x, "y": x @ jnp.array([1.0, -2.0, 0.5])}
        >>> def loss(params, batch):
        ...     return jnp.mean((batch["x"] @ params - batch["y"]) ** 2)
        >>> def my_optimizer(learning_rate):
        ...     return optax.sgd(learning_rate, momentum=0.5)
        >>> result = optkit.compare(
        ...     [my_optimizer],
        ...     loss=loss,
        ...     params=lambda key: jax.random.normal(key, (3,)),
        ...     train=jax.tree.map(lambda leaf: leaf[:40], data),
        ...     validation=jax.tree.map(lambda leaf: leaf[40:50], data),
        ...     test=jax.tree.map(lambda leaf: leaf[50:], data),
        ...     steps=20, batch_size=8, rates=2, rounds=1, seeds=2, folder=tempfile.mkdtemp(),
        ... )  # doctest: +ELLIPSIS
        task on ...
        >>> result.rows[0].optimizer
        'my_optimizer'
    """
    methods = entries.find(optimizers)
    if (task is None) == (not problem):
        raise ComparisonError("give either task or the arguments of Task.of: loss, params, train, validation, test")
    if task is None:
        task = Task.of(**problem)
    else:
        check(task)
    for name, value, least in (
        ("rates", rates, 2),
        ("rounds", rounds, 1),
        ("seeds", seeds, 1),
        ("workers", workers, 1),
    ):
        if not isinstance(value, int) or value < least:
            raise ComparisonError(f"{name} must be an integer of at least {least}, got {value!r}")
    check_range("weight_decay", weight_decay, 0.0)
    check_range("difference", difference, 0.0, low_open=True)
    if steps is not None:
        check_count("steps", steps)
    plan = run.Plan(
        task=task,
        methods=methods,
        steps=steps or task.steps,
        rates=rates,
        rounds=rounds,
        seeds=seeds,
        weight_decay=float(weight_decay),
        tune=tuple(tune),
        workers=workers,
        difference=difference,
        folder=None if folder is None else pathlib.Path(folder),
    )
    return Comparison.read(run.run(plan, Terminal()))
