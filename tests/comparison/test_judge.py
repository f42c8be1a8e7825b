"""`optkit.compare` as people call it."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from matplotlib.figure import Figure
from rich.table import Table

import optkit
from optkit.comparison import Comparison, ComparisonError, Task
from optkit.comparison import task as tasks

SMALL = {"rates": 2, "rounds": 1, "seeds": 2, "steps": 10, "batch_size": 8}


def mine(learning_rate):
    return optax.sgd(learning_rate, momentum=0.5)


@pytest.fixture
def splits():
    x = jax.random.normal(jax.random.key(0), (40, 2))
    data = {"x": x, "y": x @ jnp.array([[1.0], [-2.0]])}
    rows = {"train": slice(20), "validation": slice(20, 30), "test": slice(30, None)}
    return {name: jax.tree.map(lambda leaf, part=part: leaf[part], data) for name, part in rows.items()}


class Network(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(2, 1, rngs=rngs)

    def __call__(self, x):
        return self.layer(x)


class WithNorm(Network):
    def __init__(self, rngs):
        super().__init__(rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


DENSE = linen.Dense(1)


def squares(predict):
    """A loss from a function of the model and inputs."""
    return lambda model, batch: jnp.mean((predict(model, batch["x"]) - batch["y"]) ** 2)


MODELS = {
    "nnx": (Network(nnx.Rngs(0)), squares(lambda model, x: model(x))),
    "nnx of a key": (lambda key: Network(nnx.Rngs(key)), squares(lambda model, x: model(x))),
    "linen": (lambda key: DENSE.init(key, jnp.ones((1, 2))), squares(DENSE.apply)),
    "equinox": (
        eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0)),
        squares(lambda model, x: jax.vmap(model)(x)),
    ),
    "equinox of a key": (lambda key: eqx.nn.Linear(2, 1, key=key), squares(lambda model, x: jax.vmap(model)(x))),
    "numbers": ({"w": np.zeros((2, 1)), "b": 0.0}, squares(lambda params, x: x @ params["w"] + params["b"])),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_models_of_any_library_are_compared_as_they_are(splits, tmp_path, name):
    params, loss = MODELS[name]
    result = optkit.compare([mine], loss=loss, params=params, **splits, **SMALL, folder=tmp_path)
    assert {row.optimizer for row in result.rows} == {"adamw", "mine"}
    assert all(np.isfinite(row.test_losses).all() for row in result.rows)
    first, last = np.array([record["validation"]["loss"] for record in result.records if "test" in record])[
        :, [0, -1]
    ].T
    assert np.any(last < first)


@pytest.mark.slow
def test_a_result_is_a_table_a_figure_records_and_files(line, tmp_path, capsys):
    result = optkit.compare([mine], task=line, rates=2, rounds=1, seeds=2, steps=10, folder=tmp_path / "run")
    assert "mine" in str(result)
    assert isinstance(result.table(), Table)
    assert isinstance(result.figure(), Figure)
    assert "<svg" in result._repr_html_()
    assert result.records[0]["settings"]["optimizers"] == ["adamw", "mine"]
    result.save(tmp_path / "new" / "report.html")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"report.html", "report.md", "report.png"}
    again = Comparison.read(tmp_path / "run")
    assert str(again) == str(result)
    assert "mine: 10/10 steps" in capsys.readouterr().out
    with pytest.raises(ComparisonError, match=r"must end in \.html"):
        result.save(tmp_path / "report.pdf")


@pytest.mark.slow
def test_the_noise_of_the_test_set_is_told_apart_from_that_of_training(line, tmp_path):
    def sampled(count, seed):
        # A test set of pure noise: which examples it has matters, not how training went.
        noise = np.random.default_rng(seed).normal(size=count).astype(np.float32)
        return dataclasses.replace(line, test={"x": np.tile(line.test["x"][:1], (count, 1)), "y": noise})

    widths = []
    for count in (20, 2_000):
        settings = {"rates": 2, "rounds": 1, "seeds": 3, "steps": 10, "folder": tmp_path / str(count)}
        result = optkit.compare(["sgd"], task=sampled(count, 0), **settings)
        (row,) = (row for row in result.rows if row.optimizer == "sgd")
        widths.append(row.test_noise)
    assert widths[1] == pytest.approx(widths[0] / 10, rel=0.5)


def test_differences_of_the_test_set_are_unknown_without_their_files(line, tmp_path):
    optkit.compare(["sgd"], task=line, rates=2, rounds=1, seeds=2, steps=2, folder=tmp_path)
    for file in tmp_path.rglob("*.npz"):
        file.write_bytes(b"damaged")
    assert np.isnan([row.test_noise for row in Comparison.read(tmp_path).rows]).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"params": WithNorm(nnx.Rngs(0))},
            "RngKey at dropout.rngs.key, BatchStat at norm.mean, BatchStat at norm.var",
        ),
        ({"params": {"params": {"w": jnp.ones(2)}, "batch_stats": {}}}, "the collection 'batch_stats'"),
        ({"params": {"w": jnp.ones(2), "count": jnp.array(3)}}, "['count'] of int32"),
        ({"params": {"w": jnp.ones(2), "key": jax.random.key(0)}}, "['key'] of key<fry>"),
        ({"params": {}}, "must hold at least one array"),
        ({"params": lambda: 3}, "params must be parameters, a model, or a function of a JAX key"),
        ({"train": {"x": np.ones((4, 2)), "y": np.ones(3)}}, "train must be a tree of arrays"),
        ({"test": {}}, "test must be a tree of arrays"),
        ({"validation": {"x": 1.0}}, "validation must be a tree of arrays"),
        ({"batch_size": 21}, "batch_size must be at most the 20 training examples, got 21"),
        ({"loss": lambda params, batch: batch["x"] @ params["w"]}, "loss must return a number"),
        ({"metrics": lambda params, batch: jnp.zeros(())}, "for each example by name"),  # noqa: ARG005
        ({"metrics": lambda params, batch: {"error": batch["x"][:, 0]}}, "'loss' among them"),  # noqa: ARG005
        ({"state": {"mean": jnp.zeros(())}}, "needs metrics"),
    ],
)
def test_what_is_no_task_is_named(splits, change, words):
    given = {"loss": squares(lambda params, x: x @ params["w"]), "params": {"w": jnp.zeros((2, 1))}, "batch_size": 8}
    with pytest.raises(ComparisonError) as error:
        Task.of(**{**splits, **given, **change})
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rates": 1}, "rates must be an integer of at least 2, got 1"),
        ({"seeds": "3"}, "seeds must be an integer of at least 1, got '3'"),
        ({"rounds": 0}, "rounds must be an integer of at least 1, got 0"),
        ({"steps": 0}, "steps must be a positive integer, got 0"),
        ({"weight_decay": -1.0}, "weight_decay must"),
        ({"difference": 0.0}, "difference must"),
        ({"tune": ("b1", "b2", "eps")}, "tune must be at most 2 different names"),
        ({"task": None}, "give either task or the arguments of Task.of"),
        ({"loss": squares}, "give either task or the arguments of Task.of"),
    ],
)
def test_wrong_settings_are_named(line, tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        optkit.compare(["sgd"], **{"task": line, "folder": tmp_path, **change})


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(ComparisonError, match=r"there is no results\.jsonl in"):
        Comparison.read(tmp_path)


def test_examples_are_scored_in_parts_that_give_the_same(line):
    count = 2 * tasks.SCORED_AT_ONCE + 3
    split = jax.tree.map(lambda leaf: np.resize(leaf, (count, *leaf.shape[1:])), line.test)
    params = jnp.ones(3)
    scores = tasks.score(line, params, None, split)["loss"]
    np.testing.assert_allclose(scores, line.metrics(params, split)["loss"], rtol=1e-6)
