import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal, normal_like
from golden_files import replays
from promises import assert_refuses_complex_parameters, assert_rows_are_workers

import optkit
from optkit.core.workers.rows import over_rows
from optkit.testing import check_transformation, golden
from optkit.variance_reduction import _adaptive_batch_size as batch_size

LARGEST = 2**30
PARAMS = {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(5)}
TESTS = {
    "norm": optkit.norm_test,
    "inner product": optkit.inner_product_test,
    "global inner product": functools.partial(optkit.inner_product_test, scope="global"),
    "orthogonality": optkit.orthogonality_test,
    "global orthogonality": functools.partial(optkit.orthogonality_test, scope="global"),
    "augmented": optkit.augmented_inner_product_test,
    "coordinate": optkit.coordinate_test,
}
EACH_TEST = pytest.mark.parametrize("test", [make() for make in TESTS.values()], ids=TESTS)


def rows(seed=0, samples=8, mean=0.3):
    return jax.tree.map(lambda noise: np.asarray(mean + np.asarray(noise)), normal_like(PARAMS, seed, rows=(samples,)))


# The same for the same arguments, so that a test that asks twice compiles once.
adaptive_batch_size = functools.cache(optkit.adaptive_batch_size)


@functools.partial(jax.jit, static_argnums=0)
def first_step(tx, gradients, sample_counts=None):
    return tx.update(gradients, tx.init(None), sample_counts=sample_counts)


def ask(test, gradients, initial=1, maximum=LARGEST, sample_counts=None, **options):
    """What the first step asks for."""
    tx = adaptive_batch_size(test, initial, maximum, **options)
    return int(first_step(tx, gradients, sample_counts)[1].next_batch)


@pytest.mark.slow
@replays("batch_size_tests")
def test_golden_batch_size_tests(recording):
    hyperparams, expected, rtol = recording.hyperparams, recording.arrays, recording.meta["rtol"]
    gradients = jax.tree.map(jnp.asarray, recording.tree("grads"))
    eta, theta, nu, size, count = (hyperparams[name] for name in ("eta", "theta", "nu", "batch_size", "micro_batches"))

    def replay(test, gradients, *, per_sample=False):
        """For each recorded step the next batch, the test's value before it is rounded, and the squared norm."""
        tx = optkit.adaptive_batch_size(test, size, LARGEST, per_sample=per_sample)
        see = batch_size._samples_in_parts if per_sample else batch_size._samples_in_rows
        value = over_rows(lambda row, axis_name: test(see(row, None, axis_name)), None)

        def step(gradients):
            mean, state = tx.update(gradients, tx.init(None))
            return state.next_batch, value(gradients), optax.tree.norm(mean, squared=True)

        return jax.jit(jax.vmap(step))(gradients)

    def in_parts(g):
        return g.reshape(g.shape[0], count, g.shape[1] // count, *g.shape[2:])

    def assert_replays(name, scale_of, batches, values, squared_norms):
        """Compares with the recorded batches, and if there are any the variances, in their own units."""
        np.testing.assert_array_equal(batches, expected[f"expected.{name}.batch"])
        recorded_norms = expected.get(f"expected.{name}.grad_norm_sq", expected["expected.grad_norm_sq"])
        assert golden.deviation(squared_norms, recorded_norms) <= rtol
        if scale_of is not None:
            assert golden.deviation(values * scale_of(recorded_norms), expected[f"expected.{name}.var"]) <= rtol

    norm = optkit.norm_test(eta)
    assert_replays("norm", lambda square: eta**2 * square, *replay(norm, gradients))
    parts = jax.tree.map(in_parts, gradients)
    assert_replays("acc", lambda square: eta**2 * square, *replay(norm, parts, per_sample=True))
    inner_product, orthogonality = optkit.inner_product_test(theta), optkit.orthogonality_test(nu)
    assert_replays("ip", lambda square: (theta * square) ** 2, *replay(inner_product, gradients))
    assert_replays("orth", lambda square: nu**2 * square, *replay(orthogonality, gradients))
    assert_replays("aug", None, *replay(optkit.augmented_inner_product_test(theta, nu), gradients))


@pytest.mark.slow
def test_outputs_the_mean_gradient():
    updates, _ = first_step(optkit.adaptive_batch_size(optkit.norm_test(), 8, 64), rows())
    jax.tree.map(lambda u, g: np.testing.assert_allclose(u, g.mean(0), rtol=1e-5), updates, rows())


def as_matrix(tree):
    return np.concatenate([np.asarray(x, np.float64).reshape(len(x), -1) for x in jax.tree.leaves(tree)], axis=1)


def needed(name, gradients):
    """The definitions of the tests over the whole vector, with fractions of 0.1."""
    g = as_matrix(gradients)
    mean = g.mean(0)
    squared_norm = mean @ mean
    products = g @ mean
    return {
        "norm": g.var(0, ddof=1).sum() / squared_norm,
        "global inner product": products.var(ddof=1) / squared_norm**2,
        "global orthogonality": (g - np.outer(products, mean) / squared_norm).var(0, ddof=1).sum() / squared_norm,
        "coordinate": np.quantile(g.var(0, ddof=1) / mean**2, 0.9),
    }[name] / 0.1**2


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["norm", "global inner product", "global orthogonality", "coordinate"])
def test_asks_for_what_the_definition_says(name):
    gradients = jax.tree.map(lambda x: x.astype(np.float64), rows())
    assert ask(TESTS[name](), gradients) == np.ceil(needed(name, gradients))


