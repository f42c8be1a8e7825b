"""Recorded trajectories, of the authors' own code if there is any, and their replay.

A file `METHOD__VARIANT.npz` contains inputs (`params0.LEAF`, `grads.LEAF`), outputs (`params.LEAF`) and a JSON string
`meta` with every hyperparameter and the tolerance.
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optkit.core import extra_args as vocabulary
from optkit.method import parameters_as_they_are


class Hyperparameters:
    """The hyperparameters of a recorded run, which a replay reads by name; nested ones are named `"outer.inner"`.

    A replay must notice everything that it does not know: a word without a meaning is refused when it is read, and
    `refuse_unread` refuses every name that was never read. For this reason no method returns several hyperparameters
    without their names.

    Example:
        >>> recorded = Hyperparameters("lion_k__lp", {"b1": 0.9, "kappa": "lp", "kappa_args": {"p": 3.0}})
        >>> recorded.take("b1", exponent="kappa_args.p"), recorded.word("kappa", {"l1": 1, "lp": None})
        ({'b1': 0.9, 'exponent': 3.0}, None)
        >>> recorded.refuse_unread()
    """

    def __init__(self, recording: str, values: Mapping[str, Any]) -> None:
        """Stores the hyperparameters of one recording.

        Args:
            recording: The recording's name, for the messages.
            values: The hyperparameters as they were recorded, nested or not.
        """
        self._recording = recording
        self._values = dict(_flattened(values))
        self._unread = set(self._values)

    def __contains__(self, name: str) -> bool:
        """Tells whether a hyperparameter of this name was recorded; this does not count as reading it."""
        return name in self._values

    def __getitem__(self, name: str) -> Any:
        """Returns a hyperparameter that is not a word.

        Args:
            name: Its name, for example `"b1"` or `"base.lr"`.

        Returns:
            A number, a boolean, a list or None.

        Raises:
            KeyError: If it was not recorded.
            ValueError: If it is a word.
        """
        value = self._read(name)
        if isinstance(value, str):
            raise self._unknown(name, "no word", value)
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """Returns a hyperparameter that is not a word, or `default` if it was not recorded."""
        return self.take_recorded(name).get(name, default)

    def take(self, *names: str, **renamed: str) -> dict[str, Any]:
        """Returns several hyperparameters that are not words, as keyword arguments.

        Args:
            *names: Names that are the same here and in the recording.
            **renamed: Our names, with the recorded ones as values: `b1="beta"`.

        Returns:
            The values under our names.

        Raises:
            KeyError: If one was not recorded.
            ValueError: If one is a word.
        """
        return {ours: self[theirs] for ours, theirs in {**dict(zip(names, names, strict=True)), **renamed}.items()}

    def take_recorded(self, *names: str, **renamed: str) -> dict[str, Any]:
        """Returns the result of `take`, without the names that were not recorded."""
        renamed = {**dict(zip(names, names, strict=True)), **renamed}
        return self.take(**{ours: theirs for ours, theirs in renamed.items() if theirs in self})

    def group(self, name: str) -> dict[str, Any]:
        """Returns all hyperparameters `name.KEY`, which are not words, by their keys, for example leaves."""
        return {key: self[f"{name}.{key}"] for key in self._keys(name)}

    def is_word(self, name: str) -> bool:
        """Tells whether a hyperparameter was recorded and is a word; this does not count as reading it."""
        return isinstance(self._values.get(name), str)

    def word(self, name: str, meanings: Mapping[Any, Any] | tuple[Any, ...], *default: Any) -> Any:
        """Returns our meaning of a recorded word.

        Args:
            name: Name of the hyperparameter.
            meanings: Our value for each known word, or the known words alone if they are ours too.
            *default: The meaning if nothing was recorded. Without it, that is an error.

        Returns:
            The meaning of the word.

        Raises:
            KeyError: If it was not recorded and there is no default.
            ValueError: If the word is unknown.
        """
        if default and name not in self:
            return default[0]
        value = self._read(name)
        meanings = meanings if isinstance(meanings, Mapping) else dict(zip(meanings, meanings, strict=True))
        known = [word for word in meanings if word == value and type(word) is type(value)]
        if not known:
            raise self._unknown(name, f"one of {list(meanings)}", value)
        return meanings[known[0]]

    def words(self, name: str, meanings: Mapping[Any, Any] | tuple[Any, ...]) -> dict[str, Any]:
        """Returns our meanings of all recorded words `name.KEY`, by their keys, for example leaves."""
        return {key: self.word(f"{name}.{key}", meanings) for key in self._keys(name)}

    def match(self, name: str, pattern: str) -> re.Match[str]:
        """Reads a description that contains numbers.

        Args:
            name: Name of the hyperparameter.
            pattern: A regular expression for the whole description.

        Returns:
            The match.

        Raises:
            KeyError: If it was not recorded.
            ValueError: If it does not match.
        """
        value = self._read(name)
        found = re.fullmatch(pattern, value) if isinstance(value, str) else None
        if found is None:
            raise self._unknown(name, f"a word like {pattern!r}", value)
        return found

    def refuse_unread(self) -> None:
        """Raises if hyperparameters were recorded and never read.

        Raises:
            ValueError: If there are any.
        """
        if self._unread:
            raise ValueError(f"{self._recording}: this replay does not know the hyperparameters {sorted(self._unread)}")

    def _read(self, name: str) -> Any:
        if name not in self._values:
            raise KeyError(f"{self._recording} has no hyperparameter {name!r}, only {sorted(self._values)}")
        self._unread.discard(name)
        return self._values[name]

    def _unknown(self, name: str, expected: str, value: Any) -> ValueError:
        return ValueError(f"{self._recording}: the hyperparameter {name!r} must be {expected}, got {value!r}")

    def _keys(self, name: str) -> list[str]:
        return [full.removeprefix(f"{name}.") for full in self._values if full.startswith(f"{name}.")]


@dataclasses.dataclass(frozen=True)
class Recording:
    """One golden file.

    Attributes:
        name: Name of the file without its ending, `METHOD__VARIANT`.
        meta: Method, kind, source, hyperparameters, dtype, tolerance and notes.
        arrays: All other contents, by their names in the file, for example `"grads.w"`.
    """

    name: str
    meta: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    @functools.cached_property
    def hyperparams(self) -> Hyperparameters:
        """The hyperparameters of the recorded run, as one object that knows which of them have been read."""
        return Hyperparameters(self.name, self.meta["hyperparams"])

    def tree(self, group: str) -> dict[str, np.ndarray]:
        """Returns the arrays `group.LEAF` as a tree.

        Args:
            group: For example `"params0"`, `"grads"` or `"params"`.

        Returns:
            A dictionary from leaves to arrays.

        Raises:
            KeyError: If the file has no such group.
        """
        prefix = f"{group}."
        leaves = {name.removeprefix(prefix): x for name, x in self.arrays.items() if name.startswith(prefix)}
        if not leaves:
            raise KeyError(f"{self.name} has no arrays {prefix}*, only {sorted(self.arrays)}")
        return leaves


def read(path: str | os.PathLike[str]) -> Recording:
    """Reads a golden file.

    Args:
        path: The `.npz` file.

    Returns:
        Its contents.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files if name != "meta"}
        return Recording(pathlib.Path(path).stem, json.loads(str(file["meta"])), arrays)


