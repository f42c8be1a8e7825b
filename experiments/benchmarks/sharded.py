"""`python -m experiments bench sharded`: what optimizers of matrices send between devices in one step.

Nothing is run: the numbers are read from programs that are compiled for eight CPU devices.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import experiments
import optkit
from experiments.benchmarks.update import RESULTS
from optkit.comparison import environment
from optkit.comparison.store import hold, write_results
from optkit.core.cost import hlo

DEVICES = 8
SHAPES = ((1024, 512), (512, 1024), (4096, 1024))
MESHES = ((4, 2), (8, 1), (2, 4))
RANKS = (64, 128)
AXES = ("fsdp", "tensor")
SPEC = PartitionSpec(*AXES)
LEARNING_RATE = 1e-2
# What a step of Dion may send: matrix, rank, mesh, bytes.
MOST_SENT = ((1024, 512), 64, (4, 2), 0.2e6)

EXPLANATION = """\
One step is `update` and `optax.apply_updates` of one float32 matrix, a kernel of inputs times outputs. Its inputs are
sharded over the first axis of the mesh and its outputs over the second one. Bytes are those that each device sends to
others, on rings: in a group of g devices, each of which holds b bytes before, an all-reduce sends 2 (g - 1) / g b and
an all-gather (g - 1) b. A loop until columns are orthonormal counts once; it is taken two to five times, and each time
sends the products of the factor's columns again, rank x rank numbers, over the axis of its rows. `sharded_dion` is the
form for `jax.shard_map`, the others are partitioned by `jax.jit`, on automatic or explicit mesh axes, on which
`optax.contrib.muon` cannot run."""

DATA_PARALLEL = """\
Each worker has the whole matrix and gradients of its own data. Averaging the gradient sends all of its numbers,
averaging Dion's factors (inputs + outputs) times the rank; on rings each number goes 2 (g - 1) / g times, here 1.75."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Where results go.

    Attributes:
        out: the folder of the results.
    """

    out: pathlib.Path = RESULTS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What one program sends.

    Attributes:
        shape: inputs and outputs of the matrix.
        mesh: sizes of the mesh; of one axis where workers are data-parallel.
        method: the optimizer.
        axes: of the mesh: automatic, explicit, or manual as inside `jax.shard_map`.
        rank: of Dion; None for others.
        sent: bytes that a device sends in a step, by kind of collective.
        open_loops: how many loops count once.
    """

    shape: tuple[int, int]
    mesh: tuple[int, ...]
    method: str
    axes: str
    rank: int | None
    sent: Mapping[str, int]
    open_loops: int

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return sum(self.sent.values())

    def line(self) -> str:
        """Returns the gist."""
        return " ".join((*_cells(COLUMNS, self)[:-3], f"{self.total / 1e6:.3g} MB"))


def run(options: Options, console: Console) -> None:
    """Compiles all programs, and writes `bench-sharded.json` and `.md`.

    Args:
        options: where to.
        console: where to show progress and the tables.

    Raises:
        ComparisonError: if results cannot be written.
    """
    file = options.out / "bench-sharded.json"
    rows = []
    for row in measure():
        rows.append(row)
        console.print(row.line())
    with hold(options.out, wait=True):
        write_results(file, _content(rows), markdown(rows))
    for table in _tables(rows):
        console.print(table)
    console.print(f"written to {file.with_suffix('.md')}")


def measure() -> Iterator[Row]:
    """Compiles one program after the other.

    Yields:
        What it sends.
    """
    for shape in SHAPES:
        for sizes in MESHES:
            row = functools.partial(Row, shape=shape, mesh=sizes)
            automatic, explicit = (_mesh(sizes, kind) for kind in (AxisType.Auto, AxisType.Explicit))
            for rank in RANKS:
                dion = optkit.dion(LEARNING_RATE, rank=rank)
                for axes, mesh in (("automatic", automatic), ("explicit", explicit)):
                    yield row(method="dion", axes=axes, rank=rank, **_partitioned(dion, shape, mesh))
                yield row(method="sharded_dion", axes="manual", rank=rank, **_three_axes(shape, rank, automatic))
            muon = optkit.muon(LEARNING_RATE)
            for axes, mesh in (("automatic", automatic), ("explicit", explicit)):
                yield row(method="muon", axes=axes, rank=None, **_partitioned(muon, shape, mesh))
            optax_muon = _partitioned(optax.contrib.muon(LEARNING_RATE), shape, automatic)
            yield row(method="optax.contrib.muon", axes="automatic", rank=None, **optax_muon)
        row = functools.partial(Row, shape=shape, mesh=(DEVICES,), axes="manual")
        for rank in RANKS:
            factors = optkit.dion(LEARNING_RATE, rank=rank, axis_name="workers")
            yield row(method="dion, averaged factors", rank=rank, **_data_parallel(factors, shape))
            gradients = optax.chain(_average(), optkit.dion(LEARNING_RATE, rank=rank))
            yield row(method="dion, averaged gradients", rank=rank, **_data_parallel(gradients, shape))


def _mesh(sizes, axis_type):
    return jax.make_mesh(sizes, AXES, axis_types=(axis_type,) * 2, devices=jax.devices("cpu")[:DEVICES])


def _partitioned(tx, shape, mesh):
    params: Any = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, SPEC))
    return _sent(optkit.cost(tx, params))


