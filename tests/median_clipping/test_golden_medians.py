import jax
import jax.numpy as jnp
import optax
from golden_files import assert_replays, replays
from trajectories import trajectory

import optkit
from optkit.testing.golden import replay_gradients

STEPS = {
    "l2": lambda _: optkit.median_step.l2(),
    "l1": lambda _: optkit.median_step.l1(),
    "linf": lambda _: optkit.median_step.linf(),
    "sq": lambda _: optkit.median_step.half_squared_l2(),
    "huber_l2": lambda h: optkit.median_step.huber_l2(h["mu"]),
    "huber_coord": lambda h: optkit.median_step.huber(h["mu"]),
    "sign": lambda _: optkit.median_step.subgradient_l1(),
    "normalized": lambda _: optkit.median_step.subgradient_l2(),
}


def tracking(hyperparams):
    """The learning rate, and how the median is tracked, in our words."""
    hyperparams.word("norm_scope", ("global over all leaves",))
    hyperparams.word("order", ("m updated with g_t first, then x -= lr*m",))
    step = hyperparams.word("kind", STEPS)(hyperparams)
    return hyperparams["lr"], {
        "tau": hyperparams["tau"],
        "step": step,
        "init": hyperparams.word("m0", ("zeros",)),
    }


@replays("median_tracking")
def test_golden_median_tracking(recording):
    learning_rate, tracked = tracking(recording.hyperparams)
    tx = optkit.median_tracking_sgd(learning_rate, **tracked)
    assert_replays(recording, replay_gradients(tx, recording))


@replays("median_tracking")
def test_golden_median_estimates(recording):
    _, tracked = tracking(recording.hyperparams)
    tx = optkit.scale_by_median_tracking(**tracked)
    estimates = trajectory(tx, recording.tree("grads"), recording.tree("params0")).updates
    assert_replays(recording, estimates, "estimate")


@replays("sample_median")
def test_golden_sample_median(recording):
    hyperparams = recording.hyperparams
    assert hyperparams["n"] == next(iter(recording.tree("grads").values())).shape[1]
    per_leaf = hyperparams.word("scope", {"global vector over all leaves": False})
    kinds = {"coordinate_even": "coordinate", "coordinate_odd": "coordinate", "geometric_converged": "geometric"}
    if hyperparams.word("kind", kinds) == "coordinate":
        tx = optax.chain(optkit.coordinate_median(), optax.sgd(hyperparams["lr"]))
    else:
        median = optkit.geometric_median(hyperparams["iters"], hyperparams["nu"], tolerance=0, per_leaf=per_leaf)
        tx = optax.chain(median, optax.sgd(hyperparams["lr"]))
    assert_replays(recording, replay_gradients(tx, recording))


@replays("coordinate_clip")
def test_golden_coordinate_clip(recording):
    hyperparams = recording.hyperparams
    per_leaf = hyperparams.word("scope", {"leaf": True, "global": False})
    clip = optkit.clip_by_quantile(hyperparams["fraction"], per_leaf=per_leaf)
    tx = optax.chain(clip, optax.sgd(hyperparams["learning_rate"]))
    assert_replays(recording, replay_gradients(tx, recording))


def aggregators(recording):
    """The recorded rule, and the optimizer that descends along what it returns."""
    hyperparams = recording.hyperparams
    assert hyperparams["worker_momentum"] is None
    assert hyperparams["n_byz"] < hyperparams["n_workers"] == next(iter(recording.tree("grads").values())).shape[1]
    hyperparams.match("attack", r"alie( z=| )[\d.]+|ipm [\d.]+|signflip")  # What was sent is recorded.
    sgd = optax.sgd(hyperparams["lr"])
    if recording.meta["method"] == "coordinate_median":
        return optkit.coordinate_median(), optax.chain(optkit.coordinate_median(axis_name="workers"), sgd)
    options = {
        "iterations": hyperparams["n_iter"],
        "smoothing": hyperparams["nu"],
        "tolerance": 0,
        "start": hyperparams.word("z0", ("zeros",)),
    }
    return optkit.geometric_median(**options), optax.chain(optkit.geometric_median(**options, axis_name="workers"), sgd)


@replays("coordinate_median", "rfa")
def test_golden_aggregates_of_stacked_rows(recording):
    aggregator, _ = aggregators(recording)
    gradients = jax.tree.map(jnp.asarray, recording.tree("grads"))
    aggregates = jax.jit(jax.vmap(lambda g: aggregator.update(g, aggregator.init(None))[0]))(gradients)
    assert_replays(recording, aggregates, "aggregate")


@replays("coordinate_median", "rfa")
def test_golden_steps_of_workers(recording):
    _, tx = aggregators(recording)
    run = trajectory(tx, recording.tree("grads"), recording.tree("params0"), axis_name="workers")
    assert_replays(recording, run.params)
