"""Matrices over FSDP and tensor axes: what the contract checks for all methods, here in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from trajectories import trajectory

import optkit
from optkit.catalog import METHODS

pytestmark = pytest.mark.slow

METHODS_OF_MATRICES = ("dion", "muon", "mars_m", "mars_shampoo", "adam_sn", "adam_snsm", "galore_adamw", "frugal_adamw")
AXIS_TYPES = (AxisType.Auto, AxisType.Explicit)


def mesh_of(axis_type):
    return jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(axis_type,) * 2)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", METHODS_OF_MATRICES)
def test_sharded_matrices_take_the_steps_of_one_device(name):
    method = METHODS[name]
    gradients = {"tall": np.asarray(normal(3, 32, 8)), "wide": np.asarray(normal(3, 8, 24, seed=1))}
    start = {"tall": np.ones((32, 8)), "wide": np.ones((8, 24))}
    tx = method.optimizer_factory(**method.arguments)
    expected = trajectory(tx, gradients, start).params
    for axis_type in AXIS_TYPES:
        mesh = mesh_of(axis_type)
        with jax.set_mesh(mesh):
            params = jax.device_put(start, NamedSharding(mesh, PartitionSpec("fsdp", "tensor")))
            along = jax.device_put(gradients, NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor")))
            found = trajectory(tx, along, params).params
        for leaf in start:
            np.testing.assert_allclose(found[leaf], expected[leaf], rtol=0, atol=1e-10)


def test_dion_sends_a_fiftieth_of_what_newton_schulz_sends():
    sharding = NamedSharding(mesh_of(AxisType.Auto), PartitionSpec("fsdp", "tensor"))
    kernel = jax.ShapeDtypeStruct((1024, 512), jnp.float32, sharding=sharding)

    def sent(tx):
        return sum(optkit.cost(tx, kernel).sent.values())

    assert 11e6 < sent(optax.contrib.muon(0.1)) < 13e6
    assert sent(optkit.dion(0.1, rank=64)) < sent(optax.contrib.muon(0.1)) / 50
