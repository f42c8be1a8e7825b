"""Convex functions for `lion_kappa`; each function here returns a map from a leaf to a subgradient.

Chen, Liu, Liang, Liu, "Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts", 2023, arXiv:2310.05898.
The docstrings say which constraint or penalty on the parameters x weight decay 1 adds to the loss; this is the
conjugate of kappa. The conjugates were derived again and checked by experiment; the paper's table has the first five.

The absolute value of a complex number is its modulus, and its sign is the number over its modulus.

The functions that are not element-wise need whole leaves: under `jit` a leaf may be sharded, inside `shard_map` it may
not.
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
    """The l1 norm `sum |x|`, whose subgradient is the sign. It gives Lion.

    Weight decay 1 adds the constraint `max |x| <= 1`.

    Use it when all parameters should move equally far. Avoid it when gradients are mostly noise: see `lion_kappa`.

    Returns:
        The map from a leaf to a subgradient.

    Example:
        >>> l1()(jnp.array([3.0, 0.0, -2.0]))
        Array([ 1.,  0., -1.], dtype=float32)
    """
    return jnp.sign


def lp(p: float) -> Kappa:
    """The l_p norm of a leaf, whose subgradient for p = 2 is the normalized momentum.

    The subgradient, where `|x|_p` is the norm of the leaf::

        sign(x) * (|x| / |x|_p)^(p - 1)

    Weight decay 1 adds the constraint that the l_q norm of the leaf is at most 1, with `1/p + 1/q = 1`.

    Use it with `p=2` when the direction of the momentum should be kept and only its length should be fixed. Avoid it
    inside `shard_map` on sharded leaves, because it needs the norm of a whole leaf.

    Args:
        p: Order of the norm, above 1. 2 gives the normalized momentum.

    Returns:
        The map from a leaf to a subgradient, which is zero at zero.

    Raises:
        ValueError: If `p` is not above 1.

    Example:
        >>> lp(2.0)(jnp.array([3.0, 0.0, -4.0]))
        Array([ 0.6,  0. , -0.8], dtype=float32)
    """
    check_range("p", p, 1.0, low_open=True, high_open=True)

    def subgradient(x):
        return jnp.sign(x) * jnp.abs(_divide_by_norm(x, p)) ** (p - 1)

    return subgradient


def linf() -> Kappa:
    """The largest absolute value of a leaf, `max |x|`, whose subgradient moves a single coordinate.

    Weight decay 1 adds the constraint `sum |x| <= 1`. It gives greedy coordinate descent, or Frank-Wolfe with decay.

    Use it for sparse parameters. Avoid it for large leaves, because each step moves only one parameter of a leaf.

    Returns:
        The map from a leaf to a subgradient: the sign of the largest entry, the first one if several are equal, and 0
        elsewhere.

    Example:
        >>> linf()(jnp.array([3.0, 0.0, -4.0]))
        Array([ 0.,  0., -1.], dtype=float32)
    """

    def subgradient(x):
        if not x.size:
            return x
        magnitude = jnp.abs(x)
        # One axis after the other, because an index over all entries of a large leaf would not fit into 32 bits.
        for axis in range(x.ndim):
            others = tuple(other for other in range(x.ndim) if other != axis)
            largest = jnp.argmax(jnp.max(magnitude, axis=others))
            magnitude = jnp.where(jax.lax.broadcasted_iota(jnp.int32, x.shape, axis) == largest, magnitude, -1)
        return jnp.where(magnitude == -1, 0, jnp.sign(x))

    return subgradient


def soft(threshold: float) -> Kappa:
    """The sum of `max(|x| - threshold, 0)`, whose subgradient is the sign with a dead zone around zero.

    Weight decay 1 adds the penalty `threshold * sum |x|` and the constraint `max |x| <= 1`.

    Use it with weight decay for sparse parameters. Avoid a threshold above the usual size of the momentum, because then
    nothing moves.

    Args:
        threshold: Coordinates of the momentum that are not larger than this do not move their parameter, at least 0.

    Returns:
        The map from a leaf to a subgradient.

    Raises:
        ValueError: If `threshold` is negative.

    Example:
        >>> soft(1.0)(jnp.array([3.0, 0.5, -2.0]))
        Array([ 1.,  0., -1.], dtype=float32)
    """
    check_range("threshold", threshold, 0.0)

    def subgradient(x):
        return jnp.where(jnp.abs(x) <= threshold, 0, jnp.sign(x))

    return subgradient


def top_k(k: int) -> Kappa:
    """The sum of the k largest absolute values of a leaf, whose subgradient moves k coordinates by their sign.

    Weight decay 1 adds the constraints `sum |x| <= k` and `max |x| <= 1`.

    Use it when only the coordinates with the largest momentum should move. Avoid it for large sharded leaves, because
    the whole leaf is gathered on every device.

    Args:
        k: How many coordinates of a leaf move, at least 1. All move in a leaf that is smaller.

    Returns:
        The map from a leaf to a subgradient: the sign of the k largest entries, the first ones if several are equal,
        and 0 elsewhere.

    Raises:
        ValueError: If `k` is not a positive integer.

    Example:
        >>> top_k(2)(jnp.array([3.0, 0.5, -2.0]))
        Array([ 1.,  0., -1.], dtype=float32)
    """
    check_integer("k", k)

    def subgradient(x):
        whole = replicate(x)
        flat = whole.ravel()
        _, largest = jax.lax.top_k(jnp.abs(flat), min(k, flat.size))
        # Not with `.at`, whose indices would need 64 bits for a leaf with 2**31 entries.
        chosen = jax.lax.scatter(
            jnp.zeros_like(flat), largest[:, None], jnp.ones_like(largest, flat.dtype), _ENTRIES, unique_indices=True
        )
        return shard_like((jnp.sign(flat) * chosen).reshape(x.shape), x)

    return subgradient


def huber(threshold: float) -> Kappa:
    """The Huber function, whose gradient is `x / max(|x|, threshold)`: a sign that is linear near zero.

    Weight decay 1 adds the penalty `threshold / 2 * sum x^2` and the constraint `max |x| <= 1`.

    Use it in place of `kappa.l1` when parameters with a small momentum should move less. Avoid a threshold far above
    the usual size of the momentum, because it then only rescales it.

    Args:
        threshold: Distance from zero at which the square passes into the absolute value, above 0.

    Returns:
        The map from a leaf to a gradient.

    Raises:
        ValueError: If `threshold` is not positive.

    Example:
        >>> huber(2.0)(jnp.array([3.0, 0.5, -1.0]))
        Array([ 1.  ,  0.25, -0.5 ], dtype=float32)
    """
    check_range("threshold", threshold, 0.0, low_open=True)

    def subgradient(x):
        return x / jnp.maximum(jnp.abs(x), threshold)

    return subgradient


def half_squared_l2() -> Kappa:
    """Half the squared l2 norm, whose gradient is the momentum itself: heavy-ball or Nesterov momentum with decay.

    Use it when Lion's momentum should be followed as it is. Avoid it with Lion's learning rates, because steps are as
    large as the gradients.

    Returns:
        The map from a leaf to a gradient.

    Example:
        >>> half_squared_l2()(jnp.array([3.0, 0.0, -2.0]))
        Array([ 3.,  0., -2.], dtype=float32)
    """
    return lambda x: x


def group() -> Kappa:
    """The sum of the l2 norms of the rows, whose subgradient divides each row by its norm.

    Weight decay 1 adds the constraint that the l2 norm of every row is at most 1. A row is everything after axis 0; a
    vector is one row.

    Use it when every row, for example every neuron, should move equally far. Avoid it when axis 0 does not count such
    groups.

    Returns:
        The map from a leaf to a subgradient.

    Example:
        >>> group()(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
        Array([[0.6, 0.8],
               [0. , 0. ]], dtype=float32)
    """

    def subgradient(x):
        return _divide_by_norm(x, axes=None if x.ndim < 2 else tuple(range(1, x.ndim)))

    return subgradient


def nuclear() -> Kappa:
    """The nuclear norm of a matrix, whose subgradient is its orthogonal factor: Muon with an exact factorization.

    The subgradient, where U S V^T is the singular value decomposition without the singular values that are zero::

        U V^T

    A leaf that is not a matrix gets the sign instead. Weight decay 1 adds the constraint that the spectral norm is at
    most 1.

    Use it for small matrices. Avoid it for large or sharded ones, because a singular value decomposition is slow and
    cannot be partitioned: a sharded matrix is gathered on every device. `muon` needs only products of matrices.

    Returns:
        The map from a leaf to a subgradient.

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
    """The sum of `sqrt(x^2 + scale^2)`, whose gradient `x / sqrt(x^2 + scale^2)` is a smooth sign.

    Weight decay 1 adds the barrier `-scale * sum sqrt(1 - x^2)`, so that `max |x| < 1`.

    Use it in place of `kappa.l1` when parameters with a small momentum should move less. Avoid a scale far above the
    usual size of the momentum, because it then only rescales it.

    Args:
        scale: Distance from zero at which the square passes into the absolute value, above 0.

    Returns:
        The map from a leaf to a gradient.

    Raises:
        ValueError: If `scale` is not positive.

    Example:
        >>> relativistic(4.0)(jnp.array([3.0, 0.0]))
        Array([0.6, 0. ], dtype=float32)
    """
    check_range("scale", scale, 0.0, low_open=True)

    def subgradient(x):
        return x / jnp.hypot(jnp.abs(x), scale)

    return subgradient


def log_cosh(scale: float) -> Kappa:
    """The sum of `scale * log cosh(x / scale)`, whose gradient `tanh(x / scale)` is a smooth sign.

    Weight decay 1 adds the penalty `scale / 2 * sum of (1 + x) log(1 + x) + (1 - x) log(1 - x)`.

    Use it in place of `kappa.l1` when parameters with a small momentum should move less. Avoid a scale far above the
    usual size of the momentum, because it then only rescales it.

    Args:
        scale: Distance from zero at which the square passes into the absolute value, above 0.

    Returns:
        The map from a leaf to a gradient.

    Raises:
        ValueError: If `scale` is not positive.

    Example:
        >>> log_cosh(1.0)(jnp.array([20.0, 0.0]))
        Array([1., 0.], dtype=float32)
    """
    check_range("scale", scale, 0.0, low_open=True)

    def subgradient(x):
        return jnp.sign(x) * jnp.tanh(jnp.abs(x) / scale)

    return subgradient


def log_sum_exp() -> Kappa:
    """The logarithm of the sum of exponentials over a leaf, whose gradient is the softmax.

    Weight decay 1 adds the penalty `sum p log p` for `p = -x`, and the constraint that p is a distribution.

    Use it only with weight decay, for parameters whose negatives are a distribution. Avoid it otherwise, because it is
    not even as the other functions are: every parameter falls at each step.

    Returns:
        The map from a leaf to a gradient.

    Example:
        >>> log_sum_exp()(jnp.zeros(4))
        Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """

    def subgradient(x):
        refuse_complex(x, "kappa.log_sum_exp")
        return jax.nn.softmax(x, axis=None)

    return subgradient


_SUMMARIES_AND_NAMES: Mapping[Callable[..., Kappa], tuple[str, tuple[str, ...]]] = {
    l1: ("The sign of each entry, which gives Lion.", ("sign",)),
    lp: (
        "The subgradient of the l_p norm of a leaf; for p = 2 the normalized momentum.",
        ("l_p norm", "normalized momentum"),
    ),
    linf: ("The sign of a leaf's largest entry alone.", ("l_inf norm", "greedy coordinate descent", "Frank-Wolfe")),
    soft: ("The sign of the entries above a threshold, for sparse parameters.", ("l1 with a dead zone",)),
    top_k: ("The sign of the k largest entries of a leaf.", ("top-k",)),
    huber: ("Linear in each entry near zero, and its sign beyond a threshold.", ("Huber", "refined Lion")),
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
        "Each entry divided by the square root of its square plus a constant, a smooth sign.",
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
