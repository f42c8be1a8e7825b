import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal, normal_like
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from promises import smallest_excess

import optkit
from optkit import prox

PARAMS = {"kernel": np.zeros((4, 3)), "bias": np.zeros(5), "scalar": np.zeros(())}


def total(function):
    return lambda tree: sum(function(x) for x in jax.tree.leaves(tree))


def nuclear(x):
    return jnp.sum(jnp.linalg.svd(x, compute_uv=False)) if x.ndim >= 2 else 0.0


# The map, and the penalty whose map it is.
PENALTIES = {
    "l1": (prox.l1(0.7), total(lambda x: 0.7 * jnp.sum(jnp.abs(x)))),
    "squared_l2": (prox.squared_l2(0.7), total(lambda x: 0.35 * jnp.sum(x**2))),
    "elastic_net": (prox.elastic_net(0.5, 0.3), total(lambda x: jnp.sum(0.5 * jnp.abs(x) + 0.15 * x**2))),
    "group": (prox.group(0.7), total(lambda x: 0.7 * jnp.sqrt(jnp.sum(x**2)))),
    "nuclear": (prox.nuclear(0.7), total(lambda x: 0.7 * nuclear(x))),
    "l0": (prox.l0(0.7), total(lambda x: 0.7 * jnp.sum(x != 0))),
    "box": (prox.box(-0.5, 0.25), total(lambda x: jnp.sum(jnp.where((x < -0.5) | (x > 0.25), jnp.inf, 0)))),
    "constraint": (
        prox.constraint(optax.projections.projection_l1_ball, 1.0),
        lambda tree: jnp.where(total(lambda x: jnp.sum(jnp.abs(x)))(tree) > 1 + 1e-9, jnp.inf, 0),
    ),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", PENALTIES)
def test_the_map_minimises_the_penalty_plus_the_squared_distance(name):
    proximal, penalty = PENALTIES[name]
    x, others = normal_like(PARAMS), normal_like(PARAMS, 1, rows=(29,))

    def excess(step):
        def objective(v):
            return penalty(v) + optax.tree.norm(optax.tree.sub(v, x), squared=True) / (2 * step)

        return smallest_excess(objective, proximal(x, step), others)

    assert jnp.min(jax.jit(jax.vmap(excess))(jnp.array([0.1, 1.0, 10.0]))) >= -1e-12


@pytest.mark.parametrize("name", PENALTIES)
def test_zero_stays_zero_and_empty_leaves_none_and_dtypes_stay(name):
    tree = {"a": jnp.zeros((3, 2), jnp.bfloat16), "none": None, "empty": jnp.zeros((0, 2)), "s": jnp.zeros([])}
    mapped = PENALTIES[name][0](tree, jnp.float32(0.5))
    jax.tree.map(np.testing.assert_array_equal, mapped, tree)
    assert jax.tree.map(lambda x: x.dtype, mapped) == jax.tree.map(lambda x: x.dtype, tree)


def test_a_group_may_be_a_column():
    x = jnp.array([[3.0, 0.1], [4.0, 0.2]])
    mapped = prox.group(1.0, axis=0)(x, 1.0)
    np.testing.assert_allclose(mapped, [[2.4, 0.0], [3.2, 0.0]], rtol=1e-6)


def test_groups_of_tiny_entries_have_a_norm():
    x = jnp.full(4, 1e-30)
    np.testing.assert_allclose(prox.group(1e-30)(x, 1.0), x / 2, rtol=1e-6)


def test_ranks_of_each_matrix_of_a_stack_fall():
    x = normal(2, 5, 4)
    values = jnp.linalg.svd(x, compute_uv=False)
    mapped = prox.nuclear(1.0)(x, 1.5)
    expected = np.maximum(values - 1.5, 0)
    np.testing.assert_allclose(jnp.linalg.svd(mapped, compute_uv=False), expected, atol=1e-5)
    assert np.any(expected == 0)


@pytest.mark.slow
def test_nuclear_norms_of_matrices_sharded_over_explicit_axes_are_the_same():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    x = normal(8, 4)
    placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data", "model")))
    with jax.set_mesh(mesh):
        mapped = jax.jit(prox.nuclear(1.0))(placed, 0.5)
    assert mapped.sharding == placed.sharding
    np.testing.assert_allclose(mapped, prox.nuclear(1.0)(x, 0.5), atol=1e-6)


def test_leaves_outside_the_mask_stay():
    tree = normal_like(PARAMS)
    mapped = prox.masked(prox.l1(100.0), {"kernel": True, "bias": False, "scalar": False})(tree, 1.0)
    np.testing.assert_array_equal(mapped["kernel"], 0)
    np.testing.assert_array_equal(mapped["bias"], tree["bias"])


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (prox.l1, "weight"),
        (prox.squared_l2, "weight"),
        (prox.group, "weight"),
        (prox.nuclear, "weight"),
        (prox.l0, "weight"),
        (lambda weight: prox.elastic_net(weight, 1.0), "l1"),
        (lambda weight: prox.elastic_net(1.0, weight), "l2"),
    ],
)
def test_a_negative_weight_is_named(make, name):
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, inf\], got -1"):
        make(-1.0)


@pytest.mark.parametrize(
    "build",
    [
        lambda prox: optkit.nids(0.1, optkit.topology.ring(3), prox=prox, axis_name="workers"),
        lambda prox: optkit.proximal_gradient_tracking(0.1, optkit.topology.ring(3), prox, axis_name="workers"),
        lambda prox: optkit.compressed_proximal_tracking(
            0.1, optkit.topology.ring(3), prox, optkit.compressors.top_k(0.5), axis_name="workers"
        ),
        lambda prox: optkit.prox.masked(prox, None),
    ],
)
@pytest.mark.parametrize("prox", [optkit.median_step.l1(), optkit.median_step.subgradient_l2(), 0.1])
def test_a_step_towards_a_median_is_no_proximal_map(build, prox):
    with pytest.raises(
        TypeError, match=r"must be the proximal map of a penalty or a constraint, such as optkit.prox.l"
    ):
        build(prox)


@pytest.mark.parametrize("name", PENALTIES)
def test_complex_leaves_are_refused(name):
    with pytest.raises(TypeError, match="hold the real and imaginary parts as two leaves"):
        PENALTIES[name][0]({"w": jnp.ones(2, jnp.complex64)}, 0.5)


def test_bounds_in_the_wrong_order_are_named():
    with pytest.raises(ValueError, match=r"upper must be in \[1, inf\], got 0"):
        prox.box(1.0, 0.0)
