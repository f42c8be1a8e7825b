import optax
from golden_files import assert_replays, replays

import optkit
from optkit.testing.golden import replay_gradients

KAPPAS = {
    "l1": optkit.kappa_l1,
    "lp": optkit.kappa_lp,
    "linf": optkit.kappa_linf,
    "soft": optkit.kappa_soft,
    "topk": optkit.kappa_top_k,
    "huber": optkit.kappa_huber,
    "l2": optkit.kappa_half_squared_l2,
    "halfl2": optkit.kappa_half_squared_l2,
    "halfsquaredl2": optkit.kappa_half_squared_l2,
    "group": optkit.kappa_group,
    "nuclear": optkit.kappa_nuclear,
    "relativistic": optkit.kappa_relativistic,
    "logcosh": optkit.kappa_log_cosh,
    "entropy": optkit.kappa_log_cosh,
    "logsumexp": optkit.kappa_log_sum_exp,
}


def adam_hyperparams(recording):
    """Translates the authors' words: how epsilon was placed and the mask scaled is what the named optimizers do."""
    hyperparams = recording.hyperparams
    hyperparams.pop("mask_scale", None)
    before = hyperparams.pop("eps_placement").startswith("before")
    return {**hyperparams, "eps_placement": "pre" if before else "post"}


@replays("lion")
def test_golden_lion_kappa_is_lion(recording):
    assert_replays(recording, replay_gradients(optkit.lion_kappa(**recording.hyperparams), recording))


@replays("lion")
def test_golden_optax_lion_is_lion(recording):
    assert_replays(recording, replay_gradients(optax.lion(**recording.hyperparams), recording))


@replays("lion_k")
def test_golden_lion_kappa(recording):
    hyperparams = recording.hyperparams
    kappa = KAPPAS[hyperparams.pop("kappa").replace("_", "")](*hyperparams.pop("kappa_args").values())
    assert_replays(recording, replay_gradients(optkit.lion_kappa(kappa=kappa, **hyperparams), recording))


@replays("signum")
def test_golden_signum(recording):
    assert_replays(recording, replay_gradients(optkit.signum(**recording.hyperparams), recording))


@replays("c_adamw")
def test_golden_cautious_adamw(recording):
    assert_replays(recording, replay_gradients(optkit.cautious_adamw(**adam_hyperparams(recording)), recording))


@replays("c_lion")
def test_golden_cautious_lion(recording):
    hyperparams = recording.hyperparams
    hyperparams.pop("mask_scale")
    assert_replays(recording, replay_gradients(optkit.cautious_lion(**hyperparams), recording))


@replays("grams")
def test_golden_grams(recording):
    assert_replays(recording, replay_gradients(optkit.grams_adamw(**adam_hyperparams(recording)), recording))
