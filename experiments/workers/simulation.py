"""Training on many workers, each with its own examples, as compiled programs: faults and attacks included."""

import functools
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import core

import optkit
from experiments import pieces
from experiments.errors import UserError
from experiments.optimizers import takes
from experiments.pieces import LABEL_FLIP
from experiments.workers import split
from experiments.workers.traffic import Traffic, counting
from optkit.comparison.gradients import WORKERS
from optkit.comparison.task import Task
from optkit.core.cost.cost import Cost
from optkit.core.extra_args import Moment, extra_args
from optkit.core.workers.on_workers import Backend
from optkit.decentralized import consensus_distance, links_among, lossy_links
from optkit.method import Method, parameters_as_they_are
from optkit.robust_aggregation.attacks import attacked_mix, label_flip, under_attack
from optkit.typing import Mixing


class Network(NamedTuple):
    """What all methods of a run share.

    Attributes:
        task: what is trained.
        workers: the number of workers.
        steps: length of a training; workers exchange once in a step.
        rows: rows of the batches' examples, `(workers, steps, batch size)`.
        dropout: probability of a link to fail in a step, in both directions; of methods without neighbours, of a worker
            to be missing in a step's mean.
        silent: how many workers, the first ones, are cut off in the middle third of the run; they go on alone.
        attack: what the attackers do, `name` or `name:number`; None where nobody attacks.
        byzantine: how many workers, the last ones, attack.
        seed: of the initial parameters, equal on all workers, and of all draws.
        backend: how workers are mapped, see `optkit.on_workers`.
    """

    task: Task
    workers: int
    steps: int
    rows: np.ndarray
    dropout: float
    silent: int
    attack: str | None
    byzantine: int
    seed: int
    backend: Backend

    @property
    def honest(self) -> int:
        """The number of workers that do not attack."""
        return self.workers - self.byzantine

    def params(self) -> Any:
        """Makes the initial parameters, equal on all workers."""
        return self.task.init(jax.random.key(self.seed))

    def mapped(self, step: Any, in_axes: Any, out_axes: Any) -> Any:
        """Runs one worker's step on all of them."""
        return optkit.on_workers(step, axis_name=WORKERS, in_axes=in_axes, out_axes=out_axes, backend=self.backend)

    def attacked(self, mixing: Mixing) -> Mixing:
        """Puts a mixing under the attack, if there is one on what is sent."""
        if self.attack in (None, LABEL_FLIP):
            return mixing
        return attacked_mix(mixing, self._attack(), self.byzantine, key=self.seed)

    def attack_on_gradients(self) -> optax.GradientTransformation:
        """Makes what puts gradients under the attack, if there is one on what is sent."""
        if self.attack in (None, LABEL_FLIP):
            return optax.identity()
        return under_attack(self._attack(), self.byzantine, axis_name=WORKERS, key=self.seed)

    def _attack(self):
        assert self.attack is not None
        return pieces.make("attack", self.attack, pieces.ATTACKS, self.byzantine)

    @property
    def is_faulty(self) -> bool:
        """Whether messages are lost."""
        return bool(self.dropout or self.silent)

    def links(self, number: jax.Array) -> jax.Array:
        """Says which messages between workers arrive in a step."""
        return lossy_links(self._key(number), self.workers, self.dropout) & links_among(self._spoken(number))

    def present(self, number: jax.Array) -> jax.Array:
        """Says which workers are in the mean of a step; all are where none would be."""
        arrived = jax.random.bernoulli(self._key(number), 1 - self.dropout, (self.workers,)) & self._spoken(number)
        return arrived | ~jnp.any(arrived)

    def _key(self, number):
        return jax.random.fold_in(jax.random.key(self.seed), number)

    def _spoken(self, number):
        third = self.steps / 3
        return (jnp.arange(self.workers) >= self.silent) | (number < third) | (number >= 2 * third)

    def batch(self, examples: Any, rows: jax.Array) -> Any:
        """Takes a worker's batch; that of attackers with flipped labels, if that is the attack."""
        batch = jax.tree.map(lambda leaf: leaf[rows], examples)
        if self.attack != LABEL_FLIP:
            return batch
        assert self.task.labels is not None  # `deal` refuses tasks without classes
        flipped = jax.nn.one_hot(label_flip(self.task.labels(batch), self.task.classes), self.task.classes)
        return {**batch, "label": jnp.where(self.is_honest(), batch["label"], flipped)}

    def is_honest(self) -> jax.Array:
        """Says whether the worker that asks does not attack."""
        return jax.lax.axis_index(WORKERS) < self.honest

    def mean(self, tree: Any) -> Any:
        """Averages over the honest workers."""
        return jax.tree.map(lambda x: jax.lax.psum(jnp.where(self.is_honest(), x, 0), WORKERS) / self.honest, tree)


