"""What the forms of the cluster control variate share: the momenta of the clusters, and how a batch updates them.

In comments g_k is a cluster's gradient, f_k its share of the batch, p_k its probability, and m_k its momentum.
"""

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.experimental import aggregating

from optkit.core.checks import check_count, check_range
from optkit.core.extra_args import required
from optkit.core.injection import refuse_arrays
from optkit.core.precision import scalar_dtype
from optkit.core.workers.rows import require_reduced, sum_rows
from optkit.method import Paper


class ClusterControlVariateState(NamedTuple):
    """State of `cluster_control_variate` and `scale_by_cluster_control_variate`.

    Attributes:
        momenta: An exponential average of each cluster's gradients, shaped like the parameters with a leading axis over
            the clusters.
        mean: The mean of the momenta, weighted by the clusters' probabilities, shaped and sharded like the parameters.
        frequencies: Each cluster's mean share of the batches so far, which begins at equal shares, in float32 at least;
            None if the probabilities were given. Equal on all workers.
        count: Number of updates so far; None if the probabilities were given. Equal on all workers.
    """

    momenta: optax.Updates
    mean: optax.Updates
    frequencies: Any
    count: Any


class Visit(NamedTuple):
    """The numbers of the visited clusters, and the pace at which frequencies move (None if they are given)."""

    fractions: jax.Array
    probabilities: jax.Array
    rates: jax.Array
    pace: Any


class _Visited(NamedTuple):
    """The result for one leaf: the estimate of its gradient, the momenta of the visited clusters, the mean."""

    estimate: jax.Array
    momenta: jax.Array
    mean: jax.Array


def _visit_leaf(visit, gradients, momenta, mean):
    """Estimates a gradient from rows of clusters' mean gradients; moves their momenta and the mean."""

    def weighted(weights, rows):
        return jax.vmap(jnp.multiply)(weights.astype(rows.dtype), rows)

    def present(fraction, row):
        return jnp.where(fraction == 0, 0, row)

    differences = jax.vmap(present)(visit.fractions, gradients - momenta)
    estimate = mean + sum_rows(differences, visit.fractions)  # e = sum_k f_k (g_k - m_k) + mean
    steps = weighted(visit.rates, differences)
    moved = momenta + steps  # m_k = (1 - alpha) m_k + alpha g_k
    # The mean is updated without reading the clusters that are not in the batch.
    moved_mean = mean + sum_rows(steps, visit.probabilities)  # mean = sum_k p_k m_k
    if visit.pace is not None:
        drift = sum_rows(moved, visit.fractions) - moved_mean
        moved_mean = moved_mean + visit.pace * drift
    return _Visited(estimate.astype(gradients.dtype), moved.astype(momenta.dtype), moved_mean.astype(mean.dtype))


def visit_tree(visit, gradients, momenta, mean):
    """Visits all leaves; returns three trees: estimates, momenta and means."""
    visited = jax.tree.map(lambda *leaves: _visit_leaf(visit, *leaves), gradients, momenta, mean)

    def part(index):
        return jax.tree.map(operator.itemgetter(index), visited, is_leaf=lambda x: isinstance(x, _Visited))

    return part(0), part(1), part(2)


class Clusters(NamedTuple):
    """What all forms of the method share, made from their arguments.

    Attributes:
        method: The public name of the form, for error messages.
        num_clusters: See `cluster_control_variate`.
        alpha: Share of a new gradient in the momentum of its cluster.
        probabilities: Each cluster's share of the data, or None.
        inverse_probability: Whether the momenta of rare clusters move faster.
    """

    method: str
    num_clusters: int
    alpha: jax.typing.ArrayLike
    probabilities: Any
    inverse_probability: bool

    def check(self) -> None:
        """Raises if an argument is out of its range."""
        refuse_arrays(num_clusters=self.num_clusters)
        check_range("num_clusters", self.num_clusters, 1)
        check_count("num_clusters", self.num_clusters)
        check_range("alpha", self.alpha, 0.0, 1.0, low_open=True)
        if self.probabilities is None:
            return
        if np.shape(self.probabilities) != (self.num_clusters,):
            raise ValueError(
                f"probabilities must have one number for each of {self.num_clusters} clusters, "
                f"got the shape {np.shape(self.probabilities)}"
            )
        if not isinstance(self.probabilities, jax.Array):
            check_range("the sum of probabilities", float(np.sum(self.probabilities)), 1 - 1e-3, 1 + 1e-3)
            check_range("probabilities", np.asarray(self.probabilities), 0.0, 1.0)

    def init(self, params: Any) -> ClusterControlVariateState:
        """Begins with momenta of zero."""
        zeros = optax.tree.zeros_like(params)
        momenta = optax.tree.batch_shape(zeros, (self.num_clusters,))
        if self.probabilities is not None:
            return ClusterControlVariateState(momenta, zeros, None, None)
        frequencies = jnp.full(self.num_clusters, 1 / self.num_clusters, scalar_dtype(params))
        return ClusterControlVariateState(momenta, zeros, frequencies, jnp.zeros([], jnp.int32))

    def visit(self, state: ClusterControlVariateState, fractions: jax.Array) -> tuple[Visit, Any, Any]:
        """Returns how a batch with these fractions visits all clusters, and the new frequencies and count."""
        given = self.probabilities is not None
        probabilities = jnp.asarray(self.probabilities) if given else state.frequencies
        rates = self.alpha / probabilities if self.inverse_probability else self.alpha
        rates = jnp.broadcast_to(jnp.minimum(rates, 1), probabilities.shape)
        if given:
            return Visit(fractions, probabilities, rates, None), None, None
        pace = 1 / (state.count + 1 + self.num_clusters).astype(probabilities.dtype)
        frequencies = probabilities + pace * (fractions.astype(probabilities.dtype) - probabilities)
        return Visit(fractions, probabilities, rates, pace), frequencies, optax.safe_increment(state.count)

    def aggregator(self) -> aggregating.Aggregator:
        """Builds the form for batches that mix clusters."""
        self.check()

        def update_fn(updates, state, params=None, *, class_counts=None, **extra_args):
            del extra_args
            example = "class_counts=examples_of_each_class"
            counts = jnp.asarray(required(class_counts, "class_counts", self.method, example))
            rows = {jnp.shape(x)[:1] or (0,) for x in (counts, *jax.tree.leaves(updates))}
            if rows != {(self.num_clusters,)}:
                raise ValueError(
                    f"{self.method} takes gradients with a leading axis over clusters, and"
                    f" num_clusters is {self.num_clusters}: gradients and class_counts need as many rows, got"
                    f" {sorted(size for (size,) in rows)}"
                )
            total = jnp.sum(counts)
            dtype = scalar_dtype(state.mean)
            fractions = counts.astype(dtype) / jnp.where(total == 0, 1, total).astype(dtype)
            visit, frequencies, count = self.visit(state, fractions)

            def mean_gradient(fraction, share):
                return share / jnp.where(fraction == 0, 1, fraction).astype(share.dtype)

            gradients = jax.tree.map(lambda shares: jax.vmap(mean_gradient)(fractions, shares), updates)
            estimate, momenta, mean = visit_tree(visit, gradients, state.momenta, state.mean)
            require_reduced(estimate, params, self.method)
            return estimate, ClusterControlVariateState(momenta, mean, frequencies, count)

        return aggregating.Aggregator(self.init, update_fn)


DISCOVER = Paper(
    "Variance Reduction in Deep Learning: More Momentum is All You Need", "Tondji, Kashubin, Cissé", 2021, "2111.11828"
)
