"""With noisy gradients, EF21 remembers the noise; EF21-SGDM and EControl do not."""

import numpy as np

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.communication import DENSITY, DIMENSION, STATED, WORKERS, squared_gradients

RATE, STEPS, LAST, SEEDS, REQUIRED = 0.02, 2500, 200, 4, 3
RULES = {
    "without compression": None,
    "EF14": optkit.feedback.ef14(),
    "EF21": optkit.feedback.ef21(),
    "EF21-SGDM": optkit.feedback.ef21_sgdm(0.1),
    "EControl": optkit.feedback.econtrol(0.1),
}


def measure() -> Finding:
    """Descends with all."""

    def end(rule):
        runs = [squared_gradients(rule, rate=RATE, steps=STEPS, noise=1.0, seed=seed)[-LAST:] for seed in range(SEEDS)]
        return float(np.mean(runs))

    found = {name: end(rule) for name, rule in RULES.items()}
    shown = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    return Finding(shown, found["EF21"] >= REQUIRED * max(found["EControl"], found["EF21-SGDM"]))


CLAIM = Claim(
    method="feedback.econtrol",
    arxiv="2311.05645",
    statement="EF21 does not converge as far as EControl and EF21-SGDM when gradients are noisy.",
    experiment=(
        f"Quadratics on {WORKERS} workers, {DIMENSION} dimensions, {STATED}; noise of N(0, 1) in each entry; top-k of"
        f" {DENSITY:.0%}, rate {RATE}, {STEPS} steps, {SEEDS} seeds: squared norm of the mean gradient, over the last"
        f" {LAST}."
    ),
    required=f"EF21 at least {REQUIRED} times both",
    measure=measure,
)
