"""`python -m experiments bench compile`: how compile time grows with the layers of a transformer.

Layers repeat their shapes. An optimizer that handles each leaf by itself makes a program that is as many times longer
as there are layers; one that stacks leaves of equal shape need not.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import experiments
import optkit
from experiments.benchmarks.measured_rows import markdown_table
from experiments.benchmarks.transformer import SIZES, parameters
from experiments.benchmarks.update import RESULTS
from optkit.comparison import environment
from optkit.comparison.store import hold, write_results

LAYERS = (12, 48)
LEARNING_RATE = 1e-3
METHODS: Mapping[str, Callable[[float], optax.GradientTransformation]] = {
    "dion": optkit.dion,
    "muon": optkit.muon,
    "scale_by_muon": lambda _: optax.masked(
        optkit.scale_by_muon(), lambda tree: jax.tree.map(lambda x: x.ndim == 2, tree)
    ),
    "optax.contrib.muon": optax.contrib.muon,
    "optax.adamw": optax.adamw,
}
# How many times longer the deeper of two transformers may take, for methods of this library.
MOST_GROWTH = 1.5
# Methods for single leaves are as many times longer as AdamW is; they are compared with it, for 384 leaves in blocks.
LAYERS_BESIDE = 24
ROUNDS_BESIDE = 3
# How many times longer than AdamW each may take.
MOST_TIMES_ADAMW: Mapping[str, float] = {"mars_adamw": 1.5, "adam_snsm": 2.0}
BESIDE: Mapping[str, Callable[[float], optax.GradientTransformation]] = {
    "mars_adamw": optkit.mars_adamw,
    "adam_snsm": optkit.adam_snsm,
}

EXPLANATION = """\
Seconds of processor time, all threads together, to trace, lower and compile one step: `update` and
`optax.apply_updates` on the kernels, biases, norms and embeddings of a decoder as wide as that of `bench update --size
7M`. Nothing is run. `scale_by_muon` is Muon on the matrices alone, without the AdamW of `muon` on ten vectors a layer,
each of which Optax computes by itself."""
EXPLANATION_BESIDE = f"""\
Seconds of processor time as above, the least of {ROUNDS_BESIDE} turns that each method takes with AdamW, for
{LAYERS_BESIDE} layers, which have 384 leaves. These methods handle each leaf by itself, as AdamW does, and XLA compiles
every kernel of every leaf."""
# What makes a method so much longer to compile than AdamW.
WHY: Mapping[str, str] = {
    "adam_snsm": "more than half of what is above AdamW is the branch that finds new subspaces, which copies each "
    "matrix for LAPACK, checks it, and takes its vectors from the result; the rest is two products and a sum a matrix",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Where results go.

    Attributes:
        out: the folder of the results.
    """

    out: pathlib.Path = RESULTS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What one method takes to compile.

    Attributes:
        method: the optimizer.
        layers: of the transformers.
        trace_seconds: until the program is known to JAX, for each of them.
        lower_seconds: until it is written out for XLA.
        compile_seconds: until it could run.
    """

    method: str
    layers: tuple[int, ...]
    trace_seconds: tuple[float, ...]
    lower_seconds: tuple[float, ...]
    compile_seconds: tuple[float, ...]

    @property
    def seconds(self) -> tuple[float, ...]:
        """All together."""
        return tuple(map(sum, zip(self.trace_seconds, self.lower_seconds, self.compile_seconds, strict=True)))

    @property
    def growth(self) -> float:
        """How many times longer the deepest transformer takes than the first."""
        return self.seconds[-1] / self.seconds[0]

    def line(self) -> str:
        """Returns the gist."""
        first, last = self.layers[0], self.layers[-1]
        return f"{self.method}: {self.seconds[-1]:.3g} s for {last} layers, {self.growth:.2f} times that for {first}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowBeside:
    """What one method takes to compile beside AdamW.

    Attributes:
        method: the optimizer.
        seconds: to trace, lower and compile its step.
        adamw_seconds: AdamW's.
    """

    method: str
    seconds: float
    adamw_seconds: float

    @property
    def ratio(self) -> float:
        """The first over the second."""
        return self.seconds / self.adamw_seconds

    @property
    def met(self) -> bool:
        """Whether that is within the target."""
        return self.ratio <= MOST_TIMES_ADAMW[self.method]

    def line(self) -> str:
        """Returns the gist."""
        return f"{self.method}: {self.seconds:.3g} s for {LAYERS_BESIDE} layers, {self.ratio:.2f} times optax.adamw"


def run(options: Options, console: Console) -> None:
    """Compiles a step of each method for each depth, and writes `bench-compile.json` and `.md`.

    Args:
        options: where to.
        console: where to show progress and the table.

    Raises:
        ComparisonError: if results cannot be written.
    """
    file = options.out / "bench-compile.json"
    _seconds(optax.sgd(LEARNING_RATE), 1)  # What only the first program of a process takes.
    rows = []
    for name, factory in METHODS.items():
        rows.append(measure(name, factory(LEARNING_RATE)))
        console.print(rows[-1].line())
    beside = []
    for name, factory in BESIDE.items():
        beside.append(measure_beside(name, factory(LEARNING_RATE)))
        console.print(beside[-1].line())
    content = {
        "rows": [{**dataclasses.asdict(row), "growth": row.growth} for row in rows],
        "beside_adamw": [{**dataclasses.asdict(row), "ratio": row.ratio, "met": row.met} for row in beside],
        "targets": [{"method": name, "growth": growth, "met": met} for name, growth, met in verdicts(rows)],
        "versions": environment.versions(experiments),
        "hardware": environment.hardware(),
    }
    with hold(options.out, wait=True):
        write_results(file, content, markdown(rows, beside))
    table = Table(*_columns(), title="Processor seconds to compile a step", box=SIMPLE_HEAD)
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    console.print(f"written to {file.with_suffix('.md')}")


def measure(method: str, tx: optax.GradientTransformation) -> Row:
    """Compiles a step of one method for each depth.

    Args:
        method: what to call it.
        tx: the optimizer.

    Returns:
        What it took.
    """
    trace, lower, compile_ = zip(*(_seconds(tx, layers) for layers in LAYERS), strict=True)
    return Row(method=method, layers=tuple(LAYERS), trace_seconds=trace, lower_seconds=lower, compile_seconds=compile_)


def measure_beside(method: str, tx: optax.GradientTransformation) -> RowBeside:
    """Compiles a step of one method and one of AdamW in turns.

    Args:
        method: what to call it.
        tx: the optimizer.

    Returns:
        What both took. What else the machine does only slows a turn down: the least counts.
    """
    adamw = optax.adamw(LEARNING_RATE)
    turns = [[sum(_seconds(each, LAYERS_BESIDE)) for each in (tx, adamw)] for _ in range(ROUNDS_BESIDE)]
    seconds, adamw_seconds = map(min, zip(*turns, strict=True))
    return RowBeside(method=method, seconds=seconds, adamw_seconds=adamw_seconds)


def _seconds(tx: optax.GradientTransformation, layers: int) -> tuple[float, float, float]:
    def step(params, state, gradients):
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params: Any = parameters(SIZES["7M"]._replace(layers=layers), "float32")
    state = jax.eval_shape(tx.init, params)
    times = [time.process_time()]
    traced = jax.jit(step, donate_argnums=(0, 1)).trace(params, state, params)
    times.append(time.process_time())
    lowered = traced.lower()
    times.append(time.process_time())
    lowered.compile()
    times.append(time.process_time())
    return times[1] - times[0], times[2] - times[1], times[3] - times[2]


def verdicts(rows: Sequence[Row]) -> list[tuple[str, float, bool]]:
    """Holds rows against the target.

    Args:
        rows: any rows; those of Optax are passed over.

    Returns:
        For each other row its method, its growth, and whether that is within the target.
    """
    return [(row.method, row.growth, row.growth <= MOST_GROWTH) for row in rows if not row.method.startswith("optax")]


def _columns():
    return ["method", *(f"{layers} layers" for layers in LAYERS), "ratio", f"at most {MOST_GROWTH}"]


def _cells(row):
    met = {method: "met" if met else "missed" for method, _, met in verdicts([row])}
    return [row.method, *(f"{second:.2f}" for second in row.seconds), f"{row.growth:.2f}", met.get(row.method, "")]


def markdown(rows: Sequence[Row], beside: Sequence[RowBeside]) -> str:
    """Lays rows out as a page.

    Args:
        rows: the rows.
        beside: those beside AdamW.

    Returns:
        Markdown.
    """
    hardware, versions = environment.hardware(), environment.versions(experiments)
    machine = f"{hardware['devices']}, {hardware['processors']} processors, {hardware['platform']}"
    lines = [
        "# Compile time",
        "",
        "Written by `python -m experiments bench compile`.",
        f"{machine}; jax {versions['jax']}, optax {versions['optax']}",
        "",
        EXPLANATION,
        "",
        *markdown_table(_columns(), map(_cells, rows)),
        "",
        "## Beside AdamW",
        "",
        EXPLANATION_BESIDE,
        "",
        *markdown_table(
            ("method", "s", "optax.adamw's s", "ratio", "at most", "result", "why so long"), map(_cells_beside, beside)
        ),
    ]
    return "\n".join(lines) + "\n"


def _cells_beside(row):
    numbers = (f"{number:.2f}" for number in (row.seconds, row.adamw_seconds, row.ratio))
    result = "met" if row.met else "**missed**"
    return [row.method, *numbers, f"{MOST_TIMES_ADAMW[row.method]}", result, WHY.get(row.method, "")]
