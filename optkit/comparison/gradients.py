"""The gradients that optimizers need: of a batch, of its parts, of its classes, and of all examples."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optkit.comparison.task import Task, examples
from optkit.core.extra_args import EXTRA_ARGS, Moment, extra_args
from optkit.method import Method, Stacked

WORKERS = "workers"
# The extra arguments that the training loop passes; it keeps no parameters of earlier steps.
PASSED = {name for name, argument in EXTRA_ARGS.items() if argument.of is not None} - {"prev_grads"}
# Into how many parts a batch is cut for optimizers that look at its parts.
MICROBATCHES = 8


def lacks(task: Task, method: Method, workers: int) -> str | None:
    """Says what an optimizer asks of a task that it does not have.

    Args:
        task: What to train.
        method: The optimizer.
        workers: Over how many devices each batch is split.

    Returns:
        A sentence if the batch cannot be cut into its parts, or has no classes, or one objective only; else None.
    """
    if method.stacked == "objectives":
        return f"{method.name} weighs several objectives against each other, and this task has one"
    if method.stacked == "classes" and task.labels is None:
        return f"{method.name} treats classes separately, and this task has no classes"
    if method.stacked == "microbatches" and (MICROBATCHES % workers or task.batch_size % MICROBATCHES):
        return (
            f"{method.name} cuts a batch into {MICROBATCHES} parts, which {workers} workers and a batch of "
            f"{task.batch_size} do not allow"
        )
    return None


def mean(values: Any, workers: int) -> Any:
    """Averages over the workers, inside a function that is mapped over them."""
    # XLA keeps an exchange among one worker, and all devices would wait for each other in it.
    return jax.lax.pmean(values, WORKERS) if workers > 1 else values


def of_batch(
    task: Task, stacked: Stacked | None, params: Any, state: Any, batch: Any, workers: int
) -> tuple[jax.Array, Any, dict[str, Any], Any]:
    """Differentiates the loss of a batch in the form that an optimizer takes.

    Args:
        task: What is trained.
        stacked: What the leading axis of the gradients is over, as in `Method`.
        params: Where.
        state: The model's other state; None if it has none.
        batch: This worker's examples.
        workers: How many workers share the batch.

    Returns:
        The mean loss over all workers' examples; the gradients, equal on all workers; further extra arguments; and the
        model's next state, of which floating-point numbers are means over the workers.
    """
    loss = _loss(task, state)
    if stacked in {"microbatches", "samples"}:
        parts = examples(batch) if stacked == "samples" else MICROBATCHES // workers
        value, grads = _of_parts(loss, params, batch, parts)
        grads = jax.lax.all_gather(grads, WORKERS, tiled=True) if workers > 1 else grads
        return mean(value, workers), grads, {}, _next(task, params, state, batch, workers)
    if stacked == "classes":
        value, grads, counts = _of_classes(task, loss, params, batch)
        counts = jax.lax.psum(counts, WORKERS) if workers > 1 else counts
        value, grads = mean((value, grads), workers)
        return value, grads, {"class_counts": counts}, _next(task, params, state, batch, workers)
    value, grads = mean(jax.value_and_grad(loss)(params, batch), workers)
    return value, grads, {}, _next(task, params, state, batch, workers)


def passed(task: Task, params: Any, state: Any, batch: Any, train: Any, workers: int) -> dict[str, Any]:
    """Makes the extra arguments that every optimizer gets.

    Args:
        task: What is trained.
        params: Where.
        state: The model's other state; None if it has none.
        batch: This worker's examples.
        train: All examples to train on.
        workers: How many workers share the batch.

    Returns:
        The arguments in `PASSED` by name, of which means are over all workers; but `value`, which `of_batch` gives.
    """
    loss = _loss(task, state)
    at = Moment(
        params=params,
        value_fn=lambda point: mean(loss(point, batch), workers),
        grad_fn=lambda point: mean(jax.grad(loss)(point, batch), workers),
        full_grad_fn=lambda point: of_all(task, point, train, state),
    )
    return extra_args(PASSED - {"value"}, at)


def of_all(task: Task, params: Any, train: Any, state: Any = None) -> Any:
    """Differentiates the mean loss of all examples, a batch at a time."""
    loss = _loss(task, state)
    count = examples(train)
    whole = count - count % task.batch_size
    batches = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, task.batch_size, *leaf.shape[1:]), train)
    rest = jax.tree.map(lambda leaf: leaf[whole:], train)

    def add(total, batch):
        return optax.tree.add_scale(total, task.batch_size / count, jax.grad(loss)(params, batch)), None

    total, _ = jax.lax.scan(add, optax.tree.zeros_like(params), batches)
    if whole < count:
        total = optax.tree.add_scale(total, (count - whole) / count, jax.grad(loss)(params, rest))
    return total


def _loss(task, state):
    """The loss as a function of parameters and batch."""
    return task.loss if state is None else lambda params, batch: task.loss(params, state, batch)[0]


def _next(task, params, state, batch, workers):
    """The model's state after a batch."""
    if state is None:
        return None
    # The compiler shares this with the loss that is differentiated.
    _, state = task.loss(params, state, batch)
    return jax.tree.map(lambda leaf: mean(leaf, workers) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, state)


def _of_parts(loss, params, batch, count):
    """The mean loss, and gradients with a leading axis over equal parts, whose mean is the batch's gradient."""
    parts = jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), batch)
    values, grads = jax.vmap(jax.value_and_grad(loss), (None, 0))(params, parts)
    return jnp.mean(values), grads


def _of_classes(task, loss, params, batch):
    """The mean loss, gradients with a leading axis over classes, whose sum is the batch's, and examples a class."""

    def losses(params):
        return jax.vmap(lambda example: loss(params, jax.tree.map(lambda leaf: leaf[None], example)))(batch)

    values, pull_back = jax.vjp(losses, params)
    members = jax.nn.one_hot(task.labels(batch), task.classes, axis=0, dtype=values.dtype)
    (grads,) = jax.vmap(pull_back)(members / len(values))
    return jnp.mean(values), grads, jnp.sum(members, axis=1).astype(jnp.int32)
