import dataclasses

import jax
import jax.numpy as jnp
import optax
import pytest

from optkit.core.extra_args import require_params, require_whole_tree, required, split_functions


def test_a_missing_argument_is_named_with_a_call_that_works():
    with pytest.raises(TypeError, match=r"storm needs .* grad_fn: call update\(grads, state, params, grad_fn=f\)"):
        required(None, "grad_fn", "storm", "grad_fn=f")


def test_a_part_of_a_tree_is_refused():
    with pytest.raises(TypeError, match=r"storm .* optax.masked or optax.partition: .* applies_to or trainable"):
        require_whole_tree({"kernel": optax.MaskedNode()}, "storm")


def test_missing_parameters_are_named_with_the_method():
    with pytest.raises(ValueError, match=r"^dfedsam needs the parameters: call update\(updates, state, params\)$"):
        require_params(None, "dfedsam")


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Model:
    """A tree of parameters that can be called."""

    weight: jax.Array

    def __call__(self, x):
        return self.weight * x


def test_a_callable_tree_is_no_function():
    model = Model(jnp.ones(2))
    functions, arrays = split_functions({"prev_grads": model, "grad_fn": abs, "mine": model, "own_fn": len})
    assert functions == {"grad_fn": abs, "own_fn": len}
    assert arrays == {"prev_grads": model, "mine": model}
