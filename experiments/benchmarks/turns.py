"""Programs that take turns in one process, so that what else the machine does hits all of them alike."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np


def take_turns(
    programs: Sequence[Callable[[], Any]], random: np.random.Generator, *, turns: int, runs: int
) -> np.ndarray:
    """Measures programs in turns, in a random order, after a first turn that does not count.

    Args:
        programs: what to run.
        random: draws the order.
        turns: their number.
        runs: how often each program runs in a turn. What else the machine does only slows a run down: a turn is the
            fastest of them.

    Returns:
        Seconds, with a row for each turn and a column for each program.
    """
    seconds = np.empty((turns + 1, runs, len(programs)))
    for row in seconds.reshape(-1, len(programs)):
        for i in random.permutation(len(programs)):
            begin = time.perf_counter()
            jax.block_until_ready(programs[i]())
            row[i] = time.perf_counter() - begin
    return seconds[1:].min(axis=1)
