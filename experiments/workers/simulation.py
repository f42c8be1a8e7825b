"""Training on many workers, each with its own examples, as compiled programs: faults and attacks included."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments import pieces
from experiments.errors import UserError
from experiments.pieces import LABEL_FLIP
from experiments.workers import split
from optkit.comparison.gradients import WORKERS
from optkit.comparison.task import Task
from optkit.core.workers.on_workers import Backend
from optkit.decentralized import consensus_distance, links_among, lossy_links
from optkit.robust_aggregation.attacks import attacked_mix, label_flip
from optkit.typing import Mixing


class Network(NamedTuple):
    """What all methods of a run share.

    Attributes:
        task: what is trained.
        workers: the number of workers.
        steps: length of a training; workers exchange once in a step.
        rows: rows of the batches' examples, `(workers, steps, batch size)`.
        dropout: probability of a link to fail in a step, in both directions.
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
        attack = pieces.make("attack", self.attack, pieces.ATTACKS, self.byzantine)
        return attacked_mix(mixing, attack, self.byzantine, key=self.seed)

    def links(self, number: jax.Array) -> dict[str, Any]:
        """Gives the extra argument `links` of a step; none where all messages arrive."""
        if not self.dropout and not self.silent:
            return {}
        key = jax.random.fold_in(jax.random.key(self.seed), number)
        third = self.steps / 3
        spoken = (jnp.arange(self.workers) >= self.silent) | (number < third) | (number >= 2 * third)
        return {"links": lossy_links(key, self.workers, self.dropout) & links_among(spoken)}

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

        def evaluate(params, examples):
            mean = network.mean(params)
            own = jnp.mean(network.task.metrics(params, examples)["loss"])
            # Attackers do not count: in their place stands the mean, and the others' share of the workers is known.
            held = jax.tree.map(lambda x, average: jnp.where(network.is_honest(), x, average), params, mean)
            return {
                "mean": jax.tree.map(jnp.mean, network.task.metrics(mean, examples)),
                "worst": jax.lax.pmax(jnp.where(network.is_honest(), own, -jnp.inf), WORKERS),
                "consensus": consensus_distance(held, WORKERS) * (network.workers / network.honest) ** 0.5,
            }

        self._evaluate = network.mapped(evaluate, (0, None), None)

    def __call__(self, params: Any, examples: Any) -> Any:
        """Scores the honest workers.

        Args:
            params: of all workers.
            examples: one of the task's splits.

        Returns:
            The task's metrics of their mean parameters, the largest loss of one's own parameters, and the distance
            from the mean, root mean square.
        """
        return jax.device_get(self._evaluate(params, examples))


class Training:
    """One method's training.

    Attributes:
        program: the compiled steps, from parameters and state, the examples' rows, the steps' numbers and all examples.
    """

    def __init__(self, network: Network, tx: optax.GradientTransformation):
        """Prepares the program.

        Args:
            network: the workers, and what happens to them.
            tx: the method.
        """
        self._network = network
        self._tx = optax.with_extra_args_support(tx)
        params = jax.eval_shape(self._params)
        links = network.links(jnp.int32(0))
        # What is equal on all workers, such as the count that decides whether they exchange, is held once.
        self._axes = optkit.worker_axes(tx, params, axis_name=WORKERS, grad_fn=lambda params: params, **links)
        self.program = network.mapped(self._train, ((0, self._axes), 0, None, None), ((0, self._axes), None))

    def start(self) -> Any:
        """Returns all workers' parameters and optimizer states before the first step."""
        params = self._params()
        return params, jax.vmap(self._tx.init, out_axes=self._axes, axis_name=WORKERS)(params)

    def _params(self):
        return jax.tree.map(lambda x: jnp.stack([x] * self._network.workers), self._network.params())

    def advance(self, carry: Any, first: int, last: int) -> tuple[Any, float, float]:
        """Trains for some steps.

        Args:
            carry: from `start`, `advance` or a checkpoint.
            first: the first step.
            last: the step before which to stop.

        Returns:
            The next carry, the honest workers' mean training loss over these steps, and the seconds that they took,
            compilation included.
        """
        begin, network = time.perf_counter(), self._network
        rows, numbers = network.rows[:, first:last], jnp.arange(first, last)
        carry, loss = jax.block_until_ready(self.program(carry, rows, numbers, network.task.train))
        return carry, float(loss), time.perf_counter() - begin

    def _train(self, carry, rows, numbers, examples):
        network = self._network

        def step(carry, inputs):
            params, state = carry
            rows, number = inputs
            batch = network.batch(examples, rows)
            value, grads = jax.value_and_grad(network.task.loss)(params, batch)
            grad_fn = jax.grad(lambda params: network.task.loss(params, batch))
            updates, state = self._tx.update(grads, state, params, grad_fn=grad_fn, **network.links(number))
            return (optax.apply_updates(params, updates), state), value

        carry, losses = jax.lax.scan(step, carry, (rows, numbers))
        return carry, network.mean(jnp.mean(losses))


def bytes_sent(network: Network, tx: optax.GradientTransformation, *, every: int) -> dict[str, int]:
    """Counts what a worker sends in a step, in the program compiled for as many devices as there are workers.

    Args:
        network: the workers.
        tx: the method, without the attack: what simulates that sends more.
        every: in how many steps workers exchange once; what they send then is shared out among these.

    Returns:
        Bytes by kind of collective. Of a topology that changes, those of its most expensive step. Lost messages count,
        since their senders do not know.
    """
    found = optkit.cost(
        tx,
        jax.eval_shape(network.params),
        axis_name=WORKERS,
        axis_size=network.workers,
        every=every,
        grad_fn=lambda params: params,
        **network.links(jnp.int32(0)),
    )
    return {kind: round(size) for kind, size in found.sent_per_step.items()}
