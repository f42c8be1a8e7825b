"""Per-class normalized gradients: every class pulls equally hard, however few its examples.

Francazi, Baity-Jesi, Lucchi, "A Theoretical Analysis of the Learning Dynamics under Class Imbalance", 2023,
arXiv:2207.00391: PCNGD, PCNSGD and, with a rescaling, PCNSGD+R. The authors' code multiplies the paper's +R form by the
product of all classes' projections; that form is `rescaling="code"`.
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
    """Sums the gradients of the classes after dividing each by its norm, over all leaves.

    The gradients have a leading axis with one row for each class: the gradient of the class's part of the loss, at any
    positive scale. A class that the batch lacks has the gradient 0 and contributes nothing. The result is at most as
    long as there are classes, and seldom much shorter, whatever the gradients: the learning rate must decay. Before SGD
    it is PCNGD and PCNSGD, and with batches that hold as many examples of each class PCNSGD+O.

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
        # A class that the batch lacks has no projection; in a product it must not stop the others.
        factors = jnp.where(active, projections, 1)
        return jnp.prod(jnp.where(jnp.eye(len(factors), dtype=bool), 1, factors[None]), axis=1)

    return aggregating.Aggregator(optax.init_empty_state, update_fn)


def _products(left: Any, right: Any) -> Any:
    """Row by row, the inner products over all leaves."""
    return jax.vmap(lambda a, b: optax.tree.sum(optax.tree.mul(a, b)))(left, right)


def _scale_rows(rows: Any, factors: jax.Array) -> Any:
    return jax.vmap(optax.tree.scale)(factors, rows)


METHODS = (
    Method(
        name="class_normalized",
        factory=class_normalized,
        kind="aggregator",
        summary="The sum of the classes' gradients, each divided by its norm.",
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
