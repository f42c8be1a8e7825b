"""The contract of a good gradient transformation, for the methods of the catalog and for your own."""

import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import optax

from optkit.method import Method, parameters_as_they_are
from optkit.testing import compilation, composition, numerics, placement, usage
from optkit.testing.case import OF_A_LOSS, STACKED, Case, fed_with_rows

_POINTS = (
    (1, compilation.keeps_types),
    (1, compilation.initialises_under_jit),
    (1, compilation.compiles_once),
    (1, compilation.allows_donation),
    (1, compilation.runs_in_scan_and_vmap),
    (2, compilation.takes_all_shapes),
    (2, compilation.takes_all_containers),
    (2, compilation.takes_huge_leaves),
    (2, compilation.promotes_no_ranks),
    (2, usage.takes_stacked_layers),
    (2, numerics.takes_complex_numbers),
    (3, numerics.stays_finite_in_float16),
    (3, numerics.stays_finite_in_bfloat16),
    (3, numerics.stays_finite_in_float32),
    (3, numerics.recovers_from_nan),
    (3, numerics.is_honest_about_bad_gradients),
    (4, composition.accepts_unknown_extra_args),
    (4, composition.hands_on_extra_args),
    (4, composition.names_missing_extra_args),
    (4, usage.works_injected_bare),
    (4, composition.works_injected),
    (4, composition.works_injected_in_16_bits),
    (4, composition.works_masked),
    (4, composition.works_partitioned),
    (4, composition.works_in_multi_steps),
    (4, composition.works_in_chain),
    (4, composition.takes_schedules),
    (4, composition.works_with_map_params),
    (4, usage.works_in_nnx_optimizer),
    (4, usage.trains_callable_model),
    (4, usage.masks_decay),
    (4, usage.works_without_params),
    (5, numerics.solves_problems),
    (6, numerics.is_deterministic),
    (6, numerics.continues_from_orbax),
    (6, numerics.continues_from_flax),
    (7, placement.initialises_abstractly),
    (7, placement.initialises_from_types),
    (7, placement.works_sharded_automatically),
    (7, placement.works_sharded_explicitly),
    (8, placement.agrees_between_backends),
)

PROMISES: Mapping[str, str] = types.MappingProxyType(
    {promise.__name__: f"{point}. {(promise.__doc__ or '').splitlines()[0]}" for point, promise in _POINTS}
)
"""The contract: the name of each promise, with its point and its text."""


class Violation(NamedTuple):
    """A promise that a transformation breaks.

    Attributes:
        promise: Its name in `PROMISES`.
        message: What was found, where, and what was expected.
        error: The error that the check raised.
    """

    promise: str
    message: str
    error: Exception

    def __str__(self) -> str:
        """Returns the text of the promise and the message, which is indented."""
        lines = "\n".join(f"    {line}" for line in self.message.splitlines())
        return f"{self.promise}: {PROMISES[self.promise]}\n{lines}"


class BrokenContract(AssertionError):  # noqa: N818  (what it says is no error of the contract)
    """Raised for a transformation that breaks promises.

    Attributes:
        violations: The promises that it breaks, in the order of the contract.
    """

    def __init__(self, violations: Sequence[Violation]) -> None:
        """Lists all violations in the message."""
        self.violations = tuple(violations)
        listed = "\n".join(map(str, violations))
        super().__init__(f"{len(violations)} promises of the contract are broken:\n{listed}")


