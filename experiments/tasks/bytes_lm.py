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

HELD_OUT_WINDOWS = 128


class Block(nnx.Module):
    """Pre-norm attention and feed-forward layer."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.feed_forward_norm = nnx.LayerNorm(width, rngs=rngs)
        self.expand = nnx.Linear(width, 4 * width, rngs=rngs)
        self.contract = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the block's output, shaped like its input `(batch, position, feature)`."""
        x = x + self.attention(self.attention_norm(x), mask=nnx.make_causal_mask(x[..., 0]))
        return x + self.contract(nnx.gelu(self.expand(self.feed_forward_norm(x))))


class Transformer(nnx.Module):
    """A language model over bytes."""

    def __init__(self, context: int, width: int, heads: int, layers: int, rngs: nnx.Rngs):
        self.tokens = nnx.Embed(256, width, rngs=rngs)
        self.positions = nnx.Embed(context, width, rngs=rngs)
        self.blocks = nnx.List(Block(width, heads, rngs) for _ in range(layers))
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.output = nnx.Linear(width, 256, use_bias=False, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns the logits of each next byte."""
        x = self.tokens(tokens) + self.positions(jnp.arange(tokens.shape[-1]))
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


def task(context: int = 64, width: int = 64, heads: int = 4, layers: int = 2, steps: int = 600) -> Task:
    """Returns the task.

    Args:
        context: how many bytes the model sees.
        width: how many features a byte has.
        heads: how many heads an attention layer has.
        layers: how many layers the model has.
        steps: length of a training.
    """
    text = corpus(pathlib.Path(sysconfig.get_path("stdlib")))
    size = context + 1
    windows = {name: np.resize(part, (len(part) // size, size)) for name, part in text.items()}

    def spread(rows):
        """Evenly spaced windows: the held-out text is too long to score at every report."""
        return rows[np.linspace(0, len(rows) - 1, HELD_OUT_WINDOWS).astype(int)]

    init, apply = models.functional(lambda rngs: Transformer(context, width, heads, layers, rngs))

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
        steps=steps,
        batch_size=8,
        facts={
            "data": "Python standard library",
            "bytes": {name: part.size for name, part in text.items()},
            "sha256": hashlib.sha256(b"".join(part.tobytes() for part in text.values())).hexdigest(),
        },
        hidden_matrices=models.hidden_matrices,
    )
