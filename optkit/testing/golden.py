"""Recorded trajectories, of the authors' own code where there is any, and their replay.

A file `METHOD__VARIANT.npz` holds inputs (`params0.LEAF`, `grads.LEAF`), outputs (`params.LEAF`) and a JSON string
`meta` with every hyperparameter and the tolerance.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optkit.core.method import parameters_as_they_are


@dataclasses.dataclass(frozen=True)
class Recording:
    """One golden file.

    Attributes:
        name: the file's stem, `METHOD__VARIANT`.
        meta: method, kind, source, hyperparameters, dtype, tolerance, notes.
        arrays: everything else, by the name in the file, for example `"grads.w"`.
    """

    name: str
    meta: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    @property
    def hyperparams(self) -> dict[str, Any]:
        """The hyperparameters of the recorded run."""
        return dict(self.meta["hyperparams"])

    def tree(self, group: str) -> dict[str, np.ndarray]:
        """Returns the arrays `group.LEAF` as a tree.

        Args:
            group: for example `"params0"`, `"grads"` or `"params"`.

        Returns:
            A dictionary from leaf to array.

        Raises:
            KeyError: if the file has no such group.
        """
        prefix = f"{group}."
        leaves = {name.removeprefix(prefix): x for name, x in self.arrays.items() if name.startswith(prefix)}
        if not leaves:
            raise KeyError(f"{self.name} has no arrays {prefix}*, only {sorted(self.arrays)}")
        return leaves


def read(path: str | os.PathLike[str]) -> Recording:
    """Reads a golden file.

    Args:
        path: the `.npz` file.

    Returns:
        Its contents.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files if name != "meta"}
        return Recording(pathlib.Path(path).stem, json.loads(str(file["meta"])), arrays)


def deviation(actual: Any, expected: Any) -> float:
    """Returns the largest difference of two trees, each leaf's relative to the largest recorded entry of that leaf.

    Args:
        actual: a tree of trajectories, time first.
        expected: the recorded one.

    Returns:
        A number to compare with `meta["rtol"]`; NaN if anything is NaN.
    """

    def leaf_deviation(a, b):
        return np.max(np.abs(np.asarray(a, b.dtype) - b)) / max(np.max(np.abs(b)), np.finfo(b.dtype).tiny)

    return float(np.max(jax.tree.leaves(jax.tree.map(leaf_deviation, actual, expected))))


def replay_gradients(
    tx: optax.GradientTransformation, recording: Recording, extra_args: Mapping[str, Any] | None = None
) -> Any:
    """Feeds the recorded gradients to a transformation: replays files of kind `gradients` and `stacked_gradients`.

    Args:
        tx: the method, with the recorded hyperparameters; it removes the leading axis of stacked gradients.
        recording: the file. Enable x64 where it is float64.
        extra_args: recorded extra arguments of `update`, trees of arrays with time first.

    Returns:
        The parameters after every step, shaped as `recording.tree("params")`.

    Raises:
        ValueError: if the file is of another kind.
    """
    _require_kind(recording, "gradients", "stacked_gradients")
    tx = optax.with_extra_args_support(tx)
    params = jax.tree.map(jnp.asarray, recording.tree("params0"))

    def step(carry, inputs):
        params, state = carry
        grads, extra_args = inputs
        updates, state = tx.update(grads, state, params, **extra_args)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    inputs = jax.tree.map(jnp.asarray, (recording.tree("grads"), dict(extra_args or {})))
    return jax.jit(lambda carry: jax.lax.scan(step, carry, inputs)[1])((params, tx.init(params)))


def replay_oracle(
    tx: optax.GradientTransformation,
    recording: Recording,
    *,
    eval_params: Callable[[Any, Any], Any] = parameters_as_they_are,
    extra_args: Mapping[str, Any] | None = None,
) -> Any:
    """Lets a transformation ask for gradients where it likes: replays files of kind `oracle`.

    The extra arguments `grad_fn` and `full_grad_fn` are passed in every step.

    Args:
        tx: the method, with the recorded hyperparameters.
        recording: the file. Enable x64 where it is float64.
        eval_params: gives the parameters to report from the state and the parameters of the loop.
        extra_args: recorded extra arguments of `update`, trees of arrays with time first.

    Returns:
        The reported parameters after every step, shaped as `recording.tree("params")`.

    Raises:
        ValueError: if the file is of another kind.
    """
    _require_kind(recording, "oracle")
    tx = optax.with_extra_args_support(tx)
    params = jax.tree.map(jnp.asarray, recording.tree("params0"))
    steps = len(jax.tree.leaves(recording.tree("params"))[0])
    hessian, linear, noise = (jax.tree.map(jnp.asarray, recording.tree(name)) for name in ("A", "b", "noise"))
    curvature = jnp.asarray(recording.arrays.get("curv", np.ones(len(jax.tree.leaves(noise)[0]))))
    components = jnp.asarray(recording.arrays.get("draws.index", np.arange(steps)))

    def gradient(params, component):
        def leaf_gradient(x, hessian, linear, noise):
            product = (hessian @ x.ravel()).reshape(x.shape)
            return curvature[component] * product - linear - noise[component].reshape(x.shape)

        return jax.tree.map(leaf_gradient, params, hessian, linear, noise)

    def full_gradient(params):
        all_gradients = jax.vmap(gradient, (None, 0))(params, jnp.arange(len(curvature)))
        return jax.tree.map(lambda g: jnp.mean(g, axis=0), all_gradients)

    def step(carry, inputs):
        params, state = carry
        component, extra_args = inputs
        updates, state = tx.update(
            gradient(params, component),
            state,
            params,
            grad_fn=lambda point: gradient(point, component),
            full_grad_fn=full_gradient,
            **extra_args,
        )
        params = optax.apply_updates(params, updates)
        return (params, state), eval_params(state, params)

    inputs = components, jax.tree.map(jnp.asarray, dict(extra_args or {}))
    return jax.jit(lambda carry: jax.lax.scan(step, carry, inputs)[1])((params, tx.init(params)))


def replay_workers(
    tx: optax.GradientTransformation, recording: Recording, extra_args: Mapping[str, Any] | None = None
) -> Any:
    """Feeds each worker its recorded gradients, under `vmap` with the axis "workers": replays files of kind `workers`.

    Args:
        tx: the method, with the recorded hyperparameters and `axis_name="workers"`.
        recording: the file. Enable x64 where it is float64.
        extra_args: recorded extra arguments of `update`, trees of arrays with time first, and workers behind it.

    Returns:
        The parameters of all workers after every step, shaped as `recording.tree("params")`.

    Raises:
        ValueError: if the file is of another kind.
    """
    _require_kind(recording, "workers")
    tx = optax.with_extra_args_support(tx)
    params = jax.tree.map(jnp.asarray, recording.tree("params0"))
    inputs = jax.tree.map(jnp.asarray, (recording.tree("grads"), dict(extra_args or {})))

    def step(carry, inputs):
        params, state = carry
        grads, extra_args = inputs
        updates, state = tx.update(grads, state, params, **extra_args)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    workers = jax.vmap(step, axis_name="workers")
    return jax.jit(lambda carry: jax.lax.scan(workers, carry, inputs)[1])((params, jax.vmap(tx.init)(params)))


def _require_kind(recording: Recording, *kinds: str) -> None:
    if recording.meta["kind"] not in kinds:
        raise ValueError(f"{recording.name} must be of kind {' or '.join(kinds)}, got {recording.meta['kind']!r}")
