"""How many events DADAO needs on linear regression, on a ring and on a star."""

import jax
import jax.numpy as jnp
import numpy as np

import optkit
from experiments.claims import Claim, Finding

WORKERS, SIZE, CONDITION = 8, 5, 4.8
EVENTS, PIECES, SEEDS = 8000, 80, 4
REQUIRED = 1e-6
TOPOLOGIES = {"ring": optkit.topology.ring(WORKERS), "star": optkit.topology.star(WORKERS)}


def measure() -> Finding:
    """Runs both topologies in double precision."""
    with jax.enable_x64(True):
        curves = {name: np.asarray(_distances(topology)) for name, topology in TOPOLOGIES.items()}
    events = np.linspace(0, EVENTS, PIECES + 1)[1:]

    def draw(ax):
        for name, curve in curves.items():
            ax.semilogy(events, curve.mean(axis=0), label=name)
        ax.set_xlabel("events")
        ax.set_ylabel("mean squared distance to the optimum")
        ax.legend()

    worst = {name: curve[:, -1].max() for name, curve in curves.items()}
    measured = ", ".join(f"{name} {distance:.1e}" for name, distance in worst.items())
    return Finding(
        f"after {EVENTS} events, worst of {SEEDS} seeds: {measured}", bool(max(worst.values()) < REQUIRED), draw
    )


def _distances(topology):
    """Gives the distance at the end of every piece of the events, of all seeds."""
    rng = np.random.default_rng(0)
    bases = np.linalg.qr(rng.standard_normal((WORKERS, SIZE, SIZE)))[0]
    hessians = jnp.asarray((bases * np.linspace(1, CONDITION, SIZE)) @ bases.swapaxes(1, 2))
    targets = jnp.asarray(rng.standard_normal((WORKERS, SIZE)))
    optimum = jnp.linalg.solve(hessians.sum(axis=0), jnp.einsum("nij,nj->i", hessians, targets))
    simulator = optkit.dadao_events(
        lambda x, worker, key: hessians[worker] @ (x - targets[worker]),  # noqa: ARG005  (exact gradients)
        optkit.optimal_rates(topology),
        mu=1.0,
        L=CONDITION,
    )

    def piece(state, events):
        state = simulator.run(state, events)
        return state, jnp.mean(jnp.sum((simulator.params(state) - optimum) ** 2, axis=1))

    def run(key):
        draw_key, start_key = jax.random.split(key)
        events = simulator.sample(draw_key, EVENTS)
        pieces = jax.tree.map(lambda x: x.reshape(PIECES, EVENTS // PIECES, *x.shape[1:]), events)
        start = simulator.init(jax.random.normal(start_key, (WORKERS, SIZE)))
        return jax.lax.scan(piece, start, pieces)[1]

    return jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), SEEDS))


CLAIM = Claim(
    method="dadao_events",
    arxiv="2208.00779",
    statement="Gradients and exchanges at random times, of workers that never wait, converge linearly.",
    experiment=(
        f"Linear regression with {SIZE} parameters and condition number {CONDITION:g} on each of {WORKERS} workers,"
        f" their optima unlike; ring and star, optimal rates, exact gradients, {SEEDS} seeds."
    ),
    required=f"mean squared distance to the optimum below {REQUIRED:g} within {EVENTS} events",
    measure=measure,
)
