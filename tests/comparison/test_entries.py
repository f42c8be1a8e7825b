"""What can be compared."""

import dataclasses
import functools

import optax
import pytest

import optkit
from optkit.catalog import METHODS
from optkit.comparison import ComparisonError, entries
from optkit.comparison.baselines import BASELINES
from optkit.method import Method


def mine(learning_rate):
    """What I thought of.

    And more.
    """
    return optax.sgd(learning_rate)


def names(optimizers):
    return [method.name for method in entries.find(optimizers)]


def test_everything_in_the_catalog_that_one_loop_can_run_can_be_compared():
    known = entries.comparable()
    assert set(BASELINES) <= set(known)
    for method in METHODS.values():
        if method.kind == "optimizer" and "axis_name" not in method.needs:
            assert {method.name, *(f"{method.name}:{variant}" for variant in method.variants)} <= set(known)


def test_adamw_comes_first():
    assert names([]) == ["adamw"]
    assert names(["sgd", "adamw", "sgd"]) == ["adamw", "sgd"]


def test_names_functions_and_entries_are_understood():
    entry = dataclasses.replace(METHODS["signum"], name="lion:mine")
    assert names(["lion_kappa:huber", optkit.dion, optax.lion, mine, entry, optkit.cautious]) == [
        "adamw", "lion_kappa:huber", "dion", "lion", "mine", "lion:mine", "cautious",
    ]  # fmt: skip


def test_an_own_function_is_known_by_its_name_and_first_line():
    _, method = entries.find([mine])
    assert (method.name, method.summary) == ("mine", "What I thought of.")
    method.optimizer(0.1).init(1.0)


def test_the_first_argument_is_the_learning_rate_whatever_its_name():
    def by_lr(lr, *, b1=0.9):
        return optax.sgd(lr, momentum=b1)

    _, method = entries.find([by_lr])
    assert method.optimizer(0.1, b1=0.5).init({"w": 1.0})


def test_an_unknown_optimizer_is_refused_with_close_matches():
    with pytest.raises(ComparisonError, match="unknown optimizer 'loin'; did you mean lion"):
        entries.find(("loin",))


def needy(learning_rate, other):
    return optax.sgd(learning_rate + other)


@pytest.mark.parametrize(
    ("optimizers", "words"),
    [
        ("adamw", "must be a list, got 'adamw'"),
        (mine, "must be a list"),
        ([optax.sgd(0.1)], "an optimizer must be a name, a function of a learning rate"),
        ([3], "an optimizer must be a name, a function of a learning rate"),
        ([lambda learning_rate: optax.sgd(learning_rate)], "an optimizer needs a name"),  # noqa: PLW0108
        ([functools.partial(mine, 0.1)], "an optimizer needs a name"),
        ([needy], "needy must need nothing but a learning rate, but it needs other"),
        ([mine, Method(name="mine", factory=optax.sgd, kind="optimizer", summary="")], "two optimizers have the name"),
        ([Method(name="", factory=mine, kind="optimizer", summary="")], "must have 1 to 100 characters"),
        ([optkit.gossip], "gossip cannot be compared in one training loop: axis_name"),
        ([optkit.cost], "cost cannot be compared in one training loop: it is no optimizer"),
    ],
)
def test_what_is_no_optimizer_is_refused(optimizers, words):
    with pytest.raises(ComparisonError, match=words):
        entries.find(optimizers)
