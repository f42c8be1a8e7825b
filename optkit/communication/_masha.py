"""MASHA1 and MASHA2: variational inequalities whose operator is the mean of the workers' own, by compressed messages.

Beznosikov, Richtarik, Diskin, Ryabinin, Gasnikov, "Distributed Methods with Compressed Communication for Solving
Variational Inequalities, with Theoretical Guarantees", 2021, arXiv:2110.03313. Algorithms 1 and 2.
By default the anchor moves to the newest point, as in the extragradient method with variance reduction of Alacaoglu and
Malitsky, 2021. It does so at the start of the next step, where the operator at this point is known already.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.communication._senders import count_missing, mean_weights, nan_without_senders
from optkit.compressors import Compressor, nbytes, rand_k, top_k
from optkit.core import keys
from optkit.core.checks import check_option, check_range
from optkit.core.complex_numbers import refuse_complex
from optkit.core.extra_args import require_params, require_whole_tree, required
from optkit.core.injection import refuse_arrays
from optkit.core.non_finite import all_finite, choose
from optkit.core.precision import in_float32, widen
from optkit.core.schedules import value_at
from optkit.core.trees import copy, mask_tree, unmask_tree
from optkit.core.types import AxisName, Key, Mask
from optkit.core.workers import collectives
from optkit.core.workers.gathering import gather_together
from optkit.method import Method, Paper

__all__ = ["masha1", "masha2"]

MovesTo = Literal["next", "previous"]


class Anchor(NamedTuple):
    """A point at which the operator is known without compression.

    Attributes:
        point: The point, equal on all workers if the parameters are.
        own: This worker's own operator there, which each worker has for itself.
        mean: The mean of the workers' operators there, equal on all workers.
        known: Whether this worker's operator was finite there; otherwise it sends nothing until the anchor moves.
    """

    point: Any
    own: Any
    mean: Any
    known: jax.Array


class MashaState(NamedTuple):
    """State of `masha1` and `masha2`; trees have the shapes of the parameters, and are in float32 at least.

    Attributes:
        count: Number of updates so far. It is equal on all workers.
        anchor: Where the operator is known without compression.
        refresh: Whether the anchor moves when the next step begins. It is equal on all workers.
        key: Raw data of the key for the next random draw. It is equal on all workers.
        compressor: State of the compressor.
        server_compressor: State of the server's compressor, or None without one. It is equal on all workers.
        error: What the compressor has left out so far, which each worker has for itself; None in `masha1`.
        server_error: What the server's compressor has left out so far, equal on all workers; None in `masha1`, and
            without such a compressor.
        dropped: How many messages were left out so far because they were not finite, counted over all workers. It is
            equal on all workers.
    """

    count: jax.typing.ArrayLike
    anchor: Anchor
    refresh: jax.Array
    key: jax.Array
    compressor: Any
    server_compressor: Any
    error: Any
    server_error: Any
    dropped: jax.Array


def masha1(
    learning_rate: optax.ScalarOrSchedule,
    compressor: Compressor,
    tau: jax.typing.ArrayLike | None = None,
    key: Key = 0,
    *,
    axis_name: AxisName | None,
    server_compressor: Compressor | None = None,
    anchor: MovesTo = "next",
    trainable: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """MASHA1: solves a variational inequality whose operator is the mean of the workers' own, by unbiased messages.

    The update rule, where F_i is the operator of worker i, which `grad_fn` returns, F their mean, Q the compressor, and
    w the anchor, which starts at the first parameters::

        z = tau * x + (1 - tau) * w - lr * F(w)
        x = z - lr * mean over i of Q(F_i(z) - F_i(w))
        w = x and F(w) = mean over i of F_i(w)             # with probability 1 - tau

    It looks for a point where F is zero. For a minimum of a mean of losses, F_i is the gradient of the worker's loss.
    For min over x of max over y of f(x, y), it is the gradient for x and the negative gradient for y::

        def grad_fn(point):
            gradient = jax.grad(f)(point, batch)
            return {"x": gradient["x"], "y": optax.tree.scale(-1.0, gradient["y"])}

    `update` gets `grad_fn(params)` in place of gradients, of this worker alone, without a mean over workers. Without
    compression and with tau = 0 the method is the extragradient method.

    Use it for games and saddle points over a slow network. Avoid it for plain minimization, where it costs a second
    gradient in each step, and with stochastic operators whose noise is large, because the two operators of a difference
    are of different batches. `masha2` takes compressors that are not unbiased, such as `top_k`.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. The more the compressor leaves out, the
            smaller it must be: about `sqrt(1 - tau) / (2 * c * L)` for operators with Lipschitz constant L and a
            compressor with `c^2 = omega + 1`.
        compressor: Compresses the messages. It must be unbiased, such as `rand_k(0.1, key=0, axis_name="workers")`.
        tau: Probability that the anchor stays, in [0, 1). Default: None, which stands for `1 - b`, where b is the size
            of a message as a part of that of the parameters. Anchors and messages then cost as many bytes.
        key: Seed of the random draws, an integer or a JAX key. Default: 0. Must be equal on all workers.
        axis_name: Name of the axis over workers. None means that there is only one worker.
        server_compressor: Compresses the mean of the messages, as a server does for its answer to all workers. It must
            be unbiased, and draw the same on all workers. Default: None. The mean is computed by each worker itself, so
            that it saves no bytes here: it is for simulations of a server.
        anchor: Where the anchor moves: to the "next" point, which this step leads to, or to the "previous" one, where
            it began. Default: "next".
        trainable: Which leaves are trained: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The other leaves get updates of zero.

    Returns:
        An optimizer. Its `update` needs the extra argument `grad_fn`, a function that maps parameters to the operator
        of this worker. Its state is three numbers per parameter. A worker sends the compressed tree and one word more,
        in a single `all-gather`; in a step in which the anchor moves, operators are summed in float32 at least. A
        worker whose operator is not finite sends nothing, and is counted in the state; without any other worker the
        updates are NaN.

    Raises:
        ValueError: If `tau` is out of its range, or a compressor is not known to be unbiased.
        TypeError: From `init`, if parameters are complex. From `update`, if `grad_fn` is missing, and inside
            `optax.masked` or `optax.partition`.

    Example:
        Two workers on the game of x and y that is x * y on average, with its solution at zero:

        >>> import jax, jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.masha1(0.5, optkit.compressors.identity(), axis_name="workers")
        >>> def step(params, shift):
        ...     grad_fn = lambda point: jnp.array([point[1] + shift, -point[0] - shift])
        ...     updates, _ = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)
        ...     return optax.apply_updates(params, updates)
        >>> step = optkit.on_workers(step, axis_name="workers", backend="vmap")
        >>> step(jnp.array([[4.0, 0.0], [4.0, 0.0]]), jnp.array([1.0, -1.0])).tolist()
        [[3.0, 2.0], [3.0, 2.0]]

    Reference:
        arXiv:2110.03313
    """
    for name, given in (("compressor", compressor), ("server_compressor", server_compressor)):
        if isinstance(given, Compressor) and given.omega is None:
            raise ValueError(f"{name} must be unbiased, got one whose omega is None: masha2 takes contractive ones")
    return _masha(
        "masha1", learning_rate, compressor, tau, key, axis_name, server_compressor, anchor, trainable, feedback=False
    )


def masha2(
    learning_rate: optax.ScalarOrSchedule,
    compressor: Compressor,
    tau: jax.typing.ArrayLike | None = None,
    key: Key = 0,
    *,
    axis_name: AxisName | None,
    server_compressor: Compressor | None = None,
    anchor: MovesTo = "next",
    trainable: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """MASHA2: solves a variational inequality by messages of any contractive compressor, with error feedback.

    The update rule, where F_i is the operator of worker i, which `grad_fn` returns, F their mean, C the compressor, and
    w the anchor, which starts at the first parameters::

        z = tau * x + (1 - tau) * w - lr * F(w)
        p_i = lr * (F_i(z) - F_i(w)) + e_i
        e_i = p_i - C(p_i)
        x = z - mean over i of C(p_i)
        w = x and F(w) = mean over i of F_i(w)             # with probability 1 - tau

    Use it for games and saddle points over a slow network, as `masha1`, which says what to pass, with compressors that
    keep the largest part of a message, such as `top_k`. Avoid it for plain minimization, where it costs a second
    gradient in each step, and with unbiased compressors, which `masha1` takes without the memory for errors.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. The more the compressor leaves out, the
            smaller it must be.
        compressor: Compresses the messages. It must be contractive, such as `top_k(0.1)`.
        tau: See `masha1`. Default: None, with which anchors and messages cost as many bytes.
        key: Seed of the random draws, an integer or a JAX key. Default: 0. Must be equal on all workers.
        axis_name: Name of the axis over workers. None means that there is only one worker.
        server_compressor: Compresses the mean of the messages, as a server does for its answer to all workers, with an
            error feedback of its own. It must be contractive. Default: None. As in `masha1`, it saves no bytes here.
        anchor: See `masha1`. Default: "next".
        trainable: Which leaves are trained: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The other leaves get updates of zero.

    Returns:
        An optimizer. Its state is four numbers per parameter, and a fifth one with `server_compressor`. See `masha1`
        for `grad_fn`, which its `update` needs, for what is sent, and for operators that are not finite.

    Raises:
        ValueError: If `tau` is out of its range, or a compressor is not known to be contractive.
        TypeError: From `init`, if parameters are complex. From `update`, if `grad_fn` is missing, and inside
            `optax.masked` or `optax.partition`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.masha2(0.5, optkit.compressors.top_k(0.5), axis_name="workers")
        >>> def step(params, shift):
        ...     grad_fn = lambda point: jnp.array([point[1] + shift, -point[0] - shift])
        ...     updates, _ = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)
        ...     return optax.apply_updates(params, updates)
        >>> step = optkit.on_workers(step, axis_name="workers", backend="vmap")
        >>> step(jnp.array([[4.0, 0.0], [4.0, 0.0]]), jnp.array([1.0, -1.0])).tolist()
        [[3.0, 2.0], [3.0, 2.0]]

    Reference:
        arXiv:2110.03313
    """
    for name, given in (("compressor", compressor), ("server_compressor", server_compressor)):
        if isinstance(given, Compressor) and given.delta is None:
            raise ValueError(f"{name} must be contractive, got one whose delta is None: masha1 takes unbiased ones")
    return _masha(
        "masha2", learning_rate, compressor, tau, key, axis_name, server_compressor, anchor, trainable, feedback=True
    )


def _masha(
    method: str,
    learning_rate: optax.ScalarOrSchedule,
    compressor: Compressor,
    tau: jax.typing.ArrayLike | None,
    key: Key,
    axis_name: AxisName | None,
    server_compressor: Compressor | None,
    moves_to: MovesTo,
    trainable: Mask | None,
    *,
    feedback: bool,
) -> optax.GradientTransformationExtraArgs:
    """Builds both methods: with error feedback messages contain the learning rate."""
    refuse_arrays(compressor=compressor, axis_name=axis_name, server_compressor=server_compressor, trainable=trainable)
    check_range("tau", tau, 0.0, 1.0, high_open=True)
    check_option("anchor", moves_to, MovesTo)

    def inside(tree):
        return widen(mask_tree(trainable, tree, "trainable"))

    def init_fn(params):
        require_whole_tree(params, method)
        refuse_complex(params, method, functions=True)
        point = copy(inside(params))
        zeros = optax.tree.zeros_like(point)
        return MashaState(
            count=jnp.zeros([], jnp.int32),
            anchor=Anchor(point=point, own=zeros, mean=zeros, known=jnp.array(False)),
            refresh=jnp.array(True),
            key=keys.key_data(key),
            compressor=compressor.init(point),
            server_compressor=None if server_compressor is None else server_compressor.init(point),
            error=zeros if feedback else None,
            server_error=zeros if feedback and server_compressor is not None else None,
            dropped=jnp.zeros([], jnp.int32),
        )

    def update_fn(updates, state, params=None, *, grad_fn: Any = None, **extra_args):
        del extra_args
        require_params(params, method)
        required(grad_fn, "grad_fn", method, "grad_fn=lambda point: jax.grad(loss)(point, batch)")
        require_whole_tree(updates, method)
        point, rate = inside(params), value_at(learning_rate, state.count)
        stay = _probability_to_stay(tau, compressor, point)

        def move_anchor():
            return _anchor_at(point, inside(updates), axis_name)

        # w_t and F(w_t): an anchor that moves to the next point does so now, because `update` got the operator there.
        anchor = collectives.cond(state.refresh, move_anchor, lambda: state.anchor)
        half = jax.tree.map(
            lambda z, w, f: (stay * z + (1 - stay) * w - rate * f).astype(z.dtype), point, anchor.point, anchor.mean
        )  # z_{t+1/2}
        change = optax.tree.sub(inside(grad_fn(unmask_tree(half, params))), anchor.own)  # F_i(z_{t+1/2}) - F_i(w_t)
        wanted = optax.tree.add(_scale(rate, change), state.error) if feedback else change  # p_i
        sends = anchor.known & all_finite(wanted)
        mean, senders, compressor_state, error = exchange(wanted, sends, state)
        answer, server_state, server_error = answer_of_server(mean, state)
        step = answer if feedback else _scale(rate, answer)
        moved = jax.tree.map(lambda z, s, x: z - s - x, half, step, point)  # z_{t+1} - z_t

        key_data, fresh = keys.split(state.key, key)
        moves, nobody = jax.random.uniform(fresh, dtype=jnp.float32) >= stay, ~jnp.any(senders)
        if moves_to == "previous":
            anchor, moves = collectives.cond(moves, move_anchor, lambda: anchor), nobody
        new_state = MashaState(
            count=optax.safe_increment(state.count),
            anchor=anchor,
            refresh=moves | nobody,
            key=key_data,
            compressor=compressor_state,
            server_compressor=server_state,
            error=error,
            server_error=choose(nobody, state.server_error, server_error),
            dropped=count_missing(state.dropped, senders),
        )
        return unmask_tree(nan_without_senders(senders, moved), optax.tree.zeros_like(updates)), new_state

    def exchange(wanted, sends, state):
        """Returns the mean of the messages, who sent one, and the next state and error of the compressor."""
        # A worker that sends nothing compresses finite numbers all the same, so that its compressor's state is finite.
        sent = choose(sends, wanted, state.error if feedback else optax.tree.zeros_like(wanted))
        message, compressor_state = compressor.compress(sent, state.compressor)
        rows, senders = gather_together((message, sends), axis_name)
        mean = compressor.combine(mean_weights(senders, sent), rows, sent)
        if not feedback:
            return mean, senders, compressor_state, None
        left = optax.tree.sub(sent, compressor.decompress(message, sent))
        return mean, senders, compressor_state, choose(sends, left, state.error)

    def answer_of_server(mean, state):
        """Returns what all workers receive, and the next state and error of the server's compressor."""
        if server_compressor is None:
            return mean, None, None
        wanted = optax.tree.add(mean, state.server_error) if feedback else mean
        message, server_state = server_compressor.compress(wanted, state.server_compressor)
        answer = server_compressor.decompress(message, wanted)
        return answer, server_state, optax.tree.sub(wanted, answer) if feedback else None

    return in_float32(optax.GradientTransformationExtraArgs(init_fn, update_fn))


