"""Runs on several workers whose losses differ, and what their golden files say."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from optkit.core.cost import hlo
from optkit.decentralized.topology import Topology


class Quadratics(NamedTuple):
    """Each worker's loss, `x'Ax / 2 - b'x` with eigenvalues of A in [0.5, 1], workers first."""

    hessian: jax.Array
    linear: jax.Array

    def gradients(self, params):
        return jnp.einsum("ijk,ik->ij", self.hessian, params) - self.linear

    def minimum(self):
        return np.linalg.solve(*(np.asarray(x).sum(axis=0) for x in self))


def quadratics(workers, dimension=3, seed=0):
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.standard_normal((workers, dimension, dimension)))
    curvature = rng.uniform(0.5, 1.0, (workers, 1, dimension))
    linear = rng.standard_normal((workers, dimension))
    return Quadratics(jnp.asarray((basis * curvature) @ basis.mT), jnp.asarray(linear))


def train(tx, losses, steps, **extra_args):
    """The workers' parameters and states after every step, in NumPy; extra arguments are equal on all, time first."""
    tx = optax.with_extra_args_support(tx)

    def worker(hessian, linear):
        params = jnp.zeros_like(linear)

        def step(carry, extra_args):
            params, state = carry
            updates, state = tx.update(hessian @ params - linear, state, params, **extra_args)
            params = optax.apply_updates(params, updates)
            return (params, state), (params, state)

        return jax.lax.scan(step, (params, tx.init(params)), extra_args, length=steps)[1]

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(worker, out_axes=1, axis_name="workers"))(*losses))


def bytes_sent(tx, size=64):
    """What a step sends, by kind of collective, for a parameter of some numbers on eight devices."""
    step = optkit.on_workers(tx.update, axis_name="workers", backend="shard_map")
    params = jnp.zeros((8, size), jnp.float32)
    lowered = jax.jit(step).lower(params, jax.eval_shape(jax.vmap(tx.init), params), params)
    return hlo.read(lowered.compile(), lowered).sent


def topology_of(recording):
    """The recorded matrix; its name, which says no more, must be one that we know."""
    matrix = recording.arrays["mixing"]
    recording.hyperparams.match(
        "topology", rf"(binary-tree|chain|er|path|ring|star)({len(matrix)})?( with weights 1/3)?"
    )
    return Topology(matrix[None])


def learning_rate_of(recording):
    if not recording.hyperparams.is_word("learning_rate"):
        return recording.hyperparams["learning_rate"]
    name = recording.hyperparams.word("learning_rate", {"learning_rates[t]": "learning_rates"})
    rates = jnp.asarray(recording.arrays[name])
    return lambda count: rates[count]


def sgd_of(recording):
    """The inner optimizer of the recordings of wrappers."""
    hyperparams = recording.hyperparams
    momentum, nesterov = hyperparams.get("momentum", 0.0), hyperparams.get("nesterov", False)
    decay = optax.add_decayed_weights(hyperparams.get("weight_decay", 0.0))
    return optax.chain(decay, optax.sgd(learning_rate_of(recording), momentum, nesterov))
