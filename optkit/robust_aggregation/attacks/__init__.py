"""Attacks: what workers send that want to spoil training, and simulations of such workers."""

from optkit.method import methods_of
from optkit.robust_aggregation.attacks import _messages, _strongest, _under_attack
from optkit.robust_aggregation.attacks._messages import (
    a_little_is_enough,
    gaussian_noise,
    hidden_deviations,
    inner_product_manipulation,
    label_flip,
    long_among_kept,
    mimic,
    outlying_worker,
    send_nan,
    shifted_mean,
    sign_flip,
)
from optkit.robust_aggregation.attacks._protocols import Attack, AttackByNumber
from optkit.robust_aggregation.attacks._strongest import strongest
from optkit.robust_aggregation.attacks._under_attack import attacked_mix, under_attack

__all__ = [
    "Attack",
    "AttackByNumber",
    "a_little_is_enough",
    "attacked_mix",
    "gaussian_noise",
    "hidden_deviations",
    "inner_product_manipulation",
    "label_flip",
    "long_among_kept",
    "mimic",
    "outlying_worker",
    "send_nan",
    "shifted_mean",
    "sign_flip",
    "strongest",
    "under_attack",
]

METHODS = methods_of(_messages, _strongest, _under_attack)
