"""Streaming DiLoCo against DiLoCo: the same loss, with a fourth of the bytes in the largest synchronization."""

import concurrent.futures
import multiprocessing
from typing import Any

import jax
import numpy as np
import optax

import optkit
from experiments import tasks
from experiments.claims import Claim, Finding
from experiments.claims.local_training import figures, ratio
from experiments.claims.local_training.diloco_outer_momentum import (
    EVERY,
    STATED,
    TUNED,
    WORKERS,
    diloco,
    schedule,
    trained,
)

FRAGMENTS, DELAY, ALPHA, MARGIN, PEAK = 4, 2, 0.5, 1.05, 0.26


def labels(params: Any) -> Any:
    """Cuts each leaf into as many parts as there are fragments, along its first axis."""
    return jax.tree.map(lambda x: np.arange(len(x)) * FRAGMENTS // len(x), params)


def streaming(rate: Any) -> optax.GradientTransformation:
    """Makes Streaming DiLoCo with the outer step of DiLoCo."""
    options = {"fragments": labels, "delay": DELAY, "alpha": ALPHA}
    return optkit.streaming_diloco(schedule(rate), EVERY, 0.7, 0.9, axis_name="workers", **options)


def peaks() -> list[int]:
    """Returns the bytes that a worker sends in the largest synchronization: streaming, and all at once.

    It needs a device for each worker, so it must run in a process whose JAX has not started.
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", WORKERS)
    params = jax.eval_shape(tasks.load("digits-mlp").init, jax.random.key(0))
    costs = [optkit.cost(build(1e-3), params, axis_name="workers", axis_size=WORKERS) for build in (streaming, diloco)]
    return [sum((spent.sent_when_taken or {}).values()) for spent in costs]


def measure() -> Finding:
    """Trains with both, and counts bytes in a process of its own."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        part, whole = pool.submit(peaks).result()
    ours, theirs = trained(streaming), trained(diloco)
    found, shown = ratio(ours, theirs)
    return Finding(
        f"test loss {figures(ours)} against {figures(theirs)}, {shown}; {part:,} bytes against {whole:,},"
        f" {part / whole:.3f} of them",
        bool(np.exp(found.mean) <= MARGIN and part <= PEAK * whole),
    )


CLAIM = Claim(
    method="streaming_diloco",
    arxiv="2501.18512",
    statement=f"Streaming DiLoCo reaches the loss of DiLoCo, and sends 1/{FRAGMENTS} of the bytes at a time.",
    experiment=f"{STATED} of all parameters, outer learning rate 0.7 with momentum 0.9; all at once against {FRAGMENTS}"
    f" fragments in turn with a delay of {DELAY} steps and alpha {ALPHA}; {TUNED}; bytes in the largest"
    " synchronization, from the compiled step.",
    required=f"at most {MARGIN} times the test loss, and at most {PEAK} times the bytes",
    measure=measure,
)
