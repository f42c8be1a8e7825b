"""FRUGAL on whole leaves: some have an optimizer with state for a while, the others move by signs of their gradients.

Zmushko, Beznosikov, Takáč, Horváth, "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable
Training", 2024, arXiv:2411.07837. The orders are those of the authors' code (fzmushko/FRUGAL, `BlockOptimizer`). With
`rest=None` it is BAdam (Luo, Yu, Li, 2024, arXiv:2404.02827). `block_projector` needs one compiled program, and state
for all leaves; `frugal_blocks` has state for the chosen leaves only, and one program for each choice.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from optkit.core.complex_numbers import only_real
from optkit.core.injection import refuse_arrays
from optkit.core.keys import typed
from optkit.core.types import Key
from optkit.memory_efficient._block_projector import BlockOrder, check_blocks, chosen_blocks
from optkit.memory_efficient._frugal import FRUGAL
from optkit.memory_efficient._frugal_rest import Rest, check_rest, only_rest
from optkit.memory_efficient._matrices import chosen_leaves
from optkit.method import Method

__all__ = ["carry_over", "choose_blocks", "frugal_blocks"]


class FrugalBlocksState(NamedTuple):
    """State of `frugal_blocks`.

    Attributes:
        chosen: State of the inner transformation for the chosen leaves, which begins anew with each choice.
        other: State of the inner transformation for the leaves that always have state, where `chosen` is None.
    """

    chosen: optax.OptState
    other: optax.OptState


def choose_blocks(
    params: optax.Params,
    density: float,
    order: BlockOrder = "random",
    *,
    period: int,
    leaves: Any | None = None,
    key: Key | None = None,
) -> Any:
    """Chooses the leaves that have state in a given period, for `frugal_blocks`; call it outside `jit`.

    Args:
        params: The parameters, or their shapes.
        density: Share of the leaves that are chosen at a time, in [0, 1]. Their number is rounded; a half is rounded to
            the even number.
        order: See `block_projector`. Default: "random".
        period: Number of the choice, counted from 0.
        leaves: Which leaves can be chosen: a tree of booleans, or a function that makes it from the parameters.
            Default: None, the leaves of exactly two axes.
        key: Seed of the random draws, an integer or a JAX key. Must be the same for all periods. Default: None, for the
            orders other than "random".

    Returns:
        A tree of booleans, with None for the leaves that cannot be chosen.

    Raises:
        ValueError: If an argument is outside its range, or if `key` is missing for the order "random".

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> params = {"first": jnp.ones((2, 2)), "second": jnp.ones((2, 2)), "bias": jnp.ones(2)}
        >>> [optkit.choose_blocks(params, 0.5, "ascending", period=period) for period in range(2)]
        [{'bias': None, 'first': True, 'second': False}, {'bias': None, 'first': False, 'second': True}]
    """
    check_blocks(density, order)
    if order == "random":
        if key is None:
            raise ValueError("order 'random' needs a key: give key, an integer or a JAX key")
        key = jax.random.fold_in(typed(key), period)
    candidates, structure = jax.tree.flatten(chosen_leaves("choose_blocks", "leaves", leaves, params, None))
    chosen = iter(np.asarray(chosen_blocks(sum(candidates), density, order, period, key)))
    return structure.unflatten([bool(next(chosen)) if candidate else None for candidate in candidates])


def frugal_blocks(
    inner: optax.GradientTransformation,
    chosen: Any,
    *,
    rest: Rest | None = "sign",
    rest_scale: jax.typing.ArrayLike = 1.0,
    scale: jax.typing.ArrayLike = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Runs a transformation with state on chosen leaves, and signs of the gradient on the other leaves.

    The update rule, where inner is the update of the inner transformation::

        u = scale * inner(g)                    (if chosen is True)
        u = scale * rest_scale * sign(g)        (if chosen is False)
        u = inner(g)                            (if chosen is None)

    It is `frugal` with whole leaves as subspaces. The choice is made outside the compiled program, so that only the
    chosen leaves have state. For each new choice, build the optimizer anew and take over the rest of the state with
    `carry_over`.

    Use it when the state of an optimizer does not fit into memory and the model has many leaves of similar size. Avoid
    it when choices change often, because the step is compiled once for each different choice: use an order that is not
    random, which leads to few different choices, or keep each choice for long.

    Args:
        inner: The transformation that is wrapped, a direction without a learning rate. It runs on the chosen leaves,
            and again, with a state of its own, on the leaves where `chosen` is None.
        chosen: The tree that `choose_blocks` returns: True for leaves with state, False for leaves without state, None
            for leaves that always have state. Python booleans, not arrays.
        rest: What happens to the leaves without state: see `frugal`. Default: "sign".
        rest_scale: Factor of the update of the leaves without state, at least 0. Default: 1.
        scale: Factor of all updates except those where `chosen` is None, at least 0. Default: 1.

    Returns:
        A transformation with a `FrugalBlocksState`: the state of `inner` for the leaves where `chosen` is True or None.

    Raises:
        TypeError: From `init`, if parameters are complex.
        ValueError: If an argument is outside its range.

    Example:
        >>> import jax, jax.numpy as jnp, optax, optkit
        >>> def optimizer(period):
        ...     chosen = optkit.choose_blocks(params, 0.5, "ascending", period=period)
        ...     return optax.chain(optkit.frugal_blocks(optax.scale_by_adam(), chosen), optax.scale(-0.5))
        >>> params = {"first": jnp.full((2, 2), 4.0), "second": jnp.full((2, 2), 4.0), "bias": jnp.full(2, 4.0)}
        >>> state = optimizer(0).init(params)
        >>> for period in range(2):
        ...     tx = optimizer(period)
        ...     state = optkit.carry_over(state, tx.init(params))
        ...     @jax.jit
        ...     def step(params, state):
        ...         updates, state = tx.update(params, state, params)
        ...         return optax.apply_updates(params, updates), state
        ...     for _ in range(3):
        ...         params, state = step(params, state)
        >>> params["first"].round(1).tolist(), sum(x.size for x in jax.tree.leaves(state[0].chosen))
        ([[1.0, 1.0], [1.0, 1.0]], 9)

    Reference:
        arXiv:2411.07837
    """
    refuse_arrays(chosen=chosen)
    check_rest(rest, rest_scale, scale)

    def on_leaves(tx, mark):
        marks = jax.tree.map(lambda each: None if each is None else bool(each), chosen, is_leaf=lambda x: x is None)
        mask = jax.tree.map(lambda each: each is mark, marks, is_leaf=lambda x: x is None)
        # A function, since `optax.masked` would call a mask that is a callable tree.
        return optax.masked(tx, lambda _: mask)

    with_state = on_leaves(optax.chain(inner, optax.scale(scale)), mark=True)
    without_state = on_leaves(only_rest(rest, rest_scale, scale), mark=False)
    other = on_leaves(inner, mark=None)

    def init_fn(params):
        return FrugalBlocksState(chosen=with_state.init(params), other=other.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        nothing = optax.MaskedState(optax.EmptyState())
        updates, chosen_state = with_state.update(updates, state.chosen, params, **extra_args)
        updates, _ = without_state.update(updates, nothing, params)
        updates, other_state = other.update(updates, state.other, params, **extra_args)
        return updates, FrugalBlocksState(chosen=chosen_state, other=other_state)

    return only_real("frugal_blocks", optax.GradientTransformationExtraArgs(init_fn, update_fn))


def carry_over(state: optax.OptState, fresh: optax.OptState) -> optax.OptState:
    """Keeps all state except that of the chosen leaves, when `frugal_blocks` gets a new choice of leaves.

    Args:
        state: The current state, of `frugal_blocks` or of an optimizer that contains it.
        fresh: The state that `init` of the new optimizer returns.

    Returns:
        The state to continue with: that of the chosen leaves from `fresh`, everything else from `state`.

    Example:
        See `frugal_blocks`.
    """

    def is_ours(node):
        return isinstance(node, FrugalBlocksState)

    def take(new, old):
        return new._replace(other=old.other) if is_ours(new) else old

    return jax.tree.map(take, fresh, state, is_leaf=is_ours)


METHODS = (
    Method(
        name="frugal_blocks",
        factory=frugal_blocks,
        kind="function",
        summary="Runs an optimizer with state on some leaves, and sign descent without state on the others.",
        paper=FRUGAL,
        also_known_as=("BlockOptimizer", "BlockAdamW", "BAdam"),
        parts=(choose_blocks, carry_over),
    ),
)
