import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal, normal_like
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from optax.contrib import MuonDimensionNumbers
from promises import assert_same_steps
from trajectories import compiled_first_update, first_update, last, trajectory

from optkit import cost
from optkit.core.adam import scale_by_adam
from optkit.memory_efficient._adagrad_snsm import adagrad_snsm
from optkit.memory_efficient._adam_snsm import adam_snsm
from optkit.memory_efficient._block_projector import block_projector
from optkit.memory_efficient._frugal import frugal
from optkit.memory_efficient._frugal_adamw import frugal_adamw
from optkit.memory_efficient._frugal_blocks import choose_blocks, frugal_blocks
from optkit.memory_efficient._frugal_lion import frugal_lion
from optkit.memory_efficient._galore import galore_adamw
from optkit.memory_efficient._sgd_sm import sgd_sm
from optkit.memory_efficient._subspace_momentum import subspace_momentum
from optkit.memory_efficient._subspaces import subspace_projector

SIDES = ("std", "reverse_std", "left", "right", "full")
COORDINATES = ("columns", "rows", "uniform", "topk", "randk")
ALL_SIDES = {
    **dict.fromkeys(("svd", "random", "randperm"), SIDES),
    "approximate_svd": ("std", "full"),
    **dict.fromkeys(COORDINATES, ("std",)),
}
SHAPES = [(6, 4), (4, 6), (5, 5), (2, 3, 4)]

# One projector for equal arguments, so that tests of it share programs.
projector_of = functools.cache(subspace_projector)


@functools.partial(jax.jit, static_argnums=0)
def found(projector, gradient, key=0):
    return projector.find(gradient, projector.start(gradient), jnp.array(0), jax.random.key(key))


@functools.partial(jax.jit, static_argnums=0)
def found_coordinates(projector, gradient):
    return projector.down(found(projector, gradient), gradient)


def inside(projector, projection, matrix):
    """The part of a matrix in a subspace."""
    return projector.up(projection, projector.down(projection, matrix), matrix)


# All sides of a kind are one program, which decomposes the gradient once.
@pytest.mark.parametrize("kind", ALL_SIDES)
@pytest.mark.parametrize("shape", SHAPES)
def test_up_after_down_is_an_orthogonal_projection(kind, shape):
    gradient, other = np.asarray(normal(*shape)), np.asarray(normal(*shape, seed=1))

    @jax.jit
    def parts(gradient, other):
        parts = {}
        for side in ALL_SIDES[kind]:
            projector = projector_of(kind, rank=2, side=side)
            projections = {"first": projector.start(gradient), "found": found(projector, gradient)}
            for name, projection in projections.items():
                part = inside(projector, projection, gradient)
                again, of_other = inside(projector, projection, part), inside(projector, projection, other)
                parts[side, name] = part, again, of_other
        return parts

    for case, (part, again, of_other) in parts(gradient, other).items():
        np.testing.assert_allclose(again, part, atol=1e-5, err_msg=str(case))
        np.testing.assert_allclose(np.vdot(gradient - part, of_other), 0, atol=1e-4, err_msg=str(case))


@pytest.mark.parametrize("kind", ALL_SIDES)
def test_full_density_is_everything_and_none_is_empty(kind):
    # As many singular vectors as the shorter axis has entries are everything on its side only; and so on both sides.
    gradients = {
        side: np.asarray(normal(*((6, 6) if "svd" in kind or side == "full" else (6, 4)))) for side in ALL_SIDES[kind]
    }
    wholes = {side: subspace_projector(kind, density=1.0, side=side) for side in gradients}

    @jax.jit
    def parts(gradients):
        return {side: inside(wholes[side], found(wholes[side], g), g) for side, g in gradients.items()}

    for side, part in parts(gradients).items():
        gradient = gradients[side]
        assert wholes[side].is_whole(gradient.shape)
        np.testing.assert_allclose(part, gradient, atol=1e-5, err_msg=side)
        empty = subspace_projector(kind, density=0.0, side=side)
        assert empty.is_empty(gradient.shape)
        assert not empty.is_whole(gradient.shape)


