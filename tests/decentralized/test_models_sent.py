import jax
import jax.numpy as jnp
import optax
import pytest

from optkit.core.cost import hlo
from optkit.decentralized import (
    activation_matched_mix,
    delayed_dual_averaging,
    dfedsam,
    drcgd,
    gossip,
    repeated_mix,
    variance_corrected_mix,
)
from optkit.decentralized.topology import ring

WORKERS = 4
RING = ring(WORKERS)
MATCHED = activation_matched_mix(
    {"matrix": (None, "units"), "vector": ("units",)},
    lambda params: {"units": jnp.arange(12.0).reshape(4, 3) @ params["matrix"] + params["vector"]},
)
BYTES = 4 * (3 * 2 + 2)  # of the parameters


def sent(tx, params):
    """Bytes that a worker sends in a step, by kind of collective."""

    def step(params):
        own = jax.tree.map(lambda x: x[0], params)
        updates, _ = tx.update(own, tx.init(own), own, grad_fn=lambda point: point)
        return jax.tree.map(lambda x: x[None], optax.apply_updates(own, updates))

    mesh = jax.make_mesh((WORKERS,), ("workers",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("workers")
    mapped = jax.shard_map(step, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    lowered = jax.jit(mapped).lower(params)
    return hlo.read(lowered.compile(), lowered).sent


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: dfedsam(0.1, RING, 1, axis_name="workers"), 2 * BYTES),
        (lambda: dfedsam(0.1, RING, 1, axis_name="workers", mixing=repeated_mix(4)), 4 * 2 * BYTES),
        (lambda: drcgd(0.1, RING, axis_name="workers"), 2 * 2 * BYTES),
        (lambda: drcgd(0.1, RING, axis_name="workers", track=True), 3 * 2 * BYTES),
        (lambda: gossip(optax.sgd(0.1), RING, axis_name="workers", mixing=variance_corrected_mix()), 2 * (BYTES + 4)),
        (lambda: gossip(optax.sgd(0.1), RING, axis_name="workers", mixing=MATCHED), 2 * BYTES),
        (lambda: delayed_dual_averaging(1.0), 0),
    ],
    ids=["dfedsam", "dfedsam-mgs", "drcgd", "drcgd-tracked", "variance", "matched", "delayed"],
)
def test_a_worker_sends_the_bytes_of_the_formula(build, expected):
    params = {"matrix": jnp.ones((WORKERS, 3, 2)), "vector": jnp.ones((WORKERS, 2))}
    assert sum(sent(build(), params).values()) == expected
