"""Whether Grams's step, which suits its batch best, also decreases the loss of all examples the fastest."""

import numpy as np

from experiments.claims import Claim, Finding
from experiments.claims.sign_momentum import interval
from experiments.claims.sign_momentum.grams_decrease_on_the_batch import (
    SETTING,
    SIZES,
    WRAPPERS,
    decreases,
    size_in_words,
)
from optkit.comparison.statistics import student


def measure() -> Finding:
    """Compares the decreases of the loss of all examples."""
    said, holds, shares = [], True, []
    for size in SIZES:
        decrease, length = np.moveaxis(decreases(size)[..., 1:], -1, 0)
        # Over the whole run of a seed.
        found = dict(zip(WRAPPERS, np.mean(decrease, axis=1).T, strict=True))
        unit = dict(zip(WRAPPERS, np.mean(decrease / length, axis=(0, 1)), strict=True))
        ratios = {name: student(found[name] / found["Adam"]) for name in list(WRAPPERS)[1:]}
        shares.append([estimate.mean for estimate in ratios.values()])
        others = found["Adam"], found["cautious without rescaling"]
        holds &= all(student(found["Grams"] - other).low > 0 for other in others)
        listed = ", ".join(
            f"{name} {interval(estimate)}, at equal length {unit[name] / unit['Adam']:.2f}"
            for name, estimate in ratios.items()
        )
        said.append(f"{size_in_words(size)}: {listed}")

    def draw(axes):
        for name, line in zip(list(WRAPPERS)[1:], np.transpose(shares), strict=True):
            axes.plot(range(len(SIZES)), line, marker="o", label=name)
        axes.axhline(1, color="gray", label="Adam")
        axes.set_xticks(range(len(SIZES)), [size_in_words(size) for size in SIZES])
        axes.set_ylabel("decrease of the whole loss, of Adam's")
        axes.legend()

    return Finding(f"decrease in units of Adam's, mean and 95% interval: {'; '.join(said)}", holds, draw)


CLAIM = Claim(
    method="grams",
    arxiv="2412.17107",
    statement="To first order Grams decreases the loss more than Adam and a cautious step without rescaling.",
    experiment=f"{SETTING}, where g is the gradient of all examples; mean over the steps.",
    required=(
        "more than both at every batch size, with paired 95% intervals of the differences above zero; the rescaled"
        " cautious step, and decreases divided by the lengths of the updates, reported"
    ),
    measure=measure,
)
