import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal, normal_like
from golden_files import replays
from promises import assert_rows_are_workers
from trajectories import last, trajectory

import optkit
from optkit.testing import check_transformation, golden

PARAMS = {"kernel": jnp.zeros((3, 40)), "bias": jnp.zeros(5)}


def rows(seed=0, parts=4, mean=0.1):
    return jax.tree.map(lambda noise: mean + np.asarray(noise), normal_like(PARAMS, seed, rows=(parts,)))


def measure(tx, gradients, params):
    """The states after each step."""
    return trajectory(tx, gradients, params).states


@functools.partial(jax.jit, static_argnums=0)
def first_step(tx, gradients):
    """The update and the state after one step along gradients with rows."""
    return tx.update(gradients, tx.init(jax.tree.map(lambda g: g[0], gradients)))


@pytest.mark.slow
@replays("gradient_noise_scale")
def test_golden_gradient_noise_scale(recording):
    hyperparams, rtol = recording.hyperparams, recording.meta["rtol"]
    gradients = jax.tree.map(jnp.asarray, recording.tree("grads"))
    assert hyperparams["n_workers"] == next(iter(gradients.values())).shape[1]
    params = jax.tree.map(lambda g: g[0, 0], gradients)

    def estimates(decay):
        return measure(optkit.gradient_noise_scale(hyperparams["batch_size_small"], decay), gradients, params)

    raw, averaged = estimates(0.0), estimates(hyperparams["ema"])
    ours = {
        "g2": raw.squared_norm,
        "s": raw.noise_trace,
        "ema_g2": averaged.squared_norm,
        "ema_s": averaged.noise_trace,
        "b_simple": jax.vmap(optkit.read_noise_scale)(averaged),
    }
    assert all(golden.deviation(x, recording.arrays[f"expected.{name}"]) <= rtol for name, x in ours.items())


@pytest.mark.slow
def test_outputs_the_mean_gradient():
    updates, _ = first_step(optkit.gradient_noise_scale(8), rows())
    jax.tree.map(lambda u, g: np.testing.assert_allclose(u, g.mean(0), rtol=1e-5), updates, rows())


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_estimates_are_those_of_two_batch_sizes():
    gradients, small, parts = np.random.default_rng(0).standard_normal((4, 30)), 8, 4
    _, state = first_step(optkit.gradient_noise_scale(small), gradients)
    mean_of_norms, norm_of_mean = (gradients**2).sum(1).mean(), (gradients.mean(0) ** 2).sum()
    big = parts * small
    np.testing.assert_allclose(
        state.squared_norm, (big * norm_of_mean - small * mean_of_norms) / (big - small), rtol=1e-12
    )
    np.testing.assert_allclose(state.noise_trace, (mean_of_norms - norm_of_mean) / (1 / small - 1 / big), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_averages_are_exponential_without_bias():
    values = [(1.0, 3.0), (2.0, 5.0), (0.0, 1.0)]
    gradients = jnp.asarray(values)[:, :, None]  # of two samples each
    states = measure(optkit.gradient_noise_scale(1, decay=0.9), gradients, jnp.zeros(1))
    traces = [np.var(pair, ddof=1) for pair in values]
    expected = [np.average(traces[:n], weights=0.9 ** np.arange(n)[::-1]) for n in (1, 2, 3)]
    np.testing.assert_allclose(states.noise_trace, expected, rtol=1e-12)


def test_reads_a_ratio_of_averages_not_an_average_of_ratios():
    gradients = jnp.array([[[1.0], [3.0]], [[10.0], [11.0]]])
    states = measure(optkit.gradient_noise_scale(1, decay=0.5), gradients, jnp.zeros(1))
    np.testing.assert_allclose(
        jax.vmap(optkit.read_noise_scale)(states)[-1], states.noise_trace[-1] / states.squared_norm[-1], rtol=1e-6
    )


NOISE_SCALE = optkit.gradient_noise_scale(1)


def read(gradients):
    return optkit.read_noise_scale(first_step(NOISE_SCALE, gradients)[1])


def test_reads_zero_before_the_first_estimate_and_without_noise():
    assert optkit.read_noise_scale(optkit.gradient_noise_scale(1).init(PARAMS)) == 0
    assert read(jnp.ones((4, 3))) == 0
    assert read(jnp.zeros((4, 3))) == 0


@pytest.mark.slow
def test_reads_a_finite_number_where_all_is_noise():
    opposite = jnp.array([[1.0], [-1.0]])
    assert read(opposite) == np.finfo(np.float32).max


def test_reads_from_a_chain():
    tx = optax.chain(optkit.gradient_noise_scale(1), optax.adam(0.1))
    _, state = first_step(tx, rows())
    np.testing.assert_array_equal(optkit.read_noise_scale(state), optkit.read_noise_scale(state[0]))


@pytest.mark.parametrize(
    ("count", "tx"), [(0, optax.sgd(0.1)), (2, optax.chain(*[optkit.gradient_noise_scale(1)] * 2))]
)
def test_reading_from_other_states_raises(count, tx):
    with pytest.raises(ValueError, match=f"that of one gradient_noise_scale, got {count}"):
        optkit.read_noise_scale(tx.init(PARAMS))


def test_workers_and_microbatches_give_the_same():
    assert_rows_are_workers(functools.partial(optkit.gradient_noise_scale, 8), [rows()], PARAMS)


def momentum_over_workers(learning_rate, axis_name="workers"):
    return optax.chain(optkit.gradient_noise_scale(8, axis_name=axis_name), optax.sgd(learning_rate, 0.9))


@pytest.mark.slow
def test_keeps_the_contract_over_workers():
    check_transformation(
        momentum_over_workers,
        needs=("axis_name",),
        promises=["keeps_types", "agrees_between_backends"],
        learning_rate=1e-2,
    )


def test_sends_one_number_beside_the_gradient():
    def data_parallel(updates, params):
        del params
        return jax.lax.pmean(updates, "workers")

    plain, ours = (
        optkit.cost(tx, jnp.zeros(1000), axis_name="workers", axis_size=4)
        for tx in (optax.stateless(data_parallel), optkit.gradient_noise_scale(8, axis_name="workers"))
    )
    (before,), (now,) = (cost.sent.values() for cost in (plain, ours))
    assert now - before == before / 1000


@pytest.mark.slow
def test_consecutive_steps_without_motion_are_microbatches():
    gradients = rows(parts=6)
    over_steps = measure(optkit.gradient_noise_scale_over_steps(8, window=6), gradients, PARAMS)
    _, state = first_step(optkit.gradient_noise_scale(8), gradients)
    np.testing.assert_allclose(over_steps.noise_scale.count, [0, 0, 0, 0, 0, 1])
    np.testing.assert_allclose(over_steps.noise_scale.noise_trace[-1], state.noise_trace, rtol=1e-5)
    np.testing.assert_allclose(over_steps.noise_scale.squared_norm[-1], state.squared_norm, rtol=1e-4)


def test_windows_do_not_overlap():
    gradients = rows(parts=6)
    twice = measure(optkit.gradient_noise_scale_over_steps(8, window=3, decay=0.0), gradients, PARAMS)
    last = jax.tree.map(lambda g: g[3:], gradients)
    once = measure(optkit.gradient_noise_scale_over_steps(8, window=3, decay=0.0), last, PARAMS)
    assert twice.noise_scale.count[-1] == 2
    np.testing.assert_array_equal(twice.noise_scale.noise_trace[-1], once.noise_scale.noise_trace[-1])


def test_over_steps_passes_gradients_unchanged():
    gradient = jax.tree.map(lambda g: g[0], rows())
    tx = optkit.gradient_noise_scale_over_steps(8)
    updates, _ = jax.jit(tx.update)(gradient, tx.init(PARAMS))
    jax.tree.map(np.testing.assert_array_equal, updates, gradient)


def test_one_part_raises():
    tx = optkit.gradient_noise_scale(8)
    with pytest.raises(ValueError, match="needs at least 2 of them, got 1"):
        tx.update(rows(parts=1), tx.init(PARAMS))


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        (optkit.gradient_noise_scale, {"batch_size_small": 0}, r"batch_size_small must be in \[1, inf\], got 0"),
        (optkit.gradient_noise_scale, {"batch_size_small": 1, "decay": 1.0}, r"decay must be in \[0, 1\), got 1.0"),
        (optkit.gradient_noise_scale_over_steps, {"batch_size": 0}, r"batch_size must be in \[1, inf\], got 0"),
        (
            optkit.gradient_noise_scale_over_steps,
            {"batch_size": 1, "window": 1},
            r"window must be in \[2, inf\], got 1",
        ),
    ],
)
def test_wrong_arguments_raise(factory, arguments, message):
    with pytest.raises(ValueError, match=message):
        factory(**arguments)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_bad_gradient_is_not_read_as_no_noise(bad):
    tx = optkit.gradient_noise_scale(8)
    gradients = np.array([[bad, 1, 1], [1, 1, 1]], np.float32)
    _, state = first_step(tx, gradients)
    assert np.isnan(optkit.read_noise_scale(state))


