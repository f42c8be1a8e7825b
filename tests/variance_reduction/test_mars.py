import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal_like
from promises import assert_needs_parameters
from trajectories import descend, passing_prev_grads, trajectory

import optkit
from optkit.testing import check_transformation

STEPS = 12
PARAMS = {"kernel": np.ones((6, 4)), "bias": np.ones(4), "embedding": np.ones((5, 3))}
KERNEL_ONLY = {"kernel": True, "bias": False, "embedding": False}
Correction = optkit.MarsCorrection
UNCLIPPED = Correction(max_norm=None)
PAPER = Correction(max_norm=None, first_step="no_correction")


def stacked(scale=1.0):
    return optax.tree.scale(scale, normal_like(PARAMS, 1, rows=(STEPS,)))


def run(tx, gradients):
    """The updates of all steps, from parameters that are not zero."""
    return trajectory(tx, gradients, normal_like(PARAMS, 0)).updates


def assert_same(actual, expected, rtol=1e-12):
    chex.assert_trees_all_close(actual, expected, rtol=rtol, atol=rtol)


def noisy_distance(params, noise):
    """The gradient of half the squared distance to a target, and noise."""
    return jax.tree.map(lambda x, t, n: x - t + n, params, normal_like(PARAMS, 5), noise)


def shifted(gradients):
    return jax.tree.map(lambda g: jnp.concatenate([jnp.zeros_like(g[:1]), g[:-1]]), gradients)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_change_since_the_last_gradient_is_added():
    gradients = stacked()
    corrected = run(optkit.reduce_variance(0.1, 0.9, correction=UNCLIPPED), gradients)
    assert_same(corrected, jax.tree.map(lambda g, last: g + 0.9 * (g - last), gradients, shifted(gradients)))


@pytest.mark.usefixtures("x64")
def test_the_first_gradient_is_corrected_against_zero_or_not_at_all():
    gradients = stacked()
    first = jax.tree.map(lambda g: g[0], gradients)
    ours = run(optkit.reduce_variance(0.1, 0.9, correction=UNCLIPPED), gradients)
    paper = run(optkit.reduce_variance(0.1, 0.9, correction=PAPER), gradients)
    assert_same(jax.tree.map(lambda g: g[0], ours), jax.tree.map(lambda g: 1.9 * g, first))
    assert_same(jax.tree.map(lambda g: g[0], paper), first)
    assert_same(jax.tree.map(lambda g: g[1:], ours), jax.tree.map(lambda g: g[1:], paper))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("first_step", ["zero_reference", "no_correction"])
def test_exact_first_steps_follow_the_same_conventions(first_step):
    correction = Correction(max_norm=None, exact=True, first_step=first_step)
    tx = optkit.reduce_variance(0.1, 0.9, correction=correction)
    params, gradients = normal_like(PARAMS, 0), normal_like(PARAMS, 1)
    corrected, _ = tx.update(gradients, tx.init(params), params, grad_fn=lambda _: normal_like(PARAMS, 2))
    factor = 1.9 if first_step == "zero_reference" else 1.0
    assert_same(corrected, jax.tree.map(lambda g: factor * g, gradients))


@pytest.mark.usefixtures("x64")
def test_without_gamma_nothing_changes():
    gradients = stacked()
    assert_same(run(optkit.reduce_variance(0.0, correction=UNCLIPPED), gradients), gradients, rtol=0)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_no_leaf_exceeds_the_largest_norm_and_smaller_ones_stay():
    small = stacked(1e-3)
    clipped = run(optkit.reduce_variance(correction=Correction(max_norm=0.5)), stacked())
    norms = jax.vmap(lambda tree: jnp.stack([jnp.linalg.norm(leaf) for leaf in jax.tree.leaves(tree)]))(clipped)
    np.testing.assert_allclose(norms, 0.5, rtol=1e-12)
    assert_same(run(optkit.reduce_variance(), small), run(optkit.reduce_variance(correction=UNCLIPPED), small), rtol=0)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_global_clipping_keeps_the_direction_of_the_whole():
    free = run(optkit.reduce_variance(correction=UNCLIPPED), stacked())
    clipped = run(optkit.reduce_variance(correction=Correction(clip_scope="global")), stacked())
    norms = jax.vmap(optax.tree.norm)(free)
    assert_same(clipped, jax.tree.map(lambda c: c / norms.reshape(-1, *[1] * (c.ndim - 1)), free))


@pytest.mark.usefixtures("x64")
def test_the_reference_is_the_raw_gradient():
    tx = optkit.reduce_variance(correction=Correction(max_norm=1e-3))
    params, gradients = normal_like(PARAMS, 0), normal_like(PARAMS, 1)
    _, state = tx.update(gradients, tx.init(params), params)
    assert_same(state.reference, gradients, rtol=0)


