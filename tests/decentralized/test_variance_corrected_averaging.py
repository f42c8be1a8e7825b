import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import assert_replays, replays

from optkit.core.workers.on_workers import on_workers
from optkit.decentralized import gossip, mix, repeated_mix, variance_corrected_mean, variance_corrected_mix
from optkit.decentralized.topology import complete, ring

program = jax.jit(variance_corrected_mean, static_argnames="min_ndim")


def merge(*args, **arguments):
    return jax.tree.map(np.asarray, program(*args, **arguments))


@pytest.mark.slow
@replays("variance_corrected_averaging")
def test_golden_variance_corrected_averaging(recording):
    weights = recording.hyperparams["weights"]
    np.testing.assert_array_equal(weights, recording.arrays["weights"])
    assert recording.hyperparams["ddof"] == 0
    merged = merge(recording.tree("models"), weights, min_ndim=1)
    assert_replays(recording, merged, "merged")


def draw(count=4, *, seed=0):
    shapes = {"kernel": (6, 5), "bias": (5,), "scalar": (), "none": None}
    random = np.random.default_rng(seed)
    draw = lambda shape: random.standard_normal((count, *shape), np.float32)  # noqa: E731
    return {name: shape if shape is None else draw(shape) for name, shape in shapes.items()}


def mixed(mixing, topology, models, backend="vmap", **arguments):
    step = lambda x: mixing(x, topology, "workers", **arguments)  # noqa: E731
    return jax.tree.map(np.asarray, on_workers(step, axis_name="workers", backend=backend)(models))


@pytest.mark.slow
def test_variance_and_mean_of_a_leaf_are_the_models_own():
    models = draw()
    merged = merge(models)["kernel"]
    np.testing.assert_allclose(np.var(merged), np.mean(np.var(models["kernel"], axis=(1, 2))), rtol=1e-5)
    np.testing.assert_allclose(np.mean(merged), np.mean(models["kernel"]), atol=1e-6)


def test_leaves_of_few_axes_are_averaged_only():
    models = draw()
    merged = merge(models)
    np.testing.assert_allclose(merged["bias"], models["bias"].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(merged["scalar"], models["scalar"].mean(), rtol=1e-5)
    assert np.var(merge(models, min_ndim=1)["bias"]) > 1.5 * np.var(merged["bias"])


@pytest.mark.slow
def test_equal_models_stay():
    model = draw(1)
    merged = merge(jax.tree.map(lambda x: np.repeat(x, 3, axis=0), model))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[0], atol=1e-6), merged, model)


@pytest.mark.slow
def test_constant_and_opposite_leaves_stay_finite():
    zeros = np.zeros((3, 4, 4), np.float32)
    np.testing.assert_array_equal(merge(zeros), 0)
    opposite = np.float32([np.eye(3), -np.eye(3)])  # their mean is constant
    np.testing.assert_array_equal(merge(opposite), 0)
    assert merge(jnp.zeros((3, 0, 4))).shape == (0, 4)


def test_factor_is_bounded():
    models = draw()
    plain = models["kernel"].mean(axis=0)
    bounded = np.asarray(merge(models, max_factor=1.25)["kernel"])
    np.testing.assert_allclose(bounded - bounded.mean(), 1.25 * (plain - plain.mean()), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(merge(models, max_factor=1.0)["kernel"], plain, atol=1e-6)


def test_mixing_on_a_complete_graph_is_the_mean_of_models():
    models = draw()
    expected = merge(models)
    result = mixed(variance_corrected_mix(), complete(4), models)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, np.stack([b] * 4), atol=1e-6), result, expected)


@pytest.mark.slow
def test_mixing_weighs_variances_like_values():
    models = draw(3)
    topology = ring(3).lazy()
    result = mixed(variance_corrected_mix(), topology, models)
    for worker, weights in enumerate(topology.matrices[0]):
        expected = merge(models, weights)
        jax.tree.map(lambda a, b, i=worker: np.testing.assert_allclose(a[i], b, atol=1e-5), result, expected)


@pytest.mark.slow
def test_it_corrects_any_mixing():
    models = draw()
    factor = np.var(mixed(variance_corrected_mix(repeated_mix(8)), ring(4), models)["kernel"], axis=(1, 2))
    np.testing.assert_allclose(factor, np.mean(np.var(models["kernel"], axis=(1, 2))), rtol=1e-3)
    assert np.all(np.var(mixed(repeated_mix(8), ring(4), models)["kernel"], axis=(1, 2)) < 0.5 * factor)


def test_worker_that_hears_nobody_stays():
    models = draw()
    result = mixed(variance_corrected_mix(), ring(4), models, links=jnp.zeros((4, 4), bool))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), result, models)


def test_trees_without_matrices_are_mixed_only():
    models = {"bias": draw()["bias"]}
    result = mixed(variance_corrected_mix(), ring(4), models)
    np.testing.assert_allclose(result["bias"], mixed(mix, ring(4), models)["bias"])


@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_backends_agree(backend):
    models = draw()
    simulated, real = (mixed(variance_corrected_mix(), ring(4), models, name) for name in ("vmap", backend))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), simulated, real)


@pytest.mark.slow
def test_gossip_takes_it_and_dtypes_stay():
    tx = gossip(optax.sgd(0.1), ring(4), axis_name="workers", mixing=variance_corrected_mix())
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), {"kernel": draw()["kernel"]})

    def step(params):
        updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
        return optax.apply_updates(params, updates)

    new = np.asarray(jax.jit(jax.vmap(step, axis_name="workers"))(params)["kernel"])
    assert new.dtype == jnp.bfloat16
    targets = np.einsum("ij,j->i", ring(4).matrices[0], np.var(params["kernel"].astype(float), axis=(1, 2)))
    np.testing.assert_allclose(np.var(new.astype(float), axis=(1, 2)), targets, rtol=0.02)


@pytest.mark.slow
def test_wrong_arguments_are_named():
    for function in (lambda **changes: variance_corrected_mean(jnp.ones((2, 3, 3)), **changes), variance_corrected_mix):
        with pytest.raises(ValueError, match="min_ndim must be a positive integer, got 0"):
            function(min_ndim=0)
        with pytest.raises(ValueError, match=r"max_factor must be in \[1, inf\], got 0.5"):
            function(max_factor=0.5)
