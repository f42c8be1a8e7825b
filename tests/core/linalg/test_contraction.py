import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from optkit.core.linalg.contraction import einsum

CASES = [
    ("...mn,...nr->...mr", (None, "data", "model"), (None, "model", None), (None, "data", None)),
    ("...mn,...mr->...nr", (None, "data", "model"), (None, "data", None), (None, "model", None)),
    ("...mr,...nr->...nm", (None, "data", None), (None, "model", None), (None, "model", "data")),
    ("...mr,...ms->...rs", ("model", "data", None), ("model", "data", None), ("model", None, None)),
    ("sm,...mr->...sr", (None, "data"), (None, "data", None), (None, None, None)),
]


@pytest.mark.parametrize(("subscripts", "left", "right", "expected"), CASES)
def test_the_result_is_sharded_like_the_axes_that_it_keeps(subscripts, left, right, expected):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    operands = [jnp.arange(8.0 ** len(spec)).reshape([8] * len(spec)) for spec in (left, right)]
    with jax.set_mesh(mesh):
        placed = [
            jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
            for x, spec in zip(operands, (left, right), strict=True)
        ]
        result = jax.jit(lambda *operands: einsum(subscripts, *operands))(*placed)
    assert result.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec(*expected)), 3)
    np.testing.assert_allclose(result, jnp.einsum(subscripts, *operands), rtol=1e-5)
