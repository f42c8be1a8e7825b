import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from golden_files import assert_replays, replays
from promises import assert_needs_parameters
from trajectories import descend, last
from worker_runs import topology_of

from optkit.core.workers.on_workers import on_workers
from optkit.decentralized import drcgd, repeated_mix
from optkit.decentralized.topology import complete, ring
from optkit.testing import check_transformation

BETAS = {"FR": "fletcher_reeves", "PR+": "polak_ribiere"}
WORKERS = 4


def gradient(params, matrix):
    return {"x": -matrix @ params["x"]}


def train(tx, problem, start, steps):
    """Descends on -tr(x' A_i x) / 2; gives the workers' matrices after each step, in NumPy."""
    problems = np.broadcast_to(problem, (steps, *problem.shape))
    return jax.tree.map(np.asarray, descend(tx, gradient, start, problems, axis_name="workers").params)


@pytest.mark.slow
@replays("drcgd")
def test_golden_drcgd(recording):
    hyperparams = recording.hyperparams
    alpha = hyperparams["alpha0"]
    falls = hyperparams.word("step", {"alpha0/sqrt(k+1), k from 0": True}, False)
    tx = drcgd(
        (lambda count: alpha / jnp.sqrt(jnp.asarray(count, float) + 1)) if falls else alpha,
        topology_of(recording),
        axis_name="workers",
        mixing=repeated_mix(hyperparams["consensus_steps"]),
        beta=hyperparams.word("beta", BETAS),
        track=hyperparams["gradient_tracking"],
    )
    start = jax.tree.map(jnp.asarray, recording.tree("params0"))
    problem = jnp.asarray(recording.arrays["problem.A"])
    assert_replays(recording, train(tx, problem, start, len(recording.arrays["params.x"])))


