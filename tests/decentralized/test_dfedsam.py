import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from golden_files import assert_replays, replays
from promises import assert_needs_parameters
from trajectories import descend
from worker_runs import topology_of

from optkit.decentralized import dfedsam, gossip, repeated_mix
from optkit.decentralized.topology import complete, ring

WORKERS = 4
TARGETS = np.random.default_rng(0).standard_normal((WORKERS, 3))


def gradient_at(hessian, linear, point):
    return jax.tree.map(lambda x, a, b: (a @ x.ravel()).reshape(x.shape) - b, point, hessian, linear)


@pytest.mark.slow
@replays("dfedsam")
def test_golden_dfedsam(recording):
    hyperparams = recording.hyperparams
    every = hyperparams["local_steps"]
    assert hyperparams["sam_eps"] <= 1e-12  # Ours is zero.
    rate, decay = hyperparams["learning_rate"], hyperparams["lr_decay_per_round"]
    tx = dfedsam(
        lambda count: rate * decay ** jnp.asarray(count // every, float),  # Optax's schedules compute in float32.
        topology_of(recording),
        every,
        hyperparams["rho"],
        hyperparams["momentum"],
        axis_name="workers",
        mixing=repeated_mix(hyperparams["gossip_steps"]),
    )
    hessian, linear, noise, params = (
        jax.tree.map(jnp.asarray, recording.tree(name)) for name in ("A", "b", "noise", "params0")
    )

    def gradient(point, linear_and_noise):
        return gradient_at(hessian, linear_and_noise, point)

    run = descend(tx, gradient, params, jax.tree.map(jnp.add, linear, noise), axis_name="workers")
    assert_replays(recording, jax.tree.map(lambda x: x[every - 1 :: every], run.params))


def run(tx, steps=6, rate=1.0, start=None, **extra_args):
    """Trains on squared distances, one target a worker; gives the parameters after each step, in NumPy."""
    params = {"w": np.zeros_like(TARGETS) if start is None else start}
    gradient = jax.grad(lambda x, targets: rate * jnp.sum((x["w"] - targets) ** 2) / 2)
    targets = np.broadcast_to(TARGETS, (steps, *TARGETS.shape))
    return np.asarray(descend(tx, gradient, params, targets, axis_name="workers", **extra_args).params["w"])


@pytest.mark.usefixtures("x64")
def test_without_ascent_and_in_rounds_of_one_step_it_is_gossip_of_sgd():
    ours = run(dfedsam(0.1, ring(WORKERS), 1, rho=0.0, axis_name="workers"))
    theirs = run(gossip(optax.sgd(0.1), ring(WORKERS), axis_name="workers"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_round_of_one_worker_is_optax_sam_with_momentum():
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(0.1))
    sam = optax.contrib.sam(optax.sgd(0.05, 0.9), ascent, opaque_mode=True)
    params, state = jnp.ones(3), sam.init(jnp.ones(3))
    tx = dfedsam(0.05, ring(1), 4, 0.1, 0.9, axis_name="workers")
    grad_fn = jax.grad(lambda x: jnp.sum(jnp.arange(1, 4) * x**4))

    @jax.jit
    def sam_step(params, state):
        updates, state = sam.update(grad_fn(params), state, params, grad_fn=lambda point, _: grad_fn(point))
        return optax.apply_updates(params, updates), state

    for _ in range(4):
        params, state = sam_step(params, state)
    ours = descend(tx, lambda x, _: grad_fn(x), np.ones((1, 3)), steps=4, axis_name="workers").params
    np.testing.assert_allclose(ours[-1, 0], params, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_momentum_starts_anew_in_each_round():
    # Of one gradient that stays the same, two steps move by 1 and 1.9 rates, and so do the next two.
    tx = dfedsam(0.1, complete(WORKERS), 2, rho=0.0, momentum=0.9, axis_name="workers")
    trajectory = run(tx, steps=4, rate=1e-9).mean(axis=1)
    moves = np.diff(trajectory, axis=0, prepend=0) / TARGETS.mean(axis=0) / 1e-10
    np.testing.assert_allclose(moves, np.array([1, 1.9, 1, 1.9])[:, None] * np.ones(3), rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_workers_talk_at_the_end_of_a_round_only():
    start = TARGETS + np.arange(WORKERS)[:, None]
    tx = dfedsam(1e-12, complete(WORKERS), 3, axis_name="workers")
    spread = run(tx, steps=3, start=start).std(axis=1).max(axis=1)
    assert spread[1] > 0.9
    assert spread[2] < 1e-9


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rounds", [1, 4])
def test_exchange_shrinks_the_distance_to_the_mean_by_the_topology_s_contraction(rounds):
    topology = ring(WORKERS)
    slowest = np.array([1.0, 0.0, -1.0, 0.0])[:, None] * np.ones(3)
    tx = dfedsam(1e-12, topology, 1, axis_name="workers", mixing=repeated_mix(rounds))
    np.testing.assert_allclose(run(tx, steps=1, start=slowest)[0], topology.contraction**rounds * slowest, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_exchange_keeps_the_mean():
    tx = dfedsam(0.1, ring(WORKERS), 2, rho=0.0, momentum=0.0, axis_name="workers")
    mean = np.zeros(3)
    for row in run(tx):
        mean = mean - 0.1 * (mean - TARGETS.mean(axis=0))
        np.testing.assert_allclose(row.mean(axis=0), mean, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_weight_decay_is_added_behind_the_ascent():
    tx = dfedsam(0.1, complete(WORKERS), 1, 0.5, 0.0, 0.01, axis_name="workers")
    start = np.ones_like(TARGETS)
    gradients = start - TARGETS
    lengths = np.linalg.norm(gradients, axis=1, keepdims=True)
    expected = start - 0.1 * (gradients + 0.5 * gradients / lengths + 0.01 * start)
    np.testing.assert_allclose(run(tx, steps=1, start=start)[0], np.tile(expected.mean(axis=0), (WORKERS, 1)))


@pytest.mark.usefixtures("x64")
def test_failed_links_carry_nothing():
    tx = dfedsam(1e-12, ring(WORKERS), 1, axis_name="workers")
    start = np.arange(WORKERS * 3.0).reshape(WORKERS, 3)
    alone = run(tx, steps=1, start=start, links=np.zeros((1, WORKERS, WORKERS), bool))
    np.testing.assert_allclose(alone[0], start, atol=1e-9)


@pytest.mark.slow
def test_leaves_that_are_not_trainable_stay_and_are_not_perturbed():
    tx = dfedsam(0.1, complete(2), 1, rho=1.0, momentum=0.0, trainable={"in": True, "out": False}, axis_name="workers")

    def step(params):
        grads = {"in": jnp.array(1.0), "out": jnp.array(7.0)}
        seen = []
        updates, _ = tx.update(grads, tx.init(params), params, grad_fn=lambda point: seen.append(point) or grads)
        return updates, seen[0]

    params = {"in": np.float32([0.0, 2.0]), "out": np.float32([3.0, 4.0])}
    updates, seen = jax.jit(jax.vmap(step, axis_name="workers"))(params)
    np.testing.assert_array_equal(updates["out"], 0.0)
    np.testing.assert_allclose(updates["in"], [0.9, -1.1], rtol=1e-6)
    np.testing.assert_allclose(seen["out"], [3.0, 4.0])
    np.testing.assert_allclose(seen["in"], [1.0, 3.0])


@pytest.mark.parametrize(
    "mask", [{"w": True, "b": False}, lambda params: {name: x.ndim > 0 for name, x in params.items()}]
)
@pytest.mark.parametrize("trainable", [None, {"w": True, "b": True}])
def test_the_mask_says_what_decays(mask, trainable):
    tx = dfedsam(1.0, complete(2), 1, 0.0, 0.0, 0.5, axis_name="workers", mask=mask, trainable=trainable)

    def step(params):
        grads = jax.tree.map(lambda x: jnp.full_like(x, 0.25), params)
        return tx.update(grads, tx.init(params), params, grad_fn=lambda _: grads)[0]

    params = {"w": np.ones((2, 3), np.float32), "b": np.ones(2, np.float32)}
    updates = jax.jit(jax.vmap(step, axis_name="workers"))(params)
    np.testing.assert_allclose(updates["w"], -0.25 - 0.5)
    np.testing.assert_allclose(updates["b"], -0.25)


@pytest.mark.slow
def test_it_descends_along_gradients_that_what_stands_before_it_in_a_chain_has_not_seen():
    method = dfedsam(0.1, complete(WORKERS), 1, rho=0.0, momentum=0.0, axis_name="workers")
    clip = optax.clip_by_global_norm(1e-3)

    def step(clip_before, clip_inside, targets):
        tx = optax.chain(clip, method) if clip_before else method

        def grad_fn(x):
            gradient = x - targets
            return clip.update(gradient, clip.init(x))[0] if clip_inside else gradient

        params = jnp.zeros(3)
        return tx.update(-targets, tx.init(params), params, grad_fn=grad_fn)[0]

    def length(clip_before, clip_inside):
        steps = jax.vmap(lambda targets: step(clip_before, clip_inside, targets), axis_name="workers")
        return np.linalg.norm(jax.jit(steps)(TARGETS)[0])

    assert length(clip_before=True, clip_inside=False) == pytest.approx(length(clip_before=False, clip_inside=False))
    assert length(clip_before=False, clip_inside=True) < 1e-3


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_under_multi_steps_grad_fn_is_that_of_all_parts_together():
    method = dfedsam(0.1, complete(2), 1, rho=0.5, axis_name="workers")
    parts = normal(2, 2, 3, seed=1)  # workers, parts, dimension

    def gradient_of(targets):
        return lambda x: x - jnp.mean(targets, axis=0)

    def whole(own):
        params = jnp.zeros(3)
        grad_fn = gradient_of(own)
        return method.update(grad_fn(params), method.init(params), params, grad_fn=grad_fn)[0]

    def in_parts(own, grad_fn_of_part):
        tx = optax.MultiSteps(method, 2)
        params = jnp.zeros(3)
        state = tx.init(params)
        for j in range(2):
            updates, state = tx.update(params - own[j], state, params, grad_fn=grad_fn_of_part(own, j))
        return updates

    def by_scan(own):
        params = jnp.zeros(3)

        def grad_fn(point):
            add = lambda total, part: (total + (point - part), None)  # noqa: E731
            return jax.lax.scan(add, jnp.zeros(3), own)[0] / len(own)

        return method.update(grad_fn(params), method.init(params), params, grad_fn=grad_fn)[0]

    over_workers = lambda step: np.asarray(jax.jit(jax.vmap(step, axis_name="workers"))(parts))  # noqa: E731
    expected = over_workers(whole)
    together = over_workers(lambda own: in_parts(own, lambda own, _: gradient_of(own)))
    last_part = over_workers(lambda own: in_parts(own, lambda own, j: gradient_of(own[j : j + 1])))
    np.testing.assert_allclose(together, expected, rtol=1e-6)  # MultiSteps accumulates in float32.
    np.testing.assert_allclose(over_workers(by_scan), expected, rtol=1e-12)
    assert np.max(np.abs(last_part - expected)) > 1e-3


def test_zero_gradients_move_nothing():
    tx = dfedsam(0.1, complete(WORKERS), 1, axis_name="workers")
    np.testing.assert_array_equal(run(tx, rate=0.0), 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every": 0}, "every must be a positive integer, got 0"),
        ({"rho": -0.1}, r"rho must be in \[0, inf\], got -0.1"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"weight_decay": -1.0}, r"weight_decay must be in \[0, inf\], got -1.0"),
    ],
)
def test_wrong_hyperparameters_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        dfedsam(**{"learning_rate": 0.1, "topology": ring(2), "every": 1, "axis_name": "workers", **changes})


@pytest.mark.slow
def test_missing_parameters_and_gradients_are_named():
    tx = dfedsam(0.1, ring(2), 1, axis_name="workers")
    assert_needs_parameters(tx, "dfedsam")
    with pytest.raises(TypeError, match="dfedsam needs the extra argument grad_fn"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2))