@pytest.mark.usefixtures("x64")
def test_leaves_outside_the_mask_pass_through_without_state():
    gradients = stacked()
    tx = optkit.reduce_variance(applies_to=KERNEL_ONLY)
    corrected = run(tx, gradients)
    everywhere = run(optkit.reduce_variance(), gradients)
    assert_same({**corrected, "kernel": 0.0}, {**gradients, "kernel": 0.0}, rtol=0)
    assert_same(corrected["kernel"], everywhere["kernel"])
    assert [leaf.shape for leaf in jax.tree.leaves(tx.init(normal_like(PARAMS, 0)).reference)] == [(6, 4)]


@pytest.mark.usefixtures("x64")
def test_gamma_may_be_a_schedule():
    gradients = stacked()
    constant = run(optkit.reduce_variance(0.1, correction=UNCLIPPED), gradients)
    late = run(optkit.reduce_variance(lambda count: jnp.where(count < 5, 0.0, 0.1), correction=UNCLIPPED), gradients)
    assert_same(jax.tree.map(lambda x: x[:5], late), jax.tree.map(lambda x: x[:5], gradients), rtol=0)
    assert_same(jax.tree.map(lambda x: x[5:], late), jax.tree.map(lambda x: x[5:], constant))


@pytest.mark.usefixtures("x64")
def test_one_buffer_gives_the_momentum_of_two():
    gradients = stacked()
    two = optax.chain(optkit.reduce_variance(0.3, 0.9, correction=UNCLIPPED), optax.ema(0.9, debias=False))
    assert_same(run(optkit.scale_by_mars_momentum(0.9, 0.3), gradients), run(two, gradients))


@pytest.mark.usefixtures("x64")
def test_exact_unclipped_with_gamma_one_is_recursive_momentum():
    # STORM starts from the gradient itself and MARS from zero: the difference decays with b1.
    mars = optax.chain(
        optkit.reduce_variance(1.0, 0.5, correction=Correction(max_norm=None, exact=True, first_step="no_correction")),
        optax.ema(0.5, debias=False),
        optax.sgd(0.1),
    )
    params, gradients = normal_like(PARAMS, 0), normal_like(PARAMS, 1)
    state = mars.init(params)
    _, state = mars.update(gradients, state, params, grad_fn=lambda _: gradients)
    estimate = jax.tree.map(lambda g: 0.5 * g, gradients)
    for seed in (2, 3, 4):
        here, there = normal_like(PARAMS, seed), normal_like(PARAMS, 10 * seed)
        updates, state = mars.update(here, state, params, grad_fn=lambda _, there=there: there)
        estimate = jax.tree.map(lambda d, g, p: g + 0.5 * (d - p), estimate, here, there)
        assert_same(updates, jax.tree.map(lambda d: -0.1 * d, estimate))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_both_ways_to_pass_the_previous_gradient_agree():
    def run(tx):
        return descend(tx, noisy_distance, normal_like(PARAMS, 0), stacked(0.5)).params

    mars = functools.partial(optkit.mars_adamw, 0.1, gamma=0.3)
    called = run(mars(correction=Correction(exact=True)))
    passed = run(passing_prev_grads(mars(correction=Correction(exact=True, keep_params=False))))
    assert_same(called, passed)
    assert not np.allclose(called["kernel"], run(mars())["kernel"])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_named_optimizers_are_chains_of_parts():
    gradients = stacked()
    by_hand = optax.chain(
        optkit.reduce_variance(0.025, 0.95),
        optax.scale_by_adam(0.95, 0.99),
        optax.add_decayed_weights(0.1),
        optax.scale_by_learning_rate(0.01),
    )
    named = optkit.mars_adamw(0.01, weight_decay=0.1, corrected=True)
    assert_same(run(named, gradients), run(by_hand, gradients))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("build", [optkit.mars_adamw, optkit.mars_lion, optkit.mars_shampoo])
def test_other_leaves_take_adamw_at_their_own_rate(build):
    gradients = stacked()

    def schedule(count):
        return 0.1 * (1 - count.astype(jnp.float64) / STEPS)

    others = optax.adamw(lambda count: 0.3 * schedule(count), 0.8, 0.9, weight_decay=0.2)
    named = run(build(schedule, others=others), gradients)
    assert_same(named["bias"], run(others, gradients)["bias"])


@pytest.mark.usefixtures("x64")
def test_without_correction_mars_adamw_is_adamw():
    gradients = stacked()
    named = run(optkit.mars_adamw(0.1, 0.9, 0.95, weight_decay=0.1, gamma=0.0, correction=UNCLIPPED), gradients)
    assert_same(named, run(optax.adamw(0.1, 0.9, 0.95, weight_decay=0.1), gradients))


