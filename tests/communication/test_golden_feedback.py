import jax
import jax.numpy as jnp
import optax
import pytest
from golden_files import assert_replays, replays

import optkit
from optkit import compressors, feedback
from optkit.testing import golden


def top_k_of(recording, ratio, number):
    """The recorded share, which runs of one worker round down, or the recorded number of entries of the only leaf."""
    if ratio in recording.hyperparams:
        return compressors.top_k(recording.hyperparams[ratio], round_up=recording.meta["kind"] != "gradients")
    if number not in recording.hyperparams:
        return None
    (leaf,) = recording.tree("params0").values()
    return compressors.top_k((recording.hyperparams[number] + 0.5) / leaf.size, round_up=False)


def replay(recording, rule, compressor):
    """What all workers do, each with its recorded gradients or with those of its own quadratic."""
    hyperparams = recording.hyperparams
    mean = optkit.compressed_mean(compressor, rule, axis_name="workers")
    tx = optax.chain(mean, optax.sgd(hyperparams["learning_rate"]))
    if recording.meta["kind"] == "workers":
        assert hyperparams["n_workers"] == len(jax.tree.leaves(recording.tree("params0"))[0])
        return golden.replay_workers(tx, recording)
    return on_quadratics(tx, recording)


def on_quadratics(tx, recording):
    params = jax.tree.map(jnp.asarray, recording.tree("params0"))
    hessian, linear, noise = (jax.tree.map(jnp.asarray, recording.tree(name)) for name in ("A", "b", "noise"))
    assert recording.hyperparams["n_workers"] == len(jax.tree.leaves(hessian)[0])

    def worker(hessian, linear):
        def step(carry, noise):
            params, state = carry
            gradient = jax.tree.map(lambda x, a, b, e: a @ x - b - e, params, hessian, linear, noise)
            updates, state = tx.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        return jax.lax.scan(step, (params, tx.init(params)), noise)[1]

    trajectories = jax.jit(jax.vmap(worker, axis_name="workers"))(hessian, linear)
    return jax.tree.map(lambda x: x[0], trajectories)


@pytest.mark.slow
@replays("ef14")
def test_golden_ef14(recording):
    hyperparams = recording.hyperparams
    if recording.meta["kind"] == "workers":
        server = top_k_of(recording, "ratio_server", "k_server")
        rule = feedback.ef14() if server is None else feedback.double_ef(server)
        return assert_replays(recording, replay(recording, rule, top_k_of(recording, "ratio", "k")))
    # The learning rate is inside the error, so that the means come last.
    compressor = hyperparams.word(
        "compressor",
        {"scaled_sign": compressors.scaled_sign, "top_k": lambda: top_k_of(recording, "ratio", "k")},
    )()
    decay = hyperparams["lr_decay"]
    tx = optax.chain(
        optax.add_decayed_weights(hyperparams["weight_decay"]),
        optax.trace(hyperparams["momentum"], hyperparams["nesterov"]),
        optax.scale_by_learning_rate(lambda count: hyperparams["learning_rate"] * decay**count),
        optkit.compressed_mean(compressor, feedback.ef14() if hyperparams["memory"] else None, axis_name=None),
    )
    return assert_replays(recording, golden.replay_gradients(tx, recording))


@pytest.mark.slow
@replays("ef21")
def test_golden_ef21(recording):
    rule = feedback.ef21(
        server=top_k_of(recording, "ratio_server", "k_server"),
        momentum=recording.hyperparams.get("momentum"),
        init=recording.hyperparams.word("init", ("dense", "zero")),
    )
    assert_replays(recording, replay(recording, rule, top_k_of(recording, "ratio", "k")))


@pytest.mark.slow
@replays("ef21_sgdm")
def test_golden_ef21_sgdm(recording):
    rule = feedback.ef21_sgdm(recording.hyperparams["eta"], init=recording.hyperparams.word("init", ("dense", "zero")))
    assert_replays(recording, replay(recording, rule, top_k_of(recording, "ratio", "k")))


@pytest.mark.slow
@replays("econtrol")
def test_golden_econtrol(recording):
    rule = feedback.econtrol(recording.hyperparams["eta"], init=recording.hyperparams.word("init", ("dense", "zero")))
    assert_replays(recording, replay(recording, rule, top_k_of(recording, "ratio", "k")))
