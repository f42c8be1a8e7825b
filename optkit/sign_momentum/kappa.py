"""The convex functions of Lion-kappa, each as the map from a leaf to a subgradient.

Chen, Liu, Liang, Liu, "Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts", 2023, arXiv:2310.05898.
The conjugates in the docstrings say what weight decay 1 adds to the loss. They were derived again and checked by
experiment; the paper's table has the first five.

The absolute value of a complex number is its modulus, and its sign the number over its modulus.

Those that are not element-wise see a leaf whole: under `jit` it may be sharded, inside `shard_map` it may not.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from optkit.core.checks import check_integer, check_range
from optkit.core.complex_numbers import refuse_complex
from optkit.core.linalg.explicit_axes import replicate, shard_like
from optkit.core.linalg.svd import svd
from optkit.method import Method, Paper

__all__ = [
    "group",
    "half_squared_l2",
    "huber",
    "l1",
    "linf",
    "log_cosh",
    "log_sum_exp",
    "lp",
    "nuclear",
    "relativistic",
    "soft",
    "top_k",
]

LION_KAPPA = Paper(
    "Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts", "Chen, Liu, Liang, Liu", 2023, "2310.05898"
)

Kappa = Callable[[jax.Array], jax.Array]

_ENTRIES = jax.lax.ScatterDimensionNumbers(
    update_window_dims=(), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,)
)


def _divide_by_norm(x: jax.Array, order: float = 2.0, axes: tuple[int, ...] | None = None) -> jax.Array:
    """Divides by the l_order norm over `axes`, without overflow or underflow; zero stays zero."""
    largest = jnp.max(jnp.abs(x), axis=axes, keepdims=True, initial=0.0)
    scaled = x / jnp.where(largest == 0, 1, largest)
    norm = jnp.sum(jnp.abs(scaled) ** order, axis=axes, keepdims=True) ** (1 / order)
    return scaled / jnp.where(norm == 0, 1, norm)


def l1() -> Kappa:
    """Sum of absolute values; the direction is the sign, and `max |x| <= 1` is implied (Lion).

    Returns:
        The map from a leaf to a subgradient.

    Example:
        >>> l1()(jnp.array([3.0, 0.0, -2.0]))
        Array([ 1.,  0., -1.], dtype=float32)
    """
    return jnp.sign


def lp(p: float) -> Kappa:
    """The l_p norm of a leaf; `l_q norm of x <= 1` with `1/p + 1/q = 1` is implied.

    Args:
        p: order of the norm, above 1; 2 gives the normalized momentum.

    Returns:
        The map from a leaf to a subgradient, zero at zero.

    Raises:
        ValueError: if `p` is not above 1.

    Example:
        >>> lp(2.0)(jnp.array([3.0, 0.0, -4.0]))
        Array([ 0.6,  0. , -0.8], dtype=float32)
    """
    check_range("p", p, 1.0, low_open=True, high_open=True)

    def subgradient(x):
        return jnp.sign(x) * jnp.abs(_divide_by_norm(x, p)) ** (p - 1)

    return subgradient


def linf() -> Kappa:
    """The largest absolute value of a leaf; `sum |x| <= 1` is implied (greedy coordinate descent, Frank-Wolfe).

    Returns:
        The map from a leaf to a subgradient: the sign of the largest entry, the first of equal ones.

    Example:
        >>> linf()(jnp.array([3.0, 0.0, -4.0]))
        Array([ 0.,  0., -1.], dtype=float32)
    """

    def subgradient(x):
        if not x.size:
            return x
        magnitude = jnp.abs(x)
        # One axis after the other: an index over all entries of a large leaf would not fit into 32 bits.
        for axis in range(x.ndim):
            others = tuple(other for other in range(x.ndim) if other != axis)
            largest = jnp.argmax(jnp.max(magnitude, axis=others))
            magnitude = jnp.where(jax.lax.broadcasted_iota(jnp.int32, x.shape, axis) == largest, magnitude, -1)
        return jnp.where(magnitude == -1, 0, jnp.sign(x))

    return subgradient


def soft(threshold: float) -> Kappa:
    """Sum of `max(|x| - threshold, 0)`; the penalty `threshold * sum |x|` and `max |x| <= 1` are implied: sparse.

    Args:
        threshold: below it a coordinate of the momentum does not move its parameter, at least 0.

    Returns:
        The map from a leaf to a subgradient.

    Raises:
        ValueError: if `threshold` is negative.

    Example:
        >>> soft(1.0)(jnp.array([3.0, 0.5, -2.0]))
        Array([ 1.,  0., -1.], dtype=float32)
    """
    check_range("threshold", threshold, 0.0)

    def subgradient(x):
        return jnp.where(jnp.abs(x) <= threshold, 0, jnp.sign(x))

    return subgradient


def top_k(k: int) -> Kappa:
    """Sum of the k largest absolute values of a leaf; `sum |x| <= k` and `max |x| <= 1` are implied.

    Args:
        k: how many coordinates move, at least 1; all of a smaller leaf do.

    Returns:
        The map from a leaf to a subgradient: the sign on the k largest entries, the first of equal ones.

    Raises:
        ValueError: if `k` is not a positive integer.

    Example:
        >>> top_k(2)(jnp.array([3.0, 0.5, -2.0]))
        Array([ 1.,  0., -1.], dtype=float32)
    """
    check_integer("k", k)

    def subgradient(x):
        whole = replicate(x)
        flat = whole.ravel()
        _, largest = jax.lax.top_k(jnp.abs(flat), min(k, flat.size))
        # Not by `.at`, whose indices would need 64 bits for a leaf of 2**31 entries.
        chosen = jax.lax.scatter(
            jnp.zeros_like(flat), largest[:, None], jnp.ones_like(largest, flat.dtype), _ENTRIES, unique_indices=True
        )
        return shard_like((jnp.sign(flat) * chosen).reshape(x.shape), x)

    return subgradient


def huber(threshold: float) -> Kappa:
    """The Huber function; the penalty `threshold / 2 * sum x^2` and `max |x| <= 1` are implied.

    Args:
        threshold: where the square passes into the absolute value, above 0.

    Returns:
        The map from a leaf to a gradient.

    Raises:
        ValueError: if `threshold` is not positive.

    Example:
        >>> huber(2.0)(jnp.array([3.0, 0.5, -1.0]))
        Array([ 1.  ,  0.25, -0.5 ], dtype=float32)
    """
    check_range("threshold", threshold, 0.0, low_open=True)

    def subgradient(x):
        return x / jnp.maximum(jnp.abs(x), threshold)

    return subgradient


def half_squared_l2() -> Kappa:
    """Half the squared l2 norm: the direction is the momentum itself, heavy ball or Nesterov with decay.

    Returns:
        The map from a leaf to a gradient.

    Example:
        >>> half_squared_l2()(jnp.array([3.0, 0.0, -2.0]))
        Array([ 3.,  0., -2.], dtype=float32)
    """
    return lambda x: x


def group() -> Kappa:
    """Sum of the l2 norms of the rows (a vector is one row); `l2 norm of every row <= 1` is implied.

    Returns:
        The map from a leaf to a subgradient: each row, everything after axis 0, divided by its norm.

    Example:
        >>> group()(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
        Array([[0.6, 0.8],
               [0. , 0. ]], dtype=float32)
    """

    def subgradient(x):
        return _divide_by_norm(x, axes=None if x.ndim < 2 else tuple(range(1, x.ndim)))

    return subgradient


def nuclear() -> Kappa:
    """The nuclear norm of a matrix; `spectral norm <= 1` is implied (Muon with an exact factorization).

    A leaf that is not a matrix takes the sign. The singular value decomposition cannot be partitioned: a sharded matrix
    is gathered on every device.

    Returns:
        The map from a leaf to a subgradient: `U V^T` over the singular values that are not zero.

    Example:
        >>> nuclear()(jnp.array([[3.0, 0.0], [0.0, -2.0]]))
        Array([[ 1.,  0.],
               [ 0., -1.]], dtype=float32)
    """

    def subgradient(x):
        if x.ndim != 2 or not x.size:
            return jnp.sign(x)
        left, values, right = svd(replicate(x))
        negligible = max(x.shape) * jnp.finfo(x.dtype).eps * jnp.max(values)
        return shard_like((left * (values > negligible)[None, :]) @ right, x)

    return subgradient


def relativistic(scale: float) -> Kappa:
    """Sum of `sqrt(x^2 + scale^2)`; the barrier `-scale * sum sqrt(1 - x^2)` is implied: `max |x| < 1`.

    Args:
        scale: where the square passes into the absolute value, above 0.

    Returns:
        The map from a leaf to a gradient.

    Raises:
        ValueError: if `scale` is not positive.

    Example:
        >>> relativistic(4.0)(jnp.array([3.0, 0.0]))
        Array([0.6, 0. ], dtype=float32)
    """
    check_range("scale", scale, 0.0, low_open=True)

    def subgradient(x):
        return x / jnp.hypot(jnp.abs(x), scale)

    return subgradient


def log_cosh(scale: float) -> Kappa:
    """Sum of `scale * log cosh(x / scale)`; `scale/2 * sum of (1+x) log(1+x) + (1-x) log(1-x)` is implied.

    Args:
        scale: where the square passes into the absolute value, above 0.

    Returns:
        The map from a leaf to a gradient.

    Raises:
        ValueError: if `scale` is not positive.

    Example:
        >>> log_cosh(1.0)(jnp.array([20.0, 0.0]))
        Array([1., 0.], dtype=float32)
    """
    check_range("scale", scale, 0.0, low_open=True)

    def subgradient(x):
        return jnp.sign(x) * jnp.tanh(jnp.abs(x) / scale)

    return subgradient


def log_sum_exp() -> Kappa:
    """Log of the sum of exponentials over a leaf; with decay 1 `sum x log x` on the simplex of `-x` is implied.

    Unlike the others it is not even: every parameter falls at each step. Take it with weight decay only, for parameters
    whose negatives are a distribution.

    Returns:
        The map from a leaf to a gradient, the softmax.

    Example:
        >>> log_sum_exp()(jnp.zeros(4))
        Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """

    def subgradient(x):
        refuse_complex(x, "kappa.log_sum_exp")
        return jax.nn.softmax(x, axis=None)

    return subgradient


_SUMMARIES_AND_NAMES: Mapping[Callable[..., Kappa], tuple[str, tuple[str, ...]]] = {
    l1: ("The sign of each entry, which makes Lion.", ("sign",)),
    lp: (
        "The subgradient of the l_p norm of a leaf; for p = 2 the normalized momentum.",
        ("l_p norm", "normalized momentum"),
    ),
    linf: ("The sign of a leaf's largest entry alone.", ("l_inf norm", "greedy coordinate descent", "Frank-Wolfe")),
    soft: ("The sign of the entries above a threshold, for sparse parameters.", ("l1 with a dead zone",)),
    top_k: ("The sign of the k largest entries of a leaf.", ("top-k",)),
    huber: ("Proportional to each entry near zero, its sign from a threshold on.", ("Huber", "refined Lion")),
    half_squared_l2: ("The momentum itself: heavy ball or Nesterov with decay.", ("heavy ball", "Nesterov")),
    group: (
        "Each row divided by its norm; with weight decay the norm of every row is bounded.",
        ("group norm", "row normalization"),
    ),
    nuclear: (
        "The orthogonal factor of a matrix: Muon with an exact factorization.",
        ("nuclear norm", "spectral ball"),
    ),
    relativistic: (
        "Each entry over the root of its square plus a constant, a smooth sign.",
        ("pseudo-Huber",),
    ),
    log_cosh: ("The hyperbolic tangent of each entry, a smooth sign.", ("log-cosh", "tanh", "smooth Lion")),
    log_sum_exp: (
        "The softmax of a leaf, for parameters whose negatives are a distribution.",
        ("log-sum-exp", "softmax"),
    ),
}

METHODS = tuple(
    Method(
        name=f"kappa.{factory.__name__}",
        factory=factory,
        kind="function",
        summary=summary,
        paper=LION_KAPPA,
        also_known_as=names,
    )
    for factory, (summary, names) in _SUMMARIES_AND_NAMES.items()
)