def test_a_window_may_be_injected():
    gradients = normal(9, 3)

    def measured(tx):
        return optkit.read_noise_scale(last(trajectory(tx, gradients).states))

    plain = measured(optkit.gradient_noise_scale_over_steps(8, window=3))
    injected = measured(optax.inject_hyperparams(optkit.gradient_noise_scale_over_steps)(8, window=3))
    np.testing.assert_allclose(injected, plain, rtol=1e-6)


@pytest.mark.slow
def test_complex_gradients_are_as_noisy_as_their_parts():
    parts = np.asarray(normal(4, 2, 5))
    tx = optkit.gradient_noise_scale(8)
    _, apart = first_step(tx, parts)
    _, together = first_step(tx, parts[:, 0] + np.complex64(1j) * parts[:, 1])
    np.testing.assert_allclose(optkit.read_noise_scale(together), optkit.read_noise_scale(apart), rtol=1e-5)
    assert together.noise_trace.dtype == jnp.float32


@pytest.mark.parametrize(
    "gradients", [{"a": jnp.ones((2, 3)), "b": jnp.ones(3)}, {"a": jnp.ones(())}], ids=["means", "scalars"]
)
def test_gradients_without_rows_are_said_to_be_so(gradients):
    tx = optkit.gradient_noise_scale(8)
    with pytest.raises(ValueError, match="gradient_noise_scale takes gradients with a leading axis"):
        tx.update(gradients, tx.init(gradients), gradients)


@pytest.mark.slow
def test_counts_are_converted_where_dtypes_are_not_promoted():
    tx = optkit.gradient_noise_scale_over_steps(8, window=2)
    with jax.numpy_dtype_promotion("strict"):
        _, state = jax.eval_shape(tx.update, jnp.ones(3), jax.eval_shape(tx.init, jnp.ones(3)))
        jax.eval_shape(tx.update, jnp.ones(3), state)
