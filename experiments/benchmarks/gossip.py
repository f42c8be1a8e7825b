"""`python -m experiments bench gossip`: what a round of mixing costs beside the messages that it sends.

The messages are the bare `jax.lax.ppermute`s of the same arrays, one for each array and round. Both take turns in one
process, so that what else the machine does hits both alike.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from rich.console import Console

import experiments
import optkit
from experiments.benchmarks.measured_rows import Quartiles, quartiles, with_quartiles
from experiments.benchmarks.transformer import SIZES, parameters
from experiments.benchmarks.turns import take_turns
from experiments.benchmarks.update import RESULTS
from optkit.comparison import environment
from optkit.comparison.store import hold, write_results
from optkit.core.cost import hlo

DEVICES = 8
TURNS, RUNS = 12, 5
SIZE = "7M"
# What a round may cost, in bare messages.
MOST = 1.2
TOPOLOGIES: Mapping[str, Callable[[int], optkit.topology.Topology]] = {
    "ring": optkit.topology.ring,
    "hypercube": optkit.topology.hypercube,
    "exponential": optkit.topology.exponential,
}

EXPLANATION = f"""\
Each of {DEVICES} workers, a device each, holds the float32 parameters of a transformer. A round of `optkit.mix` is put
beside the `jax.lax.ppermute`s that carry its messages, one for each array and message, and nothing else. Both take
{TURNS} turns; a turn is the fastest of {RUNS} runs, in alternation. Milliseconds are medians over turns with quartiles,
the ratio is the median of the turns' ratios. Bytes are what a device sends in a round, read from the compiled
program."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Where results go.

    Attributes:
        out: the folder of the results.
    """

    out: pathlib.Path = RESULTS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What a round of mixing costs on one topology.

    Attributes:
        topology: its name.
        arrays: how many arrays a worker holds.
        messages: how often a worker sends its values.
        sent: bytes that a device sends in a round.
        milliseconds: of a round, quartiles.
        bare_milliseconds: of the bare messages, quartiles.
        ratio: of the two, quartiles over turns.
    """

    topology: str
    arrays: int
    messages: int
    sent: int
    milliseconds: Quartiles
    bare_milliseconds: Quartiles
    ratio: Quartiles

    @property
    def met(self) -> bool:
        """Whether it costs no more than it may."""
        return self.ratio[1] <= MOST


COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "topology": lambda row: row.topology,
    "arrays": lambda row: str(row.arrays),
    "messages": lambda row: str(row.messages),
    "sent, MB": lambda row: f"{row.sent / 1e6:,.1f}",
    "round, ms": lambda row: with_quartiles(row.milliseconds, 1),
    "bare messages, ms": lambda row: with_quartiles(row.bare_milliseconds, 1),
    "ratio": lambda row: with_quartiles(row.ratio, 2),
    f"at most {MOST}": lambda row: "met" if row.met else "**missed**",
}


def run(options: Options, console: Console) -> None:
    """Measures all topologies, and writes `bench-gossip.json` and `.md`.

    Args:
        options: where to.
        console: where to show progress.

    Raises:
        ComparisonError: if results cannot be written.
    """
    file = options.out / "bench-gossip.json"
    rows = []
    for name, make in TOPOLOGIES.items():
        rows.append(measure(name, make(DEVICES)))
        console.print(", ".join(f"{column}: {cell(rows[-1])}" for column, cell in COLUMNS.items()))
    content = {
        "rows": [{**dataclasses.asdict(row), "met": row.met} for row in rows],
        "versions": environment.versions(experiments),
        "hardware": environment.hardware(),
    }
    with hold(options.out, wait=True):
        write_results(file, content, markdown(rows))
    console.print(f"written to {file.with_suffix('.md')}")


def measure(name: str, topology: optkit.topology.Topology) -> Row:
    """Measures one topology.

    Args:
        name: of the topology.
        topology: who hears whom, in one step that does not change.

    Returns:
        What a round costs.
    """
    mesh = jax.make_mesh((DEVICES,), ("workers",), axis_types=(AxisType.Auto,), devices=jax.devices()[:DEVICES])
    spec, random = PartitionSpec("workers"), np.random.default_rng(0)

    def normal(shape):
        values = random.standard_normal((DEVICES, *shape.shape), np.float32)
        return jax.device_put(values, NamedSharding(mesh, spec))

    def compile_for_all(step):
        mapped = jax.shard_map(step, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
        lowered = jax.jit(mapped).lower(tree)
        return lowered.compile(), lowered

    def messages(tree):
        permutations = [permutation for permutation, _ in topology.rounds[0]]
        return [jax.tree.map(lambda x, p=p: jax.lax.ppermute(x, "workers", p), tree) for p in permutations]

    tree = jax.tree.map(normal, parameters(SIZES[SIZE], "float32"))
    mixed, lowered = compile_for_all(lambda tree: optkit.mix(tree, topology, "workers"))
    bare, _ = compile_for_all(messages)
    seconds = take_turns([lambda: mixed(tree), lambda: bare(tree)], random, turns=TURNS, runs=RUNS)
    return Row(
        topology=name,
        arrays=len(jax.tree.leaves(tree)),
        messages=int(topology.messages.max()),
        sent=round(hlo.read(mixed, lowered).sent["collective-permute"]),
        milliseconds=quartiles(1e3 * seconds[:, 0]),
        bare_milliseconds=quartiles(1e3 * seconds[:, 1]),
        ratio=quartiles(seconds[:, 0] / seconds[:, 1]),
    )


def markdown(rows: Sequence[Row]) -> str:
    """Lays rows out as a page.

    Args:
        rows: the rows.

    Returns:
        Markdown.
    """
    versions, hardware = environment.versions(experiments), environment.hardware()
    cells = (list(COLUMNS), ["---"] * len(COLUMNS), *([cell(row) for cell in COLUMNS.values()] for row in rows))
    machine = (
        f"{hardware['devices']}, {hardware['processors']} processors, {hardware['platform']};"
        f" jax {versions['jax']}, optax {versions['optax']}"
    )
    return "\n".join([
        "# What a round of mixing costs",
        "",
        "Written by `python -m experiments bench gossip`.",
        machine,
        "",
        EXPLANATION,
        "",
        *(f"| {' | '.join(row)} |" for row in cells),
        "",
    ])  # fmt: skip
