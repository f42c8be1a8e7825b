"""Adam on transported gradients against Adam on a noisy quadratic.

It fails by a little: with eight seeds the loss with tail averaging, on average three quarters of Adam's, cannot be told
from it. With full averaging, which is reported, the mean loss is half of Adam's.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.variance_reduction.igt_quadratic import last_loss
from optkit.comparison import statistics, training
from optkit.method import parameters_as_they_are

STEPS, SEEDS, RATES = 2000, 8, (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)


def final_losses(build, report):
    """The losses at the end, by seed, at the rate with the lowest mean; and that rate."""
    shape = training.schedule(STEPS)

    def run(rate, seed):
        return last_loss(build(lambda count: rate * shape(count)), report, STEPS, seed)

    over_seeds = jax.vmap(run, (None, 0))
    losses = np.asarray(jax.jit(jax.vmap(over_seeds, (0, None)))(jnp.array(RATES), jnp.arange(SEEDS)))
    best = int(np.argmin(np.nan_to_num(np.mean(losses, axis=1), nan=np.inf)))
    return losses[best], RATES[best]


def measure() -> Finding:
    """Runs Adam and both averages of transported gradients."""
    adam, adam_rate = final_losses(optax.adam, parameters_as_they_are)
    full, full_rate = final_losses(optkit.igt_adam, optkit.igt_eval_params)
    tail, tail_rate = final_losses(lambda rate: optkit.igt_adam(rate, averaging="ata"), optkit.igt_eval_params)
    found = statistics.student(np.log(tail / adam))
    mean, low, high = np.exp(found[:3])
    return Finding(
        f"loss of Adam {np.mean(adam):.2g} (rate {adam_rate:g}), with tail averaging {np.mean(tail):.2g} (rate"
        f" {tail_rate:g}), with full averaging {np.mean(full):.2g} (rate {full_rate:g}); tail averaging"
        f" {mean:.2f} times Adam's ({low:.2f} to {high:.2f})",
        bool(found.high < 0),
    )


CLAIM = Claim(
    method="igt_adam",
    arxiv="1906.03532",
    statement="Transported gradients reduce the noise of other optimizers too: Adam reaches a lower loss with them.",
    experiment=f"Quadratic with eigenvalues 0.05 to 1 in 20 dimensions, gradient noise of variance 1, {STEPS} steps,"
    f" {SEEDS} seeds, Adam and Adam-IGT with tail averaging of half of the steps, each at the best of {len(RATES)}"
    f" rates from {RATES[0]:g} to {RATES[-1]:g} (warm-up and cosine); with full averaging reported.",
    required="a lower loss than Adam's with tail averaging (paired 95% interval of the ratio)",
    measure=measure,
)
