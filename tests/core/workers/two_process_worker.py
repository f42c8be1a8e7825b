"""One host of several: joins the others, trains on its own rows, and writes what it saw.

`python two_process_worker.py ADDRESS PROCESSES INDEX FOLDER`; `test_two_processes.py` starts it and imports `train`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from optkit.core.workers import collectives
from optkit.core.workers.on_workers import on_workers

WORKERS = 8
STEPS = 14  # ends two steps after the workers last met


def data():
    """Each worker's own regression problem, `(workers, samples, features)` and `(workers, samples)`, and its key."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(WORKERS, 16, 5))
    targets = np.sin(inputs.sum(axis=-1)) + rng.normal(size=(WORKERS, 1))
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(0), WORKERS)))
    return inputs, targets, keys


def train(backend, per_worker):
    """Trains one model on all data by averaged gradients, and one a worker by gossip on a ring.

    Args:
        backend: as for `on_workers`.
        per_worker: turns a stacked NumPy array into what the backend takes.

    Returns:
        Parameters equal on all workers, those of each worker, and the last gathered losses.
    """
    tx = optax.adam(0.05)

    def loss(params, inputs, targets):
        return jnp.mean((jnp.tanh(inputs @ params["kernel"]) + params["bias"] - targets) ** 2)

    def step(count, shared_key, shared, own, key, inputs, targets):
        key, noise_key = jax.random.split(jax.random.wrap_key_data(key))
        shared_key, shared_noise_key = jax.random.split(shared_key)
        noise = jax.random.normal(noise_key, inputs.shape, inputs.dtype)
        inputs = inputs + 0.1 * noise * jax.random.uniform(shared_noise_key, inputs.shape, inputs.dtype)

        params, state = shared
        grads = collectives.pmean(jax.grad(loss)(params, inputs, targets), "workers")
        updates, state = tx.update(grads, state, params)
        shared = optax.apply_updates(params, updates), state

        params, state = own
        value, grads = jax.value_and_grad(loss)(params, inputs, targets)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        ring = [(i, (i + 1) % WORKERS) for i in range(WORKERS)]
        params = jax.tree.map(lambda x: (x + jax.lax.ppermute(x, "workers", ring)) / 2, params)
        params = collectives.cond(
            count % 4 == 3, lambda params: collectives.pmean(params, "workers"), lambda params: params, params
        )
        losses = jax.lax.all_gather(value, "workers")
        return count + 1, shared_key, shared, (params, state), jax.random.key_data(key), losses

    step = on_workers(
        step,
        axis_name="workers",
        in_axes=(None, None, None, 0, 0, 0, 0),
        out_axes=(None, None, None, 0, 0, None),
        backend=backend,
    )
    inputs, targets, keys = jax.tree.map(per_worker, data())
    params = {"kernel": np.full(5, 0.1), "bias": np.zeros(())}
    shared = params, tx.init(params)
    own = jax.tree.map(lambda x: per_worker(np.stack([x] * WORKERS)), shared)
    count, shared_key, losses = np.int32(0), jax.random.key(1), None
    for _ in range(STEPS):
        count, shared_key, shared, own, keys, losses = step(count, shared_key, shared, own, keys, inputs, targets)
    return shared, own, losses


def main(address, processes, index, folder):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, num_processes=processes, process_id=index, initialization_timeout=60)
    rows = slice(index * jax.local_device_count(), (index + 1) * jax.local_device_count())

    def own_rows(x):
        """This host's rows of a result, whether the array is global or not."""
        shards = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
        return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])

    def globally(axis_type):
        mesh = jax.make_mesh((jax.device_count(),), ("workers",), axis_types=(axis_type,))
        sharding = NamedSharding(mesh, PartitionSpec("workers"))
        return lambda x: jax.make_array_from_process_local_data(sharding, x[rows])

    runs = {
        "auto": ("auto", globally(AxisType.Auto)),
        "explicit_mesh": ("shard_map", globally(AxisType.Explicit)),
        "whole_stack_on_each_host": ("shard_map", lambda x: x),
        "pmap": ("pmap", lambda x: x[rows]),
    }
    for name, (backend, per_worker) in runs.items():
        shared, own, losses = train(backend, per_worker)
        leaves: dict[str, Any] = {f"shared{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(shared))}
        leaves |= {f"own{i}": own_rows(x) for i, x in enumerate(jax.tree.leaves(own))}
        np.savez(Path(folder) / f"{name}{index}.npz", losses=np.asarray(losses), **leaves)

    errors = {}
    for backend in ("vmap", "shard_map"):
        try:
            train(backend, lambda x: x[rows])
        except ValueError as error:
            errors[backend] = str(error)
    (Path(folder) / f"errors{index}.json").write_text(json.dumps(errors))
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