def deal(
    task: Task,
    *,
    workers: int,
    steps: int,
    alpha: float,
    dropout: float,
    silent: int,
    attack: str | None,
    byzantine: int,
    seed: int,
    backend: Backend,
) -> Network:
    """Deals a task's examples to workers.

    Args:
        task: what to train.
        workers: the number of workers, who share the task's batch size.
        steps: length of a training.
        alpha: how evenly, see `split.deal`.
        dropout: see `Network`, as all below.
        silent: as there.
        attack: as there.
        byzantine: as there.
        seed: as there.
        backend: as there.

    Returns:
        The network.

    Raises:
        UserError: if it cannot be.
    """
    if not 0 <= silent < workers:
        raise UserError(f"--silent must leave at least one of {workers} workers, got {silent}")
    if not 0 <= byzantine < workers:
        raise UserError(f"--byzantine must leave at least one of {workers} workers, got {byzantine}")
    if attack == LABEL_FLIP and (task.labels is None or "label" not in task.train):
        raise UserError(f"{LABEL_FLIP} needs a task with classes")
    if backend == "shard_map" and workers > jax.device_count():
        raise UserError(
            f"--backend shard_map needs a device for each worker, but there are {workers} workers and"
            f" {jax.device_count()} devices"
        )
    size = max(1, task.batch_size // workers)
    parts = split.deal(task, workers=workers, alpha=alpha, least=size, seed=seed)
    rows = split.batches(parts, batch_size=size, steps=steps, seed=seed)
    return Network(task, workers, steps, rows, dropout, silent, attack, byzantine, seed, backend)


class Evaluation:
    """Scores what workers hold; one for all methods of a run, since parameters are alike."""

    def __init__(self, network: Network):
        """Prepares the program.

        Args:
            network: whose workers they are.
        """

        def evaluate(params, reported, examples):
            mean = network.mean(params)
            own = jnp.mean(network.task.metrics(params, examples)["loss"])
            # Attackers do not count: in their place stands the mean, and the others' share of the workers is known.
            held = jax.tree.map(lambda x, average: jnp.where(network.is_honest(), x, average), params, mean)
            return {
                "mean": jax.tree.map(jnp.mean, network.task.metrics(network.mean(reported), examples)),
                "worst": jax.lax.pmax(jnp.where(network.is_honest(), own, -jnp.inf), WORKERS),
                "consensus": consensus_distance(held, WORKERS) * (network.workers / network.honest) ** 0.5,
            }

        self._evaluate = network.mapped(evaluate, (0, 0, None), None)

    def __call__(self, params: Any, reported: Any, examples: Any) -> Any:
        """Scores the honest workers.

        Args:
            params: of all workers.
            reported: what the method reports in their place.
            examples: one of the task's splits.

        Returns:
            The task's metrics of the mean of what is reported, the largest loss of one's own parameters, and the
            distance from the mean, root mean square.
        """
        return jax.device_get(self._evaluate(params, reported, examples))


class Training:
    """One method's training.

    Attributes:
        program: the compiled steps, from parameters and state, the examples' rows, the steps' numbers and all examples.
    """

    def __init__(self, network: Network, method: Method, tx: optax.GradientTransformation, attacked: Any = None):
        """Prepares the program.

        Args:
            network: the workers, and what happens to them.
            method: the method's entry.
            tx: the method.
            attacked: the method with what it mixes under the attack; None where gradients are, if anything.
        """
        self._network = network
        self._method = method
        self._without_attack = tx
        self._before = optax.identity() if attacked is not None else network.attack_on_gradients()
        self._tx = optax.with_extra_args_support(tx if attacked is None else attacked)
        self._all = optax.chain(self._before, self._tx)
        like = self._like()
        if network.is_faulty:
            _require_losses(method, tx, jax.eval_shape(network.params), like, network.workers)
        if "weight" in like:
            like["weight"] = network.present(jnp.int32(0))
        # What is equal on all workers, such as the count that decides whether they exchange, is held once.
        params = jax.eval_shape(self._params)
        self._axes = optkit.worker_axes(self._all, params, axis_name=WORKERS, **like)
        self.program = network.mapped(self._train, ((0, self._axes), 0, None, None), ((0, self._axes), None, None))
        self._reported = network.mapped(method.eval_params, (self._axes[1], 0), 0)

    @functools.cached_property
    def cost(self) -> Cost:
        """What a worker sends without the attack, in the program compiled for as many devices as workers."""
        one, workers = jax.eval_shape(self._network.params), self._network.workers
        return optkit.cost(self._without_attack, one, axis_name=WORKERS, axis_size=workers, **self._like())

    def start(self) -> Any:
        """Returns all workers' parameters and optimizer states before the first step."""
        params = self._params()
        return params, jax.vmap(self._all.init, out_axes=self._axes, axis_name=WORKERS)(params)

    def reported(self, carry: Any) -> Any:
        """Returns the parameters that the method reports, of all workers."""
        params, state = carry
        return params if self._method.eval_params is parameters_as_they_are else self._reported(state[1], params)

    def _params(self):
        return jax.tree.map(lambda x: jnp.stack([x] * self._network.workers), self._network.params())

    def _like(self):
        """Makes extra arguments of one worker that are like those of a step."""

        def value_fn(params):
            return optax.tree.norm(params, squared=True) / 2

        return self._extra_args(value_fn, self._network.params(), jnp.int32(0), 0)

    def _extra_args(self, value_fn, params, number, worker):
        """Makes the extra arguments of one worker's update: those that the method needs, and what is lost."""
        network, needs = self._network, set(self._method.needs) - {"axis_name"}
        made = extra_args(needs, Moment(params, value_fn, jax.grad(value_fn))) if needs else {}
        if not network.is_faulty:
            return made
        if "topology" in takes(self._method):
            return {**made, "links": network.links(number)}
        return {**made, "weight": network.present(number)[worker]}

    def advance(self, carry: Any, first: int, last: int) -> tuple[Any, float, Traffic, float]:
        """Trains for some steps.

        Args:
            carry: from `start`, `advance` or a checkpoint.
            first: the first step.
            last: the step before which to stop.

        Returns:
            The next carry, the honest workers' mean training loss over these steps, what a worker sent in them, and the
            seconds that they took, compilation included.
        """
        begin, network = time.perf_counter(), self._network
        rows, numbers = network.rows[:, first:last], jnp.arange(first, last)
        carry, loss, traffic = jax.block_until_ready(self.program(carry, rows, numbers, network.task.train))
        return carry, float(loss), jax.tree.map(float, traffic), time.perf_counter() - begin

    def _train(self, carry, rows, numbers, examples):
        network = self._network

        def step(carry, inputs):
            params, (before, state) = carry
            rows, number = inputs
            batch = network.batch(examples, rows)

            def value_fn(params):
                return network.task.loss(params, batch)

            def update(grads, state, params):
                extra = self._extra_args(value_fn, params, number, jax.lax.axis_index(WORKERS))
                return self._tx.update(grads, state, params, **extra)

            value, grads = jax.value_and_grad(value_fn)(params)
            grads, before = self._before.update(grads, before, params)
            (updates, state), sent = counting(update, network.workers)(grads, state, params)
            return (optax.apply_updates(params, updates), (before, state)), (value, sent)

        carry, (losses, sent) = jax.lax.scan(step, carry, (rows, numbers))
        sent = jax.tree.map(lambda x: jax.lax.pmean(jnp.sum(x), WORKERS), sent)
        return carry, network.mean(jnp.mean(losses)), sent


def _require_losses(
    method: Method, tx: optax.GradientTransformation, params: Any, given: Mapping[str, Any], workers: int
) -> None:
    """Raises if a method ignores which messages are lost.

    Raises:
        UserError: if so.
    """

    def update(lost, params):
        return optax.with_extra_args_support(tx).update(params, tx.init(params), params, **{**given, **lost})

    lost = {name: value for name, value in given.items() if name in ("links", "weight")}
    program = jax.make_jaxpr(update, axis_env=[(WORKERS, workers)])(lost, params)
    used = {atom for equation in program.jaxpr.eqns for atom in equation.invars if isinstance(atom, core.Var)}
    if used.isdisjoint(program.jaxpr.invars[: len(lost)]):
        raise UserError(f"{method.name} knows no lost messages: --dropout and --silent have no effect on it")
