"""All trainings of one optimizer, one for each learning rate and each seed, as a single compiled program."""

import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import optkit
from optkit.comparison import gradients, memory
from optkit.comparison.gradients import WORKERS
from optkit.comparison.task import Task, examples, score
from optkit.method import Method

REPLICAS = "replicas"


def make_mesh(replicas: int, workers: int) -> Mesh:
    """Spreads trainings, and the workers of each, over this machine's devices.

    Args:
        replicas: How many trainings run at once.
        workers: How many devices share the batches of each.

    Returns:
        A mesh of the axes `REPLICAS`, as long as the devices allow and a divisor of `replicas`, and `WORKERS`.
    """
    devices = jax.devices() if jax.device_count() >= workers else jax.devices("cpu")
    rows = max(n for n in range(1, replicas + 1) if replicas % n == 0 and (n == 1 or n * workers <= len(devices)))
    return jax.make_mesh(
        (rows, workers), (REPLICAS, WORKERS), devices=devices[: rows * workers], axis_types=(AxisType.Auto,) * 2
    )


def batch_order(examples: int, batch_size: int, steps: int, seed: int) -> np.ndarray:
    """Returns the rows of each step's batch, `(steps, batch_size)`: one random order of all examples after another."""
    random = np.random.default_rng(seed)
    rows = steps * batch_size
    epochs = [random.permutation(examples) for _ in range(math.ceil(rows / examples))]
    return np.concatenate(epochs)[:rows].reshape(steps, batch_size).astype(np.int32)


