"""How much state SGD-SaI spares on Llama-2-7B, from its shapes."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import optkit
from experiments.claims import Claim, Finding

TOKENS, WIDTH, HIDDEN, LAYERS = 32_000, 4096, 11_008, 32
SAVED, OFF = 25.15, 0.01


def shapes() -> dict[str, Any]:
    """Lists all parameters of Llama-2-7B, in float32."""
    layer = {
        **dict.fromkeys(("query", "key", "value", "output"), (WIDTH, WIDTH)),
        **dict.fromkeys(("gate", "up"), (WIDTH, HIDDEN)),
        "down": (HIDDEN, WIDTH),
        **dict.fromkeys(("norm_of_attention", "norm_of_mlp"), (WIDTH,)),
    }
    tree = {
        "embedding": (TOKENS, WIDTH),
        "layers": [layer] * LAYERS,
        "norm": (WIDTH,),
        "head": (WIDTH, TOKENS),
    }
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), tree, is_leaf=lambda x: isinstance(x, tuple)
    )


def measure() -> Finding:
    """Counts the bytes of both states."""
    params = shapes()
    adamw, ours = (
        optkit.cost(tx, params, state_only=True).state_bytes / 2**30 for tx in (optax.adamw(1e-3), optkit.sgd_sai(1e-3))
    )
    saved = adamw - ours
    return Finding(f"{ours:.2f} GiB in place of {adamw:.2f} GiB: {saved:.2f} GiB less", abs(saved / SAVED - 1) <= OFF)


CLAIM = Claim(
    method="sgd_sai",
    arxiv="2412.11768",
    statement=f"With Llama-2-7B in full precision, SGD-SaI saves {SAVED} GB of AdamW's state.",
    experiment=f"`optkit.cost` on the shapes of Llama-2-7B ({LAYERS} layers of width {WIDTH}), float32, nothing is"
    " allocated; against AdamW.",
    required=f"within {OFF:.0%} of {SAVED} GiB (in units of 10^9 bytes the figure would be larger than a copy of the"
    " parameters allows)",
    measure=measure,
)
