"""Whether clipping the largest coordinates of the gradient makes SGD and Adam faster."""

from collections.abc import Callable

import numpy as np
import optax

import optkit
from experiments import tasks
from experiments.claims import Claim, Finding
from experiments.claims.sign_momentum import NETWORK
from experiments.claims.trainings import DIGITS, SEEDS, train
from optkit.comparison.statistics import student

BATCH, STEPS = 64, 300
FRACTION = 0.1
RATES = {
    "SGD": (0.1, 0.3, 1.0, 3.0, 10.0),
    "clipped SGD": (0.3, 1.0, 3.0, 10.0, 30.0),
    "Adam": (3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    "Adam after clipping": (3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
}
BUILDS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "SGD": optax.sgd,
    "clipped SGD": lambda rate: optax.chain(optkit.clip_by_quantile(FRACTION), optax.sgd(rate)),
    "Adam": optax.adam,
    "Adam after clipping": lambda rate: optax.chain(optkit.clip_by_quantile(FRACTION), optax.adam(rate)),
}


def measure() -> Finding:
    """Trains by all four."""
    task, falling = tasks.load(DIGITS), optax.linear_schedule(1.0, 0.0, STEPS)
    losses, said = {}, []
    for name, build in BUILDS.items():
        scores = train(task, build, RATES[name], batch_size=BATCH, steps=STEPS, schedule=falling)
        best = scores.at_best("loss", of_train=True)
        losses[name] = best.train["loss"]
        said.append(f"{name} {losses[name].mean():.2g} (rate {best.setting:g})")
    holds = True
    for name, other in (("clipped SGD", "SGD"), ("Adam after clipping", "Adam")):
        ratio = student(np.log(losses[name] / losses[other]))
        holds &= ratio.high < 0
        low, mean, high = np.exp([ratio.low, ratio.mean, ratio.high])
        said.append(f"{name} {mean:.2f} [{low:.2f}, {high:.2f}] times {other}")
    return Finding(f"loss: {'; '.join(said)}", bool(holds))


CLAIM = Claim(
    method="clip_by_quantile",
    arxiv="2306.00204",
    statement="Clipping the largest coordinates of the gradient makes SGD and Adam faster.",
    experiment=(
        f"{NETWORK[0].upper()}{NETWORK[1:]}, batches of {BATCH}, {STEPS} steps at a rate that falls linearly to zero,"
        f" the best of {len(RATES['SGD'])} rates each; {FRACTION:.0%} of the coordinates clipped;"
        f" loss of all training examples at the end, {SEEDS} seeds."
    ),
    required=(
        "for both the geometric mean over seeds of the ratio to the loss without clipping, with its 95% interval, below"
        " 1"
    ),
    measure=measure,
)