def principal_components(seed, dimension=8, rank=3):
    """Draws a covariance for each worker, and orthonormal matrices to start from, equal on all."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0]
    common = axes * np.array([1.0, 0.9, 0.8, *np.linspace(0.3, 0.0, dimension - rank)]) @ axes.T
    apart = rng.standard_normal((WORKERS, dimension, dimension)) / 10
    apart = apart + apart.mT - np.mean(apart + apart.mT, axis=0)
    start = np.linalg.qr(rng.standard_normal((dimension, rank)))[0]
    dtype = jax.dtypes.canonicalize_dtype(float)
    return (common + apart).astype(dtype), {"x": np.tile(start, (WORKERS, 1, 1)).astype(dtype)}


def subspace_error(problem, x):
    """The largest distance of a worker's subspace from that of the mean covariance's principal components."""
    best = np.linalg.eigh(problem.mean(axis=0))[1][:, -x.shape[-1] :]
    return np.linalg.norm(x @ x.mT - best @ best.T, axis=(-2, -1)).max(axis=-1)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("beta", list(BETAS.values()))
@pytest.mark.parametrize("track", [False, True])
def test_every_step_ends_on_the_manifold(beta, track):
    problem, start = principal_components(0)
    tx = drcgd(0.1, ring(WORKERS), axis_name="workers", beta=beta, track=track)
    x = train(tx, problem, start, 40)["x"]
    np.testing.assert_allclose(x.mT @ x, np.broadcast_to(np.eye(3), (40, WORKERS, 3, 3)), atol=1e-12)


def test_every_step_ends_on_the_manifold_in_float32():
    problem, start = principal_components(0)
    x = train(drcgd(0.1, ring(WORKERS), axis_name="workers"), problem, start, 40)["x"]
    np.testing.assert_allclose(x.mT @ x, np.broadcast_to(np.eye(3), (40, WORKERS, 3, 3)), atol=2e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_subspace_error_falls():
    problem, start = principal_components(1)
    x = train(drcgd(0.2, complete(WORKERS), axis_name="workers", beta="zero"), problem, start, 300)["x"]
    errors = subspace_error(problem, x)
    assert errors[-1] < 0.1 * errors[0]


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_tracked_gradients_take_most_of_the_bias_away():
    problem, start = principal_components(1)
    errors = {}
    for track in (False, True):
        tx = drcgd(0.2, ring(WORKERS), axis_name="workers", beta="zero", track=track)
        errors[track] = subspace_error(problem, train(tx, problem, start, 200)["x"])[-1]
    assert errors[True] < 0.1 * errors[False]


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_without_conjugacy_one_worker_takes_the_projected_gradient_step():
    problem, start = principal_components(2)
    gradient = -problem[0] @ start["x"][0]
    x = start["x"][0]
    product = x.T @ gradient
    moved = x - 0.3 * (gradient - x @ (product + product.T) / 2)
    left, _, right = np.linalg.svd(moved, full_matrices=False)
    tx = drcgd(0.3, ring(1), axis_name="workers", beta="zero")
    ours = train(tx, problem[:1], jax.tree.map(lambda x: x[:1], start), 1)["x"]
    np.testing.assert_allclose(ours[0, 0], left @ right, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_free_leaves_follow_conjugate_gradients_of_flat_space():
    # Exact line searches make nonlinear conjugate gradients the linear ones, which end after as many steps as there
    # are dimensions.
    hessian = np.diag([1.0, 3.0, 10.0])
    x, target = np.array([1.0, 1.0, 1.0]), np.array([3.0, -1.0, 0.5])
    r = hessian @ (target - x)
    d, rates = r, []
    for _ in range(3):
        rates.append(r @ r / (d @ hessian @ d))
        x, before = x + rates[-1] * d, r
        r = r - rates[-1] * hessian @ d
        d = r + (r @ r) / (before @ before) * d
    for beta in ("fletcher_reeves", "polak_ribiere"):
        tx = drcgd(lambda count: jnp.asarray(rates)[count], ring(1), axis_name="workers", beta=beta)
        gradient = lambda params, _: jnp.asarray(hessian) @ (params - target)  # noqa: E731
        run = descend(tx, gradient, jnp.ones((1, 3)), steps=3, axis_name="workers")
        np.testing.assert_allclose(last(run.params)[0], target, rtol=1e-9)


@pytest.mark.slow
def test_wide_matrices_and_vectors_are_free_by_default():
    tx = drcgd(0.1, ring(1), axis_name="workers")
    params = {"tall": np.eye(3, 2), "stack": np.ones((5, 3, 2)), "wide": np.ones((2, 3)), "vector": np.ones(3)}
    params |= {"scalar": np.ones(()), "empty": np.ones((4, 0)), "none": None}
    stacked = jax.tree.map(lambda x: np.float32(x[None]), params)

    def step(params):
        updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
        return optax.apply_updates(params, updates)

    new = jax.tree.map(lambda x: np.asarray(x)[0], jax.jit(jax.vmap(step, axis_name="workers"))(stacked))
    for name in ("tall", "stack"):
        identity = np.broadcast_to(np.eye(2), (*new[name].shape[:-2], 2, 2))
        np.testing.assert_allclose(new[name].mT @ new[name], identity, atol=1e-6)
    for name in ("wide", "vector", "scalar"):
        np.testing.assert_allclose(new[name], 0.9, rtol=1e-6)


def test_state_holds_what_its_options_need():
    params = jnp.eye(3, 2)
    plain = drcgd(0.1, ring(1), axis_name="workers").init(params)
    assert (plain.steepest, plain.gradient) == (None, None)
    assert drcgd(0.1, ring(1), axis_name="workers", beta="polak_ribiere").init(params).gradient is None
    tracked = drcgd(0.1, ring(1), axis_name="workers", track=True).init(params)
    assert tracked.steepest.shape == tracked.gradient.shape == (3, 2)


@pytest.mark.slow
def test_matrices_keep_the_contract():
    # The catalog's entry has no matrices on the manifold: the contract's problems have their solutions off it.
    promises = "keeps_types", "allows_donation", "takes_all_shapes", "stays_finite_in_float16", "continues_from_flax"
    check_transformation(
        drcgd,
        promises=promises,
        static_args=("topology", "axis_name", "mixing", "beta", "track", "stiefel"),
        needs=("axis_name",),
        learning_rate=1e-2,
        topology=ring(8),
        axis_name="workers",
        beta="polak_ribiere",
        track=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_backends_agree(backend):
    problem, start = principal_components(0)
    tx = drcgd(0.1, ring(WORKERS), axis_name="workers")

    def step(params, matrix):
        updates, _ = tx.update({"x": -matrix @ params["x"]}, tx.init(params), params)
        return optax.apply_updates(params, updates)

    simulated, real = (
        on_workers(step, axis_name="workers", backend=name)(start, problem)["x"] for name in ("vmap", backend)
    )
    np.testing.assert_allclose(simulated, real, atol=1e-6)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="beta must be 'fletcher_reeves', 'polak_ribiere' or 'zero', got 'FR'"):
        drcgd(0.1, ring(2), axis_name="workers", beta="FR")
    tx = drcgd(0.1, ring(2), axis_name="workers", stiefel=True)
    with pytest.raises(ValueError, match=r"not wider than high, got the leaf \['x'\] of shape \(2, 3\)"):
        tx.init({"x": jnp.ones((2, 3))})
    assert_needs_parameters(drcgd(0.1, ring(2), axis_name="workers"), "drcgd", jnp.eye(2))


@pytest.mark.slow
@pytest.mark.parametrize("beta", ["zero", "polak_ribiere"])
def test_complex_matrices_keep_orthonormal_columns_and_reach_the_eigenvectors(beta):
    real, imaginary = np.asarray(normal(2, 4, 4))
    hermitian = real + 1j * imaginary + (real + 1j * imaginary).conj().T
    tx = drcgd(0.02, complete(2), axis_name="workers", beta=beta)
    start = np.tile(np.eye(4, 2, dtype=np.complex64), (2, 1, 1))
    run = descend(tx, lambda params, _: -jnp.asarray(hermitian) @ params, start, steps=600, axis_name="workers")
    path = np.asarray(run.params)[:, 0]
    np.testing.assert_allclose(path.mT.conj() @ path, np.tile(np.eye(2), (600, 1, 1)), atol=1e-5)
    # Fletcher and Reeves' directions, without a line search, leave the eigenvectors now and then and come back.
    traces = np.einsum("tmr,mn,tnr->t", path.conj(), hermitian, path).real
    found = path[np.argmax(traces) if beta == "fletcher_reeves" else -1]
    values = np.linalg.eigvalsh(found.conj().T @ hermitian @ found)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(hermitian)[-2:], rtol=1e-2)


@pytest.mark.slow
def test_no_leaf_need_be_on_the_manifold():
    tx = drcgd(0.1, complete(2), axis_name="workers", stiefel=False)
    params = jnp.ones((2, 3, 2))
    updates = jax.jit(jax.vmap(lambda x: tx.update(x, tx.init(x), x)[0], axis_name="workers"))(params)
    np.testing.assert_allclose(updates, -0.1, rtol=1e-6)
