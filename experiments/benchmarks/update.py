"""`python -m experiments bench update`: what one step of each method costs beside Optax's nearest.

A step is the update and `optax.apply_updates`, one jitted function. Parameters and state are donated to it; gradients
are only read, which is what it is to donate them and hand them back. The method, Optax's nearest, a copy, and a pass in
place take turns in one process, so that what else the machine does hits all alike.
"""

import dataclasses
import functools
import math
import pathlib
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

import experiments
import optkit
from experiments.benchmarks import update_report
from experiments.benchmarks.measured_rows import quartiles
from experiments.benchmarks.nearest import LEARNING_RATE, arrays_read_again, find, nearest
from experiments.benchmarks.transformer import SIZES, parameters
from experiments.benchmarks.update_report import Row
from optkit.comparison import environment
from optkit.comparison.progress import counting
from optkit.comparison.store import hold
from optkit.core.extra_args import Moment, extra_args
from optkit.method import Method

RESULTS = pathlib.Path(__file__).parents[1] / "results"
# Rows of gradients for methods that take them, and of how many examples each class has.
CLASS_COUNTS = (8, 4, 3, 1)
ROWS = len(CLASS_COUNTS)
# A turn is as many steps as last this long together, so that a GPU's queue does not run dry.
SECONDS_A_TURN = 0.02
# Slow methods stop before the last round.
SECONDS_A_METHOD = 30.0
FEWEST_ROUNDS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure.

    Attributes:
        size: a name of `SIZES`, or `"all"`.
        optimizers: names of methods, variants as `name:variant`; None for all methods.
        dtype: of parameters and gradients, one of `DTYPES`.
        rounds: how many turns each program takes.
        out: the folder of the results.
    """

    size: str = "all"
    optimizers: tuple[str, ...] | None = None
    dtype: str = "float32"
    rounds: int = 20
    out: pathlib.Path = RESULTS


def run(options: Options, console: Console) -> None:
    """Measures methods, and writes `bench-update-DEVICE.json` and `.md`.

    Results are written after every method, and those of others stay, so that a run can be interrupted.

    Args:
        options: what to measure.
        console: where to show progress and the tables.

    Raises:
        ComparisonError: if something is asked that cannot be done.
    """
    methods = find(options.optimizers)
    sizes = tuple(SIZES) if options.size == "all" else (options.size,)
    file = options.out / f"{_file_name(options.dtype)}.json"
    with hold(options.out, wait=True):
        update_report.read(file)
    measured = []
    with counting(console, 40) as bars:
        bar = bars.add_task("", total=len(sizes) * len(methods))
        for size in sizes:
            bench = Bench(size, options.dtype, options.rounds)
            for method in methods:
                bars.update(bar, description=f"{size} {method.name}")
                measured.append(bench.measure(method))
                with hold(options.out, wait=True):
                    update_report.write(update_report.merge(update_report.read(file), measured[-1]), file)
                if bars.disable:
                    console.print(measured[-1].line())
                bars.advance(bar)
    for shown in update_report.tables(measured):
        console.print(shown)
    console.print(f"written to {file.with_suffix('.md')}")


def _file_name(dtype):
    device = re.sub("[^a-z0-9]+", "-", jax.devices()[0].device_kind.lower()).strip("-")
    return f"bench-update-{device}" + ("" if dtype == "float32" else f"-{dtype}")


class Steps:
    """Steps that go on from where they stopped; a turn is as many as last `SECONDS_A_TURN` together."""

    def __init__(self, take: Callable[[int], None]):
        """Takes first steps.

        Args:
            take: takes so many steps, and returns when they are done.
        """
        self._take, self._steps = take, 1
        self.turn()
        self._steps = math.ceil(SECONDS_A_TURN / self.turn())

    def turn(self) -> float:
        """Takes some steps and returns the seconds of one."""
        begin = time.perf_counter()
        self._take(self._steps)
        return (time.perf_counter() - begin) / self._steps


class Program(Steps):
    """A compiled step that goes on from where it stopped.

    Attributes:
        compile_seconds: how long it took to trace and to compile.
        temporary_bytes: what it needs beside its arguments and results; None where the compiler does not tell.
    """

    def __init__(self, step: Callable[[Any, Any], Any], carry: Any, inputs: Any):
        """Compiles it, and takes first steps.

        Args:
            step: from carry and inputs to the next carry.
            carry: is donated.
            inputs: are not.
        """
        begin = time.perf_counter()
        # A copy's old target is an argument that nothing reads.
        self._compiled = jax.jit(step, donate_argnums=0, keep_unused=True).lower(carry, inputs).compile()
        self.compile_seconds = time.perf_counter() - begin
        memory = self._compiled.memory_analysis()
        self.temporary_bytes = memory.temp_size_in_bytes if memory else None
        self._carry, self._inputs = carry, inputs
        super().__init__(self._go_on)

    def once(self, carry: Any) -> float:
        """Takes one step from another carry, which is donated, and returns its seconds."""
        jax.block_until_ready(carry)
        begin = time.perf_counter()
        jax.block_until_ready(self._compiled(carry, self._inputs))
        return time.perf_counter() - begin

    def _go_on(self, steps):
        for _ in range(steps):
            self._carry = self._compiled(self._carry, self._inputs)
        jax.block_until_ready(self._carry)


def take_turns(programs: Sequence[Steps], rounds: int) -> np.ndarray:
    """Runs programs in turn, in another order each round.

    Args:
        programs: the programs.
        rounds: how many rounds, unless they take too long.

    Returns:
        The seconds of one step, a row a round, a column a program.
    """
    random, begin, seconds = np.random.default_rng(0), time.monotonic(), []
    while len(seconds) < rounds:
        if len(seconds) >= FEWEST_ROUNDS and time.monotonic() - begin > SECONDS_A_METHOD:
            break
        seconds.append(np.empty(len(programs)))
        for i in random.permutation(len(programs)):
            seconds[-1][i] = programs[i].turn()
    return np.stack(seconds)


class Bench:
    """Parameters and gradients of one size, and the programs that every method on them is measured beside."""

    def __init__(self, size: str, dtype: str, rounds: int):
        """Makes the arrays.

        Args:
            size: a name of `SIZES`.
            dtype: of parameters and gradients.
            rounds: how many turns each program takes.
        """
        self._size, self._dtype, self._rounds = size, dtype, rounds
        self._shapes = parameters(SIZES[size], dtype)
        self._gradients, self._others = self._normal(0), self._normal(1)
        self._copy = Program(lambda _, source: _copied(source), self._params(), self._gradients)
        self._in_place = Program(lambda tree, _: jax.tree.map(jnp.negative, tree), self._params(), None)

    def measure(self, method: Method) -> Row:
        """Measures one method.

        Args:
            method: what to measure.

        Returns:
            What it costs.
        """
        tx = method.optimizer_factory(**{"learning_rate": LEARNING_RATE, **method.arguments})
        cost = optkit.cost(tx, self._shapes, state_only=True)
        params_bytes = _bytes(self._shapes)
        state = jax.eval_shape(tx.init, self._shapes)
        reference = nearest(method, sum(leaf.size for leaf in jax.tree.leaves(state)) / cost.parameters)
        other = reference.factory(LEARNING_RATE)

        inputs = self._inputs(method)
        program = self._program(tx, lambda inputs: (inputs["gradients"], _extra_args(method, inputs)), inputs)
        beside = self._program(other, lambda inputs: (_reduced(method, inputs["gradients"]), {}), inputs)
        seconds = take_turns((program, beside, self._copy, self._in_place), self._rounds)
        first = np.median([program.once(self._carry(tx)) for _ in range(FEWEST_ROUNDS)])

        moved = 2 * (params_bytes + cost.state_bytes) + _bytes(inputs) + arrays_read_again(method) * params_bytes
        moved_by = np.array([moved, np.nan, 2 * params_bytes, 2 * params_bytes])
        speed = moved_by / seconds
        return Row(
            size=self._size,
            dtype=self._dtype,
            parameters=cost.parameters,
            optimizer=method.name,
            reference=reference.name,
            fed_with=_fed_with(method),
            rounds=len(seconds),
            milliseconds=quartiles(1e3 * seconds[:, 0]),
            reference_milliseconds=quartiles(1e3 * seconds[:, 1]),
            ratio=quartiles(seconds[:, 0] / seconds[:, 1]),
            first_step=float(first / np.median(seconds[:, 0])),
            state_bytes_per_parameter=cost.state_bytes_per_parameter,
            reference_state_bytes_per_parameter=optkit.cost(
                other, self._shapes, state_only=True
            ).state_bytes_per_parameter,
            temporary_bytes_per_parameter=_per(program.temporary_bytes, cost.parameters),
            reference_temporary_bytes_per_parameter=_per(beside.temporary_bytes, cost.parameters),
            compile_seconds=program.compile_seconds,
            reference_compile_seconds=beside.compile_seconds,
            moved_bytes_per_parameter=moved / cost.parameters,
            gigabytes_per_second=quartiles(speed[:, 0] / 1e9),
            copy_gigabytes_per_second=quartiles(speed[:, 2] / 1e9),
            in_place_gigabytes_per_second=quartiles(speed[:, 3] / 1e9),
            share_of_copy=quartiles(speed[:, 0] / speed[:, 2]),
            share_of_in_place=quartiles(speed[:, 0] / speed[:, 3]),
            versions=environment.versions(experiments),
            hardware=environment.hardware(),
        )

    def _program(self, tx, prepare, inputs):
        tx = optax.with_extra_args_support(tx)

        def step(carry, inputs):
            params, state = carry
            gradients, needed = prepare(inputs)
            updates, state = tx.update(gradients, state, params, **needed)
            return optax.apply_updates(params, updates), state

        return Program(step, self._carry(tx), inputs)

    def _carry(self, tx):
        params = self._params()
        return params, jax.jit(tx.init)(params)

    def _inputs(self, method):
        """The arrays that a method reads beside parameters and state."""
        inputs = {"gradients": self._gradients if method.stacked is None else self._rows_of_gradients}
        if {"grad_fn", "full_grad_fn", "prev_grads"} & set(method.needs):
            inputs["others"] = self._others
        return inputs

    @functools.cached_property
    def _rows_of_gradients(self):
        return self._normal(0, ROWS)

    def _params(self):
        return _copied(self._others)

    def _normal(self, seed, *leading):
        random = np.random.default_rng(seed)
        return jax.tree.map(
            lambda x: jnp.array(random.standard_normal((*leading, *x.shape), np.float32), x.dtype), self._shapes
        )


def _extra_args(method, inputs):
    """What a method needs: the same gradients and losses at all points, so that only its own work is measured."""
    others = inputs.get("others")
    at = Moment(
        params=None,
        value_fn=lambda _: jnp.ones(()),
        grad_fn=lambda _: others,
        full_grad_fn=lambda _: others,
    )
    counts = {"class_counts": jnp.array(CLASS_COUNTS)} if method.stacked == "classes" else {}
    return extra_args(method.needs, at) | counts


def _reduced(method, gradients):
    """The gradient that rows make up."""
    if method.stacked is None:
        return gradients
    scale = 1 if method.stacked == "classes" else 1 / ROWS
    # Not jnp.sum(axis=0), which XLA for CPUs does at a fiftieth of the speed.
    return jax.tree.map(lambda rows: scale * sum(rows[i] for i in range(ROWS)), gradients)


def _fed_with(method):
    return ", ".join(([f"{ROWS} {method.stacked}"] if method.stacked else []) + list(method.needs))


def _copied(tree):
    return jax.tree.map(jnp.copy, tree)


def _bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _per(size, parameters):
    return None if size is None else size / parameters
