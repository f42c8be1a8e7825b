"""Recorded runs of the authors' code; their hyperparameters stand in words in the files."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
from golden_files import assert_replays, replays

import optkit
from optkit.core.precision import in_float32
from optkit.random_scaling._random_scaling import scaled_by_draws

NUMBER = r"((?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)"
ADAMW = rf"adamw lr {NUMBER} b1 {NUMBER} b2 {NUMBER} eps {NUMBER}( wd {NUMBER})?"
DECAYED = re.escape(": u = mom/(1-b) part + wd*p, all times -lr (see spec)")
SGDM = (
    rf"sgdm( heavy-ball,?)? lr {NUMBER},? momentum {NUMBER}"
    rf"(, m0=0, no nesterov| nesterov, decoupled weight decay {NUMBER}{DECAYED})?"
)


def number(words, *names, default=None):
    """The number behind one of the names, as in "lr .05, momentum .9"."""
    found = re.search(rf"\b(?:{'|'.join(names)})\s*=?\s*{NUMBER}", words)
    if found is None and default is None:
        raise ValueError(f"none of {names} in {words!r}")
    return default if found is None else float(found[1])


def base_optimizer(hyperparams):
    if "lr" in hyperparams:
        hyperparams.word("base", ("Delta <- beta/(1+lr*mu)*(Delta-lr*g), update = Delta",))
        return optkit.online_gradient_descent(hyperparams["lr"], hyperparams["beta"], hyperparams["mu"])
    words = hyperparams.match("base", f"{ADAMW}|{SGDM}")[0]
    rate, decay = number(words, "lr"), number(words, "weight decay", "wd", default=0.0)
    if words.startswith("adamw"):
        return optax.adamw(rate, number(words, "b1"), number(words, "b2"), number(words, "eps"), weight_decay=decay)
    nesterov = "nesterov" in words and "no nesterov" not in words
    return optax.chain(
        optax.trace(number(words, "momentum"), nesterov),
        optax.add_decayed_weights(decay),
        optax.scale_by_learning_rate(rate),
    )


DISTRIBUTIONS = {
    "exponential mean 1": "exponential",
    "uniform(0,2), importance weight 2-s on the NEXT gradient": "uniform",
}


@replays("random_scaling")
def test_golden_random_scaling(recording):
    hyperparams = recording.hyperparams
    distribution = hyperparams.word("scaling", DISTRIBUTIONS)
    scaled = in_float32(scaled_by_draws(base_optimizer(hyperparams), distribution))
    tx = optax.with_extra_args_support(optax.chain(scaled, optkit.average_iterates(hyperparams["beta_avg"])))
    params = jax.tree.map(jnp.asarray, recording.tree("params0"))
    draws = jnp.asarray(recording.arrays["draws.scale"])
    state = tx.init(params)
    # The weight of a recorded draw is as precise as the draw.
    state = jax.tree.map(lambda x: x.astype(draws.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, state)

    def step(carry, inputs):
        params, state = carry
        grads, draw = inputs
        updates, state = tx.update(grads, state, params, scale=draw)
        params = optax.apply_updates(params, updates)
        weight = state[0].weight if distribution == "uniform" else jnp.ones_like(draw)
        return (params, state), (params, optkit.averaged_params(state, params), weight)

    inputs = jax.tree.map(jnp.asarray, recording.tree("grads")), draws
    trajectory, averages, weights = jax.jit(lambda: jax.lax.scan(step, (params, state), inputs)[1])()
    assert_replays(recording, trajectory)
    assert_replays(recording, averages, "average")
    np.testing.assert_allclose(weights, recording.arrays["importance"], rtol=recording.meta["rtol"])
