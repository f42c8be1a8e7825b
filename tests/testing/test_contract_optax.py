"""What the contract finds in some of Optax's own optimizers (0.2.8): all that it finds, and nothing else.

Each finding was looked at by hand in Optax's code, and is a defect or a limit that its users meet.
"""

import jax
import optax
import pytest
from optax import contrib

from optkit.testing import find_violations

# An injected float32 learning rate times a 16-bit update is float32, and so are states that the update is fed into.
WIDENED = {"works_injected_in_16_bits"}
# Squared gradients are kept in float16: 1e3 squared overflows, 1e-4 squared and eps = 1e-8 round to 0: 0 / 0 is NaN.
SQUARES = {"stays_finite_in_float16"}
# The state holds the parameters themselves or one array twice, so that donating both donates a buffer twice.
ALIASED = {"allows_donation"}
# A gradient with one infinite entry makes a moment infinite for ever: its sign goes on as the update, or it divides
# what comes to 0. Nothing shows it but the loss.
SILENT = {"is_honest_about_bad_gradients"}
# `init` copies or measures the parameters, which abstract values do not allow.
MEASURED = {"initialises_from_types"}
# It takes parameters that are not there for a tree of another structure, and does not say who needs them.
UNNAMED = {"works_without_params"}
# `jnp.vdot` or a matrix product contracts over a sharded axis and does not say how the result is sharded.
CONTRACTED = {"works_sharded_explicitly"}


def labelled_sgd(learning_rate):
    """SGD on all leaves, by a tree of labels."""

    def labelled(tree):
        return optax.partition({"all": optax.sgd(learning_rate)}, jax.tree.map(lambda _: "all", tree))

    def update(updates, state, params=None):
        return labelled(updates).update(updates, state, params)

    return optax.GradientTransformation(lambda params: labelled(params).init(params), update)


OPTIMIZERS = [
    ("sgd", optax.sgd, {"learning_rate": 1e-3, "momentum": 0.9}, WIDENED),
    ("adamw", optax.adamw, {"learning_rate": 1e-2}, WIDENED | SQUARES),
    ("lars", optax.lars, {"learning_rate": 1.0}, WIDENED),
    ("polyak_sgd", optax.polyak_sgd, {"tuned": "max_learning_rate", "needs": ("value",)}, WIDENED),
    # Flax serialization refuses the typed key in the state of `add_noise`.
    (
        "noisy_sgd",
        optax.noisy_sgd,
        {"learning_rate": 1e-3, "eta": 1e-4, "key": 0, "static_args": ("key",)},
        WIDENED | {"continues_from_flax"},
    ),
    # It keeps the maximum along each axis: a scalar has no axis, an empty leaf no maximum. They start as zeros of a
    # length, on one device wherever the parameters are, in a list at each parameter's place, of which nnx.Optimizer
    # makes a State. Its learning rate must be a number. It refuses complex parameters, and not as a TypeError.
    (
        "sm3",
        optax.sm3,
        {"learning_rate": 1.0},
        WIDENED
        | {"keeps_types", "takes_all_shapes", "takes_schedules", "solves_problems", "works_sharded_automatically"}
        | {"stays_finite_in_float16", "stays_finite_in_bfloat16", "stays_finite_in_float32"}
        | {"promotes_no_ranks", "works_in_nnx_optimizer", "takes_complex_numbers"},
    ),
    # Its scaling by width divides by the number of rows, in Python. Stacked biases have two axes: it takes them for a
    # matrix and makes their rows orthogonal.
    (
        "contrib.muon",
        contrib.muon,
        {"learning_rate": 1e-2, "static_args": ("ns_steps",)},
        WIDENED | SQUARES | CONTRACTED | {"takes_all_shapes", "takes_stacked_layers"},
    ),
    ("contrib.dog", contrib.dog, {"learning_rate": 1.0}, WIDENED | SQUARES | ALIASED | MEASURED | UNNAMED),
    # Reads the dtype of None; Orbax refuses the (0, 0) placeholders at leaves that it does not project. Axes that count
    # layers are refused. Complex projectors are transposed without being conjugated. A rank that injection made an
    # array is refused, by an error that does not say what to do; `init` transposes leaves that are abstract.
    (
        "contrib.galore",
        contrib.galore,
        {"learning_rate": 1e-2, "rank": 2, "static_args": ("rank", "update_proj_gap")},
        WIDENED
        | SQUARES
        | CONTRACTED
        | MEASURED
        | {"takes_all_shapes", "continues_from_orbax", "works_in_nnx_optimizer", "trains_callable_model"}
        | {"takes_stacked_layers", "takes_complex_numbers", "works_injected_bare"},
    ),
    (
        "contrib.schedule_free_sgd",
        contrib.schedule_free_sgd,
        {"learning_rate": 1e-2, "eval_params": contrib.schedule_free_eval_params},
        WIDENED | MEASURED | UNNAMED,
    ),
    # Its estimate of the distance is 0 / 0 as long as gradients are 0, or so small that their squares are.
    (
        "contrib.prodigy",
        contrib.prodigy,
        {"learning_rate": 1e-1},
        WIDENED | SQUARES | ALIASED | CONTRACTED | MEASURED | {"stays_finite_in_bfloat16", "stays_finite_in_float32"},
    ),
    # Its scale starts at 1e-8, which is 0 in float16. It takes the larger of complex numbers, which have no order.
    ("contrib.cocob", contrib.cocob, {}, WIDENED | SQUARES | ALIASED | {"takes_complex_numbers"}),
    ("lion", optax.lion, {"learning_rate": 1e-2}, WIDENED | SILENT),
    ("signum", optax.signum, {"learning_rate": 1e-2}, WIDENED | SILENT),
    # It clips complex numbers, which have no order. Its default `clip_value_fn` is a function, which injection calls.
    (
        "contrib.adopt",
        contrib.adopt,
        {"learning_rate": 1e-2, "static_args": ("clip_value_fn", "use_clipping")},
        WIDENED | SQUARES | SILENT | {"takes_complex_numbers", "works_injected_bare"},
    ),
    # Injection makes an array of `min_dim_size_to_factor`, on which it branches.
    (
        "adafactor",
        optax.adafactor,
        {"learning_rate": 1e-2, "static_args": ("min_dim_size_to_factor",)},
        WIDENED | SQUARES | {"works_injected_bare"},
    ),
    # `optax.partition` calls a tree of labels that can be called, as a model of Equinox can.
    ("partition", labelled_sgd, {"learning_rate": 1e-3}, WIDENED | {"trains_callable_model"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "example", "expected"), [pytest.param(*entry[1:], id=entry[0]) for entry in OPTIMIZERS]
)
def test_findings_are_exactly_the_known_ones(factory, example, expected):
    violations = find_violations(factory, **example)
    assert {violation.promise for violation in violations} == expected, "\n".join(map(str, violations))