@pytest.mark.parametrize(
    ("kind", "side", "shape", "low"),
    [
        ("svd", "std", (6, 4), (6, 2)),
        ("svd", "std", (4, 6), (2, 6)),
        ("svd", "reverse_std", (6, 4), (2, 4)),
        ("svd", "left", (4, 6), (2, 6)),
        ("random", "right", (4, 6), (4, 2)),
        ("svd", "full", (6, 4), (2, 2)),
        ("columns", "std", (6, 4), (6, 2)),
        ("rows", "std", (4, 6), (2, 6)),
        ("uniform", "std", (6, 4), (2, 4)),
        ("topk", "std", (4, 6), (4, 2)),
        ("randk", "std", (6, 4), (2,)),
    ],
)
def test_coordinates_have_the_published_shape(kind, side, shape, low):
    projector = projector_of(kind, rank=2, side=side)
    assert jax.eval_shape(functools.partial(found_coordinates, projector), normal(*shape)).shape == low


@pytest.mark.parametrize(
    ("kind", "numbers"), [("svd", 2), ("columns", 2), ("rows", 3), ("randk", 17)]
)  # 0.5 * 5 rounds to even, 0.5 * 7 and 0.5 * 35 are rounded down
def test_density_is_rounded_as_published(kind, numbers):
    projector = subspace_projector(kind, density=0.5)
    low = jax.eval_shape(functools.partial(found_coordinates, projector), normal(7, 5))
    assert numbers in low.shape


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["svd", "random", "randperm"])
def test_a_density_on_both_sides_is_that_of_the_shorter_one(kind):
    projector = subspace_projector(kind, density=0.25, side="full")
    large, small = jax.ShapeDtypeStruct((1024, 4096), jnp.float32), normal(16, 10)
    assert jax.eval_shape(lambda x: projector.down(projector.start(x), x), large).shape == (256, 256)
    low = jax.eval_shape(functools.partial(found_coordinates, projector), small)
    assert low.shape == (2, 2)  # 0.25 * 10 rounds to even
    assert not subspace_projector(kind, density=1.0, side="full").is_whole((16, 10))


def test_there_are_as_many_singular_vectors_as_the_shorter_axis_has_entries():
    projector = subspace_projector("svd", density=1.0, side="left")
    gradient = normal(6, 4)
    assert not projector.is_whole(gradient.shape)
    assert found(projector, gradient)[0].shape == projector.start(gradient)[0].shape == (6, 4)


def test_singular_vectors_hold_the_largest_share_of_any_subspace():
    gradient = normal(6, 4)
    shares = {}
    for kind in ("svd", "random", "randperm"):
        shares[kind] = np.linalg.norm(found_coordinates(projector_of(kind, rank=2), gradient))
    singular_values = np.linalg.svd(gradient, compute_uv=False)
    np.testing.assert_allclose(shares["svd"], np.linalg.norm(singular_values[:2]), rtol=1e-5)
    assert shares["svd"] > max(shares["random"], shares["randperm"])


@pytest.mark.slow
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("decay", "least"), [(0.0, 0.97), (1.0, 0.9999)])
def test_approximate_singular_vectors_hold_nearly_the_largest_share(decay, least, side):
    u, _, vh = np.linalg.svd(normal(96, 64), full_matrices=False)
    gradient = jnp.asarray((u * np.arange(1, 65) ** -decay) @ vh) if decay else normal(96, 64)
    share, largest = (
        np.linalg.norm(found_coordinates(projector_of(kind, rank=8, side=side), gradient))
        for kind in ("approximate_svd", "svd")
    )
    assert least * largest <= share <= largest * (1 + 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e15])
def test_approximate_singular_vectors_of_any_gradient_are_orthonormal(scale):
    gradient = np.float32(scale) * np.broadcast_to(normal(12, 1), (12, 8))
    left = np.asarray(found(projector_of("approximate_svd", rank=3, side="left"), gradient)[0])
    np.testing.assert_allclose(left.T @ left, np.eye(3), atol=1e-5)


def test_top_rows_are_those_of_largest_norm():
    gradient = jnp.array([[1.0, 0.0], [0.0, 3.0], [2.0, 0.0]])
    projector = subspace_projector("topk", rank=2)
    assert found(projector, gradient).tolist() == [1, 2]


