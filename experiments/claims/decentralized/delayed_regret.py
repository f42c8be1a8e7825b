"""How the regret of delayed dual averaging grows with the time and with the delay, and what its lag is good for.

With a delay of 4, gradients that turn in whole losses do less harm than the bound allows, so that from there on the
regret grows faster than the bound, though it stays far below.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from optkit.comparison import statistics

SIZE, RADIUS, SEEDS = 5, 1.0, 8
TIMES, DELAYS = (2000, 8000, 32_000), (4, 16, 64)
MOST, LEAST = 0.6, 0.8


def draw_gradients(seed: int, delay: int) -> np.ndarray:
    """Draws unit gradients that turn round about when the first of them arrives, and later turn back."""
    rng = np.random.default_rng(seed)
    direction = rng.standard_normal(SIZE)
    lengths = np.repeat(rng.integers(delay // 2, 2 * delay, TIMES[-1]), 2)
    signs = np.repeat(np.where(np.arange(len(lengths)) % 2, -1.0, 1.0), lengths)[: TIMES[-1]]
    return signs[:, None] * direction / np.linalg.norm(direction)


def regrets(delay: int, lagged: bool) -> np.ndarray:
    """Plays against linear losses whose gradients arrive late.

    Args:
        delay: how many losses later each gradient arrives.
        lagged: whether the method knows of the delays; without, it takes steps as if gradients came in time.

    Returns:
        The regret against the best point within the radius, at each of the times, for each seed.
    """
    tx = optkit.delayed_dual_averaging(RADIUS, delay, slack=(2.0 * delay + 1) ** 2 if lagged else 1.0)

    def run(gradients):
        def step(carry, time):
            params, state, loss, total = carry
            loss += gradients[time] @ params
            total += gradients[time]
            arrived = time - delay
            delays = {"issued_at": jnp.maximum(arrived - delay, 0)} if lagged else {}
            updates, new_state = tx.update(gradients[arrived], state, params, **delays)
            new = optax.apply_updates(params, updates), new_state
            params, state = optax.tree.where(arrived >= 0, new, (params, state))
            return (params, state, loss, total), loss + RADIUS * jnp.linalg.norm(total)

        start = jnp.zeros(SIZE)
        return jax.lax.scan(step, (start, tx.init(start), jnp.zeros(()), start), jnp.arange(TIMES[-1]))[1]

    gradients = jnp.asarray(np.stack([draw_gradients(seed, delay) for seed in range(SEEDS)]))
    return np.asarray(jax.jit(jax.vmap(run))(gradients))[:, np.array(TIMES) - 1]


def bound(delay: int) -> np.ndarray:
    """Gives the paper's bound for unit gradients: |u|^2 / (2 eta) and the sum of eta times half the lag's increases."""
    return 1.5 * RADIUS * np.sqrt((2 * delay + 1) * (np.array(TIMES) + 2 * delay + 1))


def powers(amounts: tuple[int, ...], found: np.ndarray) -> statistics.Estimate:
    """Estimates the power of the amounts with which regrets grow, from a row of these for each seed."""
    return statistics.student(np.polyfit(np.log(amounts), np.log(found.T), 1)[0])


def measure() -> Finding:
    """Plays with each delay, with and without the lag."""
    with jax.enable_x64(True):
        lagged, blind = (np.stack([regrets(delay, known) for delay in DELAYS], axis=1) for known in (True, False))
    bounds = np.stack([bound(delay) for delay in DELAYS])
    share, blind_share = float(np.max(lagged / bounds)), float(np.max(blind / bounds))
    of_time, of_delay = powers(TIMES, lagged[:, -1]), powers(DELAYS, lagged[..., -1])
    of_blind, of_longer = powers(DELAYS, blind[..., -1]), powers(DELAYS[1:], lagged[:, 1:, -1])
    return Finding(
        f"at most {share:.2f} of the bound; power {of_time.mean:.2f} ({of_time.low:.2f} to {of_time.high:.2f}) of the"
        f" time, {of_delay.mean:.2f} ({of_delay.low:.2f} to {of_delay.high:.2f}) of the delay ({of_longer.mean:.2f}"
        f" from {DELAYS[1]} to {DELAYS[2]}); with steps that do not know of the delay {of_blind.mean:.2f}"
        f" ({of_blind.low:.2f} to {of_blind.high:.2f}) of the delay, and up to {blind_share:.2f} of the bound",
        share <= 1 and max(of_time.high, of_delay.high) <= MOST and of_blind.low >= LEAST,
    )


CLAIM = Claim(
    method="delayed_dual_averaging",
    arxiv="2012.11579",
    statement="With steps that shrink with the lag, the regret under delays of tau grows like the root of tau times the"
    " time; with steps that do not know of the delays it grows like tau.",
    experiment=f"Linear losses in {SIZE} dimensions with unit gradients that turn round every 1/2 to 2 delays, delays"
    f" of {', '.join(map(str, DELAYS))} losses, {', '.join(f'{time:,}' for time in TIMES)} losses, slack (2 tau +"
    f" 1)^2, {SEEDS} seeds: the regret against the best point of the unit ball; the powers at the longest delay and"
    " time.",
    required=f"never above the paper's bound 1.5 sqrt((2 tau + 1) (T + 2 tau + 1)), powers of time and delay at most"
    f" {MOST} and without the lag at least {LEAST} (95% intervals)",
    measure=measure,
)