def deviation(actual: Any, expected: Any) -> float:
    """Returns the largest difference of two trees, relative to the largest recorded entry of each leaf.

    Args:
        actual: A tree of trajectories, with time as the first axis.
        expected: The recorded tree.

    Returns:
        A number to compare with `meta["rtol"]`, or NaN if anything is NaN.

    Raises:
        ValueError: If the trees or their shapes differ.
    """

    def leaf_deviation(a, b):
        if np.shape(a) != np.shape(b):
            raise ValueError(f"actual must have the recorded shape {np.shape(b)}, got {np.shape(a)}")
        return np.max(np.abs(np.asarray(a, b.dtype) - b)) / max(np.max(np.abs(b)), np.finfo(b.dtype).tiny)

    return float(np.max(jax.tree.leaves(jax.tree.map(leaf_deviation, actual, expected))))


def replay_gradients(
    tx: optax.GradientTransformation, recording: Recording, extra_args: Mapping[str, Any] | None = None
) -> Any:
    """Passes the recorded gradients to a transformation, for files of kind `gradients` and `stacked_gradients`.

    Args:
        tx: The method, with the recorded hyperparameters. It removes the leading axis of stacked gradients.
        recording: The file. Enable x64 if it is float64.
        extra_args: Recorded extra arguments of `update`, trees of arrays with time as the first axis. Default: none.

    Returns:
        The parameters after every step, shaped like `recording.tree("params")`.

    Raises:
        ValueError: If the file is of another kind.
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


def replay_jacobian(
    aggregator: optax.GradientTransformation,
    recording: Recording,
    learning_rate: float,
    extra_args: Mapping[str, Any] | None = None,
) -> tuple[Any, Any]:
    """Passes the recorded gradients of all objectives to an aggregator, for files of kind `jacobian`.

    Args:
        aggregator: The method, with the recorded hyperparameters. It removes the leading axis, that of objectives.
        recording: The file. Enable x64 if it is float64.
        learning_rate: The recorded learning rate, with which the parameters move against the aggregates.
        extra_args: Recorded extra arguments of `update`, for example draws: trees of arrays with time as the first
            axis. Default: none.

    Returns:
        The aggregates and the parameters of every step, shaped like `recording.tree("agg")` and
        `recording.tree("params")`.

    Raises:
        ValueError: If the file is of another kind.
    """
    _require_kind(recording, "jacobian")
    aggregator = optax.with_extra_args_support(aggregator)
    params = jax.tree.map(jnp.asarray, recording.tree("params0"))

    def step(carry, inputs):
        params, state = carry
        rows, extra_args = inputs
        aggregate, state = aggregator.update(rows, state, params, **extra_args)
        params = jax.tree.map(lambda p, a: p - learning_rate * a, params, aggregate)
        return (params, state), (aggregate, params)

    inputs = jax.tree.map(jnp.asarray, (recording.tree("jac"), dict(extra_args or {})))
    return jax.jit(lambda carry: jax.lax.scan(step, carry, inputs)[1])((params, aggregator.init(params)))


def replay_oracle(
    tx: optax.GradientTransformation,
    recording: Recording,
    *,
    eval_params: Callable[[Any, Any], Any] = parameters_as_they_are,
    extra_args: Mapping[str, Any] | None = None,
    estimate: Callable[..., Any] | None = None,
) -> Any:
    """Lets a method evaluate losses and gradients where it wants, for files of kind `oracle`.

    In every step it passes all extra arguments that `optkit.core.extra_args.EXTRA_ARGS` makes from a loss, except
    `prev_grads`.

    Args:
        tx: The method, with the recorded hyperparameters.
        recording: The file. Enable x64 if it is float64.
        eval_params: A function from the state and the parameters of the loop to the parameters to report. Default: the
            parameters of the loop.
        extra_args: Recorded extra arguments of `update`, for example draws: trees of arrays with time as the first
            axis. Default: none.
        estimate: For methods that estimate the gradient: makes the gradient that is passed to `update`, called as
            `estimate(params, **extra_args)` with all extra arguments of the step. Default: None, the exact gradient.

    Returns:
        The reported parameters after every step, shaped like `recording.tree("params")`.

    Raises:
        ValueError: If the file is of another kind.
    """
    _require_kind(recording, "oracle")
    tx = optax.with_extra_args_support(tx)
    params = jax.tree.map(jnp.asarray, recording.tree("params0"))
    steps = len(jax.tree.leaves(recording.tree("params"))[0])
    losses = _QuadraticLosses.of(recording)
    components = jnp.asarray(recording.arrays.get("draws.index", np.arange(steps)))

    def step(carry, inputs):
        params, state = carry
        component, recorded = inputs
        at = losses.moment(params, component)
        passed = {**vocabulary.extra_args(vocabulary.EXTRA_ARGS.keys() - {"prev_grads"}, at), **recorded}
        gradient = at.grad_fn(params) if estimate is None else estimate(params, **passed)
        updates, state = tx.update(gradient, state, params, **passed)
        params = optax.apply_updates(params, updates)
        return (params, state), eval_params(state, params)

    inputs = components, jax.tree.map(jnp.asarray, dict(extra_args or {}))
    return jax.jit(lambda carry: jax.lax.scan(step, carry, inputs)[1])((params, tx.init(params)))


def replay_clients(init: Callable[[Any], Any], one_round: Callable[..., Any], recording: Recording) -> Any:
    """Lets a server run rounds over the recorded clients, for files of kind `oracle` with an axis over clients.

    Args:
        init: Makes the state of server and clients from the parameters.
        one_round: Called as `one_round(params, state, grad_fn, active)`; returns the parameters and the state after one
            round. `grad_fn(params, client, step)` is a client's gradient in one of its local steps of this round.
            `active` has one boolean per client, which says whether it takes part.
        recording: The file. Enable x64 if it is float64.

    Returns:
        The server's parameters after every round, shaped like `recording.tree("params")`.

    Raises:
        ValueError: If the file is of another kind.
    """
    _require_kind(recording, "oracle")
    params = jax.tree.map(jnp.asarray, recording.tree("params0"))
    losses = _QuadraticLosses.of(recording)

    def step(carry, inputs):
        params, state = carry
        noise, active = inputs

        def grad_fn(params, client, step):
            hessian, linear, own_noise = jax.tree.map(lambda x: x[client], (losses.hessian, losses.linear, noise))
            curvature = jnp.ones(len(jax.tree.leaves(own_noise)[0]))
            return _QuadraticLosses(hessian, linear, own_noise, curvature).gradient(params, step)

        params, state = one_round(params, state, grad_fn, active)
        return (params, state), params

    inputs = losses.noise, jnp.asarray(recording.arrays["participation"]) != 0
    return jax.jit(lambda carry: jax.lax.scan(step, carry, inputs)[1])((params, init(params)))


def replay_workers(
    tx: optax.GradientTransformation, recording: Recording, extra_args: Mapping[str, Any] | None = None
) -> Any:
    """Passes each worker its recorded gradients, under `vmap` with the axis "workers", for files of kind `workers`.

    Args:
        tx: The method, with the recorded hyperparameters and `axis_name="workers"`.
        recording: The file. Enable x64 if it is float64.
        extra_args: Recorded extra arguments of `update`, trees of arrays with time as the first axis and workers as the
            second. Default: none.

    Returns:
        The parameters of all workers after every step, shaped like `recording.tree("params")`.

    Raises:
        ValueError: If the file is of another kind.
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
    return jax.jit(lambda params: jax.lax.scan(workers, (params, jax.vmap(tx.init)(params)), inputs)[1])(params)