@pytest.mark.parametrize("kind", ["random", "randperm", "columns", "rows", "uniform", "randk"])
def test_another_key_gives_another_subspace_and_the_same_key_the_same(kind):
    gradient = normal(40, 30)
    projector = subspace_projector(kind, rank=5)
    first, again, other = (found(projector, gradient, key) for key in (0, 0, 1))
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))
    assert not jax.tree.all(jax.tree.map(np.array_equal, first, other))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "side"), [("svd", "std"), ("svd", "full"), ("approximate_svd", "full"), ("topk", "std")]
)
def test_a_gradient_of_nan_keeps_the_last_subspace(kind, side):
    projector = projector_of(kind, rank=2, side=side)
    gradient = np.array(normal(6, 4))
    find = jax.jit(projector.find)
    last = find(gradient, projector.start(gradient), 0, None)
    gradient[0, 0] = np.nan
    kept = find(gradient, last, 1, None)
    assert jax.tree.all(jax.tree.map(np.array_equal, last, kept))


def test_sixteen_bit_gradients_are_decomposed_in_float32():
    projector = subspace_projector("svd", rank=2)
    gradient = normal(6, 4).astype(jnp.bfloat16)
    found_types = jax.eval_shape(functools.partial(found, projector), gradient)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(found_types))


DENSE_KERNELS = MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
OUTPUTS_FIRST = MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)


@pytest.mark.slow
def test_rows_are_the_outputs_which_flax_keeps_last():
    kernel = normal(5, 5)
    rows, columns = (
        frugal(optax.identity(), subspace_projector(kind, rank=2), rest=None, key=0) for kind in ("rows", "columns")
    )
    of_rows, of_columns = (np.asarray(compiled_first_update(tx, kernel)) for tx in (rows, columns))
    assert np.count_nonzero(np.any(of_rows != 0, axis=0)) == 2
    assert np.count_nonzero(np.any(of_columns != 0, axis=1)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["svd", "approximate_svd", "topk"])
def test_weights_with_outputs_first_are_those_of_flax_transposed(kind):
    kernel, projector = normal(5, 5), subspace_projector(kind, rank=2)
    flax = frugal(optax.scale(3.0), projector)
    torch = frugal(optax.scale(3.0), projector, weight_dimension_numbers=OUTPUTS_FIRST)
    found = compiled_first_update(torch, kernel.T)
    np.testing.assert_allclose(found.T, compiled_first_update(flax, kernel), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["svd", "approximate_svd", "topk"])
def test_each_of_stacked_matrices_has_a_subspace_of_its_own(kind):
    layers = [np.asarray(normal(6, 4, seed=seed)) for seed in range(3)]
    tx = frugal(optax.scale(3.0), subspace_projector(kind, rank=2), weight_dimension_numbers=DENSE_KERNELS)
    alone, together = (compiled_first_update(tx, gradients) for gradients in (layers, np.stack(layers)))
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["random", "randperm", "columns", "uniform", "randk"])
def test_each_of_stacked_matrices_has_a_draw_of_its_own(kind):
    tx = frugal(
        optax.identity(), subspace_projector(kind, rank=2), rest=None, weight_dimension_numbers=DENSE_KERNELS, key=0
    )
    updates = compiled_first_update(tx, np.broadcast_to(normal(9, 8), (2, 9, 8)))
    assert not np.allclose(updates[0], updates[1])


def test_leaves_that_are_named_are_left_out():
    params = {"embedding": normal(8, 4), "kernel": normal(6, 4)}
    tx = frugal(optax.identity(), subspace_projector("topk", rank=1), leaves={"embedding": False, "kernel": True})
    updates = compiled_first_update(tx, params)
    np.testing.assert_array_equal(updates["embedding"], params["embedding"])
    assert not np.allclose(updates["kernel"], params["kernel"])


