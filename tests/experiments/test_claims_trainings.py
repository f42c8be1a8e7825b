"""What the trainings that claims share promise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import claims
from experiments.claims import trainings
from experiments.claims.trainings import SEEDS, Scores
from optkit.comparison.task import Task
from optkit.comparison.training import batch_order

EXAMPLES, BATCH_SIZE, STEPS, WORKERS = 12, 4, 5, 2
RATES = (0.1, 0.2)
FALLING = optax.linear_schedule(1.0, 0.0, STEPS)


@pytest.fixture
def task():
    """A least-squares problem whose first parameters are the same for all seeds."""
    features = np.random.default_rng(0).standard_normal((EXAMPLES, 3)).astype(np.float32)

    def loss(params, batch):
        return jnp.mean((batch @ params - 1) ** 2)

    splits = {"train": features, "validation": features[:4], "test": features[4:]}
    return Task.of(loss=loss, params=jnp.zeros(3), **splits, batch_size=BATCH_SIZE)


def averaging(rate):
    """Descends along the mean of the workers' gradients, at a rate that falls."""
    mean = optax.stateless(lambda updates, _: jax.lax.pmean(updates, "workers"))
    return optax.chain(mean, optax.sgd(lambda count: rate * FALLING(count)))


def shared_batches():
    """Deals the rows of the batches that one training has to workers."""
    orders = [batch_order(EXAMPLES, BATCH_SIZE, STEPS, seed) for seed in range(SEEDS)]
    return np.moveaxis(np.reshape(orders, (SEEDS, STEPS, WORKERS, -1)), 2, 1)


def test_a_family_is_a_folder():
    assert "decentralized" in claims.families()
    assert not {"trainings", "judge"} & set(claims.families())


def test_the_best_setting_has_the_lowest_mean_loss_or_the_highest_mean_accuracy():
    validation = {
        "loss": np.array([[3.0, 3.0], [1.0, 4.0], [np.nan, 0.0]]),
        "accuracy": np.array([[0.9, 0.1], [0.2, 0.2], [0.8, 0.8]]),
    }
    scores = Scores(np.array([0.1, 0.2, 0.3]), validation, {"loss": np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])})
    by_loss, by_accuracy = scores.at_best("loss"), scores.at_best("accuracy")
    assert (by_loss.setting, by_accuracy.setting) == (0.2, 0.3)
    np.testing.assert_array_equal(by_loss.test["loss"], [3, 4])
    assert by_loss.train is None


def test_the_best_setting_can_be_that_of_the_training_examples():
    held_out, train = {"loss": np.array([[1.0], [2.0]])}, {"loss": np.array([[2.0], [1.0]])}
    scores = Scores(np.array([0.1, 0.2]), held_out, held_out, train)
    assert scores.at_best("loss").setting == 0.1
    assert scores.at_best("loss", of_train=True).setting == 0.2


@pytest.mark.slow
def test_workers_that_share_batches_and_average_gradients_train_as_one_does(task):
    alone = trainings.train(task, optax.sgd, RATES, batch_size=BATCH_SIZE, steps=STEPS, schedule=FALLING)
    workers = trainings.train_on_workers(task, averaging, RATES, shared_batches(), consensus=True)
    assert workers.train is None
    np.testing.assert_array_equal(alone.setting, workers.setting)
    for ours, theirs in ((alone.validation, workers.validation), (alone.test, workers.test)):
        assert np.shape(ours["loss"]) == (len(RATES), SEEDS)
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)
    np.testing.assert_allclose(workers.consensus, 0, atol=1e-7)


@pytest.mark.slow
def test_a_report_takes_the_place_of_the_parameters(task):
    found = trainings.train_on_workers(
        task, averaging, RATES, shared_batches(), report=lambda _, params: jax.tree.map(jnp.zeros_like, params)
    )
    assert found.consensus is None
    np.testing.assert_allclose(found.test["loss"], 1)


@pytest.mark.slow
def test_noise_is_added_to_gradients(task):
    sizes = {"batch_size": BATCH_SIZE, "steps": STEPS, "schedule": FALLING}
    plain = trainings.train(task, optax.sgd, RATES, **sizes)
    same = trainings.train(task, optax.sgd, RATES, **sizes, disturb=lambda grads, _: grads)
    noisy = trainings.train(
        task, optax.sgd, RATES, **sizes, disturb=lambda grads, key: grads + jax.random.normal(key, grads.shape)
    )
    np.testing.assert_array_equal(plain.test["loss"], same.test["loss"])
    assert np.all(np.asarray(plain.test["loss"]) != noisy.test["loss"])


def test_each_worker_has_batches_of_its_own_examples(task):
    rows = trainings.dealt(task, workers=WORKERS, alpha=np.inf, batch_size=BATCH_SIZE, steps=STEPS, seeds=3)
    assert rows.shape == (3, WORKERS, STEPS, BATCH_SIZE)
    for first, second in rows:
        assert not np.intersect1d(first, second).size
