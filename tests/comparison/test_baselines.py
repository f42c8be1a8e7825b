"""The optimizers of Optax, as `compare` runs them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optkit
from optkit.catalog import METHODS
from optkit.comparison import entries, search
from optkit.comparison.baselines import BASELINES


@pytest.mark.slow
def test_every_baseline_trains_and_has_a_row_and_its_paper_in_the_report(line, tmp_path):
    result = optkit.compare(list(BASELINES), task=line, steps=200, rates=4, rounds=1, seeds=1, folder=tmp_path)
    assert {row.optimizer for row in result.rows} == set(BASELINES)
    for row in result.rows:
        assert row.curves[0][-1] < 0.8 * row.curves[0][0], row.optimizer
    result.save(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for method in BASELINES.values():
        assert method.name in page
        assert method.paper.arxiv in page


def test_no_baseline_hides_a_method_of_the_catalog():
    assert not set(BASELINES) & set(METHODS)
    assert [method.name for method in entries.find(["muon", "optax_muon"])] == ["adamw", "muon", "optax_muon"]


@pytest.mark.parametrize("name", ["dog", "momo", "prodigy"])
def test_the_learning_rate_of_what_finds_its_own_step_is_searched_around_one(name):
    rates = search.grid(BASELINES[name].grid, 6)
    np.testing.assert_allclose(np.sqrt(rates[0] * rates[-1]), 1)


@pytest.mark.parametrize(
    ("name", "argument"), [(method.name, argument) for method in BASELINES.values() for argument in method.tunable]
)
def test_what_is_worth_tuning_can_be_traced(name, argument):
    assert search.takes(BASELINES[name], argument)


@pytest.mark.slow
def test_sophia_is_optaxs_with_the_gradient_in_the_losss_place():
    def loss(params):
        return jnp.sum(jnp.cosh(params) * jnp.arange(1.0, 4.0)) + jnp.prod(params)

    params = np.float32([0.3, -0.2, 0.1])
    ours, theirs = BASELINES["sophia"].optimizer(0.1), optax.contrib.sophia(0.1)

    @jax.jit
    def both(params):
        grads = jax.grad(loss)(params)
        (own, _), (other, state) = (
            tx.update(grads, tx.update(grads, tx.init(params), params, **extra)[1], params, **extra)
            for tx, extra in ((ours, {"grad_fn": jax.grad(loss)}), (theirs, {"obj_fn": loss}))
        )
        return own, other, optax.tree.get(state, "nu")

    own, other, curvature = both(params)
    assert np.all(curvature != 0)
    np.testing.assert_allclose(own, other, rtol=1e-6)


def test_sophia_says_which_argument_it_lacks():
    tx = BASELINES["sophia"].optimizer(0.1)
    with pytest.raises(TypeError, match="sophia needs the extra argument grad_fn"):
        tx.update(1.0, tx.init(1.0), 1.0)


def test_optaxs_muon_is_told_which_leaves_are_matrices():
    params = {"hidden": np.ones((2, 3), np.float32), "output": np.ones((3, 2), np.float32)}
    numbers = {"hidden": optax.contrib.MuonDimensionNumbers(), "output": None}
    state = BASELINES["optax_muon"].optimizer(0.1, weight_dimension_numbers=lambda _: numbers).init(params)
    moments = optax.tree.get(state, "nu")
    assert jax.tree.map(np.shape, moments) == {"hidden": optax.MaskedNode(), "output": (3, 2)}


@pytest.mark.slow
def test_the_average_is_what_schedule_free_reports():
    method = BASELINES["schedule_free_adamw"]
    tx, params = method.optimizer(0.1), np.float32([1.0, 2.0])
    state, iterates, point = tx.init(params), [], params
    for _ in range(3):
        updates, state = tx.update(np.ones(2, np.float32), state, point)
        point = optax.apply_updates(point, updates)
        iterates.append(state.z)
    np.testing.assert_allclose(method.eval_params(state, point), np.mean(iterates, axis=0), rtol=1e-5)


def test_the_documentation_names_every_baseline():
    named = set(re.findall(r'"(\w+)"', optkit.compare.__doc__.split("`optkit.catalog`")[0]))
    assert set(BASELINES) <= named
