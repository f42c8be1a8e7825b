import jax
import jax.numpy as jnp
import numpy as np
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_aggregators_with_a_state_are_refused():
    for aggregator in (optkit.centered_clip(1.0), optkit.bucketing(optkit.aksel(), key=0)):
        with pytest.raises(ValueError, match="robust_mix needs an aggregator without state"):
            optkit.robust_mix(aggregator)
