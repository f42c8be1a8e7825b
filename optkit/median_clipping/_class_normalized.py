"""Per-class normalized gradients: every class pulls equally hard, however few its examples.

Francazi, Baity-Jesi, Lucchi, "A Theoretical Analysis of the Learning Dynamics under Class Imbalance", 2023,
arXiv:2207.00391: PCNGD, PCNSGD and, with a rescaling, PCNSGD+R. The authors' code multiplies the paper's +R form by the
product of all classes' projections; that form is `rescaling="code"`.
"""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from optax.experimental import aggregating

from optkit.core.checks import check_range
from optkit.core.complex_numbers import refuse_complex
from optkit.core.extra_args import required
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32, widen
from optkit.core.types import AxisName
from optkit.core.workers.aggregation import Total, norms
from optkit.core.workers.rows import require_reduced, require_rows, sum_rows
from optkit.method import Method, Paper

Rescaling = Literal["none", "projection", "code"]


def class_normalized(
    eps: jax.typing.ArrayLike = 1e-6,
    *,
    rescaling: Rescaling = "none",
    p_min: jax.typing.ArrayLike = 0.05,
    axis_name: AxisName | None = None,
) -> aggregating.Aggregator:
    """Sums the gradients of the classes after dividing each by its norm, over all leaves.

    The gradients have a leading axis with one row for each class: the gradient of the class's part of the loss, at any
    positive scale. A class that the batch lacks has the gradient 0 and contributes nothing. The result is at most as
    long as there are classes, whatever the gradients: the learning rate must decay.

    Do not take it where classes are balanced: there it is normalized gradient descent at a higher price.

    Args:
        eps: added to the norms, at least 0; default 1e-6.
        rescaling: what makes up for the part of a minibatch's unit gradient that does not point along the full data's
            (+R): `"none"` (default); `"projection"`, the paper's, divides by the projection `p_c` on the unit gradient
            of the class over all data; `"code"`, the authors', multiplies by the product of the other classes'
            projections. With either, `update` needs the extra argument `full_grads`: the classes' gradients over all
            data, rows as in the gradients, equal on all workers.
        p_min: the smallest projection that `"projection"` divides by, in (0, 1]; default 0.05.
        axis_name: the axis over workers, each with gradients of all classes on its own examples: summed before they are
            normalized.

    Returns:
        An aggregator without state.

    Raises:
        ValueError: if a hyperparameter is out of its range.
        TypeError: from `update`, with a rescaling and without `full_grads`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.class_normalized()
        >>> state = tx.init(jnp.zeros(2))
        >>> tx.update(jnp.array([[30.0, 40.0], [0.0, -0.1]]), state)[0].round(3)
        Array([ 0.6, -0.2], dtype=float32)

    Reference:
        Francazi et al., "A Theoretical Analysis of the Learning Dynamics under Class Imbalance", 2023,
        arXiv:2207.00391.
    """
    refuse_arrays(rescaling=rescaling, axis_name=axis_name)
    check_range("eps", eps, 0.0)
    check_range("p_min", p_min, 0.0, 1.0, low_open=True)
    if rescaling not in get_args(Rescaling):
        raise ValueError(f"rescaling must be 'none', 'projection' or 'code', got {rescaling!r}")

    def update_fn(updates, state, params=None, *, full_grads=None, **extra_args):
        del extra_args
        refuse_complex(updates, "class_normalized")
        require_rows(updates, "class_normalized")
        gradients = widen(updates)
        if not jax.tree.leaves(gradients):
            return updates, state
        if axis_name is not None:
            gradients = jax.lax.psum(gradients, axis_name)
        lengths = norms(gradients, Total())
        active = lengths > 0
        factors = jnp.where(active, 1 / jnp.where(active, lengths + eps, 1), 0)  # PCNSGD
        if rescaling != "none":
            full = widen(required(full_grads, "full_grads", "class_normalized", "full_grads=full_grads"))
            units = _scale_rows(gradients, jnp.where(active, 1 / jnp.where(active, lengths, 1), 0))
            projections = _products(units, _scale_rows(full, 1 / (norms(full, Total()) + eps)))
            factors = factors * _rescaling(projections, active)
        result = optax.tree.cast_like(sum_rows(gradients, factors), updates)
        require_reduced(result, params, "class_normalized")
        return result, state

    def _rescaling(projections, active):
        if rescaling == "projection":
            return 1 / jnp.maximum(projections, p_min)  # PCNSGD+R, 1 / p_l
        # A class that the batch lacks has no projection; in a product it must not stop the others.
        factors = jnp.where(active, projections, 1)
        return jnp.prod(jnp.where(jnp.eye(len(factors), dtype=bool), 1, factors[None]), axis=1)

    return aggregating.Aggregator(optax.init_empty_state, update_fn)


