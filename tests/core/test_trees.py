import jax
import jax.numpy as jnp
import optax
import pytest
from callable_models import CallableModel
from flax import traverse_util

from optkit.core.trees import copy, is_function, mask_tree, only, resolve, unmask_tree, with_whole_tree

TREE = {"layer": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "none": None}


@pytest.mark.parametrize(
    "mask",
    [
        {"layer": {"kernel": True, "bias": False}, "none": None},
        {"layer": {"kernel": True, "bias": False}, "none": False},
        lambda tree: {"layer": {"kernel": tree["layer"]["kernel"].ndim == 2, "bias": False}, "none": None},
    ],
    ids=["tree", "prefix", "function"],
)
def test_what_is_masked_comes_back(mask):
    inside = mask_tree(mask, TREE)
    assert inside["layer"]["bias"] == optax.MaskedNode()
    doubled = optax.tree.scale(2.0, inside)
    whole = unmask_tree(doubled, TREE)
    assert whole["layer"]["bias"] is TREE["layer"]["bias"]
    assert jnp.all(whole["layer"]["kernel"] == 2.0)
    assert whole["none"] is None


def test_no_mask_keeps_everything():
    assert mask_tree(None, TREE) == TREE


MODEL = CallableModel(kernel=jnp.ones((2, 2)), bias=jnp.ones(2))


def test_a_callable_tree_is_a_tree():
    assert not is_function(CallableModel(kernel=True, bias=False))
    assert resolve("mask", CallableModel(kernel=True, bias=False), MODEL) == CallableModel(kernel=True, bias=False)
    assert mask_tree(CallableModel(kernel=True, bias=False), MODEL).bias == optax.MaskedNode()


@pytest.mark.parametrize("lone", [True, jnp.array(True)])
def test_one_value_for_several_leaves_is_refused(lone):
    with pytest.raises(TypeError, match=r"applies_to must be a tree .* static_args"):
        resolve("applies_to", lone, TREE)


def test_one_value_for_one_leaf_is_taken():
    assert resolve("mask", choice=True, tree=jnp.ones(2)) is True


def test_a_function_of_paths_sees_the_whole_tree_inside_a_partition():
    mask = lambda params: traverse_util.path_aware_map(lambda _, x: x.ndim > 1, params)  # noqa: E731
    labels = {"layer": {"kernel": "matrix", "bias": "other"}}

    def build(mask):
        decay = optax.add_decayed_weights(1.0, lambda _: mask)
        return optax.partition({"matrix": decay, "other": decay}, labels)

    tree = {"layer": TREE["layer"]}
    tx = with_whole_tree(build, mask=mask)
    updates, _ = tx.update(optax.tree.zeros_like(tree), tx.init(tree), tree)
    assert jax.tree.map(lambda x: float(x.sum()), updates) == {"layer": {"kernel": 4.0, "bias": 0.0}}


@pytest.mark.parametrize("form", ["tree", "function"])
def test_what_is_not_trainable_gets_zeros(form):
    trainable = CallableModel(kernel=True, bias=False)
    tx = only(optax.sgd(1.0), trainable if form == "tree" else lambda _: trainable)
    updates, _ = tx.update(MODEL, tx.init(MODEL))
    assert jax.tree.map(lambda x: float(x.sum()), updates) == CallableModel(kernel=-4.0, bias=0.0)


def test_map_params_finds_the_way_through():
    def build(mask):
        return optax.masked(optax.trace(0.9), lambda _: mask)

    tx = with_whole_tree(build, mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params))
    state = tx.init(TREE["layer"])
    doubled = optax.tree.map_params(tx, lambda x: x + 1, state)
    assert jax.tree.map(lambda x: float(x.sum()), jax.tree.leaves(doubled)) == [4.0]


def test_copies_are_others():
    original = jnp.ones(2)
    assert copy(original).unsafe_buffer_pointer() != original.unsafe_buffer_pointer()


def test_an_abstract_copy_has_its_sharding():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("x"))
    zeros = copy(jax.ShapeDtypeStruct((8,), jnp.bfloat16, sharding=sharding))
    assert (zeros.dtype, zeros.sharding) == (jnp.bfloat16, sharding)