@pytest.mark.slow
def test_a_convolution_is_the_matrix_of_its_outputs_against_all_inputs():
    kernel = normal(3, 3, 2, 4)
    numbers = MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
    projector = subspace_projector("rows", rank=1)
    tx = frugal(optax.identity(), projector, rest=None, weight_dimension_numbers=numbers, key=0)
    update = np.asarray(compiled_first_update(tx, kernel))
    assert np.count_nonzero(np.any(update.reshape(-1, 4) != 0, axis=0)) == 1
    # Without numbers it is not a matrix, and an inner transformation gets the whole of it.
    whole = compiled_first_update(frugal(optax.identity(), projector, key=0), kernel)
    np.testing.assert_array_equal(whole, kernel)


def test_leaves_of_more_axes_that_are_named_are_matrices_by_their_last_two():
    layers = normal(3, 6, 4)
    tx = frugal(optax.scale(3.0), subspace_projector("topk", rank=2), leaves=lambda _: True)
    numbers = frugal(optax.scale(3.0), subspace_projector("topk", rank=2), weight_dimension_numbers=DENSE_KERNELS)
    np.testing.assert_array_equal(compiled_first_update(tx, layers), compiled_first_update(numbers, layers))


SHARDED = {
    "kernel": PartitionSpec("data", "model"),
    "embedding": PartitionSpec("data"),
    "wide": PartitionSpec(None, "model"),
    "layers": PartitionSpec("data", None, "model"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "side"),
    [("svd", "full"), ("approximate_svd", "full"), ("random", "left"), *((kind, "std") for kind in COORDINATES)],
)
def test_sharded_parameters_on_explicit_axes(kind, side):
    shapes = {"kernel": (16, 14), "embedding": (24, 6), "wide": (4, 16), "layers": (4, 6, 8)}
    projector = subspace_projector(kind, rank=3, side=side)
    tx = frugal(
        optax.trace(0.9),
        projector,
        update_gap=2,
        rest="sgd",
        rest_scale=0.5,
        weight_dimension_numbers=DENSE_KERNELS,
        key=0,
    )
    gradients = {name: normal(3, *shape) for name, shape in shapes.items()}
    alone = trajectory(tx, gradients).updates
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        params = {
            name: jax.device_put(np.zeros(shapes[name], np.float32), NamedSharding(mesh, spec))
            for name, spec in SHARDED.items()
        }
        sharded_gradients = {
            name: jax.device_put(np.asarray(gradients[name]), NamedSharding(mesh, PartitionSpec(None, *spec)))
            for name, spec in SHARDED.items()
        }
        sharded = trajectory(tx, sharded_gradients, params).updates
    for name, spec in SHARDED.items():
        assert sharded[name].sharding.is_equivalent_to(
            NamedSharding(mesh, PartitionSpec(None, *spec)), sharded[name].ndim
        )
        np.testing.assert_allclose(np.asarray(sharded[name]), np.asarray(alone[name]), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("kind", ["svd", "approximate_svd"])
def test_only_exact_singular_vectors_gather_sharded_gradients(kind, axis_type):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec("data", "model"))
    params = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
        for name, shape in {"tall": (128, 64), "wide": (64, 256)}.items()
    }
    spent = cost(frugal_adamw(0.1, projector=subspace_projector(kind, rank=8)), params)
    gathered = {**spent.sent, **spent.sent_when_taken}.get("all-gather", 0)
    assert (gathered > 0) == (kind == "svd")
    # Sums of thin products, a few in each of the power iterations: less than what gathering the matrices would send.
    assert sum(spent.sent.values()) < 0.1 * 4 * (128 * 64 + 64 * 256)


@pytest.mark.slow
def test_momentum_is_in_the_subspace_only():
    projector = subspace_projector("rows", density=0.5)
    tx = subspace_momentum(0.5, projector, key=0)
    gradient = jnp.ones((6, 4))
    updates = compiled_first_update(tx, gradient)
    np.testing.assert_allclose(sorted(updates[0].tolist()), [0.5] * 2 + [1.0] * 2)


