"""What methods send: how much, in which steps.

`optkit.cost` reads the bytes from the compiled program. Which conditionals a step takes, only a run can tell: periods
may change, and be drawn. So the training counts, with the program that it runs anyway.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from optkit.core.cost import hlo
from optkit.core.cost.cost import Cost

# How collectives are called before and after compilation; what the largest number needs is summed alike.
_KINDS = {
    **dict.fromkeys(("psum", "psum_invariant", "pmax", "pmin"), "all-reduce"),
    **dict.fromkeys(("all_gather", "all_gather_invariant"), "all-gather"),
    "reduce_scatter": "reduce-scatter",
    "all_to_all": "all-to-all",
    "ppermute": "collective-permute",
}


class Traffic(NamedTuple):
    """What one worker has sent.

    Attributes:
        share: which part of what a method sends under conditionals, in a step that takes the dearest branch of each.
        exchanges: the number of steps in which it sent anything.
    """

    share: Any
    exchanges: Any

    def bytes_sent(self, cost: Cost, steps: Any) -> Any:
        """Returns the bytes of so many steps, by kind of collective.

        Args:
            cost: what a step sends, and what it sends when it takes a branch.
            steps: the number of steps.
        """
        always, taken = cost.sent or {}, cost.sent_when_taken or {}
        return {
            kind: steps * always.get(kind, 0) + self.share * taken.get(kind, 0) for kind in sorted({*always, *taken})
        }


def counting(update: Callable[..., Any], workers: int) -> Callable[..., tuple[Any, Traffic]]:
    """Makes a function that also says what a worker sends when it is called.

    Args:
        update: one worker's update, called inside the program of all workers.
        workers: their number.

    Returns:
        A function of the same arguments. It returns what `update` returns, and its `Traffic`.
    """

    def counted(*args):
        program, shape = jax.make_jaxpr(update, return_shape=True)(*args)
        jaxpr = program.jaxpr
        conditionals = [equation for equation in jaxpr.eqns if equation.primitive.name == "cond"]
        others = [equation for equation in jaxpr.eqns if equation.primitive.name != "cond"]
        sizes = [_sizes(equation, workers) for equation in conditionals]
        # Those inside of loops and of compiled functions count as if they took the dearest branch.
        always, inside = (_bytes(others, workers, under=under) for under in (False, True))
        # The same program, which also returns which branches are taken.
        outputs = [*jaxpr.outvars, *(equation.invars[0] for equation in conditionals)]
        longer = jaxpr.replace(outvars=outputs, debug_info=jaxpr.debug_info._replace(result_paths=None))
        leaves = core.jaxpr_as_fun(program.replace(jaxpr=longer))(*jax.tree.leaves(args))
        own, choices = leaves[: len(jaxpr.outvars)], leaves[len(jaxpr.outvars) :]
        chosen = (jnp.array(size, jnp.float32)[choice] for size, choice in zip(sizes, choices, strict=True))
        taken = sum(chosen, jnp.float32(inside))
        share = taken / max(inside + sum(map(max, sizes)), 1)
        exchanges = jnp.where((taken > 0) | (always > 0), 1.0, 0.0)
        return jax.tree.unflatten(jax.tree.structure(shape), own), Traffic(share, exchanges)

    return counted


def _sizes(conditional: Any, workers: int) -> list[float]:
    """Returns the bytes that a worker sends in each branch."""
    return [_bytes(branch.jaxpr.eqns, workers) for branch in conditional.params["branches"]]


def _bytes(equations: Iterable[Any], workers: int, *, under: bool | None = None) -> float:
    """Returns the bytes that a worker sends.

    Args:
        equations: the program's.
        workers: their number.
        under: only what is sent under conditionals, or only what is not; None for all.
    """
    total = 0.0
    for equation in equations:
        name = equation.primitive.name
        if name == "cond":
            total += 0 if under is False else max(_sizes(equation, workers))
        elif name in _KINDS:
            operands = sum(math.prod(x.aval.shape) * x.aval.dtype.itemsize for x in equation.invars)
            total += 0 if under else operands * hlo.SENT[_KINDS[name]](workers)
        else:
            times = equation.params.get("length", 1) if name == "scan" else 1
            inside = core.jaxprs_in_params(equation.params)
            total += times * sum(_bytes(jaxpr.eqns, workers, under=under) for jaxpr in inside)
    return total
