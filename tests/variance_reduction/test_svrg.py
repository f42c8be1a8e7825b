import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import assert_replays, replays
from trajectories import descend

import optkit
from optkit.core.workers import collectives
from optkit.core.workers.on_workers import on_workers
from optkit.testing.golden import replay_oracle

DATA = np.random.default_rng(0).standard_normal((6, 3))


@pytest.mark.slow
@replays("svrg")
def test_golden_svrg(recording):
    tx = optkit.svrg(**recording.hyperparams.take("learning_rate", "anchor_every", alpha="coefficient"))
    assert_replays(recording, replay_oracle(tx, recording))


def gradient(params, example):
    """Of `cosh(example @ params)`."""
    return jnp.sinh(example @ params) * example


def full_gradient(params):
    return jnp.mean(jax.vmap(gradient, (None, 0))(params, jnp.asarray(DATA)), axis=0)


def estimates_of_all_components(alpha, anchor, params, count=1):
    tx = optkit.svrg_correction(anchor_every=10, alpha=alpha)
    state = tx.init(anchor)._replace(anchor_gradient=full_gradient(anchor), count=jnp.array(count))

    def estimate(example):
        grad_fn = lambda point: gradient(point, example)  # noqa: E731
        return tx.update(grad_fn(params), state, params, grad_fn=grad_fn, full_grad_fn=full_gradient)[0]

    return jax.vmap(estimate)(jnp.asarray(DATA))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_is_unbiased_over_the_components(alpha):
    anchor, params = jnp.array([0.3, -0.2, 0.1]), jnp.array([0.1, 0.5, -0.4])
    mean = jnp.mean(estimates_of_all_components(alpha, anchor, params), axis=0)
    np.testing.assert_allclose(mean, full_gradient(params), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_is_free_of_noise_at_the_anchor():
    anchor = jnp.array([0.3, -0.2, 0.1])
    estimates = estimates_of_all_components(1.0, anchor, anchor)
    np.testing.assert_allclose(estimates, np.broadcast_to(full_gradient(anchor), estimates.shape), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_alpha_follows_a_schedule():
    anchor, params = jnp.array([0.3, -0.2, 0.1]), jnp.array([0.1, 0.5, -0.4])
    schedule = optax.linear_schedule(0.75, 0.0, 6)
    for count, alpha in ((2, 0.5), (8, 0.0)):
        np.testing.assert_allclose(
            estimates_of_all_components(schedule, anchor, params, count),
            estimates_of_all_components(alpha, anchor, params),
            rtol=1e-12,
        )


def test_full_gradients_are_evaluated_at_refreshes_only():
    seen = []

    def counted(params):
        jax.debug.callback(lambda: seen.append(1))
        return full_gradient(params)

    tx = optkit.svrg(0.01, anchor_every=4)
    examples = jnp.tile(jnp.asarray(DATA, jnp.float32), (2, 1))
    jax.block_until_ready(descend(tx, gradient, jnp.zeros(3), examples, full_grad_fn=counted))
    jax.effects_barrier()
    assert len(seen) == 3, "12 steps, one refresh in 4"


@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
@pytest.mark.parametrize(
    "build", [lambda: optkit.svrg(0.1, 2), lambda: optkit.spider(0.1, 2), lambda: optkit.page(0.1, 0.5)]
)
def test_workers_agree_on_all_backends(build, backend):
    # Gradients over all data are means over workers inside a conditional.
    tx = build()
    rows = jnp.asarray(np.random.default_rng(2).standard_normal((4, 3)), jnp.float32)

    def step(params, state, row):
        def grad_fn(point):
            return collectives.pmean(gradient(point, row), "workers")

        updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn, full_grad_fn=grad_fn)
        return optax.apply_updates(params, updates), state

    def train(backend):
        on_all = on_workers(step, axis_name="workers", in_axes=(None, None, 0), out_axes=None, backend=backend)
        params = jnp.ones(3)
        state = tx.init(params)
        for _ in range(3):
            params, state = on_all(params, state, rows)
        return params

    np.testing.assert_allclose(train(backend), train("vmap"), rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optkit.svrg(0.1, 0), r"anchor_every must be a positive integer, got 0"),
        (lambda: optkit.svrg(0.1, 2.5), "anchor_every must be a positive integer, got 2.5"),
        (lambda: optkit.svrg(0.1, 2, -0.5), r"alpha must be in \[0, inf\], got -0.5"),
    ],
)
def test_wrong_hyperparameters_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("name", ["grad_fn", "full_grad_fn"])
def test_missing_functions_are_named(name):
    tx = optkit.svrg(0.1, 2)
    params = jnp.ones(3)
    functions = {"grad_fn": full_gradient, "full_grad_fn": full_gradient}
    del functions[name]
    with pytest.raises(TypeError, match=f"svrg needs the extra argument {name}: call update"):
        tx.update(params, tx.init(params), params, **functions)