def schedule(steps: int) -> optax.Schedule:
    """Returns the learning rate relative to its peak: up over the first tenth of the steps, then a cosine to zero."""
    curve = optax.warmup_cosine_decay_schedule(0.0, 1.0, steps // 10, steps)
    # In the middle of each step: at its start, the first one would do nothing.
    return lambda count: curve(count + 0.5)


def takes(method: Method, name: str) -> bool:
    """Returns whether an optimizer has a hyperparameter that may be an array."""
    return name in inspect.signature(method.optimizer_factory).parameters and name not in method.static


class Training(NamedTuple):
    """One training with one optimizer, as pure functions.

    Attributes:
        start: From initial parameters, hyperparameters and seed to the carry: parameters, optimizer state, and the
            model's other state.
        advance: From carry, hyperparameters, seed, rows of the batches, schedule and examples to the next carry and
            the mean loss over the steps. The learning rate among the hyperparameters is its peak.
        report: From the carry to the parameters to report and the model's other state.
    """

    start: Callable[..., Any]
    advance: Callable[..., Any]
    report: Callable[[Any], Any]


def training(task: Task, method: Method, names: Sequence[str], weight_decay: float, workers: int) -> Training:
    """Writes one training down.

    Args:
        task: What to train.
        method: The optimizer.
        names: The hyperparameters that differ between trainings, `method.tuned` among them.
        weight_decay: For optimizers that have such an argument.
        workers: Over how many devices each batch is split.

    Returns:
        The training, for one of the workers.
    """
    # Nothing else differs between replicas, so that nothing else is traced.
    static = set(inspect.signature(method.optimizer_factory).parameters) - set(names)
    factory = optax.inject_hyperparams(method.optimizer_factory, static, hyperparam_dtype=jnp.float32)

    def transformation(values, seed):
        return factory(**arguments(task, method, weight_decay, values, seed))

    def start(params, values, seed):
        state = None if task.state is None else task.state(jax.random.key(seed))
        return params, transformation(values, seed).init(params), state

    def advance(carry, values, seed, rows, scales, train):
        def step(carry, inputs):
            params, state, other = carry
            rows, scale = inputs
            batch = jax.tree.map(lambda leaf: leaf[rows], train)
            value, grads, counts, next_other = gradients.of_batch(task, method.stacked, params, other, batch, workers)
            # What is tuned in a learning rate's place has no schedule.
            scheduled = {name: x * scale if name == "learning_rate" else x for name, x in values.items()}
            updates, state = transformation(values, seed).update(
                grads,
                state._replace(hyperparams=scheduled),
                params,
                value=value,
                **counts,
                **gradients.passed(task, params, other, batch, train, workers),
            )
            return (optax.apply_updates(params, updates), state, next_other), value

        carry, losses = jax.lax.scan(step, carry, (rows, scales))
        return carry, jnp.mean(losses)

    def report(carry):
        params, state, other = carry
        return method.eval_params(state.inner_state, params), other

    return Training(start, advance, report)


def arguments(task: Task, method: Method, weight_decay: float, values: Mapping[str, Any], seed: Any) -> dict[str, Any]:
    """Returns what a method's factory is called with to train on a task.

    Args:
        task: What is trained.
        method: The optimizer.
        weight_decay: For optimizers that have such an argument.
        values: Hyperparameters, such as the learning rate, by name.
        seed: For optimizers with random draws.
    """
    names = inspect.signature(method.optimizer_factory).parameters
    given: dict[str, Any] = {"weight_decay": weight_decay, "key": jax.random.key(seed)}
    if method.stacked == "microbatches":
        given["workers"] = gradients.MICROBATCHES
    if task.classes:
        given["num_clusters"] = task.classes
    given = {**_for_matrices(task), **method.arguments, **given, **values}
    return {name: value for name, value in given.items() if name in names}


def _for_matrices(task):
    """What methods that treat matrices apart are told of a task's parameters, by the names of their arguments."""
    if task.hidden_matrices is None:
        return {}

    def are_hidden(params):
        return jax.tree.map(lambda _, numbers: numbers is not None, params, task.hidden_matrices(params))

    return {"weight_dimension_numbers": task.hidden_matrices, "leaves": are_hidden, "subset_leaves": are_hidden}


class Sweep:
    """What all optimizers of a comparison share: data, seeds, batches, schedule, devices.

    Attributes:
        task: What is trained.
        seeds: Seed of each replica: of its initial parameters, the order of its batches, the optimizer's own draws.
        steps: Length of a training.
        size: How many replicas are trained at once, a divisor of their number.
        mesh: The devices, as `make_mesh` lays them out for so many.
    """

    def __init__(
        self, task: Task, *, seeds: Sequence[int], points: int, steps: int, workers: int = 1, size: int | None = None
    ):
        """Loads the data onto the devices.

        Args:
            task: What to train.
            seeds: The seeds with which each point is trained.
            points: How many choices of hyperparameters are trained.
            steps: Length of a training.
            workers: Over how many devices each batch is split; divides the task's batch size.
            size: How many replicas are trained at once, a divisor of their number; None for all.
        """
        self.task = task
        self.seeds = np.tile(np.asarray(seeds, np.int32), points)
        self.steps = steps
        self.size = size or len(self.seeds)
        self.mesh = make_mesh(self.size, workers)
        self._given = {"seeds": seeds, "points": points, "steps": steps, "workers": workers}
        self._parts = {}
        count = examples(task.train)
        self._order = np.stack([batch_order(count, task.batch_size, steps, seed) for seed in seeds], axis=1)
        self._schedule = np.asarray(schedule(steps)(np.arange(steps)), np.float32)
        shared, by_replica = PartitionSpec(), PartitionSpec(REPLICAS)
        self._train = jax.device_put(task.train, NamedSharding(self.mesh, shared))
        init = jax.vmap(lambda seed: task.init(jax.random.key(seed)))
        self.init = jax.jit(self.mapped(init, by_replica, by_replica))
        metrics = jax.vmap(lambda reported, split: score(task, reported[0], reported[1], split), in_axes=(0, None))
        self.evaluate = jax.jit(self.mapped(metrics, (by_replica, shared), by_replica))

    def in_parts_of(self, size: int) -> "Sweep":
        """Returns the same sweep with fewer replicas at once."""
        if size not in self._parts:
            self._parts[size] = Sweep(self.task, **self._given, size=size)
        return self._parts[size]

    def mapped(self, function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        """Runs a function on every device's own replicas and its own part of their batches."""
        return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def inputs(self, replicas: slice, first: int, last: int) -> tuple[Any, ...]:
        """Returns what some replicas' steps from `first` to before `last` read.

        They are seeds, rows of the batches, schedule and examples.
        """
        of_seeds = np.arange(len(self.seeds))[replicas] % self._order.shape[1]
        return self.seeds[replicas], self._order[first:last, of_seeds], self._schedule[first:last], self._train


class Trainings:
    """The trainings of one optimizer, one for each replica of a sweep, as many at once as fit into memory.

    Leaves of the carry that cannot differ between replicas, such as step counters, are kept once for all: mapped over
    replicas they would turn every `jax.lax.cond` on them into a `select`, which runs both branches.

    Attributes:
        sweep: What is trained, and how many replicas at once.
        carry: Shapes and dtypes of what the trainings that run at once carry from step to step.
        state_bytes_per_parameter: Size of one training's optimizer state.
    """

    def __init__(self, sweep: Sweep, method: Method, names: Sequence[str] = (), weight_decay: float = 0.0):
        """Prepares the program.

        Args:
            sweep: What is trained, and how.
            method: The optimizer.
            names: The hyperparameters that differ between trainings in addition to `method.tuned`.
            weight_decay: For optimizers that have such an argument.
        """
        self._names = (method.tuned, *names)
        self._training = training(sweep.task, method, self._names, weight_decay, sweep.mesh.shape[WORKERS])
        self._prepare(sweep)
        alone = method.optimizer_factory(**arguments(sweep.task, method, weight_decay, {method.tuned: 1.0}, 0))
        params = jax.eval_shape(sweep.task.init, jax.random.key(0))
        self.state_bytes_per_parameter = optkit.cost(alone, params, state_only=True).state_bytes_per_parameter

    def _prepare(self, sweep):
        self.sweep = sweep
        start, advance, report = self._training
        shared, by_replica, by_worker = PartitionSpec(), PartitionSpec(REPLICAS), PartitionSpec(None, REPLICAS, WORKERS)
        values = {name: jax.ShapeDtypeStruct((sweep.size,), jnp.float32) for name in self._names}
        inputs = sweep.inputs(slice(sweep.size), 0, 1)
        params = jax.eval_shape(sweep.init, inputs[0])

        differing = _Differing()

        def trace(params, values, seed, *inputs):
            # The scan's own rule for vmap finds what comes to differ after one step or after many.
            return differing.probe(advance(start(params, values, seed), values, seed, *inputs)[0])

        mapped = sweep.mapped(jax.vmap(trace, in_axes=(0, 0, 0, 1, None, None)), shared, shared)
        jax.eval_shape(mapped, params, values, *inputs)
        axes = jax.tree.map(lambda differs: 0 if differs else None, differing.leaves)
        specs = jax.tree.map(lambda differs: by_replica if differs else shared, differing.leaves)

        def program(function, in_axes, out_axes, in_specs, out_specs, **options):
            def place(specs):
                return jax.tree.map(lambda spec: NamedSharding(sweep.mesh, spec), specs)

            mapped = sweep.mapped(jax.vmap(function, in_axes, out_axes), in_specs, out_specs)
            return jax.jit(mapped, in_shardings=place(in_specs), out_shardings=place(out_specs), **options)

        self._start = program(start, 0, axes, (by_replica,) * 3, specs)
        self._advance = program(
            advance,
            (axes, 0, 0, 1, None, None),
            (axes, 0),
            (specs, by_replica, by_replica, by_worker, shared, shared),
            (specs, by_replica),
            donate_argnums=0,
        )
        self._report = program(report, (axes,), 0, (specs,), by_replica)
        self._compiled = {}
        self.carry = jax.eval_shape(self._start, params, values, inputs[0])

    def fit(self, steps: int) -> None:
        """Trains fewer replicas at once if all of them do not fit into memory together.

        Args:
            steps: How many steps run between two reports.
        """
        while True:
            values = {name: np.ones(self.sweep.size, np.float32) for name in self._names}
            needed = memory.needed(self._program(values, slice(self.sweep.size), 0, steps))
            share = memory.available(self.sweep.mesh.devices) / max(needed, 1)
            if share >= 1 or self.sweep.size == 1:
                return
            replicas = len(self.sweep.seeds)
            most = max(1, min(int(self.sweep.size * share), self.sweep.size - 1))
            self._prepare(self.sweep.in_parts_of(max(n for n in range(1, most + 1) if replicas % n == 0)))

    def parts(self) -> list[slice]:
        """Returns which replicas are trained together."""
        return [slice(first, first + self.sweep.size) for first in range(0, len(self.sweep.seeds), self.sweep.size)]

    def start(self, values: Mapping[str, np.ndarray], replicas: slice) -> Any:
        """Returns the carry before the first step.

        Args:
            values: The hyperparameters of all replicas; of a learning rate, its peak.
            replicas: One of `parts()`.

        Returns:
            Parameters, optimizer state, and the model's other state.
        """
        seeds = self.sweep.seeds[replicas]
        return self._start(self.sweep.init(seeds), _part(values, replicas), seeds)

    def advance(
        self, carry: Any, values: Mapping[str, np.ndarray], replicas: slice, first: int, last: int
    ) -> tuple[Any, np.ndarray, float]:
        """Trains for some steps.

        Args:
            carry: From `start`, `advance` or a checkpoint; donated.
            values: The hyperparameters of all replicas.
            replicas: One of `parts()`.
            first: The first step.
            last: The step before which to stop.

        Returns:
            The next carry, each replica's mean training loss over these steps, and the seconds that they took,
            compilation left out.
        """
        program = self._program(values, replicas, first, last)
        inputs = (_part(values, replicas), *self.sweep.inputs(replicas, first, last))
        begin = time.perf_counter()
        carry, losses = jax.block_until_ready(program(carry, *inputs))
        seconds = time.perf_counter() - begin
        return carry, np.asarray(losses), seconds

    def _program(self, values, replicas, first, last):
        if last - first not in self._compiled:
            inputs = (_part(values, replicas), *self.sweep.inputs(replicas, first, last))
            self._compiled[last - first] = self._advance.lower(self.carry, *inputs).compile()
        return self._compiled[last - first]

    def evaluate(self, carry: Any, split: Any) -> dict[str, np.ndarray]:
        """Scores every replica's reported parameters on every example.

        Args:
            carry: Parameters, optimizer state, and the model's other state.
            split: One of the task's splits.

        Returns:
            The task's metrics, `(replicas, examples)`.
        """
        return jax.device_get(self.sweep.evaluate(self._report(carry), split))


def _part(values, replicas):
    return {name: x[replicas] for name, x in values.items()}


class _Differing:
    """Finds which leaves of a tree differ between the replicas of a `vmap` that is traced.

    Attributes:
        probe: the identity, for the tree inside the mapped function.
        leaves: the tree's shape with True for the leaves that differ.
    """

    def __init__(self):
        self.leaves: Any = None

        @jax.custom_batching.custom_vmap
        def probe(tree):
            return tree

        @probe.def_vmap
        def _(axis_size, in_batched, tree):
            del axis_size
            (self.leaves,) = in_batched
            return tree, self.leaves

        self.probe = probe
