"""Recorded trajectories, of the authors' own code where there is any, and their replay.

A file `METHOD__VARIANT.npz` holds inputs (`params0.LEAF`, `grads.LEAF`), outputs (`params.LEAF`) and a JSON string
`meta` with every hyperparameter and the tolerance.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


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


def replay_gradients(tx: optax.GradientTransformation, recording: Recording) -> Any:
    """Feeds the recorded gradients to a transformation: replays files of kind `gradients`.

    Args:
        tx: the method, with the recorded hyperparameters.
        recording: the file. Enable x64 where it is float64.

    Returns:
        The parameters after every step, shaped as `recording.tree("params")`.

    Raises:
        ValueError: if the file is of another kind.
    """
    if recording.meta["kind"] != "gradients":
        raise ValueError(f"{recording.name} must be of kind 'gradients', got {recording.meta['kind']!r}")
    params = jax.tree.map(jnp.asarray, recording.tree("params0"))

    def step(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    grads = jax.tree.map(jnp.asarray, recording.tree("grads"))
    return jax.jit(lambda carry: jax.lax.scan(step, carry, grads)[1])((params, tx.init(params)))
