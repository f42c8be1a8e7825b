import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import linear_sum_assignment

from optkit.core.workers.on_workers import on_workers
from optkit.decentralized import activation_matched_mix, align_units, gossip, match_units, mix, permute_units
from optkit.decentralized.topology import complete, ring, sequence

INPUTS, HIDDEN, OUTPUTS, WORKERS = 5, 8, 3, 4
UNITS = {
    "first": {"kernel": (None, "first"), "bias": ("first",)},
    "norm": {"scale": ("first",)},
    "second": {"kernel": ("first", "second"), "bias": ("second",)},
    "third": {"kernel": ("second", None), "bias": (None,)},
}
EXAMPLES = np.random.default_rng(9).standard_normal((40, INPUTS)).astype(np.float32)


def network(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    return {
        "first": {"kernel": draw(INPUTS, HIDDEN), "bias": draw(HIDDEN)},
        "norm": {"scale": np.abs(draw(HIDDEN)) + np.float32(0.5)},
        "second": {"kernel": draw(HIDDEN, HIDDEN), "bias": draw(HIDDEN)},
        "third": {"kernel": draw(HIDDEN, OUTPUTS), "bias": draw(OUTPUTS)},
    }


@jax.jit
def layers(params, inputs=EXAMPLES):
    first = jnp.tanh(inputs @ params["first"]["kernel"] + params["first"]["bias"]) * params["norm"]["scale"]
    second = jnp.tanh(first @ params["second"]["kernel"] + params["second"]["bias"])
    return {"first": first, "second": second}, second @ params["third"]["kernel"] + params["third"]["bias"]


def activations(params):
    return layers(params)[0]


def shuffled(params, seed):
    rng = np.random.default_rng(seed)
    return permute(params, {name: rng.permutation(HIDDEN) for name in ("first", "second")})


@jax.jit
def permute(params, orders):
    return permute_units(params, UNITS, orders)


def mixed(params, topology, mixing, backend="vmap", **arguments):
    step = lambda tree: mixing(tree, topology, "workers", **arguments)  # noqa: E731
    return jax.tree.map(np.asarray, on_workers(step, axis_name="workers", backend=backend)(params))


def stack(trees):
    return jax.tree.map(lambda *x: np.stack(x), *trees)


MATCHED = activation_matched_mix(UNITS, activations)
SHUFFLED = stack([network(), *(shuffled(network(), seed) for seed in range(1, WORKERS))])


def test_permuted_units_leave_the_function_as_it_is():
    np.testing.assert_allclose(layers(shuffled(network(), 1))[1], layers(network())[1], atol=1e-5)
    assert not np.allclose(shuffled(network(), 1)["second"]["kernel"], network()["second"]["kernel"])


@pytest.mark.slow
def test_a_shuffled_copy_is_aligned_exactly():
    align = jax.jit(lambda own, other: align_units(own, other, UNITS, activations))
    aligned = align(network(), shuffled(network(), 1))
    jax.tree.map(np.testing.assert_array_equal, aligned, network())


@pytest.mark.slow
def test_shuffled_copies_merge_to_the_same_function_exactly():
    topology = sequence(ring(WORKERS), complete(WORKERS))
    exchange = jax.jit(
        jax.vmap(lambda tree, step: MATCHED(tree, topology, "workers", step=step), (0, None), axis_name="workers")
    )
    for step in (0, 1):
        jax.tree.map(np.testing.assert_array_equal, exchange(SHUFFLED, step), SHUFFLED)
    plain = mixed(SHUFFLED, complete(WORKERS), mix)
    assert np.max(np.abs(layers(jax.tree.map(lambda x: x[0], plain))[1] - layers(network())[1])) > 0.1


@pytest.mark.slow
def test_matched_copies_that_moved_apart_are_averaged():
    moves = [jax.tree.map(lambda x, s=seed: x + np.float32(0.01 * s), network()) for seed in range(WORKERS)]
    merged = mixed(stack([shuffled(move, seed) for seed, move in enumerate(moves)]), complete(WORKERS), MATCHED)
    merged = [jax.tree.map(lambda x, i=i: x[i], merged) for i in range(WORKERS)]
    mean = jax.tree.map(lambda x: x + np.float32(0.01 * (WORKERS - 1) / 2), network())
    for worker, params in enumerate(merged):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), params, shuffled(mean, worker))


