"""Network lasso: neighbours' parameters are drawn together until they are equal, cluster by cluster.

Hallac, Leskovec, Boyd, "Network Lasso: Clustering and Optimization in Large Graphs", 2015, arXiv:1507.00280. The
alternating direction method of multipliers (ADMM) of its section 3.
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
    """The proximal maps of all nodes' losses."""

    def __call__(self, points: Any, steps: jax.Array, /) -> Any:
        """Gives the minimizers over x of `f_i(x) + |x - point_i|^2 / (2 * step_i)` of all nodes.

        Args:
            points: shaped like the parameters, with a leading axis over nodes.
            steps: shape (nodes,).

        Returns:
            A tree like `points`.
        """
        ...


class NetworkLassoState(NamedTuple):
    """State of `network_lasso_sweep`.

    Attributes:
        params: of all nodes, with a leading axis over them.
        copies: what nodes agree on with each of their neighbours: a leading axis over edges, and one over their two
            ends.
        duals: what each node's parameters missed of that so far, shaped like `copies`.
    """

    params: Any
    copies: Any
    duals: Any


def network_lasso_start(params: Any, graph: "nx.Graph") -> NetworkLassoState:
    """Gives the state before the first sweep, in float32 at least.

    Args:
        params: with a leading axis over nodes.
        graph: see `network_lasso`.

    Returns:
        The state: two more copies of the parameters for each end of an edge.

    Raises:
        ValueError: if a node has no neighbour, the graph is directed, or the leading axis has another size than it.
        TypeError: if `graph` is no graph of `networkx`.

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
    """Updates all nodes, all edges, and all duals once.

    Args:
        proximal_map: see `network_lasso`, as for all other arguments.
        state: before the sweep.
        graph: as there.
        penalty: as there.
        rho: as there.

    Returns:
        The state after it.

    Example:
        >>> import networkx as nx
        >>> to_data = lambda points, steps: (points + steps[:, None] * jnp.eye(2)) / (1 + steps[:, None])
        >>> state = network_lasso_start(jnp.zeros((2, 2)), nx.path_graph(2))
        >>> network_lasso_sweep(to_data, state, nx.path_graph(2), penalty=1.0).params
        Array([[0.5, 0. ],
               [0. , 0.5]], dtype=float32)

    Reference:
        Hallac, Leskovec, Boyd, "Network Lasso: Clustering and Optimization in Large Graphs", 2015, arXiv:1507.00280.
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
    # The sum of squared distances to all copies is that to their mean, times their number, and a constant.
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
    """Minimizes the nodes' losses plus the distances between neighbours' parameters, by ADMM.

    The objective is `sum_i f_i(x_i) + penalty * sum_edges weight * |x_i - x_j|`, with plain norms over all leaves: with
    a larger penalty more neighbours have exactly equal parameters in the optimum. Do not take it to train one common
    model: that is the limit of a large penalty, and `gossip` is for it.

    Args:
        proximal_map: gives the minimizers over x of `f_i(x) + |x - point_i|^2 / (2 * step_i)` of all nodes: called with
            points shaped like `params` and steps of shape (nodes,). A few gradient steps from the points will do if
            `rho` is large.
        params: at the start, with a leading axis over nodes.
        graph: undirected; its nodes, in their order, own the parameters, and each has a neighbour. Edges have the
            attribute "weight", by default 1.
        penalty: of distances, at least 0.
        rho: of disagreement inside ADMM, above 0; default 1. It changes the speed only.
        sweeps: how many; default 100.

    Returns:
        The parameters of all nodes. They are optimal in the limit, and then equal in a cluster up to what is left;
        `network_lasso_sweep` lets you look at residuals.

    Raises:
        ValueError: if an argument is out of its range, a node has no neighbour, the graph is directed, or shapes do not
            fit.
        TypeError: if `graph` is no graph of `networkx`.

    Example:
        >>> import networkx as nx
        >>> data = jnp.array([[0.0], [2.0], [10.0]])
        >>> to_data = lambda points, steps: (points + steps[:, None] * data) / (1 + steps[:, None])
        >>> network_lasso(to_data, data, nx.path_graph(3), penalty=1.0, sweeps=200).round(3)
        Array([[1.],
               [2.],
               [9.]], dtype=float32)

    Reference:
        Hallac, Leskovec, Boyd, "Network Lasso: Clustering and Optimization in Large Graphs", 2015, arXiv:1507.00280.
    """
    check_integer("sweeps", sweeps)

    def sweep(state, _):
        return network_lasso_sweep(proximal_map, state, graph, penalty, rho), None

    state, _ = jax.lax.scan(sweep, network_lasso_start(params, graph), length=sweeps)
    return optax.tree.cast_like(state.params, params)


def _edges(graph: "nx.Graph") -> tuple[np.ndarray, np.ndarray]:
    """Gives the edges' two ends as numbers of nodes, and their weights."""
    require_undirected(graph, "graph")
    number = {node: index for index, node in enumerate(graph)}
    lonely = [node for node, degree in graph.degree() if degree == 0]
    if lonely or not number:
        raise ValueError(f"each node must have a neighbour, got {lonely or 'no nodes'}: minimize its loss alone")
    edges = [(number[a], number[b], weight) for a, b, weight in graph.edges(data="weight", default=1.0) if a != b]
    return np.array([edge[:2] for edge in edges]), np.array([edge[2] for edge in edges], np.float64)


def _expand(values: jax.Array, like: jax.Array) -> jax.Array:
    """Adds axes behind the first one."""
    return jnp.reshape(values, (-1, *(1,) * (like.ndim - 1)))


METHODS = (
    Method(
        name="network_lasso",
        factory=network_lasso,
        kind="function",
        summary="Draws neighbours' parameters together until they are equal, cluster by cluster, by ADMM.",
        paper=Paper(
            "Network Lasso: Clustering and Optimization in Large Graphs", "Hallac, Leskovec, Boyd", 2015, "1507.00280"
        ),
        also_known_as=("ADMM", "alternating direction method of multipliers"),
        parts=(NetworkLassoState, network_lasso_start, network_lasso_sweep),
    ),
)
