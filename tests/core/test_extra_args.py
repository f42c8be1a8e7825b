import jax.numpy as jnp
import optax
import pytest

from optkit.core.extra_args import mask_tree, require_whole_tree, required, unmask_tree

TREE = {"layer": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "none": None}


def test_a_missing_argument_is_named_with_a_call_that_works():
    with pytest.raises(TypeError, match=r"storm needs .* grad_fn: call update\(grads, state, params, grad_fn=f\)"):
        required(None, "grad_fn", "storm", "grad_fn=f")


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


def test_a_part_of_a_tree_is_refused():
    with pytest.raises(TypeError, match=r"storm .* optax.masked or optax.partition: .* argument mask"):
        require_whole_tree({"kernel": optax.MaskedNode()}, "storm")
