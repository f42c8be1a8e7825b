"""What a task may be relied on for."""

import functools
import itertools
import math

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.neighbors import KNeighborsClassifier

from experiments import digits, tasks
from experiments.errors import UserError
from experiments.tasks import (
    bytes_lm,
    bytes_lm_small,
    diabetes_ridge,
    digits_cnn,
    fine_tune_digits,
    grokking,
    heavy_tailed_regression,
    lqr_policy_gradient,
    matrix_sensing,
    noisy_labels_digits,
)
from optkit.core.linalg.matrix_view import matrix_views

load = functools.cache(tasks.load)  # the corpus takes seconds to read
NAMES = (
    "bytes-lm",
    "bytes-lm-small",
    "diabetes-ridge",
    "digits-cnn",
    "digits-mlp",
    "fine-tune-digits",
    "fine-tune-digits-lora",
    "grokking",
    "heavy-tailed-regression",
    "imbalanced-digits",
    "lqr-policy-gradient",
    "matrix-sensing",
    "noisy-labels-digits",
)
# They read a corpus or train when they are loaded.
COSTLY = {"bytes-lm-small", "fine-tune-digits", "fine-tune-digits-lora"}


def test_every_file_of_the_folder_is_a_task():
    assert tuple(tasks.names()) == NAMES


def test_an_unknown_task_is_refused_with_close_matches():
    with pytest.raises(UserError, match="unknown task 'digit-mlp'; did you mean digits-mlp"):
        tasks.load("digit-mlp")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_task_starts_at_chance_and_learns(name):
    task = load(name)
    loss, metrics = jax.jit(task.loss), jax.jit(task.metrics)
    params = jax.jit(task.init)(jax.random.key(0))
    batch = jax.tree.map(lambda leaf: leaf[: task.batch_size], task.train)
    chance = {"bytes-lm": 256, "bytes-lm-small": 256, "fine-tune-digits": 5, "fine-tune-digits-lora": 5}
    chance |= dict.fromkeys(("digits-cnn", "digits-mlp", "imbalanced-digits", "noisy-labels-digits"), 10)
    first = loss(params, batch)
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
    assert loss(params, batch) < 0.8 * first
    for split in (task.validation, task.test):
        scores = metrics(params, split)
        assert all(values.shape == (len(jax.tree.leaves(split)[0]),) for values in scores.values())
        assert all(np.isfinite(values).all() for values in scores.values())


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("digits-mlp", {(64, 64)}),
        ("digits-cnn", {(9, 8), (72, 16)}),
        ("bytes-lm", {(64, 4, 16), (4, 16, 64), (64, 256), (256, 64)}),
        pytest.param("bytes-lm-small", {(32, 2, 16), (2, 16, 32), (32, 128), (128, 32)}, marks=pytest.mark.slow),
        pytest.param("fine-tune-digits", {(64, 64)}, marks=pytest.mark.slow),
        pytest.param("fine-tune-digits-lora", {(64, 4), (4, 64)}, marks=pytest.mark.slow),
        ("grokking", {(94, 128)}),
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


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in COSTLY else []) for name in NAMES]
)
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


def images_and_labels(split):
    return split["image"].reshape(len(split["image"]), -1), split["label"].argmax(axis=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "neighbours"),
    [
        ("noisy-labels-digits", noisy_labels_digits.NEIGHBOURS),
        ("fine-tune-digits", 1),
        ("fine-tune-digits-lora", 1),
    ],
)
def test_the_nearest_training_images_give_the_reference_accuracy(name, neighbours):
    task = load(name)
    classifier = KNeighborsClassifier(neighbours).fit(*images_and_labels(task.train))
    found = classifier.score(*images_and_labels(task.test))
    np.testing.assert_allclose(found, task.facts["reference"]["accuracy"], atol=1e-3)


def test_labels_are_noisy_in_training_only():
    task, clean = load("noisy-labels-digits"), digits.load()
    wrong = task.labels(task.train) != clean["train"]["label"].argmax(axis=1)
    assert wrong.sum() == task.facts["replaced"] == round(noisy_labels_digits.SHARE * len(wrong))
    others = (task.labels(task.train) - clean["train"]["label"].argmax(axis=1))[wrong] % 10
    assert np.bincount(others, minlength=10)[1:].min() > 0.5 * wrong.sum() / 9
    for split in ("validation", "test"):
        np.testing.assert_array_equal(getattr(task, split)["label"], clean[split]["label"])


@pytest.mark.slow
def test_fine_tuning_starts_from_a_network_that_knows_the_other_digits():
    everything = digits.task(fine_tune_digits.build)
    task, seeds = load("fine-tune-digits"), jax.random.split(jax.random.key(0))
    first, second = map(task.init, seeds)
    pretrained = fine_tune_digits.pretrain(everything)
    zero_to_four = fine_tune_digits.only(everything.test, fine_tune_digits.PRETRAINED)
    assert everything.metrics(pretrained, zero_to_four)["accuracy"].mean() > 0.98
    for params in (first, second):
        jax.tree.map(np.testing.assert_array_equal, params["hidden"], pretrained["hidden"])
    assert not np.array_equal(first["output"]["kernel"], second["output"]["kernel"])
    images = {image.tobytes() for image in zero_to_four["image"]}
    assert not images & {image.tobytes() for split in (task.train, task.test) for image in split["image"]}


