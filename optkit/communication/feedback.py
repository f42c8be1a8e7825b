"""Feedback for compressed means: what a worker remembers of its messages, so that nothing is lost or drifts.

Every feedback is a `Feedback`, a tuple of functions that `compressed_mean` calls. Each worker has a part of the state
of its own, and a part that is equal on all workers.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.communication._channels import Sent
from optkit.compressors import Compressor
from optkit.compressors._scaled_sign import ERROR_FEEDBACK_FIXES_SIGN_SGD
from optkit.core.checks import check_option, check_range
from optkit.core.precision import widen
from optkit.method import Method, Paper

Start = Literal["zero", "dense"]

__all__ = ["diana", "double_ef", "econtrol", "ef14", "ef21", "ef21_sgdm"]


class OwnMemory(NamedTuple):
    """What a worker remembers for itself; None stands for what its feedback does not need.

    Attributes:
        error: What has not been sent so far.
        estimate: What the others know of this worker's gradient.
        momentum: Average of this worker's gradients.
    """

    error: Any = None
    estimate: Any = None
    momentum: Any = None

    # What the other workers count on, see `optkit.resize_workers`.
    owed = ("error", "estimate")


class SharedMemory(NamedTuple):
    """What all workers remember alike; None stands for what their feedback does not need.

    Attributes:
        total: Sum of all workers' estimates.
        told: What the server has told the workers.
        server: State of the server's compressor.
        momentum: Sum of the means.
    """

    total: Any = None
    told: Any = None
    server: Any = None
    momentum: Any = None


class Feedback(NamedTuple):
    """A way to remember what compressed messages left out, as a tuple of functions.

    Attributes:
        init: Returns the worker's own memory and the shared one, from the parameters.
        wanted: Returns the tree that this step's message should say, and the next own memory, from the gradient, the
            own memory, and whether this is the first step.
        received: Returns the mean that the step uses and both memories, from the gradient, the memories and what was
            sent, a `Sent`.
        starts_dense: Whether the first message is not compressed.
        answers: Whether the mean is compressed again, with error feedback.
        server: Compressor of the mean; None stands for that of the messages.
        estimates: Whether messages are differences to what others know, which must reach all workers as they are.
    """

    init: Callable[[Any], tuple[OwnMemory, SharedMemory]]
    wanted: Callable[[Any, OwnMemory, jax.Array], tuple[Any, OwnMemory]]
    received: Callable[[Any, OwnMemory, SharedMemory, Sent], tuple[Any, OwnMemory, SharedMemory]]
    starts_dense: bool = False
    answers: bool = False
    server: Compressor | None = None
    estimates: bool = False


def _zeros(params: Any) -> Any:
    return optax.tree.zeros_like(widen(params))


def without() -> Feedback:
    """Sends the gradients themselves, and remembers nothing."""

    def start(params):
        del params
        return OwnMemory(), SharedMemory()

    def wanted(gradient, own, first):
        del first
        return gradient, own

    def received(gradient, own, shared, sent):
        del gradient
        return sent.mean, own, shared

    return Feedback(start, wanted, received)


def ef14(decay: float | jax.Array = 1.0, alpha: float | jax.Array = 1.0) -> Feedback:
    """Adds what a message left out to the next one: error feedback.

    The rule of worker i, where e_i starts at zero and C is the compressor::

        p_i = decay * e_i + g_i
        e_i = p_i - alpha * C(p_i)
        u = mean_i C(p_i)

    Use it with biased compressors such as `top_k` and `scaled_sign` when the workers' data are alike. Avoid it when
    they differ: with exact gradients it stalls at a distance from the minimum where `feedback.ef21` goes on. Errors
    keep the scale of the learning rate at which they were made if it stands after `optax.scale_by_learning_rate`, as in
    the authors' code; before it, old errors arrive at the rate of today.

    Args:
        decay: Share of the error that is kept from step to step, in [0, 1]. Default: 1.
        alpha: Share of the message that counts as sent, in [0, 1]. Below 1, a part of it is sent again, as in
            SparseLoCo, and only a `decay` below 1 keeps the error small. Default: 1.

    Returns:
        A `Feedback` that stores one number per parameter on each worker.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.compressed_mean(optkit.compressors.top_k(0.5), ef14(), axis_name=None)
        >>> mean, state = tx.update(jnp.array([3.0, 2.0]), tx.init(jnp.zeros(2)))
        >>> mean.tolist(), state.own.error.tolist()
        ([3.0, 0.0], [0.0, 2.0])

    Reference:
        arXiv:1901.09847
    """
    check_range("decay", decay, 0.0, 1.0)
    check_range("alpha", alpha, 0.0, 1.0)

    def wanted(gradient, own, first):
        del first
        asked = optax.tree.add_scale(gradient, decay, own.error)  # p = decay e + g
        return asked, own._replace(error=asked)

    def received(gradient, own, shared, sent):
        del gradient
        left = optax.tree.add_scale(own.error, -alpha, sent.own)  # e = p - alpha C(p)
        return sent.mean, own._replace(error=left), shared

    return Feedback(lambda params: (OwnMemory(error=_zeros(params)), SharedMemory()), wanted, received)


def double_ef(server: Compressor | None = None) -> Feedback:
    """Error feedback on the workers, and once more where their mean is compressed: DoubleSqueeze.

    The rule, where e_i and e start at zero and C and S are the compressors::

        p_i = e_i + g_i;  e_i = p_i - C(p_i)        (on worker i)
        q = e + mean_i C(p_i);  e = q - S(q)         (of the mean)
        u = S(q)

    Use it with `layout="two_phase"`, whose bytes do not grow with the number of workers because the mean is compressed,
    too: it is then the communication of 1-bit Adam. Avoid it with other layouts, where compressing the mean saves
    nothing.

    Args:
        server: Compressor of the mean. Its draws must be equal on all workers (no `axis_name`), except with
            `layout="two_phase"`, where each worker compresses a part of the mean. Default: None, which stands for the
            compressor of the messages.

    Returns:
        A `Feedback` that stores two numbers per parameter on each worker; one, and a share of another, with
        `layout="two_phase"`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> half = optkit.compressors.top_k(0.5)
        >>> tx = optkit.compressed_mean(half, double_ef(), axis_name=None)
        >>> tx.update(jnp.array([3.0, 2.0]), tx.init(jnp.zeros(2)))[0].tolist()
        [3.0, 0.0]

    Reference:
        arXiv:1905.05957
    """
    return ef14()._replace(answers=True, server=server)


def ef21(server: Compressor | None = None, momentum: float | None = None, *, init: Start = "zero") -> Feedback:
    """Sends the compressed difference of a gradient to what the others know of it.

    The rule, where h_i starts at zero and C is the compressor::

        h_i = h_i + C(g_i - h_i)
        u = mean_i h_i

    With a server's compressor S (EF21-BC), G starts at zero, `G = G + S(mean_i h_i - G)` and `u = G`. With momentum
    (EF21-HB), v starts at zero, `v = momentum * v + u`, and v takes the place of u.

    Use it with biased compressors when the workers' data differ and gradients are nearly exact: unlike `feedback.ef14`
    it goes on to the minimum. Avoid it with small batches, because it remembers their noise; `feedback.ef21_sgdm` and
    `feedback.econtrol` do not.

    Args:
        server: Compressor of the mean, as in EF21-BC, whose draws must be equal on all workers. Default: None, without.
        momentum: Decay rate of the sum of the means, in [0, 1). Default: None, without momentum.
        init: With "dense", the first gradients are sent as they are, as in the authors' experiments. With "zero", they
            are compressed, too. Default: "zero".

    Returns:
        A `Feedback` that stores two numbers per parameter on each worker, and one more for `server` and for `momentum`.

    Raises:
        ValueError: If `momentum` is outside its range, or `init` is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.compressed_mean(optkit.compressors.top_k(0.5), ef21(), axis_name=None)
        >>> gradient, state = jnp.array([3.0, 2.0]), tx.init(jnp.zeros(2))
        >>> first, state = tx.update(gradient, state)
        >>> first.tolist(), tx.update(gradient, state)[0].tolist()
        ([3.0, 0.0], [3.0, 2.0])

    Reference:
        arXiv:2106.05203
    """
    check_option("init", init, Start)
    if momentum is not None:
        check_range("momentum", momentum, 0.0, 1.0, high_open=True)

    def start(params):
        zeros = _zeros(params)
        return OwnMemory(estimate=zeros), SharedMemory(
            total=zeros,
            told=None if server is None else zeros,
            server=None if server is None else server.init(zeros),
            momentum=None if momentum is None else zeros,
        )

    def wanted(gradient, own, first):
        del first
        return optax.tree.sub(gradient, own.estimate), own

    def received(gradient, own, shared, sent):
        del gradient
        mean, own, shared = _learn(own, shared, sent)
        if server is not None:
            message, state = server.compress(optax.tree.sub(mean, shared.told), shared.server)
            told = optax.tree.add(shared.told, server.decompress(message, mean))  # G = G + S(mean - G)
            mean = jax.tree.map(lambda exact, told: jnp.where(sent.exact, exact, told), mean, told)
            shared = shared._replace(told=mean, server=state)
        if momentum is not None:
            mean = optax.tree.add_scale(mean, momentum, shared.momentum)  # v = momentum v + u
            shared = shared._replace(momentum=mean)
        return mean, own, shared

    return Feedback(start, wanted, received, starts_dense=init == "dense", estimates=True)


def ef21_sgdm(eta: float = 0.1, *, init: Start = "zero") -> Feedback:
    """EF21 on averages of each worker's gradients, so that it does not remember the noise of single batches.

    The rule, where v_i starts at the first gradient, h_i at zero, and C is the compressor::

        v_i = (1 - eta) * v_i + eta * g_i
        h_i = h_i + C(v_i - h_i)
        u = mean_i h_i

    Use it with biased compressors when gradients are noisy and the workers' data differ. Avoid momentum after it,
    because its average is one already.

    Args:
        eta: Weight of the newest gradient, in (0, 1]. With 1 it is `feedback.ef21`. Default: 0.1.
        init: With "dense", the first gradients are sent as they are. With "zero", they are compressed, too. Default:
            "zero".

    Returns:
        A `Feedback` that stores three numbers per parameter on each worker.

    Raises:
        ValueError: If `eta` is outside its range, or `init` is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.compressed_mean(optkit.compressors.top_k(0.5), ef21_sgdm(0.5), axis_name=None)
        >>> first, state = tx.update(jnp.array([3.0, 2.0]), tx.init(jnp.zeros(2)))
        >>> tx.update(jnp.array([1.0, 0.0]), state)[0].tolist()  # the average is [2, 1]
        [2.0, 0.0]

    Reference:
        arXiv:2305.15155
    """
    check_range("eta", eta, 0.0, 1.0, low_open=True)
    plain = ef21(init=init)

    def start(params):
        own, shared = plain.init(params)
        return own._replace(momentum=_zeros(params)), shared

    def wanted(gradient, own, first):
        weight = jnp.where(first, 1.0, eta)
        momentum = jax.tree.map(lambda v, g: v + weight.astype(v.dtype) * (g - v), own.momentum, gradient)
        return optax.tree.sub(momentum, own.estimate), own._replace(momentum=momentum)

    return plain._replace(init=start, wanted=wanted)


def econtrol(eta: float, *, init: Start = "zero") -> Feedback:
    """Error feedback and EF21 in one: the errors that EF21 makes on the way are fed back, too, with a weight.

    The rule, where h_i and e_i start at zero and C is the compressor::

        h_i' = h_i + C(eta * e_i + g_i - h_i)
        e_i = e_i + g_i - h_i'
        u = mean_i h_i'

    Use it with biased compressors when gradients are noisy and the workers' data differ. Avoid large values of `eta`
    with compressors that leave much out; with 0 it is `feedback.ef21`.

    Args:
        eta: Weight of the fed back error, in [0, 1]. The theorems take a 400th of the compressor's delta; 0.1 is a good
            start.
        init: With "dense", the first gradients are sent as they are. With "zero", they are compressed, too. Default:
            "zero".

    Returns:
        A `Feedback` that stores three numbers per parameter on each worker.

    Raises:
        ValueError: If `eta` is outside its range, or `init` is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.compressed_mean(optkit.compressors.top_k(0.5), econtrol(0.1), axis_name=None)
        >>> mean, state = tx.update(jnp.array([3.0, 2.0]), tx.init(jnp.zeros(2)))
        >>> mean.tolist(), state.own.error.tolist()
        ([3.0, 0.0], [0.0, 2.0])

    Reference:
        arXiv:2311.05645
    """
    check_range("eta", eta, 0.0, 1.0)
    plain = ef21(init=init)

    def start(params):
        own, shared = plain.init(params)
        return own._replace(error=_zeros(params)), shared

    def wanted(gradient, own, first):
        del first
        return optax.tree.add_scale(optax.tree.sub(gradient, own.estimate), eta, own.error), own

    def received(gradient, own, shared, sent):
        mean, own, shared = _learn(own, shared, sent)
        missing = optax.tree.sub(gradient, own.estimate)
        return mean, own._replace(error=optax.tree.add(own.error, missing)), shared

    return plain._replace(init=start, wanted=wanted, received=received)


def diana(alpha: float) -> Feedback:
    """Sends the compressed difference of a gradient to a slowly learned shift: for unbiased compressors.

    The rule, where h_i starts at zero and C is the compressor::

        u = mean_i h_i + mean_i C(g_i - h_i)
        h_i = h_i + alpha * C(g_i - h_i)

    Use it with unbiased compressors such as `qsgd` and `rand_k` when the workers' data differ: the variance of the
    compressor vanishes with the differences. Avoid it with biased compressors, for which `feedback.ef21` is made.

    Args:
        alpha: Step of the shifts, in (0, 1]. Theory asks for at most `1 / (1 + omega)`, with the compressor's omega.

    Returns:
        A `Feedback` that stores two numbers per parameter on each worker.

    Raises:
        ValueError: If `alpha` is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.compressed_mean(optkit.compressors.identity(), diana(0.5), axis_name=None)
        >>> mean, state = tx.update(jnp.array([3.0, 2.0]), tx.init(jnp.zeros(2)))
        >>> mean.tolist(), state.own.estimate.tolist()
        ([3.0, 2.0], [1.5, 1.0])

    Reference:
        arXiv:1901.09269
    """
    check_range("alpha", alpha, 0.0, 1.0, low_open=True)
    plain = ef21()

    def received(gradient, own, shared, sent):
        del gradient
        shift = optax.tree.scale(1 / len(sent.weights), shared.total)
        mean = optax.tree.add(shift, sent.mean)
        slowly = sent._replace(own=optax.tree.scale(alpha, sent.own), total=optax.tree.scale(alpha, sent.total))
        _, own, shared = _learn(own, shared, slowly)
        return mean, own, shared

    return plain._replace(received=received)


def _learn(own: OwnMemory, shared: SharedMemory, sent: Sent) -> tuple[Any, OwnMemory, SharedMemory]:
    """Adds what was sent to the estimates, and returns their mean over the workers."""
    total = optax.tree.add(shared.total, sent.total)
    own = own._replace(estimate=optax.tree.add(own.estimate, sent.own))
    return optax.tree.scale(1 / len(sent.weights), total), own, shared._replace(total=total)


METHODS = (
    Method(
        name="feedback.ef14",
        factory=ef14,
        kind="function",
        summary="Adds what a compressed message left out to the next one.",
        paper=ERROR_FEEDBACK_FIXES_SIGN_SGD,
        also_known_as=("error feedback", "EF-SGD", "error compensation", "memory-compensated SGD"),
    ),
    Method(
        name="feedback.double_ef",
        factory=double_ef,
        kind="function",
        summary="Error feedback on the workers, and once more where their mean is compressed.",
        paper=Paper(
            "DoubleSqueeze: Parallel Stochastic Gradient Descent with Double-Pass Error-Compensated Compression",
            "Tang et al.",
            2019,
            "1905.05957",
        ),
        also_known_as=("DoubleSqueeze", "1-bit Adam", "bidirectional compression"),
    ),
    Method(
        name="feedback.ef21",
        factory=ef21,
        kind="function",
        summary="Sends the compressed difference of a gradient to what the others know of it.",
        paper=Paper(
            "EF21: A New, Simpler, Theoretically Better, and Practically Faster Error Feedback",
            "Richtárik, Sokolov, Fatkhullin",
            2021,
            "2106.05203",
        ),
        also_known_as=("EF21", "EF21-BC", "EF21-HB", "EF21 with bells and whistles"),
    ),
    Method(
        name="feedback.ef21_sgdm",
        factory=ef21_sgdm,
        kind="function",
        summary="EF21 on averages of each worker's gradients, for small batches.",
        paper=Paper("Momentum Provably Improves Error Feedback!", "Fatkhullin, Tyurin, Richtárik", 2023, "2305.15155"),
        also_known_as=("EF21-SGDM", "EF21 with momentum"),
    ),
    Method(
        name="feedback.econtrol",
        factory=econtrol,
        kind="function",
        summary="EF21 with its own errors fed back, too.",
        paper=Paper(
            "EControl: Fast Distributed Optimization with Compression and Error Control",
            "Gao, Islamov, Stich",
            2023,
            "2311.05645",
        ),
        also_known_as=("EControl", "error control"),
    ),
    Method(
        name="feedback.diana",
        factory=diana,
        kind="function",
        summary="Sends the compressed difference of a gradient to a slowly learned shift.",
        paper=Paper(
            "Distributed Learning with Compressed Gradient Differences", "Mishchenko et al.", 2019, "1901.09269"
        ),
        also_known_as=("DIANA", "compressed gradient differences"),
    ),
)