def _data_parallel(tx, shape):
    params: Any = jax.ShapeDtypeStruct(shape, jnp.float32)
    return _sent(optkit.cost(tx, params, axis_name="workers", axis_size=DEVICES))


def _three_axes(shape: tuple[int, int], rank: int, mesh: Mesh) -> dict[str, Any]:
    tx = optkit.sharded_dion(LEARNING_RATE, SPEC, rank / min(shape), fsdp_axis="fsdp", tp_axis="tensor")
    params: Any = jax.ShapeDtypeStruct(shape, jnp.float32)
    states = optkit.sharded_dion_specs(tx, params, SPEC, fsdp_axis="fsdp", tp_axis="tensor")

    def step(params, state, gradients):
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    init = jax.shard_map(tx.init, mesh=mesh, in_specs=SPEC, out_specs=states)
    step = jax.shard_map(step, mesh=mesh, in_specs=(SPEC, states, SPEC), out_specs=(SPEC, states))
    lowered = jax.jit(step).lower(params, jax.eval_shape(init, params), params)
    return _sent(hlo.read(lowered.compile(), lowered))


def _average():
    return optax.stateless(lambda updates, _: jax.lax.pmean(updates, "workers"))


def _sent(work: optkit.Cost | hlo.Work) -> dict[str, Any]:
    sent = {kind: round(size) for kind, size in sorted((work.sent or {}).items()) if round(size)}
    return {"sent": sent, "open_loops": work.open_loops or 0}


def verdicts(rows: Sequence[Row]) -> list[tuple[str, str, bool]]:
    """Holds rows against the targets.

    Args:
        rows: any rows; those without targets are passed over.

    Returns:
        For each row with a target: what it is, what it sends, and whether it meets it.
    """
    found = []
    shape, rank, mesh, most = MOST_SENT
    for row in rows:
        if (row.shape, row.rank, row.mesh) == (shape, rank, mesh) and row.method == "dion":
            target = f"dion, {row.axes} axes: no all-gather, at most {most / 1e6:.1f} MB"
            met = "all-gather" not in row.sent and row.total <= most
            found.append((target, f"{', '.join(row.sent)}: {row.total / 1e6:.3f} MB", met))
        if row.method == "dion, averaged factors" and row.rank is not None:
            numbers = min(row.rank * sum(row.shape), row.shape[0] * row.shape[1])
            expected = 4 * numbers * 2 * (DEVICES - 1) / DEVICES
            target = f"{_by(row.shape)}, rank {row.rank}: {numbers:,} numbers a worker"
            measured = f"{row.total / (4 * 2 * (DEVICES - 1) / DEVICES):,.0f}"
            found.append((target, measured, abs(row.total - expected) <= 0.01 * expected))
    return found


def _content(rows):
    return {
        "rows": [dataclasses.asdict(row) for row in rows],
        "targets": [dict(zip(("target", "measured", "met"), verdict, strict=True)) for verdict in verdicts(rows)],
        "versions": environment.versions(experiments),
    }


def _by(sizes):
    return " x ".join(map(str, sizes))


COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "matrix": lambda row: _by(row.shape),
    "mesh": lambda row: _by(row.mesh),
    "method": lambda row: row.method,
    "axes": lambda row: row.axes,
    "rank": lambda row: "" if row.rank is None else str(row.rank),
    "sent, kB": lambda row: f"{row.total / 1e3:,.1f}",
    "of these": lambda row: ", ".join(f"{kind} {size / 1e3:,.1f}" for kind, size in row.sent.items()),
    "loops": lambda row: str(row.open_loops),
}


def _cells(columns, row):
    return [cell(row) for cell in columns.values()]


def _tables(rows):
    for title, part in _parts(rows).items():
        table = Table(*COLUMNS, title=title, box=SIMPLE_HEAD)
        for row in part:
            table.add_row(*_cells(COLUMNS, row))
        yield table
    table = Table("target", "measured", "", title="Targets", box=SIMPLE_HEAD)
    for target, measured, met in verdicts(rows):
        table.add_row(target, measured, "met" if met else "missed")
    yield table


def _parts(rows):
    return {
        "Sharded matrices": [row for row in rows if len(row.mesh) == 2],
        "Data-parallel workers": [row for row in rows if len(row.mesh) == 1],
    }


def markdown(rows: Sequence[Row]) -> str:
    """Lays rows out as a page.

    Args:
        rows: the rows.

    Returns:
        Markdown.
    """
    versions = environment.versions(experiments)
    lines = ["# What a step sends", "", "Written by `python -m experiments bench sharded`."]
    lines += [f"jax {versions['jax']}, optax {versions['optax']}; compiled for {DEVICES} CPU devices, not run."]
    texts = dict(zip(_parts(rows), (EXPLANATION, DATA_PARALLEL), strict=True))
    for title, part in _parts(rows).items():
        lines += [
            "",
            f"## {title}",
            "",
            texts[title],
            "",
            *_markdown_table(COLUMNS, (_cells(COLUMNS, r) for r in part)),
        ]
    found = ((target, measured, "met" if met else "**missed**") for target, measured, met in verdicts(rows))
    lines += ["", "## Targets", "", *_markdown_table(("target", "measured", "result"), found)]
    return "\n".join(lines) + "\n"


def _markdown_table(columns, rows):
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]
