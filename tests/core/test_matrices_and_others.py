import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, traverse_util
from optax.contrib import MuonDimensionNumbers
from trajectories import first_update

import optkit
from optkit.core.linalg.matrix_view import DENSE_KERNELS
from optkit.core.linalg.newton_schulz import polar_express
from optkit.core.linalg.orthonormal import householder_qr
from optkit.core.matrices_and_others import adamw, kinds_of_leaves, matrices_and_others
from optkit.orthonormalization import flax_dimension_numbers

OUTPUTS_FIRST = MuonDimensionNumbers(-1, -2)
PARAMS = {"layer": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, "head": jnp.ones((3, 4))}
STACKED = {"layers": {"kernel": jnp.ones((2, 3, 4)), "bias": jnp.ones((2, 4))}}
kinds = functools.partial(kinds_of_leaves, "method")


def build(labels=None, weight_dimension_numbers=None, mask=None, others=None, axis_name=None):
    """Moves matrices by minus one and all others by minus ten, for a gradient of one and without decay."""

    def of_rate(rate):
        return lambda mask: optax.chain(
            optax.add_decayed_weights(1.0, None if mask is None else lambda _: mask), optax.scale(-rate)
        )

    return matrices_and_others(
        "method",
        lambda _, mask: of_rate(1.0)(mask),
        others,
        of_rate(10.0),
        labels=labels,
        weight_dimension_numbers=weight_dimension_numbers,
        mask=mask,
        axis_name=axis_name,
    )


def update_along_ones(tx, params):
    return first_update(tx, optax.tree.ones_like(params), params)


def bias_of(updates: Any):
    return updates["layer"]["bias"]


def firsts(tree):
    return jax.tree.map(lambda x: float(x.ravel()[0]), tree)


# Which leaf is a matrix


def test_by_default_leaves_of_two_axes_are_matrices():
    tree = {"kernel": jnp.ones((2, 3)), "convolution": jnp.ones((3, 3, 2, 4)), "gain": jnp.ones(3), "none": None}
    tree |= {"scalar": jnp.ones(()), "empty": jnp.ones((0, 3)), "masked": optax.MaskedNode()}
    words, numbers = kinds(tree)
    assert [name for name, word in words.items() if word == "matrix"] == ["kernel"]
    assert numbers == {
        **dict.fromkeys(tree), "kernel": DENSE_KERNELS, "masked": optax.MaskedNode()
    }  # fmt: skip


def test_numbers_say_which_leaves_are_matrices():
    words, numbers = kinds(PARAMS, None, {"layer": {"kernel": OUTPUTS_FIRST, "bias": None}, "head": None})
    assert words == {"layer": {"kernel": "matrix", "bias": "other"}, "head": "other"}
    assert numbers["layer"]["kernel"] == OUTPUTS_FIRST


def test_numbers_for_all_are_for_leaves_of_two_axes_or_more():
    words, numbers = kinds({**PARAMS, "experts": jnp.ones((5, 2, 3))}, None, OUTPUTS_FIRST)
    assert words == {"layer": {"kernel": "matrix", "bias": "other"}, "head": "matrix", "experts": "matrix"}
    assert numbers["head"] == numbers["experts"] == OUTPUTS_FIRST


@pytest.mark.parametrize("as_function", [False, True])
def test_labels_go_over_numbers(as_function):
    labels = {"layer": {"kernel": "other", "bias": "other"}, "head": "matrix"}
    words, numbers = kinds(PARAMS, (lambda _: labels) if as_function else labels, flax_dimension_numbers)
    assert words == labels
    assert numbers == {"layer": {"kernel": None, "bias": None}, "head": DENSE_KERNELS}


def test_a_labelled_leaf_without_numbers_counts_its_leading_axes():
    words, numbers = kinds(STACKED, {"layers": {"kernel": "matrix", "bias": "other"}})
    assert words["layers"] == {"kernel": "matrix", "bias": "other"}
    assert numbers["layers"] == {"kernel": DENSE_KERNELS, "bias": None}


def test_leaves_without_entries_are_no_matrices():
    words, numbers = kinds({"empty": jnp.ones((0, 3)), "bias": jnp.ones((0, 3))}, "matrix", OUTPUTS_FIRST)
    assert words == {"empty": "other", "bias": "other"}
    assert numbers == {"empty": None, "bias": None}


def test_an_empty_tree_has_no_kinds():
    assert kinds({}, "matrix", flax_dimension_numbers) == ({}, {})
    assert update_along_ones(build(labels={}), {}) == {}


