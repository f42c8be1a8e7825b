"""Digests of data and of programs, by which a run that continues knows that they are what they were."""

import hashlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optkit.comparison.task import SPLITS, Task
from optkit.comparison.training import training
from optkit.method import Method

_ADDRESS = re.compile(r"0x[0-9a-f]+")


def of_data(task: Task) -> str:
    """Returns a digest of a task's examples."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(task, split)):
            array = np.ascontiguousarray(leaf)
            digest.update(f"{split}{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def of_model(task: Task) -> str:
    """Returns a digest of what a task computes: initial parameters, loss and metrics."""
    batch = jax.tree.map(lambda leaf: leaf[: task.batch_size], task.train)

    def compute(key, batch):
        params = task.init(key)
        inputs = (params, batch) if task.state is None else (params, task.state(key), batch)
        return params, task.loss(*inputs), task.metrics(*inputs)

    return _of_program(compute, jax.random.key(0), batch)


def of_optimizer(task: Task, method: Method) -> str:
    """Returns a digest of what a step of a task with an optimizer computes."""
    one = training(task, method, (method.tuned,), 0.0, workers=1)

    def compute(params, values, seed, *inputs):
        return one.advance(one.start(params, values, seed), values, seed, *inputs)

    params = jax.eval_shape(task.init, jax.random.key(0))
    rows = jnp.zeros((1, task.batch_size), jnp.int32)
    return _of_program(compute, params, {method.tuned: jnp.float32(0)}, 0, rows, jnp.zeros(1), task.train)


def _of_program(function: Callable[..., Any], *arguments: Any) -> str:
    program = jax.make_jaxpr(function)(*arguments)
    digest = hashlib.sha256(_ADDRESS.sub("", str(program)).encode())
    for constant in program.consts:
        if not jnp.issubdtype(constant.dtype, jax.dtypes.prng_key):
            digest.update(np.asarray(constant).tobytes())
    return digest.hexdigest()
