import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optkit
from optkit.core.cost.hlo import read

WORKERS = 8
KINDS = {
    "trimmed_mean": optkit.trimmed_mean(1),
    "nearest": optkit.nearest_neighbor_average(1),
    "clipped": optkit.self_centered_clip(1.0, 2),
    "median": optkit.coordinate_median(nan_policy="omit"),
}


def draw(seed):
    keys = jax.random.split(jax.random.key(seed))
    return {
        "kernel": jax.random.normal(keys[0], (WORKERS, 3, 2)),
        "scalar": jax.random.normal(keys[1], (WORKERS,)),
        "steps": jnp.arange(WORKERS),
        "none": None,
    }


def mixed(mixing, topology, tree, backend="vmap", links=None, step=0):
    over = optkit.on_workers(
        lambda x: mixing(x, topology, "workers", links=links, step=step), axis_name="workers", backend=backend
    )
    return over(tree)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "topology", [optkit.topology.complete(WORKERS), optkit.topology.star(WORKERS), optkit.topology.torus(WORKERS)]
)
def test_each_worker_aggregates_what_it_hears(kind, topology):
    tree = draw(0)
    links = np.ones((WORKERS, WORKERS), bool)
    links[0, 3] = links[5, 4] = False
    aggregator = KINDS[kind]
    found = mixed(optkit.robust_mix(aggregator), topology, tree, links=jnp.asarray(links))
    floats = {name: tree[name] for name in ("kernel", "scalar")}
    for worker in (0, 3, 5):
        heard = (topology.matrices[0, worker] != 0) & links[worker]
        heard[worker] = True
        if kind == "trimmed_mean" and heard.sum() < 3:
            continue
        order = jnp.asarray([worker, *(j for j in np.flatnonzero(heard) if j != worker)])
        rows = jax.tree.map(lambda x: x[order], floats)  # noqa: B023
        # Of too few it leaves out fewer, which the rule called with so few rows alone refuses.
        rule = optkit.nearest_neighbor_average(0) if kind == "nearest" and len(order) < 3 else aggregator
        if kind == "nearest" and len(order) == 2:
            expected = jax.tree.map(lambda x: x[worker], floats)  # noqa: B023
        else:
            expected, _ = rule.update(rows, rule.init(None), own=jax.tree.map(lambda x: x[0], rows))
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][worker], value, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(found["steps"], tree["steps"])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "topology",
    [optkit.topology.complete(WORKERS), optkit.topology.star(WORKERS), optkit.topology.one_peer_exponential(WORKERS)],
)
def test_backends_agree(topology):
    tree = draw(1)
    mixing = optkit.robust_mix(optkit.self_centered_clip(1.0))
    expected = mixed(mixing, topology, tree, step=1)
    for backend in ("pmap", "shard_map"):
        actual = mixed(mixing, topology, tree, backend, step=1)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15), actual, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("topology", [optkit.topology.complete(WORKERS), optkit.topology.ring(WORKERS)])
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, 1e30])
def test_what_a_worker_sends_does_not_spread(kind, topology, value):
    tree = draw(2)
    honest = np.arange(WORKERS) != 3
    sent = {**tree, "kernel": tree["kernel"].at[3].set(value), "scalar": tree["scalar"].at[3].set(value)}
    for _ in range(3):
        found = mixed(optkit.robust_mix(KINDS[kind]), topology, sent)
        for name in ("kernel", "scalar"):
            assert np.all(np.abs(found[name][honest]) <= 1.5 * np.abs(tree[name][honest]).max())
        sent = {name: x if x is None else x.at[3].set(sent[name][3]) for name, x in found.items()}


def test_a_worker_sends_a_message_for_each_round():
    parameters = jnp.zeros((WORKERS, 1000))
    for topology, kind, times in (
        (optkit.topology.ring(WORKERS), "collective-permute", 2),
        (optkit.topology.complete(WORKERS), "all-gather", WORKERS - 1),
    ):
        mixing = optkit.robust_mix(optkit.trimmed_mean(1))
        mesh = jax.make_mesh((WORKERS,), ("workers",), axis_types=(jax.sharding.AxisType.Auto,))
        spec = jax.sharding.PartitionSpec("workers")
        lowered = jax.jit(
            jax.shard_map(
                lambda x: mixing(x, topology, "workers"),  # noqa: B023
                mesh=mesh,
                in_specs=spec,
                out_specs=spec,
                check_vma=False,
            )
        ).lower(parameters)
        assert read(lowered.compile(), lowered).sent == {kind: times * 4000}


def test_aggregators_with_a_state_are_refused():
    for aggregator in (optkit.centered_clip(1.0), optkit.bucketing(optkit.aksel(), key=0)):
        with pytest.raises(ValueError, match="robust_mix needs an aggregator without state"):
            optkit.robust_mix(aggregator)


def test_monna_hears_enough_or_says_so():
    tx = optkit.monna(0.1, optkit.topology.ring(WORKERS), 2, axis_name="workers")
    step = optkit.on_workers(lambda p: tx.update(p, tx.init(p), p)[0], axis_name="workers", backend="vmap")
    with pytest.raises(ValueError, match="nearest_neighbor_average with byzantine=2 needs at least 5 rows, got 3"):
        step(jnp.zeros(WORKERS))
    with pytest.raises(ValueError, match=r"b1 must be in \[0, 1\), got 1.0"):
        optkit.monna(0.1, optkit.topology.ring(WORKERS), 1, 1.0, axis_name="workers")