@pytest.mark.parametrize("word", ["muon", "adam", True, None])
def test_another_word_is_refused(word):
    with pytest.raises(ValueError, match=r"method: labels must be 'matrix' or 'other', got .* for the leaf 'head'"):
        kinds(PARAMS, {"layer": "other", "head": word})


def test_a_vector_cannot_be_labelled_a_matrix():
    with pytest.raises(ValueError, match=r"method: the leaf 'layer/bias' of shape \(3,\) is not a matrix"):
        kinds(PARAMS, "matrix")


def test_numbers_of_axes_that_a_leaf_does_not_have_are_refused():
    with pytest.raises(ValueError, match=r"method: the leaf 'head' of shape \(3, 4\) must have different input"):
        kinds(PARAMS, None, {"layer": None, "head": MuonDimensionNumbers(0, 2)})


class Stack(eqx.Module):
    weight: Any
    bias: Any

    def __call__(self):
        raise AssertionError("a tree was called as if it were a function")


@nnx.vmap(in_axes=0, out_axes=0)
def stacked_layers(key):
    return nnx.Linear(3, 4, rngs=nnx.Rngs(key))


TREES_WITH_STACKED_BIASES = {
    "dict": STACKED,
    "scale": {"layers": {"scale": jnp.ones((2, 4))}},
    "attention": {"query": {"kernel": jnp.ones((2, 3, 4)), "bias": jnp.ones((3, 4))}},
    "nnx": nnx.state(stacked_layers(jax.random.split(jax.random.key(0), 2)), nnx.Param),
    "equinox": Stack(weight=jnp.ones((2, 3, 4)), bias=jnp.ones((2, 4))),
}


@pytest.mark.parametrize("numbers", [None, OUTPUTS_FIRST])
@pytest.mark.parametrize("tree", TREES_WITH_STACKED_BIASES.values(), ids=TREES_WITH_STACKED_BIASES)
def test_stacked_biases_make_the_default_an_error_that_shows_the_way_out(tree, numbers):
    with pytest.raises(ValueError, match=r"(bias|scale)' of shape .* is a (bias|scale): .*stacked=") as error:
        kinds(tree, None, numbers)
    if tree is STACKED:
        shown = str(error.value).split("weight_dimension_numbers=")[2].split("; or")[0]
        numbers = eval(shown, {"functools": functools, "optkit": optkit})  # noqa: S307
        assert kinds(tree, None, numbers)[0] == {"layers": {"kernel": "matrix", "bias": "other"}}


@pytest.mark.parametrize(
    "tree",
    [
        {"linear": {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}},
        {"w1": jnp.ones((2, 3))},
        eqx.filter(eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0)), eqx.is_inexact_array),
    ],
    ids=["haiku", "dict", "equinox"],
)
def test_numbers_that_no_leaf_gets_are_refused(tree):
    with pytest.raises(ValueError, match=r"method: by weight_dimension_numbers no leaf is a matrix, although '"):
        kinds(tree, None, flax_dimension_numbers)
    with pytest.raises(ValueError, match=r"method: by labels no leaf is a matrix, although '"):
        kinds(tree, "other")
    assert "matrix" in jax.tree.leaves(kinds(tree)[0])


def test_where_no_leaf_could_be_a_matrix_none_needs_to():
    tree = {"gain": jnp.ones(3)}
    assert kinds(tree, "other")[0] == kinds(tree, None, flax_dimension_numbers)[0] == {"gain": "other"}


# What moves them


def test_each_leaf_has_its_optimizer():
    updates = update_along_ones(build(mask={"layer": True, "head": False}), PARAMS)
    assert firsts(updates) == {"layer": {"kernel": -2.0, "bias": -20.0}, "head": -1.0}


def test_others_are_taken_as_they_are():
    others = optax.chain(optax.add_decayed_weights(4.0), optax.scale(-0.5))
    updates = update_along_ones(build(mask={"layer": False, "head": False}, others=others), PARAMS)
    assert firsts(updates) == {"layer": {"kernel": -1.0, "bias": -2.5}, "head": -1.0}


def test_two_kinds_of_others_are_a_partition():
    others = optax.partition({"slow": optax.sgd(0.5), "fast": optax.sgd(3.0)}, {"layer": "slow", "head": "fast"})
    updates = update_along_ones(
        build({"layer": {"kernel": "matrix", "bias": "other"}, "head": "other"}, others=others), PARAMS
    )
    assert firsts(updates) == {"layer": {"kernel": -2.0, "bias": -0.5}, "head": -3.0}


