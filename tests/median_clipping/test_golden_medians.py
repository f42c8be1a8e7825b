import functools

import jax
import jax.numpy as jnp
from golden_files import assert_replays, replays

import optkit
from optkit.testing import golden
from optkit.testing.golden import replay_gradients

STEPS = {
    "l2": lambda _: optkit.proximal_l2(),
    "l1": lambda _: optkit.proximal_l1(),
    "linf": lambda _: optkit.proximal_linf(),
    "sq": lambda _: optkit.proximal_half_squared_l2(),
    "huber": lambda h: optkit.proximal_huber_l2(h["mu"]),
    "huber_l2": lambda h: optkit.proximal_huber_l2(h["mu"]),
    "huber_coord": lambda h: optkit.proximal_huber(h["mu"]),
    "elastic_net": lambda h: optkit.proximal_elastic_net(h["lam"]),
    "quantile": lambda h: optkit.proximal_quantile(h["quantile"]),
    "eps_insensitive": lambda h: optkit.proximal_insensitive_l2(h["eps"]),
    "sign": lambda _: optkit.subgradient_l1(),
    "normalized": lambda _: optkit.subgradient_l2(),
}


@replays("median_tracking")
def test_golden_median_tracking(recording):
    hyperparams = recording.hyperparams
    assert hyperparams["norm_scope"].startswith("global")
    step = STEPS[hyperparams["kind"]](hyperparams)
    tx = optkit.median_tracking_sgd(
        hyperparams["lr"], hyperparams["tau"], step, init=hyperparams["m0"].removesuffix("_gradient")
    )
    assert_replays(recording, replay_gradients(tx, recording))


@replays("median_tracking")
def test_golden_median_estimates(recording):
    hyperparams = recording.hyperparams
    tx = optkit.scale_by_median_tracking(
        hyperparams["tau"], STEPS[hyperparams["kind"]](hyperparams), init=hyperparams["m0"].removesuffix("_gradient")
    )

    def step(state, gradient):
        updates, state = tx.update(gradient, state)
        return state, updates

    gradients = jax.tree.map(jnp.asarray, recording.tree("grads"))
    _, estimates = jax.lax.scan(step, tx.init(recording.tree("params0")), gradients)
    assert golden.deviation(estimates, recording.tree("estimate")) <= recording.meta["rtol"]


@replays("sample_median")
def test_golden_sample_median(recording):
    hyperparams = recording.hyperparams
    if hyperparams["kind"].startswith("coordinate"):
        tx = optkit.coordinate_median_sgd(hyperparams["lr"])
    else:
        assert hyperparams["kind"].startswith("geometric")
        per_leaf = "leaf" in hyperparams["scope"].split()
        tx = optkit.geometric_median_sgd(hyperparams["lr"], hyperparams["iters"], hyperparams["nu"], per_leaf=per_leaf)
    assert_replays(recording, replay_gradients(tx, recording))


@replays("coordinate_clip")
def test_golden_coordinate_clip(recording):
    hyperparams = recording.hyperparams
    per_leaf = {"leaf": True, "global": False}[hyperparams.pop("scope")]
    tx = optkit.coordinate_clip_sgd(**hyperparams, per_leaf=per_leaf)
    assert_replays(recording, replay_gradients(tx, recording))


def aggregators(recording):
    hyperparams = recording.hyperparams
    if recording.meta["method"] == "coordinate_median":
        return optkit.coordinate_median, optkit.coordinate_median_sgd
    assert recording.meta["method"] == "rfa"
    options = {
        "iterations": hyperparams["n_iter"],
        "smoothing": hyperparams["nu"],
        "start": hyperparams["z0"],
    }
    return functools.partial(optkit.geometric_median, **options), functools.partial(
        optkit.geometric_median_sgd, **options
    )


@replays("coordinate_median", "rfa")
def test_golden_aggregates_of_stacked_rows(recording):
    assert recording.hyperparams["worker_momentum"] is None
    aggregator = aggregators(recording)[0]()
    gradients = jax.tree.map(jnp.asarray, recording.tree("grads"))
    aggregates = jax.jit(jax.vmap(lambda g: aggregator.update(g, aggregator.init(None))[0]))(gradients)
    assert golden.deviation(aggregates, recording.tree("aggregate")) <= recording.meta["rtol"]


@replays("coordinate_median", "rfa")
def test_golden_steps_of_workers(recording):
    tx = aggregators(recording)[1](recording.hyperparams["lr"], axis_name="workers")

    def step(params, gradients):
        updates, _ = tx.update(gradients, tx.init(params), params)
        return jax.tree.map(jnp.add, params, updates)

    step = optkit.on_workers(step, axis_name="workers", backend="vmap")
    params = jax.tree.map(jnp.asarray, recording.tree("params0"))
    gradients = jax.tree.map(jnp.asarray, recording.tree("grads"))
    trajectory = jax.jit(lambda params: jax.lax.scan(lambda p, g: (step(p, g),) * 2, params, gradients)[1])(params)
    assert_replays(recording, trajectory)