@pytest.mark.parametrize("name", ["inner product", "orthogonality"])
def test_scopes_agree_on_one_leaf(name):
    gradients = rows()["kernel"]
    assert ask(TESTS[name](), gradients) == ask(TESTS[f"global {name}"](), gradients)


@pytest.mark.slow
def test_augmented_asks_for_the_larger_of_both():
    gradients = rows()
    both = [ask(TESTS[name](), gradients) for name in ("inner product", "orthogonality")]
    assert ask(optkit.augmented_inner_product_test(), gradients) == max(both)


@EACH_TEST
@pytest.mark.parametrize("scale", [1e-10, 1e12])
def test_does_not_depend_on_the_scale_of_the_loss(test, scale):
    expected = ask(test, rows())
    scaled = ask(test, jax.tree.map(lambda g: scale * g, rows()))
    np.testing.assert_allclose(scaled, expected, rtol=1e-4)


@EACH_TEST
def test_zero_gradients_ask_for_nothing(test):
    assert ask(test, optax.tree.zeros_like(rows()), initial=7) == 7


def test_noise_without_signal_asks_for_the_largest_batch():
    opposite = jnp.array([[1.0, 2.0], [-1.0, -2.0]])
    assert ask(optkit.norm_test(), opposite, maximum=512) == 512


def test_coordinates_without_signal_are_left_out():
    gradients = jnp.array([[1.0, 1.0], [3.0, -1.0]])
    assert ask(optkit.coordinate_test(1.0, quantile=1.0), gradients) == 1  # 2 / 2**2, rounded up


def test_nan_asks_for_nothing():
    assert ask(optkit.norm_test(), jnp.full((4, 3), jnp.nan), initial=5) == 5


@EACH_TEST
def test_trees_without_leaves_ask_for_nothing(test):
    assert ask(test, {}, initial=5) == 5


def test_never_falls_and_stops_at_the_maximum():
    tx = optkit.adaptive_batch_size(optkit.norm_test(0.5), 8, 30)
    update, state, seen = jax.jit(tx.update), tx.init(PARAMS), []
    for seed, mean in enumerate([1.0, 0.3, 3.0, 0.1, 5.0]):
        _, state = update(rows(seed, mean=mean), state)
        seen.append(int(state.next_batch))
    assert np.all(np.diff([8, *seen]) >= 0)
    assert len(set(seen)) > 2
    assert seen[-1] == 30
    assert state.next_batch.dtype == jnp.int32


def test_tests_every_interval_steps():
    tx = optkit.adaptive_batch_size(optkit.norm_test(), 1, LARGEST, interval=3)
    update, state, seen = jax.jit(tx.update), tx.init(PARAMS), []
    for seed in range(7):
        _, state = update(rows(seed, mean=1 / (1 + seed)), state)
        seen.append(int(state.next_batch))
    np.testing.assert_array_equal(np.flatnonzero(np.diff([1, *seen])), [0, 3, 6])