@pytest.mark.slow
def test_others_run_in_float32():
    params = jax.tree.map(lambda x: x.astype(jnp.float16), PARAMS)
    gradients = optax.tree.full_like(params, 1e-4)
    tx = build(others=optax.adam(0.1))
    state = tx.init(params)
    updates, state = tx.update(gradients, state, params)
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype("float16")}
    assert {x.dtype for x in jax.tree.leaves(optax.tree.get(state, "nu"))} == {jnp.dtype("float32")}
    np.testing.assert_allclose(bias_of(updates), -0.1, rtol=1e-3)


@pytest.mark.slow
def test_gradients_of_others_are_averaged_over_workers():
    tx = build(mask={"layer": False, "head": False}, axis_name="workers", others=optax.sgd(1.0))
    gradients = jax.tree.map(lambda x: jnp.stack([x, 3 * x]), PARAMS)
    update = jax.vmap(lambda g: tx.update(g, tx.init(PARAMS), PARAMS)[0], axis_name="workers")
    assert jax.tree.map(lambda x: x.reshape(2, -1)[:, 0].tolist(), update(gradients)) == {
        "layer": {"kernel": [-1.0, -3.0], "bias": [-2.0, -2.0]},
        "head": [-1.0, -3.0],
    }


def of_many_axes(params):
    return traverse_util.path_aware_map(lambda _, x: x.ndim > 1, params)


def numbers_by_path(params):
    return traverse_util.path_aware_map(lambda _, x: DENSE_KERNELS if x.ndim > 1 else None, params)


def labels_by_path(params):
    return traverse_util.path_aware_map(lambda _, x: "matrix" if x.ndim > 1 else "other", params)


@pytest.mark.parametrize("arguments", [{}, {"weight_dimension_numbers": numbers_by_path}, {"labels": labels_by_path}])
def test_functions_see_the_whole_tree(arguments):
    updates = update_along_ones(build(mask=of_many_axes, **arguments), PARAMS)
    assert firsts(updates) == {"layer": {"kernel": -2.0, "bias": -10.0}, "head": -2.0}


@pytest.mark.parametrize("as_functions", [False, True])
def test_trees_may_be_callable(as_functions):
    params = Stack(weight=jnp.ones((2, 3)), bias=jnp.ones(3))
    trees = {
        "labels": Stack(weight="matrix", bias="other"),
        "weight_dimension_numbers": Stack(weight=OUTPUTS_FIRST, bias=None),
        "mask": Stack(weight=True, bias=False),
    }
    given: dict[str, Any] = {name: (lambda _, x=x: x) if as_functions else x for name, x in trees.items()}
    for arguments in (given, {"mask": given["mask"]}):
        assert firsts(update_along_ones(build(**arguments), params)) == Stack(weight=-2.0, bias=-10.0)


def test_updates_are_enough():
    tx = matrices_and_others(
        "method",
        lambda *_: optax.sgd(1.0),
        None,
        lambda mask: adamw("method", 0.1, 0.9, 0.95, 1e-8, mask=mask),
        labels=None,
        weight_dimension_numbers=None,
        mask=of_many_axes,
    )
    updates, _ = tx.update(PARAMS, tx.init(PARAMS))
    np.testing.assert_allclose(bias_of(updates), -0.1, rtol=1e-5)


@pytest.mark.parametrize("name", ["labels", "weight_dimension_numbers", "mask"])
def test_arrays_are_refused(name):
    with pytest.raises(TypeError, match=rf"{name} cannot be an array.*static_args"):
        build(**{name: jnp.ones(())})


def test_others_must_be_a_transformation():
    with pytest.raises(TypeError, match=r"others must be one optax.GradientTransformation or None, got 'lion'"):
        build(others="lion")


FUNCTIONS = {
    "weight_dimension_numbers": flax_dimension_numbers,
    "orthogonalize": polar_express,
    "orthonormalize": householder_qr,
}


@pytest.mark.parametrize(("argument", "function"), FUNCTIONS.items(), ids=FUNCTIONS)
def test_functions_say_that_a_bare_injection_calls_them(argument, function):
    factory = optkit.scale_by_dion if argument == "orthonormalize" else optkit.scale_by_muon
    tx = optax.inject_hyperparams(factory)(0.9, **{argument: function})
    with pytest.raises(TypeError, match=rf"given as {argument} was called with the number 0.*static_args"):
        tx.init(PARAMS)
