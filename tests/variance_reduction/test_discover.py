import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal, normal_like

import optkit
from optkit.testing import check_transformation

CLUSTERS = 3
PROBABILITIES = (0.5, 0.3, 0.2)
PARAMS = {"a": jnp.zeros(4), "b": jnp.zeros((2, 2)), "none": None}
# Options of both forms, under which their promises are checked.
OPTIONS = {
    "given": {"probabilities": PROBABILITIES},
    "running": {},
    "inverse": {"probabilities": PROBABILITIES, "inverse_probability": True},
    "running inverse": {"inverse_probability": True},
}
options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def visited(tx, ids, seed=0):
    """The state after batches of one cluster each."""
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    for step, cluster in enumerate(ids):
        state = update(normal_like(PARAMS, seed + step), state, PARAMS, cluster_id=cluster)[1]
    return state


def mixed_run(tx, steps=8, seed=0):
    """Estimates and states of batches that mix clusters, some of which are absent, with shares and counts."""
    state, update, results = tx.init(PARAMS), jax.jit(tx.update), []
    for step in range(steps):
        counts = np.random.default_rng(seed + step).integers(4, size=CLUSTERS, dtype=np.int32)
        counts[step % CLUSTERS] += 1
        weights = (counts / np.sum(counts)).astype(np.float32)
        gradients = normal_like(PARAMS, seed + step, rows=(CLUSTERS,))
        shares = jax.tree.map(lambda g, weights=weights: (np.asarray(g).T * weights).T, gradients)
        estimate, state = update(shares, state, PARAMS, class_counts=counts)
        results.append((estimate, state, shares, counts))
    return results


def close(actual, expected, atol=1e-5):
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=atol)


@options
def test_estimate_is_unbiased(options):
    tx = optkit.scale_by_cluster_control_variate(CLUSTERS, 0.3, **options)
    state = visited(tx, [0, 1, 2, 0, 0, 1, 0])
    weights = PROBABILITIES if state.frequencies is None else state.frequencies
    gradients = [normal_like(PARAMS, 100 + cluster) for cluster in range(CLUSTERS)]
    update = jax.jit(tx.update)
    estimates = [update(g, state, PARAMS, cluster_id=cluster)[0] for cluster, g in enumerate(gradients)]
    mean = lambda trees: jax.tree.map(lambda *xs: np.tensordot(np.asarray(weights), np.stack(xs), 1), *trees)  # noqa: E731
    close(mean(estimates), mean(gradients))


def test_clusters_without_noise_inside_leave_none():
    tx = optkit.scale_by_cluster_control_variate(CLUSTERS, 1.0, probabilities=PROBABILITIES)
    gradients = [normal_like(PARAMS, cluster) for cluster in range(CLUSTERS)]
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    for cluster in (2, 0, 1):
        state = update(gradients[cluster], state, PARAMS, cluster_id=cluster)[1]
    whole = jax.tree.map(lambda *xs: sum(p * x for p, x in zip(PROBABILITIES, xs, strict=True)), *gradients)
    for cluster in range(CLUSTERS):
        close(update(gradients[cluster], state, PARAMS, cluster_id=cluster)[0], whole)


@options
def test_rows_of_one_cluster_each_are_the_same_as_its_id(options):
    by_id = optkit.scale_by_cluster_control_variate(CLUSTERS, 0.3, **options)
    by_rows = optkit.cluster_control_variate(CLUSTERS, 0.3, **options)
    state, row_state = by_id.init(PARAMS), by_rows.init(PARAMS)
    update, row_update = jax.jit(by_id.update), jax.jit(by_rows.update)
    for step, cluster in enumerate([0, 2, 2, 1, 0, 1, 1]):
        gradient = normal_like(PARAMS, step)
        only = np.arange(CLUSTERS, dtype=np.int32) == cluster
        rows = jax.tree.map(lambda g, only=only: np.multiply.outer(only, g).astype(np.float32), gradient)
        estimate, state = update(gradient, state, PARAMS, cluster_id=cluster)
        row_estimate, row_state = row_update(rows, row_state, PARAMS, class_counts=5 * only.astype(np.int32))
        close(row_estimate, estimate)
        close(row_state, state)


@options
def test_mean_is_that_of_the_momenta(options):
    def weighted_mean(state):
        weights = np.asarray(PROBABILITIES if state.frequencies is None else state.frequencies)
        return jax.tree.map(lambda m: np.tensordot(weights, m, 1), state.momenta)

    state = visited(optkit.scale_by_cluster_control_variate(CLUSTERS, 0.3, **options), [0, 2, 2, 1, 0, 1, 1])
    close(state.mean, weighted_mean(state))
    for _, state, _, _ in mixed_run(optkit.cluster_control_variate(CLUSTERS, 0.3, **options)):
        close(state.mean, weighted_mean(state))


