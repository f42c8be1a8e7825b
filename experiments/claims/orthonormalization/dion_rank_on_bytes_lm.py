"""Dion at several ranks, with its error feedback and without, on a small language model."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from experiments import compare
from experiments.claims import Claim, Finding, judge
from experiments.claims.orthonormalization import beside_adamw
from optkit.catalog import METHODS
from optkit.comparison.figure import COLOURS
from optkit.orthonormalization import scale_by_dion


def _without_feedback(rank_fraction: float, momentum: float, **options: Any) -> optax.GradientTransformation:
    """Dion whose momentum decays as if its update had not left anything out."""
    dion = scale_by_dion(rank_fraction, momentum, **options)

    def update(updates, state, params=None):
        directions, new_state = dion.update(updates, state, params)
        decayed = jax.tree.map(lambda m, g: momentum * (m + g), optax.tree.get(state, "momentum"), updates)
        return directions, optax.tree.set(new_state, momentum=decayed)

    return optax.GradientTransformation(dion.init, update)


MOMENTUM = 0.95
FRACTIONS = {"1": 1.0, "1/2": 0.5, "1/4": 0.25, "1/8": 0.125}
LOW_RANKS = ("1/4", "1/8")
REQUIRED_AT_FULL_RANK = 0.01
SCALES = {"with": scale_by_dion, "without": _without_feedback}
OPTIONS = compare.Options(
    task="bytes-lm",
    optimizers=tuple(f"dion:{rank} {feedback}" for rank in FRACTIONS for feedback in SCALES),
    steps=100,
    rates=3,
    rounds=2,
    seeds=2,
)


def _dion(
    learning_rate: float | jax.Array,
    weight_dimension_numbers: Callable[[Any], Any],
    key: jax.Array,
    *,
    scale: Callable[..., optax.GradientTransformation],
    rank_fraction: float,
) -> optax.GradientTransformation:
    scaled = scale(rank_fraction, MOMENTUM, weight_dimension_numbers=weight_dimension_numbers, key=key)
    return beside_adamw("dion", scaled, learning_rate, weight_dimension_numbers)


def measure(options: compare.Options = OPTIONS) -> Finding:
    """Runs the comparison, or continues it.

    Args:
        options: what to compare; without `out`, in a folder named after the source.

    Returns:
        What came out.
    """
    entries = [
        dataclasses.replace(
            METHODS["dion"],
            name=f"dion:{rank} {feedback}",
            factory=functools.partial(_dion, scale=scale, rank_fraction=fraction),
        )
        for rank, fraction in FRACTIONS.items()
        for feedback, scale in SCALES.items()
    ]
    rows = judge.compared("dion-rank", options, entries)
    losses = {rank: tuple(rows[f"dion:{rank} {feedback}"].test["loss"][0] for feedback in SCALES) for rank in FRACTIONS}
    holds = all(losses[rank][0] <= losses[rank][1] for rank in LOW_RANKS)
    holds &= abs(losses["1"][0] / losses["1"][1] - 1) <= REQUIRED_AT_FULL_RANK
    shown = ", ".join(f"rank {rank}: {a:.4f} against {b:.4f}" for rank, (a, b) in losses.items())
    return Finding(
        measured=f"{shown}; AdamW {rows['adamw'].test['loss'][0]:.4f}",
        holds=bool(holds),
        draw=functools.partial(_draw, rows=rows),
    )


def _draw(axes, rows):
    for rank, colour in zip(FRACTIONS, COLOURS[1:], strict=False):
        for feedback, style in zip(SCALES, ("-", ":"), strict=True):
            row = rows[f"dion:{rank} {feedback}"]
            label = f"rank {rank}, {feedback} error feedback"
            axes.plot(row.steps, row.curves.mean(axis=0), color=colour, linestyle=style, label=label)
    adamw = rows["adamw"]
    axes.plot(adamw.steps, adamw.curves.mean(axis=0), color=COLOURS[0], linewidth=0.8, label="AdamW")
    axes.set(xlabel="step", ylabel="validation loss")
    axes.legend()


CLAIM = Claim(
    method="dion",
    arxiv="2504.05295",
    statement="Dion loses little by a lower rank, as error feedback makes up for what its updates leave out.",
    experiment=(
        f"Test loss of a small transformer on the bytes of Python's standard library (`bytes-lm`), {OPTIONS.steps}"
        f" steps, {judge.tuning(OPTIONS)}; Dion on hidden matrices, with error feedback and without it, AdamW on all"
        " other parameters; no weight decay."
    ),
    required=(
        f"a loss of at most that without error feedback at ranks {' and '.join(LOW_RANKS)}, equal to"
        f" {REQUIRED_AT_FULL_RANK:.0%} at full rank"
    ),
    measure=measure,
)
