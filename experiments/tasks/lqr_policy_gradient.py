"""A linear-quadratic regulator, learned by policy gradients from rollouts with sampled noise.

Three masses in a row, joined to each other and to two walls by springs, are pushed by one force each. The forces are a
linear function of the state, the policy, plus noise that explores. An example is a rollout's initial state and noise.
After the last step the optimal policy takes over, whose cost the Riccati equation gives, so that the policy that is
optimal over infinitely many steps is the optimum here too.

The loss is the mean cost of the rollouts, and its gradient the score-function estimate: what the states and forces do
to the cost is not differentiated, only how likely the policy made them (DiCE; Foerster et al., "DiCE: The Infinitely
Differentiable Monte Carlo Estimator", 2018, arXiv:1802.05098), so that products with its Hessian are estimates too. The
baseline is the least cost from each state, as a perfect critic gives it: without one the noise of the estimate is ten
times as large.

The loss reported on every split is how far the cost without noise lies above that of the optimal policy, and the
reference figure is the cost of that policy, 1.06062 for the mean test state; the policy that does nothing costs 3.79.
There is no other minimum (Fazel et al., "Global Convergence of Policy Gradient Methods for the Linear Quadratic
Regulator", 2018, arXiv:1801.05039).
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from optkit.comparison.task import Task

INTERVAL = 0.3
MASSES = (1.0, 2.0, 4.0)
HORIZON = 20
NOISE = 0.3
EXAMPLES = {"train": 20_000, "validation": 1_000, "test": 1_000}
REFERENCE = 1.06062


def task() -> Task:
    """Returns the task."""
    transition, control, _, force_cost = system()
    least_cost, optimum = solve()
    curvature = force_cost + control.T @ least_cost @ control
    forces, states = optimum.shape
    random = np.random.default_rng(0)

    def sample(examples):
        return {
            "state": random.normal(size=(examples, states)).astype(np.float32),
            "noise": random.normal(size=(examples, HORIZON, forces)).astype(np.float32),
        }

    def init(key):
        return {"policy": 0.01 * jax.random.normal(key, (forces, states))}

    def excess(state, force):
        """What a force costs above the best one: the square is completed, so that nothing cancels."""
        return quadratic(force - state @ optimum.T, curvature)

    def loss(params, batch):
        def step(carry, noise):
            state, likelihood = carry
            mean = state @ params["policy"].T
            force = jax.lax.stop_gradient(mean + NOISE * noise)
            likelihood -= jnp.sum((force - mean) ** 2, axis=-1) / (2 * NOISE**2)
            # One, with the derivatives of the likelihood.
            weight = jnp.exp(likelihood - jax.lax.stop_gradient(likelihood))
            return (state @ transition.T + force @ control.T, likelihood), weight * excess(state, force)

        start = (batch["state"], jnp.zeros(len(batch["state"])))
        _, above = jax.lax.scan(step, start, jnp.moveaxis(batch["noise"], 1, 0))
        return jnp.mean(quadratic(batch["state"], least_cost) + jnp.sum(above, axis=0))

    def metrics(params, split):
        def step(state, _):
            force = state @ params["policy"].T
            return state @ transition.T + force @ control.T, excess(state, force)

        _, above = jax.lax.scan(step, split["state"], length=HORIZON)
        above = jnp.sum(above, axis=0)
        return {"loss": above, "cost": quadratic(split["state"], least_cost) + above}

    splits = {name: sample(examples) for name, examples in EXAMPLES.items()}
    return Task(
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        init=init,
        loss=loss,
        metrics=metrics,
        steps=1000,
        batch_size=64,
        facts={
            "data": "synthetic: masses joined by springs, Gaussian initial states and noise",
            "examples": EXAMPLES,
            "reference": {"cost": REFERENCE},
        },
    )


def quadratic(vectors: jax.Array, matrix: np.ndarray) -> jax.Array:
    """Returns the quadratic form of each vector, the last axis."""
    return jnp.sum((vectors @ matrix) * vectors, axis=-1)


def system() -> tuple[np.ndarray, ...]:
    """Returns what a state and what a force add to the next state, and the costs of both, as matrices."""
    masses = len(MASSES)
    springs = 2 * np.eye(masses) - np.eye(masses, k=1) - np.eye(masses, k=-1)
    push = np.diag(INTERVAL / np.asarray(MASSES))
    # Positions move by the new velocities: moved by the old ones, the masses would gain energy from nothing.
    velocities = np.concatenate([-push @ springs, np.eye(masses)], axis=1)
    positions = np.eye(masses, 2 * masses) + INTERVAL * velocities
    transition, control = np.concatenate([positions, velocities]), np.concatenate([INTERVAL * push, push])
    # With this weight the least cost is near 1, and rates that are usual for SGD do not diverge.
    weight = INTERVAL / HORIZON
    matrices = (transition, control, weight * np.eye(2 * masses), weight * np.eye(masses))
    return tuple(matrix.astype(np.float32) for matrix in matrices)


def solve() -> tuple[np.ndarray, np.ndarray]:
    """Returns the least cost of a state over infinitely many steps, a quadratic form, and the policy that has it."""
    transition, control, state_cost, force_cost = (matrix.astype(np.float64) for matrix in system())
    least_cost = scipy.linalg.solve_discrete_are(transition, control, state_cost, force_cost)
    curvature = force_cost + control.T @ least_cost @ control
    policy = -np.linalg.solve(curvature, control.T @ least_cost @ transition)
    return least_cost.astype(np.float32), policy.astype(np.float32)