def _anchor_at(point: Any, own: Any, axis_name: AxisName | None) -> Anchor:
    """Makes a point the anchor, with the mean over the workers whose operator there is finite."""
    known = all_finite(own)
    own = jax.tree.map(lambda f: jnp.where(known, f, 0), own)
    total, count = (own, known) if axis_name is None else jax.lax.psum((own, known.astype(jnp.int32)), axis_name)
    mean = jax.tree.map(lambda f: f / jnp.maximum(count, 1).astype(f.dtype), total)
    return Anchor(point=point, own=own, mean=mean, known=known)


def _probability_to_stay(tau: jax.typing.ArrayLike | None, compressor: Compressor, tree: Any) -> jax.typing.ArrayLike:
    """Returns `tau`, or the part of the bytes that the compressor saves."""
    if tau is not None:
        return tau
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
    return max(0.0, 1 - nbytes(compressor, tree) / max(whole, 1))


def _scale(factor: jax.typing.ArrayLike, tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(factor, x.dtype) * x, tree)


MASHA = Paper(
    "Distributed Methods with Compressed Communication for Solving Variational Inequalities, with Theoretical"
    " Guarantees",
    "Beznosikov, Richtarik, Diskin, Ryabinin, Gasnikov",
    2021,
    "2110.03313",
)

METHODS = (
    Method(
        name="masha1",
        factory=masha1,
        kind="optimizer",
        summary="Solves a variational inequality whose operator is the mean of the workers' own, by unbiased messages.",
        paper=MASHA,
        also_known_as=("MASHA", "compressed extragradient", "distributed saddle point problems"),
        example={"learning_rate": 1e-3, "compressor": rand_k(0.5, key=0), "axis_name": "workers"},
        grid=0.1,
        needs=("axis_name", "grad_fn"),
        golden="masha",
    ),
    Method(
        name="masha2",
        factory=masha2,
        kind="optimizer",
        summary="Solves a variational inequality by messages of any contractive compressor, with error feedback.",
        paper=MASHA,
        also_known_as=("MASHA", "compressed extragradient", "distributed saddle point problems"),
        example={"learning_rate": 2e-3, "compressor": top_k(0.5), "axis_name": "workers"},
        grid=0.1,
        needs=("axis_name", "grad_fn"),
        golden="masha",
    ),
)
