import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import optkit
from optkit.core.injection import refuse_arrays, static_arguments


def factory(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    weight_decay: float | jax.Array | None = None,
    key: int | jax.Array = 0,
    mask: Any | None = None,
    rank: int | None = None,
    *,
    nesterov: bool = False,
    precondition: Any = None,
) -> optax.GradientTransformation:
    refuse_arrays(rank=rank, mask=mask)
    del b1, weight_decay, key, nesterov, precondition
    return optax.sgd(learning_rate)


def test_what_may_be_an_array_is_injected_and_all_else_is_static():
    assert static_arguments(factory) == ("mask", "rank", "nesterov", "precondition")
    assert static_arguments(functools.partial(factory, rank=3)) == ("mask", "rank", "nesterov", "precondition")


def test_functions_and_sizes_are_left_alone():
    seen = {}

    @functools.wraps(factory)
    def recorded(**arguments):
        seen.update(arguments)
        return factory(**arguments)

    tx = optkit.inject_hyperparams(recorded)(learning_rate=0.1, rank=2, mask=jnp.isfinite)
    state = tx.init(jnp.ones(1))
    assert seen["rank"] == 2
    assert seen["mask"] is jnp.isfinite
    assert set(state.hyperparams) == {"learning_rate", "b1", "key"}


def test_more_static_arguments_may_be_named():
    tx = optkit.inject_hyperparams(factory, static_args="b1", hyperparam_dtype=jnp.bfloat16)(learning_rate=0.1)
    state = tx.init(jnp.ones(1))
    assert set(state.hyperparams) == {"learning_rate", "key"}
    assert state.hyperparams["learning_rate"].dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="rang"):
        optkit.inject_hyperparams(factory, static_args=("rang",))


def test_schedules_are_followed():
    tx = optkit.inject_hyperparams(factory)(learning_rate=optax.linear_schedule(1.0, 0.0, 2))
    state = tx.init(jnp.ones(1))
    steps = []
    for _ in range(2):
        updates, state = tx.update(jnp.ones(1), state)
        steps.append(float(updates[0]))
    assert steps == [-1.0, -0.5]


@pytest.mark.parametrize("arguments", [{"rank": 2}, {"mask": lambda count: count > 0}])
def test_a_bare_injection_is_told_what_is_static(arguments):
    name = next(iter(arguments))
    tx = optax.inject_hyperparams(factory)(learning_rate=0.1, **arguments)
    with pytest.raises(TypeError, match=rf"^{name} cannot be an array.*{name}.* in static_args"):
        tx.init(jnp.ones(1))
