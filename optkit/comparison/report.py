"""The report of a comparison: a self-contained HTML page, the same in Markdown, and what a notebook shows."""

import functools
import inspect
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2

from optkit import catalog
from optkit.comparison import figure, results, table
from optkit.comparison.baselines import YARDSTICK
from optkit.comparison.entries import comparable
from optkit.comparison.records import Record
from optkit.comparison.results import Row
from optkit.comparison.terminal import visible
from optkit.method import Method

FIGURE_CAPTION = (
    "Left: the validation loss during training, at the best learning rate; bands span all seeds. Right: at the end of "
    "training, by learning rate; the best rate is marked."
)
HOVER = "Values appear where the pointer rests on a mark."
# Of more ties than these, the number is told.
MOST_NAMES = 8


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: What it shows.
        value: What it is sorted by.
        grey: Whether it is shown as uncertain.
        link: Where it leads.
    """

    text: str
    value: float | str = ""
    grey: bool = False
    link: str = ""


class Data(NamedTuple):
    """A table: what it shows, the names of its columns, and its rows, of which each begins with a name."""

    caption: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]


def page(records: Sequence[Record], rows: Sequence[Row]) -> str:
    """Returns a whole page.

    Args:
        records: The run's records.
        rows: From `results.summarize`.
    """
    return _render(records, rows, whole=True)


def fragment(records: Sequence[Record], rows: Sequence[Row]) -> str:
    """Returns the ranking and the figure, as part of another page."""
    return _render(records, rows, whole=False)


def markdown(records: Sequence[Record], rows: Sequence[Row], picture: str) -> str:
    """Returns the report as Markdown.

    Args:
        records: The run's records.
        rows: From `results.summarize`.
        picture: Path of the figure, relative to the report.
    """
    content = _content(records, rows)
    lines = [f"# {_escaped(content['title'])}", ""]
    lines += [line for sentence in content["sentences"] for line in (_escaped(sentence), "")]
    lines += ["## Ranking", "", *_markdown_table(content["ranking"]), "", _escaped(content["caption"]), ""]
    lines += ["## Curves and sensitivity", "", f"![{_escaped(FIGURE_CAPTION)}]({picture})", ""]
    lines += [*_markdown_table(content["sensitivity"]), "", "## Cost", "", *_markdown_table(content["cost"]), ""]
    lines += ["## Diverged trainings", ""]
    lines += [*_markdown_table(content["diverged"])] if content["diverged"].rows else ["None."]
    lines += ["", "## The optimizers", "", *_markdown_table(content["methods"]), "", "## How to reproduce", ""]
    lines += [*(f"    {line}" for line in content["call"].split("\n")), ""]
    lines += [f"- {_escaped(name)}: {_escaped(value)}" for name, value in content["conditions"]]
    return "\n".join(lines) + "\n"


@functools.cache
def _template():
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("optkit.comparison", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.jinja")


def _render(records, rows, *, whole):
    picture = figure.as_svg(figure.draw(records[0], rows))
    content = _content(records, rows)
    return _template().render(content, whole=whole, figure=picture, figure_caption=f"{FIGURE_CAPTION} {HOVER}")


def _content(records: Sequence[Record], rows: Sequence[Row]) -> dict[str, Any]:
    header = records[0]
    settings = header["settings"]
    return {
        "title": f"Comparison of optimizers on {table.title(header)}",
        "sentences": _sentences(records, rows),
        "ranking": _ranking(rows),
        "caption": table.CAPTION,
        "sensitivity": _sensitivity(rows, settings["tune"]),
        "cost": _cost(header, rows),
        "diverged": _diverged(records),
        "methods": _methods(records),
        "call": _call(settings),
        "conditions": _conditions(header),
    }


def _sentences(records, rows):
    survivors = [row for row in rows if not row.diverged]
    if not survivors:
        return ["No optimizer has finished without diverging."]
    first, *others = survivors
    ties = [row.optimizer for row in others if row.rank == first.rank]
    told = [f"{visible(first.optimizer)} has the least test loss, {table.plus_minus(*first.test['loss'])}."]
    if ties:
        more = f", and {len(ties) - MOST_NAMES} more" if len(ties) > MOST_NAMES else ""
        names = ", ".join(map(visible, ties[:MOST_NAMES]))
        told.append(f"Tied with it, because no test tells them apart: {names}{more}.")
    trainings = [one for one in records[1:] if one["record"] == "training" and one["optimizer"] == YARDSTICK]
    resolution = results.resolution(results.losses_of_best(trainings), 0.01) if trainings else None
    return [*told, resolution] if resolution else told


def _number(value: float, text: str) -> Cell:
    return Cell("" if math.isnan(value) else text, value)


def _name(row):
    return Cell(visible(row.optimizer))


def _ranking(rows):
    metrics = sorted(rows[0].test, key="loss".__ne__) if rows else []
    columns = ("optimizer", "rank", *(f"test {visible(metric)}" for metric in metrics))
    columns += ("minus adamw", "p", "± from the choice of test examples", "speed up", "best learning rate")
    lines = []
    for row in rows:
        if row.diverged:
            blank = [Cell("")] * (len(columns) - 3)
            lines.append((_name(row), _number(row.rank, f"{row.rank}"), Cell("diverged"), *blank))
            continue
        shown, is_open = table.speed_up(row)
        lines.append(
            (
                _name(row),
                _number(row.rank, f"{row.rank}"),
                *(Cell(table.plus_minus(*row.test[metric]), row.test[metric][0]) for metric in metrics),
                Cell(table.difference(row), row.difference.mean),
                _number(row.p, f"{row.p:.2g}"),
                _number(row.test_noise, f"{row.test_noise:.2g}"),
                Cell(shown, row.speed_up, is_open),
                Cell(f"{row.rate:.2g} {row.edge}".rstrip(), row.rate),
            )
        )
    return Data("Test results at the learning rate of least validation loss, the best optimizer first", columns, lines)


def _sensitivity(rows, tune):
    columns = ("optimizer", "decades within 5%", "best rate", "smallest rate tried", "largest rate tried", *tune)
    lines = []
    for row in rows:
        width = table.plus_minus(row.sensitivity.mean, (row.sensitivity.high - row.sensitivity.low) / 2)
        shown = f"{'at least ' if row.open_ended else ''}{width}"
        others = [Cell(f"{row.tuned[name]:.4g}" if name in row.tuned else "") for name in tune]
        rates = (row.rate, row.rates[0], row.rates[-1])
        lines.append(
            (
                _name(row),
                Cell("diverged" if row.diverged else shown, row.sensitivity.mean),
                Cell(f"{row.rate:.2g} {row.edge}".rstrip(), row.rate),
                *(Cell(f"{rate:.2g}", rate) for rate in rates[1:]),
                *others,
            )
        )
    caption = (
        "Decades of learning rates in which the validation loss is at most 5% above the least one, with a 95% interval "
        "over seeds; and what was tuned"
    )
    return Data(caption, columns, lines)


def _cost(header, rows):
    parameters = header["data"]["parameters"]
    lines = [
        (
            _name(row),
            _number(row.relative_time, f"{row.relative_time:.2f}x"),
            Cell(f"{row.state_bytes_per_parameter:.2f}", row.state_bytes_per_parameter),
            Cell(f"{row.state_bytes_per_parameter * parameters:,.0f}", row.state_bytes_per_parameter * parameters),
        )
        for row in rows
    ]
    caption = f"Time of a step, and memory of the optimizer's state for {parameters:,} parameters"
    return Data(caption, ("optimizer", "time / adamw's", "state, bytes per parameter", "state, bytes"), lines)


def _diverged(records):
    lines = []
    for optimizer in records[0]["settings"]["optimizers"]:
        own = [one for one in records[1:] if one["record"] == "training" and one["optimizer"] == optimizer]
        wild = [one["learning_rate"] for one in own if math.isinf(results.final_loss(one))]
        if wild:
            count = Cell(f"{len(wild)} of {len(own)}", len(wild))
            lines.append((Cell(visible(optimizer)), count, Cell(f"{min(wild):.2g}", min(wild))))
    caption = "Trainings whose loss was not finite, or more than ten times that at the start"
    return Data(caption, ("optimizer", "diverged", "from the learning rate"), lines)


def _methods(records):
    known = {**catalog.METHODS, **comparable()}
    own = {record["optimizer"]: record["summary"] for record in records if record["record"] == "optimizer"}
    lines = []
    for name in records[0]["settings"]["optimizers"]:
        method = None if name in own else known.get(name)
        summary, advice, paper = own.get(name, ""), "", Cell("")
        if method is not None:
            summary, advice = method.summary, _advice(method)
            if method.paper:
                link = f"https://arxiv.org/abs/{method.paper.arxiv}" if method.paper.arxiv else ""
                text = f"{method.paper.authors} ({method.paper.year}), {method.paper.title}"
                paper = Cell(text, method.paper.year, link=link)
        lines.append((Cell(visible(name)), Cell(visible(summary)), Cell(advice), paper))
    return Data("What was compared", ("optimizer", "what it does", "when to use it", "paper"), lines)


def _advice(method: Method) -> str:
    """The paragraphs of its docstring that say when to use a method and when to avoid it."""
    paragraphs = (inspect.getdoc(method.factory) or "").split("\n\n")
    chosen = [" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.startswith(("Use it", "Avoid it"))]
    return " ".join(chosen)


def _call(settings):
    optimizers = ", ".join(map(repr, settings["optimizers"]))
    lines = ["optkit.compare(", f"    [{optimizers}],", f"    task={settings['task']},"]
    given = {**settings, "seeds": len(settings["seeds"]), "tune": tuple(settings["tune"])}
    lines += [
        f"    {name}={given[name]!r},"
        for name in ("steps", "rates", "rounds", "seeds", "weight_decay", "tune", "workers")
    ]
    return "\n".join([*map(visible, lines), ")"])


def _conditions(header):
    groups = {"": header["hardware"], "version of ": header["versions"], "data: ": header["data"]}
    return [
        (visible(f"{prefix}{name}"), visible(str(value)))
        for prefix, group in groups.items()
        for name, value in group.items()
    ]


def _escaped(text):
    """Text that Markdown shows as it is."""
    return "".join(f"\\{x}" if x in "\\`*_{}[]<>#|&!~$" else x for x in visible(text))


def _markdown_table(data):
    head = [_escaped(column) for column in data.columns]
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in data.rows:
        cells = [f"[{_escaped(cell.text)}]({cell.link})" if cell.link else _escaped(cell.text) for cell in row]
        yield f"| {' | '.join(cells)} |"
