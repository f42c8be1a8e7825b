"""What replays refuse, and replays of the kinds of recordings of families to come."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import assert_replays, replays

from optkit.testing import golden
from optkit.testing.golden import Hyperparameters, Recording


def recorded():
    values = {"b1": 0.9, "kappa": "lp", "nesterov": False, "base": {"lr": 0.1, "betas": [0.9, 0.99]}, "leaves": {}}
    return Hyperparameters("method__variant", {**values, "algorithms": {"w": "dion", "b": "lion"}})


def test_hyperparameters_are_read_by_name():
    found = recorded()
    assert found.take("b1", learning_rate="base.lr") == {"b1": 0.9, "learning_rate": 0.1}
    assert found.take_recorded("b2", nesterov="nesterov") == {"nesterov": False}
    assert found.get("b2", 0.5) == 0.5
    assert found.word("kappa", {"l1": 1, "lp": 2}) == 2
    assert found.word("missing", ("l1",), None) is None
    assert found.words("algorithms", ("dion", "lion")) == {"w": "dion", "b": "lion"}
    assert found.group("base") == {"lr": 0.1, "betas": [0.9, 0.99]}
    assert found.match("kappa", "l(p|1)")[1] == "p"
    found.refuse_unread()


def test_hyperparameters_that_nothing_read_are_refused_by_name():
    found = recorded()
    assert "kappa" in found
    assert found.is_word("kappa")
    found.take("b1", "nesterov", "base.lr")
    with pytest.raises(ValueError, match=r"method__variant.*\['algorithms.b', 'algorithms.w', 'base.betas', 'kappa'\]"):
        found.refuse_unread()


@pytest.mark.parametrize(
    ("read", "error", "message"),
    [
        (lambda h: h["kappa"], ValueError, "'kappa' must be no word, got 'lp'"),
        (lambda h: h.get("kappa", 1.0), ValueError, "'kappa' must be no word, got 'lp'"),
        (lambda h: h.take(b1="kappa"), ValueError, "'kappa' must be no word, got 'lp'"),
        (lambda h: h.group("algorithms"), ValueError, r"'algorithms\.w' must be no word, got 'dion'"),
        (lambda h: h.word("kappa", {"l1": 1}), ValueError, r"'kappa' must be one of \['l1'\], got 'lp'"),
        (lambda h: h.word("b1", ("l1",)), ValueError, r"'b1' must be one of \['l1'\], got 0\.9"),
        (lambda h: h.word("nesterov", {0: "zero"}), ValueError, "'nesterov' must be one of .0., got False"),
        (
            lambda h: h.words("algorithms", ("dion",)),
            ValueError,
            r"'algorithms\.b' must be one of \['dion'\], got 'lion'",
        ),
        (lambda h: h.match("kappa", "l"), ValueError, "'kappa' must be a word like 'l', got 'lp'"),
        (lambda h: h.match("b1", "l"), ValueError, r"'b1' must be a word like 'l', got 0\.9"),
        (lambda h: h["b2"], KeyError, "method__variant has no hyperparameter 'b2', only"),
        (lambda h: h.take("b2"), KeyError, "has no hyperparameter 'b2', only"),
        (lambda h: h.word("b2", ("l1",)), KeyError, "has no hyperparameter 'b2', only"),
    ],
)
def test_what_a_replay_does_not_know_is_refused_by_name(read, error, message):
    with pytest.raises(error, match=message):
        read(recorded())


def test_a_replay_that_leaves_a_hyperparameter_unread_fails():
    meta = {"kind": "gradients", "hyperparams": {"learning_rate": 0.1, "typo": 1}, "rtol": 1e-9}
    recording = Recording("sgd__typo", meta, {"params.w": jnp.zeros((1, 2))})
    recording.hyperparams.take("learning_rate")
    with pytest.raises(ValueError, match=r"sgd__typo: this replay does not know the hyperparameters \['typo'\]"):
        assert_replays(recording, {"w": jnp.zeros((1, 2))})


def test_trajectories_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"actual must have the recorded shape \(3, 2\), got \(2,\)"):
        golden.deviation({"w": jnp.zeros(2)}, {"w": np.zeros((3, 2))})


def test_files_of_another_kind_are_refused():
    recording = Recording("sgd__other", {"kind": "other", "hyperparams": {}}, {})
    tx = optax.sgd(0.1)
    for replay, kinds in [
        (golden.replay_gradients, "gradients or stacked_gradients"),
        (functools.partial(golden.replay_jacobian, learning_rate=0.1), "jacobian"),
        (golden.replay_oracle, "oracle"),
        (lambda tx, recording: golden.replay_clients(tx.init, tx.update, recording), "oracle"),
        (golden.replay_workers, "workers"),
    ]:
        with pytest.raises(ValueError, match=f"sgd__other must be of kind {kinds}, got 'other'"):
            replay(tx, recording)


def orthogonal_to_the_first(eps):
    """ODICE's sum of two gradients: of the second only what is orthogonal to the first."""

    def update(rows, params):
        del params
        first, second = ([row[i] for row in jax.tree.leaves(rows)] for i in range(2))
        along, square = (sum(jnp.sum(a * b) for a, b in zip(first, other, strict=True)) for other in (second, first))
        weight = 1 - along / jnp.maximum(square, eps)
        return jax.tree.map(lambda row: weight * row[0] + row[1], rows)

    return optax.stateless(update)


