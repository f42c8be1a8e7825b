"""A small transformer over the bytes of the Python standard library's source on this machine."""

import hashlib
import pathlib
import sysconfig

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments import models
from optkit.comparison.task import Task

CONTEXT = 64
WIDTH = 64
HEADS = 4
LAYERS = 2
HELD_OUT_WINDOWS = 128


class Block(nnx.Module):
    """Pre-norm attention and feed-forward layer."""

    def __init__(self, rngs: nnx.Rngs):
        self.attention_norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.feed_forward_norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.expand = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.contract = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the block's output, shaped like its input `(batch, position, feature)`."""
        x = x + self.attention(self.attention_norm(x), mask=nnx.make_causal_mask(x[..., 0]))
        return x + self.contract(nnx.gelu(self.expand(self.feed_forward_norm(x))))


class Transformer(nnx.Module):
    """A language model over bytes."""

    def __init__(self, rngs: nnx.Rngs):
        self.tokens = nnx.Embed(256, WIDTH, rngs=rngs)
        self.positions = nnx.Embed(CONTEXT, WIDTH, rngs=rngs)
        self.blocks = nnx.List(Block(rngs) for _ in range(LAYERS))
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.output = nnx.Linear(WIDTH, 256, use_bias=False, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns the logits of each next byte."""
        x = self.tokens(tokens) + self.positions(jnp.arange(CONTEXT))
        for block in self.blocks:
            x = block(x)
        return self.output(self.norm(x))


def corpus(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the source files below a folder, split by file.

    Args:
        folder: where to look; installed packages and tests are left out.

    Returns:
        The bytes of the splits: a file's place is drawn by the hash of its name, 8:1:1.
    """
    parts = {"train": [], "validation": [], "test": []}
    for file in sorted(folder.rglob("*.py")):
        name = file.relative_to(folder)
        if {"site-packages", "dist-packages", "test", "tests", "idle_test"} & set(name.parts):
            continue
        draw = hashlib.sha256(name.as_posix().encode()).digest()[0] % 10
        parts["validation" if draw == 0 else "test" if draw == 1 else "train"].append(file.read_bytes())
    return {split: np.frombuffer(b"\n".join(texts), np.uint8) for split, texts in parts.items()}


def task() -> Task:
    """Returns the task."""
    text = corpus(pathlib.Path(sysconfig.get_path("stdlib")))
    size = CONTEXT + 1
    windows = {name: np.resize(part, (len(part) // size, size)) for name, part in text.items()}

    def spread(rows):
        """Evenly spaced windows: the held-out text is too long to score at every report."""
        return rows[np.linspace(0, len(rows) - 1, HELD_OUT_WINDOWS).astype(int)]

    init, apply = models.functional(Transformer)

    def metrics(params, batch):
        tokens = batch.astype(jnp.int32)
        logits, targets = apply(params, tokens[:, :-1]), tokens[:, 1:]
        return {
            "loss": optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(axis=-1),
            "accuracy": jnp.mean((logits.argmax(axis=-1) == targets).astype(jnp.float32), axis=-1),
        }

    return Task(
        train=windows["train"],
        validation=spread(windows["validation"]),
        test=spread(windows["test"]),
        init=init,
        loss=lambda params, batch: metrics(params, batch)["loss"].mean(),
        metrics=metrics,
        steps=600,
        batch_size=8,
        facts={
            "data": "Python standard library",
            "bytes": {name: part.size for name, part in text.items()},
            "sha256": hashlib.sha256(b"".join(part.tobytes() for part in text.values())).hexdigest(),
        },
        hidden_matrices=models.hidden_matrices,
    )
