"""A few passes of stochastic proximal point steps over the samples do what their exact medians do."""

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.median_clipping.geometric_median_heavy_tails import EXPERIMENT, MEAN, steady_loss

TAU, LIKE = 10.0, 1.25
START = "zeros"  # so that the passes have everything to do: by default they start from the coordinate median


def falling(number):
    """How far a pass may move the estimate."""
    return TAU / (1 + number)


def measure() -> Finding:
    """Descends along the mean, both exact medians, and both by passes."""
    exact = [steady_loss(rule) for rule in (optkit.geometric_median(), optkit.coordinate_median())]
    passes = [
        steady_loss(optkit.proximal_median(falling, step, start=START))
        for step in (optkit.median_step.l2(), optkit.median_step.l1())
    ]
    mean = steady_loss(MEAN)
    return Finding(
        f"loss by passes {passes[0]:.2g} (l2) and {passes[1]:.2g} (l1), by the exact medians {exact[0]:.2g} and"
        f" {exact[1]:.2g}, by the mean {mean:.2g}",
        passes[0] < LIKE * exact[0] and passes[1] < LIKE * exact[1] and 10 * max(passes) < mean,
    )


CLAIM = Claim(
    method="proximal_median",
    arxiv="2402.12828",
    statement="Stochastic proximal point steps over the samples' gradients estimate their median in the norm that the"
    " step is made for.",
    experiment=f"{EXPERIMENT}; 8 passes from zero with tau {TAU:g} / (1 + pass), for the l2 and the l1 norm, against"
    " the exact geometric and coordinate medians.",
    required=f"for both norms at most {LIKE:g} times the loss along the exact median, and less than a tenth of that"
    " along the mean",
    measure=measure,
)