@replays("ortho_grad")
def test_golden_jacobian_of_two_objectives(recording):
    hyperparams = recording.hyperparams
    assert hyperparams["eta"] > 0  # It stands in the second row already.
    aggregator = orthogonal_to_the_first(hyperparams["eps"])
    aggregates, params = golden.replay_jacobian(aggregator, recording, hyperparams["lr"])
    assert_replays(recording, aggregates, "agg")
    assert_replays(recording, params)


@replays("spsa")
def test_golden_oracle_with_draws(recording):
    hyperparams = recording.hyperparams
    hyperparams.word("kind", ("spsa",))
    directions, width = recording.tree("draws.v"), hyperparams["mu"]
    assert hyperparams["num_directions"] == next(iter(directions.values())).shape[1]

    def estimate(params, *, value_fn, v, **extra_args):
        del extra_args

        def along(v):
            ahead, behind = (optax.tree.add_scale(params, far, v) for far in (width, -width))
            slope = (value_fn(ahead) - value_fn(behind)) / (2 * width)
            return jax.tree.map(lambda d: slope / d, v)

        return jax.tree.map(lambda x: jnp.mean(x, axis=0), jax.vmap(along)(v))

    tx = optax.sgd(hyperparams["lr"])
    assert_replays(recording, golden.replay_oracle(tx, recording, extra_args={"v": directions}, estimate=estimate))


@pytest.mark.slow
@replays("scaffold_m")
def test_golden_oracle_with_clients(recording):
    """SCAFFOLD-M as Cheng et al. (2023) write it, algorithm 2, and its form with reduced variance."""
    hyperparams = recording.hyperparams
    reduced = hyperparams.word("kind", {"scaffold_m": False, "scaffold_m_vr": True})
    clients, participants, steps = (hyperparams[name] for name in ("n_clients", "participants", "local_steps"))
    rate, server_rate, beta = (hyperparams[name] for name in ("local_lr", "server_lr", "beta"))

    def init(params):
        zeros = optax.tree.zeros_like(params)
        own = jax.tree.map(lambda x: jnp.zeros((clients, *x.shape)), params)
        return {"direction": zeros, "control": zeros, "own": own, "previous": params}

    def one_round(params, state, grad_fn, active):
        def train(client):
            point, gradients = params, []
            own = jax.tree.map(lambda x: x[client], state["own"])
            for step in range(steps):
                gradients.append(grad_fn(point, client, step))
                before = grad_fn(state["previous"], client, step)

                def move(x, gradient, before, own, control, direction):
                    if reduced:
                        along = gradient - beta * (own - control) + (1 - beta) * (direction - before)
                    else:
                        along = beta * (gradient - own + control) + (1 - beta) * direction
                    return x - rate * along

                point = jax.tree.map(move, point, gradients[-1], before, own, state["control"], state["direction"])
            return point, jax.tree.map(lambda *g: sum(g) / steps, *gradients)

        points, means = jax.vmap(train)(jnp.arange(clients))
        means = jax.tree.map(lambda new, old: jnp.where(expand(active, new), new, old), means, state["own"])
        direction = jax.tree.map(
            lambda x, y: jnp.sum(jnp.where(expand(active, y), x - y, 0), axis=0) / (rate * participants * steps),
            params,
            points,
        )
        control = jax.tree.map(
            lambda c, new, old: c + jnp.sum(new - old, axis=0) / clients, state["control"], means, state["own"]
        )
        new_params = jax.tree.map(lambda x, d: x - server_rate * d, params, direction)
        return new_params, {"direction": direction, "control": control, "own": means, "previous": params}

    assert_replays(recording, golden.replay_clients(init, one_round, recording))


def expand(active, like):
    """Who takes part, with as many axes as what each client has."""
    return active.reshape(-1, *(1,) * (like.ndim - 1))
