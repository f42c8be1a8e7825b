import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal_like
from golden_files import assert_replays, replays
from promises import assert_rows_are_workers
from trajectories import last, trajectory

import optkit
from optkit.testing import check_transformation

LABELS = {"backbone": "backbone", "head": "head"}
BACKBONE, HEAD = 0, 1  # the order of the factors
PARAMS = {"backbone": jnp.zeros(20), "head": jnp.zeros((4, 5))}


def recorded_inner(hyperparams):
    """The optimizer of the recorded run, PyTorch's clipping included."""
    rate, decay = hyperparams["base.lr"], hyperparams.get("base.weight_decay", 0.0)
    if hyperparams.word("base.kind", {"adamw": True, "sgd": False}):
        inner = optax.adamw(rate, *hyperparams["base.betas"], hyperparams["base.eps"], weight_decay=decay)
    else:
        inner = optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, hyperparams["base.momentum"]))
    clip, clipped_steps = hyperparams.group("grad_clip"), hyperparams["grad_clip_range"]
    if not clip:
        assert hyperparams["grad_clip"] is None
        return inner

    def clip_as_torch(updates, params):
        del params
        norm = optax.tree.norm(updates, clip["norm_type"])
        return optax.tree.scale(jnp.minimum(1, clip["max_norm"] / (norm + 1e-6)), updates)

    first, end = clipped_steps or (0, np.iinfo(np.int32).max)
    clipping = optax.conditionally_transform(
        optax.stateless(clip_as_torch), lambda step: (step >= first) & (step <= end)
    )
    return optax.chain(clipping, inner)


@pytest.mark.slow
@replays("agvm")
def test_golden_agvm(recording):
    hyperparams = recording.hyperparams
    adam, modules, workers = hyperparams["preconditioned"], hyperparams.group("modules"), hyperparams["n_workers"]
    tx = optkit.agvm(
        recorded_inner(hyperparams),
        {leaf: module for module, leaves in modules.items() for leaf in leaves},
        hyperparams.word("reference_module", ("backbone",)),
        start=hyperparams["start_step"],
        stop=None if hyperparams["stop_step"] < 0 else hyperparams["stop_step"],
        interval=hyperparams["interval"],
        decay=hyperparams["ema"],
        min_ratio=hyperparams["clip_low"],
        max_ratio=hyperparams["clip_high"],
        eps=hyperparams["eps"],
        inner_b2=hyperparams["base.betas"][1] if adam else None,
        inner_eps=hyperparams["base.eps"] if adam else 1e-8,
        follow="code",
    )

    params, _, states = trajectory(tx, recording.tree("grads"), recording.tree("params0"))
    assert_replays(recording, jax.tree.map(lambda x: np.stack([x] * workers, axis=1), params))
    in_order = states.scales[:, np.array([sorted(modules).index(module) for module in modules])]
    assert_replays(recording, in_order, "expected.scale_factors")


def gradients(seed=0, parts=4):
    return jax.tree.map(lambda noise: 1 + np.asarray(noise), normal_like(PARAMS, seed, rows=(parts,)))


def run(tx, steps):
    """The updates and the factors of all steps."""
    batches = jax.tree.map(lambda *rows: np.stack(rows), *map(gradients, range(steps)))
    _, updates, states = trajectory(tx, batches, PARAMS)
    return jax.tree.map(np.asarray, (updates, states.scales))


def cosine(a, b):
    return a.ravel() @ b.ravel() / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.slow
def test_factor_is_the_root_of_the_noises_ratio():
    tx = optkit.agvm(optax.sgd(1.0), LABELS, "backbone", start=0, decay=0.0)
    scales = run(tx, 1)[1][0]
    halves = jax.tree.map(lambda g: (np.mean(g[:2], axis=0), np.mean(g[2:], axis=0)), gradients())
    noise = {name: 1 - cosine(*halves[name]) for name in LABELS}
    np.testing.assert_allclose(scales[HEAD], np.sqrt(noise["backbone"] / noise["head"]), rtol=1e-5)
    np.testing.assert_allclose(scales[BACKBONE], 1.0, rtol=1e-6)


