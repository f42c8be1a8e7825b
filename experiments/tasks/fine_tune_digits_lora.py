"""`fine-tune-digits`, of which only a change of low rank to the hidden layer is trained, and the output layer.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, arXiv:2106.09685: the change is a product of two
matrices, of which the second one starts at zero. The reference figure is the same as that of `fine-tune-digits`.
"""

import dataclasses

import jax
import numpy as np

from experiments.tasks import fine_tune_digits
from optkit.comparison.task import Task

RANK = 4


def task() -> Task:
    """Returns the task."""
    full = fine_tune_digits.task()
    hidden = full.init(jax.random.key(0))["hidden"]
    inputs, outputs = hidden["kernel"].shape

    def init(key):
        head, down = jax.random.split(key)
        return {
            "down": {"kernel": jax.random.normal(down, (inputs, RANK)) / np.sqrt(inputs)},
            "up": {"kernel": np.zeros((RANK, outputs), np.float32)},
            "output": full.init(head)["output"],
        }

    def whole(params):
        change = params["down"]["kernel"] @ params["up"]["kernel"]
        return {"hidden": {**hidden, "kernel": hidden["kernel"] + change}, "output": params["output"]}

    return dataclasses.replace(
        full,
        init=init,
        loss=lambda params, batch: full.loss(whole(params), batch),
        metrics=lambda params, split: full.metrics(whole(params), split),
        facts={**full.facts, "rank": RANK},
    )