@pytest.mark.usefixtures("x64")
def test_leaves_that_are_not_trainable_stay_where_they_are():
    gradients = stacked()
    trainable = lambda tree: jax.tree.map(lambda x: x.shape != (5, 3), tree)  # noqa: E731
    part = run(optkit.mars_adamw(0.1, trainable=trainable), gradients)
    whole = run(optkit.mars_adamw(0.1), gradients)
    assert_same(part, {**whole, "embedding": jnp.zeros_like(gradients["embedding"])})


@pytest.mark.usefixtures("x64")
def test_approximate_forms_stand_in_a_partition():
    gradients = stacked()
    labels = {"kernel": "mars", "bias": "sgd", "embedding": "sgd"}
    parts = {"mars": optax.chain(optkit.reduce_variance(), optax.scale_by_adam()), "sgd": optax.sgd(0.5)}
    alone = run(parts["mars"], gradients)
    expected = {**jax.tree.map(lambda g: -0.5 * g, gradients), "kernel": alone["kernel"]}
    assert_same(run(optax.partition(parts, labels), gradients), expected)


@pytest.mark.parametrize(
    ("build", "per_corrected"),
    [
        (optkit.mars_adamw, 3),
        (functools.partial(optkit.mars_adamw, correction=Correction(exact=True, keep_params=False)), 2),
        (functools.partial(optkit.mars_adamw, amsgrad=True), 4),
        (optkit.mars_lion, 2),
        (functools.partial(optkit.mars_lion, correction=UNCLIPPED), 1),
        (optkit.mars_shampoo, 2),
        (functools.partial(optkit.mars_shampoo, correction=UNCLIPPED), 1),
        (optkit.mars_m, 2),
        (functools.partial(optkit.mars_m, correction=UNCLIPPED), 1),
    ],
)
def test_the_state_is_what_the_paper_says(build, per_corrected):
    params = {"kernel": jax.ShapeDtypeStruct((100, 100), jnp.float32)}
    cost = optkit.cost(build(0.1), params, state_only=True)
    counters = 24
    assert 0 <= cost.state_bytes - 4 * per_corrected * cost.parameters <= counters


@pytest.mark.slow
def test_references_of_16_bit_gradients_may_stay_so():
    params = {"kernel": jnp.ones((6, 4), jnp.bfloat16)}
    gradients = {"kernel": stacked()["kernel"].astype(jnp.bfloat16)}
    narrow = optkit.mars_adamw(0.1, correction=Correction(reference_dtype=jnp.bfloat16))
    assert narrow.init(params)[0].reference["kernel"].dtype == jnp.bfloat16
    plain = trajectory(optkit.mars_adamw(0.1), gradients, params).updates
    assert_same(trajectory(narrow, gradients, params).updates, plain, rtol=0)


def test_init_copies_the_parameters_that_it_keeps():
    params = normal_like(PARAMS, 0)
    state = optkit.reduce_variance(correction=Correction(exact=True)).init(params)
    jax.tree.map(lambda x: x.delete(), params)
    assert jnp.isfinite(state.reference["kernel"]).all()


BUILDERS = (optkit.mars_adamw, optkit.mars_lion, optkit.mars_shampoo, optkit.mars_m)
QUIET = {"mask": lambda tree: jax.tree.map(lambda _: False, tree)}
EXAMPLES = {
    optkit.mars_adamw: QUIET,
    optkit.mars_lion: QUIET,
    optkit.mars_shampoo: QUIET,
    optkit.mars_m: {"weight_decay": 0.0},
}
ENTRIES = optkit.catalog.METHODS


@pytest.mark.slow
@pytest.mark.parametrize("build", [optkit.mars_adamw, optkit.mars_m], ids=lambda build: build.__name__)
def test_contract_of_the_exact_form(build):
    check_transformation(
        build,
        needs=("grad_fn",),
        static_args=ENTRIES[build.__name__].static,
        learning_rate=1e-2,
        correction=Correction(exact=True),
        **EXAMPLES[build],
    )


@pytest.mark.slow
def test_contract_of_the_exact_form_with_passed_gradients():
    check_transformation(
        optkit.mars_adamw,
        needs=("prev_grads",),
        static_args=ENTRIES["mars_adamw"].static,
        learning_rate=1e-2,
        correction=Correction(exact=True, keep_params=False),
        **QUIET,
    )


CHEAP = (
    "keeps_types",
    "compiles_once",
    "allows_donation",
    "takes_all_shapes",
    "stays_finite_in_float16",
    "works_injected",
    "works_injected_in_16_bits",
    "works_masked",
    "works_partitioned",
    "works_sharded_explicitly",
)


