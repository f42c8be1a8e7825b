"""`python -m experiments claims`: measures what papers claim, and writes the results."""

import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from rich import table
from rich.console import Console

import experiments
from experiments import claims
from optkit.comparison import environment
from optkit.comparison.figure import STYLE, save
from optkit.comparison.progress import counting
from optkit.comparison.records import (
    FLAG_OR_NULL,
    HARDWARE,
    NOT_NEGATIVE,
    TEXT,
    TEXT_OR_NULL,
    VERSIONS,
    mapping_of,
    object_of,
    read_json,
)
from optkit.comparison.store import hold, write_results

RESULTS = pathlib.Path(__file__).parent / "results"
_CLAIMS = mapping_of(
    object_of(
        **dict.fromkeys(("method", "arxiv", "statement", "experiment", "required", "measured"), TEXT),
        holds=FLAG_OR_NULL,
        figure=TEXT_OR_NULL,
        seconds=NOT_NEGATIVE,
        versions=VERSIONS,
        hardware=HARDWARE,
    )
)
VERDICTS = {True: "holds", False: "**fails**", None: "reported"}


def run(names: Sequence[str], folder: pathlib.Path, console: Console) -> None:
    """Measures claims, and writes `claims.json`, `claims.md` and figures.

    Results are written after every claim, and those of other claims stay, so that a run can be interrupted.

    Args:
        names: the claims that are measured, or families of which all are; all claims if there are none.
        folder: where results go.
        console: where to show progress and the table.

    Raises:
        UserError: if there is no such claim or family.
        ComparisonError: if results cannot be written.
    """
    chosen = claims.load(names)
    known = claims.load()
    file = folder / "claims.json"
    with hold(folder, wait=True):
        read(file)
    versions, hardware, measured = environment.versions(experiments), environment.hardware(), {}
    with counting(console, 60) as bars:
        bar = bars.add_task("", total=len(chosen))
        for name, claim in chosen.items():
            bars.update(bar, description=name)
            begin = time.perf_counter()
            finding = claim.measure()
            seconds = time.perf_counter() - begin
            if bars.disable:
                console.print(f"{name}: {finding.measured} ({_plain(finding.holds)}, {seconds:.0f} s)")
            picture = folder / f"claim-{name.replace('/', '-')}.png"
            measured[name] = {
                "method": claim.method,
                "arxiv": claim.arxiv,
                "statement": claim.statement,
                "experiment": claim.experiment,
                "required": claim.required,
                "measured": finding.measured,
                "holds": None if finding.holds is None else bool(finding.holds),
                "figure": picture.name if finding.draw else None,
                "seconds": round(seconds, 1),
                "versions": versions,
                "hardware": hardware,
            }
            with hold(folder, wait=True):
                if finding.draw:
                    _draw(finding.draw, claim.statement, picture)
                there = read(file) | measured
                kept = {name: there[name] for name in known if name in there}
                write_results(file, kept, markdown(kept))
            bars.advance(bar)
    console.print(_table(measured))
    console.print(f"written to {folder / 'claims.md'}")


def read(file: pathlib.Path) -> dict[str, Any]:
    """Reads results of claims; none if there is no file.

    Args:
        file: a `claims.json`.

    Returns:
        The records by the claims' names.

    Raises:
        ComparisonError: if it is something else.
    """
    return read_json(file, _CLAIMS) or {}


def markdown(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the results as a page of Markdown, a table for each family.

    Args:
        records: the content of `claims.json`, in the order of `claims.load`.
    """
    counts = [sum(record["holds"] is verdict for record in records.values()) for verdict in VERDICTS]
    lines = [
        "# Claims",
        "",
        "Written by `python -m experiments claims`. Each row is a claim at toy scale, its margin fixed beforehand.",
        f"{counts[0]} hold, {counts[1]} fail, {counts[2]} are reported without a margin.",
    ]
    for family in dict.fromkeys(name.split("/")[0] for name in records):
        lines += ["", f"## {family}", ""]
        lines += ["| claim | experiment | required | measured | result |", "|---|---|---|---|---|"]
        for name, record in records.items():
            if name.startswith(f"{family}/"):
                lines.append(_row(record))
    return "\n".join(lines) + "\n"


def _row(record):
    paper = f" ([{record['arxiv']}](https://arxiv.org/abs/{record['arxiv']}))" if record["arxiv"] else ""
    claim = f"`{record['method']}`{paper}: {record['statement']}"
    verdict = VERDICTS[record["holds"]]
    if record["figure"]:
        verdict += f" ([figure]({record['figure']}))"
    cells = (claim, record["experiment"], record["required"], record["measured"], verdict)
    escaped = (" ".join(cell.replace("|", r"\|").split()) for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _draw(draw, title, file):
    with mpl.rc_context(STYLE):
        picture = Figure(figsize=(7.5, 4.6), layout="constrained")
        axes = picture.subplots()
        draw(axes)
        axes.set_title(title, wrap=True)
        save(picture, file)


def _table(records):
    shown = table.Table("claim", "measured", "required", "result", title="Claims", title_justify="left")
    for name, record in records.items():
        shown.add_row(name, record["measured"], record["required"], _plain(record["holds"]))
    return shown


def _plain(holds):
    return VERDICTS[holds].strip("*")
