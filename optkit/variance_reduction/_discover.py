"""Discover: optimizers on a gradient estimate that keeps one momentum for each cluster of the data.

Tondji, Kashubin, Cissé, "Variance Reduction in Deep Learning: More Momentum is All You Need", 2021, arXiv:2111.11828.
The full text and the code of the paper were not found. The optimizers are those that its abstract names, with the
estimator of `cluster_control_variate`.
"""

from collections.abc import Sequence

import jax
import optax

from optkit.core.checks import check_range
from optkit.core.precision import in_float32
from optkit.method import Method, Variant
from optkit.variance_reduction._clusters import DISCOVER, Clusters
from optkit.variance_reduction._implicit_transport import igt_eval_params, transported
from optkit.variance_reduction._nigt import exponential_extrapolation

__all__ = ["discover", "discover_igt"]


def discover(
    learning_rate: optax.ScalarOrSchedule,
    num_clusters: int,
    alpha: jax.typing.ArrayLike = 0.1,
    momentum: jax.typing.ArrayLike | None = 0.9,
    nu: jax.typing.ArrayLike | None = None,
    *,
    probabilities: Sequence[float] | jax.typing.ArrayLike | None = None,
    inverse_probability: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Descent along gradients without the noise that comes from how often each cluster was drawn.

    The update rule, where e comes from `cluster_control_variate`::

        m = momentum * m + e
        x = x - lr * m

    With `nu` it is quasi-hyperbolic momentum instead::

        m = momentum * m + (1 - momentum) * e
        x = x - lr * ((1 - nu) * e + nu * m)

    Use it when batches mix clusters, such as classes, in shares that vary by chance. For batches of one cluster each,
    chain `scale_by_cluster_control_variate` with `optax.sgd`. Avoid it for batches that are as mixed as the data,
    because it has no effect there. Each cluster has a momentum as large as the parameters.

    Its `update` takes gradients with a leading axis over the clusters and the extra argument `class_counts`, as that of
    `cluster_control_variate` does.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. Use one that suits the optimizer on which it
            is built, SGD or quasi-hyperbolic momentum.
        num_clusters: Number of clusters, for example of classes.
        alpha: See `cluster_control_variate`. Default: 0.1.
        momentum: Decay rate of the momentum after the estimate, in [0, 1). None disables it. Default: 0.9.
        nu: Weight of the momentum against the estimate itself, in [0, 1], for quasi-hyperbolic momentum. Default: None,
            heavy-ball momentum.
        probabilities: See `cluster_control_variate`. Default: the frequencies so far.
        inverse_probability: See `cluster_control_variate`. Default: False.

    Returns:
        An optimizer. Its state holds `num_clusters + 2` numbers per parameter, one less without momentum.

    Raises:
        ValueError: If an argument is out of its range. From `update`, if there are more or fewer rows than clusters.
        TypeError: From `update`, without `class_counts`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.discover(0.1, num_clusters=2, momentum=None)
        >>> params = jnp.zeros(1)
        >>> rows, counts = jnp.array([[3.0], [-2.0]]), jnp.array([1, 1])
        >>> tx.update(rows, tx.init(params), params, class_counts=counts)[0]  # nothing is known of the clusters yet
        Array([-0.1], dtype=float32)

    Reference:
        arXiv:2111.11828
    """
    check_range("momentum", momentum, 0.0, 1.0, high_open=True)
    estimate = Clusters("discover", num_clusters, alpha, probabilities, inverse_probability).aggregator()
    if nu is None:
        return in_float32(optax.chain(estimate, optax.sgd(learning_rate, momentum)))
    if momentum is None:
        raise ValueError("nu is the weight of a momentum: momentum must be a number in [0, 1), got None")
    check_range("nu", nu, 0.0, 1.0)
    descent = optax.scale_by_learning_rate(learning_rate)
    return in_float32(optax.chain(estimate, _quasi_hyperbolic(momentum, nu), descent))


def discover_igt(
    learning_rate: optax.ScalarOrSchedule,
    num_clusters: int,
    alpha: jax.typing.ArrayLike = 0.1,
    b1: jax.typing.ArrayLike = 0.9,
    *,
    probabilities: Sequence[float] | jax.typing.ArrayLike | None = None,
    inverse_probability: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """`discover` with a momentum whose gradients are taken ahead of the parameters.

    The update rule, where e comes from `cluster_control_variate` for gradients at the shifted parameters x, and y are
    the true parameters::

        m = b1 * m + (1 - b1) * e
        y = y - lr * m
        x = y - b1 / (1 - b1) * lr * m

    The training loop holds the shifted parameters x; `igt_eval_params` returns y, the parameters to evaluate.

    Use it as `discover`, when the momentum must not lag behind the parameters. Avoid it when the curvature changes much
    along the path, because gradients are taken ahead of the parameters. It keeps one number per parameter more than
    `discover`, and each cluster has a momentum as large as the parameters.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. Use one that suits gradient descent.
        num_clusters: Number of clusters, for example of classes.
        alpha: See `cluster_control_variate`. Default: 0.1.
        b1: Decay rate of the momentum, in [0, 1). Default: 0.9. The momentum begins at zero.
        probabilities: See `cluster_control_variate`. Default: the frequencies so far.
        inverse_probability: See `cluster_control_variate`. Default: False.

    Returns:
        An optimizer. Its state holds `num_clusters + 3` numbers per parameter.

    Raises:
        ValueError: If an argument is out of its range. From `update`, if there are more or fewer rows than clusters.
        TypeError: From `update`, without `class_counts`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.discover_igt(1.0, num_clusters=2)
        >>> shifted = jnp.zeros(1)
        >>> rows, counts = jnp.array([[3.0], [-2.0]]), jnp.array([1, 1])
        >>> updates, state = tx.update(rows, tx.init(shifted), shifted, class_counts=counts)
        >>> updates, optkit.igt_eval_params(state, shifted)
        (Array([-1.], dtype=float32), Array([-0.1], dtype=float32))

    Reference:
        arXiv:2111.11828
    """
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    estimate = Clusters("discover_igt", num_clusters, alpha, probabilities, inverse_probability).aggregator()
    descent = optax.scale_by_learning_rate(learning_rate)
    transport = transported("discover_igt", descent, exponential_extrapolation(b1, init_first=False))
    return in_float32(optax.chain(estimate, transport))


def _quasi_hyperbolic(b1: jax.typing.ArrayLike, nu: jax.typing.ArrayLike) -> optax.GradientTransformation:
    """Mixes an estimate with its exponential average; Ma, Yarats, 2018, arXiv:1810.06801."""
    average = optax.ema(b1, debias=False)

    def update_fn(updates, state, params=None):
        means, state = average.update(updates, state, params)  # d = b1 d + (1 - b1) e
        return optax.incremental_update(means, updates, nu), state  # u = (1 - nu) e + nu d

    return optax.GradientTransformation(average.init, update_fn)


METHODS = (
    Method(
        name="discover",
        factory=discover,
        kind="optimizer",
        summary="Momentum SGD on gradients whose noise is reduced with one momentum per cluster of the data.",
        paper=DISCOVER,
        also_known_as=("multi-momentum",),
        example={"learning_rate": 1e-3, "num_clusters": 4},
        grid=3e-2,
        tunable={"alpha": (0.01, 1.0, "log")},
        stacked="classes",
        variants={"qhm": Variant({"nu": 0.7}, grid=0.3)},
    ),
    Method(
        name="discover_igt",
        factory=discover_igt,
        kind="optimizer",
        summary="Discover with a momentum whose gradients are taken ahead of the parameters.",
        paper=DISCOVER,
        also_known_as=("multi-momentum",),
        example={"learning_rate": 1e-3, "num_clusters": 4},
        grid=0.3,
        stacked="classes",
        eval_params=igt_eval_params,
        golden="discover",
    ),
)