@pytest.mark.parametrize(("labels", "factor"), [("backbone", np.sqrt(10.0)), ("head", np.sqrt(0.5))])
def test_ratio_is_bounded(labels, factor):
    silent = {"backbone": np.ones((4, 20), np.float32), "head": gradients()["head"]}
    tx = optkit.agvm(optax.sgd(1.0), LABELS, "head" if labels == "backbone" else "backbone", start=0, decay=0.0)
    _, state = jax.jit(tx.update)(silent, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(state.scales[sorted(LABELS).index(labels)], factor, rtol=1e-6)


@pytest.mark.slow
def test_factor_moves_geometrically():
    tx = optkit.agvm(optax.sgd(1.0), LABELS, "backbone", start=0, interval=1, decay=0.8)
    state, update, seen = tx.init(PARAMS), jax.jit(tx.update), []
    for _ in range(4):
        _, state = update(gradients(), state, PARAMS)
        seen.append(state.scales[HEAD])
    target = run(optkit.agvm(optax.sgd(1.0), LABELS, "backbone", start=0, decay=0.0), 1)[1][0, HEAD]
    np.testing.assert_allclose(seen, [target + 0.8**n * (1 - target) for n in range(1, 5)], rtol=1e-5)


def test_factors_adapt_on_the_interval_between_start_and_stop():
    tx = optkit.agvm(optax.sgd(1.0), LABELS, "backbone", start=3, stop=8, interval=2)
    scales = run(tx, 12)[1][:, HEAD]
    changed = np.flatnonzero(np.diff(np.concatenate([[1.0], scales])))
    np.testing.assert_array_equal(changed, [4, 6, 8])


@pytest.mark.slow
def test_updates_are_scaled_between_start_and_stop_only():
    inner = optax.sgd(1.0, momentum=0.9)
    scaled, _ = run(optkit.agvm(inner, LABELS, "backbone", start=2, stop=4, interval=1), 7)
    plain, _ = run(optkit.agvm(inner, LABELS, "backbone", start=100), 7)
    factors = [np.mean((scaled[name] / plain[name]).reshape(7, -1), axis=1) for name in LABELS]
    scaled = np.abs(np.stack(factors, axis=1) - 1) > 1e-4
    np.testing.assert_array_equal(scaled, [[False, step in (2, 3, 4)] for step in range(7)])


def test_inner_sees_the_mean_and_extra_arguments():
    seen = {}

    def update(updates, state, params, **extra_args):
        del params
        seen.update(extra_args, gradient=updates)
        return updates, state

    inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    tx = optkit.agvm(inner, LABELS, "backbone")
    tx.update(gradients(), tx.init(PARAMS), PARAMS, value=3.0)
    assert seen["value"] == 3.0
    jax.tree.map(lambda g, m: np.testing.assert_allclose(g.mean(0), m, rtol=1e-5), gradients(), seen["gradient"])


def test_a_module_without_gradient_is_all_noise():
    tx = optkit.agvm(optax.sgd(1.0), LABELS, "backbone", start=0, decay=0.0)
    silent = {**gradients(), "head": jnp.zeros((4, 4, 5))}
    _, state = jax.jit(tx.update)(silent, tx.init(PARAMS), PARAMS)
    noise = 1 - cosine(*(np.mean(half, axis=0) for half in np.split(np.asarray(silent["backbone"]), 2)))
    np.testing.assert_allclose(state.scales[HEAD], np.sqrt(max(noise, 0.5)), rtol=1e-5)


@pytest.mark.slow
def test_leaves_of_none_are_passed_over():
    params = {"backbone": jnp.zeros(3), "head": {"kernel": jnp.zeros(3), "bias": None}}
    tx = optkit.agvm(optax.sgd(1.0), LABELS, "backbone", start=0)
    rows = jax.tree.map(lambda p: jnp.stack([p + 1, p + 2]), params)
    updates, _ = tx.update(rows, tx.init(params), params)
    assert updates["head"]["bias"] is None


@pytest.mark.slow
def test_labels_may_be_a_function():
    by_tree, by_function = (
        run(optkit.agvm(optax.sgd(1.0), labels, "backbone", start=0, interval=1), 3)
        for labels in (LABELS, lambda tree: {name: name for name in tree})
    )
    jax.tree.map(np.testing.assert_array_equal, by_tree, by_function)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"inner_b2": 0.999}])
def test_workers_and_microbatches_give_the_same(options):
    make = functools.partial(optkit.agvm, optax.adamw(0.1), LABELS, "backbone", start=1, interval=2, **options)
    assert_rows_are_workers(make, map(gradients, range(4)), PARAMS)


def adam_by_module(learning_rate, axis_name="workers"):
    def labels(tree):
        leaves, structure = jax.tree.flatten(tree)
        return structure.unflatten(["first", *["rest"] * (len(leaves) - 1)] if leaves else [])

    inner = optax.adam(learning_rate)
    return optkit.agvm(inner, labels, "first", start=0, interval=2, inner_b2=0.999, axis_name=axis_name)