def check_transformation(
    factory: Callable[..., optax.GradientTransformation],
    *,
    promises: Collection[str] | None = None,
    static_args: Collection[str] = (),
    needs: Collection[str] = (),
    eval_params: Callable[[Any, Any], Any] = parameters_as_they_are,
    tuned: str = "learning_rate",
    stacked: str | None = None,
    sampler: bool = False,
    devices: int = 8,
    **example: Any,
) -> None:
    """Checks that a gradient transformation behaves as JAX and Optax expect.

    It checks everything in `optkit.testing.PROMISES`: that the transformation runs compiled, mapped and scanned, in
    every dtype and on every shape and tree; that its numbers stay finite; that it works with Optax's wrappers; that it
    solves four problems; that its runs are deterministic and continue from checkpoints; and that its state is sharded
    like the parameters. It also checks what people do with a transformation: a bare
    `optax.inject_hyperparams(factory)`, `flax.nnx.Optimizer`, a model that is a callable tree, decay masks, complex
    parameters, a gradient with a NaN, `update` without parameters, and stacked layers.

    Use it as the whole test of a new optimizer's behavior; whether its rule is right needs a test of its own. It needs
    Flax and Orbax (`pip install 'optkit[test]'`) and eight devices. On a CPU, ask for these before anything uses JAX,
    in `conftest.py`: `jax.config.update("jax_num_cpu_devices", 8)`.

    Convergence is checked if `factory` has the argument `tuned`. To check it for a transformation without learning
    rate, pass a factory that chains it with `optax.scale_by_learning_rate(learning_rate)`.

    Args:
        factory: A function that builds the transformation from keyword arguments. If it has an argument with the name
            of one of those below, bind that with `functools.partial`.
        promises: Names of the promises to check. Default: None, all of `PROMISES`.
        static_args: Arguments of `factory` that are not numbers to trace (ranks, numbers of iterations, functions,
            trees), as for `optax.inject_hyperparams`. `optkit.inject_hyperparams` finds them from annotations. Default:
            none.
        needs: What `update` cannot do without. These are names of extra arguments: "value" (the loss), "value_fn" and
            "grad_fn" (functions of the parameters, on the same batch), "prev_grads" (this batch's gradient at the
            previous parameters), "full_grad_fn" (like "grad_fn", on all data), "hvp_fn" (the product of the Hessian and
            a vector); and "axis_name" for a transformation that communicates between workers over the axis that the
            example's `axis_name` names. It then runs on `devices` workers. Default: none.
        eval_params: A function from the optimizer's state and the parameters of the loop to the parameters to report,
            for methods whose loop has shifted ones. Default: the parameters of the loop.
        tuned: The hyperparameter that is tuned and varied under `vmap`. On the four problems, a `learning_rate` is
            decayed to zero by a cosine. Default: "learning_rate".
        stacked: For an `update` that takes gradients with a leading axis and removes it: what the rows stand for.
            "microbatches" and "samples" are parts of the batch, whose mean is the gradient of the batch. "classes" sum
            up to it, and the extra argument `class_counts`, the number of examples of each class, is passed too.
            "objectives" have it as their mean, and `losses`, one per objective, is passed if "value" is needed. The
            rows are four independent ones that disagree; the first of them, except with objectives, points uphill.
            Default: None, for ordinary gradients.
        sampler: Whether the parameters continue to move around the solution, so that their mean over the second half of
            a run must be right. Default: False.
        devices: Over how many devices parameters are sharded. 1 leaves out the promises that need several. Default: 8.
        **example: Arguments with which `factory` builds a usable transformation, with a learning rate that solves the
            problems in 30,000 steps.

    Raises:
        BrokenContract: If a promise is broken. It is an `AssertionError` whose message lists all broken promises, with
            dtype, leaf, and what was found. Its `violations` contains them as data.
        ValueError: If a name in `promises` or `needs`, or `stacked`, is unknown.
        RuntimeError: If there are fewer than `devices` devices.

    Example:
        The whole test of your own optimizer is `def test_contract(): check_transformation(my_optimizer,
        learning_rate=1e-2)`. This checks one promise alone:

        >>> import optax
        >>> import optkit
        >>> optkit.testing.check_transformation(optax.lion, promises=["keeps_types"], learning_rate=1e-2)
    """
    _refuse_unknown("promises", promises or (), PROMISES)
    _refuse_unknown("needs", needs, (*OF_A_LOSS, "axis_name"))
    _refuse_unknown("stacked", () if stacked is None else (stacked,), STACKED)
    if len(jax.devices()) < devices:
        raise RuntimeError(
            f"the contract shards over {devices} devices and found {len(jax.devices())}; on a CPU call "
            f'jax.config.update("jax_num_cpu_devices", {devices}) before anything uses JAX (in conftest.py), '
            "or pass devices=1 to leave out what needs several"
        )
    case = Case(
        factory=factory if stacked is None else fed_with_rows(factory, stacked),
        example=example,
        static_args=tuple(static_args),
        needs=tuple(needs),
        eval_params=eval_params,
        tuned=tuned,
        sampler=sampler,
        devices=devices,
        stacked=stacked,
    )
    violations = []
    for _, promise in _POINTS:
        if promises is not None and promise.__name__ not in promises:
            continue
        try:
            promise(case)
        except AssertionError as error:
            violations.append(Violation(promise.__name__, str(error), error))
        except ImportError:
            raise
        except Exception as error:  # noqa: BLE001  (a transformation may fail in any way)
            violations.append(Violation(promise.__name__, f"raised {compilation.describe(error)}", error))
    if violations:
        raise BrokenContract(violations) from violations[0].error


def find_violations(factory: Callable[..., optax.GradientTransformation], **arguments: Any) -> tuple[Violation, ...]:
    """Finds the promises of the contract that a gradient transformation breaks.

    Args:
        factory: A function that builds the transformation, see `check_transformation`.
        **arguments: Further arguments of `check_transformation`.

    Returns:
        The broken promises, in the order of the contract, as a tuple that is empty if there are none.

    Raises:
        ValueError: If a name in `promises` or `needs`, or `stacked`, is unknown.
        RuntimeError: If there are fewer devices than the argument `devices` says.

    Example:
        >>> import optax
        >>> import optkit
        >>> optkit.testing.find_violations(optax.sgd, promises=["is_deterministic"], learning_rate=0.1)
        ()
    """
    try:
        check_transformation(factory, **arguments)
    except BrokenContract as broken:
        return broken.violations
    return ()


def check_method(method: Method, promises: Collection[str] | None = None) -> None:
    """Checks a method of the catalog, or a variant of one, by the contract.

    Args:
        method: An entry of `optkit.catalog.METHODS` that makes gradient transformations.
        promises: Names of the promises to check. Default: None, all of `PROMISES`.

    Raises:
        BrokenContract: If it breaks a promise.
        ValueError: If a name in `promises` is unknown.

    Example:
        >>> import optkit
        >>> optkit.testing.check_method(optkit.catalog.METHODS["signum"])
    """
    check_transformation(
        method.optimizer_factory,
        promises=promises,
        static_args=method.static,
        needs=method.needs,
        eval_params=method.eval_params,
        tuned=method.tuned,
        stacked=method.stacked,
        sampler=method.kind == "sampler",
        **method.arguments,
    )


def _refuse_unknown(argument: str, names: Collection[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{argument} must be among {', '.join(known)}; got {name!r}")
