"""All trainings of one optimizer, one for each learning rate and each seed, as a single compiled program."""

import inspect
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import optkit
from experiments import gradients
from experiments.gradients import WORKERS
from experiments.tasks import Task
from optkit.method import Method

REPLICAS = "replicas"


def make_mesh(replicas: int, workers: int) -> Mesh:
    """Spreads trainings, and the workers of each, over this machine's devices.

    Args:
        replicas: how many trainings run at once.
        workers: how many devices share the batches of each.

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


def takes_weight_decay(method: Method) -> bool:
    """Returns whether an optimizer has weight decay."""
    return "weight_decay" in inspect.signature(method.optimizer_factory).parameters


class Training(NamedTuple):
    """One training with one optimizer, as pure functions.

    Attributes:
        start: from initial parameters, peak learning rate and seed to the carry: parameters and optimizer state.
        advance: from carry, peak learning rate, seed, rows of the batches, schedule and examples to the next carry and
            the mean loss over the steps.
        report: from the carry to the parameters to report.
    """

    start: Callable[..., Any]
    advance: Callable[..., Any]
    report: Callable[[Any], Any]


def training(task: Task, method: Method, weight_decay: float, workers: int) -> Training:
    """Writes one training down.

    Args:
        task: what to train.
        method: the optimizer.
        weight_decay: for optimizers that have such an argument.
        workers: over how many devices each batch is split.

    Returns:
        The training, for one of the workers.
    """
    tuned = method.tuned
    # Nothing but the learning rate differs between replicas, so that nothing else is traced.
    static = set(inspect.signature(method.optimizer_factory).parameters) - {tuned}
    factory = optax.inject_hyperparams(method.optimizer_factory, static, hyperparam_dtype=jnp.float32)

    def transformation(rate, seed):
        return factory(**arguments(task, method, weight_decay, rate, seed))

    def start(params, rate, seed):
        return params, transformation(rate, seed).init(params)

    def advance(carry, rate, seed, rows, scales, examples):
        def step(carry, inputs):
            params, state = carry
            rows, scale = inputs
            batch = jax.tree.map(lambda leaf: leaf[rows], examples)
            value, grads, counts = gradients.of_batch(task, method.stacked, params, batch, workers)
            # What is tuned in a learning rate's place has no schedule.
            state = state._replace(hyperparams={tuned: rate * scale if tuned == "learning_rate" else rate})
            updates, state = transformation(rate, seed).update(
                grads,
                state,
                params,
                value=value,
                **counts,
                **gradients.passed(task, params, batch, examples, workers),
            )
            return (optax.apply_updates(params, updates), state), value

        carry, losses = jax.lax.scan(step, carry, (rows, scales))
        return carry, jnp.mean(losses)

    def report(carry):
        params, state = carry
        return method.eval_params(state.inner_state, params)

    return Training(start, advance, report)


def arguments(task: Task, method: Method, weight_decay: float, rate: Any, seed: Any) -> dict[str, Any]:
    """Returns what a method's factory is called with to train on a task."""
    names = inspect.signature(method.optimizer_factory).parameters
    given = {method.tuned: rate, "weight_decay": weight_decay, "key": jax.random.key(seed)}
    if task.classes:
        given["num_clusters"] = task.classes
    given = {**_for_matrices(task), **method.arguments, **given}
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
        task: what is trained.
        seeds: seed of each replica: of its initial parameters, the order of its batches, the optimizer's own draws.
        steps: length of a training.
        mesh: the devices, as `make_mesh` lays them out.
        params: the initial parameters of all replicas.
    """

    def __init__(self, task: Task, *, seeds: Sequence[int], rates: int, steps: int, workers: int = 1):
        """Loads the data onto the devices.

        Args:
            task: what to train.
            seeds: the seeds with which each learning rate is trained.
            rates: how many learning rates are trained at once.
            steps: length of a training.
            workers: over how many devices each batch is split; divides the task's batch size.
        """
        self.task = task
        self.seeds = np.tile(np.asarray(seeds, np.int32), rates)
        self.steps = steps
        self.mesh = make_mesh(rates * len(seeds), workers)
        count = len(jax.tree.leaves(task.train)[0])
        order = np.stack([batch_order(count, task.batch_size, steps, seed) for seed in seeds], axis=1)
        self._rows = np.tile(order, (1, rates, 1))
        self._schedule = np.asarray(schedule(steps)(np.arange(steps)), np.float32)
        self._examples = jax.device_put(task.train, NamedSharding(self.mesh, PartitionSpec()))
        shared, by_replica = PartitionSpec(), PartitionSpec(REPLICAS)
        init = jax.vmap(lambda seed: task.init(jax.random.key(seed)))
        self.params = jax.jit(self.mapped(init, by_replica, by_replica))(self.seeds)
        metrics = jax.vmap(task.metrics, in_axes=(0, None))
        self._evaluate = jax.jit(self.mapped(metrics, (by_replica, shared), by_replica))

    def mapped(self, function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        """Runs a function on every device's own replicas and its own part of their batches."""
        return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def inputs(self, first: int, last: int) -> tuple[Any, ...]:
        """Returns what the steps from `first` to before `last` read: seeds, rows of the batches, schedule, examples."""
        return self.seeds, self._rows[first:last], self._schedule[first:last], self._examples

    def evaluate(self, params: Any, split: Any) -> dict[str, np.ndarray]:
        """Scores every replica's parameters on one of the task's splits."""
        return jax.device_get(self._evaluate(params, split))


