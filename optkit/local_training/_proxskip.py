"""ProxSkip: local steps with a correction for the workers' differences, and a mean at random times.

Mishchenko, Malinovsky, Stich, Richtarik, "ProxSkip: Yes! Local Gradient Steps Provably Lead to Communication
Acceleration! Finally!", 2022, arXiv:2202.09357, whose form for workers is Scaffnew. Zhang, Choudhury, Stich, Loizou,
"Communication-Efficient Gradient Descent-Accent Methods for Distributed Variational Inequalities: Unified Analysis and
Local Updates", 2023, arXiv:2306.05100, have it for variational inequalities, as ProxSkip-VIP-FL.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core import keys
from optkit.core.checks import check_range
from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.overwriting import overwrite
from optkit.core.precision import in_float32
from optkit.core.schedules import value_at
from optkit.core.types import AxisName, Key
from optkit.core.workers import collectives
from optkit.method import Method, Paper

__all__ = ["proxskip"]


class ProxskipState(NamedTuple):
    """State of `proxskip`.

    Attributes:
        count: Number of updates so far, equal on all workers.
        correction: What a worker's gradient is corrected by, at least in float32. Each worker has its own, and their
            sum is zero.
        communicates: Whether the next update takes the mean over the workers, equal on all of them.
        key: Raw data of the key for the next random draw, equal on all workers.
    """

    count: jax.typing.ArrayLike
    correction: optax.Updates
    communicates: jax.Array
    key: jax.Array


def proxskip(
    learning_rate: optax.ScalarOrSchedule,
    probability: jax.typing.ArrayLike,
    key: Key = 0,
    *,
    axis_name: AxisName | None,
) -> optax.GradientTransformationExtraArgs:
    """Local gradient steps that find the minimum of the mean although workers' data differ, with few exchanges.

    The update rule, where p is `probability` and the correction h_i of worker i starts at zero::

        y_i = x_i - lr * (g_i - h_i)
        x_i = mean over i of (y_i - lr / p * h_i)       # with probability p, for all workers at once
        x_i = y_i                                       # otherwise
        h_i = h_i + p / lr * (x_i - y_i)

    At the solution h_i is the worker's own gradient, so that local steps do not lead away from it, as they do without
    a correction. Give each worker its own gradients, not averaged, and the same first parameters. For min over x of max
    over y of f(x, y), pass the gradient for x and the negative gradient for y. In a chain it must be the last
    transformation, because it overwrites the parameters; what stands before it may make gradients better, such as
    `svrg_correction`, but must not scale them.

    Use it where workers' data differ and exchanges are slow: with exact gradients and `p = 1 / sqrt(condition number)`
    it needs no more steps than gradient descent, and a share p of its exchanges. Avoid it with noisy gradients, whose
    noise the correction keeps, and for models that need an adaptive optimizer.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. At most `1 / L` for gradients with Lipschitz
            constant L; smaller for games.
        probability: Probability p with which workers exchange parameters in an update, in (0, 1].
        key: Seed of the random draws, an integer or a JAX key. Default: 0. Must be equal on all workers.
        axis_name: Name of the axis over workers. None means that there is only one worker.

    Returns:
        An optimizer. Its state is one number per parameter. An update with an exchange averages the parameters once, in
        float32 at least; the others send nothing.

    Raises:
        ValueError: If `probability` is out of its range. From `update`, if it is called without parameters.

    Example:
        >>> import jax
        >>> import optkit
        >>> tx = optkit.proxskip(0.5, 0.5, axis_name="workers")
        >>> def train(target):
        ...     params = jnp.zeros([])
        ...     def step(carry, _):
        ...         params, state = carry
        ...         updates, state = tx.update(params - target, state, params)
        ...         return (params + updates, state), None
        ...     return jax.lax.scan(step, (params, tx.init(params)), length=100)[0]
        >>> params, state = jax.vmap(train, axis_name="workers")(jnp.array([1.0, 2.0, 6.0]))
        >>> params, correction = jax.device_get((params, state.correction))
        >>> params.round(2).tolist(), correction.round(2).tolist()
        ([3.0, 3.0, 3.0], [2.0, 1.0, -3.0])

    Reference:
        arXiv:2202.09357, arXiv:2306.05100.
    """
    check_range("probability", probability, 0.0, 1.0, low_open=True)
    refuse_arrays(axis_name=axis_name)

    def init_fn(params):
        data, communicates = _toss(keys.key_data(key), key, probability)
        return ProxskipState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params), communicates, data)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, "proxskip")
        rate = jnp.asarray(value_at(learning_rate, state.count))
        ahead = rate / probability

        def step(x, g, h):
            return (x - rate * (g - h)).astype(x.dtype)

        def exchange(local):
            shifted = jax.tree.map(lambda y, h: (y - ahead * h).astype(y.dtype), local, state.correction)
            return collectives.pmean(shifted, axis_name)

        def learn(h, x, y):  # a learning rate of zero moves nothing, from which nothing can be learned
            change = (x - y) / jnp.where(ahead == 0, 1, ahead)
            return jnp.where(ahead == 0, h, h + change).astype(h.dtype)

        local = jax.tree.map(step, params, updates, state.correction)  # x^ = x - gamma (F(x) - h)
        new = collectives.cond(state.communicates, exchange, lambda local: local, local)
        correction = jax.tree.map(learn, state.correction, new, local)  # h + (p / gamma) (x - x^)
        data, communicates = _toss(state.key, key, probability)
        count = optax.safe_increment(state.count)
        return overwrite(new, params), ProxskipState(count, correction, communicates, data)

    return in_float32(optax.GradientTransformationExtraArgs(init_fn, update_fn))


def _toss(data: jax.Array, key: Key, probability: jax.typing.ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Returns the data for the next draw, and whether the coin says yes."""
    data, fresh = keys.split(data, key)
    return data, jax.random.uniform(fresh, dtype=jnp.float32) < probability


METHODS = (
    Method(
        name="proxskip",
        factory=proxskip,
        kind="optimizer",
        summary="Local gradient steps with a correction for the workers' differences, and a mean at random times.",
        paper=Paper(
            "Communication-Efficient Gradient Descent-Accent Methods for Distributed Variational Inequalities: Unified"
            " Analysis and Local Updates",
            "Zhang, Choudhury, Stich, Loizou",
            2023,
            "2306.05100",
        ),
        also_known_as=("ProxSkip", "Scaffnew", "ProxSkip-VIP-FL", "ProxSkip-GDA-FL", "local GDA"),
        example={"learning_rate": 1.5e-3, "probability": 0.5, "axis_name": "workers"},
        grid=1e-1,
        needs=("axis_name",),
        golden="proxskip_vip",
    ),
)