class _QuadraticLosses(NamedTuple):
    """The losses c_i x'Ax / 2 - (b + noise_i)'x of the components i, on raveled leaves, summed over leaves."""

    hessian: Any
    linear: Any
    noise: Any
    curvature: jax.Array

    @classmethod
    def of(cls, recording: Recording) -> "_QuadraticLosses":
        hessian, linear, noise = (jax.tree.map(jnp.asarray, recording.tree(name)) for name in ("A", "b", "noise"))
        curvature = recording.arrays.get("curv", np.ones(len(jax.tree.leaves(noise)[0])))
        return cls(hessian, linear, noise, jnp.asarray(curvature))

    def moment(self, params: Any, component: Any) -> vocabulary.Moment:
        """Returns the step in which one component is the batch, and all components are all data."""
        return vocabulary.Moment(
            params=params,
            value_fn=lambda point: self.value(point, component),
            grad_fn=lambda point: self.gradient(point, component),
            full_grad_fn=self.mean_gradient,
        )

    def value(self, params: Any, component: Any) -> Any:
        products, slope = self._products(params, component), self._slope(params, component)
        return 0.5 * optax.tree.vdot(params, products) - optax.tree.vdot(params, slope)

    def gradient(self, params: Any, component: Any) -> Any:
        return optax.tree.sub(self._products(params, component), self._slope(params, component))

    def mean_gradient(self, params: Any) -> Any:
        gradients = jax.vmap(self.gradient, (None, 0))(params, jnp.arange(len(self.curvature)))
        return jax.tree.map(lambda g: jnp.mean(g, axis=0), gradients)

    def _products(self, params: Any, component: Any) -> Any:
        def product(x, hessian):
            return self.curvature[component] * (hessian @ x.ravel()).reshape(x.shape)

        return jax.tree.map(product, params, self.hessian)

    def _slope(self, params: Any, component: Any) -> Any:
        def slope(x, linear, noise):
            return linear.reshape(x.shape) + noise[component].reshape(x.shape)

        return jax.tree.map(slope, params, self.linear, self.noise)


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields nested hyperparameters as `outer.inner`, the form in which the recordings name them."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _require_kind(recording: Recording, *kinds: str) -> None:
    if recording.meta["kind"] not in kinds:
        raise ValueError(f"{recording.name} must be of kind {' or '.join(kinds)}, got {recording.meta['kind']!r}")
