"""Point 4 of the contract: what people write around a transformation, in the way they write it."""

import dataclasses
import inspect
import itertools
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np
import optax

from optkit.core.trees import is_function
from optkit.core.types import Mask
from optkit.testing import trees
from optkit.testing.case import Case, require, rounding
from optkit.testing.compilation import changed_types, describe

WEIGHT_DECAY = 0.5
DECAYED = {"kernel": True, "bias": False}
LAYERS = 3
NNX_STEPS = 3


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    """A layer that can be called, like those of Equinox."""

    bias: Any
    kernel: Any

    def __call__(self, x: Any) -> Any:
        """Applies the layer."""
        return x @ self.kernel + self.bias


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Model:
    """A model that can be called, with a hole like those that `equinox.filter` leaves."""

    layer: Layer
    activation: None = None

    def __call__(self, x: Any) -> Any:
        """Applies the model."""
        return self.layer(x)


def works_injected_bare(case: Case) -> None:
    """A bare `optax.inject_hyperparams(factory)(...)` gives the same numbers, or a `TypeError` names `static_args`.

    It receives the example without functions. A function that `factory` needs is passed, and named in `static_args`.
    """
    plain, static = _plain_data(case)
    try:
        _require_plain_numbers(case, plain, static)
    except TypeError as error:
        if "static_args" not in str(error):
            raise AssertionError(f"the error does not name static_args: {describe(error)}") from error
        free = {
            name: value for name, value in plain.items() if name not in case.static_args or _has_no_default(case, name)
        }
        static = {*static, *(name for name in free if name in case.static_args)}
        _require_plain_numbers(case, free, static)


def works_in_nnx_optimizer(case: Case) -> None:
    """In `flax.nnx.Optimizer` it takes three steps; restored from Orbax in between, it continues bit for bit."""
    import orbax.checkpoint as ocp  # noqa: PLC0415  (Orbax is an extra)
    from flax import nnx  # noqa: PLC0415  (Flax is an extra)

    class TwoParameters(nnx.Module):
        def __init__(self, leaves):
            self.bias, self.kernel = nnx.Param(leaves["bias"]), nnx.Param(leaves["kernel"])

    tx = case.build()
    compiled: Any = case.init(tx), case.compiled(case.update(tx))

    def start():
        model = TwoParameters(case.params())
        return model, nnx.Optimizer(model, optax.GradientTransformationExtraArgs(*compiled), wrt=nnx.Param)

    def update(model, optimizer, step):
        gradients = nnx.state(model, nnx.Param)
        leaves = jax.tree.leaves(case.gradients[step])
        optimizer.update(model, jax.tree.unflatten(jax.tree.structure(gradients), leaves))

    first = start()
    update(*first, 0)
    second = start()
    checkpointer = ocp.Checkpointer(ocp.StandardCheckpointHandler())
    with tempfile.TemporaryDirectory() as folder, checkpointer:
        path = pathlib.Path(folder) / "checkpoint"
        checkpointer.save(path, args=ocp.args.StandardSave(nnx.state(first)))
        nnx.update(second, checkpointer.restore(path, args=ocp.args.StandardRestore(nnx.state(second))))
    for model_and_optimizer in (first, second):
        for step in range(1, NNX_STEPS):
            update(*model_and_optimizer, step)
    end = nnx.to_pure_dict(nnx.state(first[0]))
    require(case.run_differences(end, "in nnx.Optimizer", step=NNX_STEPS))
    require(trees.value_differences(nnx.state(first), nnx.state(second), "restored model and optimizer"))


def trains_callable_model(case: Case) -> None:
    """A model that is a callable tree, like those of Equinox, gets the same numbers as a dict of its leaves."""

    def as_model(leaves):
        return Model(Layer(bias=leaves["bias"], kernel=leaves["kernel"]))

    params, _ = case.train(case.build(), like=as_model)
    require(case.run_differences(dict(vars(params.layer)), "a callable model"))


def masks_decay(case: Case) -> None:
    """The argument `mask` says which leaves decay, as in Optax, and changes nothing else.

    It is given as a tree, as a function, and as a function that reads `.ndim` from Flax's flattened paths. Leaves
    outside the mask move downhill, as under a mask without any leaf; leaves inside move as without a mask. If decay is
    a part of the gradients, on all of which a leaf's step may depend, leaves move as along gradients to which the decay
    was added.
    """
    if not {"mask", "weight_decay"} <= set(inspect.signature(case.factory).parameters):
        return
    from flax import traverse_util  # noqa: PLC0415  (Flax is an extra)

    def has_axes(params):
        return traverse_util.path_aware_map(lambda _, x: x.ndim > 1, params)

    def after_a_step(mask):
        return case.train(case.build(weight_decay=WEIGHT_DECAY, mask=mask), steps=1)[0]

    start = case.params()
    nowhere, everywhere = after_a_step(dict.fromkeys(DECAYED, False)), after_a_step(None)
    lines = _leaves_moving_uphill(case, start, nowhere)
    expected = {"bias": nowhere["bias"], "kernel": everywhere["kernel"]}
    allowed = rounding(start, expected)
    ends = {}
    for kind, mask in (("a tree", DECAYED), ("a function", lambda _: DECAYED), ("a function of .ndim", has_axes)):
        try:
            ends[kind] = after_a_step(mask)
        except Exception as error:  # noqa: BLE001  (any error of the transformation is the finding)
            lines.append(f"mask as {kind}: raised {describe(error)}")

    def differences(expected):
        lines = (
            trees.value_differences(expected, end, f"mask as {kind}: parameter", allowed) for kind, end in ends.items()
        )
        return list(itertools.chain.from_iterable(lines))

    found = differences(expected)
    if found and case.stacked is None:
        decayed = _after_decayed_gradients(case, None)
        if not trees.value_differences(everywhere, decayed, "parameter", allowed):
            found = differences(_after_decayed_gradients(case, DECAYED))
    require([*lines, *found])


