"""Where gradients are taken at random points of a learner's steps, they predict the decrease of any loss."""

import jax
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.random_scaling.exact_linearization import DRAWS, STEPS, errors, heavy_ball


def learners_point(state, params):
    """The end of the learner's last step."""
    return optax.tree.add(params, state.converted.offset)


def measure() -> Finding:
    """Runs the learner with random points and without."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    converted = jax.vmap(lambda key: errors(optkit.online_to_nonconvex(heavy_ball(), key=key), learners_point))
    drawn = np.asarray(jax.jit(converted)(keys))
    plain = float(jax.jit(lambda: errors(heavy_ball()))())
    standard_error = drawn.std() / np.sqrt(DRAWS)
    return Finding(
        f"error of the predicted decrease {drawn.mean():.1e} with random points, {plain:.1e} without; standard error"
        f" {standard_error:.1e}",
        bool(abs(drawn.mean()) < 3 * standard_error and abs(plain) > 10 * standard_error),
    )


CLAIM = Claim(
    method="online_to_nonconvex",
    arxiv="2302.03775",
    statement="For a gradient at a uniformly random point of a learner's step D the mean of <gradient, D> is exactly"
    " the change of the loss, without smoothness.",
    experiment=f"Absolute errors of a ReLU network with 40 weights, {STEPS} full-batch steps of heavy ball (learning"
    f" rate 0.05, momentum 0.9) as the learner, {DRAWS} draws: decrease of the loss between the learner's points"
    " against the sum of <gradient, step of the learner>; without random points, gradients at the ends of the steps.",
    required="with random points within 3 standard errors of 0, without more than 10 away",
    measure=measure,
)