ATTACKS = {
    "sign_flip": optkit.attacks.sign_flip,
    "inner_product": lambda honest: optkit.attacks.inner_product_manipulation(honest, 3.0),
    "little": lambda honest: optkit.attacks.a_little_is_enough(honest, 1.5),
    "mimic": optkit.attacks.mimic,
    "nan": optkit.attacks.send_nan,
    "shifted": lambda honest: optkit.attacks.shifted_mean(honest, 10.0),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_monna_trains_under_attack(attack):
    targets = jax.random.normal(jax.random.key(0), (WORKERS, 5))
    best = jnp.mean(targets[:-2], axis=0)
    mixing = optkit.attacks.attacked_mix(optkit.robust_mix(optkit.nearest_neighbor_average(2)), ATTACKS[attack], 2)
    tx = optkit.monna(0.1, optkit.topology.complete(WORKERS), 2, 0.9, axis_name="workers", mixing=mixing)

    def train(target):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(params - target, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = jnp.zeros_like(target)
        return jax.lax.scan(step, (params, tx.init(params)), None, 200)[0][0]

    found = optkit.on_workers(train, axis_name="workers", backend="vmap")(targets)[:-2]
    spread = jnp.std(targets[:-2])
    np.testing.assert_array_less(np.linalg.norm(found - best, axis=1), 2.5 * spread)


def test_attackers_are_the_last_workers_stacked_or_not():
    rows = jnp.arange(8.0)[:, None]
    stacked = optkit.attacks.under_attack(optkit.attacks.sign_flip, 2)
    expected = np.array([0, 1, 2, 3, 4, 5, -2.5, -2.5])[:, None]
    np.testing.assert_allclose(stacked.update(rows, stacked.init(None))[0], expected)
    own = optkit.attacks.under_attack(optkit.attacks.sign_flip, 2, axis_name="workers")
    over = optkit.on_workers(lambda x: own.update(x, own.init(None))[0], axis_name="workers", backend="shard_map")
    np.testing.assert_allclose(over(rows), expected)


def test_noise_is_drawn_anew_each_step():
    tx = optkit.attacks.under_attack(lambda honest, key: optkit.attacks.gaussian_noise(honest, 2.0, key), 1, key=0)
    rows = jnp.zeros((3, 2000))
    first, state = tx.update(rows, tx.init(None))
    second, _ = tx.update(rows, state)
    assert not np.allclose(first[2], second[2])
    np.testing.assert_allclose(np.std(first[2]), 2.0, rtol=0.1)
    np.testing.assert_array_equal(first[:2], 0.0)


def test_scaled_inner_product_cancels_the_mean():
    honest = jax.random.normal(jax.random.key(1), (6, 4))
    sent = optkit.attacks.inner_product_manipulation(honest, 6 / 2)
    np.testing.assert_allclose(jnp.sum(honest, axis=0) + 2 * sent, 0.0, atol=1e-5)


def test_long_among_kept_passes_cge():
    honest = jax.random.normal(jax.random.key(2), (6, 4))
    sent = optkit.attacks.long_among_kept(honest, 2)
    norms = np.sort(np.linalg.norm(honest, axis=1))
    np.testing.assert_allclose(np.linalg.norm(sent), norms[4], rtol=1e-6)


def test_outlying_worker_is_mimicked():
    honest = jnp.array([[1.0, 5.0], [-4.0, 0.0], [3.0, 9.0]])
    worker = optkit.attacks.outlying_worker(honest, jnp.array([1.0, 0.0]))
    np.testing.assert_array_equal(optkit.attacks.mimic(honest, worker), honest[1])


def test_label_flip_twice_is_nothing():
    labels = jnp.arange(10)
    np.testing.assert_array_equal(optkit.attacks.label_flip(optkit.attacks.label_flip(labels, 10), 10), labels)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optkit.attacks.hidden_deviations(8, 4), r"byzantine must be in \[1, 4\), got 4"),
        (lambda: optkit.attacks.hidden_deviations(8, 0), "byzantine must be a positive integer, got 0"),
        (lambda: optkit.attacks.gaussian_noise(jnp.zeros((2, 1)), -1.0, 0), "scale must be in"),
        (lambda: optkit.attacks.long_among_kept(jnp.zeros((2, 1)), 2), r"byzantine must be in \[1, 1\], got 2"),
        (lambda: optkit.attacks.under_attack(optkit.attacks.mimic, 0), "byzantine must be a positive integer, got 0"),
        (
            lambda: optkit.attacks.attacked_mix(optkit.mix, optkit.attacks.mimic, 0),
            "byzantine must be a positive integer, got 0",
        ),
        (
            lambda: optkit.attacks.under_attack(optkit.attacks.mimic, 3).update(
                jnp.zeros((3, 1)), optkit.attacks.under_attack(optkit.attacks.mimic, 3).init(None)
            ),
            r"byzantine must be in \[1, 2\], got 3",
        ),
        (
            lambda: optkit.attacks.strongest(
                optkit.attacks.a_little_is_enough, jnp.zeros((3, 1)), 1, optkit.trimmed_mean(1), 0
            ),
            "evaluations must be a positive integer, got 0",
        ),
    ],
)
def test_wrong_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
