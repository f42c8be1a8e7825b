"""What the catalog says of a method."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from optkit.core.injection import static_arguments

Rows = Literal["microbatches", "samples", "classes", "objectives"]
Kind = Literal["transformation", "wrapper", "optimizer", "sampler", "aggregator", "topology", "compressor"]


class Paper(NamedTuple):
    """Where a method was published.

    Attributes:
        title: the paper's title.
        authors: its authors, "First et al." beyond three.
        year: year of the first version.
        arxiv: the arXiv id, for example "2310.05898".
    """

    title: str
    authors: str
    year: int
    arxiv: str


class Variant(NamedTuple):
    """Further arguments with which a method is worth comparing.

    Attributes:
        arguments: keyword arguments of the factory, beside and before those of the method's example.
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
    """One entry of the catalog.

    Attributes:
        name: the name by which users find it; unique.
        factory: builds the method from keyword arguments, `learning_rate` among them; for a wrapper it builds the inner
            optimizer too, from the same `learning_rate`.
        family: the folder that it lives in.
        kind: what the factory makes; a sampler is an optimizer whose parameters go on moving around a distribution.
        summary: one line.
        paper: where it was published.
        example: keyword arguments with which `factory` builds something usable.
        grid: centre of the grid of learning rates (or of `tuned`) that `compare` searches.
        tuned: the hyperparameter that is tuned.
        needs: extra arguments of `update` (`"grad_fn"`, `"value_fn"`, `"value"`, `"prev_grads"`, `"full_grad_fn"`) or
            `"axis_name"`, without which the method cannot work.
        rows: what the leading axis of the gradients that `update` takes, and removes, stands for: None where there is
            none; "microbatches" for equal parts of the batch, and "samples" for its examples, whose mean is the batch's
            gradient; "objectives" for the gradients of several losses; "classes" for the classes' shares in the batch's
            gradient, which is their sum. With "classes" the extra argument `class_counts` says how many examples of
            each class the batch has.
        eval_params: gives the parameters to report, from the optimizer's state and the parameters of the loop.
        variants: further arguments worth comparing, by name; in `compare` they are called `name:variant`.
        golden: name of the recorded trajectories that it replays, where that is not `name`.
    """

    name: str
    factory: Callable[..., Any]
    family: str
    kind: Kind
    summary: str
    paper: Paper
    example: Mapping[str, Any]
    grid: float
    tuned: str = "learning_rate"
    needs: tuple[str, ...] = ()
    rows: Rows | None = None
    eval_params: Callable[[Any, Any], Any] = parameters_as_they_are
    variants: Mapping[str, Variant] = dataclasses.field(default_factory=dict)
    golden: str | None = None

    @property
    def static(self) -> tuple[str, ...]:
        """The arguments of `factory` that cannot be traced, by their annotations: sizes, functions, trees, words."""
        return static_arguments(self.factory)

    def variant(self, name: str) -> "Method":
        """Returns the entry of one of the variants, named `method:variant`."""
        arguments, grid = self.variants[name]
        example = {**self.example, **arguments}
        return dataclasses.replace(
            self, name=f"{self.name}:{name}", example=example, grid=grid, variants={}, golden=None
        )
