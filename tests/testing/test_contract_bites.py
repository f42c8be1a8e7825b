"""Every promise of the contract fails, with the right words, on a transformation that breaks it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct

from optkit.core.precision import in_float32
from optkit.testing import PROMISES, BrokenContract, check_transformation

RATE = 1e-3


def after(learning_rate, init=optax.init_empty_state, update=lambda updates, state: (updates, state)):
    """SGD on what `update` makes of the gradients."""

    def update_fn(updates, state, params=None):
        del params
        return update(updates, state)

    return optax.chain(optax.GradientTransformation(init, update_fn), optax.scale_by_learning_rate(learning_rate))


def each_leaf(learning_rate, function):
    """SGD on what `function` makes of each leaf."""
    return after(learning_rate, update=lambda updates, state: (jax.tree.map(function, updates), state))


def zeros(params):
    return optax.tree.zeros_like(params)


def counting_from_zero(params):
    del params
    return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))


@struct.dataclass
class Steps:
    """A counter that JAX and Flax take for a part of the structure."""

    steps: int = struct.field(pytree_node=False)


def drifting_dtype(learning_rate):
    return after(learning_rate, zeros, lambda updates, state: (updates, optax.tree.cast(state, "float32")))


def drifting_weak_type(learning_rate):
    return after(learning_rate, lambda _: 0, lambda updates, state: (updates, state + jnp.int32(1)))


def widening_scalars(learning_rate):
    return after(learning_rate, zeros, lambda updates, state: (updates, jax.tree.map(jnp.atleast_1d, state)))


def widening_a_counter(learning_rate):
    return after(
        learning_rate, lambda _: jnp.zeros((), jnp.int32), lambda updates, state: (updates, jnp.atleast_1d(state))
    )


def initialising_by_chance(learning_rate):
    return after(learning_rate, lambda _: jnp.asarray(np.random.default_rng().standard_normal(3), jnp.float32))


def recompiling(learning_rate):
    return after(learning_rate, lambda _: Steps(0), lambda updates, state: (updates, Steps(state.steps + 1)))


def keeping_parameters(learning_rate):
    return after(learning_rate, lambda params: params)


def branching_on_the_rate(learning_rate):
    return optax.sgd(learning_rate) if learning_rate > 0.0 else optax.identity()


def taking_the_largest(learning_rate):
    return each_leaf(learning_rate, lambda g: g + 0.0 * jnp.max(g))


def mixing_in_means_of_nothing(learning_rate):
    def update(updates, state):
        mean = sum(jnp.mean(g) for g in jax.tree.leaves(updates))
        return jax.tree.map(lambda g: (g + 0.0 * mean).astype(g.dtype), updates), state

    return after(learning_rate, update=update)


def taking_dicts_only(learning_rate):
    return after(learning_rate, update=lambda updates, state: (dict(updates.items()), state))


def dividing_by_the_norm(learning_rate):
    return each_leaf(learning_rate, lambda g: g / jnp.linalg.norm(g.astype(jnp.float32)).astype(g.dtype))


def squaring(learning_rate):
    return after(learning_rate, zeros, lambda updates, _: (updates, jax.tree.map(jnp.square, updates)))


def refusing_extra_args(learning_rate):
    tx = optax.sgd(learning_rate)

    def update(updates, state, params=None, *, value=None):
        del value
        return tx.update(updates, state, params)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def dropping_extra_args(inner):
    def update(updates, state, params=None, **extra_args):
        del extra_args
        return inner.update(updates, state, params)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def rounding_the_rate(learning_rate):
    return optax.sgd(float(learning_rate))


def keeping_state_for_masked_leaves(learning_rate):
    def init(params):
        return jax.tree.map(lambda _: jnp.zeros(()), params, is_leaf=lambda x: isinstance(x, optax.MaskedNode))

    return after(learning_rate, init)


def counting_parts(learning_rate):
    def update(updates, state):
        parts = jax.tree.leaves(updates, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
        return optax.tree.scale(1.0 / len(parts), updates), state

    return after(learning_rate, update=update)


def negating_only_numbers(learning_rate):
    return optax.scale(-learning_rate)


def naming_a_parameter(learning_rate):
    return after(learning_rate, lambda params: jnp.zeros_like(params["kernel"]))


def standing_still(learning_rate):
    return each_leaf(learning_rate, lambda g: 0.0 * g)


def noisy(learning_rate, rng=np.random.default_rng(0)):  # noqa: B008  (one generator for all runs is the defect)
    return each_leaf(learning_rate, lambda g: g + rng.standard_normal(g.shape).astype(g.dtype))


def with_an_empty_placeholder(learning_rate):
    return after(learning_rate, lambda _: jnp.zeros((0,)))


def with_a_typed_key(learning_rate):
    return after(learning_rate, lambda _: jax.random.key(0))


def remembering_in_the_structure(learning_rate):
    def update(updates, state):
        return optax.tree.scale(1.0 / (1 + state.steps), updates), Steps(state.steps + 1)

    return after(learning_rate, lambda _: Steps(0), update)


def reading_parameters(learning_rate):
    return after(learning_rate, lambda params: jnp.float32(float(optax.tree.norm(params))))


def making_zeros_anywhere(learning_rate):
    return after(learning_rate, lambda params: jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), params))


def multiplying_matrices(learning_rate):
    return each_leaf(learning_rate, lambda g: g @ g.T @ g if g.ndim == 2 else g)


def counting_devices(learning_rate):
    def init(params):
        sharding = getattr(jax.tree.leaves(params)[0], "sharding", None)
        return jnp.float32(1 if sharding is None else len(sharding.device_set))

    return after(learning_rate, init, lambda updates, count: (optax.tree.scale(1.0 / count, updates), count))


def passing_on_to_all_but_the_first(learning_rate, axis_name):
    return each_leaf(learning_rate, lambda g: jax.lax.ppermute(g, axis_name, [(i, i + 1) for i in range(7)]))


def extragradient(learning_rate, applies_to=None, *, honest_mask=True, honest_parts=True, honest_needs=True):
    """Descends along the gradient at the point that a step leads to."""

    def update(updates, state, params=None, *, grad_fn=None, **extra_args):
        del extra_args
        leaves = jax.tree.leaves(updates, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
        if honest_parts and any(isinstance(leaf, optax.MaskedNode) for leaf in leaves):
            raise TypeError("extragradient needs all parameters: it cannot be inside optax.masked or optax.partition")
        if params is None:
            raise ValueError("extragradient needs the parameters")
        if honest_needs and grad_fn is None:
            raise TypeError("extragradient needs grad_fn: tx.update(grads, state, params, grad_fn=jax.grad(loss))")
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate

        def descend(gradients):
            return jax.tree.map(lambda g: (-rate * g).astype(g.dtype), gradients)

        steps = descend(updates if grad_fn is None else grad_fn(optax.apply_updates(params, descend(updates))))
        if applies_to is not None and honest_mask:
            steps = jax.tree.map(lambda inside, step, g: step if inside else g, applies_to, steps, updates)
        return steps, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(counting_from_zero, update)


def data_parallel_sgd(learning_rate, axis_name):
    """SGD with momentum on the mean over workers."""
    mean = optax.stateless(lambda updates, _: jax.lax.pmean(updates, axis_name))
    return in_float32(optax.chain(mean, optax.sgd(learning_rate, 0.9)))


def sgd_over_microbatches(learning_rate):
    mean = optax.stateless(lambda updates, _: jax.tree.map(lambda g: g.mean(axis=0), updates))
    return in_float32(optax.chain(mean, optax.sgd(learning_rate)))


def sgd_over_classes(learning_rate):
    def update(updates, state, params=None, *, class_counts, **extra_args):
        del params, extra_args
        present = class_counts > 0
        return jax.tree.map(lambda g: jnp.tensordot(present.astype(g.dtype), g, 1), updates), state

    total = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    return in_float32(optax.chain(total, optax.sgd(learning_rate)))


def langevin(learning_rate):
    """Gradient descent with noise that does not die out."""

    def update(updates, state, params=None):
        del params
        noise = optax.tree.random_like(jax.random.fold_in(jax.random.key(0), state.count), updates)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        steps = jax.tree.map(lambda g, n: (-rate * (g + n)).astype(g.dtype), updates, noise)
        return steps, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformation(counting_from_zero, update)


def counting_entries(learning_rate):
    return each_leaf(learning_rate, lambda g: g * jnp.minimum(jnp.int32(1), g.size).astype(g.dtype))


def adding_a_row(learning_rate):
    return each_leaf(learning_rate, lambda g: g + jnp.zeros(g.shape[-1:], g.dtype))


def taking_spectral_norms(learning_rate):
    return each_leaf(learning_rate, lambda g: g + 0.0 * jnp.linalg.norm(g, 2))


def normalizing(learning_rate, weight_dimension_numbers=None, *, layers_given, layers_by_default):
    """Divides a leaf by its norm, or each of its layers by its own."""
    by_layer = layers_by_default if weight_dimension_numbers is None else layers_given

    def divided(g, axes):
        return g / jnp.sqrt(jnp.sum(g * g, axis=tuple(range(g.ndim - axes if by_layer else 0, g.ndim)), keepdims=True))

    def update(updates, state):
        return {"kernel": divided(updates["kernel"], 2), "bias": divided(updates["bias"], 1)}, state

    return after(learning_rate, update=update)


def dividing_by_the_root_of_the_square(learning_rate):
    return each_leaf(learning_rate, lambda g: g / (jnp.sqrt(g * g) + jnp.asarray(1e-8, g.dtype)))


def dropping_imaginary_parts(learning_rate):
    return each_leaf(learning_rate, lambda g: g.real.astype(g.dtype))


def rounding_down(learning_rate):
    return each_leaf(learning_rate, jnp.floor)


def refusing_complex_numbers_late(learning_rate):
    def refuse(g):
        if jnp.iscomplexobj(g):
            raise TypeError("wrap it in optax.contrib.split_real_and_imaginary")
        return g

    return each_leaf(learning_rate, refuse)


def stopping_after_infinity(learning_rate):
    """AdaGrad-Norm that takes no step where the sum of squares is not finite."""

    def update(updates, total):
        total = total + optax.tree.norm(updates, squared=True)
        scale = jnp.where(jnp.isfinite(total), jax.lax.rsqrt(total), 0.0)
        return jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), scale * g, 0.0).astype(g.dtype), updates), total

    return after(learning_rate, lambda _: jnp.zeros(()), update)


def repeating(learning_rate, times=2):
    return optax.chain(*(optax.scale(1.0) for _ in range(times)), optax.sgd(learning_rate))


def bending(learning_rate, function=jnp.sign):
    return each_leaf(learning_rate, lambda g: function(g) if callable(function) else g)


def remembering_a_window(learning_rate, window=3):
    length = window if isinstance(window, int) else 1
    return after(learning_rate, lambda params: jax.tree.map(lambda p: jnp.zeros((length, *p.shape)), params))


def keeping_pairs(learning_rate):
    return after(learning_rate, lambda params: jax.tree.map(lambda p: (p, jnp.zeros_like(p)), params))


def labelling(learning_rate):
    """Gives `optax.partition` a tree of labels."""

    def labelled(tree):
        return optax.partition({"all": optax.sgd(learning_rate)}, jax.tree.map(lambda _: "all", tree))

    def update(updates, state, params=None):
        return labelled(updates).update(updates, state, params)

    return optax.GradientTransformation(lambda params: labelled(params).init(params), update)


def descending_under_a_mask(learning_rate, weight_decay=0.0, mask=None):
    """Takes the mask for the leaves that move at all."""
    tx = optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate))
    return tx if mask is None else optax.masked(tx, mask)


def decaying_what_is_left_out(learning_rate, weight_decay=0.0, mask=None):
    """Takes the mask for the leaves that do not decay."""
    away = jax.tree.map(lambda inside: not inside, mask({}) if callable(mask) else mask)
    return optax.chain(optax.add_decayed_weights(weight_decay, away), optax.sgd(learning_rate))


def decaying_part_by_part(learning_rate, weight_decay=0.0, mask=None):
    """Hands the mask on into a partition."""
    part = optax.chain(optax.add_decayed_weights(weight_decay, mask), optax.sgd(learning_rate))
    return optax.partition({"even": part, "odd": part}, {"kernel": "even", "bias": "odd"})


def decaying_if_it_can(learning_rate):
    def update(updates, state, params=None):
        return updates if params is None else optax.tree.add_scale(updates, 0.1, params), state

    return optax.chain(optax.GradientTransformation(optax.init_empty_state, update), optax.sgd(learning_rate))


def needing_what_it_does_not_name(learning_rate):
    def update(updates, state, params=None):
        if params is None:
            raise ValueError("something is None")
        return updates, state

    return optax.chain(optax.GradientTransformation(optax.init_empty_state, update), optax.sgd(learning_rate))


def copying_parameters(learning_rate):
    return after(learning_rate, lambda params: jax.tree.map(jnp.array, params))


def following_the_first_row(learning_rate):
    first = optax.stateless(lambda updates, _: jax.tree.map(lambda g: g[0], updates))
    return in_float32(optax.chain(first, optax.sgd(learning_rate)))


SGD = {"learning_rate": RATE}
EXTRAGRADIENT = {"learning_rate": RATE, "needs": ("grad_fn",)}
WORKERS = {"learning_rate": RATE, "needs": ("axis_name",), "axis_name": "workers"}

BROKEN = [
    ("keeps_types", drifting_dtype, SGD, "float16: the state leaf [0]['scalar']: expected float16[], got float32[]"),
    ("keeps_types", drifting_weak_type, SGD, "float32: the state leaf [0]: expected int32[] (weak type), got int32[]"),
    (
        "keeps_types",
        widening_scalars,
        SGD,
        "bfloat16: the state leaf [0]['scalar']: expected bfloat16[], got bfloat16[1]",
    ),
    ("initialises_under_jit", initialising_by_chance, SGD, "the state leaf [0]: expected ["),
    ("compiles_once", recompiling, SGD, "4 equal steps were compiled 4 times"),
    ("allows_donation", keeping_parameters, SGD, "Attempt to donate the same buffer twice"),
    ("runs_in_scan_and_vmap", branching_on_the_rate, SGD, "raised TracerBoolConversionError"),
    (
        "takes_all_shapes",
        widening_scalars,
        SGD,
        "of kind scalar: the state leaf [0]['special']: expected float32[], got",
    ),
    ("takes_all_shapes", taking_the_largest, SGD, "of kind empty vector: raised ValueError: zero-size array"),
    ("takes_all_shapes", mixing_in_means_of_nothing, SGD, "all together: the update of ['vector'] is not finite"),
    ("takes_all_containers", taking_dicts_only, SGD, "tuples and lists: raised AttributeError"),
    (
        "stays_finite_in_float16",
        squaring,
        SGD,
        "float16, gradients of 1000: ['state'][0]['matrix'] is not finite after",
    ),
    ("stays_finite_in_bfloat16", dividing_by_the_norm, SGD, "bfloat16, gradients of 0: ['updates']['matrix'] is not"),
    ("stays_finite_in_float32", dividing_by_the_norm, SGD, "float32, gradients of 0: ['updates']['matrix'] is not"),
    ("recovers_from_nan", widening_a_counter, SGD, "raised TypeError: cond branches must have equal output types"),
    ("accepts_unknown_extra_args", refusing_extra_args, SGD, "argument 'an_argument_that_nobody_knows'"),
    ("hands_on_extra_args", dropping_extra_args, {"inner": optax.sgd(RATE)}, "did not reach inner, which saw []"),
    (
        "names_missing_extra_args",
        functools.partial(extragradient, honest_needs=False),
        EXTRAGRADIENT,
        "without the extra argument grad_fn: no TypeError was raised",
    ),
    ("works_injected", rounding_the_rate, SGD, "raised ConcretizationTypeError"),
    (
        "works_injected_in_16_bits",
        optax.sgd,
        SGD,
        "bfloat16: the updates leaf ['bias']: expected bfloat16[4], got float32",
    ),
    ("works_masked", keeping_state_for_masked_leaves, SGD, "the state has +1 leaves beside those"),
    ("works_masked", counting_parts, SGD, "the update inside the mask leaf the only leaf: expected ["),
    (
        "works_masked",
        functools.partial(extragradient, honest_mask=False),
        EXTRAGRADIENT,
        "the update outside applies_to leaf the only leaf: expected [",
    ),
    (
        "works_masked",
        functools.partial(extragradient, honest_parts=False),
        EXTRAGRADIENT,
        "optax.masked: no TypeError was raised",
    ),
    ("works_partitioned", counting_parts, SGD, "the update of its own part leaf the only leaf: expected ["),
    (
        "works_partitioned",
        functools.partial(extragradient, honest_parts=False),
        EXTRAGRADIENT,
        "optax.partition: no TypeError was raised",
    ),
    ("works_in_multi_steps", widening_a_counter, SGD, "raised TypeError: cond branches must have equal output types"),
    ("works_in_chain", widening_a_counter, SGD, "the state leaf [1][0]: expected int32[], got int32[1]"),
    ("takes_schedules", negating_only_numbers, SGD, "raised TypeError: bad operand type for unary -"),
    ("works_with_map_params", naming_a_parameter, SGD, "raised TypeError"),
    (
        "solves_problems",
        standing_still,
        SGD,
        "matrix parabola, learning_rate=0.001: the solution leaf the only leaf: ex",
    ),
    ("is_deterministic", noisy, SGD, "the final parameters and state leaf [0]['bias']: expected ["),
    ("continues_from_orbax", with_an_empty_placeholder, SGD, "Cannot save arrays with zero size"),
    (
        "continues_from_orbax",
        remembering_in_the_structure,
        SGD,
        "the structure of the final parameters and state changes",
    ),
    (
        "continues_from_flax",
        remembering_in_the_structure,
        SGD,
        "the structure of the final parameters and state changes",
    ),
    ("continues_from_flax", with_a_typed_key, SGD, "raised TypeError: JAX array with PRNGKey dtype"),
    ("initialises_abstractly", reading_parameters, SGD, "raised ConcretizationTypeError"),
    (
        "works_sharded_automatically",
        making_zeros_anywhere,
        SGD,
        "automatic axes, after init: the state leaf [0]['bias']",
    ),
    (
        "works_sharded_automatically",
        counting_devices,
        SGD,
        "automatic axes, against one device: parameters leaf ['bias']",
    ),
    (
        "works_sharded_explicitly",
        making_zeros_anywhere,
        SGD,
        "explicit axes, after init: the state leaf [0]['bias'] has",
    ),
    ("works_sharded_explicitly", multiplying_matrices, SGD, "raised ShardingTypeError"),
    ("takes_huge_leaves", counting_entries, SGD, "(65536, 32768): raised OverflowError"),
    ("promotes_no_ranks", adding_a_row, SGD, "raised ValueError: Operands could not be broadcast together"),
    ("takes_stacked_layers", taking_spectral_norms, SGD, "raised ValueError"),
    (
        "takes_stacked_layers",
        functools.partial(normalizing, layers_given=False, layers_by_default=True),
        SGD,
        "the with weight_dimension_numbers, each layer alone: parameter leaf ['kernel']: expected [",
    ),
    (
        "takes_stacked_layers",
        functools.partial(normalizing, layers_given=True, layers_by_default=False),
        SGD,
        "the without weight_dimension_numbers, each layer alone: parameter leaf ['bias']: expected [",
    ),
    ("takes_complex_numbers", dividing_by_the_root_of_the_square, SGD, "matrix from a start times i goes another way"),
    ("takes_complex_numbers", dropping_imaginary_parts, SGD, "matrix from a start times i goes another way"),
    ("takes_complex_numbers", rounding_down, SGD, "raised TypeError: floor does not accept dtype complex64"),
    ("takes_complex_numbers", refusing_complex_numbers_late, SGD, "init took complex parameters, and update raised"),
    ("is_honest_about_bad_gradients", optax.lion, {"learning_rate": 1e-2}, "after one entry of inf in a vector it is"),
    (
        "is_honest_about_bad_gradients",
        stopping_after_infinity,
        {"learning_rate": 0.1},
        "after one entry of nan in a matrix it is",
    ),
    ("works_injected_bare", repeating, SGD, "the error does not name static_args: TracerIntegerConversionError"),
    ("works_injected_bare", bending, SGD, "the injected: parameter leaf ['bias']: expected ["),
    ("works_injected_bare", remembering_a_window, SGD, "injected, the state is "),
    ("works_in_nnx_optimizer", keeping_pairs, SGD, "tree structures do not match"),
    ("trains_callable_model", labelling, SGD, "raised TypeError: unsupported operand type(s) for @"),
    ("masks_decay", descending_under_a_mask, SGD, "mask without leaves: bias moves uphill, by "),
    ("masks_decay", decaying_what_is_left_out, SGD, "the mask as a tree: parameter leaf ['kernel']: expected ["),
    ("masks_decay", decaying_part_by_part, SGD, "mask as a function of .ndim: raised AttributeError: 'MaskedNode'"),
    ("works_without_params", decaying_if_it_can, SGD, "the without parameters: parameter leaf ['bias']: expected ["),
    ("works_without_params", needing_what_it_does_not_name, SGD, "does not say who needs the parameters: ValueError"),
    ("initialises_from_types", copying_parameters, SGD, "raised TypeError"),
    (
        "solves_problems",
        following_the_first_row,
        {"learning_rate": RATE, "stacked": "microbatches"},
        "parabola, learning_rate=0.001: the solution leaf the only leaf: expected [1, -1, 1], got [",
    ),
    ("agrees_between_backends", passing_on_to_all_but_the_first, WORKERS, "Permutation doesn't match the axis size"),
]


@pytest.mark.parametrize(
    ("promise", "factory", "example", "words"),
    [
        pytest.param(*broken, id=f"{broken[0]}-{getattr(broken[1], '__name__', 'extragradient')}-{number}")
        for number, broken in enumerate(BROKEN)
    ],
)
def test_broken_promise_is_found(promise, factory, example, words):
    with pytest.raises(AssertionError) as caught:
        check_transformation(factory, promises=[promise], **example)
    assert PROMISES[promise] in str(caught.value)
    assert words in str(caught.value)


def test_every_promise_can_fail():
    assert {promise for promise, *_ in BROKEN} == set(PROMISES)


def test_all_eight_points_are_checked():
    assert {words.split(".")[0] for words in PROMISES.values()} == set("12345678")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "example"),
    [
        pytest.param(extragradient, EXTRAGRADIENT, id="calls grad_fn and has a mask of its own"),
        pytest.param(data_parallel_sgd, WORKERS, id="talks between workers"),
        pytest.param(langevin, {"learning_rate": RATE, "sampler": True}, id="samples"),
        pytest.param(
            sgd_over_microbatches, {"learning_rate": RATE, "stacked": "microbatches"}, id="reduces microbatches"
        ),
        pytest.param(sgd_over_classes, {"learning_rate": RATE, "stacked": "classes"}, id="reduces classes"),
    ],
)
def test_method_of_special_kind_keeps_the_contract(factory, example):
    check_transformation(factory, **example)


@pytest.mark.slow
def test_transformation_without_learning_rate_need_not_solve_problems():
    check_transformation(optax.identity)


def test_all_violations_are_listed():
    with pytest.raises(BrokenContract) as caught:
        check_transformation(drifting_dtype, promises=["keeps_types", "works_injected_in_16_bits"], learning_rate=RATE)
    found = [violation.promise for violation in caught.value.violations]
    assert found == ["keeps_types", "works_injected_in_16_bits"]
    assert str(caught.value).startswith("2 promises of the contract are broken:\nkeeps_types: 1. ")


def test_unknown_promise_is_refused():
    with pytest.raises(ValueError, match=r"promises must be among keeps_types, .*; got 'keeps_type'"):
        check_transformation(optax.sgd, promises=["keeps_type"], learning_rate=RATE)


def test_unknown_need_is_refused():
    with pytest.raises(ValueError, match=r"needs must be among value, .*axis_name; got 'obj_fn'"):
        check_transformation(optax.sgd, needs=["obj_fn"], learning_rate=RATE)


def test_unknown_rows_are_refused():
    with pytest.raises(
        ValueError, match=r"stacked must be among microbatches, samples, classes, objectives; got 'lines'"
    ):
        check_transformation(sgd_over_microbatches, stacked="lines", learning_rate=RATE)


def test_rows_that_stay_are_found():
    with pytest.raises(AssertionError, match="shape"):
        check_transformation(optax.sgd, promises=["keeps_types"], stacked="microbatches", learning_rate=RATE)


def test_too_few_devices_are_refused():
    with pytest.raises(RuntimeError, match=r"shards over 64 devices and found 8.*jax_num_cpu_devices"):
        check_transformation(optax.sgd, devices=64, learning_rate=RATE)


def test_one_device_leaves_out_what_needs_several():
    check_transformation(making_zeros_anywhere, promises=list(PROMISES)[-3:], devices=1, learning_rate=RATE)
