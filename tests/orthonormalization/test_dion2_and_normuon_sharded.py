import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from trajectories import trajectory

from optkit.core.cost import hlo
from optkit.core.linalg.newton_schulz import polar_express
from optkit.orthonormalization._dion2 import dion2, scale_by_dion2
from optkit.orthonormalization._muon import scale_by_muon
from optkit.orthonormalization._nordion2 import nordion2, scale_by_nordion2
from optkit.orthonormalization._normuon import normuon

FEW = functools.partial(polar_express, steps=2)
OPTIMIZERS = {
    "dion2 rows": dion2(0.1, select="rows", orthogonalize=FEW),
    "dion2 columns": dion2(0.1, select="columns", orthogonalize=FEW),
    "normuon": normuon(0.1, orthogonalize=FEW),
    "normuon paper": normuon(0.1, ema=True, scale="paper_rms", orthogonalize=FEW),
    "nordion2": nordion2(0.1, orthogonalize=FEW),
}
TOGETHER = optax.partition({**OPTIMIZERS}, {name: name for name in OPTIMIZERS})


def mesh_of(axis_type):
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)


def steps(gradients, start):
    """The parameters and states of every optimizer on the same gradients, time first."""
    run = trajectory(TOGETHER, dict.fromkeys(OPTIMIZERS, gradients), dict.fromkeys(OPTIMIZERS, start))
    return run.params, run.states


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("spec", [("data", "model"), (("data", "model"), None), (None, "data")])
def test_sharded_matrices_take_the_same_steps(spec, axis_type):
    gradients, start, mesh = np.asarray(normal(3, 32, 16)), np.ones((32, 16)), mesh_of(axis_type)
    expected = steps(gradients, start)
    sharding = NamedSharding(mesh, PartitionSpec(None, *spec))
    with jax.set_mesh(mesh):
        params = jax.device_put(start, NamedSharding(mesh, PartitionSpec(*spec)))
        sharded = steps(jax.device_put(gradients, sharding), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), sharded, expected)
    assert all(x.sharding.is_equivalent_to(sharding, 3) for x in jax.tree.leaves(sharded[0]))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_experts_on_their_own_devices_take_the_same_steps():
    gradients, start, mesh = np.asarray(normal(3, 4, 16, 8)), np.ones((4, 16, 8)), mesh_of(AxisType.Explicit)
    expected = steps(gradients, start)
    with jax.set_mesh(mesh):
        params = jax.device_put(start, NamedSharding(mesh, PartitionSpec("data", None, "model")))
        along = jax.device_put(gradients, NamedSharding(mesh, PartitionSpec(None, "data", None, "model")))
        sharded = steps(along, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), sharded, expected)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_second_moments_are_sharded_like_rows(axis_type):
    mesh = mesh_of(axis_type)
    with jax.set_mesh(mesh):
        kernel = jax.device_put(jnp.zeros((32, 16)), NamedSharding(mesh, PartitionSpec("data", "model")))
        state = scale_by_nordion2().init(kernel)
    second_moment = optax.tree.get(state, "second_moment")
    assert second_moment.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec("model")), 1)


@pytest.mark.slow
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_a_quarter_of_the_rows_sends_a_tenth_of_what_muon_sends(axis_type):
    mesh = mesh_of(axis_type)

    def sent(tx):
        with jax.set_mesh(mesh):
            gradient = jax.device_put(jnp.ones((512, 256)), NamedSharding(mesh, PartitionSpec("data", "model")))
            lowered = jax.jit(tx.update).lower(gradient, tx.init(gradient))
            return sum(hlo.read(lowered.compile(), lowered).sent.values())

    whole = sent(scale_by_muon(nesterov=False, orthogonalize=polar_express))
    assert sent(scale_by_dion2(0.25)) <= whole / 10
    assert sent(scale_by_nordion2(0.25)) <= whole / 10
