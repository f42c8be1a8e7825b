"""Slow momenta beside the gradient itself, as in quasi-hyperbolic and aggregated momentum, for Adam, ADOPT and SGD.

Iacob et al., "MT-DAO: Multi-Timescale Distributed Adaptive Optimizers with Local Updates", 2025, arXiv:2510.05361. The
rules are those of the optimizer classes in the first author's code (QHAdamW, AggMoAdamW, QHADOPT, AggMoAdopt), but
every momentum of the ADOPT rule has a decay rate of its own here, as in the Adam rule.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optkit.core.adam import bias_factor
from optkit.core.checks import check_option, check_range
from optkit.core.complex_numbers import refuse_complex
from optkit.core.non_finite import nan_for_infinite

__all__ = ["scale_by_slow_momenta"]

SlowMomentaBase = Literal["adam", "adopt", "sgd"]


class SlowMomentaState(NamedTuple):
    """State of `scale_by_slow_momenta` and `mt_dao`.

    Attributes:
        count: Number of updates so far, equal on all workers.
        momenta: A tuple with one tree for each momentum. Each worker has its own, until they are averaged.
        nu: Second moment of the gradients. Each worker has its own, until it is averaged. None with the base "sgd".
    """

    count: jax.typing.ArrayLike
    momenta: tuple[optax.Updates, ...]
    nu: Any


class SlowMomenta(NamedTuple):
    """The rule of `scale_by_slow_momenta`, whose arguments it holds, in the parts between which workers may average."""

    b1: tuple[jax.typing.ArrayLike, ...]
    omega: tuple[jax.typing.ArrayLike, ...]
    b2: jax.typing.ArrayLike
    eps: jax.typing.ArrayLike
    base: SlowMomentaBase
    bias_correction: bool

    def init(self, params: Any, method: str) -> SlowMomentaState:
        """Returns the first state."""
        if self.base == "adopt":
            refuse_complex(params, method)
        momenta = tuple(optax.tree.zeros_like(params) for _ in self.b1)
        nu = None if self.base == "sgd" else optax.tree.zeros_like(params)
        return SlowMomentaState(count=jnp.zeros([], jnp.int32), momenta=momenta, nu=nu)

    def take_in(self, gradient: Any, state: SlowMomentaState) -> tuple[Any, SlowMomentaState]:
        """Returns what the momenta average, the gradient or the normalized one of ADOPT, and the next state."""
        signal = gradient = nan_for_infinite(gradient)
        b2 = self.b2
        if self.base == "adopt":
            signal = self._normalized(gradient, state)
            b2 = jnp.where(state.count == 0, 0.0, b2)  # v_0 = g_0^2
        momenta = tuple(
            optax.tree.cast_like(optax.tree.update_moment(signal, u, b, order=1), u)  # u_j = b_j u_j + (1 - b_j) g
            for u, b in zip(state.momenta, self.b1, strict=True)
        )
        nu = state.nu
        if nu is not None:
            nu = optax.tree.update_moment_per_elem_norm(gradient, nu, b2, order=2)  # v = b2 v + (1 - b2) g^2
            nu = optax.tree.cast_like(nu, state.nu)
        return signal, SlowMomentaState(count=optax.safe_increment(state.count), momenta=momenta, nu=nu)

    def direction(self, signal: Any, state: SlowMomentaState) -> Any:
        """Returns the direction of the step, from the state of after the gradient was taken in."""
        own = 1 - sum(self.omega)
        weights = self.omega
        if self.bias_correction:
            weights = [w / bias_factor(b, state.count, signal) for w, b in zip(weights, self.b1, strict=True)]

        def weighted(g, *momenta):  # (1 - sum_j w_j) g + sum_j w_j u_j
            return own * g + sum(w * u for w, u in zip(weights, momenta, strict=True))

        mixed = jax.tree.map(weighted, signal, *state.momenta)
        if self.base == "adam":
            root = jnp.sqrt(bias_factor(self.b2, state.count, signal)) if self.bias_correction else 1.0
            mixed = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) / root + self.eps), mixed, state.nu)
        return optax.tree.cast_like(mixed, signal)

    def _normalized(self, gradient: Any, state: SlowMomentaState) -> Any:
        """Divides by the root of the second moment of earlier steps and clips, to 0 in the first step."""

        def normalized(g, v):
            bound = jnp.asarray(state.count, g.dtype) ** 0.25
            return jnp.clip(g / jnp.maximum(jnp.sqrt(v), jnp.asarray(self.eps, g.dtype)), -bound, bound)

        return jax.tree.map(normalized, gradient, state.nu)


def slow_momenta(
    b1: jax.typing.ArrayLike | Sequence[float],
    omega: jax.typing.ArrayLike | Sequence[float],
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    base: SlowMomentaBase,
    bias_correction: bool | None,
) -> SlowMomenta:
    """Checks the arguments of `scale_by_slow_momenta`, and returns the rule.

    Raises:
        ValueError: If a hyperparameter is out of its range, or two do not go together.
    """
    check_range("b1", _as_array(b1), 0.0, 1.0, high_open=True)
    check_range("omega", _as_array(omega), 0.0, 1.0)
    rates, weights = _as_tuple("b1", b1), _as_tuple("omega", omega)
    if len(rates) != len(weights):
        raise ValueError(f"b1 and omega must have one number for each momentum, got {len(rates)} and {len(weights)}")
    if not isinstance(omega, jax.Array):
        check_range("the sum of omega", float(np.sum(weights)), high=1.0 + 1e-9)
    check_range("b2", b2, 0.0, 1.0, high_open=True)
    check_range("eps", eps, 0.0)
    check_option("base", base, SlowMomentaBase)
    if base == "adopt" and bias_correction:
        raise ValueError("bias_correction must be False or None with base='adopt', whose rule has none, got True")
    corrected = base == "adam" if bias_correction is None else bias_correction
    return SlowMomenta(rates, weights, b2, eps, base, corrected)


def _as_array(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, (list, tuple)) else value


def _as_tuple(name: str, value: Any) -> tuple[Any, ...]:
    """Returns one number for each momentum, from one number or a row of them."""
    numbers = tuple(value) if isinstance(value, (list, tuple)) or np.ndim(value) == 1 else (value,)
    if not numbers or any(np.ndim(number) for number in numbers):
        raise ValueError(f"{name} must be one number, or one for each momentum, got {value!r}")
    return numbers


def scale_by_slow_momenta(
    b1: jax.typing.ArrayLike | Sequence[float] = 0.999,
    omega: jax.typing.ArrayLike | Sequence[float] = 0.98,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    base: SlowMomentaBase = "adam",
    bias_correction: bool | None = None,
) -> optax.GradientTransformation:
    """Replaces the gradient by a weighted sum of itself and slow momenta, normalized as in Adam or ADOPT or not at all.

    The rule, where j is one of the momenta and t counts updates from 1::

        u_j = b1_j * u_j + (1 - b1_j) * n
        d = (1 - sum_j omega_j) * n + sum_j omega_j * u_j / (1 - b1_j^t)

        n = g,  v = b2 * v + (1 - b2) * g^2,  d / (sqrt(v / (1 - b2^t)) + eps)              # base="adam"
        n = clip(g / max(sqrt(v), eps), (t - 1)^(1/4)),  then v = b2 * v + (1 - b2) * g^2   # base="adopt"
        n = g                                                                               # base="sgd"

    The divisions by `1 - b1_j^t` and `1 - b2^t` are the bias correction. With the base "adopt" the first step is zero
    and v starts at the square of its gradient; clip bounds the size of every entry.

    It does not communicate: `mt_dao` does, and is the whole optimizer; with one period for all that is averaged it is
    `local_updates` of this transformation with `average_state=("momenta", "nu")`.

    Use it to build an optimizer of your own that reacts to each gradient and yet remembers hundreds of steps. Avoid it
    where plain Adam is good enough, because with a momentum of 0.999 the steps still follow gradients from long ago
    after the loss has changed its shape.

    Args:
        b1: Decay rate of the momentum, in [0, 1); several, for several momenta. Default: 0.999.
        omega: Weight of each momentum in the step, in [0, 1], at most 1 together; the rest is that of the gradient.
            Default: 0.98.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.999. The authors take 0.9999 with "adopt".
        eps: Added to the square root of the second moment, or with "adopt" its least value, at least 0. Default: 1e-8.
            The authors take 1e-6 with "adopt".
        base: Whose normalization is used: "adam", "adopt", or none with "sgd". Default: "adam".
        bias_correction: Whether the zero start of the averages is corrected. Default: None, which means that it is
            with "adam" only. With "adopt" it cannot be.

    Returns:
        A transformation whose state holds a number per parameter for each momentum, and one for the second moment.

    Raises:
        ValueError: If a hyperparameter is out of its range, `b1` and `omega` differ in length, or `bias_correction` is
            on with "adopt".
        TypeError: From `init`, if parameters are complex and the base is "adopt".

    Example:
        >>> import optax, optkit
        >>> tx = optax.chain(optkit.scale_by_slow_momenta([0.9, 0.999], [0.3, 0.6]), optax.scale_by_learning_rate(0.1))
        >>> params = jnp.zeros(2)
        >>> tx.update(jnp.array([3.0, -1.0]), tx.init(params))[0].round(3)
        Array([-0.1,  0.1], dtype=float32)

    Reference:
        arXiv:2510.05361
    """
    rule = slow_momenta(b1, omega, b2, eps, base, bias_correction)

    def init_fn(params):
        return rule.init(params, "scale_by_slow_momenta")

    def update_fn(updates, state, params=None):
        del params
        signal, state = rule.take_in(updates, state)
        return rule.direction(signal, state), state

    return optax.GradientTransformation(init_fn, update_fn)
