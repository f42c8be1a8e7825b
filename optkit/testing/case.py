"""A transformation under test: how each promise of the contract builds it, initializes it and takes a step with it."""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from optkit.core.extra_args import EXTRA_ARGS, Moment, extra_args
from optkit.core.types import DTypeLike
from optkit.testing import trees

STEPS = 4
SHARDED_STEPS = 2
# The extra arguments that `needs` may name: those that a loss determines. Arguments of rows come with the rows.
OF_A_LOSS = tuple(name for name, argument in EXTRA_ARGS.items() if argument.of is not None)
STACKED = ("microbatches", "samples", "classes", "objectives")
# Four rows of a gradient. Row r has entry number e, counted in turns of four, _MULTIPLES[r] times, and _OWN times more
# if r = e: so the rows are independent, their mean is the gradient, and the first points uphill.
_MULTIPLES, _OWN = np.array([-0.5, 1.1, 1.4, 1.6], np.float32), 0.4
# Objectives may conflict and yet have a direction that serves all: their rows are turned, by up to 75 degrees.
_MULTIPLES_OF_OBJECTIVES = np.array([0.6, 1.0, 1.0, 1.0], np.float32)
_TURNS = np.array([1.6, 0.3, -0.5, -1.4], np.float32)
_CLASS_COUNTS = np.array([4, 3, 2, 1], np.int32)


