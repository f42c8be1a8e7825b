import jax
import jax.numpy as jnp
import optax
import pytest
from golden_files import assert_replays, replays
from worker_runs import topology_of

from optkit import prox
from optkit.compressors import identity, top_k
from optkit.decentralized import (
    choco,
    compressed_proximal_tracking,
    mix,
    noise_robust_gradient_tracking,
    proximal_gradient_tracking,
)
from optkit.testing import golden


def compressor(recording):
    ratio = recording.hyperparams.match("compressor", r"identity|topk ratio ([\d.]+) per leaf")[1]
    return top_k(float(ratio), round_up=False) if ratio else identity()


def torch_clip(threshold):
    """PyTorch's, whose factor is `threshold / (norm + 1e-6)`."""

    def update(updates, params):
        del params
        return optax.tree.scale(jnp.minimum(threshold / (optax.tree.norm(updates) + 1e-6), 1), updates)

    return optax.stateless(update) if threshold else optax.identity()


def replay(tx, recording):
    clip = torch_clip(recording.hyperparams["clip_by_global_norm"])
    return golden.replay_workers(optax.chain(clip, tx), recording)


@pytest.mark.slow
@replays("dproxsgt")
def test_golden_proximal_gradient_tracking(recording):
    hyperparams = recording.hyperparams
    tx = proximal_gradient_tracking(
        hyperparams["learning_rate"],
        topology_of(recording),
        prox.l1(hyperparams["l1"]),
        axis_name="workers",
        mixed_step=hyperparams.word("tracked_step", {"mixed": True, "unmixed": False}),
    )
    assert_replays(recording, replay(tx, recording))


@pytest.mark.slow
@replays("cdproxsgt")
def test_golden_compressed_proximal_tracking(recording):
    hyperparams = recording.hyperparams
    tx = compressed_proximal_tracking(
        hyperparams["learning_rate"],
        topology_of(recording),
        prox.l1(hyperparams["l1"]),
        compressor(recording),
        axis_name="workers",
        gamma_x=hyperparams["gamma_x"],
        gamma_y=hyperparams["gamma_y"],
    )
    assert_replays(recording, replay(tx, recording))


@pytest.mark.slow
@replays("choco_sgd")
def test_golden_choco(recording):
    hyperparams = recording.hyperparams
    inner, gamma = optax.sgd(hyperparams["learning_rate"]), hyperparams["gamma"]
    tx = choco(inner, topology_of(recording), compressor(recording), axis_name="workers", gamma=gamma)
    assert_replays(recording, replay(tx, recording))


@replays("noise_robust_gt")
def test_golden_noise_robust_gradient_tracking(recording):
    arrays = {name: jnp.asarray(x) for name, x in recording.arrays.items()}
    noise = {"x": arrays["draws.zeta_x"]}, {"x": arrays["draws.zeta_s"]}

    def mixing(tree, topology, axis_name, *, step, links):
        """Adds the recorded noise to what others hear, as `noisy_mix` adds what it draws."""
        worker = jax.lax.axis_index(axis_name)
        drawn = jax.tree.map(lambda n: n[step, worker], noise)
        mixed = mix(optax.tree.add(tree, drawn), topology, axis_name, step=step, links=links)
        own_weight = jnp.diag(arrays["mixing"])[worker]
        return jax.tree.map(lambda m, n: m - own_weight * n, mixed, drawn)

    tx = noise_robust_gradient_tracking(
        lambda step: arrays["alphas"][step],
        topology_of(recording),
        axis_name="workers",
        gamma=lambda step: arrays["gammas"][step],
        mixing=mixing,
    )

    def step(carry, _):
        params, state = carry
        worker = jax.lax.axis_index("workers")
        grads = {"x": arrays["problem.Q"][worker] @ params["x"] - arrays["problem.c"][worker]}
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    params = jax.tree.map(jnp.asarray, recording.tree("params0"))
    workers = jax.vmap(step, in_axes=(0, None), axis_name="workers")
    steps = jnp.arange(len(arrays["gammas"]))
    carry = params, jax.vmap(tx.init)(params)
    assert_replays(recording, jax.jit(lambda carry: jax.lax.scan(workers, carry, steps)[1])(carry))
