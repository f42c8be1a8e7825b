"""FRUGAL's state at LLaMA shapes, beside the paper's table."""

import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.memory_efficient import LLAMA, llama, matrices_of_layers

DENSITY = 0.25
# GiB in float32, for AdamW, for FRUGAL with a quarter of the columns, and for FRUGAL with signs alone.
TABLE = {
    "60M": (0.43, 0.29, 0.24),
    "130M": (1.00, 0.52, 0.37),
    "350M": (2.74, 1.05, 0.49),
    "1B": (9.98, 3.23, 0.98),
}


def measure() -> Finding:
    """Counts the state at all sizes."""
    found = {size: _gibibytes(size) for size in LLAMA}
    holds = all(tuple(round(x, 2) for x in row) == TABLE[size] for size, row in found.items())
    return Finding("; ".join(f"{size}: {a:.2f}, {b:.2f}, {c:.2f} GiB" for size, (a, b, c) in found.items()), holds)


def _gibibytes(size):
    params = llama(size)

    def frugal(density):
        projector = optkit.subspace_projector("columns", density=density)
        return optkit.frugal_adamw(1e-3, projector=projector, leaves=matrices_of_layers(params), key=0)

    optimizers = (optax.adamw(1e-3), frugal(DENSITY), frugal(0.0))
    return tuple(optkit.cost(tx, params, state_only=True).state_bytes / 2**30 for tx in optimizers)


CLAIM = Claim(
    method="frugal_adamw",
    arxiv="2411.07837",
    statement="With a quarter of the columns FRUGAL needs 0.29, 0.52, 1.05 and 3.23 GiB of state for LLaMAs of 60, 130,"
    " 350 million and 1 billion parameters, and with signs alone 0.24, 0.37, 0.49 and 0.98, where AdamW needs 0.43,"
    " 1.00, 2.74 and 9.98.",
    experiment="The bytes of the state at the paper's shapes in float32, counted by `cost`, indices included: columns"
    " in the matrices of the layers, AdamW for embedding, last layer and norms; AdamW, a quarter, and no columns.",
    required="all twelve equal to the table's two decimals",
    measure=measure,
)