@pytest.mark.slow
def test_a_change_of_low_rank_starts_at_none():
    full, low_rank = load("fine-tune-digits"), load("fine-tune-digits-lora")
    params = low_rank.init(jax.random.key(0))
    whole = {**full.init(jax.random.key(0)), "output": params["output"]}
    np.testing.assert_allclose(low_rank.loss(params, full.test), full.loss(whole, full.test), rtol=1e-6)
    params["up"]["kernel"] = np.ones_like(params["up"]["kernel"])
    whole["hidden"] = {
        **whole["hidden"],
        "kernel": whole["hidden"]["kernel"] + params["down"]["kernel"].sum(1)[:, None],
    }
    np.testing.assert_allclose(low_rank.loss(params, full.test), full.loss(whole, full.test), rtol=1e-5)


@pytest.mark.slow
def test_weights_in_closed_form_add_all_numbers():
    task, numbers = load("grokking"), np.arange(grokking.MODULUS)
    random, width = np.random.default_rng(0), grokking.WIDTH
    frequency = 2 * np.pi / grokking.MODULUS * (np.arange(width) % (grokking.MODULUS // 2) + 1)
    first, second = random.uniform(0, 2 * np.pi, (2, width))
    waves = lambda phase: np.cos(np.outer(numbers, frequency) + phase)  # noqa: E731
    params = {
        "hidden": {"kernel": np.concatenate([waves(first), waves(second)])},
        "output": {"kernel": waves(first + second).T},
    }
    for split in (task.train, task.validation, task.test):
        assert task.metrics(params, split)["accuracy"].mean() == task.facts["reference"]["accuracy"]
    sums = np.concatenate([split["terms"] for split in (task.train, task.validation, task.test)])
    assert len(np.unique(sums, axis=0)) == len(sums) == grokking.MODULUS**2


@pytest.mark.slow
def test_the_true_matrix_fits_all_measurements_and_zeros_have_a_loss_of_one():
    task, truth = load("matrix-sensing"), matrix_sensing.true_matrix()
    assert np.linalg.matrix_rank(truth) == matrix_sensing.RANK
    exact = {"left": truth.astype(np.float32), "right": np.eye(len(truth), dtype=np.float32)}
    for split in (task.train, task.test):
        np.testing.assert_allclose(task.metrics(exact, split)["loss"], task.facts["reference"]["loss"], atol=1e-9)
    zeros = jax.tree.map(np.zeros_like, exact)
    np.testing.assert_allclose(task.metrics(zeros, task.test)["loss"].mean(), 1, atol=0.1)
    np.testing.assert_allclose(task.loss(task.init(jax.random.key(0)), task.test), 1, atol=0.1)


@pytest.mark.slow
def test_the_regulators_optimum_is_the_riccati_equations():
    task = load("lqr-policy-gradient")
    transition, control, state_cost, force_cost = lqr_policy_gradient.system()
    _, policy = lqr_policy_gradient.solve()
    scores = task.metrics({"policy": policy}, task.test)
    assert np.all(scores["loss"] == 0)
    np.testing.assert_allclose(scores["cost"].mean(), task.facts["reference"]["cost"], atol=1e-5)
    # Many steps, added up.
    state, cost = task.test["state"].astype(float), 0.0
    for _ in range(300):
        force = state @ policy.T
        cost += np.sum((state @ state_cost) * state, axis=1) + np.sum((force @ force_cost) * force, axis=1)
        state = state @ transition.T + force @ control.T
    np.testing.assert_allclose(cost, scores["cost"], rtol=1e-4)


@pytest.mark.slow
def test_the_policy_gradient_is_right_on_average():
    task, noise = load("lqr-policy-gradient"), lqr_policy_gradient.NOISE
    transition, control, state_cost, force_cost = lqr_policy_gradient.system()
    least_cost, optimum = lqr_policy_gradient.solve()
    form = lambda x, matrix: np.einsum("...i,ij,...j->...", x, matrix, x)  # noqa: E731

    def cost(policy, state, noise):
        total = 0.0
        for push in noise:
            force = state @ policy.T + push
            total += form(state, state_cost) + form(force, force_cost)
            state = state @ transition.T + force @ control.T
        return (total + form(state, least_cost)).mean()

    policy, step = 0.8 * optimum.astype(float), 1e-3
    state, pushes = task.train["state"], noise * np.moveaxis(task.train["noise"], 1, 0)
    value_and_grad, params = jax.value_and_grad(task.loss), {"policy": policy.astype(np.float32)}
    value, grads = jax.jit(value_and_grad)(params, task.train)
    np.testing.assert_allclose(value, cost(policy, state, pushes), rtol=1e-5)
    batches = jax.tree.map(lambda leaf: leaf.reshape(50, 400, *leaf.shape[1:]), task.train)
    _, spread = jax.jit(jax.vmap(value_and_grad, (None, 0)))(params, batches)
    error = np.std(spread["policy"], axis=0) / np.sqrt(50)
    for place in ((0, 3), (1, 4), (2, 0)):
        change = step * (np.arange(policy.size).reshape(policy.shape) == np.ravel_multi_index(place, policy.shape))
        slope = (cost(policy + change, state, pushes) - cost(policy - change, state, pushes)) / (2 * step)
        assert abs(slope - grads["policy"][place]) < 4 * error[place]


@pytest.mark.slow
def test_the_small_language_models_reference_is_a_table_of_pairs():
    task = load("bytes-lm-small")
    assert task.train.shape[1] == 33
    assert 2.3 < task.facts["reference"]["loss"] < 2.6
    text = np.array([list(b"abababab")], np.uint8)
    seen = np.array([[4, 3]]) + 1  # of ab and of ba, in 256 possible pairs each
    expected = (4 * np.log((4 + 256) / seen[0, 0]) + 3 * np.log((3 + 256) / seen[0, 1])) / 7
    np.testing.assert_allclose(bytes_lm_small.bigram_loss(text, text), expected)
