"""PowerSGD: workers average thin factors of their gradients in place of the gradients.

Vogels, Karimireddy, Jaggi, "PowerSGD: Practical Low-Rank Gradient Compression for Distributed Optimization", 2019,
arXiv:1905.13727, Algorithms 1 and 2; `alternating=True` is the rule of the authors' package (epfml/powersgd). In the
paper's code a worker keeps what the mean leaves out of its own matrix; here, as in the package, it keeps what its own
factor leaves out. The sum of the errors, and so the updates, are the same, but the paper's errors drift apart. The
package starts after 100 steps, and normalizes all matrices of one shape together if the rank is 1; here each matrix is
normalized for itself.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.compressors._low_rank import POWER_SGD
from optkit.core.checks import check_integer, check_range
from optkit.core.injection import refuse_arrays
from optkit.core.keys import key_data, split
from optkit.core.linalg.factors import adjoint_times, draw_basis, next_basis, product, times, views_of_factored
from optkit.core.linalg.matrix_view import MatrixView, from_matrices, to_matrices
from optkit.core.linalg.orthonormal import Orthonormalize, cholesky_qr
from optkit.core.non_finite import all_finite, choose
from optkit.core.precision import widen
from optkit.core.stacking import map_equal_shapes
from optkit.core.trees import concrete
from optkit.core.types import AxisName, Key
from optkit.core.workers import collectives
from optkit.method import Method, Variant

__all__ = ["power_sgd"]

_Mean = Callable[[Any], Any]


class PowerSgdState(NamedTuple):
    """State of `power_sgd`; each tree has None for leaves that are averaged whole.

    Attributes:
        error: What this worker's factors left out of its gradients so far, at least in float32, shaped and sharded like
            the parameters. Each worker has its own.
        left: Where the next power iteration begins, on the side of the first axis: None without `alternating` or
            without `warm_start`. Equal on all workers.
        right: The same on the side of the second axis: None without `warm_start`. Equal on all workers.
        count: Number of steps. Equal on all workers.
        dropped: How many gradients were left out of the means because they were not finite, over all steps and workers.
            Equal on all workers.
        key: Data of the random key, for the next factors; None with `warm_start`. Equal on all workers.
    """

    error: Any
    left: Any
    right: Any
    count: jax.typing.ArrayLike
    dropped: jax.typing.ArrayLike
    key: Any

    # What the other workers count on, see `optkit.resize_workers`.
    owed = ("error",)


class _Part(NamedTuple):
    """The part of the workers' matrices that has been sent.

    Attributes:
        mean: Its mean over the workers.
        rest: What is left of this worker's matrices.
        left: Where the next iteration begins, on the side of the first axis.
        right: The same on the side of the second axis.
    """

    mean: Any
    rest: Any
    left: Any
    right: Any


class _Senders(NamedTuple):
    """The workers whose gradients are finite.

    Attributes:
        finite: Whether this worker is one.
        dropped: Number of the others.
        mean: Averages a tree over the workers that are; NaN if there are none.
    """

    finite: jax.Array
    dropped: jax.Array
    mean: _Mean


def power_sgd(
    rank: int | None = None,
    *,
    axis_name: AxisName | tuple[str, ...] | None,
    iterations: int | None = None,
    alternating: bool = False,
    warm_start: bool = True,
    start_step: jax.typing.ArrayLike = 0,
    min_compression_rate: float | None = None,
    orthonormalize: Orthonormalize | None = None,
    weight_dimension_numbers: Any | None = None,
    key: Key = 0,
) -> optax.GradientTransformation:
    """Averages gradients over workers by their low-rank part, and adds what that leaves out to the next gradient.

    It stands in the place of `jax.lax.pmean`. The update rule for a matrix, where i are workers, and Q begins at
    random::

        M_i = e_i + g_i
        P = an orthonormal basis of the columns of mean_i(M_i Q)
        Q_i = M_i^H P
        Q = mean_i(Q_i)
        u = P Q^H
        e_i = M_i - P Q_i^H

    One power iteration, which continues where the last step ended, approximates the mean. Both factors are sums over
    the workers, so what a step sends does not grow with their number: `rank * (rows + columns)` numbers for each
    matrix, and one for the whole tree. All leaves that are no matrices are averaged whole.

    Use it when the network limits training, between the gradients and the optimizer: decay, momentum and clipping come
    after it in the chain. Avoid it when the gradients have no low-rank structure, because most of each gradient then
    arrives late; or when memory is short, because it keeps one number for each entry of a matrix. Where matrices are
    sharded and the optimizer orthonormalizes anyway, `dion` does both.

    A worker whose gradient is not finite is left out: the mean is over the others, `dropped` counts it, and what the
    worker owed stays in its error. Where all are left out the update is NaN, and errors and factors stay.

    Args:
        rank: Number of columns of the factors, at least 1; at most the shorter side of a matrix counts. Default: None,
            which stands for 4. The paper takes 1 to 4.
        axis_name: Name of the axis over workers, or a tuple of names. Pass each worker's own gradients, not averaged
            ones. None means that there is one worker.
        iterations: Number of power iterations per step, at least 1. Each sends both factors. Default: None, which
            stands for 1.
        alternating: Whether an iteration sends one factor only, and alternates between the two: it projects the
            matrices on the factor that was sent last, and the next iteration, in this step or the next one, continues
            with what is left. That is half the bytes for a coarser approximation. The rank is reduced where `iterations
            * rank` would reach the shorter side of a matrix. Default: False.
        warm_start: Whether iterations continue where the last step ended. Otherwise each step draws new factors, the
            same on all workers. Default: True.
        start_step: Number of steps in which gradients are averaged whole, at least 0. Compression early in training,
            while gradients change fast, can harm it. Default: 0.
        min_compression_rate: A matrix is compressed if it has more than this many times the numbers that a step sends
            in its place, at least 0. All other leaves are averaged whole. Default: None, which stands for 2.
        orthonormalize: A function that returns an orthonormal basis of the columns of stacked matrices. Default:
            `cholesky_qr`.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. All other axes of a leaf count matrices. `flax_dimension_numbers` makes it for Flax
            models, and convolutions need it. Default: all leaves of two axes are matrices, and all others are averaged
            whole.
        key: Seed of the random draws, an integer or a JAX key. Default: 0. It draws the first factors, or with
            `warm_start=False` those of each step. Must be equal on all workers.

    Returns:
        A transformation with a `PowerSgdState`: one number for each entry of a compressed matrix, and its second axis
        times the rank. Its updates are equal on all workers.

    Raises:
        TypeError: If an argument that cannot be traced is an array.
        ValueError: If a hyperparameter is out of its range. From `init`: if dimension numbers are given and no leaf is
            a matrix; or if none are given and a leaf called `bias` or `scale` has two axes or more.

    Example:
        >>> import optkit
        >>> tx = optax.chain(optkit.power_sgd(rank=1, axis_name="workers"), optax.sgd(0.1, momentum=0.9))
        >>> row, column = jnp.ones((1, 8)), jnp.arange(8.0)[:, None]
        >>> def step(scale):
        ...     gradient = {"kernel": scale * row * column, "bias": scale}
        ...     return tx.update(gradient, tx.init(gradient))[0]
        >>> updates = optkit.on_workers(step, axis_name="workers", backend="vmap")(jnp.array([1.0, 3.0]))
        >>> updates["bias"], updates["kernel"][:, 5, 0].round(3)
        (Array([-0.2, -0.2], dtype=float32), Array([-1., -1.], dtype=float32))

    Reference:
        arXiv:1905.13727
    """
    refuse_arrays(
        rank=rank,
        iterations=iterations,
        min_compression_rate=min_compression_rate,
        weight_dimension_numbers=weight_dimension_numbers,
        axis_name=axis_name,
    )
    rank = 4 if rank is None else rank
    iterations = 1 if iterations is None else iterations
    rate = 2.0 if min_compression_rate is None else min_compression_rate
    check_integer("rank", rank)
    check_integer("iterations", iterations)
    check_range("min_compression_rate", rate, 0.0)
    check_range("start_step", start_step, 0.0)
    rank_of = functools.partial(_rank_of, rank=rank, iterations=iterations, alternating=alternating, rate=rate)
    approximate = functools.partial(
        _alternate if alternating else _iterate,
        iterations=iterations,
        orthonormalize=cholesky_qr if orthonormalize is None else orthonormalize,
    )

    def views_of(tree):
        return views_of_factored("power_sgd", tree, weight_dimension_numbers, rank_of)

    def draw(fresh, tree, *, first):
        """Draws the factors of one side."""
        leaves, structure = jax.tree.flatten(tree)
        views = structure.flatten_up_to(views_of(tree))
        fresh = jax.random.fold_in(fresh, int(first))
        draws = [
            None if view is None else draw_basis(jax.random.fold_in(fresh, i), x, view, first, rank_of(view))
            for i, (x, view) in enumerate(zip(leaves, views, strict=True))
        ]
        return structure.unflatten(draws)

    def factors(fresh, tree):
        return draw(fresh, tree, first=False) if alternating else None, draw(fresh, tree, first=True)

    def mean_of(matrices, left, right, mean, count):
        compressed = functools.partial(approximate, mean=mean, count=count - start_step)
        if not isinstance(start_step, jax.Array) and start_step == 0:
            return compressed(matrices, left, right)

        def whole(matrices, left, right):
            return _Part(mean(matrices), optax.tree.zeros_like(matrices), left, right)

        return collectives.cond(count < start_step, whole, compressed, matrices, left, right)

    def init_fn(params):
        params = widen(concrete(params))
        error = jax.tree.map(lambda p, view: None if view is None else jnp.zeros_like(p), params, views_of(params))
        kept, fresh = split(key_data(key), key)
        left, right = factors(fresh, params) if warm_start else (None, None)
        zero = jnp.zeros([], jnp.int32)
        return PowerSgdState(error, left, right, count=zero, dropped=zero, key=None if warm_start else kept)

    def update_fn(updates, state, params=None):
        del params
        views = views_of(updates)
        wanted = jax.tree.map(lambda g, e: g if e is None else e + g, widen(updates), state.error)  # Alg. 2, Delta_w
        senders = _finite_senders(wanted, axis_name)
        matrices = jax.tree.map(to_matrices, wanted, views)
        others = senders.mean(jax.tree.map(lambda x, view: x if view is None else None, wanted, views))
        kept, fresh = (None, None) if state.key is None else split(state.key, key)
        left, right = (state.left, state.right) if fresh is None else factors(fresh, wanted)
        part = mean_of(matrices, left, right, senders.mean, state.count)
        means = jax.tree.map(_join, updates, views, part.mean, others)
        error = jax.tree.map(from_matrices, state.error, views, part.rest)  # Alg. 2, e_w
        new_state = PowerSgdState(
            error=choose(senders.finite, error, state.error),
            left=part.left if warm_start else None,
            right=part.right if warm_start else None,
            count=optax.safe_increment(state.count),
            dropped=state.dropped + senders.dropped,
            key=kept,
        )
        return means, new_state

    return optax.GradientTransformation(init_fn, update_fn)


def _rank_of(view: MatrixView, *, rank: int, iterations: int, alternating: bool, rate: float) -> int:
    """Returns the rank of the factors of a matrix, or 0 if it is averaged whole."""
    rows, columns = view.row_count, view.column_count
    rank = min(rank, rows, columns)
    if alternating and iterations > 1:
        # The last iteration would project what is left of nothing.
        rank = min(rank, (min(rows, columns) - 1) // iterations)
    sent = iterations * rank * (rows + columns) / (2 if alternating else 1)
    return rank if rows * columns > rate * sent else 0


def _finite_senders(tree: Any, axis_name: AxisName | tuple[str, ...] | None) -> _Senders:
    def total(x):
        return x if axis_name is None else jax.lax.psum(x, axis_name)

    finite = all_finite(tree)
    dropped = total(1 - finite.astype(jnp.int32))
    number = total(1) - dropped

    def mean(tree):
        sums = total(jax.tree.map(lambda x: jnp.where(finite, x, 0), tree))
        return jax.tree.map(lambda x: x / number.astype(x.real.dtype), sums)

    return _Senders(finite, dropped, mean)


def _join(x: jax.Array, view: MatrixView | None, matrices: Any, whole: Any) -> jax.Array:
    """Returns the mean of a leaf, in the dtype of the gradient."""
    return whole.astype(x.dtype) if view is None else from_matrices(x, view, matrices)


def _iterate(
    matrices: Any, left: Any, right: Any, *, mean: _Mean, iterations: int, orthonormalize: Orthonormalize, count: Any
) -> _Part:
    """Approximates the mean by iterations that send both factors, as in the paper."""
    del count

    def iterate(right):
        basis = map_equal_shapes(orthonormalize, mean(jax.tree.map(times, matrices, right)))  # Alg. 1, lines 3 to 5
        own = jax.tree.map(adjoint_times, matrices, basis)  # Alg. 1, line 6
        return basis, own, mean(own)  # Alg. 1, line 7

    basis, own, sent = iterate(right)
    for _ in range(iterations - 1):
        basis, own, sent = iterate(jax.tree.map(next_basis, sent, right))
    rest = jax.tree.map(lambda m, p, q: m - product(p, q), matrices, basis, own)
    return _Part(jax.tree.map(product, basis, sent), rest, left, jax.tree.map(next_basis, sent, right))


def _alternate(
    matrices: Any, left: Any, right: Any, *, mean: _Mean, iterations: int, orthonormalize: Orthonormalize, count: Any
) -> _Part:
    """Approximates the mean by iterations that send one factor each, as in the authors' package."""

    def run(first, matrices, left, right):
        part = _Part(optax.tree.zeros_like(matrices), matrices, left, right)
        for number in range(iterations):
            part = _project(part, first == (number % 2 == 0), mean, orthonormalize)
        return part

    if iterations % 2 == 0:
        return run(True, matrices, left, right)
    even = jnp.asarray(count, jnp.int32) % 2 == 0
    return collectives.cond(even, functools.partial(run, True), functools.partial(run, False), matrices, left, right)


