import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal_like
from trajectories import first_update

from optkit import cost
from optkit.core.precision import in_float32
from optkit.memory_efficient._block_projector import block_projector
from optkit.memory_efficient._frugal import frugal
from optkit.memory_efficient._frugal_blocks import carry_over, choose_blocks, frugal_blocks

ORDERS = {
    "ascending": [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [1, 0, 0, 0, 1], [0, 1, 1, 0, 0]],
    "descending": [[0, 0, 0, 1, 1], [0, 1, 1, 0, 0], [1, 0, 0, 0, 1], [0, 0, 1, 1, 0]],
    "mirror": [[1, 0, 0, 0, 1], [0, 1, 0, 1, 0], [1, 0, 0, 0, 1], [0, 1, 0, 1, 0]],
}


@pytest.mark.parametrize("order", ORDERS)
def test_blocks_come_in_order_and_begin_anew_at_the_end(order):
    projector = block_projector(0.4, order)
    tree = [jnp.zeros((1, 1))] * 5
    chosen = [[int(x) for x in projector.find(tree, None, jnp.array(period), None)] for period in range(4)]
    assert chosen == ORDERS[order]
    assert [choose_blocks(tree, 0.4, order, period=period) for period in range(4)] == chosen


def test_random_blocks_are_as_many_as_density_says():
    projector = block_projector(0.5, "random")
    chosen = projector.find([jnp.zeros(1)] * 7, None, jnp.array(0), jax.random.key(0))
    assert sum(map(int, chosen)) == 4  # 3.5 rounds to even


def test_random_choices_differ_from_period_to_period_and_not_from_call_to_call():
    tree = [jnp.zeros((1, 1))] * 20
    first, again, next_one = (choose_blocks(tree, 0.5, period=period, key=0) for period in (0, 0, 1))
    assert first == again != next_one
    assert sum(first) == sum(next_one) == 10


SHAPES = {"first": (3, 2), "second": (3, 2), "third": (2, 4), "bias": (4,)}
PARAMS = normal_like({name: jnp.zeros(shape) for name, shape in SHAPES.items()})
SCHEDULE = optax.linear_schedule(0.1, 0.0, 20)
GAP = 3


def gradients(step):
    return {name: jnp.cos(p + step) for name, p in PARAMS.items()}


def blocks_adamw(period):
    chosen = choose_blocks(PARAMS, 0.34, "descending", period=period)
    direction = frugal_blocks(optax.scale_by_adam(), chosen, rest_scale=0.3, scale=0.7)
    return in_float32(optax.chain(direction, optax.add_decayed_weights(0.1), optax.scale_by_learning_rate(SCHEDULE)))


@pytest.mark.slow
def test_choices_outside_the_program_give_what_those_inside_give():
    projector = block_projector(0.34, "descending")
    direction = frugal(optax.scale_by_adam(), projector, GAP, rest_scale=0.3, scale=0.7)
    inside = in_float32(optax.chain(direction, optax.add_decayed_weights(0.1), optax.scale_by_learning_rate(SCHEDULE)))

    @functools.partial(jax.jit, static_argnums=0)
    def step(update, params, state, grads):
        updates, state = update(grads, state, params)
        return optax.apply_updates(params, updates), state

    wanted, wanted_state = PARAMS, inside.init(PARAMS)
    params, state = PARAMS, blocks_adamw(0).init(PARAMS)
    for count in range(4 * GAP):
        if count % GAP == 0:
            tx = blocks_adamw(count // GAP)
            state = carry_over(state, tx.init(params))
        params, state = step(tx.update, params, state, gradients(count))
        wanted, wanted_state = step(inside.update, wanted, wanted_state, gradients(count))
        # The leaf after the chosen one is scaled by what the others are too; the bias is not.
        for name, p in wanted.items():
            np.testing.assert_allclose(params[name], p, rtol=2e-5, atol=1e-6)


def test_only_chosen_leaves_have_state():
    chosen = {"first": True, "second": False, "third": False, "bias": None}
    spent = cost(frugal_blocks(optax.scale_by_adam(), chosen), PARAMS, state_only=True)
    assert spent.state_bytes == 4 * (2 * 6 + 2 * 4 + 2)  # moments of `first` and `bias`, and two counters


def test_leaves_without_state_move_by_signs_or_as_told():
    chosen = dict.fromkeys(PARAMS, False)
    for rest, expected in (("sign", jnp.sign), ("sgd", lambda x: x), (None, jnp.zeros_like)):
        tx = frugal_blocks(optax.scale_by_adam(), chosen, rest=rest)
        updates = first_update(tx, PARAMS)
        jax.tree.map(np.testing.assert_array_equal, updates, jax.tree.map(expected, PARAMS))


@pytest.mark.slow
def test_counters_and_moments_that_stay_are_carried_over():
    tx = blocks_adamw(0)
    state = tx.init(PARAMS)
    for count in range(2):
        _, state = tx.update(gradients(count), state, PARAMS)
    carried = carry_over(state, blocks_adamw(1).init(PARAMS))
    direction, _, rate = carried
    assert int(rate.count) == 2
    assert int(direction.other.inner_state.count) == 2
    np.testing.assert_array_equal(direction.other.inner_state.mu["bias"], state[0].other.inner_state.mu["bias"])
    assert all(not np.any(x) for x in jax.tree.leaves(direction.chosen))