@pytest.mark.slow
def test_matching_finds_the_best_assignment():
    rng = np.random.default_rng(0)
    own, other = (rng.standard_normal((30, HIDDEN)).astype(np.float32) for _ in range(2))
    correlation = np.corrcoef(own.T, other.T)[:HIDDEN, HIDDEN:]
    np.testing.assert_array_equal(jax.jit(match_units)(own, other), linear_sum_assignment(-correlation)[1])


@pytest.mark.slow
def test_constant_units_are_matched_too():
    own = EXAMPLES.copy()
    own[:, 2] = 7.0
    order = np.asarray(jax.jit(match_units)(own, own))
    assert sorted(order.tolist()) == list(range(INPUTS))
    np.testing.assert_array_equal(own[:, order], own)


@pytest.mark.slow
def test_convolutions_are_matched_by_channels():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((4, 6, 6, 3), np.float32)
    params = {"conv": rng.standard_normal((3, 3, 3, 5), np.float32), "head": np.ones((5, 2), np.float32)}
    units = {"conv": (None, None, None, "channels"), "head": ("channels", None)}
    dimensions = jax.lax.conv_dimension_numbers(images.shape, params["conv"].shape, ("NHWC", "HWIO", "NHWC"))

    def channels(params):
        return {
            "channels": jax.lax.conv_general_dilated(
                images, params["conv"], (1, 1), "SAME", dimension_numbers=dimensions
            )
        }

    @jax.jit
    def aligned(order):
        other = permute_units(params, units, {"channels": order})
        return align_units(jax.tree.map(jnp.asarray, params), other, units, channels)["conv"]

    np.testing.assert_array_equal(aligned(np.array([4, 2, 0, 1, 3])), params["conv"])


@pytest.mark.slow
def test_what_is_not_heard_may_be_nan():
    broken, links = jax.tree.map(np.copy, SHUFFLED), np.ones((WORKERS, WORKERS), bool)
    for leaf in jax.tree.leaves(broken):
        leaf[1] = np.nan
    links[:, 1] = False
    merged = mixed(broken, ring(WORKERS), MATCHED, links=jnp.asarray(links))
    for worker in (0, 2, 3):
        jax.tree.map(lambda a, b, i=worker: np.testing.assert_array_equal(a[i], b[i]), merged, SHUFFLED)


@functools.cache
def networks_mixed_by(backend):
    return mixed(stack([network(seed) for seed in range(WORKERS)]), ring(WORKERS), MATCHED, backend)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_backends_agree(backend):
    simulated, real = networks_mixed_by("vmap"), networks_mixed_by(backend)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), simulated, real)


@pytest.mark.slow
def test_gossip_takes_it_and_dtypes_stay():
    tx = gossip(optax.sgd(0.1), ring(WORKERS), axis_name="workers", mixing=MATCHED, every=2)

    def step(params, state):
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(jax.vmap(step, axis_name="workers"))
    params = SHUFFLED
    state = jax.jit(jax.vmap(tx.init))(params)
    for _ in range(2):
        params, state = step(params, state)
    jax.tree.map(np.testing.assert_array_equal, params, SHUFFLED)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"activations must have one shape, .* got \(4, 3\), \(4, 2\)"):
        match_units(jnp.ones((4, 3)), jnp.ones((4, 2)))
    with pytest.raises(ValueError, match=r"must name each axis of the leaf \['w'\] of shape \(2, 3\), got \('a',\)"):
        permute_units({"w": jnp.ones((2, 3))}, {"w": ("a",)}, {})
    with pytest.raises(ValueError, match=r"the group 'a' has 2 units, but axis 1 of the leaf \['w'\] has 3"):
        permute_units({"w": jnp.ones((2, 3))}, {"w": (None, "a")}, {"a": jnp.array([1, 0])})
    with pytest.raises(ValueError, match="the topology joins 2 workers, but the axis 'workers' has 4"):
        mixed(SHUFFLED, ring(2), MATCHED)


@pytest.mark.slow
def test_matching_comes_to_an_end_on_nan():
    assert sorted(match_units(jnp.full((4, 3), jnp.nan), EXAMPLES[:4, :3]).tolist()) == [0, 1, 2]
