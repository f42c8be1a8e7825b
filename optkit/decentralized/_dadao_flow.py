"""The variables of DADAO between events: the constants of a linear flow, and its exact solution.

Nabli, Oyallon, "DADAO: Decoupled Accelerated Decentralized Asynchronous Optimization", 2022, arXiv:2208.00779. The
constants are those of the authors' code.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optkit.core.checks import check_range

__all__ = ["DadaoConstants", "dadao_constants"]

# Places of the variables along their axis.
X, X_TILDE, Y, Y_TILDE, Z, Z_TILDE = range(6)


class DadaoConstants(NamedTuple):
    """Constants of the continuous flow and of the jumps at events, with the names of the paper.

    They are numbers, or arrays if `mu` or `L` is one.

    Attributes:
        nu: Half of the strong convexity.
        eta: Rate at which X and X~ approach each other.
        alpha: Rate at which Y approaches Y~, and Z approaches Z~.
        alpha_tilde: Rate at which Z~ approaches Z.
        theta: Rate of the drift of Y~.
        gamma: Step of X at a gradient.
        gamma_tilde: Step of X~ at a gradient.
        delta: Step of Y~ at a gradient, together with `delta_tilde`.
        delta_tilde: See `delta`.
        beta: Step of Z at an exchange.
        beta_tilde: Step of Z~ at an exchange.
    """

    nu: float | jax.Array
    eta: float | jax.Array
    alpha: float | jax.Array
    alpha_tilde: float | jax.Array
    theta: float | jax.Array
    gamma: float | jax.Array
    gamma_tilde: float | jax.Array
    delta: float | jax.Array
    delta_tilde: float | jax.Array
    beta: float | jax.Array
    beta_tilde: float | jax.Array


def dadao_constants(mu: float | jax.Array, L: float | jax.Array, chi1: float, chi2: float) -> DadaoConstants:
    """Computes the constants of `dadao` and `dadao_events`.

    Use it when you want to look at their step sizes; both call it by themselves.

    Args:
        mu: Strong convexity of every worker's function, above 0.
        L: Smoothness of every worker's function, at least `mu`.
        chi1: Constant of the rates of exchanges, at least 0, see `GossipRates.chi1`.
        chi2: Constant of the rates of exchanges, at least 0, see `GossipRates.chi2`. `chi1 * chi2` must be at most 1/2.

    Returns:
        The constants.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> constants = dadao_constants(mu=2.0, L=4.0, chi1=0.5, chi2=1.0)
        >>> constants.nu, constants.beta_tilde, constants.gamma
        (1.0, 2.0, 0.0625)
    """
    check_range("mu", mu, 0.0, low_open=True, high_open=True)
    check_range("L", L, 0.0 if isinstance(mu, jax.Array) else float(mu), high_open=True)
    check_range("chi1", chi1, 0.0, high_open=True)
    check_range("chi2", chi2, 0.0, high_open=True)
    if chi1 * chi2 > 0.5 * (1 + 1e-9):
        raise ValueError(
            f"chi1 * chi2 must be at most 1/2, got {chi1 * chi2:.6g}: make all exchanges"
            f" {np.sqrt(2 * chi1 * chi2):.6g} times as frequent"
        )
    nu = mu / 2
    q = (nu / L) ** 0.5
    return DadaoConstants(
        nu=nu,
        eta=q / 8,
        alpha=q / 4,
        alpha_tilde=q / 8,
        theta=1 / (2 * q),
        gamma=1 / (4 * L),
        gamma_tilde=1 / (4 * (L * nu) ** 0.5),
        delta=q / 4,
        delta_tilde=1.0,
        beta=0.5,
        beta_tilde=2 * chi1 / q,
    )


def make_change(constants: DadaoConstants) -> Callable[[jax.Array], jax.Array]:
    """Makes the exact solution of the linear flow: a matrix for each time, by which the six variables change.

    X~ - X and Z~ - Z decay exponentially. Both drive Y and Y~, which oscillate. So the matrix exponential is a sum of
    one constant matrix for each of these modes and one for everything that stays. The change of the variables, the
    matrix exponential minus the identity, is computed without cancellation at short times.
    """
    nu, eta, alpha, alpha_tilde, theta = constants[:5]
    xp: Any = jnp if any(isinstance(constant, jax.Array) for constant in constants) else np

    def outer(amplitudes, weights):
        return xp.outer(xp.array(amplitudes), xp.array(weights))

    def response(rate, force):
        """Returns the amplitudes of Y and Y~ under the force `force * exp(rate * time)`."""
        scale = -theta * force / (rate**2 + alpha * rate + alpha * theta)
        return scale * alpha, scale * (rate + alpha)

    x_rate, z_rate = -2 * eta, -(alpha + alpha_tilde)
    z_part, z_tilde_part = alpha / z_rate, -alpha_tilde / z_rate
    x_mode = outer([-1 / 2, 1 / 2, *response(x_rate, nu / 2), 0, 0], [-1, 1, 0, 0, 0, 0])
    z_mode = outer([0, 0, *response(z_rate, z_part), z_part, z_tilde_part], [0, 0, 0, 0, -1, 1])
    # What stays: the means of X and X~ and of Z and Z~, and the value of Y and Y~ at which they are in balance.
    rest = outer([1, 1, -nu, -nu, 0, 0], [1 / 2, 1 / 2, 0, 0, 0, 0])
    rest = rest + outer([0, 0, -1, -1, 1, 1], [0, 0, 0, 0, 1 + z_part, -z_part])
    y_mode = np.eye(6) - rest - x_mode - z_mode
    frequency = (alpha * theta - alpha**2 / 4) ** 0.5
    # The derivatives of Y and Y~ in their own mode, to which half the damping is added.
    y_slope = alpha / 2 * y_mode[Y] + alpha * (y_mode[Y_TILDE] - y_mode[Y])
    y_tilde_slope = alpha / 2 * y_mode[Y_TILDE] - theta * y_mode[Y]
    y_derivative = xp.outer(np.eye(6)[Y], y_slope) + xp.outer(np.eye(6)[Y_TILDE], y_tilde_slope)

    def change(time):
        phase = frequency * time
        damping = jnp.expm1(-alpha * time / 2)
        cosine = damping * jnp.cos(phase) - 2 * jnp.sin(phase / 2) ** 2
        sine = (1 + damping) * jnp.sin(phase) / frequency
        scales = jnp.stack([jnp.expm1(x_rate * time), jnp.expm1(z_rate * time), cosine, sine])
        modes = jnp.asarray(xp.stack([x_mode, z_mode, y_mode, y_derivative]), time.dtype)
        return jnp.tensordot(scales.astype(time.dtype), modes, 1, precision="highest")

    return change


def make_flow(constants: DadaoConstants) -> Callable[[Any, jax.Array], Any]:
    """Makes the exact solution of the linear flow, a function of one worker's variables, in rows, and a time."""
    change = make_change(constants)

    def flow(variables, time):
        by = change(time)
        return jax.tree.map(lambda x: x + jnp.tensordot(by.astype(x.dtype), x, 1, precision="highest"), variables)

    return flow
