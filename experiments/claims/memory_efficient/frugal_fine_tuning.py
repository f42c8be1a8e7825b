"""FRUGAL against GaLore and LoRA in fine-tuning, with no more bytes of state."""

import jax
import optax

import optkit
from experiments import tasks
from experiments.claims import Claim, Finding
from experiments.claims.memory_efficient import DIGITS_RATES, compare_on_digits, tuned_on_digits
from experiments.claims.trainings import SEEDS

TASK, TASK_OF_LORA = "fine-tune-digits", "fine-tune-digits-lora"
# The rank of LoRA in the task; the others have the same.
RANK, GAP, STEPS, REST_SCALE = 4, 50, 300, 0.1


def in_hidden_layer(params):
    """Marks the matrix that FRUGAL and GaLore save state on, as LoRA does."""
    return jax.tree.map(lambda leaf: leaf.ndim == 2, params) | {"output": False}


def measure() -> Finding:
    """Tunes with all three, and counts their state."""
    subspace = {
        "projector": optkit.subspace_projector("svd", rank=RANK),
        "update_gap": GAP,
        "leaves": in_hidden_layer,
    }
    runs = {
        "FRUGAL": (TASK, lambda rate: optkit.frugal_adamw(rate, rest_scale=REST_SCALE, **subspace)),
        "GaLore": (TASK, lambda rate: optkit.galore_adamw(rate, **subspace)),
        "LoRA": (TASK_OF_LORA, optax.adam),
    }
    found = {name: tuned_on_digits(optimizer, name=task, steps=STEPS) for name, (task, optimizer) in runs.items()}
    state = {
        name: optkit.cost(optimizer(1e-3), tasks.load(task).init(jax.random.key(0)), state_only=True).state_bytes
        for name, (task, optimizer) in runs.items()
    }
    of_galore, galore = compare_on_digits(found["FRUGAL"], found["GaLore"], ("FRUGAL", "GaLore"))
    of_lora, of_lora_shown = compare_on_digits(found["FRUGAL"], found["LoRA"], ("FRUGAL", "LoRA"))
    return Finding(
        f"{galore}; {of_lora_shown}; " + ", ".join(f"{name} {size:,} bytes" for name, size in state.items()),
        min(of_galore.low, of_lora.low) > 0,
    )


CLAIM = Claim(
    method="frugal_adamw",
    arxiv="2411.07837",
    statement="FRUGAL fine-tunes to a higher accuracy than GaLore and LoRA with the same memory.",
    experiment=f"`fine-tune-digits`, {STEPS} steps with the rate falling linearly to zero, {SEEDS} seeds at the best of"
    f" {len(DIGITS_RATES)} rates by validation accuracy; rank {RANK} in the hidden layer, Adam on the output layer;"
    f" singular vectors, new ones every {GAP} steps, and signs times {REST_SCALE}, as the authors fine-tune: test"
    " accuracy.",
    required="a higher accuracy than both (paired 95% intervals)",
    measure=measure,
)
