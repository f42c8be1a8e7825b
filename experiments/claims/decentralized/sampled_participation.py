"""The bytes that sampled participation needs with most workers absent, against decentralized SGD with all present."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments import tasks
from experiments.claims import Claim, Finding
from experiments.claims.trainings import DIGITS, SEEDS
from experiments.workers import split
from optkit.comparison import statistics
from optkit.decentralized import links_among, participation_mix, sample_participants

WORKERS, BATCH_SIZE, EVERY, ROUNDS, RATE = 64, 8, 5, 60, 0.3
SAMPLED, PRESENT, LEAVE = 5, 13, 5
TARGET, FEWER = 0.9, 3
EXPONENTIAL, COMPLETE = optkit.topology.one_peer_exponential(WORKERS), optkit.topology.complete(WORKERS)


def accuracies(sampled: bool) -> np.ndarray:
    """Trains; gives the validation accuracy after each round, for each seed.

    Args:
        sampled: whether a few workers take part in a round, of whom most leave soon. The accuracy is then that of a
            participant of the next round. Otherwise it is the mean over workers.
    """
    task = tasks.load(DIGITS)
    rows = []
    for seed in range(SEEDS):
        parts = split.deal(task, workers=WORKERS, alpha=np.inf, least=BATCH_SIZE, seed=seed)
        batches = split.batches(parts, batch_size=BATCH_SIZE, steps=ROUNDS * EVERY, seed=seed)
        rows.append(batches.reshape(WORKERS, ROUNDS, EVERY, BATCH_SIZE))

    def accuracy(params):
        return jnp.mean(task.metrics(params, task.validation)["accuracy"])

    def run(seed, rows):
        key = jax.random.key(seed)
        mixing = participation_mix(SAMPLED, key=key) if sampled else optkit.mix
        topology = COMPLETE if sampled else EXPONENTIAL
        tx = optkit.gossip(optax.sgd(RATE), topology, axis_name="workers", mixing=mixing, every=EVERY)

        def worker(rows):
            def round_of(carry, number_and_rows):
                number, rows = number_and_rows
                active = (jnp.arange(WORKERS) < PRESENT) | (number < LEAVE)
                links = {"links": links_among(active)} if sampled else {}

                def step(carry, rows):
                    params, state = carry
                    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], task.train)
                    updates, state = tx.update(jax.grad(task.loss)(params, batch), state, params, **links)
                    return (optax.apply_updates(params, updates), state), None

                carry = jax.lax.scan(step, carry, rows)[0]
                if not sampled:
                    return carry, jax.lax.pmean(accuracy(carry[0]), "workers")
                heirs = sample_participants(number + 1, WORKERS, SAMPLED, key=key, active=active)
                mine = jax.lax.axis_index("workers") == jnp.argmax(heirs)
                kept = jax.tree.map(lambda x: jax.lax.psum(jnp.where(mine, x, 0), "workers"), carry[0])
                return carry, accuracy(kept)

            start = task.init(key)
            return jax.lax.scan(round_of, (start, tx.init(start)), (jnp.arange(ROUNDS), rows))[1]

        return jax.vmap(worker, axis_name="workers", out_axes=None)(rows)

    return np.asarray(jax.jit(jax.vmap(run))(jnp.arange(SEEDS), jnp.asarray(np.stack(rows))))


def rounds_to_target(curves: np.ndarray) -> np.ndarray:
    """Counts the rounds until each curve first reaches the target; infinite where it does not."""
    reached = curves >= TARGET
    return np.where(reached.any(axis=1), np.argmax(reached, axis=1) + 1.0, np.inf)


def measure() -> Finding:
    """Multiplies the rounds of both by the models that are sent in one."""
    parameters = optax.tree.size(tasks.load(DIGITS).init(jax.random.key(0)))
    # Participants send to one of them, who averages and sends to those of the next round; all workers send to one.
    sampled, all_workers = (
        4 * parameters * models * rounds_to_target(accuracies(which))
        for which, models in ((True, 2 * SAMPLED), (False, WORKERS))
    )
    found = statistics.student(np.log(all_workers / sampled))
    return Finding(
        f"{np.mean(sampled) / 1e6:.0f} MB against {np.mean(all_workers) / 1e6:.0f} MB:"
        f" {np.exp(found.mean):.1f} times fewer ({np.exp(found.low):.1f} to {np.exp(found.high):.1f})",
        bool(np.exp(found.low) >= FEWER),
    )


CLAIM = Claim(
    method="participation_mix",
    arxiv="2302.13837",
    statement="Where a few sampled workers train and average in each round, a model needs 3 to 14 times fewer bytes"
    " than decentralized SGD among all workers, even when 80% of the workers become unresponsive.",
    experiment=f"The digits perceptron, {WORKERS} workers with equal parts, rounds of {EVERY} steps of rate {RATE},"
    f" {SAMPLED} workers in a round, {WORKERS - PRESENT} of {WORKERS} workers gone after {LEAVE} rounds, against"
    f" one-peer exponential exchanges with all present, {SEEDS} seeds: float32 bytes of all messages of the paper's"
    f" protocol, {2 * SAMPLED} and {WORKERS} models a round, until the validation accuracy is {TARGET:.0%}.",
    required=f"at least {FEWER} times fewer bytes (lower end of the paired 95% interval)",
    measure=measure,
)
