import dataclasses

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from golden_files import replays

import optkit
from optkit.decentralized import DadaoEvents, GossipRates, dadao_constants, dadao_events, uniform_rates
from optkit.decentralized._dadao_flow import make_flow

TARGETS = np.array([[0.0, 3.0], [1.0, -1.0], [4.0, 0.5], [-2.0, 2.0]])
RATES = uniform_rates(optkit.topology.ring(4))
COUNT = 60


def pull(params, worker, key):
    """Quadratics with other targets on each worker, of two leaves with other curvatures, and one that is `None`."""
    del key
    target = jnp.asarray(TARGETS)[worker]
    return {"w": 2.0 * (params["w"] - target), "b": params["b"] - target[0], "none": None}


def start(dtype=None):
    return {"w": jnp.ones((4, 2), dtype), "b": jnp.zeros(4, dtype), "none": None}


SIMULATOR = dadao_events(pull, RATES, mu=1.0, L=2.0)
RUN = jax.jit(SIMULATOR.run)
SAMPLE = jax.jit(SIMULATOR.sample, static_argnums=1)
KEY = jax.random.key(0)


CONSTANTS = ("nu", "beta", "beta_tilde", "delta", "delta_tilde", "gamma", "gamma_tilde")


def recorded_gradient(recording):
    is_squared = recording.hyperparams.word("loss", {"logistic": False, "squared": True})
    features, targets = (jnp.asarray(recording.arrays[f"data.{name}"]) for name in "Ab")

    def loss(x, worker):
        predictions = features[worker] @ x
        if is_squared:
            return jnp.mean((predictions - targets[worker, :, 0]) ** 2)
        penalty = 0.5 * recording.hyperparams["mu"] * jnp.sum(x**2)
        return jnp.mean(jnp.logaddexp(0.0, -targets[worker, :, 0] * predictions)) + penalty

    return lambda params, worker, _: {"x": jax.grad(loss)(params["x"], worker)}


def recorded_rates(recording):
    workers, edges = len(recording.tree("params0")["x"]), recording.arrays["edges"]
    graphs = ("2D_grid", "complete", "cycle", "path", "star")  # What a graph's name says, its edges do.
    recording.hyperparams.word("graph", graphs)
    assert recording.hyperparams["lambda_grad"] == workers
    return GossipRates(workers, edges, np.full(len(edges), recording.hyperparams["lambda_mix"] / len(edges)))


@pytest.mark.slow
@replays("dadao")
def test_golden(recording):
    hyperparams = recording.hyperparams
    hyperparams.take("chi1", "chi2", *CONSTANTS)  # These are compared below.
    simulator = dadao_events(
        recorded_gradient(recording), recorded_rates(recording), hyperparams["mu"], hyperparams["L"]
    )
    times, is_gradient = recording.arrays["times"], recording.arrays["events"][:, 0] == 1
    first, second = recording.arrays["events"][:, 1:].T
    events = DadaoEvents(
        wait=jnp.asarray(np.diff(times, prepend=0.0)),
        is_gradient=jnp.asarray(is_gradient),
        workers=jnp.asarray(np.stack([first, np.where(is_gradient, first, second)], axis=1)),
        key=jax.random.split(KEY, len(times)),
    )

    def step(state, event):
        state = simulator.run(state, jax.tree.map(lambda x: x[None], event))
        return state, state.variables["x"]

    trajectory = jax.jit(lambda state: jax.lax.scan(step, state, events)[1])(simulator.init(recording.tree("params0")))
    golden_files.assert_replays(recording, {"x": trajectory[:, :, 0]})
    for index, name in enumerate(("X_tilde", "Y", "Y_tilde", "Z", "Z_tilde"), start=1):
        golden_files.assert_replays(recording, trajectory[:, :, index], f"state.{name}")


@replays("dadao")
def test_golden_constants_are_those_of_the_authors(recording):
    rates, hyperparams = recorded_rates(recording), recording.hyperparams
    recorded_gradient(recording)
    constants = dadao_constants(hyperparams["mu"], hyperparams["L"], rates.chi1, rates.chi2)
    assert rates.chi1 == pytest.approx(hyperparams["chi1"] / hyperparams["lambda_mix"], rel=1e-12)
    assert rates.chi2 == pytest.approx(hyperparams["chi2"] / hyperparams["lambda_mix"], rel=1e-12)
    for name in CONSTANTS:
        assert getattr(constants, name) == pytest.approx(hyperparams[name], rel=1e-12)