class Trainings:
    """The trainings of one optimizer, one for each replica of a sweep.

    Leaves of the carry that cannot differ between replicas, such as step counters, are kept once for all: mapped over
    replicas they would turn every `jax.lax.cond` on them into a `select`, which runs both branches.

    Attributes:
        carry: shapes and dtypes of what all trainings together carry from step to step.
        state_bytes_per_parameter: size of one training's optimizer state.
    """

    def __init__(self, sweep: Sweep, method: Method, weight_decay: float = 0.0):
        """Prepares the program.

        Args:
            sweep: what is trained, and how.
            method: the optimizer.
            weight_decay: for optimizers that have such an argument.
        """
        start, advance, report = training(sweep.task, method, weight_decay, sweep.mesh.shape[WORKERS])
        shared, by_replica, by_worker = PartitionSpec(), PartitionSpec(REPLICAS), PartitionSpec(None, REPLICAS, WORKERS)
        rates = jax.ShapeDtypeStruct(sweep.seeds.shape, jnp.float32)

        differing = _Differing()

        def trace(params, rate, seed, *inputs):
            # The scan's own rule for vmap finds what comes to differ after one step or after many.
            return differing.probe(advance(start(params, rate, seed), rate, seed, *inputs)[0])

        mapped = sweep.mapped(jax.vmap(trace, in_axes=(0, 0, 0, 1, None, None)), shared, shared)
        jax.eval_shape(mapped, sweep.params, rates, *sweep.inputs(0, 1))
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
        self._sweep = sweep
        self.carry = jax.eval_shape(self._start, sweep.params, rates, sweep.seeds)
        alone = method.optimizer_factory(**arguments(sweep.task, method, weight_decay, method.grid, 0))
        params = jax.eval_shape(sweep.task.init, jax.random.key(0))
        self.state_bytes_per_parameter = optkit.cost(alone, params, state_only=True).state_bytes_per_parameter

    def start(self, rates: np.ndarray) -> Any:
        """Returns the carry before the first step.

        Args:
            rates: the peak learning rate of each replica.

        Returns:
            Parameters and optimizer state.
        """
        return self._start(self._sweep.params, rates, self._sweep.seeds)

    def advance(self, carry: Any, rates: np.ndarray, first: int, last: int) -> tuple[Any, np.ndarray, float]:
        """Trains for some steps.

        Args:
            carry: parameters and optimizer state, from `start`, `advance` or a checkpoint; donated.
            rates: the peak learning rate of each replica.
            first: the first step.
            last: the step before which to stop.

        Returns:
            The next carry, each replica's mean training loss over these steps, and the seconds that they took,
            compilation left out.
        """
        inputs = (rates, *self._sweep.inputs(first, last))
        if last - first not in self._compiled:
            self._compiled[last - first] = self._advance.lower(self.carry, *inputs).compile()
        begin = time.perf_counter()
        carry, losses = jax.block_until_ready(self._compiled[last - first](carry, *inputs))
        seconds = time.perf_counter() - begin
        return carry, np.asarray(losses), seconds

    def evaluate(self, carry: Any, split: Any) -> dict[str, np.ndarray]:
        """Scores every replica's reported parameters.

        Args:
            carry: parameters and optimizer state.
            split: one of the task's splits.

        Returns:
            The task's metrics, one value a replica.
        """
        return self._sweep.evaluate(self._report(carry), split)


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
