"""FRUGAL's signs outside the subspace help what works in the subspace alone."""

from typing import Literal

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.memory_efficient import NETWORK, best_loss

DENSITY, GAP = 0.25, 50


def losses(kind: Literal["svd", "columns"]) -> tuple[float, float]:
    """The final losses with and without signs outside a kind of subspace."""
    projector = optkit.subspace_projector(kind, density=DENSITY)

    def train(rest_scale):
        return best_loss(
            lambda rate: optkit.frugal_adamw(rate, projector=projector, update_gap=GAP, rest_scale=rest_scale, key=0)
        )[0]

    return train(1.0), train(0.0)


def measure() -> Finding:
    """Trains in singular vectors and in columns."""
    figures = {"svd": losses("svd"), "columns": losses("columns")}
    return Finding(
        "; ".join(f"{kind}: {with_rest:.4f} against {without:.4f}" for kind, (with_rest, without) in figures.items()),
        all(with_rest <= 0.6 * without for with_rest, without in figures.values()),
    )


CLAIM = Claim(
    method="frugal_adamw",
    arxiv="2411.07837",
    statement="Signs of the gradient outside the subspace make up for most of what is lost there.",
    experiment=f"{NETWORK}; AdamW in a quarter of the singular vectors or columns, new ones every {GAP} steps, with"
    " signs outside and with nothing there.",
    required="with signs at most 0.6 times the loss without, for both",
    measure=measure,
)