@pytest.mark.slow
def test_a_whole_subspace_gives_plain_momentum():
    projector = subspace_projector("random", density=1.0)
    tx, plain = subspace_momentum(0.8, projector, key=0), optax.ema(0.8, debias=False)
    params = {"kernel": normal(4, 3), "bias": normal(3)}
    assert_same_steps(tx, plain, normal_like(params, 1, rows=(3,)), params, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize(
    ("reset", "expected"),
    [
        ("before", [1.0, 1.5, 1.0, 1.5]),
        ("after", [1.0, 1.5, 1.75, 1.0]),  # what is stale goes on in the third step, and is forgotten behind it
        ("never", [1.0, 1.5, 1.75, 1.875]),
    ],
)
def test_momentum_begins_anew_with_each_subspace(reset, expected):
    tx = subspace_momentum(0.5, subspace_projector("topk", rank=1), 3, reset=reset)
    updates = trajectory(tx, jnp.stack([jnp.array([[2.0], [0.0]])] * 4)).updates
    assert updates[:, 0, 0].tolist() == expected


def test_frugal_takes_signs_outside_the_subspace():
    tx = frugal(optax.identity(), subspace_projector("topk", rank=1), rest_scale=0.5, scale=2.0)
    updates = compiled_first_update(tx, jnp.array([[3.0, 4.0], [0.3, -0.4], [0.0, 0.1]]))
    np.testing.assert_allclose(updates, [[6.0, 8.0], [1.0, -1.0], [0.0, 1.0]])


@pytest.mark.parametrize(("rest", "factor"), [("sgd", 1.0), (None, 0.0)])
def test_frugals_other_rules_outside_the_subspace(rest, factor):
    tx = frugal(optax.scale(7.0), subspace_projector("topk", rank=1), rest=rest)
    updates = compiled_first_update(tx, jnp.array([[3.0, 4.0], [0.3, -0.4], [0.0, 0.1]]))
    np.testing.assert_allclose(updates, [[21.0, 28.0], [0.3 * factor, -0.4 * factor], [0.0, 0.1 * factor]], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["svd", "columns", "randk"])
def test_frugal_of_density_one_is_the_inner_optimizer_and_of_zero_sign_descent(kind):
    params = normal(6, 4)
    gradient = np.asarray(normal(6, 4, seed=1))
    whole = frugal(optax.scale(3.0), subspace_projector(kind, density=1.0), key=0)
    none = frugal(optax.scale_by_adam(), subspace_projector(kind, density=0.0), key=0)
    of_whole, of_none = jax.jit(lambda g, p: (first_update(whole, g, p), first_update(none, g, p)))(gradient, params)
    np.testing.assert_allclose(of_whole, 3 * gradient, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(of_none, np.sign(gradient))
    assert all(x.size for x in jax.tree.leaves(jax.eval_shape(none.init, params)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["svd", "approximate_svd"])
@pytest.mark.parametrize(
    ("shape", "gradients_rank"), [((6, 4), 4), ((4, 6), 4), ((40, 30), 30), ((40, 30), 2), ((3, 12, 9), 9), ((7, 1), 1)]
)
def test_nothing_is_left_of_a_gradient_of_the_subspaces_rank(kind, shape, gradients_rank):
    *batch, m, n = shape
    gradient = np.asarray(normal(*batch, m, gradients_rank)) @ np.asarray(normal(*batch, gradients_rank, n, seed=1))

    @jax.jit
    def left(gradient):
        updates = {}
        for side in SIDES:
            projector = subspace_projector(kind, rank=gradients_rank, side=side)
            tx = frugal(optax.set_to_zero(), projector, weight_dimension_numbers=DENSE_KERNELS)
            updates[side] = first_update(tx, gradient)
        return updates

    for side, update in left(gradient).items():
        np.testing.assert_array_equal(update, 0.0, err_msg=side)


def test_after_a_refresh_something_is_left_of_a_matrix_at_full_rank():
    tx = frugal(optax.set_to_zero(), subspace_projector("svd", rank=4, side="left"))
    gradients = np.stack([normal(4, 6), normal(4, 6, seed=1)])  # six rows, and four singular vectors
    for update, moves in zip(trajectory(tx, gradients).updates, (False, True), strict=True):
        assert np.all(np.abs(update) == moves)


@pytest.mark.slow
def test_what_is_left_moves_however_small_it_is_beside_another_layers():
    layers = np.asarray(normal(2, 6, 4)) * np.float32([1.0, 1e-8]).reshape(2, 1, 1)
    tx = frugal(optax.set_to_zero(), subspace_projector("svd", rank=2), weight_dimension_numbers=DENSE_KERNELS)
    update = jax.jit(functools.partial(first_update, tx))
    for scale in (1e-25, 1.0, 1e25):
        np.testing.assert_array_equal(np.abs(update(np.float32(scale) * layers)), 1.0, err_msg=str(scale))


@pytest.mark.parametrize("reset", [True, False])
def test_the_inner_state_begins_anew_with_each_subspace(reset):
    tx = frugal(optax.trace(0.5), subspace_projector("topk", rank=1), 2, reset=reset)
    updates = trajectory(tx, jnp.stack([jnp.array([[1.0], [0.0]])] * 3)).updates
    assert updates[:, 0, 0].tolist() == [1.0, 1.5, 1.0 if reset else 1.75]


@pytest.mark.slow
def test_leaves_that_are_not_projected_keep_their_state():
    tx = frugal(optax.trace(0.5), subspace_projector("topk", rank=1), 1)
    gradient = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    updates = trajectory(tx, jax.tree.map(lambda g: np.stack([g, g]), gradient)).updates
    np.testing.assert_allclose(updates["bias"][1], 1.5)


@pytest.mark.slow
def test_extra_arguments_reach_the_inner_transformation():
    seen = []

    def update(updates, state, params=None, **extra_args):
        seen.append((set(extra_args), None if params is None else jax.tree.map(jnp.shape, params)))
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
    tx = frugal(inner, subspace_projector("columns", density=0.5), key=0)
    params = {"kernel": jnp.ones((6, 4)), "bias": jnp.ones(3)}
    jax.eval_shape(lambda params: tx.update(params, tx.init(params), params, value=1.0), params)
    assert all("value" in extra_args for extra_args, _ in seen)
    assert any(shapes["kernel"] == (4, 3) for _, shapes in seen)  # rows and columns of the matrix


@pytest.mark.slow
@pytest.mark.parametrize("side", ["std", "reverse_std"])
def test_galore_moves_in_its_subspace_only(side):
    tx = galore_adamw(0.1, projector=subspace_projector("svd", rank=2, side=side))
    params = normal(6, 4)
    updates = np.asarray(compiled_first_update(tx, params, params))
    assert np.linalg.matrix_rank(updates, tol=1e-5) == 2


@pytest.mark.slow
def test_galore_keeps_its_moments_when_the_subspace_changes():
    direction = frugal(
        scale_by_adam(0.9, 0.99, 1e-6, eps_placement="pre"),
        subspace_projector("svd", rank=1),
        1,
        rest=None,
        reset=False,
    )
    state = last(trajectory(direction, jnp.stack([normal(3, 2)] * 3)).states)
    counts = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.integer)]
    assert all(int(count) == 3 for count in counts)


D, HIDDEN, VOCABULARY, LAYERS, RANK = 512, 1376, 32_000, 8, 128
LLAMA_60M = {
    "embedding": (VOCABULARY, D),
    "head": (D, VOCABULARY),
    "attention": [(D, D)] * 4 * LAYERS,
    "up": [(D, HIDDEN)] * 2 * LAYERS,
    "down": [(HIDDEN, D)] * LAYERS,
    "norms": [(D,)] * (2 * LAYERS + 1),
}
LLAMA_60M = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), LLAMA_60M, is_leaf=lambda x: isinstance(x, tuple)
)
MATRICES = [leaf.shape for leaf in jax.tree.leaves(LLAMA_60M) if leaf.ndim == 2]
VECTORS = sum(leaf.size for leaf in jax.tree.leaves(LLAMA_60M) if leaf.ndim == 1)


