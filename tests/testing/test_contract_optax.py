"""What the contract finds in some of Optax's own optimizers (0.2.8): all that it finds, and nothing else.

Each finding was looked at by hand in Optax's code, and is a defect or a limit that its users meet.
"""

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
# `jnp.vdot` or a matrix product contracts over a sharded axis and does not say how the result is sharded.
CONTRACTED = {"works_sharded_explicitly"}

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
    # length, on one device wherever the parameters are. Its learning rate must be a number.
    (
        "sm3",
        optax.sm3,
        {"learning_rate": 1.0},
        WIDENED
        | {"keeps_types", "takes_all_shapes", "takes_schedules", "solves_problems", "works_sharded_automatically"}
        | {"stays_finite_in_float16", "stays_finite_in_bfloat16", "stays_finite_in_float32"},
    ),
    # Its scaling by width divides by the number of rows, in Python.
    (
        "contrib.muon",
        contrib.muon,
        {"learning_rate": 1e-2, "static_args": ("ns_steps",)},
        WIDENED | SQUARES | CONTRACTED | {"takes_all_shapes"},
    ),
    ("contrib.dog", contrib.dog, {"learning_rate": 1.0}, WIDENED | SQUARES | ALIASED),
    # Reads the dtype of None; Orbax refuses the (0, 0) placeholders at leaves that it does not project.
    (
        "contrib.galore",
        contrib.galore,
        {"learning_rate": 1e-2, "rank": 2, "static_args": ("rank", "update_proj_gap")},
        WIDENED | SQUARES | CONTRACTED | {"takes_all_shapes", "continues_from_orbax"},
    ),
    (
        "contrib.schedule_free_sgd",
        contrib.schedule_free_sgd,
        {"learning_rate": 1e-2, "eval_params": contrib.schedule_free_eval_params},
        WIDENED,
    ),
    # Its estimate of the distance is 0 / 0 as long as gradients are 0, or so small that their squares are.
    (
        "contrib.prodigy",
        contrib.prodigy,
        {"learning_rate": 1e-1},
        WIDENED | SQUARES | ALIASED | CONTRACTED | {"stays_finite_in_bfloat16", "stays_finite_in_float32"},
    ),
    # Its scale starts at 1e-8, which is 0 in float16.
    ("contrib.cocob", contrib.cocob, {}, WIDENED | SQUARES | ALIASED),
]


@pytest.mark.parametrize(
    ("factory", "example", "expected"), [pytest.param(*entry[1:], id=entry[0]) for entry in OPTIMIZERS]
)
def test_findings_are_exactly_the_known_ones(factory, example, expected):
    violations = find_violations(factory, **example)
    assert {violation.promise for violation in violations} == expected, "\n".join(map(str, violations))
