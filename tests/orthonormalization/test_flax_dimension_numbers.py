import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal_like
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from optax.contrib import MuonDimensionNumbers
from trajectories import first_update

from optkit.core.linalg.matrix_view import from_matrices, matrix_view, matrix_views, to_matrices
from optkit.orthonormalization import flax_dimension_numbers
from optkit.orthonormalization._dion import dion
from optkit.orthonormalization._muon import muon


class Linen(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(7, 8, name="embed")(tokens)
        x = nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(x)
        x = nn.LayerNorm(name="norm")(nn.Conv(6, (3,), name="conv")(x))
        return nn.Dense(5, name="head")(x)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(7, 8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.conv = nnx.Conv(8, 6, (3,), rngs=rngs)
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.head = nnx.Linear(6, 5, rngs=rngs)


def linen_params():
    return jax.eval_shape(Linen().init, jax.random.key(0), jnp.zeros((1, 4), int))["params"]


def nnx_params():
    return nnx.state(nnx.eval_shape(lambda: Nnx(nnx.Rngs(0))), nnx.Param)


TREES = {"linen": linen_params, "nnx": nnx_params, "nnx, pure": lambda: nnx.to_pure_dict(nnx_params())}


def is_head(path):
    return path.startswith("head/")


def by_path(tree):
    """What a tree has for each layer and leaf."""
    leaves = jax.tree.leaves_with_path(tree, is_leaf=lambda x: x is None or isinstance(x, MuonDimensionNumbers))
    return {"/".join(str(key.key) for key in path if hasattr(key, "key")): numbers for path, numbers in leaves}


@pytest.mark.parametrize("params", TREES.values(), ids=TREES)
def test_kernels_are_matrices_and_nothing_else(params):
    numbers = by_path(flax_dimension_numbers(params(), exclude=is_head))
    queries = MuonDimensionNumbers((-3,), (-2, -1))
    several_inputs = MuonDimensionNumbers((-3, -2), (-1,))
    expected = {f"attention/{layer}/kernel": queries for layer in ("query", "key", "value")}
    expected |= {"attention/out/kernel": several_inputs, "conv/kernel": several_inputs}
    assert {path: numbers for path, numbers in numbers.items() if numbers is not None} == expected
    assert len(numbers) == 15


def test_dense_kernels_have_inputs_first():
    numbers = flax_dimension_numbers(linen_params())
    assert numbers["head"]["kernel"] == MuonDimensionNumbers((-2,), (-1,))
    assert numbers["embed"]["embedding"] is None


def test_counts_are_those_of_the_layers():
    views = matrix_views(linen_params(), flax_dimension_numbers)
    kernels = {**views["attention"], "conv": views["conv"]}
    counts = {name: (layer["kernel"].row_count, layer["kernel"].column_count) for name, layer in kernels.items()}
    assert counts == {**dict.fromkeys(("query", "key", "value", "out"), (8, 8)), "conv": (6, 24)}


def test_images_are_convolved_with_all_of_a_window_as_inputs():
    params = jax.eval_shape(nn.Conv(6, (3, 5)).init, jax.random.key(0), jnp.zeros((1, 8, 8, 2)))["params"]
    view = matrix_views(params, flax_dimension_numbers)["kernel"]
    assert (view.row_count, view.column_count) == (6, 30)


def test_a_convolution_named_like_attention_is_a_convolution():
    numbers = flax_dimension_numbers({"key": {"kernel": jnp.zeros((3, 3, 2, 4))}})
    assert numbers["key"]["kernel"] == MuonDimensionNumbers((-4, -3, -2), (-1,))


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.Dense(6, name="dense")(nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(x)), None


def test_layers_of_a_scan_are_matrices_of_their_own():
    stack = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
    params = jax.eval_shape(stack(name="layers").init, jax.random.key(0), jnp.zeros((1, 4, 6)), None)
    numbers = flax_dimension_numbers(params, stacked=lambda path: path.startswith("params/"))
    views = matrix_views(params, numbers)["params"]
    for kernel in (views["attention"]["query"], views["attention"]["out"], views["dense"]):
        assert kernel["kernel"].batch == (0,)
        assert (kernel["kernel"].row_count, kernel["kernel"].column_count) == (6, 6)
        assert kernel["bias"] is None


@pytest.mark.slow
@pytest.mark.parametrize("params", [linen_params, nnx_params])
@pytest.mark.parametrize("optimizer", [dion, muon])
def test_optimizers_take_them_and_leave_the_rest_to_others(optimizer, params):
    params = jax.tree.map(lambda x: jnp.ones(x.shape), params())

    def numbers(tree):
        return flax_dimension_numbers(tree, exclude=is_head)

    tx = optimizer(0.1, weight_decay=0.0, weight_dimension_numbers=numbers)
    updates = jax.jit(functools.partial(first_update, tx))(normal_like(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    sizes = {path: np.abs(update) for path, update in by_path(updates).items()}
    # The first step of Lion and AdamW has one size.
    plain = {path for path, size in sizes.items() if np.allclose(size, 0.1, rtol=1e-3)}
    assert plain == {path for path, entry in by_path(numbers(params)).items() if entry is None}


def test_optax_takes_them():
    params = linen_params()
    tx = optax.contrib.muon(0.1, muon_weight_dimension_numbers=flax_dimension_numbers)
    updates = jax.eval_shape(lambda params: tx.update(params, tx.init(params), params)[0], params)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize(("shape", "numbers", "spec", "merged"), [
    ((8, 4, 6), MuonDimensionNumbers(0, (1, 2)), ("data", "model", None), ("data", "model")),
    ((4, 6, 8), MuonDimensionNumbers((0, 1), 2), ("data", None, "model"), ("data", "model")),
    ((8, 4, 6), MuonDimensionNumbers(0, (1, 2)), ("data", None, "model"), ("data", None)),
    ((3, 3, 8, 4), MuonDimensionNumbers((0, 1, 2), 3), (None, None, "data", "model"), (None, "model")),
    ((1, 1, 8, 4), MuonDimensionNumbers((0, 1, 2), 3), (None, None, "data", "model"), ("data", "model")),
    ((4, 8, 2, 6), MuonDimensionNumbers(1, (2, 3)), ("data", None, "model", None), ("data", None, "model")),
])  # fmt: skip
def test_only_axes_that_are_joined_behind_others_are_gathered(shape, numbers, spec, merged):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    view, seen = matrix_view(shape, numbers), []

    def double(x):
        matrices = to_matrices(x, view)
        seen.append(jax.typeof(matrices).sharding.spec)
        return from_matrices(x, view, 2 * matrices)

    x = jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
        doubled = jax.jit(double)(sharded)
    assert seen == [PartitionSpec(*merged)]
    assert doubled.sharding.is_equivalent_to(sharded.sharding, x.ndim)
    np.testing.assert_array_equal(doubled, 2 * x)
