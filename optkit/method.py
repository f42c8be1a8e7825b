"""The entries of the catalog, which the contract tests, the documentation and `compare` read.

A module lists its methods as `METHODS`, a tuple of `Method`. A family, or your own package, gathers these lists with
`methods_of`.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Literal, NamedTuple

import optax

from optkit.core.injection import static_arguments
from optkit.core.precision import in_float32

__all__ = ["Kind", "Method", "Paper", "Range", "Stacked", "Variant", "methods_of"]

Stacked = Literal["microbatches", "samples", "classes", "objectives"]
# Smallest value, largest value, and the scale on which values are spread: "1-log" is the logarithm of 1 - x.
Range = tuple[float, float, Literal["linear", "log", "1-log"]]
Kind = Literal["transformation", "wrapper", "optimizer", "sampler", "aggregator", "function"]


class Paper(NamedTuple):
    """The paper that published a method.

    Attributes:
        title: Title of the paper.
        authors: Its authors, "First et al." for more than three.
        year: Year of the first version.
        arxiv: The arXiv id, for example "2310.05898". Default: empty, for a paper that is not on arXiv.
    """

    title: str
    authors: str
    year: int
    arxiv: str = ""


class Variant(NamedTuple):
    """Other arguments of a method that are worth comparing.

    Attributes:
        arguments: Keyword arguments of the factory, which replace those of the method's example.
        grid: Centre of their grid of learning rates.
    """

    arguments: Mapping[str, Any]
    grid: float


def parameters_as_they_are(state: Any, params: Any) -> Any:
    """Returns `params`: for most methods, the parameters to report are those of the training loop."""
    del state
    return params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """One entry of a catalog.

    Attributes:
        name: Public name of the method; `optkit.<name>` exists for all methods of optkit.
        factory: The method itself, a function of the kind that `kind` names.
        kind: What `factory` is. An "optimizer" takes `learning_rate` first. A "sampler" is an optimizer whose
            parameters keep moving around a distribution. A "wrapper" takes an inner transformation first. A
            "transformation" and an "aggregator" take hyperparameters only. A "function" is anything else that users may
            look for, such as tools and data; its entry has only a name, a factory, a summary, other names and a paper.
        summary: One sentence.
        paper: The paper that published it. Default: None.
        also_known_as: Other names that people look for: acronyms, and names in other papers and libraries. Default:
            none.
        parts: The other public functions that belong to it: transformations that an optimizer chains, tools, and
            readers of states. Default: none.
        family: The module or folder below the top-level package that lists it. Default: empty; `methods_of` fills it
            in.
        example: Keyword arguments with which `factory` builds something usable. Default: none.
        learning_rate: The learning rate with which the optimizer around a wrapper, a transformation or an aggregator
            solves the problems of the contract. Default: 2e-3. An optimizer has its learning rate in `example`.
        grid: Centre of the grid of learning rates (or values of `tuned`) that `compare` searches. Default: 1. NaN
            stands for the best learning rate of AdamW on the same task.
        tuned: The hyperparameter that is tuned. Default: "learning_rate".
        tunable: Ranges of other hyperparameters that are worth tuning, for example `{"b2": (0.9, 0.999, "1-log")}`:
            smallest value, largest value, and a scale, "linear", "log", or "1-log" for the logarithm of 1 - x. Default:
            none; `compare` has ranges for `b1`, `b2`, `eps`, `momentum` and `weight_decay`, which these replace.
        needs: Extra arguments of `update` ("grad_fn", "value_fn", "value", "prev_grads" or "full_grad_fn"), or
            "axis_name", without which the method cannot work. Default: none.
        stacked: Meaning of the leading axis of the gradients, which `update` takes and removes. Default: None, without
            such an axis. "microbatches" are equal parts of the batch, and "samples" its examples; the mean of either is
            the gradient of the batch. "objectives" are the gradients of several losses. "classes" are the parts of the
            classes, whose sum is the gradient of the batch; then the extra argument `class_counts` gives the number of
            examples of each class in the batch.
        eval_params: Returns the parameters to report, from the optimizer's state and the parameters of the loop.
            Default: those of the loop.
        variants: Other arguments that are worth comparing, by name; `compare` calls them `name:variant`. Default: none.
        golden: Name of the recorded trajectories that it replays. Default: None, which stands for `name`.
        compose: Makes an optimizer of the method, from a function that builds the method and a learning rate. Default:
            None, the usual way for its kind.
    """

    name: str
    factory: Callable[..., Any]
    kind: Kind
    summary: str
    paper: Paper | None = None
    also_known_as: tuple[str, ...] = ()
    parts: tuple[Callable[..., Any], ...] = ()
    family: str = ""
    example: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    learning_rate: float = 2e-3
    grid: float = 1.0
    tuned: str = "learning_rate"
    tunable: Mapping[str, Range] = dataclasses.field(default_factory=dict)
    needs: tuple[str, ...] = ()
    stacked: Stacked | None = None
    eval_params: Callable[[Any, Any], Any] = parameters_as_they_are
    variants: Mapping[str, Variant] = dataclasses.field(default_factory=dict)
    golden: str | None = None
    compose: Callable[..., optax.GradientTransformation] | None = None

    @functools.cached_property
    def optimizer_factory(self) -> Callable[..., optax.GradientTransformation]:
        """A function of `learning_rate` and the method's own arguments that builds an optimizer.

        For an optimizer it is `factory`. A wrapper is put around SGD with momentum, a transformation or an aggregator
        before it.
        """
        if self.kind == "function":
            raise TypeError(f"{self.name} is a function, from which no optimizer can be built")
        if self.kind in {"optimizer", "sampler"}:
            return self.factory
        compose = _COMPOSITIONS[self.kind] if self.compose is None else self.compose
        signature = inspect.signature(self.factory, eval_str=True)
        own = list(signature.parameters.values())[1 if self.kind == "wrapper" else 0 :]

        def factory(learning_rate: optax.ScalarOrSchedule, **arguments: Any) -> optax.GradientTransformation:
            if "learning_rate" in signature.parameters:
                arguments["learning_rate"] = learning_rate
            return in_float32(compose(functools.partial(self.factory, **arguments), learning_rate))

        # `inject_hyperparams` cannot see through **arguments.
        rate = inspect.Parameter(
            "learning_rate", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=optax.ScalarOrSchedule
        )
        # The user chooses what updates the leaves outside `applies_to`; nothing does here.
        others = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in own
            if parameter.name not in {"learning_rate", "applies_to"}
        ]
        factory.__name__ = self.name
        factory.__signature__ = inspect.Signature([rate, *others])  # pyright: ignore[reportFunctionMemberAccess]
        return factory

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Keyword arguments with which `optimizer_factory` builds an optimizer for the problems of the contract."""
        return {"learning_rate": self.learning_rate, **self.example} if self.is_composed else self.example

    @property
    def is_composed(self) -> bool:
        """Whether the method needs other transformations, inside or after it, to be an optimizer."""
        return self.kind in _COMPOSITIONS

    @property
    def static(self) -> tuple[str, ...]:
        """The arguments of `optimizer_factory` that cannot be traced: sizes, functions, trees and words."""
        return static_arguments(self.optimizer_factory)

    def optimizer(self, learning_rate: Any, **arguments: Any) -> optax.GradientTransformation:
        """Builds an optimizer with the arguments of the example, as the contract and `compare` do.

        Args:
            learning_rate: The learning rate, a positive number or a schedule. If `tuned` names another hyperparameter,
                it is the value of that one.
            **arguments: Arguments of `factory` that replace those of `example`.

        Returns:
            The method itself if it is an optimizer, otherwise SGD with momentum inside or after it.

        Raises:
            TypeError: If the method is a function.

        Example:
            >>> import jax.numpy as jnp
            >>> import optkit
            >>> tx = optkit.catalog.METHODS["trimmed_mean"].optimizer(0.1)
            >>> state = tx.init(jnp.zeros(2))
        """
        return self.optimizer_factory(**{**self.arguments, self.tuned: learning_rate, **arguments})

    def variant(self, name: str) -> "Method":
        """Returns the entry of one of the variants, whose name is `method:variant`."""
        arguments, grid = self.variants[name]
        example = {**self.example, **arguments}
        return dataclasses.replace(
            self, name=f"{self.name}:{name}", example=example, grid=grid, variants={}, golden=None
        )


def methods_of(*modules: ModuleType) -> tuple[Method, ...]:
    """Gathers the methods that modules list as `METHODS`.

    Args:
        *modules: Modules, each with a tuple of `Method`.

    Returns:
        All methods, in order. Each gets its family, the name of the module or folder below the top-level package.

    Example:
        >>> import optkit.prox
        >>> methods_of(optkit.prox)[0].family
        'prox'
    """
    return tuple(
        dataclasses.replace(method, family=module.__name__.split(".")[:2][-1])
        for module in modules
        for method in module.METHODS
    )


def _sgd(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    return optax.sgd(learning_rate, momentum=0.9)


def _around_sgd(build: Callable[..., Any], learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    return build(_sgd(learning_rate))


def _before_sgd(build: Callable[..., Any], learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    return optax.chain(build(), _sgd(learning_rate))


_COMPOSITIONS = {"wrapper": _around_sgd, "transformation": _before_sgd, "aggregator": _before_sgd}
