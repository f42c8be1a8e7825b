"""With exact gradients and workers that differ, EF21 goes on to the minimum where EF14 stalls."""

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.communication import DENSITY, DIMENSION, STATED, WORKERS, squared_gradients

RATE, STEPS, REQUIRED = 0.1, 1500, 1e-6
RULES = {
    "EF21": optkit.feedback.ef21(),
    "EF21-SGDM": optkit.feedback.ef21_sgdm(0.1),
    "EControl": optkit.feedback.econtrol(0.1),
}


def measure() -> Finding:
    """Descends with all."""

    def end(rule):
        return squared_gradients(rule, rate=RATE, steps=STEPS, noise=0.0)[-1]

    stalled, found = end(optkit.feedback.ef14()), {name: end(rule) for name, rule in RULES.items()}
    shown = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
    return Finding(f"EF14 {stalled:.2g}, {shown}", max(found.values()) <= REQUIRED * stalled)


CLAIM = Claim(
    method="feedback.ef21",
    arxiv="2106.05203",
    statement="EF21 converges with exact gradients of workers that differ, as EF14 does not.",
    experiment=(
        f"Quadratics on {WORKERS} workers, {DIMENSION} dimensions, {STATED}; top-k of {DENSITY:.0%}, rate {RATE},"
        f" {STEPS} steps: squared norm of the mean gradient at the end."
    ),
    required=f"EF21, EF21-SGDM and EControl at most {REQUIRED:g} times EF14",
    measure=measure,
)
