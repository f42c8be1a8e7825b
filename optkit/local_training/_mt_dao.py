"""MT-DAO: local steps of an optimizer whose momentum is slow enough to outlive the time between two averages.

Iacob et al., "MT-DAO: Multi-Timescale Distributed Adaptive Optimizers with Local Updates", 2025, arXiv:2510.05361. The
rule of the steps, and the default order of steps and averages, are those of the first author's code (a fork of
torchtitan); the other order is that of the paper's listing. `_slow_momenta.py` has the steps.
"""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_option, check_period, check_range
from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.overwriting import overwrite
from optkit.core.precision import in_float32
from optkit.core.schedules import value_at
from optkit.core.trees import resolve
from optkit.core.types import AxisName, Mask
from optkit.core.workers.on_workers import check_axis_name
from optkit.local_training._due import Period, average_due
from optkit.local_training._slow_momenta import (
    SlowMomenta,
    SlowMomentaBase,
    SlowMomentaState,
    scale_by_slow_momenta,
    slow_momenta,
)
from optkit.method import Method, Paper, Variant

__all__ = ["mt_dao"]

StateSync = Literal["after_step", "before_use"]


def mt_dao(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike | Sequence[float] = 0.999,
    omega: jax.typing.ArrayLike | Sequence[float] = 0.98,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    axis_name: AxisName | None,
    every: int | jax.Array = 32,
    momenta_every: int | jax.Array | Sequence[int] | None = None,
    second_moment_every: int | jax.Array | None = None,
    state_sync: StateSync = "after_step",
    base: SlowMomentaBase = "adam",
    bias_correction: bool | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Local steps of Adam, ADOPT or SGD with slow momenta, averaged over the workers every few steps.

    The update rule of worker i with the base "adam", where j is one of the momenta, t counts updates from 1, and g_i is
    the worker's own gradient; `scale_by_slow_momenta` has the other bases::

        u_ij = b1_j * u_ij + (1 - b1_j) * g_i
        v_i = b2 * v_i + (1 - b2) * g_i^2
        d_i = (1 - sum_j omega_j) * g_i + sum_j omega_j * u_ij / (1 - b1_j^t)
        x_i = (1 - weight_decay * lr_t / lr_0) * x_i - lr_t * d_i / (sqrt(v_i / (1 - b2^t)) + eps)
        x_i = mean over workers of x_i                  # every `every` steps
        u_ij = mean over workers of u_ij                # every `momenta_every` steps
        v_i = mean over workers of v_i                  # every `second_moment_every` steps

    A momentum of 0.9 forgets within 32 steps what the workers agreed on when they averaged, and each follows its own
    noise; one of 0.999 still has 97% of it, and the part of the gradient keeps the step quick to react. Give each
    worker its own gradients, not averaged. To clip them by their norm, as the authors do, chain
    `optax.clip_by_global_norm(1.0)` before it. In a chain it must be the last transformation, because it overwrites the
    parameters.

    Use it for training with Adam where averaging gradients in every step takes too long: with one momentum it needs no
    more memory than Adam. Avoid it without local steps, or in runs that are not many times longer than the memory of
    the momentum, which is about 1,000 steps for 0.999: on digits in 2,048 steps, a momentum of 0.9 with the whole
    weight (`b1=0.9, omega=1.0`, local Adam) reached a lower loss.

    What a step sends: nothing, or the mean of what is due in it (parameters, each momentum, second moment, each as
    large as the parameters), in one collective under one conditional. With `state_sync="before_use"` parameters have a
    second collective of their own. Periods that are integers give the conditional one branch for each set that can be
    due together, and arrays one for every set. On average a step sends `1 / every + sum_j 1 / momenta_every_j + 1 /
    second_moment_every` times the parameters. The conditional needs temporary memory: as much as three copies of the
    parameters by default, four where periods differ.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        b1: Decay rate of the momentum, in [0, 1); several, for several momenta. Default: 0.999.
        omega: Weight of each momentum in the step, in [0, 1], at most 1 together; the rest is that of the gradient.
            Default: 0.98.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.999. The authors take 0.9999 with "adopt".
        eps: Added to the square root of the second moment, or with "adopt" its least value, at least 0. Default: 1e-8.
            The authors take 1e-6 with "adopt".
        weight_decay: Strength of the decoupled weight decay, at least 0. As in the authors' code, it is multiplied by
            the learning rate in units of its first value, not by the learning rate. If the first value is 0, or the
            rate is a number, it is not multiplied at all. With "adopt" the first step does not decay. Default: 0.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        axis_name: Name of the axis over workers. None means that there is only one worker.
        every: Number of steps from one average of the parameters to the next, an integer, at least 1. Default: 32.
        momenta_every: The same for the momenta: one number, or one for each. Default: None, that of the parameters.
        second_moment_every: The same for the second moment. Default: None, that of the parameters.
        state_sync: When momenta and second moment are averaged. With "after_step", as in the authors' code, a step uses
            the worker's own. With "before_use", as in the paper's listing, they are averaged after they took in the
            gradient and before the step uses them. Default: "after_step".
        base: Whose normalization is used: "adam", "adopt", or none with "sgd". Default: "adam".
        bias_correction: Whether the zero start of the averages is corrected. Default: None, which means that it is
            with "adam" only. With "adopt" it cannot be.

    Returns:
        An optimizer. Its state holds a number per parameter for each momentum, and one for the second moment.

    Raises:
        ValueError: If a hyperparameter is out of its range, `b1`, `omega` and `momenta_every` differ in length, a word
            is unknown, `bias_correction` is on with "adopt", or `axis_name` is not one name.
        TypeError: If `mask` is an array; from `init`, if parameters are complex and the base is "adopt".

    Example:
        >>> import optkit
        >>> tx = optkit.mt_dao(0.5, axis_name="workers", every=2, base="sgd", omega=0.0)
        >>> def two_steps(gradient):
        ...     params = jnp.zeros([])
        ...     updates, state = tx.update(gradient, tx.init(params), params)
        ...     first = optax.apply_updates(params, updates)
        ...     return first, optax.apply_updates(first, tx.update(gradient, state, first)[0])
        >>> step = optkit.on_workers(two_steps, axis_name="workers", backend="vmap")
        >>> step(jnp.array([2.0, -4.0]))
        (Array([-1.,  2.], dtype=float32), Array([1., 1.], dtype=float32))

    Reference:
        arXiv:2510.05361
    """
    return named_mt_dao(
        "mt_dao",
        learning_rate,
        slow_momenta(b1, omega, b2, eps, base, bias_correction),
        weight_decay,
        mask,
        axis_name=axis_name,
        every=every,
        momenta_every=momenta_every,
        second_moment_every=second_moment_every,
        state_sync=state_sync,
    )


def named_mt_dao(
    method: str,
    learning_rate: optax.ScalarOrSchedule,
    rule: SlowMomenta,
    weight_decay: float | jax.Array,
    mask: Mask | None,
    *,
    axis_name: AxisName | None,
    every: int | jax.Array,
    momenta_every: int | jax.Array | Sequence[int] | None,
    second_moment_every: int | jax.Array | None,
    state_sync: StateSync,
) -> optax.GradientTransformationExtraArgs:
    """Builds `mt_dao`, also as a part of another method, whose name stands in the error messages."""
    refuse_arrays(mask=mask, state_sync=state_sync)
    check_range("weight_decay", weight_decay, 0.0)
    check_option("state_sync", state_sync, StateSync)
    if axis_name is not None:
        check_axis_name(axis_name)
    check_period("every", every)
    of_states = _periods_of_states(momenta_every, second_moment_every, every, rule)

    def init_fn(params):
        return rule.init(params, method)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, method)
        count = state.count
        signal, state = rule.take_in(updates, state)
        if state_sync == "before_use":
            state = with_moments(state, average_due(moments(state), of_states, state.count, axis_name))
        decayed = decay(params, count)
        rate = value_at(learning_rate, count)
        direction = rule.direction(signal, state)
        new = jax.tree.map(lambda x, d: x - (rate * d).astype(x.dtype), decayed, direction)
        if state_sync == "before_use":
            (new,) = average_due([new], [every], state.count, axis_name)
        else:
            *means, new = average_due([*moments(state), new], [*of_states, every], state.count, axis_name)
            state = with_moments(state, means)
        return overwrite(new, params), state

    def decay(params, count):
        """Multiplies what decays by 1 - weight_decay * lr_t / lr_0."""
        if isinstance(weight_decay, (int, float)) and weight_decay == 0:
            return params
        rate, first = value_at(learning_rate, count), value_at(learning_rate, 0)
        relative = jnp.where(first == 0, 1.0, rate / jnp.where(first == 0, 1.0, first))
        strength = weight_decay * (relative * (count > 0) if rule.base == "adopt" else relative)
        inside = resolve("mask", mask, params)
        inside = jax.tree.map(lambda _: True, params) if inside is None else inside
        return jax.tree.map(lambda x, decays: (x - strength * x).astype(x.dtype) if decays else x, params, inside)

    return in_float32(optax.GradientTransformationExtraArgs(init_fn, update_fn))


def moments(state: SlowMomentaState) -> list[Any]:
    """Returns the momenta and the second moment, each a tree."""
    return [*state.momenta, state.nu]


def with_moments(state: SlowMomentaState, trees: Sequence[Any]) -> SlowMomentaState:
    """Returns the state with other moments, as from `moments`."""
    return state._replace(momenta=tuple(trees[:-1]), nu=trees[-1])


def _periods_of_states(
    momenta_every: int | jax.Array | Sequence[int] | None,
    second_moment_every: int | jax.Array | None,
    every: int | jax.Array,
    rule: SlowMomenta,
) -> list[Period]:
    """Returns the periods of the momenta and of the second moment.

    Raises:
        ValueError: If one is not a positive integer, or there are not as many as momenta.
    """
    of_momenta = every if momenta_every is None else momenta_every
    several = isinstance(of_momenta, Sequence)
    periods: list[Period] = [*of_momenta] if several else [of_momenta] * len(rule.b1)
    if len(periods) != len(rule.b1):
        raise ValueError(f"momenta_every must be one number, or one for each of {len(rule.b1)}, got {momenta_every!r}")
    for period in periods:
        check_period("momenta_every", period)
    if second_moment_every is None:
        return [*periods, every]
    check_period("second_moment_every", second_moment_every)
    if rule.base == "sgd":
        raise ValueError(
            f"second_moment_every must be None with base='sgd', which has no second moment, got {second_moment_every!r}"
        )
    return [*periods, second_moment_every]


METHODS = (
    Method(
        name="mt_dao",
        factory=mt_dao,
        kind="optimizer",
        summary="Local steps of Adam, ADOPT or SGD with slow momenta, averaged over the workers every few steps.",
        paper=Paper(
            "MT-DAO: Multi-Timescale Distributed Adaptive Optimizers with Local Updates",
            "Iacob et al.",
            2025,
            "2510.05361",
        ),
        also_known_as=(
            "MT-DAO",
            "MT-DAO-ADOPT",
            "QHAdamW",
            "AggMoAdamW",
            "QHADOPT",
            "AggMoAdopt",
            "quasi-hyperbolic Adam",
        ),
        parts=(scale_by_slow_momenta,),
        example={"learning_rate": 1e-3, "axis_name": "workers"},
        grid=1e-3,
        needs=("axis_name",),
        variants={
            "adopt": Variant(
                {
                    "learning_rate": 1e-2,
                    "base": "adopt",
                    "b2": 0.9999,
                    "eps": 1e-6,
                    "every": 4,
                    "momenta_every": 8,
                    "state_sync": "before_use",
                },
                grid=1e-3,
            ),
            "sgd": Variant({"base": "sgd", "b1": (0.9, 0.99), "omega": (0.3, 0.6), "every": 4}, grid=1e-1),
        },
    ),
)
