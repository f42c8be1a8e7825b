"""Per-class normalized gradients: every class has the same influence, however few examples it has.

Francazi, Baity-Jesi, Lucchi, "A Theoretical Analysis of the Learning Dynamics under Class Imbalance", 2023,
arXiv:2207.00391: PCNGD, PCNSGD and, with a rescaling, PCNSGD+R. The authors' code multiplies the paper's rescaling by
the product of the projections of all classes; `rescaling="code"` follows the code.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from optax.experimental import aggregating

from optkit.core.checks import check_option, check_range
from optkit.core.complex_numbers import refuse_complex
from optkit.core.extra_args import required
from optkit.core.injection import refuse_arrays
from optkit.core.precision import widen
from optkit.core.types import AxisName
from optkit.core.workers.aggregation import Total, norms
from optkit.core.workers.rows import require_reduced, require_rows, sum_rows
from optkit.method import Method, Paper

__all__ = ["class_normalized"]

Rescaling = Literal["none", "projection", "code"]


def class_normalized(
    eps: jax.typing.ArrayLike = 1e-6,
    *,
    rescaling: Rescaling = "none",
    p_min: jax.typing.ArrayLike = 0.05,
    axis_name: AxisName | None = None,
) -> aggregating.Aggregator:
    """Sums the gradients of the classes after dividing each by its norm over all leaves.

    The rule, where g_c is the gradient of class c and `|.|` the norm over all leaves::

        u = sum over c of g_c / (|g_c| + eps)

    The gradients have a leading axis with one row per class: the gradient of the class's part of the loss, at any
    positive scale. A class that the batch lacks has gradient 0 and contributes nothing. Followed by SGD it is PCNGD or
    PCNSGD, and PCNSGD+O if batches hold equally many examples of each class.

    Use it when classes are imbalanced. The learning rate must decay, because the norm of the result is at most the
    number of classes and seldom much smaller, whatever the gradients. Avoid it when classes are balanced, because there
    it is normalized gradient descent at a higher price: one gradient per class.

    Args:
        eps: Added to the norm of each gradient, at least 0. Default: 1e-6.
        rescaling: How it corrects for the part of a minibatch's unit gradient that does not point along the gradient
            over all data. `"none"` does not. `"projection"`, as in the paper, divides by the projection p_c onto the
            unit gradient of the class over all data. `"code"`, as in the authors' code, multiplies by the product of
            the other classes' projections. With either, `update` needs the extra argument `full_grads`: the gradients
            of the classes over all data, with rows as in the gradients, equal on all workers. Default: `"none"`.
        p_min: The smallest projection that `"projection"` divides by, in (0, 1]. Default: 0.05.
        axis_name: Name of the axis over workers. Each worker passes the gradients of all classes on its own examples;
            they are summed before they are normalized. None (the default): nothing is summed over workers.

    Returns:
        An aggregator without state.

    Raises:
        ValueError: If a hyperparameter is out of its range.
        TypeError: From `update`: if a rescaling is used and `full_grads` is missing.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.class_normalized()
        >>> state = tx.init(jnp.zeros(2))
        >>> tx.update(jnp.array([[30.0, 40.0], [0.0, -0.1]]), state)[0].round(3)
        Array([ 0.6, -0.2], dtype=float32)

    Reference:
        arXiv:2207.00391
    """
    refuse_arrays(rescaling=rescaling, axis_name=axis_name)
    check_range("eps", eps, 0.0)
    check_range("p_min", p_min, 0.0, 1.0, low_open=True)
    check_option("rescaling", rescaling, Rescaling)

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
        # A class that the batch lacks has no projection, and must not make the product of the others zero.
        factors = jnp.where(active, projections, 1)
        return jnp.prod(jnp.where(jnp.eye(len(factors), dtype=bool), 1, factors[None]), axis=1)

    return aggregating.Aggregator(optax.init_empty_state, update_fn)


def _products(left: Any, right: Any) -> Any:
    """Returns the inner products, row by row, over all leaves."""
    return jax.vmap(lambda a, b: optax.tree.sum(optax.tree.mul(a, b)))(left, right)


def _scale_rows(rows: Any, factors: jax.Array) -> Any:
    return jax.vmap(optax.tree.scale)(factors, rows)


METHODS = (
    Method(
        name="class_normalized",
        factory=class_normalized,
        kind="aggregator",
        summary="Sums the gradients of the classes, each divided by its norm.",
        paper=Paper(
            "A Theoretical Analysis of the Learning Dynamics under Class Imbalance",
            "Francazi, Baity-Jesi, Lucchi",
            2023,
            "2207.00391",
        ),
        also_known_as=("PCNGD", "PCNSGD", "PCNSGD+O", "PCNSGD+R", "per-class normalized gradient descent"),
        learning_rate=1e-3,
        grid=1e-3,
        stacked="classes",
    ),
)
