"""GGT: AdaGrad with a full matrix, from a window of the last gradients, whole or compressed with error feedback.

Agarwal et al., "Efficient Full-Matrix Adaptive Regularization", 2018, arXiv:1806.02958; compressed: Modoranu et al.,
"Error Feedback Can Accurately Compress Preconditioners", 2023, arXiv:2306.06098. Their code adds 1e-6 to the squared
singular values, so that gradients below 1e-3 are divided by epsilon; here singular values that rounding hides are left
out instead. And it forgets to decay the window where it projects on it; the paper, and here the default, does.
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
        window: the last gradients and their inner products.
        momentum: exponential average of the gradients, shaped and sharded like the parameters; None without momentum.
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
    """Divides gradients by the root of the sum of their outer products over a window: full-matrix AdaGrad or Adam.

    With the window's gradients, each decayed by its age, as the rows of G and the singular value decomposition
    `G^T = U S V^T`, a gradient (or momentum) v becomes `U (S + eps)^-1 U^T v + (v - U U^T v) / eps`. All leaves are one
    vector. Do not take it, uncompressed, where `window` gradients do not fit into memory, nor in float32 where their
    norms differ by more than 1000: the small ones move nothing until the large ones have left the window.

    Args:
        window: number of gradients, at least 1; None: 100. Their matrix of inner products is diagonalized in each step.
        b1: decay of the momentum, in [0, 1); default None for none. Without it a gradient lies in the window's span,
            and a step has the length of one at most.
        b2: by how much a gradient is decayed with each step, in [0, 1]; default 1.
        eps: added to the singular values, positive; default 1e-5. What a momentum has outside the window's span is
            divided by it alone, so that the learning rate goes with it.
        jitter: added to the squares of the singular values, at least 0; default 0. Gradients that are small against its
            root count as outside the window's span. The published code has 1e-6.
        undecayed_backprojection: takes the window without decay for U, as the published code does. Off by default.
        compressor: keeps the window in compressed form. The transformation then stands inside `error_feedback` with the
            same compressor.

    Returns:
        A transformation; its state is `window` gradients, or what the compressor makes of them, `window**2` numbers,
        and the momentum.

    Raises:
        TypeError: from `init`, if parameters are complex.
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_ggt(window=2)
        >>> updates, state = tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))
        >>> bool(jnp.allclose(updates, jnp.array([0.6, 0.8])))
        True

    Reference:
        Agarwal et al., "Efficient Full-Matrix Adaptive Regularization", 2018, arXiv:1806.02958.
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
    """What the inner products say of the decayed window.

    Attributes:
        decays: by which its rows are decayed.
        vectors: V, columns of zeros for singular values that rounding hides.
        values: S, positive.
        missing: share of the jitter in S^2: by how much U falls short of being orthonormal.
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
    """Weights whose sum of rows is `U ((S + eps)^-1 - 1 / eps) U^T v`, from the rows' products with v."""
    _, vectors, values, _ = spectrum
    factors = (1 / (values + eps) - 1 / eps) / values  # the first U^T divides by S
    return vectors @ ((factors / values) * (products @ vectors)).astype(products.dtype)


def _weights_of_newest(window: GradientWindow, spectrum: _Spectrum, eps: jax.typing.ArrayLike) -> jax.Array:
    """Weights whose sum of rows is the whole update of the newest gradient.

    As that is a row itself, `U^T g` and g need no products, and `g / eps` no difference that rounding would ruin.
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
    """GGT: full-matrix AdaGrad from a window of the last gradients.

    Do not take it where `window` gradients do not fit into memory: `sparse_ggt` needs a fiftieth of it. What the
    published code does otherwise are options of `scale_by_ggt`.

    Args:
        learning_rate: a positive number or a schedule. Without momentum it is the length of a step, at most.
        window: number of gradients, at least 1; None: 100.
        b1: decay of the momentum, in [0, 1); default None for none. With momentum the learning rate goes with `eps`.
        b2: by how much a gradient is decayed with each step, in [0, 1]; default 1.
        eps: added to the singular values, positive; default 1e-5.
        weight_decay: times the parameters it is added to the gradients, before all else, as in the published code; at
            least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        axis_name: axis over data-parallel workers, or a tuple of axes, whose gradients were not averaged: they are
            first.

    Returns:
        An optimizer; its state is `window` gradients and `window**2` numbers, and the momentum.

    Raises:
        TypeError: from `init`, if parameters are complex.
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.ggt(0.1, window=4)
        >>> params = jnp.array([3.0, 4.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> bool(jnp.allclose(updates, jnp.array([-0.06, -0.08])))
        True

    Reference:
        Agarwal et al., "Efficient Full-Matrix Adaptive Regularization", 2018, arXiv:1806.02958.
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
        summary="AdaGrad with a full matrix from a window of the last gradients.",
        paper=Paper("Efficient Full-Matrix Adaptive Regularization", "Agarwal et al.", 2018, "1806.02958"),
        also_known_as=("full-matrix adaptive regularization", "full-matrix AdaGrad"),
        parts=(scale_by_ggt,),
        example={"learning_rate": 0.1, "window": 4},
        grid=3e-2,
        variants={"momentum": Variant({"b1": 0.9, "b2": 0.99, "eps": 0.1, "learning_rate": 0.03}, grid=3e-3)},
    ),
)
