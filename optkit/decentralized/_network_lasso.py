"""Network lasso: draws neighbours' parameters together until they are equal within clusters.

Hallac, Leskovec, Boyd, "Network Lasso: Clustering and Optimization in Large Graphs", 2015, arXiv:1507.00280. The
algorithm is the alternating direction method of multipliers (ADMM) of section 3.
"""

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optkit.core.checks import check_integer, check_range
from optkit.core.precision import scalar_dtype, widen
from optkit.decentralized.topology._weights import require_undirected
from optkit.method import Method, Paper

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["network_lasso", "network_lasso_start", "network_lasso_sweep"]


class NodesProximalMap(Protocol):
    """The proximal maps of all nodes' losses, in one function."""

    def __call__(self, points: Any, steps: jax.Array, /) -> Any:
        """Returns the minimizers over x of `f_i(x) + |x - point_i|^2 / (2 * step_i)` for all nodes i.

        Args:
            points: A tree shaped like the parameters, with a leading axis over nodes.
            steps: Step sizes, shape (nodes,).

        Returns:
            A tree like `points`.
        """
        ...


class NetworkLassoState(NamedTuple):
    """State of `network_lasso_sweep`.

    Attributes:
        params: Parameters of all nodes, with a leading axis over nodes.
        copies: Copies on which each node and its neighbours agree, with a leading axis over edges and one over their
            two ends.
        duals: Sums of the differences between each node's parameters and its copies so far, shaped like `copies`.
    """

    params: Any
    copies: Any
    duals: Any


def network_lasso_start(params: Any, graph: "nx.Graph") -> NetworkLassoState:
    """Makes the state before the first sweep, in float32 at least.

    Use it when you call `network_lasso_sweep` in a loop of your own.

    Args:
        params: The first parameters, with a leading axis over nodes.
        graph: See `network_lasso`.

    Returns:
        The state. It holds two more copies of the parameters for each end of an edge.

    Raises:
        ValueError: If a node has no neighbour, the graph is directed, or the leading axis and the graph have different
            sizes.
        TypeError: If `graph` is not a graph of `networkx`.

    Example:
        >>> import networkx as nx
        >>> network_lasso_start(jnp.zeros((3, 5)), nx.path_graph(3)).copies.shape
        (2, 2, 5)
    """
    ends, _ = _edges(graph)
    for path, x in jax.tree.leaves_with_path(params):
        if x.ndim == 0 or len(x) != graph.number_of_nodes():
            raise ValueError(
                f"params must have a leading axis over {graph.number_of_nodes()} nodes, got the leaf"
                f" {jax.tree_util.keystr(path)} of shape {x.shape}"
            )
    wide = widen(params)
    zeros = jax.tree.map(lambda x: jnp.zeros((*ends.shape, *x.shape[1:]), x.dtype), wide)
    return NetworkLassoState(params=wide, copies=zeros, duals=zeros)


def network_lasso_sweep(
    proximal_map: NodesProximalMap,
    state: NetworkLassoState,
    graph: "nx.Graph",
    penalty: jax.typing.ArrayLike,
    rho: jax.typing.ArrayLike = 1.0,
) -> NetworkLassoState:
    """Takes one step of `network_lasso`: updates all nodes, all edges, and all dual variables once.

    The update rule, where k_i is the number of neighbours of node i, z are the copies, u the duals, w the weight of the
    edge, and v_ij = x_i + u_ij with the new x::

        x_i  = minimizer of f_i(x) + rho * k_i / 2 * |x - mean over j of (z_ij - u_ij)|^2
        t    = max(1 - penalty * w / (rho * |v_ij - v_ji|), 1/2)
        z_ij = t * v_ij + (1 - t) * v_ji
        u_ij = v_ij - z_ij

    Use it when you want to look at residuals, or stop by a criterion of your own. Otherwise use `network_lasso`.

    Args:
        proximal_map: See `network_lasso`.
        state: The state before the sweep.
        graph: See `network_lasso`.
        penalty: See `network_lasso`.
        rho: See `network_lasso`. Default: 1.

    Returns:
        The state after the sweep.

    Raises:
        ValueError: If `penalty` or `rho` is out of its range, a node has no neighbour, or the graph is directed.
        TypeError: If `graph` is not a graph of `networkx`.

    Example:
        >>> import networkx as nx
        >>> to_data = lambda points, steps: (points + steps[:, None] * jnp.eye(2)) / (1 + steps[:, None])
        >>> state = network_lasso_start(jnp.zeros((2, 2)), nx.path_graph(2))
        >>> network_lasso_sweep(to_data, state, nx.path_graph(2), penalty=1.0).params
        Array([[0.5, 0. ],
               [0. , 0.5]], dtype=float32)

    Reference:
        arXiv:1507.00280.
    """
    check_range("penalty", penalty, 0.0)
    check_range("rho", rho, 0.0, low_open=True)
    ends, weights = _edges(graph)
    degrees = np.bincount(ends.ravel(), minlength=graph.number_of_nodes())

    def center(z, u):
        total = jnp.zeros((len(degrees), *z.shape[2:]), z.dtype).at[ends].add(z - u)
        return total / _expand(jnp.asarray(degrees), total)

    dtype = scalar_dtype(state.params)
    steps = jnp.reciprocal(rho * jnp.asarray(degrees, dtype))
    # The sum of squared distances to all copies is their number times the one to their mean, plus a constant.
    params = proximal_map(jax.tree.map(center, state.copies, state.duals), steps)  # x update
    wanted = jax.tree.map(lambda x, u: x[ends] + u, params, state.duals)
    squares = [jnp.sum(jnp.square(v[:, 0] - v[:, 1]), axis=range(1, v.ndim - 1)) for v in jax.tree.leaves(wanted)]
    distance = jnp.sqrt(sum(squares, jnp.zeros(len(ends), dtype)))
    apart = jnp.where(distance > 0, rho * distance, 1)
    reach = jnp.where(distance > 0, penalty * jnp.asarray(weights, dtype) / apart, jnp.inf)
    share = jnp.maximum(1 - reach, 0.5)

    def agree(v):
        theta = _expand(share, v).astype(v.dtype)
        return theta * v + (1 - theta) * v[:, ::-1]  # z update

    copies = jax.tree.map(agree, wanted)
    return NetworkLassoState(params, copies, jax.tree.map(jnp.subtract, wanted, copies))  # u update


