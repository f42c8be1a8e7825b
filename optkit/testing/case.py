"""A transformation under test: how every promise of the contract builds it, initialises it and takes a step with it."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optkit.testing import trees

STEPS = 4
SHARDED_STEPS = 2
EXTRA_ARGS = ("value", "value_fn", "grad_fn", "prev_grads", "full_grad_fn")
ROWS = ("microbatches", "classes")
# Four rows of one gradient, in units of what they sum to.
SHARES = np.array([0.4, 0.3, 0.2, 0.1], np.float32)


class Run(NamedTuple):
    """A short run on ordinary parameters in float32.

    Attributes:
        step: the compiled step, from parameters, state and gradients to parameters and state.
        points: parameters and state before the first step and after each.
        gradients: the gradients of each step.
        traces: how often JAX traced the step.
    """

    step: Callable[..., Any]
    points: list[tuple[Any, Any]]
    gradients: list[Any]
    traces: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What `check_transformation` was asked to check; its arguments are documented there."""

    factory: Callable[..., optax.GradientTransformation]
    example: Mapping[str, Any]
    static_args: tuple[str, ...]
    needs: tuple[str, ...]
    eval_params: Callable[[Any, Any], Any]
    tuned: str
    sampler: bool
    devices: int

    def build(self, **changes: Any) -> optax.GradientTransformationExtraArgs:
        """Builds the transformation anew, with some of the example's arguments changed."""
        return optax.with_extra_args_support(self.factory(**{**self.example, **changes}))

    def build_injected(self, **changes: Any) -> optax.GradientTransformationExtraArgs:
        """Builds it with its hyperparameters injected as float32, as a sweep over learning rates does."""
        factory = optax.inject_hyperparams(self.factory, self.static_args, hyperparam_dtype=jnp.float32)
        return factory(**{**self.example, **changes})

    @functools.cached_property
    def rate(self) -> Any:
        """The tuned hyperparameter's value in the example, or by default, or None."""
        parameter = inspect.signature(self.factory).parameters.get(self.tuned)
        default = None if parameter is None or parameter.default is parameter.empty else parameter.default
        return self.example.get(self.tuned, default)

    @property
    def rate_is_number(self) -> bool:
        """Whether the tuned hyperparameter is a number, as opposed to a schedule or missing."""
        return isinstance(self.rate, (int, float, np.number, np.ndarray, jax.Array))

    @property
    def axis_name(self) -> str | None:
        """The axis of workers that the transformation talks over."""
        if "axis_name" not in self.needs:
            return None
        default = inspect.signature(self.factory).parameters["axis_name"].default
        return self.example.get("axis_name", default)

    @property
    def extra_args(self) -> tuple[str, ...]:
        """The extra arguments of `update` that the transformation needs."""
        return tuple(name for name in self.needs if name in EXTRA_ARGS)

    @property
    def calls_functions(self) -> bool:
        """Whether it evaluates gradients or losses of the whole tree, and so cannot stand inside a partition."""
        return bool({"grad_fn", "full_grad_fn", "value_fn", "prev_grads"} & set(self.needs))

    def per_worker(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Maps a function over all workers, for a transformation that talks between them."""
        if self.axis_name is None:
            return function
        return jax.vmap(function, axis_name=self.axis_name, axis_size=self.devices)

    def stack(self, tree: Any) -> Any:
        """Gives each worker its copy, for a transformation that talks between them."""
        if self.axis_name is None:
            return tree
        return jax.tree.map(
            lambda x: (
                jax.ShapeDtypeStruct((self.devices, *x.shape), x.dtype)
                if isinstance(x, jax.ShapeDtypeStruct)
                else jnp.asarray(np.stack([x] * self.devices))
            ),
            tree,
        )

    def init(self, tx: optax.GradientTransformation) -> Callable[[Any], Any]:
        """Gives the function from parameters to state."""
        return self.per_worker(tx.init)

    def update(self, tx: optax.GradientTransformationExtraArgs, **extra_args: Any) -> Callable[..., Any]:
        """Gives the function from gradients, state and parameters to updates and state; needed arguments are passed."""
        return self.per_worker(functools.partial(self._update, tx, extra_args))

    def step_of_one_worker(self, tx: optax.GradientTransformationExtraArgs) -> Callable[..., Any]:
        """Gives the function from parameters, state and gradients to parameters and state, not mapped over workers."""

        def step(params, state, gradients):
            updates, state = self._update(tx, {}, gradients, state, params)
            return optax.apply_updates(params, updates), state

        return step

    def step(self, tx: optax.GradientTransformationExtraArgs) -> Callable[..., Any]:
        """Gives the function from parameters, state and gradients to parameters and state."""
        return self.per_worker(self.step_of_one_worker(tx))

    def params(self, shapes: Any = None, dtype: Any = "float32", seed: int = 0) -> Any:
        """Makes parameters or gradients, by default of ordinary shapes."""
        return self.stack(trees.normal(trees.abstract(trees.ORDINARY if shapes is None else shapes, dtype), seed))

    def run(self) -> Run:
        """Builds the transformation, compiles a step and takes a few."""
        tx = self.build()
        function = self.step(tx)
        traces = []

        def traced(*args):
            traces.append(args)
            return function(*args)

        step = compiled(traced)
        params = self.params()
        points = [(params, self.init(tx)(params))]
        gradients = [self.params(seed=seed) for seed in range(1, 1 + STEPS)]
        for gradient in gradients:
            points.append(step(*points[-1], gradient))
        return Run(step, points, gradients, len(traces))

    @functools.cached_property
    def reference(self) -> Run:
        """The run that others are compared with."""
        return self.run()

    def shardable(self, seed: int) -> Any:
        """Makes parameters or gradients that all devices can share."""
        # Sizes that nothing else has, so that a state leaf's shape says which parameter it belongs to.
        shapes = {"kernel": (2 * self.devices, 14), "bias": (22,), "embedding": (3 * self.devices, 26)}
        return trees.normal(trees.abstract(shapes), seed)

    @functools.cached_property
    def on_one_device(self) -> Any:
        """`shardable` parameters after a few steps on one device."""
        params, tx = self.shardable(0), self.build()
        step = compiled(self.step(tx))
        state = tx.init(params)
        for seed in range(1, 1 + SHARDED_STEPS):
            params, state = step(params, state, self.shardable(seed))
        return params

    def run_differences(self, actual: Any, name: str, step: int = STEPS) -> list[str]:
        """Says where parameters differ from those of the reference after some steps, by more than rounding."""
        start, expected = self.reference.points[0][0], self.reference.points[step][0]
        return trees.value_differences(expected, actual, f"{name}: parameter", rounding(start, expected))

    def _update(self, tx, extra_args, gradients, state, params):
        return tx.update(gradients, state, params, **{**self._needed(gradients, params), **extra_args})

    def _needed(self, gradients, params):
        """The needed extra arguments, those of a linear loss with these gradients."""
        if self.axis_name is not None:
            gradients = jax.lax.pmean(gradients, self.axis_name)

        def value_fn(point):
            def product(g, p):
                dtype = jnp.promote_types(g.dtype, jnp.float32)
                return jnp.sum(g.astype(dtype) * p.astype(dtype))

            return jax.tree.reduce(jnp.add, jax.tree.map(product, gradients, point), jnp.zeros((), jnp.float32))

        vocabulary = {
            "value": lambda: value_fn(params),
            "value_fn": lambda: value_fn,
            "grad_fn": lambda: lambda _: gradients,
            "prev_grads": lambda: gradients,
            "full_grad_fn": lambda: lambda _: gradients,
        }
        return {name: vocabulary[name]() for name in self.extra_args}


def fed_with_rows(
    factory: Callable[..., optax.GradientTransformation], rows: str
) -> Callable[..., optax.GradientTransformationExtraArgs]:
    """Wraps a factory of transformations that reduce rows of gradients, so that they take one gradient.

    Args:
        factory: its transformations take gradients with a leading axis and remove it.
        rows: "microbatches" if the gradient is their mean, "classes" if it is their sum; then the extra argument
            `class_counts` is passed too.

    Returns:
        A factory with the same arguments. Its transformations make unequal rows of the gradient that they are given.
    """

    @functools.wraps(factory)
    def build(**arguments):
        tx = optax.with_extra_args_support(factory(**arguments))
        shares = SHARES if rows == "classes" else len(SHARES) * SHARES
        counts = {"class_counts": jnp.asarray(10 * SHARES, jnp.int32)} if rows == "classes" else {}

        def update(updates, state, params=None, **extra_args):
            stacked = jax.tree.map(lambda g: jnp.stack([g * float(share) for share in shares]), updates)
            return tx.update(stacked, state, params, **{**counts, **extra_args})

        return optax.GradientTransformationExtraArgs(tx.init, update)

    return build


def rounding(start: Any, end: Any) -> Any:
    """The largest differences that rounding explains between two float32 runs from `start` to `end`, for each leaf."""
    eps = np.finfo(np.float32).eps

    def allowed(first, last):
        first, last = np.asarray(first, np.float64), np.asarray(last, np.float64)
        if not first.size:
            return 0.0
        # Relative to the way that the leaf went, since a wrong update is small beside its parameter.
        return np.sqrt(eps) * np.max(np.abs(last - first)) + 4 * eps * np.max(np.abs(first))

    return jax.tree.map(allowed, start, end)


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Compiles like `jax.jit`, in the way that costs least time on a CPU: the contract runs each program once."""
    return jax.jit(function, compiler_options=_fast_to_compile(), **options)


@functools.cache
def _fast_to_compile() -> dict[str, Any] | None:
    if jax.default_backend() != "cpu":
        return None
    options = {"xla_backend_optimization_level": 0}
    # XLA up to JAX 0.10 or 0.11 also has an older way to emit fusions, which compiles three times as fast.
    older = options | {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda: 0, compiler_options=older).lower().compile()
    except jax.errors.JaxRuntimeError:
        return options
    return older


def require(lines: list[str]) -> None:
    """Raises an `AssertionError` with these lines, if there are any."""
    if lines:
        raise AssertionError("\n".join(lines))