def class_normalized_sgd(
    learning_rate: optax.ScalarOrSchedule,
    eps: jax.typing.ArrayLike = 1e-6,
    momentum: jax.typing.ArrayLike | None = None,
    *,
    rescaling: Rescaling = "none",
    p_min: jax.typing.ArrayLike = 0.05,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SGD on the sum of the classes' unit gradients (PCNGD, PCNSGD), so that rare classes learn from the first step on.

    The gradients have a leading axis with one row for each class; see `class_normalized`. With batches that hold as
    many examples of each class it is PCNSGD+O. Do not take it where classes are balanced.

    Args:
        learning_rate: a positive number or a schedule, which should decay: without momentum or rescaling a step is at
            most this times the number of classes long, and seldom much shorter.
        eps: added to the norms, at least 0; default 1e-6.
        momentum: decay of a heavy-ball momentum behind them, in [0, 1); default none, as in the paper.
        rescaling: `"none"` (default), `"projection"` or `"code"`; see `class_normalized`.
        p_min: the smallest projection that `"projection"` divides by, in (0, 1]; default 0.05.
        axis_name: the axis over workers, each with gradients of all classes on its own examples.

    Returns:
        An optimizer; without momentum it has no state.

    Raises:
        ValueError: if a hyperparameter is out of its range.
        TypeError: from `update`, with a rescaling and without `full_grads`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.class_normalized_sgd(0.1)
        >>> params = jnp.zeros(2)
        >>> grads = jnp.array([[30.0, 40.0], [0.0, -0.1]])  # of a frequent class and of a rare one
        >>> updates, state = tx.update(grads, tx.init(params), params)
        >>> updates.round(3)
        Array([-0.06,  0.02], dtype=float32)

    Reference:
        Francazi et al., "A Theoretical Analysis of the Learning Dynamics under Class Imbalance", 2023,
        arXiv:2207.00391.
    """
    aggregator = class_normalized(eps, rescaling=rescaling, p_min=p_min, axis_name=axis_name)
    if momentum is not None:
        check_range("momentum", momentum, 0.0, 1.0, high_open=True)
    return in_float32(optax.chain(aggregator, optax.sgd(learning_rate, momentum)))


def _products(left: Any, right: Any) -> Any:
    """Row by row, the inner products over all leaves."""
    return jax.vmap(lambda a, b: optax.tree.sum(optax.tree.mul(a, b)))(left, right)


def _scale_rows(rows: Any, factors: jax.Array) -> Any:
    return jax.vmap(optax.tree.scale)(factors, rows)


METHODS = (
    Method(
        name="class_normalized_sgd",
        factory=class_normalized_sgd,
        kind="optimizer",
        summary="SGD on the sum of the classes' gradients, each divided by its norm (PCNGD, PCNSGD).",
        paper=Paper(
            "A Theoretical Analysis of the Learning Dynamics under Class Imbalance",
            "Francazi, Baity-Jesi, Lucchi",
            2023,
            "2207.00391",
        ),
        example={"learning_rate": 1e-2},
        grid=1e-2,
        stacked="classes",
        golden="class_normalized",
    ),
)
