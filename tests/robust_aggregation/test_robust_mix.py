import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal

import optkit
from optkit.core.cost.hlo import read

WORKERS = 8
KINDS = {
    "trimmed_mean": optkit.trimmed_mean(1),
    "nearest": optkit.nearest_neighbor_average(1),
    "clipped": optkit.self_centered_clip(1.0, 2),
    "median": optkit.coordinate_median(nan_policy="omit"),
}


MIXINGS = {kind: optkit.robust_mix(aggregator) for kind, aggregator in KINDS.items()}
COMPLETE = optkit.topology.complete(WORKERS)


def draw(seed):
    return {
        "kernel": np.asarray(normal(WORKERS, 3, 2, seed=seed)),
        "scalar": np.asarray(normal(WORKERS, seed=seed + 100)),
        "steps": np.arange(WORKERS),
        "none": None,
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def mixed(mixing, topology, tree, links=None):
    return jax.vmap(lambda x: mixing(x, topology, "workers", links=links), axis_name="workers")(tree)


@functools.partial(jax.jit, static_argnums=0)
def aggregate(aggregator, rows):
    """What a worker whose value is the first row makes of all of them."""
    return aggregator.update(rows, aggregator.init(None), own=jax.tree.map(lambda x: x[0], rows))[0]


MEAN_OF_ALL = optkit.nearest_neighbor_average(0)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("topology", [COMPLETE, optkit.topology.star(WORKERS), optkit.topology.torus(WORKERS)])
def test_each_worker_aggregates_what_it_hears(kind, topology):
    tree = draw(0)
    links = np.ones((WORKERS, WORKERS), bool)
    links[0, 3] = links[5, 4] = False
    found = mixed(MIXINGS[kind], topology, tree, links)
    floats = {name: tree[name] for name in ("kernel", "scalar")}
    for worker in (0, 3, 5):
        heard = (topology.matrices[0, worker] != 0) & links[worker]
        heard[worker] = True
        if kind == "trimmed_mean" and heard.sum() < 3:
            continue
        order = [worker, *(j for j in np.flatnonzero(heard) if j != worker)]
        rows = jax.tree.map(lambda x: x[order], floats)  # noqa: B023
        # Of too few it leaves out fewer, which the rule called with so few rows alone refuses.
        rule = MEAN_OF_ALL if kind == "nearest" and len(order) < 3 else KINDS[kind]
        if kind == "nearest" and len(order) == 2:
            expected = jax.tree.map(lambda x: x[worker], floats)  # noqa: B023
        else:
            expected = aggregate(rule, rows)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][worker], value, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(found["steps"], tree["steps"])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "topology",
    [COMPLETE, optkit.topology.star(WORKERS), optkit.topology.one_peer_exponential(WORKERS)],
)
def test_backends_agree(topology):
    tree = draw(1)
    mixing = optkit.robust_mix(optkit.self_centered_clip(1.0))
    expected, *others = (
        optkit.on_workers(lambda x: mixing(x, topology, "workers", step=1), axis_name="workers", backend=backend)(tree)
        for backend in ("vmap", "pmap", "shard_map")
    )
    for actual in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15), actual, expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("topology", [COMPLETE, optkit.topology.ring(WORKERS)])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_what_a_worker_sends_does_not_spread(kind, topology, value):
    tree = draw(2)
    honest = np.arange(WORKERS) != 3

    def where_the_attacker_sends_anything(tree):
        kernel, scalar = np.array(tree["kernel"]), np.array(tree["scalar"])
        kernel[3] = scalar[3] = value
        return {**tree, "kernel": kernel, "scalar": scalar}

    sent = where_the_attacker_sends_anything(tree)
    for _ in range(3):
        found = jax.tree.map(np.asarray, mixed(MIXINGS[kind], topology, sent))
        for name in ("kernel", "scalar"):
            assert np.all(np.abs(found[name][honest]) <= 1.5 * np.abs(tree[name][honest]).max())
        sent = where_the_attacker_sends_anything(found)


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
