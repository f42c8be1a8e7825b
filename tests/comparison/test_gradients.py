"""What the gradients of a batch's parts, of its classes, and of all examples have to do with each other."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optkit.comparison import entries, gradients
from optkit.comparison.training import Sweep, Trainings
from optkit.method import Method, Paper


@pytest.fixture
def classes(line):
    """The line's points in three classes by where they lie."""
    return dataclasses.replace(
        line, labels=lambda batch: jnp.digitize(batch["x"][:, 0], jnp.array([-0.5, 0.5])), classes=3
    )


def of_batch(task, rows, batch):
    """What is found at ones, as one program."""
    of_one_worker = functools.partial(gradients.of_batch, task, rows, workers=1)
    return jax.jit(of_one_worker)(jnp.ones(3), None, batch)


def expected(task, batch):
    """The loss and its gradient at ones."""
    return jax.jit(jax.value_and_grad(task.loss))(jnp.ones(3), batch)


def method(factory, rows):
    return Method(
        name="probe", factory=factory, family="tests", kind="optimizer", summary="", paper=Paper("", "", 2026, ""),
        example={"learning_rate": 0.1}, grid=0.1, stacked=rows,
    )  # fmt: skip


def mean_sgd(learning_rate):
    """Descent along the mean of microbatches, by the first of which it is scaled: their order counts."""

    def update(updates, state, params=None):
        del params
        scale = 1.0 / (1.0 + jnp.abs(updates[0]))
        return -learning_rate * scale * updates.mean(axis=0), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def balanced_sgd(learning_rate):
    """Descent along the sum of the classes' mean gradients."""

    def update(updates, state, params=None, *, class_counts, **extra_args):
        del params, extra_args
        total = class_counts.sum()
        return -learning_rate * jnp.sum(updates / jnp.maximum(class_counts / total, 1e-3)[:, None], axis=0), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


@pytest.mark.slow
def test_microbatch_gradients_average_to_the_batch_gradient(line):
    batch = jax.tree.map(lambda leaf: leaf[:16], line.train)
    value, rows, further, _ = of_batch(line, "microbatches", batch)
    assert rows.shape == (gradients.MICROBATCHES, 3)
    loss, gradient = expected(line, batch)
    np.testing.assert_allclose(np.mean(rows, axis=0), gradient, rtol=1e-5)
    first = jax.tree.map(lambda leaf: leaf[:2], batch)
    np.testing.assert_allclose(np.asarray(rows)[0], expected(line, first)[1], rtol=1e-5)
    np.testing.assert_allclose(value, loss, rtol=1e-6)
    assert not further


@pytest.mark.slow
def test_sample_gradients_are_those_of_single_examples(line):
    batch = jax.tree.map(lambda leaf: leaf[:4], line.train)
    _, rows, *_ = of_batch(line, "samples", batch)
    alone = [expected(line, jax.tree.map(lambda leaf: leaf[i : i + 1], batch))[1] for i in range(4)]  # noqa: B023
    np.testing.assert_allclose(rows, np.stack(alone), rtol=1e-5)


@pytest.mark.slow
def test_class_gradients_add_up_to_the_batch_gradient(classes):
    batch = jax.tree.map(lambda leaf: leaf[:16], classes.train)
    value, rows, further, _ = of_batch(classes, "classes", batch)
    loss, gradient = expected(classes, batch)
    np.testing.assert_allclose(np.sum(rows, axis=0), gradient, rtol=1e-5)
    np.testing.assert_allclose(value, loss, rtol=1e-6)
    labels = np.asarray(classes.labels(batch))
    np.testing.assert_array_equal(further["class_counts"], np.bincount(labels, minlength=3))
    middle = jax.tree.map(lambda leaf: leaf[labels == 1], batch)
    share = np.mean(labels == 1)
    np.testing.assert_allclose(np.asarray(rows)[1], share * expected(classes, middle)[1], rtol=1e-5)


@pytest.mark.slow
def test_an_absent_class_has_a_zero_gradient(classes):
    present = np.asarray(classes.labels(classes.train)) != 2
    batch = jax.tree.map(lambda leaf: leaf[present], classes.train)
    _, rows, further, _ = of_batch(classes, "classes", batch)
    np.testing.assert_array_equal(np.asarray(rows)[2], 0.0)
    assert further["class_counts"][2] == 0


@pytest.mark.parametrize("batch_size", [5, 8])  # one divides the 20 examples
def test_the_full_gradient_is_that_of_all_examples(line, batch_size):
    task = dataclasses.replace(line, batch_size=batch_size)
    found = jax.jit(lambda params, train: gradients.of_all(task, params, train))(jnp.ones(3), task.train)
    np.testing.assert_allclose(found, expected(task, task.train)[1], rtol=1e-5)


@pytest.mark.slow
def test_what_is_passed_is_of_the_batch_and_of_all_examples(line):
    batch = jax.tree.map(lambda leaf: leaf[:4], line.train)

    @jax.jit
    def called(params, vector, batch, train):
        passed = gradients.passed(line, params, None, batch, train, workers=1)
        assert set(passed) == gradients.PASSED - {"value"}
        found = [passed[name](params) for name in ("value_fn", "grad_fn", "full_grad_fn")]
        return found, passed["hvp_fn"](vector), jax.hessian(line.loss)(params, batch) @ vector

    found, product, expected_product = called(jnp.ones(3), jnp.array([1.0, 0.0, -1.0]), batch, line.train)
    loss, gradient = expected(line, batch)
    np.testing.assert_allclose(found[0], loss, rtol=1e-6)
    np.testing.assert_allclose(found[1], gradient, rtol=1e-6)
    np.testing.assert_allclose(found[2], expected(line, line.train)[1], rtol=1e-5)
    np.testing.assert_allclose(product, expected_product, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("factory", "rows"), [(mean_sgd, "microbatches"), (balanced_sgd, "classes")])
def test_workers_see_the_rows_of_one_device(classes, factory, rows):
    ends = []
    values = {"learning_rate": np.array([0.01, 0.1], np.float32)}
    for workers in (1, 2):
        sweep = Sweep(classes, seeds=(0,), points=2, steps=10, workers=workers)
        trainings = Trainings(sweep, method(factory, rows))
        (replicas,) = trainings.parts()
        (params, *_), *_ = trainings.advance(trainings.start(values, replicas), values, replicas, 0, 10)
        ends.append(params)
    np.testing.assert_allclose(*ends, rtol=1e-4, atol=1e-6)
    assert not np.allclose(ends[0][0], ends[0][1])


STACKED = [name for name, entry in entries.comparable().items() if entry.stacked not in {None, "objectives"}]


@pytest.mark.slow
@pytest.mark.parametrize("name", STACKED)
def test_methods_of_the_catalog_get_as_many_rows_as_they_expect(classes, name):
    assert Trainings(Sweep(classes, seeds=(0,), points=1, steps=2), entries.comparable()[name]).carry


def test_a_task_without_classes_is_refused(line):
    assert "probe treats classes separately, and this task has no classes" in gradients.lacks(
        line, method(balanced_sgd, "classes"), workers=1
    )


def test_objectives_of_a_task_with_one_are_refused(line):
    assert "probe weighs several objectives" in gradients.lacks(line, method(mean_sgd, "objectives"), workers=1)


@pytest.mark.slow
def test_a_batch_that_cannot_be_cut_is_refused(line):
    assert "8 parts, which 3 workers and a batch of 8 do not allow" in gradients.lacks(
        line, method(mean_sgd, "microbatches"), workers=3
    )
