"""The optimizers that the commands run by name."""

import inspect
from collections.abc import Iterable, Mapping

import optax

from experiments.tasks import imported
from optkit import catalog
from optkit.catalog import with_variants
from optkit.comparison import entries, gradients
from optkit.comparison.baselines import BASELINES
from optkit.core.workers import collectives
from optkit.method import Method

# What a step on many workers gives beside the gradients.
PASSED_TO_WORKERS = {"axis_name", "value", "value_fn", "grad_fn", "hvp_fn"}
# What `compare` compares where nothing is asked for.
DEFAULT = (
    "sgd",
    "adamw",
    "lion",
    "lion_kappa",
    "lion_kappa:huber",
    "lion_kappa:group",
    "grams_adamw",
    "cautious_adamw",
    "mars_adamw",
    "clipped_sgd",
)


def find(names: Iterable[str]) -> list[Method]:
    """Looks optimizers up.

    Args:
        names: names as on the command line: `method`, `method:variant`, or `module:function` of a function of a
            learning rate, or an `optkit.method.Method`, of the user's own.

    Returns:
        Their entries, AdamW's first.

    Raises:
        UserError: if there is none of a name.
    """
    known, families = entries.comparable(), set(catalog.METHODS) | set(BASELINES)
    return entries.find(
        [
            name if name in known or ":" not in name or name.split(":")[0] in families else imported(name)
            for name in names
        ]
    )


def everything() -> list[Method]:
    """Returns all methods that one training loop can run, without variants."""
    return [method for name, method in entries.comparable().items() if ":" not in name]


def takes(method: Method) -> set[str]:
    """Returns the names of a method's arguments."""
    return set(inspect.signature(method.factory).parameters)


def between_workers() -> Mapping[str, Method]:
    """Returns what many workers can train with, variants included, by name.

    These are the plain mean, all methods of the catalog that need an axis over workers, and the aggregators that can
    take each worker's gradient for a row.
    """
    return {"mean": _MEAN} | {
        name: method
        for name, method in with_variants().items()
        if set(method.needs) <= PASSED_TO_WORKERS
        and ("axis_name" in method.needs or (_is_aggregator_of_batches(method) and "axis_name" in takes(method)))
    }


def _is_aggregator_of_batches(method):
    return method.kind == "aggregator" and method.stacked == "microbatches"


def _mean(*, axis_name):
    """Averages the gradients of the workers; a worker whose `weight` is 0 is left out."""

    def update(updates, state, params=None, *, weight=None, **extra_args):
        del params, extra_args
        return collectives.pmean(updates, axis_name, weight), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


_MEAN = Method(
    name="mean",
    factory=_mean,
    kind="transformation",
    summary="The mean of the workers' gradients in every step, by pmean.",
    example={"axis_name": gradients.WORKERS},
    needs=("axis_name",),
)


def find_inner(name: str) -> Method:
    """Looks up the optimizer that wrappers wrap: one of those that can be compared and need gradients only.

    Args:
        name: its name.

    Returns:
        Its entry.

    Raises:
        ComparisonError: if there is none of this name.
    """
    plain = {
        known: method
        for known, method in entries.comparable().items()
        if not method.needs and method.stacked is None and method.tuned == "learning_rate"
    }
    (method,) = entries.look_up([name], plain)
    return method
