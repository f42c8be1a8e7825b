"""How a method is listed: what the catalog, the contract, the documentation and `compare` read of it.

A module lists its methods as `METHODS`, a tuple of `Method`; a family, or anybody's own package, gathers them by
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

__all__ = ["Kind", "Method", "Paper", "Stacked", "Variant", "methods_of"]

Stacked = Literal["microbatches", "samples", "classes", "objectives"]
Kind = Literal["transformation", "wrapper", "optimizer", "sampler", "aggregator", "function"]


class Paper(NamedTuple):
    """Where a method was published.

    Attributes:
        title: the paper's title.
        authors: its authors, "First et al." beyond three.
        year: year of the first version.
        arxiv: the arXiv id, for example "2310.05898"; empty for a paper that is not on arXiv.
    """

    title: str
    authors: str
    year: int
    arxiv: str = ""


class Variant(NamedTuple):
    """Further arguments with which a method is worth comparing.

    Attributes:
        arguments: keyword arguments of the factory, which replace those of the method's example.
        grid: centre of their grid of learning rates.
    """

    arguments: Mapping[str, Any]
    grid: float


def parameters_as_they_are(state: Any, params: Any) -> Any:
    """Returns `params`: what most methods report is what the training loop holds."""
    del state
    return params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """One entry of a catalog.

    Attributes:
        name: the name by which users find it, a public one: `optkit.<name>` exists for all methods of optkit.
        factory: the method itself, of the kind that `kind` says.
        kind: what `factory` is. An "optimizer" takes `learning_rate` first; a "sampler" is one whose parameters go on
            moving around a distribution; a "wrapper" takes an inner transformation first; a "transformation" and an
            "aggregator" take hyperparameters only; a "function" is anything else that users may look for, data and
            tools, and has no more than a name, a factory, a summary, other names and a paper.
        summary: one sentence.
        paper: where it was published, if anywhere.
        also_known_as: further names that people look for: acronyms, names in other papers and libraries.
        parts: what else is public of it: the transformations that an optimizer chains, tools, states' readers.
        family: where it is listed: the module or folder below its top-level package; `methods_of` fills it in.
        example: keyword arguments with which `factory` builds something usable.
        learning_rate: with which the optimizer around a wrapper, a transformation or an aggregator solves the
            contract's problems; an optimizer has it in `example`.
        grid: centre of the grid of learning rates (or of `tuned`) that `compare` searches.
        tuned: the hyperparameter that is tuned.
        needs: extra arguments of `update` (`"grad_fn"`, `"value_fn"`, `"value"`, `"prev_grads"`, `"full_grad_fn"`) or
            `"axis_name"`, without which the method cannot work.
        stacked: what the leading axis of the gradients that `update` takes, and removes, stands for: None where there
            is none; "microbatches" for equal parts of the batch, and "samples" for its examples, whose mean is the
            batch's gradient; "objectives" for the gradients of several losses; "classes" for the classes' shares in the
            batch's gradient, which is their sum. With "classes" the extra argument `class_counts` says how many
            examples of each class the batch has.
        eval_params: gives the parameters to report, from the optimizer's state and the parameters of the loop.
        variants: further arguments worth comparing, by name; in `compare` they are called `name:variant`.
        golden: name of the recorded trajectories that it replays, where that is not `name`.
        compose: makes an optimizer of the method where its kind's own way does not: called with a function that builds
            the method and with a learning rate.
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
    needs: tuple[str, ...] = ()
    stacked: Stacked | None = None
    eval_params: Callable[[Any, Any], Any] = parameters_as_they_are
    variants: Mapping[str, Variant] = dataclasses.field(default_factory=dict)
    golden: str | None = None
    compose: Callable[..., optax.GradientTransformation] | None = None

    @functools.cached_property
    def optimizer_factory(self) -> Callable[..., optax.GradientTransformation]:
        """A function of `learning_rate` and the method's own arguments that builds an optimizer.

        That is `factory` for an optimizer. A wrapper stands around SGD with momentum, a transformation or an aggregator
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
        # What moves the leaves outside `applies_to` is the user's choice, and none is made here.
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
        """Keyword arguments with which `optimizer_factory` builds something that solves the contract's problems."""
        return {"learning_rate": self.learning_rate, **self.example} if self.is_composed else self.example

    @property
    def is_composed(self) -> bool:
        """Whether the method becomes an optimizer only with others around or behind it."""
        return self.kind in _COMPOSITIONS

    @property
    def static(self) -> tuple[str, ...]:
        """The arguments of `optimizer_factory` that cannot be traced: sizes, functions, trees, words."""
        return static_arguments(self.optimizer_factory)

    def optimizer(self, learning_rate: Any, **arguments: Any) -> optax.GradientTransformation:
        """Builds an optimizer with the example's arguments: what the contract and `compare` run.

        Args:
            learning_rate: a number or a schedule; the value of `tuned`, where that is another hyperparameter.
            **arguments: arguments of `factory` that replace those of `example`.

        Returns:
            The method itself if it is an optimizer, else SGD with momentum in or after it.

        Raises:
            TypeError: if the method is a function.

        Example:
            >>> import jax.numpy as jnp
            >>> import optkit
            >>> tx = optkit.catalog.METHODS["trimmed_mean"].optimizer(0.1)
            >>> state = tx.init(jnp.zeros(2))
        """
        return self.optimizer_factory(**{**self.arguments, self.tuned: learning_rate, **arguments})

    def variant(self, name: str) -> "Method":
        """Returns the entry of one of the variants, named `method:variant`."""
        arguments, grid = self.variants[name]
        example = {**self.example, **arguments}
        return dataclasses.replace(
            self, name=f"{self.name}:{name}", example=example, grid=grid, variants={}, golden=None
        )


def methods_of(*modules: ModuleType) -> tuple[Method, ...]:
    """Gathers the methods that modules list as `METHODS`.

    Args:
        *modules: modules, each with a tuple of `Method`.

    Returns:
        All of them, in order, with their family: the name of the module or folder below the top-level package.

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
