"""What the methods with proximal maps, compressed or noisy messages promise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optkit import prox
from optkit.compressors import identity, nbytes, qsgd, scaled_sign, top_k
from optkit.core.cost import hlo
from optkit.core.workers.on_workers import on_workers
from optkit.decentralized import (
    choco,
    compressed_proximal_tracking,
    gossip,
    mix,
    noise_robust_gradient_tracking,
    noisy_mix,
    proximal_gradient_tracking,
)
from optkit.decentralized._compressed_exchange import exchange
from optkit.decentralized.topology import one_peer_exponential, path, ring, torus

WORKERS = 8
RING = ring(WORKERS)
PROX = prox.l1(0.3)
SHAPES = {"matrix": (3, 2), "scalar": (), "empty": (0,)}


def draw(seed, workers=WORKERS):
    rng = np.random.default_rng(seed)
    dtype = jax.dtypes.canonicalize_dtype(float)
    return {name: rng.standard_normal((workers, *shape)).astype(dtype) for name, shape in SHAPES.items()}


def cast(tree, dtype):
    return jax.tree.map(lambda x: np.asarray(x).astype(dtype), tree)


def plain(rate=0.1, topology=RING, **options):
    return proximal_gradient_tracking(rate, topology, PROX, axis_name="workers", **options)


def compressed(compressor, rate=0.1, topology=RING, **gammas):
    return compressed_proximal_tracking(rate, topology, PROX, compressor, axis_name="workers", **gammas)


METHODS = {
    "proximal_gradient_tracking": plain(),
    "proximal_gradient_tracking_unmixed": plain(mixed_step=False),
    "compressed_proximal_tracking": compressed(top_k(0.5)),
    "choco": choco(optax.sgd(0.1), RING, top_k(0.5), axis_name="workers", gamma=0.5),
    "noise_robust_gradient_tracking": noise_robust_gradient_tracking(0.1, RING, axis_name="workers", gamma=0.7),
}


def run(tx, steps=4, params=None, links=None):
    """Gives parameters and states after each of some steps in NumPy, on gradients that are drawn."""
    params = draw(0) if params is None else params
    grads = jax.tree.map(lambda *x: np.stack(x), *(draw(seed) for seed in range(1, steps + 1)))
    grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)
    return grads, *jax.tree.map(np.asarray, program(tx, params, grads, links))


@functools.partial(jax.jit, static_argnums=0)
def program(tx, params, grads, links):
    def step(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params, links=links)
        carry = optax.apply_updates(params, updates), state
        return carry, carry

    workers = jax.vmap(step, axis_name="workers")
    return jax.lax.scan(workers, (params, jax.vmap(tx.init)(params)), grads)[1]


def assert_close(actual, expected, atol=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), actual, expected)


def means(tree):
    """Over workers, of each step."""
    return jax.tree.map(lambda x: np.mean(x, axis=1), tree)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["proximal_gradient_tracking", "compressed_proximal_tracking"])
def test_the_mean_estimate_is_the_mean_gradient(name):
    grads, _, state = run(METHODS[name])
    assert_close(means(state.tracked), means(grads))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_what_is_not_compressed_moves_like_the_method_without_compression():
    _, expected, _ = run(plain())
    _, params, _ = run(compressed(identity(), gamma_x=1.0, gamma_y=1.0))
    assert_close(params, expected)
    _, expected, _ = run(gossip(optax.adam(0.1), RING, axis_name="workers"))
    _, params, _ = run(choco(optax.adam(0.1), RING, identity(), axis_name="workers", gamma=1.0))
    assert_close(params, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("compressor", [top_k(0.3), scaled_sign(), qsgd(2, key=0, axis_name="workers")])
def test_choco_moves_the_mean_as_if_nothing_were_exchanged(compressor):
    tx = choco(optax.sgd(0.1), RING, compressor, axis_name="workers", gamma=0.4)
    grads, params, _ = run(tx)
    start = jax.tree.map(lambda x: np.mean(x, axis=0), draw(0))
    assert_close(means(params), jax.tree.map(lambda x, g: x - 0.1 * np.cumsum(g, axis=0), start, means(grads)))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_lost_messages_keep_all_means():
    drawn = np.random.default_rng(0).random((WORKERS, WORKERS)) > 0.4
    for name in ("compressed_proximal_tracking", "proximal_gradient_tracking"):
        grads, _, state = run(METHODS[name], links=drawn & drawn.T)
        assert_close(means(state.tracked), means(grads))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("topology", [RING, path(WORKERS), torus(WORKERS)])
def test_the_exchange_adds_up_how_neighbours_differ(topology):
    def both(x):
        own, change = exchange(x, x, identity(), topology, "workers")
        return own, change, mix(x, topology, "workers")

    tree = draw(0)
    own, change, mixed = jax.jit(jax.vmap(both, axis_name="workers"))(tree)
    assert_close(own, tree)
    assert_close(jax.tree.map(lambda x, y: x + np.asarray(y), tree, change), mixed)


@pytest.mark.slow
def test_what_is_not_heard_may_be_nan():
    x, links = np.arange(8, dtype=np.float32), np.ones((8, 8), bool)
    x[3], links[:, 3] = np.nan, False

    def change(x):
        return exchange(x, x, identity(), RING, "workers", links=jnp.asarray(links))[1]

    changes = jax.jit(jax.vmap(change, axis_name="workers"))(x)
    assert np.all(np.isfinite(np.delete(changes, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_backends_agree(name):
    tx, params, grads = METHODS[name], draw(0), draw(1)

    def two_steps(params, grads):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=2)[0][0]

    expected = on_workers(two_steps, axis_name="workers", backend="vmap")(params, grads)
    for backend in ("pmap", "shard_map"):
        assert_close(on_workers(two_steps, axis_name="workers", backend=backend)(params, grads), expected, atol=1e-6)


def sent(tx, params):
    """Bytes that a worker sends in a step, by kind of collective."""

    def step(params):
        updates, _ = tx.update(params, tx.init(params), params)
        return optax.apply_updates(params, updates)

    mesh = jax.make_mesh((WORKERS,), ("workers",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("workers")
    mapped = jax.shard_map(step, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    lowered = jax.jit(mapped).lower(params)
    return hlo.read(lowered.compile(), lowered).sent


@pytest.mark.parametrize(
    ("tx", "expected"),
    [
        (METHODS["proximal_gradient_tracking"], 2 * 2 * 9 * 4),
        (METHODS["noise_robust_gradient_tracking"], 2 * 2 * 9 * 4),
        (METHODS["compressed_proximal_tracking"], 2 * 2 * (3 + 2) * (4 + 4)),
        (METHODS["choco"], 2 * (3 + 2) * (4 + 4)),
        (choco(optax.sgd(0.1), RING, scaled_sign(), axis_name="workers", gamma=0.5), 2 * (1 + 4 + 1 + 4)),
    ],
)
def test_a_worker_sends_the_bytes_of_the_formula(tx, expected):
    params = {"matrix": np.ones((WORKERS, 3, 2), np.float32), "vector": np.ones((WORKERS, 3), np.float32)}
    assert sent(tx, params) == {"collective-permute": expected}


def test_a_message_on_the_wire_is_what_the_compressor_made():
    compressor = qsgd(4, key=0)
    tx = choco(optax.sgd(0.1), RING, compressor, axis_name="workers", gamma=0.5)
    message = nbytes(compressor, jnp.ones((1, 300)))
    assert message == 300 * 4 // 8 + 4
    assert sent(tx, jnp.ones((WORKERS, 300))) == {"collective-permute": 2 * message}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_parameters_of_16_bits_are_mixed_in_float32(name):
    params = cast(draw(0), jnp.bfloat16)
    _, low, state = run(METHODS[name], steps=3, params=params)
    _, high, _ = run(METHODS[name], steps=3, params=cast(params, np.float32))
    assert {x.dtype for x in jax.tree.leaves(low)} == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(state)} == {
        jnp.dtype(jnp.float32),
        jnp.dtype(jnp.int32),
    } or name == "choco"
    assert_close(cast(low, np.float32), high, atol=0.15)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_workers_meet_at_the_minimum_under_an_l1_penalty():
    targets = draw(3)["matrix"]
    minimum = PROX(np.mean(targets, axis=0), 1.0)
    assert np.any(minimum == 0)
    for tx in (plain(0.3), plain(0.3, mixed_step=False), compressed(top_k(0.5), 0.1)):

        def step(carry, _, tx=tx):
            params, state = carry
            updates, state = tx.update(params - carry_targets(), state, params)
            return (optax.apply_updates(params, updates), state), None

        def carry_targets():
            return jnp.asarray(targets)[jax.lax.axis_index("workers")]

        @jax.jit
        def end(params, tx=tx, step=step):
            workers = jax.vmap(step, in_axes=(0, None), axis_name="workers")
            return jax.lax.scan(workers, (params, jax.vmap(tx.init)(params)), length=600)[0][0]

        params = end(np.zeros_like(targets))
        np.testing.assert_allclose(params, np.broadcast_to(minimum, params.shape), atol=1e-8)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_noise_is_in_what_others_hear_and_has_the_scale_asked_for():
    def change(x, scale, step):
        return noisy_mix(scale, key=0)(x, RING, "workers", step=step) - mix(x, RING, "workers", step=step)

    over_workers = jax.jit(jax.vmap(change, in_axes=(0, None, None), axis_name="workers"))
    x = jnp.zeros((WORKERS, 5000))
    noise = over_workers(x, 0.5, 0)
    assert np.any(noise != over_workers(x, 0.5, 1))
    np.testing.assert_allclose(np.std(noise), 0.5 * np.sqrt(2) / 3, rtol=0.02)  # of two neighbours, with weights 1/3
    near, far = (np.corrcoef(noise[0], noise[other])[0, 1] for other in (2, 4))
    np.testing.assert_allclose([near, far], [0.5, 0.0], atol=0.05)  # neighbours of one worker hear the same noise
    np.testing.assert_allclose(over_workers(x, 0.0, 0), 0, atol=1e-15)


@pytest.mark.usefixtures("x64")
def test_without_noise_the_total_is_that_of_tracked_gradients():
    grads, _, state = run(METHODS["noise_robust_gradient_tracking"])
    assert_close(means(state.total), jax.tree.map(lambda g: 0.1 * np.cumsum(g, axis=0), means(grads)))


@pytest.mark.usefixtures("x64")
def test_schedules_are_called_with_the_number_of_updates():
    rate = optax.piecewise_constant_schedule(0.1, {1: 0.5, 3: 0.1})
    first, last = (run(tx)[1] for tx in (plain(rate), plain(0.1)))
    assert_close(jax.tree.map(lambda x: x[0], first), jax.tree.map(lambda x: x[0], last))
    assert np.any(first["matrix"][1] != last["matrix"][1])


@pytest.mark.parametrize("name", METHODS)
def test_missing_parameters_are_named(name):
    tx = METHODS[name]
    params = jax.tree.map(lambda x: x[0], draw(0))
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(params, tx.init(params))


def test_periodic_topologies_are_refused_where_neighbours_keep_sums():
    with pytest.raises(ValueError, match=r"choco keeps running sums .* period 3"):
        choco(optax.sgd(0.1), one_peer_exponential(8), identity(), axis_name="workers", gamma=1.0)
    with pytest.raises(ValueError, match="compressed_proximal_tracking keeps running sums"):
        compressed(identity(), topology=one_peer_exponential(8))


def test_a_wrong_number_of_workers_is_named():
    with pytest.raises(ValueError, match="joins 8 workers, but the axis 'workers' has 4"):
        jax.vmap(lambda x: exchange(x, x, identity(), RING, "workers"), axis_name="workers")(jnp.ones(4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: compressed(identity(), gamma_x=0.0), r"gamma_x must be in \(0, 1\], got 0"),
        (lambda: compressed(identity(), gamma_y=1.5), r"gamma_y must be in \(0, 1\], got 1.5"),
        (lambda: choco(optax.sgd(0.1), RING, identity(), axis_name="workers", gamma=0.0), r"gamma must be in \(0, 1\]"),
        (lambda: noise_robust_gradient_tracking(0.1, RING, axis_name="w", gamma=2.0), r"gamma must be in \(0, 1\]"),
        (lambda: noisy_mix(-1.0, key=0), r"scale must be in \[0, inf\]"),
    ],
)
def test_what_is_out_of_range_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_empty_tree_stays_empty():
    for tx in (plain(), compressed(top_k(0.5))):
        updates = jax.vmap(lambda _, tx=tx: tx.update({}, tx.init({}), {})[0], axis_name="workers")(jnp.ones(8))
        assert updates == {}


@pytest.mark.slow
def test_a_penalty_whose_step_is_the_rate_is_the_penalty_of_the_loss():
    # With half a squared norm as penalty the minimum is that of the loss plus the weight.
    tx = proximal_gradient_tracking(0.3, ring(2), prox.squared_l2(1.0), axis_name="workers")

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(params - 4.0, state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def end(params):
        workers = jax.vmap(step, in_axes=(0, None), axis_name="workers")
        return jax.lax.scan(workers, (params, jax.vmap(tx.init)(params)), length=60)[0][0]

    np.testing.assert_allclose(end(np.zeros(2, np.float32)), 2.0, rtol=1e-5)
