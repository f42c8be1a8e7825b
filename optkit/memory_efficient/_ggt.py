"""GGT: AdaGrad with a full matrix, from a window of the last gradients, whole or compressed with error feedback.

Agarwal et al., "Efficient Full-Matrix Adaptive Regularization", 2018, arXiv:1806.02958; compressed: Modoranu et al.,
"Error Feedback Can Accurately Compress Preconditioners", 2023, arXiv:2306.06098. Their code adds 1e-6 to the squared
singular values, so that gradients below 1e-3 are divided by epsilon; here singular values that rounding hides are left
out instead. Their code also projects on the window without its decay; the paper, and the default here, use the decayed
window.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.compressors import Compressor
from optkit.core.checks import check_count, check_range
from optkit.core.complex_numbers import only_real
from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.types import AxisName, Mask
from optkit.memory_efficient._gradient_window import (
    GradientWindow,
    ages,
    average_over,
    combine,
    empty_window,
    inner_products,
    push,
    unless_bad,
)
from optkit.method import Method, Paper, Variant

__all__ = ["ggt", "scale_by_ggt"]


class ScaleByGGTState(NamedTuple):
    """State of `scale_by_ggt`.

    Attributes:
        window: The last gradients and their inner products.
        momentum: Exponential average of the gradients, with the shapes and shardings of the parameters; None without
            momentum.
    """

    window: GradientWindow
    momentum: Any


def scale_by_ggt(
    window: int | None = None,
    b1: jax.typing.ArrayLike | None = None,
    b2: jax.typing.ArrayLike = 1.0,
    eps: jax.typing.ArrayLike = 1e-5,
    *,
    jitter: jax.typing.ArrayLike = 0.0,
    undecayed_backprojection: bool = False,
    compressor: Compressor | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Divides gradients by the square root of the sum of their outer products over a window: full-matrix AdaGrad.

    The update rule, where all leaves together are one vector, the rows of G are the gradients of the window, each
    multiplied by b2 to the power of its age, and U, S, V are the singular value decomposition of G^T::

        v = g          (v = b1 * v + (1 - b1) * g with momentum)
        G^T = U S V^T
        u = U (S + eps)^-1 U^T v + (v - U U^T v) / eps

    The newest gradient is in the window: without momentum and jitter, the second term of u is zero.

    Use it when a model is small and its gradients are strongly correlated, so that scaling each coordinate by itself is
    not enough; with `b1` and `b2` below 1 it is a full-matrix Adam. Avoid it, without a compressor, when `window`
    gradients do not fit into memory. In float32, avoid it when the norms of the gradients in the window differ by more
    than a factor of 1000, because the small ones have no effect until the large ones have left the window. A `window` x
    `window` matrix is diagonalized in each step.

    Args:
        window: Number of gradients in the window, at least 1. Default: None, which stands for 100.
        b1: Decay rate of the momentum, in [0, 1). Default: None, without momentum. Then the gradient lies in the span
            of the window, and an update has a length of at most one.
        b2: Decay rate of the gradients in the window, in [0, 1]. Default: 1. Each step multiplies them by it.
        eps: Added to the singular values, above 0. Default: 1e-5. The part of a momentum outside the span of the window
            is divided by `eps` alone, so that the right learning rate depends on `eps`.
        jitter: Added to the squares of the singular values, at least 0. Default: 0. Gradients that are small against
            its square root count as outside the span of the window. The published code uses 1e-6.
        undecayed_backprojection: Whether U is computed from the window without its decay, as in the published code.
            Default: False.
        compressor: Keeps the gradients of the window in compressed form. Default: None, whole gradients. With a
            compressor, put the transformation inside `error_feedback` with the same compressor.

    Returns:
        A transformation. Its state is `window` gradients (or their compressed form), `window**2` numbers, and the
        momentum.

    Raises:
        TypeError: From `init`, if parameters are complex; from `update`, if the compressed gradient is missing.
        ValueError: If a hyperparameter is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_ggt(window=2)
        >>> updates, state = tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))
        >>> bool(jnp.allclose(updates, jnp.array([0.6, 0.8])))
        True

    Reference:
        arXiv:1806.02958
    """
    refuse_arrays(window=window)
    check_count("window", window)
    size = 100 if window is None else window
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0, low_open=True)
    check_range("jitter", jitter, 0.0)

    def init_fn(params):
        momentum = None if b1 is None else optax.tree.zeros_like(params)
        return ScaleByGGTState(window=empty_window(params, size, compressor), momentum=momentum)

    def update_fn(updates, state, params=None, *, compressed=None, **extra_args):
        del params, extra_args
        last = push(state.window, updates, compressed, compressor, "scale_by_ggt")
        spectrum = _spectrum(last, b2, jitter)
        back = jnp.ones_like(spectrum.decays) if undecayed_backprojection else spectrum.decays
        if b1 is None and not undecayed_backprojection:
            weights = unless_bad(back * _weights_of_newest(last, spectrum, eps), last)
            return combine(weights, last, updates, compressor), ScaleByGGTState(window=last, momentum=None)

        momentum = updates
        if b1 is not None:
            momentum = optax.tree.update_moment(updates, state.momentum, b1, order=1)
            momentum = optax.tree.cast_like(momentum, state.momentum)
        products = back * inner_products(last, momentum, compressor)
        weights = unless_bad(back * _weights(spectrum, products, eps), last)
        inside = combine(weights, last, updates, compressor)
        direction = jax.tree.map(lambda x, v: (x + v / eps).astype(x.dtype), inside, momentum)
        return direction, ScaleByGGTState(window=last, momentum=None if b1 is None else momentum)

    return only_real("scale_by_ggt", optax.GradientTransformationExtraArgs(init_fn, update_fn))