def test_mixed_batches_follow_the_rule():
    momenta = np.zeros((CLUSTERS, 4))
    for estimate, state, shares, counts in mixed_run(optkit.cluster_control_variate(CLUSTERS, 0.3, PROBABILITIES)):
        fractions, shares_of_a = np.asarray(counts) / np.sum(counts), np.asarray(shares["a"])
        expected = np.sum(shares_of_a, 0) - fractions @ momenta + np.asarray(PROBABILITIES) @ momenta
        close(estimate["a"], expected)
        for k in np.flatnonzero(counts):
            momenta[k] = 0.7 * momenta[k] + 0.3 * shares_of_a[k] / fractions[k]
        close(state.momenta["a"], momenta)


def test_batches_as_mixed_as_the_data_are_left_alone():
    tx = optkit.cluster_control_variate(CLUSTERS, 0.3, PROBABILITIES)
    state = mixed_run(tx)[-1][1]
    shares = normal_like(PARAMS, 7, rows=(CLUSTERS,))
    estimate, _ = tx.update(shares, state, PARAMS, class_counts=jnp.array([5, 3, 2]))
    close(estimate, jax.tree.map(lambda s: jnp.sum(s, 0), shares))


def test_a_batch_without_examples_gives_the_mean():
    tx = optkit.cluster_control_variate(CLUSTERS, 0.3, PROBABILITIES)
    state = mixed_run(tx)[-1][1]
    nothing = jax.tree.map(jnp.zeros_like, state.momenta)
    estimate, after = tx.update(nothing, state, PARAMS, class_counts=jnp.zeros(CLUSTERS, jnp.int32))
    close(estimate, state.mean)
    close(after.momenta, state.momenta)


def test_frequencies_count_one_visit_of_each_cluster_before_the_first():
    state = visited(optkit.scale_by_cluster_control_variate(CLUSTERS), [0, 0, 2, 0])
    np.testing.assert_allclose(state.frequencies, np.array([3 + 1, 0 + 1, 1 + 1]) / (4 + 3), rtol=1e-6)


def test_only_the_cluster_of_the_batch_learns():
    tx = optkit.scale_by_cluster_control_variate(CLUSTERS, 0.3)
    before = visited(tx, [0, 1, 2])
    _, after = tx.update(normal_like(PARAMS, 9), before, PARAMS, cluster_id=1)
    np.testing.assert_array_equal(after.momenta["a"][jnp.array([0, 2])], before.momenta["a"][jnp.array([0, 2])])
    close(after.momenta["a"][1], 0.7 * before.momenta["a"][1] + 0.3 * normal_like(PARAMS, 9)["a"])


def test_rare_clusters_learn_faster_on_request():
    tx = optkit.scale_by_cluster_control_variate(2, 0.2, (0.9, 0.1), inverse_probability=True)
    ones = jnp.ones(1)
    _, state = tx.update(ones, tx.init(ones), cluster_id=0)
    _, state = tx.update(ones, state, cluster_id=1)
    np.testing.assert_allclose(state.momenta[:, 0], [0.2 / 0.9, 1.0], rtol=1e-6)


def test_state_without_running_frequencies_has_none():
    state = optkit.cluster_control_variate(CLUSTERS, probabilities=PROBABILITIES).init(PARAMS)
    assert state.frequencies is None
    assert state.count is None
    assert state.momenta["b"].shape == (CLUSTERS, 2, 2)


@pytest.mark.parametrize("cluster_id", [-1, CLUSTERS])
def test_an_id_out_of_range_raises_where_it_is_known(cluster_id):
    tx = optkit.scale_by_cluster_control_variate(CLUSTERS)
    with pytest.raises(ValueError, match=rf"cluster_id must be in \[0, 2\], got {cluster_id}"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS, cluster_id=cluster_id)


@pytest.mark.parametrize("cluster_id", [-1, CLUSTERS])
@options
def test_a_traced_id_out_of_range_makes_the_update_nan(options, cluster_id):
    tx = optkit.scale_by_cluster_control_variate(CLUSTERS, **options)
    updates, _ = jax.jit(tx.update)(PARAMS, tx.init(PARAMS), PARAMS, cluster_id=jnp.int32(cluster_id))
    assert all(jnp.all(jnp.isnan(u)) for u in jax.tree.leaves(updates))


@pytest.mark.parametrize(
    ("tx", "name"),
    [
        (optkit.scale_by_cluster_control_variate(2), "cluster_id"),
        (optkit.cluster_control_variate(2), "class_counts"),
        (optkit.discover(0.1, 2), "class_counts"),
        (optkit.discover_igt(0.1, 2), "class_counts"),
    ],
)
def test_missing_extra_argument(tx, name):
    rows = jnp.zeros((2, 3))
    with pytest.raises(
        TypeError, match=rf"needs the extra argument {name}: call update\(grads, state, params, {name}="
    ):
        tx.update(rows, tx.init(rows[0]), rows[0])


@pytest.mark.parametrize(("gradients", "counts"), [(4, 4), (4, 3), (3, 4)])
def test_rows_must_be_clusters(gradients, counts):
    tx = optkit.discover(0.1, CLUSTERS)
    with pytest.raises(ValueError, match=r"num_clusters is 3: gradients and class_counts need as many rows, got \["):
        tx.update(jnp.zeros((gradients, 2)), tx.init(jnp.zeros(2)), jnp.zeros(2), class_counts=jnp.zeros(counts))


