"""The gradients that optimizers need: of a batch, of its parts, of its classes, and of all examples."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.errors import UserError
from experiments.tasks import Task
from optkit.core.extra_args import EXTRA_ARGS, Moment, extra_args
from optkit.method import Method, Stacked

WORKERS = "workers"
# The extra arguments that the training loop passes; it keeps no parameters of earlier steps.
PASSED = {name for name, argument in EXTRA_ARGS.items() if argument.of is not None} - {"prev_grads"}
# Into how many parts a batch is cut for optimizers that look at its parts.
MICROBATCHES = 8


def require_trainable(task: Task, method: Method, workers: int) -> None:
    """Says what an optimizer asks of a task that it does not have.

    Args:
        task: what to train.
        method: the optimizer.
        workers: over how many devices each batch is split.

    Raises:
        UserError: if the batch cannot be cut into its parts, or has no classes, or one objective only.
    """
    if method.stacked == "objectives":
        raise UserError(f"{method.name} weighs several objectives against each other, and this task has one")
    if method.stacked == "classes" and task.labels is None:
        raise UserError(f"{method.name} treats classes separately, and this task has no classes")
    if method.stacked == "microbatches" and (MICROBATCHES % workers or task.batch_size % MICROBATCHES):
        raise UserError(
            f"{method.name} cuts a batch into {MICROBATCHES} parts, which {workers} workers and a batch of "
            f"{task.batch_size} do not allow"
        )


def mean(values: Any, workers: int) -> Any:
    """Averages over the workers, inside a function that is mapped over them."""
    # XLA keeps an exchange among one worker, and all devices would wait for each other in it.
    return jax.lax.pmean(values, WORKERS) if workers > 1 else values


def of_batch(
    task: Task, stacked: Stacked | None, params: Any, batch: Any, workers: int
) -> tuple[jax.Array, Any, dict[str, Any]]:
    """Differentiates the loss of a batch in the form that an optimizer takes.

    Args:
        task: what is trained.
        stacked: what the leading axis of the gradients is over, as in `Method`.
        params: where.
        batch: this worker's examples.
        workers: how many workers share the batch.

    Returns:
        The mean loss over all workers' examples; the gradients, equal on all workers; and further extra arguments.
    """
    if stacked in {"microbatches", "samples"}:
        examples = len(jax.tree.leaves(batch)[0])
        parts = examples if stacked == "samples" else MICROBATCHES // workers
        value, grads = _of_parts(task, params, batch, parts)
        return mean(value, workers), jax.lax.all_gather(grads, WORKERS, tiled=True) if workers > 1 else grads, {}
    if stacked == "classes":
        value, grads, counts = _of_classes(task, params, batch)
        counts = jax.lax.psum(counts, WORKERS) if workers > 1 else counts
        return *mean((value, grads), workers), {"class_counts": counts}
    return *mean(jax.value_and_grad(task.loss)(params, batch), workers), {}


def passed(task: Task, params: Any, batch: Any, examples: Any, workers: int) -> dict[str, Any]:
    """Makes the extra arguments that every optimizer gets.

    Args:
        task: what is trained.
        params: where.
        batch: this worker's examples.
        examples: all examples to train on.
        workers: how many workers share the batch.

    Returns:
        The arguments in `PASSED` by name, of which means are over all workers; but `value`, which `of_batch` gives.
    """
    at = Moment(
        params=params,
        value_fn=lambda point: mean(task.loss(point, batch), workers),
        grad_fn=lambda point: mean(jax.grad(task.loss)(point, batch), workers),
        full_grad_fn=lambda point: of_all(task, point, examples),
    )
    return extra_args(PASSED - {"value"}, at)


def of_all(task: Task, params: Any, examples: Any) -> Any:
    """Differentiates the mean loss of all examples, a batch at a time."""
    count = len(jax.tree.leaves(examples)[0])
    whole = count - count % task.batch_size
    batches = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, task.batch_size, *leaf.shape[1:]), examples)
    rest = jax.tree.map(lambda leaf: leaf[whole:], examples)

    def add(total, batch):
        return optax.tree.add_scale(total, task.batch_size / count, jax.grad(task.loss)(params, batch)), None

    total, _ = jax.lax.scan(add, optax.tree.zeros_like(params), batches)
    if whole < count:
        total = optax.tree.add_scale(total, (count - whole) / count, jax.grad(task.loss)(params, rest))
    return total


def _of_parts(task, params, batch, count):
    """The mean loss, and gradients with a leading axis over equal parts, whose mean is the batch's gradient."""
    parts = jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), batch)
    values, grads = jax.vmap(jax.value_and_grad(task.loss), (None, 0))(params, parts)
    return jnp.mean(values), grads


def _of_classes(task, params, batch):
    """The mean loss, gradients with a leading axis over classes, whose sum is the batch's, and examples a class."""

    def losses(params):
        return jax.vmap(lambda example: task.loss(params, jax.tree.map(lambda leaf: leaf[None], example)))(batch)

    values, pull_back = jax.vjp(losses, params)
    members = jax.nn.one_hot(task.labels(batch), task.classes, axis=0, dtype=values.dtype)
    (grads,) = jax.vmap(pull_back)(members / len(values))
    return jnp.mean(values), grads, jnp.sum(members, axis=1).astype(jnp.int32)
