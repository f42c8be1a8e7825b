"""FRUGAL against GaLore and LoRA, all with the same bytes of state.

The network is trained from random weights, as the paper pre-trains; LoRA is made for fine-tuning.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.memory_efficient import draw_problem, network, ratio, tuned

DENSITY, GAP, SEEDS = 0.25, 50, 8
# The smallest ranks with which LoRA has at least the state of the other two.
LORA_RANKS = {"hidden": 4, "output": 2}


def lora(rate: Any) -> optax.GradientTransformation:
    """Adam on low-rank factors of what is added to each matrix, and on biases."""
    adam = optax.adam(rate)

    def init(params: Any) -> Any:
        factors: dict[str, Any] = {name: leaf for name, leaf in params.items() if name not in LORA_RANKS}
        for number, (name, rank) in enumerate(LORA_RANKS.items()):
            inputs, outputs = params[name].shape
            down = jax.random.normal(jax.random.key(number), (inputs, rank)) / inputs**0.5
            factors[name] = {"down": down, "up": jnp.zeros((rank, outputs))}
        return factors, adam.init(factors)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        factors, inner = state
        gradients = dict(updates)
        for name in LORA_RANKS:
            down, up = factors[name]["down"], factors[name]["up"]
            gradients[name] = {"down": updates[name] @ up.T, "up": down.T @ updates[name]}
        steps: Any
        steps, inner = adam.update(gradients, inner)
        moved: Any = optax.apply_updates(factors, steps)
        for name in LORA_RANKS:
            steps[name] = moved[name]["down"] @ moved[name]["up"] - factors[name]["down"] @ factors[name]["up"]
        return steps, (moved, inner)

    return optax.GradientTransformation(init, update)


def measure() -> Finding:
    """Trains with all three, and counts their state."""
    projector = optkit.subspace_projector("svd", density=DENSITY)
    optimizers = {
        "FRUGAL": lambda rate: optkit.frugal_adamw(rate, projector=projector, update_gap=GAP),
        "GaLore": lambda rate: optkit.galore_adamw(rate, projector=projector, update_gap=GAP),
        "LoRA": lora,
    }
    found = {name: tuned(optimizer, seeds=SEEDS) for name, optimizer in optimizers.items()}
    params = draw_problem(0).weights
    state = {
        name: optkit.cost(optimizer(1e-3), params, state_only=True).state_bytes
        for name, optimizer in optimizers.items()
    }
    factors: Any = lora(1e-3).init(dict(params))
    # The factors stand for weights, which the other two have in their parameters.
    state["LoRA"] -= sum(leaf.nbytes for leaf in jax.tree.leaves(factors[0]))
    ours = found["FRUGAL"].losses
    (of_galore, galore), (of_lora, lora_) = (ratio(ours, found[name].losses) for name in ("GaLore", "LoRA"))
    return Finding(
        ", ".join(
            f"{name} {runs.losses.mean():.4f} (rate {runs.rate:g}, {state[name]} bytes)" for name, runs in found.items()
        )
        + f": FRUGAL's loss is {galore} GaLore's, {lora_} LoRA's",
        bool(max(of_galore.high, of_lora.high) < 1),
    )


CLAIM = Claim(
    method="frugal_adamw",
    arxiv="2411.07837",
    statement="FRUGAL trains to a lower loss than GaLore and LoRA with the same memory.",
    experiment=f"{network(SEEDS)}; FRUGAL and GaLore in a quarter of the singular vectors, new ones every {GAP} steps,"
    f" LoRA with Adam at ranks {LORA_RANKS['hidden']} and {LORA_RANKS['output']}, whose state is not smaller.",
    required="a lower loss than both (paired 95% intervals)",
    measure=measure,
)
