"""What links, sampled participation and consensus diagnostics promise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal

import optkit
from optkit.core.cost import hlo
from optkit.decentralized import (
    consensus_covariance_trace,
    consensus_distance,
    links_among,
    lossy_links,
    participation_mix,
    sample_participants,
)
from optkit.decentralized.topology import complete, ring


def simulate(mixing, values, size=8, **arguments):
    """The values of all workers after mixing, in NumPy."""
    one_worker = functools.partial(mixing, topology=complete(size), axis_name="workers", **arguments)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one_worker, axis_name="workers"))(values))


random_links = jax.jit(lossy_links, static_argnames="size")
participants = jax.jit(sample_participants, static_argnames=("size", "count", "key"))


def draw(*shape, **arguments):
    return np.array(normal(*shape, **arguments))


def test_lossy_links_fail_in_both_directions_as_often_as_asked():
    links = np.stack([random_links(jax.random.key(seed), 20, 0.3) for seed in range(20)])
    np.testing.assert_array_equal(links, links.swapaxes(1, 2))
    assert np.all(links[:, range(20), range(20)])
    above = links[:, *np.triu_indices(20, 1)]
    assert abs(above.mean() - 0.7) < 4 * np.sqrt(0.21 / above.size)


def test_no_link_or_every_link_may_be_lost():
    assert np.all(random_links(jax.random.key(0), 5, 0.0))
    np.testing.assert_array_equal(random_links(jax.random.key(0), 5, 1.0), np.eye(5, dtype=bool))


@pytest.mark.parametrize(("size", "probability", "message"), [
    (0, 0.5, "size must be a positive integer, got 0"), (4, 1.5, r"probability must be in \[0, 1\], got 1\.5"),
])  # fmt: skip
def test_links_that_cannot_be_drawn(size, probability, message):
    with pytest.raises(ValueError, match=message):
        lossy_links(jax.random.key(0), size, probability)


@pytest.mark.slow
def test_a_sample_is_the_same_for_all_and_changes_with_round_and_key():
    rounds = [np.asarray(participants(step, 12, 4, key=0)) for step in range(30)]
    assert {int(chosen.sum()) for chosen in rounds} == {4}
    np.testing.assert_array_equal(sample_participants(7, 12, 4, key=0), rounds[7])
    assert len({chosen.tobytes() for chosen in rounds}) > 20
    assert np.all(np.sum(rounds, axis=0) > 0)
    assert np.any(participants(0, 12, 4, key=1) != rounds[0])


def test_who_is_not_alive_is_replaced_by_the_next_in_the_same_order():
    everyone, active = np.asarray(participants(3, 12, 4, key=0)), np.ones(12, bool)
    active[np.flatnonzero(everyone)[1]] = False
    chosen = np.asarray(participants(3, 12, 4, key=0, active=active))
    assert chosen.sum() == 4
    assert not np.any(chosen & ~active)
    assert np.sum(chosen & everyone) == 3
    assert np.asarray(participants(3, 12, 4, key=0, active=np.arange(12) < 2)).sum() == 2
    assert not np.any(participants(3, 12, 4, key=0, active=np.zeros(12, bool)))


@pytest.mark.slow
def test_the_mean_of_participants_goes_to_those_of_the_next_round():
    mixing, values = participation_mix(3, key=0), {"w": draw(8, 5), "count": np.arange(8)}
    senders, receivers = (np.asarray(participants(step, 8, 3, key=0)) for step in (5, 6))
    mixed = simulate(mixing, values, step=5)
    expected = np.where(receivers[:, None], values["w"][senders].mean(axis=0), values["w"])
    np.testing.assert_allclose(mixed["w"], expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(mixed["count"], values["count"])


def test_silent_workers_neither_count_nor_hear_and_their_nan_does_not_spread():
    active, values = np.arange(8) % 2 == 0, draw(8, 5)
    values[1::2] = np.nan
    mixed = simulate(participation_mix(8, key=0), values, links=links_among(active))
    np.testing.assert_allclose(mixed[::2], np.tile(values[::2].mean(axis=0), (4, 1)), rtol=0, atol=1e-6)
    assert np.all(np.isnan(mixed[1::2]))


def test_nobody_alive_leaves_everything_as_it_is():
    values = normal(8, 5)
    np.testing.assert_array_equal(simulate(participation_mix(3, key=0), values, links=jnp.zeros((8, 8), bool)), values)


@pytest.mark.slow
def test_participation_is_one_reduction_and_the_same_on_devices():
    mixing, values = participation_mix(3, key=0), normal(8, 5000)

    def one_worker(x):
        return mixing(x, complete(8), "workers", step=5)

    on_devices = optkit.on_workers(one_worker, axis_name="workers", backend="shard_map")
    np.testing.assert_allclose(on_devices(values), simulate(mixing, values, step=5), rtol=0, atol=1e-6)
    mesh = jax.make_mesh((8,), ("workers",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec("workers")
    lowered = jax.jit(jax.shard_map(one_worker, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)).lower(
        values
    )
    assert hlo.read(lowered.compile(), lowered).sent == {"all-reduce": 2 * 7 / 8 * 4 * 5000}


@pytest.mark.parametrize(("call", "message"), [
    (lambda: sample_participants(0, 0, 1, key=0), "size must be a positive integer, got 0"),
    (lambda: sample_participants(0, 4, 0, key=0), "count must be a positive integer, got 0"),
    (lambda: sample_participants(0, 4, 5, key=0), "count must be at most the number of workers, 4, got 5"),
    (lambda: participation_mix(0, key=0), "count must be a positive integer, got 0"),
    (lambda: simulate(participation_mix(9, key=0), normal(8)), "at most the number of workers, 8, got 9"),
    (
        lambda: jax.vmap(lambda x: participation_mix(2, key=0)(x, ring(8), "workers"), axis_name="workers")(normal(8)),
        "participation_mix needs a topology that joins all workers",
    ),
    (lambda: simulate(participation_mix(2, key=0), normal(5)), "joins 8 workers, but the axis 'workers' has 5"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_covariance_is_that_of_all_values_in_a_row():
    tree = {"w": normal(8, 3, 2), "b": (normal(8, 4, seed=1), None), "count": jnp.arange(8)}
    rows = np.concatenate([np.asarray(tree["w"]).reshape(8, -1), np.asarray(tree["b"][0])], axis=1)
    expected = np.trace(np.cov(rows, rowvar=False, bias=True))
    measure = lambda x: (consensus_covariance_trace(x, "workers"), consensus_distance(x, "workers"))  # noqa: E731
    trace, distance = jax.jit(jax.vmap(measure, axis_name="workers"))(tree)
    np.testing.assert_allclose(trace, np.full(8, expected), rtol=1e-12)
    np.testing.assert_allclose(distance, np.full(8, np.sqrt(expected)), rtol=1e-12)


@pytest.mark.slow
def test_distances_are_in_single_precision_at_least_and_nothing_has_none():
    distance = jax.jit(jax.vmap(lambda x: consensus_distance(x, "workers"), axis_name="workers"))
    values = np.asarray([100.0, 101.0], jnp.bfloat16)
    assert distance(values).dtype == jnp.float32
    np.testing.assert_array_equal(distance(values), 0.5 * np.ones(2))
    np.testing.assert_array_equal(distance({"count": jnp.arange(3)}), np.zeros(3))