class Run(NamedTuple):
    """A short run on ordinary parameters in float32.

    Attributes:
        step: A step with a compiled update, from parameters, state and gradients to parameters and state.
        points: Parameters and state before the first step and after each step.
        traces: How often JAX traced the update.
    """

    step: Callable[..., Any]
    points: list[tuple[Any, Any]]
    traces: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """The arguments of `check_transformation`, which documents them."""

    factory: Callable[..., optax.GradientTransformation]
    example: Mapping[str, Any]
    static_args: tuple[str, ...]
    needs: tuple[str, ...]
    eval_params: Callable[[Any, Any], Any]
    tuned: str
    sampler: bool
    devices: int
    stacked: str | None = None
    programs: dict[str, Any] = dataclasses.field(default_factory=dict)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compiles a function as `compiled` does, but only once for all functions of the case with the same program."""
        seen = {}

        def call(*args):
            leaves, structure = jax.tree.flatten(args)
            if any(isinstance(leaf, Tracer) for leaf in leaves):  # inside another program
                return function(*args)
            types = structure, tuple(map(jax.typeof, leaves))
            if types not in seen:
                seen[types] = self._program(function, structure, leaves)
            program, out = seen[types]
            return jax.tree.unflatten(out(), program(*leaves))

        return call

    def _program(self, function, structure, leaves):
        structures = []

        def flat(*leaves):
            results, out = jax.tree.flatten(function(*jax.tree.unflatten(structure, leaves)))
            structures.append(out)
            return results

        lowered = compiled(flat, keep_unused=True).lower(*leaves)
        text = lowered.as_text()
        # Constants that JAX passes as hidden arguments are not in the text.
        hides_constants = text.split("@main(", 1)[1].split("->", 1)[0].count("%arg") != len(leaves)
        program = None if hides_constants else self.programs.get(text)
        if program is None:
            program = self.programs[text] = lowered.compile()
        return program, lambda: structures[0]

    def build(self, **changes: Any) -> optax.GradientTransformationExtraArgs:
        """Builds a new transformation, with some of the example's arguments changed."""
        return optax.with_extra_args_support(self.factory(**{**self.example, **changes}))

    def build_injected(self, **changes: Any) -> optax.GradientTransformationExtraArgs:
        """Builds it with its hyperparameters injected as float32, as in a sweep over learning rates."""
        factory = optax.inject_hyperparams(self.factory, self.static_args, hyperparam_dtype=jnp.float32)
        return factory(**{**self.example, **changes})

    @property
    def name(self) -> str:
        """The factory's name."""
        return getattr(self.factory, "__name__", repr(self.factory))

    @functools.cached_property
    def rate(self) -> Any:
        """The value of the tuned hyperparameter in the example, or its default, or None."""
        parameter = inspect.signature(self.factory).parameters.get(self.tuned)
        default = None if parameter is None or parameter.default is parameter.empty else parameter.default
        return self.example.get(self.tuned, default)

    @property
    def rate_is_number(self) -> bool:
        """Whether the tuned hyperparameter is a number, and not a schedule or missing."""
        return isinstance(self.rate, (int, float, np.number, np.ndarray, jax.Array))

    @property
    def axis_name(self) -> str | None:
        """Name of the axis over workers, if the transformation communicates between workers."""
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
        """Whether it takes arguments that belong to the whole tree of parameters, and so cannot be in a partition."""
        return any(EXTRA_ARGS[name].whole_tree for name in self.extra_args)

    def per_worker(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Maps a function over all workers, for a transformation that communicates between them."""
        if self.axis_name is None:
            return function
        return jax.vmap(function, axis_name=self.axis_name, axis_size=self.devices)

    def stack(self, tree: Any) -> Any:
        """Gives each worker its copy, for a transformation that communicates between them."""
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
        """Returns the function from parameters to state."""
        # Mapped over workers, small operations outside `jit` take longer than compiling them together.
        return tx.init if self.axis_name is None else self.compiled(self.per_worker(tx.init))

    def update(self, tx: optax.GradientTransformationExtraArgs, **extra_args: Any) -> Callable[..., Any]:
        """Returns the function from gradients, state and parameters to updates and state; it adds needed arguments."""
        return self.per_worker(functools.partial(self._update, tx, extra_args))

    def step_of_one_worker(self, tx: optax.GradientTransformationExtraArgs) -> Callable[..., Any]:
        """Returns the step of one worker: the function from parameters, state and gradients to parameters and state."""

        def step(params, state, gradients):
            updates, state = self._update(tx, {}, gradients, state, params)
            return optax.apply_updates(params, updates), state

        return step

    def step(self, tx: optax.GradientTransformationExtraArgs) -> Callable[..., Any]:
        """Returns the function from parameters, state and gradients to parameters and state."""
        return self.per_worker(self.step_of_one_worker(tx))

    def params(self, shapes: Any = None, dtype: DTypeLike = "float32", seed: int = 0) -> Any:
        """Makes parameters or gradients, by default of ordinary shapes."""
        return self.stack(trees.normal(trees.abstract(trees.ORDINARY if shapes is None else shapes, dtype), seed))

    @functools.cached_property
    def gradients(self) -> list[Any]:
        """The gradients of a short run on ordinary parameters."""
        return [self.params(seed=seed) for seed in range(1, 1 + STEPS)]

    def train(
        self,
        tx: optax.GradientTransformationExtraArgs,
        steps: int = STEPS,
        like: Callable[[Any], Any] = lambda leaves: leaves,
    ) -> Any:
        """Takes the first steps of the short run, and returns parameters and state.

        Args:
            tx: The transformation that takes them.
            steps: Number of steps. Default: those of the short run.
            like: A function that makes another tree from the dict of parameters, or of gradients. Default: no change.

        Returns:
            The parameters, in that tree, and the state.
        """
        update = self.compiled(self.update(tx))
        params = like(self.params())
        state = self.init(tx)(params)
        for gradients in self.gradients[:steps]:
            updates, state = update(like(gradients), state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    def first_step(self, tx: optax.GradientTransformationExtraArgs, only: str | None = None) -> tuple[Any, Any]:
        """Takes the first step of the short run, and returns updates and state.

        Args:
            tx: The transformation that takes it.
            only: The name of the only parameter. Default: all parameters.
        """
        params, gradients = self.params(), self.gradients[0]
        if only is not None:
            params, gradients = {only: params[only]}, {only: gradients[only]}
        # The same loss for the whole tree and for a part of it.
        value = {"value": jnp.float32(1.0)} if "value" in self.needs else {}
        return self.compiled(self.update(tx, **value))(gradients, self.init(tx)(params), params)

    @functools.cached_property
    def first_step_of_the_kernel_alone(self) -> tuple[Any, Any]:
        """The first step where the kernel is the only parameter, with which partial steps are compared."""
        return self.first_step(self.build(), only="kernel")

    def run(self) -> Run:
        """Builds the transformation, compiles an update and takes a few steps."""
        tx = self.build()
        function = self.update(tx)
        traces = []

        def traced(*args):
            traces.append(args)
            return function(*args)

        update = self.compiled(traced)

        def step(params, state, gradients):
            updates, state = update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        params = self.params()
        points = [(params, self.init(tx)(params))]
        for gradients in self.gradients:
            points.append(step(*points[-1], gradients))
        return Run(step, points, len(traces))

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
        """Lists where parameters differ from those of the reference after some steps, by more than rounding."""
        start, expected = self.reference.points[0][0], self.reference.points[step][0]
        return trees.value_differences(expected, actual, f"{name}: parameter", rounding(start, expected))

    def _update(self, tx, extra_args, gradients, state, params):
        return tx.update(gradients, state, params, **{**self._needed(gradients, params), **extra_args})

    def _needed(self, gradients, params):
        """Returns the needed extra arguments, for a linear loss with these gradients."""
        if self.axis_name is not None:
            gradients = jax.lax.pmean(gradients, self.axis_name)

        def loss(point):
            def product(g, p):
                dtype = jnp.promote_types(g.dtype, jnp.float32)
                return jnp.sum(g.astype(dtype) * p.astype(dtype)).real

            return jax.tree.reduce(jnp.add, jax.tree.map(product, gradients, point), jnp.zeros((), jnp.float32))

        def grad(_):
            return gradients

        return extra_args(self.extra_args, Moment(params, loss, grad, grad, previous=params))


def fed_with_rows(
    factory: Callable[..., optax.GradientTransformation], stacked: str
) -> Callable[..., optax.GradientTransformationExtraArgs]:
    """Wraps a factory of transformations that reduce rows of gradients, so that they accept one gradient.

    Args:
        factory: A factory of transformations of gradients with a leading axis, which they remove.
        stacked: "microbatches" or "samples" if the gradient is the mean of the rows. "classes" if it is their sum; the
            extra argument `class_counts` is then passed too. "objectives" if it is the mean of the objectives'
            gradients; `losses` is then passed too, if `value` is known.

    Returns:
        A factory with the same arguments. Its transformations turn the gradient that they receive into four independent
        rows that disagree, the first one with all others. Entries that are not finite are in the first row alone.
    """

    @functools.wraps(factory)
    def build(**arguments):
        tx = optax.with_extra_args_support(factory(**arguments))

        def update(updates, state, params=None, **extra_args):
            if stacked == "classes":
                extra_args = {"class_counts": jnp.asarray(_CLASS_COUNTS), **extra_args}
            if stacked == "objectives" and "value" in extra_args:
                extra_args = {"losses": jnp.stack([extra_args["value"]] * len(_TURNS)), **extra_args}
            return tx.update(jax.tree.map(functools.partial(_rows, stacked), updates), state, params, **extra_args)

        return optax.GradientTransformationExtraArgs(tx.init, update)

    return build


def _rows(kind: str, g: jax.Array) -> jax.Array:
    """Makes the rows of one leaf's gradient."""

    def of_each_row(x, dtype=g.dtype):
        return jnp.expand_dims(jnp.asarray(x, dtype), range(1, 1 + g.ndim))

    multiples = _MULTIPLES_OF_OBJECTIVES if kind == "objectives" else _MULTIPLES
    if jnp.issubdtype(g.dtype, jnp.complexfloating):
        multiples = multiples + 0.3j * _TURNS
    row = of_each_row(np.arange(len(multiples)), jnp.int32)
    # By counting along each axis: a list of all entries would gather a sharded leaf.
    number = sum((jax.lax.broadcasted_iota(jnp.int32, g.shape, axis) for axis in range(g.ndim)), jnp.int32(0)) % 4
    multiples = of_each_row(multiples) + jnp.where(row == number[None], _OWN, 0.0).astype(g.dtype)
    if kind == "classes":
        multiples /= len(_TURNS)
    g = g[None]
    g = jnp.where((row == 0) | jnp.isfinite(g), g, jnp.zeros_like(g))
    return g * multiples + (of_each_row(_TURNS) * _turned(g) if kind == "objectives" else 0)


def _turned(g: jax.Array) -> jax.Array:
    """Returns gradients with a leading axis, each turned by 90 degrees, or zero for scalars."""
    if g.ndim == 1:
        return jnp.zeros_like(g)
    middle = (g.shape[-1] - 1) / 2
    place = jax.lax.broadcasted_iota(jnp.int32, g.shape, g.ndim - 1)
    return jnp.sign(place - middle).astype(g.dtype) * jnp.flip(g, -1)


def rounding(start: Any, end: Any) -> Any:
    """Returns, for each leaf, the largest difference that rounding explains between two float32 runs."""
    eps = np.finfo(np.float32).eps

    def allowed(first, last):
        first, last = np.asarray(first, np.float64), np.asarray(last, np.float64)
        if not first.size:
            return 0.0
        # Relative to the distance that the leaf moved, because a wrong update is small compared with its parameter.
        return np.sqrt(eps) * np.max(np.abs(last - first)) + 4 * eps * np.max(np.abs(first))

    return jax.tree.map(allowed, start, end)


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Compiles like `jax.jit`, but as fast as possible on a CPU, because the contract runs each program once."""
    return jax.jit(function, compiler_options=_fast_to_compile(), **options)


@functools.cache
def _fast_to_compile() -> dict[str, Any] | None:
    if jax.default_backend() != "cpu":
        return None
    options: dict[str, Any] = {"xla_backend_optimization_level": 0}
    # One piece of code, since sharing it out among threads takes as long again as compiling it. And XLA up to JAX 0.10
    # or 0.11 has an older way to emit fusions, which compiles three times as fast.
    for option, value in (("xla_cpu_parallel_codegen_split_count", 1), ("xla_cpu_use_fusion_emitters", False)):
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # this version has no such option
            jax.jit(lambda: 0, compiler_options={option: value}).lower().compile()
            options[option] = value
    return options


def require(lines: list[str]) -> None:
    """Raises an `AssertionError` with these lines, if there are any."""
    if lines:
        raise AssertionError("\n".join(lines))