def _leaves_moving_uphill(case: Case, start: Any, end: Any) -> list[str]:
    products = {name: float(np.vdot(gradient, end[name] - start[name])) for name, gradient in case.gradients[0].items()}
    return [
        f"mask without leaves: {name} moves uphill, by {product:.3g} times its gradient"
        for name, product in products.items()
        if product > 0.0
    ]


def _after_decayed_gradients(case: Case, mask: Mask | None) -> Any:
    """Returns the parameters after a step along gradients to which the decay of some leaves is added."""
    decay = optax.add_decayed_weights(WEIGHT_DECAY, mask)
    return case.train(optax.chain(decay, case.build(weight_decay=0.0, mask=None)), steps=1)[0]


def works_without_params(case: Case) -> None:
    """`update(gradients, state)` works as with parameters, or raises an error that says what needs the parameters."""
    try:
        params, _ = case.train(without_params(case.build()))
    except (TypeError, ValueError) as error:
        if case.name in str(error) or "params" in str(error):
            return
        raise AssertionError(f"the error does not say who needs the parameters: {describe(error)}") from error
    require(case.run_differences(params, "without parameters"))


def takes_stacked_layers(case: Case) -> None:
    """Accepts layers that are stacked along a leading axis, as by `flax.linen.scan`.

    If its factory has an argument `weight_dimension_numbers`, each layer gets the same step as alone. Without the
    argument it does too, or a `ValueError` names `weight_dimension_numbers`. If it draws random numbers, layers have
    draws of their own, and only types are checked.
    """
    shapes = {"kernel": (LAYERS, 4, 6), "bias": (LAYERS, 6)}
    numbers = [name for name in inspect.signature(case.factory).parameters if name.endswith("weight_dimension_numbers")]
    if not numbers:
        require(changed_types(case, case.build(), trees.abstract(shapes)))
        return
    stacked, gradients = case.params(shapes), case.params(shapes, seed=1)

    def first_step(params, gradients, **changes):
        tx = case.build(**changes)
        return case.compiled(lambda p, g: case.step(tx)(p, case.init(tx)(p), g)[0])(params, gradients)

    given = {numbers[0]: {"kernel": optax.contrib.MuonDimensionNumbers(1, 2), "bias": None}}
    axis = 0 if case.axis_name is None else 1

    def layer(tree, index):
        return jax.tree.map(lambda x: x.take(index, axis), tree)

    alone = [first_step(layer(stacked, i), layer(gradients, i)) for i in range(LAYERS)]
    if "key" in case.example:
        redrawn = first_step(layer(stacked, 0), layer(gradients, 0), key=jax.random.key(1))
        if trees.value_differences(alone[0], redrawn, "parameter", rounding(layer(stacked, 0), redrawn)):
            require(changed_types(case, case.build(**given), trees.abstract(shapes)))
            return
    expected = jax.tree.map(lambda *leaves: np.stack(leaves, axis), *alone)
    allowed = rounding(stacked, expected)
    actual = first_step(stacked, gradients, **given)
    lines = trees.value_differences(expected, actual, f"with {numbers[0]}, each layer alone: parameter", allowed)
    try:
        actual = first_step(stacked, gradients)
    except ValueError as error:
        if numbers[0] not in str(error):
            lines.append(f"without {numbers[0]}: the error does not name it: {describe(error)}")
    else:
        lines += trees.value_differences(
            expected, actual, f"without {numbers[0]}, each layer alone: parameter", allowed
        )
    require(lines)


def without_params(tx: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """Makes a transformation whose `update` does not pass parameters on."""

    def update(updates, state, params=None, **extra_args):
        del params
        return tx.update(updates, state, **extra_args)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def _has_no_default(case: Case, name: str) -> bool:
    parameter = inspect.signature(case.factory).parameters.get(name)
    return parameter is not None and parameter.default is parameter.empty


def _plain_data(case: Case) -> tuple[dict[str, Any], set[str]]:
    """Returns the example without functions that can be left out, and the names of those that cannot."""
    plain = {
        name: value for name, value in case.example.items() if not is_function(value) or _has_no_default(case, name)
    }
    return plain, {name for name, value in plain.items() if is_function(value)}


def _require_plain_numbers(case: Case, arguments: dict[str, Any], static: set[str]) -> None:
    """Compares the numbers and the state under Optax's injection with those of `factory(**arguments)`."""
    factory = optax.inject_hyperparams(case.factory, static)
    if arguments.keys() == case.example.keys():
        expected, state = case.reference.points[2]
    else:
        expected, state = case.train(optax.with_extra_args_support(case.factory(**arguments)), steps=2)
    actual, injected = case.train(factory(**arguments), steps=2)
    sizes, injected_sizes = (jax.tree.map(lambda x: (x.shape, x.dtype.name), s) for s in (state, injected.inner_state))
    differ = sizes != injected_sizes
    require(
        trees.value_differences(expected, actual, "injected: parameter", rounding(case.params(), expected))
        + ([f"injected, the state is {injected_sizes}, and {sizes} without injection"] if differ else [])
    )
