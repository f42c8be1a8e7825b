"""Cluster control variates: one momentum per cluster of the data reduces the noise of the choice of clusters.

Tondji, Kashubin, Cissé, "Variance Reduction in Deep Learning: More Momentum is All You Need", 2021, arXiv:2111.11828.
This is the estimator of Discover. The full text and the code of the paper were not found. The rule is that of COVER
(Yuan, Ying, Sayed, 2019), on which the method is built according to the abstract. For batches that mix clusters it is a
reconstruction.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from optax.experimental import aggregating

from optkit.core.checks import check_range
from optkit.core.extra_args import required
from optkit.method import Method
from optkit.variance_reduction._clusters import DISCOVER, ClusterControlVariateState, Clusters, Visit, visit_tree

__all__ = ["cluster_control_variate", "scale_by_cluster_control_variate"]


def scale_by_cluster_control_variate(
    num_clusters: int,
    alpha: jax.typing.ArrayLike = 0.1,
    probabilities: Sequence[float] | jax.typing.ArrayLike | None = None,
    *,
    inverse_probability: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Replaces a cluster's gradient by an estimate of the whole gradient with less noise from the choice of cluster.

    The update rule, where k is the cluster of the batch, p its probability and m one momentum per cluster::

        u = g - m[k] + mean
        m[k] = m[k] + alpha * (g - m[k])
        mean = sum(p[j] * m[j] for all clusters j)

    Use it when each batch comes from one cluster, whose number is passed to `update` as `cluster_id`; for batches that
    mix clusters there is `cluster_control_variate`. Avoid it for many clusters of a large model, because each cluster
    has a momentum as large as the parameters. Wrong probabilities bias the estimate.

    Args:
        num_clusters: Number of clusters.
        alpha: Share of a new gradient in the momentum of its cluster, in (0, 1]. Default: 0.1. With 1 and one example
            per cluster it is SAGA.
        probabilities: How often a batch comes from each cluster: numbers that sum to 1. Default: the frequencies so
            far.
        inverse_probability: Whether the momenta of rare clusters move faster, by `alpha` over their probability and at
            most 1, as in COVER. Default: False.

    Returns:
        A transformation. Its state holds `num_clusters + 1` numbers per parameter. Its `update` needs the extra
        argument `cluster_id`, an integer from 0. If it is out of range, a Python number raises a `ValueError`, and an
        array makes the update NaN, which `optax.apply_if_finite` skips.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: From `update`, without `cluster_id`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_cluster_control_variate(2, alpha=1.0, probabilities=(0.5, 0.5))
        >>> params = jnp.zeros(1)
        >>> _, state = tx.update(jnp.array([6.0]), tx.init(params), params, cluster_id=0)
        >>> _, state = tx.update(jnp.array([-4.0]), state, params, cluster_id=1)
        >>> tx.update(jnp.array([6.0]), state, params, cluster_id=0)[0]  # the mean of 6 and -4
        Array([1.], dtype=float32)

    Reference:
        arXiv:2111.11828
    """
    clusters = Clusters("scale_by_cluster_control_variate", num_clusters, alpha, probabilities, inverse_probability)
    clusters.check()

    def update_fn(updates, state, params=None, *, cluster_id=None, **extra_args):
        del params, extra_args
        required(cluster_id, "cluster_id", "scale_by_cluster_control_variate", "cluster_id=batch_cluster")
        check_range("cluster_id", cluster_id, 0, num_clusters - 1)
        everywhere = jnp.arange(num_clusters) == cluster_id
        inside = jnp.any(everywhere)
        visit, frequencies, count = clusters.visit(state, everywhere)

        def row(x):
            return jax.lax.dynamic_index_in_dim(x, cluster_id, keepdims=True)

        fraction = jnp.where(inside, 1.0, jnp.nan)[None]
        visit = Visit(fraction, row(visit.probabilities), row(visit.rates), visit.pace)
        gradients = jax.tree.map(lambda g: g[None], updates)
        estimate, moved, mean = visit_tree(visit, gradients, jax.tree.map(row, state.momenta), state.mean)
        momenta = jax.tree.map(
            lambda x, m: jax.lax.dynamic_update_index_in_dim(x, m, cluster_id, axis=0), state.momenta, moved
        )
        return estimate, ClusterControlVariateState(momenta, mean, frequencies, count)

    return optax.GradientTransformationExtraArgs(clusters.init, update_fn)


def cluster_control_variate(
    num_clusters: int,
    alpha: jax.typing.ArrayLike = 0.1,
    probabilities: Sequence[float] | jax.typing.ArrayLike | None = None,
    *,
    inverse_probability: bool = False,
) -> aggregating.Aggregator:
    """Aggregates the gradients of a batch's clusters into an estimate with less noise from how often each was drawn.

    The update rule, where f is each cluster's share of the batch, g[k] its mean gradient, p its probability and m its
    momentum; only the momenta of clusters in the batch move::

        u = mean + sum(f[k] * (g[k] - m[k]) for all clusters k)
        m[k] = m[k] + alpha * (g[k] - m[k])
        mean = sum(p[k] * m[k] for all clusters k)

    Use it when batches mix clusters, such as classes, in shares that vary by chance. Avoid it for batches that contain
    exactly each cluster's share of the data, because it has no effect there. Each cluster has a momentum as large as
    the parameters.

    Its `update` takes gradients with a leading axis over the clusters. Each row is the cluster's part of the batch's
    mean gradient, f[k] * g[k], so that the rows sum to that gradient; it is zero for a cluster without examples. The
    extra argument `class_counts` gives the number of examples of each cluster in the batch.

    Args:
        num_clusters: Number of clusters.
        alpha: Share of a new gradient in the momentum of its cluster, in (0, 1]. Default: 0.1.
        probabilities: Each cluster's share of the data: numbers that sum to 1. Default: the frequencies so far.
        inverse_probability: Whether the momenta of rare clusters move faster, by `alpha` over their probability and at
            most 1. Default: False.

    Returns:
        An aggregator. Its state holds `num_clusters + 1` numbers per parameter.

    Raises:
        ValueError: If an argument is out of its range. From `update`, if there are more or fewer rows than clusters.
        TypeError: From `update`, without `class_counts`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.cluster_control_variate(2, alpha=1.0, probabilities=(0.5, 0.5))
        >>> params = jnp.zeros(1)
        >>> rows = jnp.array([[3.0], [-2.0]])  # gradients 6 and -4, of one example each
        >>> _, state = tx.update(rows, tx.init(params), params, class_counts=jnp.array([1, 1]))
        >>> tx.update(jnp.array([[6.0], [0.0]]), state, params, class_counts=jnp.array([2, 0]))[0]
        Array([1.], dtype=float32)

    Reference:
        arXiv:2111.11828
    """
    return Clusters("cluster_control_variate", num_clusters, alpha, probabilities, inverse_probability).aggregator()


METHODS = (
    Method(
        name="cluster_control_variate",
        factory=cluster_control_variate,
        kind="aggregator",
        summary="Reduces the noise of a batch's gradient with one momentum per cluster of the data.",
        paper=DISCOVER,
        also_known_as=("Discover", "COVER", "multi-momentum", "SAGA"),
        parts=(scale_by_cluster_control_variate,),
        example={"num_clusters": 4},
        grid=3e-2,
        stacked="classes",
        golden="discover",
    ),
)
