import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from promises import assert_needs_parameters, assert_refuses_complex_parameters
from trajectories import descend, last

import optkit

WORKERS = 8
ATTACKS = {
    "sign_flip": optkit.attacks.sign_flip,
    "inner_product": lambda honest: optkit.attacks.inner_product_manipulation(honest, 3.0),
    "little": lambda honest: optkit.attacks.a_little_is_enough(honest, 1.5),
    "mimic": optkit.attacks.mimic,
    "nan": optkit.attacks.send_nan,
    "shifted": lambda honest: optkit.attacks.shifted_mean(honest, 10.0),
}


def test_monna_hears_enough_or_says_so():
    tx = optkit.monna(0.1, optkit.topology.ring(WORKERS), 2, axis_name="workers")
    step = optkit.on_workers(lambda p: tx.update(p, tx.init(p), p)[0], axis_name="workers", backend="vmap")
    with pytest.raises(ValueError, match="nearest_neighbor_average with byzantine=2 needs at least 5 rows, got 3"):
        step(jnp.zeros(WORKERS))
    with pytest.raises(ValueError, match=r"b1 must be in \[0, 1\), got 1.0"):
        optkit.monna(0.1, optkit.topology.ring(WORKERS), 1, 1.0, axis_name="workers")


@pytest.mark.parametrize("attack", ATTACKS)
def test_monna_trains_under_attack(attack):
    targets = normal(WORKERS, 5)
    best = jnp.mean(targets[:-2], axis=0)
    mixing = optkit.attacks.attacked_mix(optkit.robust_mix(optkit.nearest_neighbor_average(2)), ATTACKS[attack], 2)
    tx = optkit.monna(0.1, optkit.topology.complete(WORKERS), 2, 0.9, axis_name="workers", mixing=mixing)
    pull = jnp.broadcast_to(targets, (200, *targets.shape))
    run = descend(tx, lambda params, target: params - target, jnp.zeros_like(targets), pull, axis_name="workers")
    found = last(run.params)[:-2]
    spread = jnp.std(targets[:-2])
    np.testing.assert_array_less(np.linalg.norm(found - best, axis=1), 2.5 * spread)


def test_monna_names_itself_without_parameters_and_for_complex_ones():
    tx = optkit.monna(0.1, optkit.topology.complete(4), byzantine=1, axis_name="workers")
    assert_needs_parameters(tx, "monna")
    assert_refuses_complex_parameters(tx, "monna", "as two leaves")