def state_numbers(tx):
    return cost(tx, LLAMA_60M, state_only=True).state_bytes / 4


@pytest.mark.parametrize("kind", ["svd", "uniform", "topk"])
def test_snsm_keeps_at_most_a_fifth_of_adams_state(kind):
    tx = adam_snsm(0.1, projector=subspace_projector(kind, rank=RANK), key=0)
    assert state_numbers(tx) <= 0.2 * state_numbers(optax.adam(0.1))


@pytest.mark.slow
def test_state_of_snsm_is_what_the_paper_says():
    expected = sum(RANK * (m + n) + max(m, n) for m, n in MATRICES) + 2 * VECTORS
    assert 0 <= state_numbers(adam_snsm(0.1)) - expected < 10  # counters


def test_state_of_galore_is_what_the_paper_says():
    expected = sum(2 * RANK * max(m, n) + RANK * min(m, n) for m, n in MATRICES) + 2 * VECTORS
    assert 0 <= state_numbers(galore_adamw(0.1)) - expected < 10


def test_state_of_frugal_is_its_share_and_indices():
    tx = frugal_adamw(0.1, projector=subspace_projector("columns", density=0.25), key=0)
    expected = sum(2 * (n // 4) * m + n // 4 for n, m in MATRICES) + 2 * VECTORS
    assert 0 <= state_numbers(tx) - expected < 10
    assert state_numbers(tx) < 0.26 * math.prod([2, sum(m * n for m, n in MATRICES)]) + 2 * VECTORS


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: subspace_projector("pca", rank=1), "kind must be 'svd', .*, got 'pca'"),
        (lambda: subspace_projector("svd", rank=1, side="top"), "side must be 'std', .*, got 'top'"),
        (lambda: subspace_projector("svd"), "give one of rank and density, got rank=None and density=None"),
        (lambda: subspace_projector("svd", rank=1, density=0.5), "give one of rank and density"),
        (lambda: subspace_projector("svd", rank=0), "rank must be a positive integer, got 0"),
        (lambda: subspace_projector("svd", density=1.5), r"density must be in \[0, 1\], got 1.5"),
        (lambda: block_projector(-0.5), r"density must be in \[0, 1\], got -0.5"),
        (lambda: block_projector(0.5, "sideways"), "order must be 'random', .*, got 'sideways'"),
        (lambda: block_projector(0.25, "mirror").find([jnp.zeros(1)] * 4, None, 0, None), "takes pairs, .* is 1"),
        (lambda: choose_blocks([jnp.ones((1, 1))], 0.5, period=0), "order 'random' needs a key: give key"),
        (lambda: frugal_blocks(optax.identity(), [True], rest="signs"), "rest must be 'sign', 'sgd' or None"),
        (lambda: subspace_momentum(0.9, reset="later"), "reset must be 'before', 'after' or 'never', got 'later'"),
        (lambda: subspace_momentum(1.0), r"b1 must be in \[0, 1\), got 1.0"),
        (lambda: subspace_momentum(0.9, subspace_projector("rows", rank=1)), "draws at random: give key"),
        (lambda: adam_snsm(0.1, update_gap=0), "update_gap must be a positive integer, got 0"),
        (lambda: adam_snsm(0.1, b2=1.0), r"b2 must be in \[0, 1\), got 1.0"),
        (lambda: adagrad_snsm(0.1, eps=-1.0), "eps must be in"),
        (lambda: sgd_sm(0.1, weight_decay=-1.0), "weight_decay must be in"),
        (lambda: frugal(optax.identity(), rest="signs"), "rest must be 'sign', 'sgd' or None, got 'signs'"),
        (lambda: frugal(optax.identity(), rest_scale=-1.0), "rest_scale must be in"),
        (lambda: frugal(optax.identity(), scale=-1.0), r"scale must be in \[0, inf\], got -1.0"),
        (lambda: frugal_adamw(0.1, b1=1.0), "b1 must be in"),
        (lambda: frugal_adamw(0.1, b2=1.0), "b2 must be in"),
        (lambda: frugal_adamw(0.1, eps=-1.0), "eps must be in"),
        (lambda: frugal_adamw(0.1, rest_scale=-1.0), "rest_scale must be in"),
        (lambda: frugal_lion(0.1, b1=1.5), "b1 must be in"),
        (lambda: frugal_lion(0.1, b2=1.5), "b2 must be in"),
        (lambda: frugal_lion(0.1, weight_decay=-1.0), "weight_decay must be in"),
        (lambda: galore_adamw(0.1, weight_decay=-1.0), "weight_decay must be in"),
    ],
)
def test_wrong_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
