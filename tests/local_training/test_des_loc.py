"""What DES-LOC promises: it is MT-DAO with one momentum, whose moments are averaged less often."""

import pytest
from draws import normal
from promises import assert_needs_parameters
from trajectories import trajectory

import optkit


@pytest.mark.slow
def test_it_is_mt_dao_of_one_momentum_with_longer_periods_for_the_moments():
    gradients = normal(12, 4, 5)
    found, expected = (
        trajectory(tx, gradients, axis_name="workers").params
        for tx in (
            optkit.des_loc(0.1, weight_decay=0.01, axis_name="workers", every=2),
            optkit.mt_dao(
                0.1,
                0.9,
                1.0,
                weight_decay=0.01,
                axis_name="workers",
                every=2,
                momenta_every=6,
                second_moment_every=12,
                state_sync="before_use",
            ),
        )
    )
    assert (found == expected).all()


def test_parameters_are_needed():
    assert_needs_parameters(optkit.des_loc(0.1, axis_name=None), "des_loc")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base": "sgd"}, "base must be 'adam' or 'adopt', got 'sgd'"),
        ({"every": 0}, "every must be a positive integer, got 0"),
        ({"momentum_every": 1.5}, "momentum_every must be a positive integer, got 1.5"),
        ({"second_moment_every": 0}, "second_moment_every must be a positive integer, got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        optkit.des_loc(0.1, axis_name="workers", **arguments)