@pytest.mark.slow
def test_keeps_the_contract_over_workers():
    check_transformation(
        adam_by_module,
        needs=("axis_name",),
        promises=["agrees_between_backends"],
        learning_rate=1e-2,
    )


def test_sends_the_gradient_twice_only_when_it_adapts():
    def sent(**options):
        tx = optkit.agvm(optax.sgd(0.1), "all", "all", axis_name="workers", **options)
        return optkit.cost(tx, jnp.zeros(1000), axis_name="workers", axis_size=4)

    cost = sent()
    (plain,), (taken,) = cost.sent.values(), cost.sent_when_taken.values()
    assert plain == taken


@pytest.mark.parametrize(
    ("parts", "message"), [(1, "needs at least 2 of them, got 1"), (3, "even number of parts, got 3")]
)
def test_parts_that_have_no_halves_raise(parts, message):
    tx = optkit.agvm(optax.sgd(1.0), LABELS, "backbone")
    with pytest.raises(ValueError, match=message):
        tx.update(gradients(parts=parts), tx.init(PARAMS), PARAMS)


def test_gradients_without_leading_axis_raise():
    params = {"backbone": jnp.ones((4, 4)), "head": jnp.ones((4, 4))}
    tx = optkit.agvm(optax.sgd(1.0), LABELS, "backbone")
    with pytest.raises(ValueError, match=r"params\['backbone'\] has shape \(4,\) and the parameter \(4, 4\)"):
        tx.update(params, tx.init(params), params)


def test_a_reference_without_leaves_raises():
    with pytest.raises(ValueError, match=r"reference must be one of the labels \['backbone', 'head'\], got 'neck'"):
        optkit.agvm(optax.sgd(1.0), LABELS, "neck").init(PARAMS)


def test_an_inner_without_second_moment_raises():
    with pytest.raises(ValueError, match="must have one second moment nu, got 0"):
        optkit.agvm(optax.sgd(1.0), LABELS, "backbone", inner_b2=0.999).init(PARAMS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interval": 0}, r"interval must be in \[1, inf\], got 0"),
        ({"decay": 1.5}, r"decay must be in \[0, 1\], got 1.5"),
        ({"min_ratio": 0.0}, r"min_ratio must be in \(0, 1\], got 0.0"),
        ({"max_ratio": 0.5}, r"max_ratio must be in \[1, inf\], got 0.5"),
        ({"eps": 0.0}, r"eps must be in \(0, inf\], got 0.0"),
        ({"inner_b2": 1.0}, r"inner_b2 must be in \[0, 1\), got 1.0"),
        ({"inner_eps": -1.0}, r"inner_eps must be in \[0, inf\], got -1.0"),
    ],
)
def test_wrong_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        optkit.agvm(optax.sgd(1.0), LABELS, "backbone", **arguments)


@pytest.mark.slow
def test_steps_of_the_factors_may_be_injected():
    inner = optax.sgd(0.1)

    def scales(build):
        tx = build(inner, LABELS, "backbone", start=0, interval=2)
        batches = jax.tree.map(lambda *rows: jnp.stack(rows), *map(gradients, range(3)))
        return optax.tree.get(last(trajectory(tx, batches, PARAMS).states), "scales")

    np.testing.assert_allclose(scales(optax.inject_hyperparams(optkit.agvm)), scales(optkit.agvm), rtol=1e-6)
    assert np.any(scales(optkit.agvm) != 1)


def test_modules_of_a_callable_tree():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Model:
        backbone: Any
        head: Any

        def __call__(self):
            raise AssertionError("a tree was called as if it were a function")

    tree = functools.partial(jax.tree.map, lambda x: x)
    tx = optkit.agvm(optax.sgd(0.1), Model(**LABELS), "backbone", start=0)
    updates, state = tx.update(Model(**tree(gradients())), tx.init(Model(**PARAMS)), Model(**PARAMS))
    plain = optkit.agvm(optax.sgd(0.1), LABELS, "backbone", start=0)
    expected, expected_state = plain.update(gradients(), plain.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(updates.head, expected["head"])
    np.testing.assert_array_equal(state.scales, expected_state.scales)


@pytest.mark.slow
def test_mean_gradients_are_said_to_lack_the_rows():
    tx = optkit.agvm(optax.sgd(1.0), LABELS, "backbone")
    with pytest.raises(ValueError, match="agvm takes gradients with a leading axis, of as many microbatches"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
