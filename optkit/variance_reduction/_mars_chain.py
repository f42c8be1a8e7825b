"""The parts that the MARS optimizers share: first the correction, then one preconditioner for each kind of leaf."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers

from optkit.core.amsgrad import scale_by_amsgrad
from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.linalg.matrix_view import from_matrices, matrix_views, to_matrices
from optkit.core.matrices_and_others import check_others, kinds_of_leaves, refuse_candidates
from optkit.core.precision import in_float32
from optkit.core.stacking import map_equal_shapes
from optkit.core.trees import mask_tree, resolve, with_whole_tree
from optkit.core.types import DTypeLike, Mask
from optkit.variance_reduction._mars import MarsCorrection, correct
from optkit.variance_reduction._mars_momentum import scale_by_mars_momentum


def adam(
    b1: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    *,
    amsgrad: bool,
    mu_dtype: DTypeLike | None,
) -> optax.GradientTransformation:
    """Returns Adam's preconditioner, which uses the largest second moment so far if `amsgrad`."""
    if amsgrad:
        return scale_by_amsgrad(b1, b2, eps, mu_dtype=mu_dtype)
    return optax.scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype)


def step(
    method: str,
    direction: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: float | jax.Array,
    mask: Mask | None,
) -> optax.GradientTransformation:
    """Puts decoupled weight decay and the learning rate after a direction."""
    return optax.chain(direction, add_decay(method, weight_decay, mask), optax.scale_by_learning_rate(learning_rate))


def momentum(
    b1: jax.typing.ArrayLike, gamma: Any, *, one_buffer: bool, mu_dtype: DTypeLike | None
) -> optax.GradientTransformation:
    """Returns the momentum of corrected gradients; with `one_buffer` it takes raw gradients and corrects them."""
    if one_buffer:
        return scale_by_mars_momentum(b1, gamma, mu_dtype=mu_dtype)
    return optax.ema(b1, debias=False, accumulator_dtype=mu_dtype)


def fits_one_buffer(gamma: Any, correction: MarsCorrection) -> bool:
    """Returns whether `scale_by_mars_momentum` computes the momentum of these corrections; `gamma` must be constant.

    An array may be the value of a schedule in this step, as `optax.inject_hyperparams` passes it.
    """
    constant = not callable(gamma) and not isinstance(gamma, jax.Array)
    authors = correction.first_step == "zero_reference" and not correction.exact
    return constant and authors and correction.max_norm is None


def scale_by_matrices(
    direction: Callable[[jax.Array], jax.Array], weight_dimension_numbers: Any
) -> optax.GradientTransformation:
    """Replaces every matrix by a function of it.

    Args:
        direction: A function of stacked matrices.
        weight_dimension_numbers: A tree of `MuonDimensionNumbers` for the whole tree of parameters.

    Returns:
        A transformation that works on a part of that tree.
    """

    def update_fn(updates, params=None):
        del params
        views = matrix_views(updates, weight_dimension_numbers)
        matrices = map_equal_shapes(direction, jax.tree.map(to_matrices, updates, views))
        return jax.tree.map(from_matrices, updates, views, matrices)

    return optax.stateless(update_fn)


def corrected_chain(
    method: str,
    gamma: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike,
    correction: MarsCorrection,
    kinds: Callable[[Any], tuple[Any, Any]],
    transforms: Callable[[Any, Any], Mapping[str, optax.GradientTransformation]],
    others: optax.GradientTransformation | None,
    default_others: Callable[[Any], optax.GradientTransformation],
    *,
    corrected: tuple[str, ...],
    mask: Mask | None,
    trainable: Mask | None,
) -> optax.GradientTransformationExtraArgs:
    """Corrects some leaves, then applies to each kind of leaf its own transformation, all in float32 at least.

    The correction sees the whole tree, because its exact form calls functions of all parameters. Each transformation
    after it sees only its own leaves.

    Args:
        method: The public name of the optimizer, for error messages.
        gamma: Strength of the correction.
        b1: Decay rate of the momentum.
        correction: The other options of the correction.
        kinds: A function of a tree that returns the kind of each leaf, or "other", and its `MuonDimensionNumbers` or
            None.
        transforms: A function that builds, for each kind, the transformation after the correction. Its arguments are
            the tree of dimension numbers and the tree of leaves that decay, or None for all.
        others: The whole optimizer of all other parameters, used as it is, or None.
        default_others: A function that builds that optimizer for None, from the leaves that decay.
        corrected: The kinds of leaf that are corrected. If it is empty there is no correction.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters.
        trainable: Which leaves move, given in the same way.

    Returns:
        An optimizer.

    Raises:
        TypeError: If an argument is an array, or `others` is not a transformation.
        ValueError: If one of the parts raises it.
    """
    refuse_arrays(mask=mask, trainable=trainable)
    check_others(others)
    # Arguments out of range raise here, when the optimizer is made, and not in `init`.
    correct(method, gamma, b1, correction, None)
    transforms(None, None)
    default_others(None)

    def build(words, numbers, mask, trainable):
        if trainable is not None:
            words = jax.tree.map(lambda keep, word: word if keep else "frozen", trainable, words)
        rest = default_others(mask) if others is None else others
        parts: dict[Hashable, optax.GradientTransformation] = {
            **transforms(numbers, mask),
            "other": rest,
            "frozen": optax.set_to_zero(),
        }
        # Labels as a function, since `optax.partition` would call a tree that is callable.
        moved = optax.partition(parts, lambda _: words)
        if not corrected:
            return in_float32(moved)
        applies_to = jax.tree.map(corrected.__contains__, words)
        return in_float32(optax.chain(correct(method, gamma, b1, correction, applies_to, numbers), moved))

    return with_whole_tree(
        build, words=lambda tree: kinds(tree)[0], numbers=lambda tree: kinds(tree)[1], mask=mask, trainable=trainable
    )


