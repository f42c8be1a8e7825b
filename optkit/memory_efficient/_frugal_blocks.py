"""FRUGAL on whole leaves: some have an optimizer with state for a while, the others move by signs of their gradients.

Zmushko, Beznosikov, Takáč, Horváth, "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable
Training", 2024, arXiv:2411.07837. The orders are those of the authors' code (fzmushko/FRUGAL, `BlockOptimizer`).
Without a rule for the rest it is BAdam (Luo, Yu, Li, 2024, arXiv:2404.02827). `block_projector` does it in one compiled
program, with state for all; `frugal_blocks` has state for the chosen leaves alone, and a program for each choice.
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
        chosen: state of the inner transformation for the chosen leaves, which begins anew with each choice.
        other: that for the leaves that are never chosen nor moved by the rest's rule.
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
    """Chooses the leaves that have state in one of the periods, for `frugal_blocks`; call it outside `jit`.

    Args:
        params: the parameters, or their shapes.
        density: share of the leaves that are chosen at a time, in [0, 1]; their number is rounded, to even in doubt.
        order: which come next, as in `block_projector`.
        period: which choice it is, counted from 0.
        leaves: tree of booleans, or a function that makes it from the parameters: the leaves to choose from. By default
            those of exactly two axes.
        key: an integer or a JAX key, for order `"random"`; the same for all periods.

    Returns:
        A tree of booleans, None for the leaves that are not to be chosen from.

    Raises:
        ValueError: if an argument is out of its range, or `key` is missing.

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
            raise ValueError("order 'random' draws: give key, an integer or a JAX key")
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
    """Runs a transformation with state on some leaves, and one without state on the rest.

    It is `frugal` with whole leaves as subspaces, and keeps state for the chosen ones alone. They are chosen outside
    the compiled program, which is compiled once for each choice: take deterministic orders, which come to few, or let
    choices stay for long. For a new choice build the optimizer anew and take over what stays by `carry_over`.

    Args:
        inner: for the chosen leaves; another one, with its own state, for those where `chosen` is None.
        chosen: what `choose_blocks` gave: True for leaves with state, False for those without, None for those that
            always have state. Booleans of Python, not arrays.
        rest: what is done to the leaves without state, as in `frugal`.
        rest_scale: factor on that, at least 0; default 1.
        scale: factor on all updates but those where `chosen` is None, at least 0; default 1.

    Returns:
        A transformation with a `FrugalBlocksState`.

    Raises:
        TypeError: from `init`, if parameters are complex.
        ValueError: if an argument is out of its range.

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
        Zmushko, Beznosikov, Takáč, Horváth, "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for
        Scalable Training", 2024, arXiv:2411.07837.
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
    """Takes over what stays when other leaves are chosen for `frugal_blocks`: all but the state of chosen leaves.

    Args:
        state: the state so far, that of `frugal_blocks` or of an optimizer around it.
        fresh: what the new optimizer's `init` gives.

    Returns:
        The state to go on with.

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
        summary="Runs an optimizer with state on some leaves, and sign descent without state on the rest.",
        paper=FRUGAL,
        also_known_as=("BlockOptimizer", "BlockAdamW", "BAdam"),
        parts=(choose_blocks, carry_over),
    ),
)
