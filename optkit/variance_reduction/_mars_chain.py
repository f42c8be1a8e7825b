"""What the MARS optimizers share: the correction outside, and after it one preconditioner for each kind of leaf."""

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
    """Adam's preconditioner, over the largest second moment so far if `amsgrad`."""
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
    """The momentum of corrected gradients; of raw ones, which it corrects itself, with `one_buffer`."""
    if one_buffer:
        return scale_by_mars_momentum(b1, gamma, mu_dtype=mu_dtype)
    return optax.ema(b1, debias=False, accumulator_dtype=mu_dtype)


def fits_one_buffer(gamma: Any, correction: MarsCorrection) -> bool:
    """Returns whether `scale_by_mars_momentum` gives the momentum of these corrections: for a constant `gamma` only.

    An array may be a schedule's value of this step, as `optax.inject_hyperparams` passes it.
    """
    constant = not callable(gamma) and not isinstance(gamma, jax.Array)
    authors = correction.first_step == "zero_reference" and not correction.exact
    return constant and authors and correction.max_norm is None


def scale_by_matrices(
    direction: Callable[[jax.Array], jax.Array], weight_dimension_numbers: Any
) -> optax.GradientTransformation:
    """Replaces every matrix.

    Args:
        direction: of stacked matrices.
        weight_dimension_numbers: tree of `MuonDimensionNumbers` of the whole tree of parameters.

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
    """Corrects some leaves and gives each kind of leaf its own transformation, all in float32 at least.

    The correction sees the whole tree, since in its exact form it calls functions of all parameters; what stands after
    it sees its own leaves only.

    Args:
        method: the public name of the optimizer, for messages.
        gamma: strength of the correction.
        b1: decay of the momentum.
        correction: what else shapes the correction.
        kinds: says of a tree which kind each leaf is, or "other", and gives its `MuonDimensionNumbers` or None.
        transforms: builds what moves leaves of each kind after the correction, by kind, from the tree of numbers and
            from that of the leaves that decay, or None for all.
        others: the whole optimizer of all other parameters, taken as it is; or None.
        default_others: builds what it is for None from the leaves that decay.
        corrected: the kinds that the correction works on; none leaves it out.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay.
        trainable: the same for the leaves that move.

    Returns:
        An optimizer.

    Raises:
        TypeError: if an argument is an array, or `others` is no transformation.
        ValueError: if a part raises it.
    """
    refuse_arrays(mask=mask, trainable=trainable)
    check_others(others)
    # What is out of its range raises here, where the optimizer is made, and not in `init`.
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
        method: the public name of the optimizer, for messages.
        tree: the whole tree of parameters, or of gradients.
        corrected: tree of booleans, a prefix of `tree`, or a function that makes it from `tree`; True for all leaves;
            or None for matrices.
        weight_dimension_numbers: see `kinds_of_leaves`. None makes matrices of leaves of exactly two axes.
        matrices_apart: whether matrices are moved in another way than other corrected leaves.

    Returns:
        A tree of the words `"matrix"`, `"vector"` and `"other"`, and a tree of `MuonDimensionNumbers` and None.

    Raises:
        ValueError: see `kinds_of_leaves`; and if no leaf is corrected although one has two axes or more.

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
    """Labels leaves as `kinds_of_corrected` does, with one label "corrected" for all that the correction reaches."""
    words, numbers = kinds_of_corrected(method, tree, corrected, weight_dimension_numbers, matrices_apart=False)
    return jax.tree.map(lambda word: "other" if word == "other" else "corrected", words), numbers


def kinds_of_matrices(
    method: str, tree: Any, corrected: Any | None, weight_dimension_numbers: Any | None
) -> tuple[Any, Any]:
    """Finds which leaves are corrected, where all of these must be matrices.

    Args:
        method: the public name of the optimizer, for messages.
        tree: the whole tree of parameters, or of gradients.
        corrected: see `kinds_of_corrected`; with numbers, True for all leaves that have some.
        weight_dimension_numbers: see `kinds_of_leaves`. A corrected leaf without numbers is a matrix by its last two
            axes: others count matrices.

    Returns:
        A tree of the words `"matrix"` and `"other"`, and a tree of `MuonDimensionNumbers` and None.

    Raises:
        ValueError: see `kinds_of_leaves`.

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
    """A tree of booleans, one for each leaf, from what a user gave for `corrected`."""
    return jax.tree.map(lambda _: True, tree) if corrected is True else resolve("corrected", corrected, tree)
