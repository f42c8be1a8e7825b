"""An exponential average of the parameters, kept beside any optimizer.

Zhang, Cutkosky, "Random Scaling and Momentum for Non-smooth Non-convex Optimization", 2024, arXiv:2405.09742, whose
methods return this average. It equals `optax.ema(decay, debias=True)` of the parameters, but the stored average is
already corrected for its start, so it can be read at any time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.extra_args import require_params
from optkit.core.precision import scalar_dtype, widen
from optkit.core.trees import copy, unmask_tree
from optkit.method import Method
from optkit.random_scaling._random_scaling import RANDOM_SCALING

__all__ = ["average_iterates", "averaged_params"]


class AverageIteratesState(NamedTuple):
    """State of `average_iterates`.

    Attributes:
        total: Sum of the weights of all parameters so far, `1 + decay + decay**2 + ...`; equal on all workers.
        average: The average, shaped and sharded like the parameters, in at least float32. Before the first update it is
            the parameters themselves.
    """

    total: jax.Array
    average: optax.Params


def average_iterates(decay: jax.typing.ArrayLike) -> optax.GradientTransformation:
    """Keeps an exponential average of the parameters, and passes the updates on unchanged.

    The rule, where x is the parameters after the update::

        total = 1 + decay * total
        average = average + (x - average) / total

    Use it last in a chain, where the updates are what is added to the parameters, when the average of the parameters is
    better than the last ones, as for noisy gradients. `averaged_params` returns the average. Avoid it when memory is
    short, because it keeps one more number per parameter.

    Args:
        decay: Ratio between the weight of one step's parameters and the weight of the next step's, in [0, 1]. With 1
            all steps count equally.

    Returns:
        A transformation with an `AverageIteratesState`. Its `update` needs `params`.

    Raises:
        ValueError: If `decay` is outside [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optax.chain(optax.sgd(1.0), optkit.average_iterates(decay=0.5))
        >>> params = jnp.array([0.0])
        >>> state = tx.init(params)
        >>> for gradient in (-1.0, -3.0):
        ...     updates, state = tx.update(jnp.array([gradient]), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> optkit.averaged_params(state, params)  # (0.5 * 1 + 4) / 1.5
        Array([3.], dtype=float32)

    Reference:
        arXiv:2405.09742
    """
    check_range("decay", decay, 0.0, 1.0)

    def init_fn(params):
        average = copy(widen(params))
        return AverageIteratesState(total=jnp.zeros([], scalar_dtype(params)), average=average)

    def update_fn(updates, state, params=None):
        require_params(params, "average_iterates")
        total = (1 + decay * state.total).astype(state.total.dtype)
        iterate = optax.apply_updates(widen(params), widen(updates))
        # The weight of x_n in the average, (1 - decay) / (1 - decay^n), is one over the total.
        average = jax.tree.map(lambda a, x: (a + (x - a) / total).astype(a.dtype), state.average, iterate)
        return updates, AverageIteratesState(total=total, average=average)

    return optax.GradientTransformation(init_fn, update_fn)


def averaged_params(state: Any, params: optax.Params) -> optax.Params:
    """Returns the average of the parameters that `average_iterates` keeps.

    Use it to evaluate or save the averaged model; training continues from `params`.

    Args:
        state: The state of an optimizer with one `average_iterates` anywhere in it.
        params: The parameters of the training loop.

    Returns:
        The average in the dtypes of `params`. Leaves that a mask excludes from the average are those of `params`.

    Raises:
        ValueError: If the optimizer does not contain exactly one `average_iterates`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> params = jnp.array([2.0])
        >>> averaged_params(optkit.average_iterates(0.9).init(params), params)
        Array([2.], dtype=float32)
    """
    found = [
        node
        for node in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, AverageIteratesState))
        if isinstance(node, AverageIteratesState)
    ]
    if len(found) != 1:
        raise ValueError(f"the optimizer must have exactly one average_iterates in it, found {len(found)}")
    return optax.tree.cast_like(unmask_tree(found[0].average, params), params)


def _after_sgd(build: Callable[..., Any], learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    return optax.chain(optax.sgd(learning_rate), build())


METHODS = (
    Method(
        name="average_iterates",
        factory=average_iterates,
        kind="transformation",
        compose=_after_sgd,
        summary="Keeps an exponential average of the parameters beside any optimizer.",
        paper=RANDOM_SCALING,
        also_known_as=("EMA of the parameters", "Polyak averaging", "Polyak-Ruppert averaging", "averaged iterate"),
        parts=(averaged_params,),
        example={"decay": 0.9},
        grid=0.1,
        eval_params=averaged_params,
        golden="random_scaling",
    ),
)
