"""Dion and Muon beside AdamW on a small language model, under equal tuning."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

from experiments import compare
from experiments.claims import Claim, Finding, judge
from experiments.claims.orthonormalization import beside_adamw
from optkit.catalog import METHODS
from optkit.orthonormalization import scale_by_dion, scale_by_muon

OPTIONS = compare.Options(task="bytes-lm", optimizers=("dion", "muon"), steps=300, rates=4, rounds=2, seeds=2)


def _dion(
    learning_rate: float | jax.Array, weight_dimension_numbers: Callable[[Any], Any], key: jax.Array
) -> optax.GradientTransformation:
    scale = scale_by_dion(weight_dimension_numbers=weight_dimension_numbers, key=key)
    return beside_adamw("dion", scale, learning_rate, weight_dimension_numbers)


def _muon(
    learning_rate: float | jax.Array, weight_dimension_numbers: Callable[[Any], Any]
) -> optax.GradientTransformation:
    scale = scale_by_muon(weight_dimension_numbers=weight_dimension_numbers)
    return beside_adamw("muon", scale, learning_rate, weight_dimension_numbers)


def measure(options: compare.Options = OPTIONS) -> Finding:
    """Runs the comparison, or continues it.

    Args:
        options: what to compare; without `out`, in a folder named after the source.

    Returns:
        What came out.
    """
    factories = {"dion": _dion, "muon": _muon}
    entries = [dataclasses.replace(METHODS[name], factory=factories[name]) for name in options.optimizers]
    rows = judge.compared("dion-muon-adamw", options, entries)
    shown = {"Dion": rows["dion"], "Muon": rows["muon"], "AdamW": rows["adamw"]}
    return Finding(
        measured="; ".join(f"{name} {judge.figures(row)}" for name, row in shown.items()),
        holds=None,
        draw=lambda axes: judge.draw_curves(axes, shown),
    )


CLAIM = Claim(
    method="dion",
    arxiv="2504.05295",
    statement="Dion and Muon train language models to a lower loss than AdamW in as many steps.",
    experiment=(
        f"Test loss of a small transformer on the bytes of Python's standard library (`bytes-lm`), {OPTIONS.steps}"
        f" steps, {judge.tuning(OPTIONS)}; Dion at a rank of 1/4 and Muon on hidden matrices, AdamW on all other"
        " parameters; no weight decay."
    ),
    required="reported as found",
    measure=measure,
)