def _project(part: _Part, first: bool, mean: _Mean, orthonormalize: Orthonormalize) -> _Part:
    """Projects what is left of the matrices on the factor of one side, and sends the factor of the other side."""
    basis = map_equal_shapes(orthonormalize, part.left if first else part.right)
    own = jax.tree.map(adjoint_times if first else times, part.rest, basis)
    sent = mean(own)

    def outer(basis, factor):
        return product(basis, factor) if first else product(factor, basis)

    return _Part(
        mean=jax.tree.map(lambda m, b, f: m + outer(b, f), part.mean, basis, sent),
        rest=jax.tree.map(lambda m, b, f: m - outer(b, f), part.rest, basis, own),
        left=part.left if first else jax.tree.map(next_basis, sent, part.left),
        right=jax.tree.map(next_basis, sent, part.right) if first else part.right,
    )


METHODS = (
    Method(
        name="power_sgd",
        factory=power_sgd,
        kind="transformation",
        summary="Averages thin factors of the workers' gradients, and adds what they leave out to the next gradients.",
        paper=POWER_SGD,
        also_known_as=("PowerSGD", "rank-r compression with error feedback", "powerSGD_hook"),
        example={"rank": 1, "min_compression_rate": 1.0, "axis_name": "workers"},
        grid=1e-2,
        needs=("axis_name",),
        golden="powersgd",
        variants={"alternating": Variant({"alternating": True}, grid=1e-2)},
    ),
)