@pytest.mark.slow
@pytest.mark.parametrize("build", BUILDERS[1:], ids=lambda build: build.__name__)
def test_contract_of_the_unclipped_form(build):
    check_transformation(
        build,
        promises=CHEAP,
        static_args=ENTRIES[build.__name__].static,
        learning_rate=1e-2,
        correction=UNCLIPPED,
        **EXAMPLES[build],
    )


@pytest.mark.slow
def test_contract_of_amsgrad():
    check_transformation(
        optkit.mars_adamw,
        promises=CHEAP,
        static_args=ENTRIES["mars_adamw"].static,
        learning_rate=1e-2,
        amsgrad=True,
        **QUIET,
    )


def reduce(**fields):
    return optkit.reduce_variance(correction=Correction(**fields))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: optkit.reduce_variance(-0.1), ValueError, r"gamma must be in \[0, inf\], got -0.1"),
        (lambda: optkit.reduce_variance(b1=1.0), ValueError, r"b1 must be in \[0, 1\), got 1.0"),
        (
            lambda: reduce(max_norm=0.0),
            ValueError,
            r"max_norm must be in \(0, inf\], got 0.0",
        ),
        (
            lambda: reduce(clip_scope="all"),
            ValueError,
            "clip_scope must be 'leaf' or 'global', got 'all'",
        ),
        (
            lambda: reduce(first_step="paper"),
            ValueError,
            "first_step must be 'zero_reference' or",
        ),
        (lambda: optkit.scale_by_mars_momentum(b1=1.0), ValueError, r"b1 must be in \[0, 1\), got 1.0"),
        (lambda: optkit.scale_by_mars_momentum(gamma=-1.0), ValueError, r"gamma must be in \[0, inf\], got -1.0"),
        (lambda: optkit.scale_by_mars_momentum(gamma=lambda _: 0.1), TypeError, "needs a constant gamma"),
        (lambda: optkit.mars_adamw(0.1, weight_decay=-1.0), ValueError, "weight_decay must be in"),
        (lambda: optkit.mars_adamw(0.1, correction=1.0), TypeError, "correction must be an optkit.MarsCorrection or"),
        (lambda: optkit.mars_adamw(0.1, others=1e-3), TypeError, "others must be one optax.GradientTransformation or"),
        (lambda: optkit.mars_adamw(0.1, b2=1.0, amsgrad=True), ValueError, r"b2 must be in \[0, 1\), got 1.0"),
        (lambda: optkit.mars_lion(0.1, weight_decay=-1.0), ValueError, "weight_decay must be in"),
        (lambda: optkit.mars_shampoo(0.1, weight_decay=-1.0), ValueError, "weight_decay must be in"),
        (lambda: optkit.mars_m(0.1, weight_decay=-1.0), ValueError, "weight_decay must be in"),
    ],
)
def test_wrong_arguments_are_named(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_missing_arguments_of_update_are_named():
    params = normal_like(PARAMS, 0)
    for keep_params, name in ((True, "grad_fn"), (False, "prev_grads")):
        tx = optkit.reduce_variance(correction=Correction(exact=True, keep_params=keep_params))
        with pytest.raises(TypeError, match=f"reduce_variance needs the extra argument {name}"):
            tx.update(params, tx.init(params), params)
    tx = optkit.reduce_variance(correction=Correction(exact=True))
    assert_needs_parameters(tx, "reduce_variance", params, grad_fn=lambda _: params)


@pytest.mark.parametrize("keep_params", [True, False])
def test_exact_forms_say_that_they_stand_outside(keep_params):
    tx = optax.masked(optkit.reduce_variance(correction=Correction(exact=True, keep_params=keep_params)), KERNEL_ONLY)
    with pytest.raises(TypeError, match="reduce_variance evaluates functions of all parameters"):
        tx.init(normal_like(PARAMS, 0))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_gradient_that_is_not_finite_is_no_reference():
    tx = optkit.reduce_variance()
    params = normal_like(PARAMS, 0)
    _, state = tx.update({**normal_like(PARAMS, 1), "bias": jnp.full(4, jnp.nan)}, tx.init(params), params)
    assert_same(state.reference, {**normal_like(PARAMS, 1), "bias": jnp.zeros(4)}, rtol=0)


@pytest.mark.slow
def test_a_clipped_step_needs_no_memory_beside_the_state():
    # A copy of the gradient or of the reference, each a pass over memory more, would show here.
    params = {"kernel": jax.ShapeDtypeStruct((256, 1024), jnp.float32)}
    assert optkit.cost(optkit.mars_adamw(0.1), params).temporary_bytes < 0.5 * 4 * 256 * 1024
