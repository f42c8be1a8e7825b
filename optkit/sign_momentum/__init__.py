"""Sign momentum: Lion with any convex kappa, Signum, cautious updates, Grams."""

from optkit.method import methods_of
from optkit.sign_momentum import _cautious, _cautious_decay, _grams, _lion_kappa, _signum, kappa
from optkit.sign_momentum._cautious import cautious, cautious_adamw, cautious_lion
from optkit.sign_momentum._cautious_decay import add_cautious_decayed_weights
from optkit.sign_momentum._grams import grams, grams_adamw
from optkit.sign_momentum._lion_kappa import lion_kappa, scale_by_lion_kappa
from optkit.sign_momentum._signum import signum

__all__ = [
    "add_cautious_decayed_weights",
    "cautious",
    "cautious_adamw",
    "cautious_lion",
    "grams",
    "grams_adamw",
    "lion_kappa",
    "scale_by_lion_kappa",
    "signum",
]

METHODS = methods_of(_lion_kappa, _signum, _cautious, _cautious_decay, _grams, kappa)
