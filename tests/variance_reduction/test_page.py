import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import assert_replays, replays
from trajectories import descend

import optkit
from optkit.testing import golden
from optkit.variance_reduction._page import PageGradientState, page_estimate


def page_with_given_coins(learning_rate, probability):
    """PAGE, with the coin as an extra argument of `update`."""
    tx = optkit.page_gradient(probability)

    def update(updates, state, params, *, coin, grad_fn, full_grad_fn, **extra_args):
        del extra_args
        estimate = page_estimate(
            coin,
            state,
            probability,
            lambda: full_grad_fn(params),
            updates,
            lambda: grad_fn(state.previous_params),
        )
        return estimate, PageGradientState(state.count + 1, estimate, params, state.key)

    estimator = optax.GradientTransformationExtraArgs(tx.init, update)
    return optax.chain(estimator, optax.scale_by_learning_rate(learning_rate))


def replay(recording):
    tx = page_with_given_coins(recording.hyperparams["learning_rate"], recording.hyperparams["p"])
    return golden.replay_oracle(tx, recording, extra_args={"coin": recording.arrays["draws.coin"]})


@pytest.mark.slow
@replays("page")
def test_golden_page(recording):
    assert_replays(recording, replay(recording))


def recorded_page(path):
    """Writes a recording of PAGE as the golden files have them, with a loop that shares nothing with ours.

    So `tests/golden/page__loop.npz` was made.
    """
    rng = np.random.default_rng(5)
    components, steps, rate, probability = 6, 20, 0.1, 0.3
    shapes = {"w": (3, 2), "s": ()}
    arrays = {"curv": rng.uniform(0.5, 1.5, components)}
    arrays["draws.index"] = rng.integers(components, size=steps)
    arrays["draws.coin"] = np.concatenate([[0.9], rng.uniform(size=steps - 1)])
    for leaf, shape in shapes.items():
        size = int(np.prod(shape))
        root = rng.standard_normal((size, size))
        arrays |= {
            f"params0.{leaf}": rng.standard_normal(shape),
            f"A.{leaf}": root @ root.T / size + np.eye(size),
            f"b.{leaf}": rng.standard_normal(shape),
            f"noise.{leaf}": rng.standard_normal((components, *shape)),
        }

    def gradient(x, leaf, i):
        product = (arrays[f"A.{leaf}"] @ x.reshape(-1)).reshape(x.shape)
        return arrays["curv"][i] * product - arrays[f"b.{leaf}"] - arrays[f"noise.{leaf}"][i]

    for leaf in shapes:
        x = previous = arrays[f"params0.{leaf}"]
        estimate, trajectory = None, []
        for t in range(steps):
            i = arrays["draws.index"][t]
            if t == 0 or arrays["draws.coin"][t] < probability:
                estimate = sum(gradient(x, leaf, j) for j in range(components)) / components
            else:
                estimate = estimate + gradient(x, leaf, i) - gradient(previous, leaf, i)
            previous, x = x, x - rate * estimate
            trajectory.append(x)
        arrays[f"params.{leaf}"] = np.array(trajectory)
    meta = {
        "method": "page",
        "kind": "oracle",
        "source": "transcription of the paper (own NumPy): recorded_page in tests/variance_reduction/test_page.py",
        "hyperparams": {"learning_rate": rate, "p": probability},
        "dtype": "float64",
        "rtol": 1e-10,
        "notes": "gradient of component i: curv[i] A x - b - noise[i]; the estimate begins anew where draws.coin < p.",
    }
    np.savez_compressed(path, meta=json.dumps(meta), **arrays)


@pytest.mark.usefixtures("x64")
def test_replays_a_recording_of_an_independent_loop(tmp_path):
    path = tmp_path / "page__loop.npz"
    recorded_page(path)
    recording = golden.read(path)
    assert_replays(recording, replay(recording))


TARGETS = np.random.default_rng(0).standard_normal((4, 3))
CURVATURES = np.array([0.5, 1.0, 1.5, 2.0])


def full_gradient(params):
    return jnp.mean(jnp.asarray(CURVATURES)[:, None] * (params - jnp.asarray(TARGETS)), axis=0)


def train(tx, steps):
    """Returns the estimates and the full gradients of all steps."""

    def gradient(params, component):
        return jnp.asarray(CURVATURES)[component] * (params - jnp.asarray(TARGETS)[component])

    start, components = jnp.ones(3), np.random.default_rng(1).integers(4, size=steps)
    params, _, states = descend(tx, gradient, start, components, full_grad_fn=full_gradient)
    before = jnp.concatenate([start[None], params[:-1]])
    return states[0].estimate, jax.vmap(full_gradient)(before)


def was_full(probability, steps, key=0):
    """Says in which steps the estimate was the full gradient."""
    estimates, full_gradients = train(optkit.page(0.003, probability, key), steps)
    return np.all(np.isclose(estimates, full_gradients, rtol=1e-10, atol=0), axis=1)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_with_probability_one_is_gradient_descent():
    estimates, full_gradients = train(optkit.page(0.1, 1.0), 10)
    np.testing.assert_allclose(estimates, full_gradients, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_first_step_is_always_full():
    np.testing.assert_array_equal(was_full(0.0, 10), [True] + [False] * 9)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_full_gradients_come_as_often_as_the_probability_says():
    share = np.mean(was_full(0.3, 1000))
    assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 1000)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_key_says_where_they_come():
    first, again, other = (was_full(0.3, 50, key) for key in (1, jax.random.key(1), 2))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_a_probability_outside_its_range_is_named():
    with pytest.raises(ValueError, match=r"probability must be in \[0, 1\], got 1.5"):
        optkit.page(0.1, 1.5)
