"""`python -m experiments bench peers`: what one step of a method costs beside that of its implementation in PyTorch.

Both have the same tree and the same number of threads, and take turns in one process, so that what else the machine
does hits both alike.
"""

import dataclasses
import importlib
import importlib.metadata
import os
import pathlib
import time
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console

import experiments
from experiments.benchmarks import peers_report, update
from experiments.benchmarks.measured_rows import quartiles
from experiments.benchmarks.peer_pairs import PACKAGES, Pair, Tensors, find, is_kernel
from experiments.benchmarks.peers_report import Row
from experiments.benchmarks.update import RESULTS, Steps, take_turns
from optkit.comparison import environment
from optkit.comparison.progress import counting
from optkit.comparison.store import hold

SIZE = "7M"
# HeavyBall compiles in the first two steps.
WARM_UP_STEPS = 3
# PyTorch's threads look for more work for ten milliseconds, on the processors that the next turn needs.
SECONDS_UNTIL_THREADS_SLEEP = 0.03


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure.

    Attributes:
        optimizers: names of methods; None for all pairs.
        rounds: how many turns each program takes.
        out: the folder of the results.
    """

    optimizers: tuple[str, ...] | None = None
    rounds: int = 20
    out: pathlib.Path = RESULTS


def run(options: Options, console: Console) -> None:
    """Measures pairs, and writes `bench-peers-cpu.json` and `.md`.

    Results are written after every pair, and those of others stay, so that a run can be interrupted.

    Args:
        options: what to measure.
        console: where to show progress and the table.

    Raises:
        UserError: if there is no method of a name.
        ComparisonError: if results cannot be read or written.
    """
    pairs = find(options.optimizers)
    file = options.out / "bench-peers-cpu.json"
    with hold(options.out, wait=True):
        peers_report.read(file)
    measured = []
    with jax.default_device(jax.devices("cpu")[0]), counting(console, 40) as bars:
        bench = Bench(SIZE, "float32", options.rounds)
        bar = bars.add_task("", total=len(pairs))
        for pair in pairs:
            bars.update(bar, description=pair.peer)
            measured.append(bench.beside_peer(pair))
            with hold(options.out, wait=True):
                peers_report.write(peers_report.merge(peers_report.read(file), measured[-1]), file)
            if bars.disable:
                console.print(measured[-1].line())
            bars.advance(bar)
    console.print(peers_report.table(measured))
    console.print(f"written to {file.with_suffix('.md')}")


class Peer:
    """An optimizer of PyTorch.

    Attributes:
        parameters: which it changes, in the order of the tree's leaves.
    """

    def __init__(self, pair: Pair, params: Any):
        """Builds it.

        Args:
            pair: a method; its side in PyTorch is meant.
            params: a tree of arrays, which are copied.
        """
        torch = importlib.import_module("torch")
        # As many as XLA has.
        torch.set_num_threads(os.cpu_count() or 1)
        self.parameters = [torch.nn.Parameter(tensor) for tensor in tensors(params)]
        parts = Tensors([], [])
        for parameter, kernel in zip(self.parameters, jax.tree.leaves(is_kernel(params)), strict=True):
            (parts.kernels if kernel else parts.others).append(parameter)
        self._step = pair.theirs(parts)

    def step(self, gradients: Sequence[Any]) -> None:
        """Takes a step.

        Args:
            gradients: tensors, which it may change.
        """
        # Each time, since HeavyBall takes them away.
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self._step()


class PeerSteps(Steps):
    """The steps of an optimizer of PyTorch, as `Program` is of one of JAX.

    Attributes:
        compile_seconds: how long the first steps took, in which it makes its state and perhaps compiles.
    """

    def __init__(self, peer: Peer, gradients: Any):
        """Takes first steps.

        Args:
            peer: the optimizer.
            gradients: a tree of arrays, which are copied.
        """
        copies = tensors(gradients)

        def take(steps):
            for _ in range(steps):
                peer.step(copies)

        begin = time.perf_counter()
        with warnings.catch_warnings(action="ignore"):  # what PyTorch's compiler says about itself
            take(WARM_UP_STEPS)
        self.compile_seconds = time.perf_counter() - begin
        super().__init__(take)

    def turn(self) -> float:
        """Takes some steps and returns the seconds of one."""
        seconds = super().turn()
        time.sleep(SECONDS_UNTIL_THREADS_SLEEP)
        return seconds


class Bench(update.Bench):
    """Parameters and gradients that both sides of a pair are measured on."""

    def beside_peer(self, pair: Pair) -> Row:
        """Measures a pair.

        Args:
            pair: what to measure.

        Returns:
            What both cost.
        """
        ours = self._program(pair.ours(), lambda gradients: (gradients, {}), self._gradients)
        theirs = PeerSteps(Peer(pair, self._params()), self._gradients)
        seconds = take_turns((ours, theirs), self._rounds)
        return Row(
            parameters=sum(leaf.size for leaf in jax.tree.leaves(self._shapes)),
            optimizer=pair.method,
            peer=pair.peer,
            differs=pair.differs,
            threads=importlib.import_module("torch").get_num_threads(),
            rounds=len(seconds),
            milliseconds=quartiles(1e3 * seconds[:, 0]),
            peer_milliseconds=quartiles(1e3 * seconds[:, 1]),
            ratio=quartiles(seconds[:, 0] / seconds[:, 1]),
            compile_seconds=ours.compile_seconds,
            peer_compile_seconds=theirs.compile_seconds,
            versions={
                **environment.versions(experiments),
                **{package: importlib.metadata.version(package) for package in PACKAGES},
            },
            hardware=environment.hardware(),
        )


def tensors(tree: Any) -> list[Any]:
    """Copies the leaves of a tree into tensors of PyTorch."""
    torch = importlib.import_module("torch")
    return [torch.tensor(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)]
