"""Trees that are compressed and decompressed, each as one program: step by step, every operation would be compiled."""

import functools
from typing import Any, NamedTuple

import jax


class RoundTrip(NamedTuple):
    """What arrives, the compressor's next state, and the message between."""

    sent: Any
    state: Any
    message: Any


@functools.partial(jax.jit, static_argnums=0)
def round_trip(compressor, tree, state=None):
    """Compresses a tree and decompresses its message, from the first state unless one is given."""
    message, state = compressor.compress(tree, compressor.init(tree) if state is None else state)
    return RoundTrip(compressor.decompress(message, tree), state, message)


def sent(compressor, tree):
    """What arrives of a tree in the first step."""
    return round_trip(compressor, tree).sent
