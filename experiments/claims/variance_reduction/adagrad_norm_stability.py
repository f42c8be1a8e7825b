"""AdaGrad-norm at learning rates over four orders of magnitude."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding

CURVATURE = np.linspace(0.1, 10.0, 20)
RATES, B0, STEPS, TOO_LARGE = (0.01, 1.0, 100.0), 0.01, 20_000, 0.21


def reduction(tx, rate):
    """The last loss over the first."""

    def loss(params):
        return 0.5 * jnp.sum(CURVATURE * params**2)

    def step(carry, _):
        params, state = carry
        updates, state = tx(rate).update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = jnp.ones(CURVATURE.shape)
    (params, _), _ = jax.lax.scan(step, (start, tx(rate).init(start)), length=STEPS)
    return loss(params) / loss(start)


def measure() -> Finding:
    """Compares how much of the loss is left."""
    with jax.enable_x64(True):
        adagrad = jax.vmap(lambda rate: reduction(lambda rate: optkit.adagrad_norm(rate, B0), rate))
        reductions = np.asarray(jax.jit(adagrad)(jnp.array(RATES)))
        descent = float(jax.jit(lambda rate: reduction(optax.sgd, rate))(TOO_LARGE))
    listed = ", ".join(f"{value:.1g} at {rate:g}" for rate, value in zip(RATES, reductions, strict=True))
    outcome = "diverges" if not descent < 1 else f"gives {descent:.1g}"
    return Finding(
        f"AdaGrad-norm leaves of the loss {listed}; gradient descent at {TOO_LARGE} {outcome}",
        bool(np.all(reductions < 1) and not descent < 1),
    )


CLAIM = Claim(
    method="adagrad_norm",
    arxiv="1806.01811",
    statement="AdaGrad-norm converges at every learning rate, without knowing how curved the loss is.",
    experiment=f"Quadratic with eigenvalues 0.1 to 10 in 20 dimensions, whole gradients, b0 {B0}, {STEPS} steps, "
    f"learning rates {', '.join(f'{rate:g}' for rate in RATES)}; gradient descent, whose limit is 0.2, at {TOO_LARGE}.",
    required="a lower loss than at the start at every rate, where gradient descent diverges",
    measure=measure,
)