def network_lasso(
    proximal_map: NodesProximalMap,
    params: Any,
    graph: "nx.Graph",
    penalty: jax.typing.ArrayLike,
    rho: jax.typing.ArrayLike = 1.0,
    *,
    sweeps: int = 100,
) -> Any:
    """Minimizes the nodes' losses plus a penalty on the distances between neighbours' parameters, by ADMM.

    The objective, where norms are plain norms over all leaves, not squared::

        sum_i f_i(x_i) + penalty * sum over edges of weight * |x_i - x_j|

    The larger the penalty, the more neighbours have exactly equal parameters at the optimum. The steps are those of
    `network_lasso_sweep`.

    Use it when nodes form clusters that should share parameters, and the clusters are not known. Avoid it for training
    one common model, which is the limit of a large penalty: `gossip` does that. Its state holds two copies of the
    parameters for each end of an edge.

    Args:
        proximal_map: A function `proximal_map(points, steps)` that returns the minimizers over x of `f_i(x) + |x -
            point_i|^2 / (2 * step_i)` for all nodes i. The points are shaped like `params`, the steps have shape
            (nodes,). If `rho` is large, a few gradient steps from the points are enough.
        params: The first parameters, with a leading axis over nodes.
        graph: An undirected graph. Its nodes, in their order, own the parameters, and each must have a neighbour. The
            weight of an edge is its attribute "weight", or 1 without it.
        penalty: Strength of the penalty on distances, at least 0.
        rho: Strength of the penalty on disagreement inside ADMM, above 0. It changes only the speed. Default: 1.
        sweeps: Number of sweeps, at least 1. Default: 100.

    Returns:
        The parameters of all nodes. They are optimal in the limit; before that, the parameters within a cluster are
        equal only up to a residual, which `network_lasso_sweep` shows.

    Raises:
        ValueError: If an argument is out of its range, a node has no neighbour, the graph is directed, or shapes do not
            match.
        TypeError: If `graph` is not a graph of `networkx`.

    Example:
        >>> import networkx as nx
        >>> data = jnp.array([[0.0], [2.0], [10.0]])
        >>> to_data = lambda points, steps: (points + steps[:, None] * data) / (1 + steps[:, None])
        >>> network_lasso(to_data, data, nx.path_graph(3), penalty=1.0, sweeps=200).round(3)
        Array([[1.],
               [2.],
               [9.]], dtype=float32)

    Reference:
        arXiv:1507.00280.
    """
    check_integer("sweeps", sweeps)

    def sweep(state, _):
        return network_lasso_sweep(proximal_map, state, graph, penalty, rho), None

    state, _ = jax.lax.scan(sweep, network_lasso_start(params, graph), length=sweeps)
    return optax.tree.cast_like(state.params, params)


def _edges(graph: "nx.Graph") -> tuple[np.ndarray, np.ndarray]:
    """Returns the two ends of each edge, as numbers of nodes, and the weights of the edges."""
    require_undirected(graph, "graph")
    number = {node: index for index, node in enumerate(graph)}
    lonely = [node for node, degree in graph.degree() if degree == 0]
    if lonely or not number:
        raise ValueError(f"each node must have a neighbour, got {lonely or 'no nodes'}: minimize its loss alone")
    edges = [(number[a], number[b], weight) for a, b, weight in graph.edges(data="weight", default=1.0) if a != b]
    return np.array([edge[:2] for edge in edges]), np.array([edge[2] for edge in edges], np.float64)


def _expand(values: jax.Array, like: jax.Array) -> jax.Array:
    """Adds axes after the first one."""
    return jnp.reshape(values, (-1, *(1,) * (like.ndim - 1)))


METHODS = (
    Method(
        name="network_lasso",
        factory=network_lasso,
        kind="function",
        summary="Draws neighbours' parameters together until they are equal within clusters, by ADMM.",
        paper=Paper(
            "Network Lasso: Clustering and Optimization in Large Graphs", "Hallac, Leskovec, Boyd", 2015, "1507.00280"
        ),
        also_known_as=("ADMM", "alternating direction method of multipliers"),
        parts=(NetworkLassoState, network_lasso_start, network_lasso_sweep),
    ),
)