def generator(constants):
    """The matrix of the linear flow, row by row as in the paper: X, X~, Y, Y~, Z, Z~."""
    nu, eta, alpha, alpha_tilde, theta = constants[:5]
    return np.array(
        [
            [-eta, eta, 0, 0, 0, 0],
            [eta, -eta, 0, 0, 0, 0],
            [0, 0, -alpha, alpha, 0, 0],
            [0, -theta * nu, -theta, 0, -theta, 0],
            [0, 0, 0, 0, -alpha, alpha],
            [0, 0, 0, 0, alpha_tilde, -alpha_tilde],
        ]
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("condition", [1.0, 20.0, 1e4])
def test_the_flow_is_the_matrix_exponential(condition):
    constants = dadao_constants(1.0, condition, 0.5, 0.5)
    flow = jax.jit(make_flow(constants))
    for time in (1e-3, 0.3, 5.0, 100.0):
        expected = scipy.linalg.expm(generator(constants) * time)
        error = np.abs(flow(np.eye(6), jnp.asarray(time)) - expected).max()
        assert error <= 1e-12 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_all_workers_reach_the_common_optimum():
    params = SIMULATOR.params(RUN(SIMULATOR.init(start()), SAMPLE(KEY, 4000)))
    np.testing.assert_allclose(params["w"], np.tile(TARGETS.mean(axis=0), (4, 1)), rtol=0, atol=1e-7)
    np.testing.assert_allclose(params["b"], np.full(4, TARGETS[:, 0].mean()), rtol=0, atol=1e-7)
    assert params["none"] is None


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_one_worker_without_neighbours_minimizes_its_own_function():
    simulator = dadao_events(lambda x, *_: x - 3.0, uniform_rates(optkit.topology.ring(1)), mu=1.0, L=1.0)
    events = jax.jit(simulator.sample, static_argnums=1)(KEY, 1000)
    assert np.all(events.is_gradient)
    state = jax.jit(simulator.run)(simulator.init(jnp.zeros(1)), events)
    np.testing.assert_allclose(simulator.params(state), [3.0], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_run_in_pieces_is_the_run_as_a_whole():
    init, events = SIMULATOR.init(start()), SAMPLE(KEY, COUNT)

    def in_pieces(events):
        pieces = jax.tree.map(lambda x: x.reshape(4, COUNT // 4, *x.shape[1:]), events)
        return jax.lax.scan(lambda state, piece: (SIMULATOR.run(state, piece), None), init, pieces)[0]

    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12),
        jax.jit(in_pieces)(events),
        RUN(init, events),
    )


@pytest.mark.usefixtures("x64")
def test_parameters_are_read_at_one_time_for_all_workers():
    state = RUN(SIMULATOR.init(start()), SAMPLE(KEY, COUNT))
    params = jax.jit(SIMULATOR.params)(state)
    flow = scipy.linalg.expm(generator(dadao_constants(1.0, 2.0, RATES.chi1, RATES.chi2)) * float(state.elapsed[2]))
    np.testing.assert_allclose(params["w"][2], (flow @ state.variables["w"][2])[0], rtol=1e-12, atol=1e-12)
    stale = np.abs(params["w"] - state.variables["w"][:, 0]).max(axis=1)
    np.testing.assert_array_equal(stale == 0, np.asarray(state.elapsed) == 0)
    assert stale.max() > 1e-3


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_an_exchange_keeps_the_sum_over_workers_of_what_is_exchanged():
    before = RUN(SIMULATOR.init(start()), SAMPLE(KEY, COUNT))._replace(elapsed=jnp.zeros(4))
    exchange = SAMPLE(KEY, COUNT)._replace(
        wait=jnp.zeros(COUNT), is_gradient=jnp.zeros(COUNT, bool), workers=jnp.full((COUNT, 2), jnp.array([0, 2]))
    )
    after = RUN(before, exchange)
    changed = np.abs(after.variables["w"] - before.variables["w"]).max(axis=2) > 0
    expected = np.zeros((4, 6), bool)
    expected[[0, 2], 4:] = True
    np.testing.assert_array_equal(changed, expected)
    sums = after.variables["w"][:, 2] + after.variables["w"][:, 4]
    np.testing.assert_allclose(sums[0], sums[2], rtol=0, atol=1e-12)
    for x, y in zip(jax.tree.leaves(after.variables), jax.tree.leaves(before.variables), strict=True):
        np.testing.assert_allclose(x.sum(axis=0), y.sum(axis=0), rtol=0, atol=1e-10)


@pytest.mark.slow
def test_events_come_at_their_rates():
    rates = GossipRates(3, np.array([[0, 1], [1, 2]]), np.array([1.0, 4.0]))
    sample = jax.jit(dadao_events(pull, rates, mu=1.0, L=1.0).sample, static_argnums=(0, 1))
    events = sample(0, 20000)
    time = float(jnp.sum(events.wait))
    gradients = np.bincount(events.workers[events.is_gradient, 0], minlength=3)
    exchanges = np.bincount(events.workers[~events.is_gradient, 0], minlength=2)
    counts, means = np.concatenate([gradients, exchanges]), np.array([1.0, 1.0, 1.0, 1.0, 4.0]) * time
    assert np.all(np.abs(counts - means) < 5 * np.sqrt(means))
    np.testing.assert_array_equal(events.is_gradient, events.workers[:, 0] == events.workers[:, 1])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_noisy_gradients_get_a_key_of_their_own_at_each_event():
    # At X = Y~ = 0 without a wait, X moves by the noise alone.
    def noise(params, worker, key):
        del worker
        return jax.random.normal(key, params.shape)

    simulator = dadao_events(noise, RATES, mu=1.0, L=1.0)
    events = SAMPLE(KEY, 4)._replace(
        wait=jnp.zeros(4), is_gradient=jnp.ones(4, bool), workers=jnp.tile(jnp.arange(4)[:, None], 2)
    )
    state = jax.jit(simulator.run)(simulator.init(jnp.zeros((4, 2))), events)
    expected = jax.vmap(lambda key: jax.random.normal(key, 2))(events.key)
    np.testing.assert_allclose(state.variables[:, 0], -expected / 4, rtol=1e-12)  # gamma = 1 / (4 L)
    assert len(np.unique(state.variables[:, 0])) == 8


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_runs_map_over_keys():
    keys, init = jax.random.split(KEY, 2), SIMULATOR.init(start())
    events = [SAMPLE(key, COUNT) for key in keys]
    mapped = jax.jit(jax.vmap(SIMULATOR.run, (None, 0)))(init, jax.tree.map(lambda *x: jnp.stack(x), *events))
    for index, one in enumerate(events):
        for x, y in zip(jax.tree.leaves(mapped), jax.tree.leaves(RUN(init, one)), strict=True):
            np.testing.assert_allclose(x[index], y, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("given", "kept"), [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_sixteen_bits_are_simulated_in_thirty_two_and_doubles_stay(given, kept):
    state = jax.eval_shape(lambda: SIMULATOR.init(start(given)))
    after = jax.eval_shape(SIMULATOR.run, state, jax.eval_shape(lambda: SIMULATOR.sample(0, 3)))
    dtypes = {str(x.dtype) for x in jax.tree.leaves((state, after, jax.eval_shape(SIMULATOR.params, after)))}
    assert dtypes == {kept}


@pytest.mark.parametrize("bad", [{"mu": 0.0}, {"mu": -1.0}, {"L": 0.5}, {"chi1": -1.0}, {"chi2": float("nan")}])
def test_constants_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} must be in"):
        dadao_constants(**{"mu": 1.0, "L": 2.0, "chi1": 0.5, "chi2": 0.5, **bad})


def test_too_rare_exchanges_are_refused_with_how_often_they_must_be():
    rare = dataclasses.replace(RATES, rates=RATES.rates / 4)
    with pytest.raises(ValueError, match=r"chi1 \* chi2 must be at most 1/2, got 8: make all exchanges 4 times"):
        dadao_events(pull, rare, mu=1.0, L=2.0)


@pytest.mark.parametrize("params", [{"w": np.zeros((3, 2))}, np.zeros(()), {}])
def test_parameters_of_another_number_of_workers_are_refused(params):
    with pytest.raises(ValueError, match="parameters need a leading axis of the 4 workers"):
        SIMULATOR.init(params)


def test_a_count_of_events_must_be_positive():
    with pytest.raises(ValueError, match="count must be a positive integer, got 0"):
        SIMULATOR.sample(0, 0)