@pytest.mark.slow
def test_means_over_parts_measure_the_same_noise():
    samples = rows(samples=4000)
    of_samples = ask(optkit.norm_test(), samples)
    parts = jax.tree.map(lambda g: g.reshape(40, 100, *g.shape[1:]).mean(1), samples)
    np.testing.assert_allclose(ask(optkit.norm_test(), parts, sample_counts=np.full(40, 100)), of_samples, rtol=0.1)


@EACH_TEST
def test_rows_beyond_the_batch_do_not_count(test):
    counts = np.array([1, 1, 0, 1, 1, 1, 0, 1])
    padded = jax.tree.map(lambda g: np.where(counts.reshape(-1, *[1] * (g.ndim - 1)), g, np.nan), rows())
    present = jax.tree.map(lambda g: g[counts > 0], rows())
    tx = optkit.adaptive_batch_size(test, 1, LARGEST)
    ours, theirs = (
        jax.jit(tx.update)(gradients, tx.init(PARAMS), **counted)
        for gradients, counted in ((padded, {"sample_counts": counts}), (present, {}))
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), ours, theirs)


@pytest.mark.slow
def test_means_weigh_by_their_samples():
    samples = rows(samples=6)["kernel"]
    tx = optkit.adaptive_batch_size(optkit.norm_test(), 1, LARGEST)
    parts = np.stack([samples[:1].mean(0), samples[1:].mean(0)])
    updates, _ = first_step(tx, parts, np.array([1, 5]))
    np.testing.assert_allclose(updates, samples.mean(0), rtol=1e-5)


@pytest.mark.slow
def test_a_batch_that_grows_compiles_nothing_again():
    tx = optkit.adaptive_batch_size(optkit.norm_test(0.5), 2, 8)
    update, state = jax.jit(chex.assert_max_traces(tx.update, n=1)), tx.init(PARAMS)
    sizes = [2]
    for seed in range(3):
        counts = np.arange(8) < state.next_batch
        _, state = update(rows(seed), state, sample_counts=counts)
        sizes.append(int(state.next_batch))
    assert sizes[-1] == 8


@pytest.mark.slow
@EACH_TEST
@pytest.mark.parametrize("per_sample", [False, True])
def test_workers_and_microbatches_give_the_same(test, per_sample):
    gradients = rows(samples=8)
    if per_sample:
        gradients = jax.tree.map(lambda g: g.reshape(2, 4, *g.shape[1:]), gradients)
    build = functools.partial(optkit.adaptive_batch_size, test, 1, LARGEST, per_sample=per_sample)
    assert_rows_are_workers(build, [gradients], PARAMS)


def test_workers_count_their_own_samples():
    counts = np.array([3, 0, 1, 2, 2, 5, 1, 1])
    stacked, worker = (
        optkit.adaptive_batch_size(optkit.norm_test(), 1, LARGEST, axis_name=axis_name)
        for axis_name in (None, "workers")
    )
    update = optkit.on_workers(
        lambda gradient, count, state: worker.update(gradient, state, sample_counts=count),
        axis_name="workers",
        in_axes=(0, 0, None),
        out_axes=None,
        backend="vmap",
    )
    ours = jax.jit(stacked.update)(rows(), stacked.init(PARAMS), sample_counts=counts)
    theirs = update(rows(), counts, worker.init(PARAMS))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), ours, theirs)


def momentum_over_workers(learning_rate, axis_name="workers"):
    measure = optkit.adaptive_batch_size(optkit.norm_test(), 8, 4096, interval=2, axis_name=axis_name)
    return optax.chain(measure, optax.sgd(learning_rate, 0.9))


@pytest.mark.slow
def test_keeps_the_contract_over_workers():
    check_transformation(
        momentum_over_workers,
        needs=("axis_name",),
        promises=["keeps_types", "agrees_between_backends"],
        learning_rate=1e-2,
    )


