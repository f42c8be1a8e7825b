"""What a task may be relied on for."""

import functools
import itertools
import math

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from experiments import digits, tasks
from experiments.errors import UserError
from experiments.tasks import bytes_lm, diabetes_ridge, digits_cnn, heavy_tailed_regression
from optkit.core.linalg.matrix_view import matrix_views

load = functools.cache(tasks.load)  # the corpus takes seconds to read
NAMES = ("bytes-lm", "diabetes-ridge", "digits-cnn", "digits-mlp", "heavy-tailed-regression", "imbalanced-digits")


def test_every_file_of_the_folder_is_a_task():
    assert tuple(tasks.names()) == NAMES


def test_an_unknown_task_is_refused_with_close_matches():
    with pytest.raises(UserError, match="unknown task 'digit-mlp'; did you mean digits-mlp"):
        tasks.load("digit-mlp")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_task_starts_at_chance_and_learns(name):
    task = load(name)
    params = task.init(jax.random.key(0))
    batch = jax.tree.map(lambda leaf: leaf[: task.batch_size], task.train)
    chance = {"bytes-lm": 256, "digits-cnn": 10, "digits-mlp": 10, "imbalanced-digits": 10}
    first = task.loss(params, batch)
    if name in chance:
        assert abs(first - math.log(chance[name])) < 1
    tx = optax.adam(1e-2)
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(task.loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(20):
        params, state = step(params, state)
    assert task.loss(params, batch) < 0.8 * first
    for split in (task.validation, task.test):
        scores = task.metrics(params, split)
        assert all(values.shape == (len(jax.tree.leaves(split)[0]),) for values in scores.values())
        assert all(np.isfinite(values).all() for values in scores.values())


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("digits-mlp", {(64, 64)}),
        ("digits-cnn", {(9, 8), (72, 16)}),
        ("bytes-lm", {(64, 4, 16), (4, 16, 64), (64, 256), (256, 64)}),
    ],
)
def test_hidden_matrices_are_all_kernels_but_the_last_layers(name, shapes):
    task = load(name)
    params = jax.eval_shape(task.init, jax.random.key(0))
    numbers = task.hidden_matrices(params)
    hidden = jax.tree.map(lambda x, numbers: None if numbers is None else x.shape, params, numbers)
    found = {shape: path for path, shape in jax.tree.leaves_with_path(hidden, is_leaf=lambda x: isinstance(x, tuple))}
    assert set(found) == shapes
    assert numbers["output"]["kernel"] is None
    if name == "bytes-lm":
        assert numbers["tokens"]["embedding"] is None
        attention = matrix_views(params["blocks"][0]["attention"], numbers["blocks"][0]["attention"])
        for part in ("query", "key", "value", "out"):
            assert attention[part]["bias"] is None
            assert (attention[part]["kernel"].row_count, attention[part]["kernel"].column_count) == (64, 64)


def test_digits_are_split_without_overlap_and_with_equal_shares_of_each_class():
    splits = digits.load()
    seen = [image.tobytes() for part in splits.values() for image in part["image"]]
    assert len(seen) == 1797
    assert len(set(seen)) == 1797
    for part in splits.values():
        np.testing.assert_allclose(part["label"].mean(axis=0), 0.1, atol=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_classes_are_numbered_from_zero(name):
    task = load(name)
    assert (task.labels is None) == (task.classes == 0)
    if task.labels is not None:
        assert sorted(np.unique(task.labels(task.train))) == list(range(task.classes))


def test_imbalanced_digits_are_long_tailed_in_training_only():
    task = load("imbalanced-digits")
    counts = np.bincount(task.labels(task.train))
    assert counts.tolist() == task.facts["examples_of_each_class"]
    np.testing.assert_allclose(counts[1:] / counts[:-1], (5 / counts[0]) ** (1 / 9), atol=0.05)
    balanced = digits.load()
    np.testing.assert_array_equal(task.validation["image"], balanced["validation"]["image"])
    np.testing.assert_array_equal(task.test["image"], balanced["test"]["image"])


@pytest.mark.slow
def test_minority_recall_is_that_of_the_three_rarest_digits():
    task = load("imbalanced-digits")
    params = jax.tree.map(np.zeros_like, task.init(jax.random.key(0)))
    labels = task.labels(task.test)
    for digit in (0, 9):  # a network that always says this
        recall = np.mean(labels[labels >= 7] == digit)
        params["output"]["bias"] = np.eye(10, dtype=np.float32)[digit]
        np.testing.assert_allclose(task.metrics(params, task.test)["minority_recall"].mean(), recall, atol=1e-6)


def test_heavy_tailed_regression_measures_the_distance_to_the_true_weights():
    task, weights = load("heavy-tailed-regression"), heavy_tailed_regression.true_weights()
    assert np.all(task.metrics({"weights": weights}, task.test)["loss"] == 0)
    step = np.eye(len(weights), dtype=np.float32)[0]
    expected = np.mean(task.test["features"][:, 0] ** 2) / 2
    np.testing.assert_allclose(task.metrics({"weights": weights + step}, task.test)["loss"].mean(), expected, rtol=1e-5)
    noise = np.sort(np.abs(task.train["target"] - task.train["features"] @ weights))[-200:]
    tail_index = 1 / np.mean(np.log(noise / noise[0]))  # Hill's estimator
    np.testing.assert_allclose(tail_index, heavy_tailed_regression.DEGREES_OF_FREEDOM, rtol=0.2)


@pytest.mark.slow
def test_the_convolution_is_a_convolution():
    ours = digits_cnn.Convolution(2, 5, 2, nnx.Rngs(0))
    theirs = nnx.Conv(2, 5, (3, 3), strides=2, padding=1, rngs=nnx.Rngs(1))
    theirs.kernel[...] = ours.kernel.kernel[...].reshape(3, 3, 2, 5)
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 2))
    np.testing.assert_allclose(ours(images), theirs(images), atol=1e-5)


@pytest.mark.slow
def test_ridge_knows_its_optimum():
    task = tasks.load("diabetes-ridge")
    optimum = diabetes_ridge.solve(task.train["features"], task.train["target"])
    np.testing.assert_allclose(jax.grad(task.loss)(optimum, task.train)["weights"], 0, atol=1e-6)
    assert task.metrics(optimum, task.test)["loss"].mean() < 1e-12
    params = task.init(jax.random.key(0))
    excess = task.loss(params, task.train) - task.facts["optimum"]
    np.testing.assert_allclose(task.metrics(params, task.test)["loss"].mean(), excess, rtol=1e-5)


def test_source_files_are_split_by_file_and_the_same_every_time(tmp_path):
    for i in range(40):
        (tmp_path / f"module{i}.py").write_text(f"<{i}>")
    for left_out in ("site-packages", "test"):
        (tmp_path / left_out).mkdir()
        (tmp_path / left_out / "other.py").write_text("<other>")
    parts = {name: part.tobytes().decode().split("\n") for name, part in bytes_lm.corpus(tmp_path).items()}
    assert sorted(itertools.chain(*parts.values())) == sorted(f"<{i}>" for i in range(40))
    assert len(parts["train"]) > len(parts["validation"]) > 0
    again = bytes_lm.corpus(tmp_path)
    assert {name: part.tobytes().decode().split("\n") for name, part in again.items()} == parts


@pytest.mark.slow
def test_the_corpus_is_recorded_by_its_hash():
    facts = load("bytes-lm").facts
    assert len(bytes.fromhex(facts["sha256"])) == 32
    assert facts["bytes"]["train"] > 5 * facts["bytes"]["test"] > 0
