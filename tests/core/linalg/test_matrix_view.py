import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from optax.contrib import MuonDimensionNumbers
from trajectories import first_update

from optkit.core.linalg.matrix_view import from_matrices, matrix_view, matrix_views, to_matrices

VIEWS = {
    "dense": ((4, 6), None, (6, 4), ()),
    "PyTorch's dense": ((6, 4), MuonDimensionNumbers(-1, -2), (6, 4), ()),
    "experts": ((3, 4, 6), None, (6, 4), (3,)),
    "convolution": ((3, 2, 4, 6), MuonDimensionNumbers((0, 1, 2), 3), (6, 24), ()),
    "PyTorch's convolution": ((6, 4, 3, 2), MuonDimensionNumbers((1, 2, 3), 0), (6, 24), ()),
    "attention": ((4, 3, 2), MuonDimensionNumbers(0, (1, 2)), (6, 4), ()),
    "attention, a matrix for each head": ((4, 3, 2), MuonDimensionNumbers(0, 2), (2, 4), (3,)),
    "attention's output": ((3, 2, 4), MuonDimensionNumbers((0, 1), 2), (4, 6), ()),
}


def entries(*shape):
    return jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)


@pytest.mark.parametrize(("shape", "numbers", "matrix", "batch"), VIEWS.values(), ids=VIEWS)
def test_a_leaf_is_seen_as_matrices_and_back(shape, numbers, matrix, batch):
    x, view = entries(*shape), matrix_view(shape, numbers)
    matrices = to_matrices(x, view)
    assert (view.row_count, view.column_count) == matrix
    assert matrices.shape == (*batch, *(matrix if view.rows_first else matrix[::-1]))
    np.testing.assert_array_equal(from_matrices(x, view, matrices), x)


def test_rows_are_outputs():
    kernel = entries(4, 6)
    inputs = entries(4)
    view = matrix_view(kernel.shape)
    assert not view.rows_first
    np.testing.assert_array_equal(to_matrices(kernel, view).T @ inputs, inputs @ kernel)


def test_each_head_is_a_matrix():
    kernel = entries(4, 3, 2)
    matrices = to_matrices(kernel, matrix_view(kernel.shape, MuonDimensionNumbers(0, 2)))
    np.testing.assert_array_equal(matrices[1], kernel[:, 1])


@pytest.mark.slow
def test_views_agree_with_optax():
    kernel = normal(4, 3, 2)
    numbers = MuonDimensionNumbers(0, 2)
    tx = optax.contrib.scale_by_muon(weight_dimension_numbers=numbers, nesterov=False)
    update = first_update(tx, kernel)
    for head in range(3):
        expected = first_update(optax.contrib.scale_by_muon(nesterov=False), kernel[:, head])
        seen = to_matrices(update, matrix_view(kernel.shape, numbers))[head]
        np.testing.assert_allclose(seen, expected, atol=1e-6)


def test_by_default_leaves_of_two_axes_are_matrices():
    tree = {"kernel": entries(4, 6), "bias": entries(6), "convolution": entries(3, 3, 2, 4), "none": None}
    tree |= {"empty": entries(0, 3), "scalar": jnp.zeros(())}
    assert matrix_views(tree) == {**dict.fromkeys(tree), "kernel": matrix_view((4, 6))}


@pytest.mark.parametrize("as_function", [False, True])
def test_numbers_may_be_a_prefix_of_the_tree(as_function):
    tree = {"layers": [entries(4, 6), entries(6, 4)], "head": entries(4, 9), "masked": optax.MaskedNode()}
    numbers = {"layers": MuonDimensionNumbers(1, 0), "head": None, "masked": MuonDimensionNumbers(0, 1)}
    views = matrix_views(tree, (lambda _: numbers) if as_function else numbers)
    assert [view.row_count for view in views["layers"]] == [4, 6]
    assert views["head"] is None
    assert views["masked"] == optax.MaskedNode()


@pytest.mark.parametrize(
    "numbers", [MuonDimensionNumbers(0, 0), MuonDimensionNumbers(0, -2), MuonDimensionNumbers(0, 2)]
)
def test_axes_that_are_equal_or_missing_are_refused(numbers):
    with pytest.raises(ValueError, match=r"a leaf of shape \(4, 6\) must have different input and output axes"):
        matrix_view((4, 6), numbers)


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match=r"a leaf of shape \(3,\) is not a matrix"):
        matrix_view((3,))


def test_a_convolution_on_explicit_axes_comes_back_sharded():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec(None, None, "data", "model"))
    view = matrix_view((3, 2, 4, 6), MuonDimensionNumbers((0, 1, 2), 3))
    with jax.set_mesh(mesh):
        x = jax.device_put(entries(3, 2, 4, 6), sharding)
        back = jax.jit(lambda x: from_matrices(x, view, 2 * to_matrices(x, view)))(x)
    assert back.sharding.is_equivalent_to(sharding, 4)
    np.testing.assert_array_equal(back, 2 * entries(3, 2, 4, 6))
