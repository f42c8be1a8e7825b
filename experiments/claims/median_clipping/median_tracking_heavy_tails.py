"""Tracking the median gradient on a quadratic with heavy-tailed noise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding

CURVATURE = np.linspace(0.1, 1.0, 20, dtype=np.float32)
START, RATES, STEPS, SEEDS = 5.0, (0.003, 0.01, 0.03), 1500, 3
BY_NORM, BY_COORDINATE = 3.0, 1.0
TAILS, MILD = 1.1, 2.5
METHODS = {
    "momentum": lambda rate: optax.chain(optax.ema(0.9, debias=False), optax.sgd(rate)),
    "clipping": lambda rate: optkit.clipped_sgd(rate, BY_NORM),
    "l2 tracking": lambda rate: optkit.median_tracking_sgd(rate, BY_NORM),
    "l1 tracking": lambda rate: optkit.median_tracking_sgd(rate, BY_COORDINATE, optkit.median_step.l1()),
}


def loss(params):
    """The quadratic."""
    return 0.5 * jnp.sum(CURVATURE * params**2)


def losses(build, noise):
    """Losses of all steps, by rate and seed."""

    def run(rate, noise):
        tx = build(rate)

        def step(carry, noise):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params) + noise, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), loss(params)

        start = jnp.full(CURVATURE.shape, START)
        return jax.lax.scan(step, (start, tx.init(start)), noise)[1]

    return np.asarray(jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))(jnp.array(RATES), noise))


def best(curves):
    """The mean over seeds of the median loss of the last fifth, at the best rate, and the index of that rate."""
    scores = np.median(curves[..., -STEPS // 5 :], axis=-1).mean(axis=1)
    return scores.min(), scores.argmin()


def measure():
    """Runs all methods with both noises."""
    shape = SEEDS, STEPS, *CURVATURE.shape
    wild, tame = (jax.random.t(jax.random.key(0), degrees, shape) for degrees in (TAILS, MILD))
    heavy = {name: losses(build, wild) for name, build in METHODS.items()}
    scores = {name: best(curves)[0] for name, curves in heavy.items()}
    mild = {name: best(losses(build, tame))[0] for name, build in METHODS.items()}
    tracking = max(scores["l2 tracking"], scores["l1 tracking"])

    def draw(axes):
        for name, curves in heavy.items():
            axes.plot(np.median(curves[best(curves)[1]], axis=0), label=name)
        axes.set(xlabel="step", ylabel="loss, median of the seeds", yscale="log")
        axes.legend()

    listed = "; ".join(
        f"{degrees} degrees of freedom: " + ", ".join(f"{name} {value:.2g}" for name, value in figures.items())
        for degrees, figures in ((TAILS, scores), (MILD, mild))
    )
    holds = 10 * tracking < scores["momentum"] and scores["l1 tracking"] < scores["clipping"]
    return Finding(f"loss at the best rate with {listed}", bool(holds), draw)


CLAIM = Claim(
    method="median_tracking_sgd",
    arxiv="2402.12828",
    statement="Under noise without variance, tracking the median of the gradients converges where their exponential "
    "average fails.",
    experiment=f"Quadratic with eigenvalues 0.1 to 1 in 20 dimensions, Student-t noise, {STEPS} steps, tau {BY_NORM:g} "
    f"by norm and {BY_COORDINATE:g} by coordinate, the best of {len(RATES)} rates; median loss of the last fifth, mean "
    f"of {SEEDS} seeds; against momentum (average with decay 0.9) and clipping.",
    required=f"with {TAILS} degrees of freedom, both norms more than 10 times below momentum, and l1 below clipping",
    measure=measure,
)