def kinds_of_corrected(
    method: str, tree: Any, corrected: Any | None, weight_dimension_numbers: Any | None, *, matrices_apart: bool
) -> tuple[Any, Any]:
    """Finds which leaves are corrected, and which of these are matrices.

    Args:
        method: The public name of the optimizer, for error messages.
        tree: The whole tree of parameters or of gradients.
        corrected: A tree of booleans, which may be a prefix of `tree`, or a function that makes it from `tree`. True
            means all leaves, None the matrices.
        weight_dimension_numbers: See `kinds_of_leaves`. With None, leaves with exactly two axes are matrices.
        matrices_apart: Whether matrices are moved in another way than other corrected leaves.

    Returns:
        A tree of the words `"matrix"`, `"vector"` and `"other"`, and a tree of `MuonDimensionNumbers` and None.

    Raises:
        ValueError: See `kinds_of_leaves`. Also if no leaf is corrected although a leaf has two or more axes.

    Example:
        >>> import jax.numpy as jnp
        >>> tree = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
        >>> kinds_of_corrected("mars_adamw", tree, None, None, matrices_apart=True)[0]
        {'bias': 'other', 'kernel': 'matrix'}
        >>> kinds_of_corrected("mars_adamw", tree, True, None, matrices_apart=True)[0]
        {'bias': 'vector', 'kernel': 'matrix'}
    """
    if corrected is None:
        return kinds_of_leaves(method, tree, None, weight_dimension_numbers, labels_name="corrected")
    inside = chosen(corrected, tree)
    if not any(jax.tree.leaves(inside)):
        refuse_candidates(method, tree, "corrected")
    if weight_dimension_numbers is None and not matrices_apart:
        words = jax.tree.map(lambda keep: "vector" if keep else "other", inside)
        return words, jax.tree.map(lambda _: None, tree)
    numbers = weight_dimension_numbers
    if numbers is not None and not isinstance(numbers, MuonDimensionNumbers):
        numbers = resolve("weight_dimension_numbers", numbers, tree)
    part = mask_tree(inside, tree)
    found, numbers = kinds_of_leaves(method, part, None, numbers, labels_name="corrected")
    if matrices_apart and "matrix" not in jax.tree.leaves(found):
        refuse_candidates(method, part, "weight_dimension_numbers")

    def word(keep, kind):
        return ("matrix" if kind == "matrix" else "vector") if keep else "other"

    return jax.tree.map(word, inside, found), jax.tree.map(lambda keep, own: own if keep else None, inside, numbers)


def corrected_or_other(
    method: str, tree: Any, corrected: Any | None, weight_dimension_numbers: Any | None
) -> tuple[Any, Any]:
    """Labels leaves as `kinds_of_corrected` does, but calls all corrected leaves "corrected"."""
    words, numbers = kinds_of_corrected(method, tree, corrected, weight_dimension_numbers, matrices_apart=False)
    return jax.tree.map(lambda word: "other" if word == "other" else "corrected", words), numbers


def kinds_of_matrices(
    method: str, tree: Any, corrected: Any | None, weight_dimension_numbers: Any | None
) -> tuple[Any, Any]:
    """Finds which leaves are corrected, if all corrected leaves must be matrices.

    Args:
        method: The public name of the optimizer, for error messages.
        tree: The whole tree of parameters or of gradients.
        corrected: See `kinds_of_corrected`. If dimension numbers are given, True means all leaves that have some.
        weight_dimension_numbers: See `kinds_of_leaves`. A corrected leaf without numbers is a matrix in its last two
            axes, and its other axes count separate matrices.

    Returns:
        A tree of the words `"matrix"` and `"other"`, and a tree of `MuonDimensionNumbers` and None.

    Raises:
        ValueError: See `kinds_of_leaves`.

    Example:
        >>> import jax.numpy as jnp
        >>> tree = {"kernel": jnp.ones((2, 3)), "embedding": jnp.ones((3, 2))}
        >>> kinds_of_matrices("mars_m", tree, {"kernel": True, "embedding": False}, None)[0]
        {'embedding': 'other', 'kernel': 'matrix'}
    """
    if corrected is None or (corrected is True and weight_dimension_numbers is not None):
        return kinds_of_leaves(method, tree, None, weight_dimension_numbers, labels_name="corrected")
    labels = jax.tree.map(lambda keep: "matrix" if keep else "other", chosen(corrected, tree))
    return kinds_of_leaves(method, tree, labels, weight_dimension_numbers, labels_name="corrected")


def chosen(corrected: Any, tree: Any) -> Any:
    """Returns a tree of booleans, one for each leaf, from the user's argument `corrected`."""
    return jax.tree.map(lambda _: True, tree) if corrected is True else resolve("corrected", corrected, tree)
