import optax
import pytest
from golden_files import assert_replays, replays

import optkit
from optkit.testing.golden import replay_gradients

KAPPAS = {
    "group": lambda _: optkit.kappa.group(),
    "huber": lambda h: optkit.kappa.huber(h["kappa_args.e"]),
    "lp": lambda h: optkit.kappa.lp(h["kappa_args.p"]),
    "nuclear": lambda _: optkit.kappa.nuclear(),
    "relativistic": lambda h: optkit.kappa.relativistic(h["kappa_args.e"]),
    "soft": lambda h: optkit.kappa.soft(h["kappa_args.e"]),
    "topk": lambda h: optkit.kappa.top_k(h["kappa_args.k"]),
}


EPS_PLACEMENTS = {
    "before bias correction": "pre",
    "before bias correction: lr*sqrt(1-b2^t)/(1-b1^t) * sign(g)|m| / (sqrt(v)+eps)": "pre",
}


def lion_hyperparams(recording):
    return recording.hyperparams.take("learning_rate", "b1", "b2", "weight_decay")


def adam_hyperparams(recording):
    """Translates the authors' words."""
    placement = recording.hyperparams.word("eps_placement", EPS_PLACEMENTS)
    return {
        **recording.hyperparams.take("learning_rate", "b1", "b2", "eps", "weight_decay", "bias_correction"),
        "eps_placement": placement,
    }


@pytest.mark.slow
@replays("lion")
def test_golden_lion_kappa_is_lion(recording):
    assert_replays(recording, replay_gradients(optkit.lion_kappa(**lion_hyperparams(recording)), recording))


@replays("lion")
def test_golden_optax_lion_is_lion(recording):
    assert_replays(recording, replay_gradients(optax.lion(**lion_hyperparams(recording)), recording))


@replays("lion_k")
def test_golden_lion_kappa(recording):
    kappa = recording.hyperparams.word("kappa", KAPPAS)(recording.hyperparams)
    decay = recording.hyperparams.take("implicit_decay")
    tx = optkit.lion_kappa(kappa=kappa, **lion_hyperparams(recording), **decay)
    assert_replays(recording, replay_gradients(tx, recording))


@replays("signum")
def test_golden_signum(recording):
    hyperparams = recording.hyperparams.take("learning_rate", "b1", "weight_decay")
    assert_replays(recording, replay_gradients(optkit.signum(**hyperparams), recording))


@replays("c_adamw")
def test_golden_cautious_adamw(recording):
    recording.hyperparams.word("mask_scale", ("1/max(mean(mask),1e-3) per leaf",))
    assert_replays(recording, replay_gradients(optkit.cautious_adamw(**adam_hyperparams(recording)), recording))


@replays("c_lion")
def test_golden_cautious_lion(recording):
    recording.hyperparams.word("mask_scale", ("numel/(sum(mask)+1) per leaf",))
    assert_replays(recording, replay_gradients(optkit.cautious_lion(**lion_hyperparams(recording)), recording))


@replays("grams")
def test_golden_grams(recording):
    assert_replays(recording, replay_gradients(optkit.grams_adamw(**adam_hyperparams(recording)), recording))
