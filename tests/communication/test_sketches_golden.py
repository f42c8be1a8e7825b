import jax
import jax.numpy as jnp
import numpy as np
from golden_files import assert_replays, replays
from jax.flatten_util import ravel_pytree

from optkit.compressors._sketches import count, gaussian, srht


def sketch_of(recording):
    """The sketch, and what it draws, time first; a draw of the Gaussian one is a function, made of a matrix."""
    arrays, size = recording.arrays, recording.hyperparams["sketch_size"]
    make, *names = recording.hyperparams.word(
        "kind",
        {
            "gaussian": (gaussian, "normal"),
            "srht": (srht, "sign", "rows"),
            "count": (count, "bucket", "sign"),
        },
    )
    return make(size), tuple(jnp.asarray(arrays[f"draws.{name}"]) for name in names)


@replays("sketch")
def test_golden_sketch(recording):
    sketch, draws = sketch_of(recording)
    rate, start = recording.hyperparams["learning_rate"], recording.tree("params0")
    assert all(len(x) == recording.hyperparams["n_workers"] for x in start.values())

    def worker(gradient, drawn):
        flat, unravel = ravel_pytree(gradient)  # by the names of the leaves
        drawn = drawn if len(drawn) > 1 else drawn[0].__getitem__
        return unravel(sketch.back(jax.lax.pmean(sketch.project(flat, drawn), "workers"), drawn, flat.size))

    steps = jax.jit(jax.vmap(jax.vmap(worker, (0, None), axis_name="workers")))
    moved = jax.tree.map(lambda x: rate * np.cumsum(x, axis=0), steps(recording.tree("grads"), draws))
    assert_replays(recording, {leaf: start[leaf] - moved[leaf] for leaf in start})