def discover_run(tx):
    """The updates of some mixed batches."""
    return [estimate for estimate, *_ in mixed_run(tx)]


def test_no_weight_on_the_momentum_is_none():
    expected = discover_run(optkit.discover(0.1, CLUSTERS, momentum=None))
    close(discover_run(optkit.discover(0.1, CLUSTERS, nu=0.0)), expected)


def test_all_weight_on_the_momentum_is_heavy_ball_at_another_rate():
    heavy_ball = discover_run(optkit.discover(0.1 * (1 - 0.8), CLUSTERS, momentum=0.8))
    close(discover_run(optkit.discover(0.1, CLUSTERS, momentum=0.8, nu=1.0)), heavy_ball)


def test_momentum_is_that_of_sgd_on_the_estimate():
    chain = optax.chain(optkit.cluster_control_variate(CLUSTERS), optax.sgd(0.1, momentum=0.8))
    close(discover_run(optkit.discover(0.1, CLUSTERS, momentum=0.8)), discover_run(chain))


def in_turn(learning_rate, **arguments):
    """Gives each batch to the next cluster, whose ids the contract does not know."""
    part = optkit.scale_by_cluster_control_variate(CLUSTERS, **arguments)
    tx = optax.chain(part, optax.sgd(learning_rate))

    def init(params):
        return jnp.zeros([], jnp.int32), tx.init(params)

    def update(updates, state, params=None, **extra_args):
        count, inner_state = state
        updates, inner_state = tx.update(updates, inner_state, params, cluster_id=count % CLUSTERS, **extra_args)
        return updates, (optax.safe_increment(count), inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


@pytest.mark.slow
@pytest.mark.parametrize("probabilities", [None, PROBABILITIES])
def test_one_cluster_a_batch_keeps_the_contract(probabilities):
    promises = ["keeps_types", "takes_all_shapes", "works_masked", "works_sharded_explicitly"]
    check_transformation(
        in_turn,
        promises=promises,
        static_args=["probabilities"],
        learning_rate=1e-2,
        probabilities=probabilities,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_clusters": 0}, r"num_clusters must be in \[1, inf\], got 0"),
        ({"alpha": 0.0}, r"alpha must be in \(0, 1\], got 0.0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"nu": 1.5}, r"nu must be in \[0, 1\], got 1.5"),
        ({"nu": 0.5, "momentum": None}, r"nu is the weight of a momentum: momentum must be a number in \[0, 1\)"),
        ({"probabilities": (0.5, 0.5)}, r"probabilities must have one number for each of 3 clusters.*\(2,\)"),
        ({"probabilities": (0.5, 0.5, 0.5)}, r"the sum of probabilities must be in \[0.999, 1.001\], got 1.5"),
        ({"probabilities": (-0.5, 0.5, 1.0)}, r"probabilities must be in \[0, 1\]"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        optkit.discover(0.1, **{"num_clusters": CLUSTERS, **arguments})


def test_bad_decay_of_discover_igt():
    with pytest.raises(ValueError, match=r"b1 must be in \[0, 1\), got 1.0"):
        optkit.discover_igt(0.1, CLUSTERS, b1=1.0)


@pytest.mark.parametrize("build", [optkit.discover, optkit.discover_igt], ids=lambda build: build.__name__)
def test_the_number_of_clusters_is_static(build):
    with pytest.raises(TypeError, match=r"num_clusters cannot be an array.*static_args"):
        optax.inject_hyperparams(build)(0.1, num_clusters=3).init(PARAMS)
    optkit.inject_hyperparams(build)(0.1, num_clusters=3, probabilities=(0.2, 0.3, 0.5)).init(PARAMS)


@pytest.mark.parametrize("build", [optkit.discover, optkit.discover_igt], ids=lambda build: build.__name__)
def test_errors_name_the_optimizer(build):
    tx = build(0.1, num_clusters=2)
    params = {"kernel": jnp.ones((3, 4)), "scale": jnp.ones(())}
    with pytest.raises(TypeError, match=f"{build.__name__} needs the extra argument class_counts"):
        tx.update(params, tx.init(params), params)
    with pytest.raises(ValueError, match=f"{build.__name__} takes gradients with a leading axis over clusters"):
        tx.update(params, tx.init(params), params, class_counts=jnp.array([1, 1]))


@pytest.mark.slow
def test_complex_gradients_are_two_real_ones():
    rows = np.asarray(normal(3, 2, 4))
    tx = optkit.discover(0.1, num_clusters=3)

    @jax.jit
    def moved(rows):
        state = tx.init(rows[0])
        for _ in range(2):
            updates, state = tx.update(rows, state, rows[0], class_counts=jnp.array([2, 0, 1]))
        return updates, state[0].frequencies

    together, frequencies = moved(rows[:, 0] + np.complex64(1j) * rows[:, 1])
    real, imaginary = (np.asarray(moved(rows[:, part])[0]) for part in range(2))
    np.testing.assert_allclose(together, real + 1j * imaginary, rtol=1e-5)
    assert frequencies.dtype == jnp.float32