@pytest.mark.parametrize(
    ("size", "options", "rounded"),
    [
        (1, {}, 1),
        (158, {}, 158),
        (158, {"multiple": 8}, 160),
        (160, {"multiple": 8}, 160),
        (5, {"power_of_two": True}, 8),
        (8, {"power_of_two": True}, 8),
        (1, {"power_of_two": True}, 1),
        (25, {"multiple": 12, "power_of_two": True}, 48),
        (LARGEST, {"power_of_two": True}, LARGEST),
    ],
)
def test_rounds_up(size, options, rounded):
    assert optkit.round_up_batch_size(size, **options) == rounded
    assert jax.jit(lambda n: optkit.round_up_batch_size(n, **options))(size) == rounded


def test_one_sample_raises():
    with pytest.raises(ValueError, match="needs at least 2 of them, got 1"):
        ask(optkit.norm_test(), rows(samples=1))


def test_sample_counts_of_samples_raise():
    with pytest.raises(ValueError, match="takes no sample_counts"):
        ask(optkit.norm_test(), jnp.ones((4, 2, 3)), sample_counts=jnp.ones(4), per_sample=True)


def test_parts_of_one_sample_raise():
    with pytest.raises(ValueError, match="at least 2 samples in each part, got 1"):
        ask(optkit.norm_test(), jnp.ones((4, 1, 3)), per_sample=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optkit.norm_test(0.0), r"eta must be in \(0, inf\], got 0.0"),
        (lambda: optkit.inner_product_test(-1.0), r"theta must be in \(0, inf\], got -1.0"),
        (lambda: optkit.orthogonality_test(0.0), r"nu must be in \(0, inf\], got 0.0"),
        (lambda: optkit.orthogonality_test(scope="layer"), "scope must be 'leaf' or 'global', got 'layer'"),
        (lambda: optkit.coordinate_test(quantile=0.0), r"quantile must be in \(0, 1\], got 0.0"),
        (lambda: optkit.adaptive_batch_size(optkit.norm_test(), 0, 8), "initial_batch_size must be in "),
        (lambda: optkit.adaptive_batch_size(optkit.norm_test(), 9, 8), "max_batch_size must be in "),
        (lambda: optkit.adaptive_batch_size(optkit.norm_test(), 1, 8, interval=0), "interval must be in "),
        (lambda: optkit.round_up_batch_size(3, 0), r"multiple must be in \[1, inf\], got 0"),
    ],
)
def test_wrong_arguments_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
def test_sizes_may_be_injected():
    gradients = normal(4, 3)
    build = optkit.inject_hyperparams(optkit.adaptive_batch_size)
    tx = build(optkit.norm_test(0.5), 2, 1024, interval=2)
    plain = optkit.adaptive_batch_size(optkit.norm_test(0.5), 2, 1024, interval=2)
    _, state = jax.jit(lambda gradients: tx.update(gradients, tx.init(gradients[0]), gradients[0]))(gradients)
    _, expected = first_step(plain, gradients)
    assert int(optax.tree.get(state, "next_batch")) == int(expected.next_batch) > 2


def test_a_test_passed_bare_to_injection_is_named():
    tx = optax.inject_hyperparams(optkit.adaptive_batch_size)(jnp.ones_like, 2, 1024)
    with pytest.raises(TypeError, match=r"test cannot be an array.*static_args"):
        tx.init(jnp.ones(3))


@pytest.mark.parametrize(
    "gradients", [{"a": jnp.ones((2, 3)), "b": jnp.ones(3)}, {"a": jnp.ones(())}], ids=["means", "scalars"]
)
def test_gradients_without_rows_are_said_to_be_so(gradients):
    tx = optkit.adaptive_batch_size(optkit.norm_test(0.5), 2, 1024)
    with pytest.raises(ValueError, match="adaptive_batch_size takes gradients with a leading axis"):
        tx.update(gradients, tx.init(gradients), gradients)


def test_complex_parameters_are_refused():
    tx = optkit.adaptive_batch_size(optkit.norm_test(0.5), 2, 1024)
    assert_refuses_complex_parameters(tx, "adaptive_batch_size", "as two leaves")


def test_a_bad_gradient_changes_no_batch_size_and_is_seen():
    tx = optkit.adaptive_batch_size(optkit.norm_test(0.5), 2, 1024)
    gradients = np.ones((4, 3), np.float32)
    for bad in (np.nan, np.inf):
        gradients[1, 0] = bad
        mean, state = first_step(tx, gradients)
        assert not np.isfinite(mean[0])
        assert int(state.next_batch) == 2
