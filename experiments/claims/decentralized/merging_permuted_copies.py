"""Matching finds the order of a network's shuffled units, so that shuffled copies merge to the same function."""

import jax
import jax.numpy as jnp
import numpy as np

import optkit
from experiments import tasks
from experiments.claims import Claim, Finding
from experiments.claims.decentralized.matched_merging import UNITS, hidden_units
from experiments.claims.trainings import DIGITS, SEEDS

TOLERANCE, FAR = 1e-5, 0.1


def measure() -> Finding:
    """Shuffles the units of random perceptrons, and averages each with its shuffled copy."""
    task = tasks.load(DIGITS)
    images = jnp.asarray(task.validation["image"])

    def logits(params):
        return hidden_units(params, images)["hidden"] @ params["output"]["kernel"] + params["output"]["bias"]

    def off(key):
        init_key, order_key = jax.random.split(key)
        params = task.init(init_key)
        order = jax.random.permutation(order_key, len(params["hidden"]["bias"]))
        shuffled = optkit.permute_units(params, UNITS, {"hidden": order})
        aligned = optkit.align_units(params, shuffled, UNITS, lambda params: hidden_units(params, images))
        means = (jax.tree.map(lambda x, y: (x + y) / 2, params, other) for other in (aligned, shuffled))
        own = logits(params)
        return jnp.stack([jnp.linalg.norm(logits(mean) - own) / jnp.linalg.norm(own) for mean in means])

    matched, plain = np.asarray(jax.jit(jax.vmap(off))(jax.random.split(jax.random.key(0), SEEDS))).T
    return Finding(
        f"the mean's logits are at most {matched.max():.0e} off, without matching {plain.min():.2f} to"
        f" {plain.max():.2f}",
        bool(matched.max() <= TOLERANCE and plain.min() >= FAR),
    )


CLAIM = Claim(
    method="match_units",
    arxiv="2209.04836",
    statement="Networks that differ only in the order of their units are one network: matched by activations, their"
    " mean computes the same function.",
    experiment=f"Digits perceptrons with 64 hidden units as they are initialized, each averaged with a copy in a random"
    f" order, {SEEDS} seeds: the distance of the logits on the validation set from those before, over their norm.",
    required=f"at most {TOLERANCE:g} with matching, at least {FAR:g} without",
    measure=measure,
)
