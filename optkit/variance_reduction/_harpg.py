"""HARPG: momentum that a Hessian-vector product moves along with the gradient.

Fatkhullin, Barakat, Kireeva, He, "Stochastic Policy Gradient Methods: Improved Sample Complexity for
Fisher-non-degenerate Policies", 2023, arXiv:2302.01734. Algorithm 2, for minimization of any loss. The paper's Hessian
estimator for policies has a score-function term; here the user passes that estimator as `hvp_fn`.
"""

import optax

from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.trees import only
from optkit.core.types import Key, Mask
from optkit.method import Method, Variant
from optkit.variance_reduction._hessian_corrected_momentum import HARPG, corrected_by_hessian
from optkit.variance_reduction._recursion import Scope, normalization

__all__ = ["harpg"]


def harpg(
    learning_rate: optax.ScalarOrSchedule,
    eta: optax.ScalarOrSchedule | None = None,
    key: Key = 0,
    *,
    normalize: bool = False,
    trainable: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """HARPG and N-HARPG: descent along a momentum that a Hessian-vector product corrects.

    The update rule, where d comes from `hessian_corrected_momentum` and the norm is global::

        x = x - lr * d
        x = x - lr * d / |d|             # instead, with normalize=True

    Use it when gradients are noisy and Hessian-vector products are affordable, as in policy optimization. Avoid it when
    gradients cannot be differentiated: `recursive_momentum` costs the same and needs only gradients. Each step costs a
    gradient and a Hessian-vector product, about two gradients.

    See `recursive_momentum` for how to clip the gradients and how to split a batch into several parts.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. With `normalize` it is the length of the
            steps.
        eta: See `hessian_corrected_momentum`. Default: `harpg_schedule()`.
        key: Seed of the random draws, an integer or a JAX key. Default: 0. Must be equal on all workers. It draws the
            points where the Hessian is taken.
        normalize: Whether the estimate is divided by its global norm, which is N-HARPG. Default: False.
        trainable: Which leaves are trained: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The other leaves get updates of zero.

    Returns:
        An optimizer. Its state holds two numbers per parameter. `update` needs `grad_fn` or `hvp_fn(vector, point)`.

    Raises:
        ValueError: If `eta` is out of its range.
        TypeError: From `update`, if the extra argument is missing or JAX cannot differentiate `grad_fn`; and inside
            `optax.masked` or `optax.partition`, because the method needs the whole tree.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.harpg(0.5, normalize=True)
        >>> params = jnp.array([3.0, 4.0])
        >>> grad_fn = jax.grad(lambda x: jnp.sum(x**2))
        >>> updates, _ = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)
        >>> optax.apply_updates(params, updates)
        Array([2.7, 3.6], dtype=float32)

    Reference:
        arXiv:2302.01734
    """
    refuse_arrays(trainable=trainable)
    estimator = only(corrected_by_hessian(Scope("harpg", trainable, "trainable"), eta, key), trainable)
    scale = optax.scale_by_learning_rate(learning_rate)
    if normalize:
        return in_float32(optax.chain(estimator, normalization(), scale))
    return in_float32(optax.chain(estimator, scale))


METHODS = (
    Method(
        name="harpg",
        factory=harpg,
        kind="optimizer",
        summary="Descent along a momentum that is corrected for the last step by a Hessian-vector product.",
        paper=HARPG,
        also_known_as=("N-HARPG", "SGDHess", "Hessian-aided recursive policy gradient"),
        example={"learning_rate": 2e-3, "eta": 0.1},
        grid=0.1,
        needs=("grad_fn",),
        variants={"normalized": Variant({"normalize": True, "learning_rate": 3e-3}, grid=3e-2)},
    ),
)