class _Spectrum(NamedTuple):
    """Singular values and vectors of the decayed window, from its inner products.

    Attributes:
        decays: Factors by which the rows of the window are decayed.
        vectors: V, with columns of zeros for singular values that rounding hides.
        values: S, positive.
        missing: Share of the jitter in S^2: how far U is from being orthonormal.
    """

    decays: jax.Array
    vectors: jax.Array
    values: jax.Array
    missing: jax.Array


def _spectrum(window: GradientWindow, b2: jax.typing.ArrayLike, jitter: jax.typing.ArrayLike) -> _Spectrum:
    gram = window.gram
    decays = jnp.power(b2, ages(window).astype(gram.dtype)).astype(gram.dtype)
    squares, vectors = jnp.linalg.eigh(decays[:, None] * gram * decays[None, :])
    resolved = squares > jnp.finfo(gram.dtype).eps * squares[-1]
    squares = jnp.where(resolved, squares + jitter, 1.0).astype(gram.dtype)
    return _Spectrum(decays, jnp.where(resolved, vectors, 0.0), jnp.sqrt(squares), jnp.divide(jitter, squares))


def _weights(spectrum: _Spectrum, products: jax.Array, eps: jax.typing.ArrayLike) -> jax.Array:
    """Returns weights of the rows, whose weighted sum is `U ((S + eps)^-1 - 1 / eps) U^T v`.

    The products are those of the rows with v.
    """
    _, vectors, values, _ = spectrum
    factors = (1 / (values + eps) - 1 / eps) / values  # the first U^T divides by S
    return vectors @ ((factors / values) * (products @ vectors)).astype(products.dtype)


def _weights_of_newest(window: GradientWindow, spectrum: _Spectrum, eps: jax.typing.ArrayLike) -> jax.Array:
    """Returns the weights with which the rows sum to the whole update of the newest gradient.

    That gradient is a row itself, so that `U^T g` and g need no products, and no difference is taken of `g / eps` and a
    number that is almost equal.
    """
    _, vectors, values, missing = spectrum
    factors = (1 - missing) / (values + eps) + missing / eps
    newest = (ages(window) == 0).astype(vectors.dtype)
    return vectors @ (factors * (newest @ vectors)).astype(vectors.dtype)


def ggt(
    learning_rate: optax.ScalarOrSchedule,
    window: int | None = None,
    b1: jax.typing.ArrayLike | None = None,
    b2: jax.typing.ArrayLike = 1.0,
    eps: jax.typing.ArrayLike = 1e-5,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    axis_name: AxisName | tuple[str, ...] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Full-matrix AdaGrad from a window of the last gradients.

    The update rule is `x = x - lr * u`, with u from `scale_by_ggt` applied to `g + wd * x`.

    Use it when a model is small and its gradients are strongly correlated, so that scaling each coordinate by itself is
    not enough. Avoid it when `window` gradients do not fit into memory: `sparse_ggt` needs a fiftieth of that.
    `scale_by_ggt` has options for what the published code does differently.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. Without momentum, it is the largest length of
            a step.
        window: See `scale_by_ggt`. Default: None, which stands for 100.
        b1: Decay rate of the momentum, in [0, 1). Default: None, without momentum. With momentum, the right learning
            rate depends on `eps`.
        b2: See `scale_by_ggt`. Default: 1.
        eps: Added to the singular values, above 0. Default: 1e-5.
        weight_decay: Strength of the L2 penalty, at least 0. Default: 0. It is added to the gradients before everything
            else, as in the published code.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        axis_name: Name of the axis over workers. A name, or a tuple of names, over which the gradients are averaged
            first. Default: None, for gradients that are already averaged.

    Returns:
        An optimizer. Its state is `window` gradients, `window**2` numbers, and the momentum.

    Raises:
        TypeError: From `init`, if parameters are complex.
        ValueError: If a hyperparameter is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.ggt(0.1, window=4)
        >>> params = jnp.array([3.0, 4.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> bool(jnp.allclose(updates, jnp.array([-0.06, -0.08])))
        True

    Reference:
        arXiv:1806.02958
    """
    refuse_arrays(mask=mask)
    scale = scale_by_ggt(window, b1, b2, eps)
    return ggt_around("ggt", learning_rate, scale, weight_decay, mask, axis_name)


def ggt_around(
    method: str,
    learning_rate: optax.ScalarOrSchedule,
    scale: optax.GradientTransformation,
    weight_decay: float | jax.Array,
    mask: Mask | None,
    axis_name: AxisName | tuple[str, ...] | None,
) -> optax.GradientTransformationExtraArgs:
    rate = optax.scale_by_learning_rate(learning_rate)
    tx = optax.chain(average_over(axis_name), add_decay(method, weight_decay, mask), scale, rate)
    return only_real(method, in_float32(tx))


METHODS = (
    Method(
        name="ggt",
        factory=ggt,
        kind="optimizer",
        summary="Full-matrix AdaGrad from a window of the last gradients.",
        paper=Paper("Efficient Full-Matrix Adaptive Regularization", "Agarwal et al.", 2018, "1806.02958"),
        also_known_as=("full-matrix adaptive regularization", "full-matrix AdaGrad"),
        parts=(scale_by_ggt,),
        example={"learning_rate": 0.1, "window": 4},
        grid=3e-2,
        variants={"momentum": Variant({"b1": 0.9, "b2": 0.99, "eps": 0.1, "learning_rate": 0.03}, grid=3e-3)},
    ),
)
