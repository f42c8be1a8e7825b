"""One host of several: trains decentralized with the others, and goes on until one of them is killed.

`python two_process_training.py ADDRESS PROCESSES INDEX FOLDER RUN`, where RUN is `fresh` or `resumed`;
`test_two_processes.py` starts it and imports `train`.
"""

import itertools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import optkit
from optkit.decentralized import gradient_tracking

WORKERS, STEPS, CHECKPOINT_AT = 8, 12, 5
METHODS = {
    "gossip": optkit.gossip(optax.adam(0.05), optkit.topology.ring(WORKERS), axis_name="workers"),
    "gradient_tracking": gradient_tracking(optax.sgd(0.05), optkit.topology.ring(WORKERS), axis_name="workers"),
}


def data():
    """Each worker's own regression problem, `(workers, samples, features)` and `(workers, samples)`."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(WORKERS, 16, 5))
    return inputs, np.sin(inputs.sum(axis=-1)) + rng.normal(size=(WORKERS, 1))


def start():
    """The parameters and optimizer state of all workers, by method."""

    def of_one(tx):
        params = {"kernel": jnp.full(5, 0.1), "bias": jnp.zeros(())}
        return params, tx.init(params)

    return jax.tree.map(lambda x: np.stack([x] * WORKERS), {name: of_one(tx) for name, tx in METHODS.items()})


def training_step(backend):
    """Makes a step of all methods, of what `start` gives and of the data."""

    def loss(params, inputs, targets):
        return jnp.mean((jnp.tanh(inputs @ params["kernel"]) + params["bias"] - targets) ** 2)

    def step(trained, inputs, targets):
        def advance(tx, params, state):
            updates, state = tx.update(jax.grad(loss)(params, inputs, targets), state, params)
            return optax.apply_updates(params, updates), state

        return {name: advance(tx, *trained[name]) for name, tx in METHODS.items()}

    return optkit.on_workers(step, axis_name="workers", backend=backend)


def train(backend):
    """Trains in one process."""
    step, trained = training_step(backend), start()
    for _ in range(STEPS):
        trained = step(trained, *data())
    return trained


def main(address, processes, index, folder, run):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        address,
        num_processes=processes,
        process_id=index,
        initialization_timeout=60,
        # A process that dies is noticed after this time, and not after 100 seconds.
        heartbeat_timeout_seconds=20,
        # One that fails ends after this time, and does not wait 300 seconds for the others.
        shutdown_timeout_seconds=10,
    )
    mesh = jax.make_mesh((jax.device_count(),), ("workers",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("workers"))
    rows = slice(index * jax.local_device_count(), (index + 1) * jax.local_device_count())

    def globally(x):
        return jax.make_array_from_process_local_data(sharding, x[rows])

    step, trained = training_step("auto"), jax.tree.map(globally, start())
    inputs, targets = jax.tree.map(globally, data())
    with ocp.StandardCheckpointer() as checkpointer:
        done = 0
        if run == "resumed":
            done, trained = CHECKPOINT_AT, checkpointer.restore(folder / "checkpoint", trained)
        for count in itertools.count(done + 1):
            trained = jax.block_until_ready(step(trained, inputs, targets))
            if count == CHECKPOINT_AT:
                checkpointer.save(folder / "checkpoint", trained)
                checkpointer.wait_until_finished()
            if count == STEPS:
                write(folder / f"{run}{index}.npz", trained)


def write(path, trained):
    """Writes this host's rows, so that whoever sees the file sees all of it."""

    def own_rows(x):
        shards = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
        return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])

    parts = {str(i): own_rows(x) for i, x in enumerate(jax.tree.leaves(trained))}
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **parts)
    part.rename(path)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5])
