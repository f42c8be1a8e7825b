"""MASHA1 converges linearly on a strongly monotone game, where compressed gradient descent and ascent stalls."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.communication import over_workers

WORKERS, DIMENSION, DENSITY, STEPS, REQUIRED = 4, 16, 0.25, 4000, 1e-8
RATES = (0.003, 0.01, 0.03, 0.1)


GAMES = (
    f"Linear games on {WORKERS} workers that differ: random antisymmetric operators plus 0.2 times the identity,"
    f" {DIMENSION} dimensions"
)


def best_end(build: Callable[[float], optax.GradientTransformation], rates: tuple[float, ...] = RATES) -> float:
    """Returns the squared norm of the mean operator after a game at the best rate, in double precision."""
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        games = random.standard_normal((WORKERS, DIMENSION, DIMENSION)) / np.sqrt(DIMENSION)
        operators = jnp.asarray(games - games.mT + 0.2 * np.eye(DIMENSION))
        offsets = jnp.asarray(random.standard_normal((WORKERS, DIMENSION)))
        return min(float(_play(build(rate), operators, offsets)) for rate in rates)


def measure() -> Finding:
    """Plays with both, each at its best rate."""
    with jax.enable_x64(True):
        compressor = optkit.compressors.rand_k(DENSITY, key=0, axis_name="workers")

        def masha(rate):
            return optkit.masha1(rate, compressor, axis_name="workers")

        def descent(rate):
            return optax.chain(optkit.compressed_mean(compressor, axis_name="workers"), optax.sgd(rate))

        ours, theirs = best_end(masha), best_end(descent)
    return Finding(f"{ours:.1e} against {theirs:.1e}", ours <= REQUIRED * theirs)


def _play(tx: optax.GradientTransformation, operators: jax.Array, offsets: jax.Array) -> jax.Array:
    """Returns the squared norm of the mean operator at the end; infinite where it is not a number."""
    tx = optax.with_extra_args_support(tx)

    def worker(operator, offset):
        def grad_fn(point):
            return operator @ point - offset

        def step(carry, _):
            point, state = carry
            updates, state = tx.update(grad_fn(point), state, point, grad_fn=grad_fn)
            return (optax.apply_updates(point, updates), state), None

        start = jnp.zeros(DIMENSION)
        point = jax.lax.scan(step, (start, tx.init(start)), length=STEPS)[0][0]
        return jnp.sum(jax.lax.pmean(grad_fn(point), "workers") ** 2)

    found = over_workers(worker)(operators, offsets)
    return jnp.where(jnp.isfinite(found), found, jnp.inf)


CLAIM = Claim(
    method="masha1",
    arxiv="2110.03313",
    statement="MASHA1 converges linearly on strongly monotone variational inequalities with unbiased compression.",
    experiment=(
        f"{GAMES}; rand-k of {DENSITY:.0%}, {STEPS} steps, the best of the rates"
        f" {', '.join(map(str, RATES))}: squared norm of the mean operator, MASHA1 against descent by the compressed"
        " operators."
    ),
    required=f"at most {REQUIRED:g} times",
    measure=measure,
)
