"""`python -m experiments bench communication`: what compressed means cost a worker, and from which network on they pay.

A worker's own work is measured: packing its message, with feedback, and unpacking those of all. The network is a
formula: the bytes that a worker sends, over the bandwidth. Latency is left out, which all means have alike.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

import experiments
import optkit
from experiments import links
from experiments.benchmarks.measured_rows import Quartiles, markdown_table, quartiles, with_quartiles
from experiments.benchmarks.transformer import SIZES, parameters
from experiments.benchmarks.turns import take_turns
from experiments.benchmarks.update import RESULTS
from optkit.comparison import environment
from optkit.comparison.store import hold, write_results
from optkit.core.cost import hlo
from optkit.typing import Compressor

DEVICES = 8
TURNS, RUNS = 12, 3
SIZE = "7M"
UNPACKED = 4
# Workers, and the bandwidth between them in bits a second.
NETWORKS = ((4, 1e9), (4, 10e9), (8, 10e9), (64, 10e9), (8, 100e9))


class Means(NamedTuple):
    """A compressed mean.

    Attributes:
        build: makes the transformation from the name of the axis; None for one worker.
        compressor: of the messages; None for a mean whose work is measured whole.
        has_feedback: whether what the message leaves out is added to the next gradient.
    """

    build: Callable[[str | None], optax.GradientTransformation]
    compressor: Callable[[], Compressor] | None = None
    has_feedback: bool = False


def _with_feedback(compressor: Callable[[], Compressor]) -> Means:
    def build(axis_name):
        return optkit.compressed_mean(compressor(), optkit.feedback.ef14(), axis_name=axis_name, layout="gather")

    return Means(build, compressor, has_feedback=True)


MEANS: Mapping[str, Means] = {
    "top-k, 1%": _with_feedback(lambda: optkit.compressors.top_k(0.01)),
    "sign": _with_feedback(optkit.compressors.scaled_sign),
    "ternary": Means(
        lambda axis_name: optkit.terngrad(key=0, axis_name=axis_name, layout="gather"),
        lambda: optkit.compressors.ternary(key=0),
    ),
    "PowerSGD, rank 4": Means(lambda axis_name: optkit.power_sgd(4, axis_name=axis_name)),
}

EXPLANATION = f"""\
A worker holds the float32 gradients of a transformer of {SIZE} parameters. "Packing" is what it does before it sends:
adding its errors, and compressing. "Unpacking" is what it does with {UNPACKED} messages: adding them up, and finding
its new errors. The work of PowerSGD, which sends two factors one after the other and has no messages to unpack, is
measured as a whole. Both take {TURNS} turns in alternation with a copy of the gradients; a turn is the fastest of
{RUNS} runs. Milliseconds are medians over turns with quartiles. Bytes are what one of {DEVICES} devices sends in a
step, read from the compiled program.

The last columns divide the time of a step's mean by that of the float32 mean. The first is the worker's own work, with
as many messages as there are workers, and the bytes that it sends over the bandwidth; the second is
`2 (n - 1) / n` times the bytes of the gradients over the bandwidth. Below 1 the compressed mean is the faster one. The
work is that of the processors below; with a faster device, compressed means pay on faster networks, too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Where results go.

    Attributes:
        out: the folder of the results.
    """

    out: pathlib.Path = RESULTS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What a compressed mean costs.

    Attributes:
        mean: its name.
        size: bytes of the gradients.
        sent: bytes that one of eight devices sends, by kind of collective.
        copy_milliseconds: of a copy of the gradients, quartiles.
        packing_milliseconds: of what a worker does before it sends, quartiles.
        unpacking_milliseconds: of what it does with some messages, quartiles; zero if that is measured with the former.
    """

    mean: str
    size: int
    sent: Mapping[str, int]
    copy_milliseconds: Quartiles
    packing_milliseconds: Quartiles
    unpacking_milliseconds: Quartiles

    def bytes_sent(self, workers: int) -> float:
        """Returns what one of so many workers sends."""
        return links.bytes_sent(self.sent, DEVICES, workers)

    def relative_seconds(self, workers: int, bandwidth: float) -> float:
        """Returns the time of a step's mean in those of the float32 mean."""
        unpacking = self.unpacking_milliseconds[1] * workers / UNPACKED
        own, link = (self.packing_milliseconds[1] + unpacking) / 1e3, links.Link(bandwidth)
        dense = 2 * (workers - 1) / workers * self.size
        return (own + link.seconds(self.bytes_sent(workers))) / link.seconds(dense)


COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "mean": lambda row: row.mean,
    "sent, MB": lambda row: f"{row.bytes_sent(DEVICES) / 1e6:,.2f}",
    "copy, ms": lambda row: with_quartiles(row.copy_milliseconds, 1),
    "packing, ms": lambda row: with_quartiles(row.packing_milliseconds, 1),
    f"unpacking {UNPACKED}, ms": lambda row: with_quartiles(row.unpacking_milliseconds, 1),
    **{
        f"{workers} workers, {bandwidth / 1e9:g} Gb/s": lambda row, w=workers, b=bandwidth: (
            f"{row.relative_seconds(w, b):.2f}"
        )
        for workers, bandwidth in NETWORKS
    },
}


def run(options: Options, console: Console) -> None:
    """Measures all means, and writes `bench-communication.json` and `.md`.

    Args:
        options: where to.
        console: where to show progress.

    Raises:
        ComparisonError: if results cannot be written.
    """
    file = options.out / "bench-communication.json"
    rows = []
    for name, means in MEANS.items():
        rows.append(measure(name, means))
        console.print(", ".join(f"{column}: {cell(rows[-1])}" for column, cell in COLUMNS.items()))
    content = {
        "rows": [dataclasses.asdict(row) for row in rows],
        "versions": environment.versions(experiments),
        "hardware": environment.hardware(),
    }
    with hold(options.out, wait=True):
        write_results(file, content, markdown(rows))
    console.print(f"written to {file.with_suffix('.md')}")


def measure(name: str, means: Means) -> Row:
    """Measures one mean.

    Args:
        name: of the mean.
        means: how it is made.

    Returns:
        What it costs.
    """
    random = np.random.default_rng(0)
    shapes = parameters(SIZES[SIZE], "float32")
    gradients = jax.tree.map(lambda x: jnp.asarray(random.standard_normal(x.shape, np.float32)), shapes)
    programs = {"copy": (jax.jit(lambda tree: jax.tree.map(jnp.copy, tree)), (gradients,)), **_work(means, gradients)}
    seconds = take_turns(
        [lambda p=program, a=arguments: p(*a) for program, arguments in programs.values()],
        random,
        turns=TURNS,
        runs=RUNS,
    )
    of = {name: quartiles(1e3 * column) for name, column in zip(programs, seconds.T, strict=True)}
    return Row(
        mean=name,
        size=sum(x.nbytes for x in jax.tree.leaves(gradients)),
        sent={kind: round(bytes_) for kind, bytes_ in _sent(means.build("workers"), shapes).items()},
        copy_milliseconds=of["copy"],
        packing_milliseconds=of["packing"],
        unpacking_milliseconds=of.get("unpacking", (0.0, 0.0, 0.0)),
    )


def _work(means: Means, gradients: Any) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Makes a worker's programs before and after messages travel, with their arguments."""
    if means.compressor is None:
        tx = means.build(None)
        return {"packing": (jax.jit(tx.update), (gradients, jax.jit(tx.init)(gradients)))}
    compressor = means.compressor()

    def pack(gradients, errors):
        asked = optax.tree.add(errors, gradients) if means.has_feedback else gradients
        return compressor.compress(asked, compressor.init(asked))[0], asked

    def unpack(rows, asked):
        mean = compressor.combine(jnp.full(UNPACKED, 1 / UNPACKED), rows, asked)
        if not means.has_feedback:
            return mean
        own = compressor.decompress(jax.tree.map(lambda x: x[0], rows), asked)
        return mean, optax.tree.sub(asked, own)

    packing = jax.jit(pack)
    message, asked = packing(gradients, gradients)
    rows = jax.tree.map(lambda x: jnp.stack([x] * UNPACKED), message)
    return {"packing": (packing, (gradients, gradients)), "unpacking": (jax.jit(unpack), (rows, asked))}


def _sent(tx: optax.GradientTransformation, shapes: Any) -> Mapping[str, float]:
    """Returns the bytes that one of eight devices sends in a step, by kind of collective."""
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct((DEVICES, *x.shape), x.dtype), shapes)

    def step(gradients):
        return tx.update(gradients, tx.init(gradients))[0]

    on_all = optkit.on_workers(step, axis_name="workers", backend="shard_map")
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), rows)
    lowered = jax.jit(on_all).lower(zeros)
    return hlo.read(lowered.compile(), lowered).sent


def markdown(rows: Sequence[Row]) -> str:
    """Lays rows out as a page.

    Args:
        rows: the rows.

    Returns:
        Markdown.
    """
    versions, hardware = environment.versions(experiments), environment.hardware()
    machine = (
        f"{hardware['devices']}, {hardware['processors']} processors, {hardware['platform']};"
        f" jax {versions['jax']}, optax {versions['optax']}"
    )
    return "\n".join([
        "# What compressed means cost, and where they pay",
        "",
        "Written by `python -m experiments bench communication`.",
        machine,
        "",
        EXPLANATION,
        "",
        *markdown_table(COLUMNS, [[cell(row) for cell in COLUMNS.values()] for row in rows]),
        "",
    ])  # fmt: skip
