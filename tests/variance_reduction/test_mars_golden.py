import functools

import jax.numpy as jnp
import optax
from golden_files import assert_replays, replays

import optkit
from optkit.core.adam import scale_by_adam
from optkit.core.amsgrad import scale_by_amsgrad
from optkit.testing.golden import replay_gradients, replay_oracle

NEWTON_SCHULZ = optkit.linalg.newton_schulz
OPTIMIZERS = {"mars-adamw": optkit.mars_adamw, "mars-lion": optkit.mars_lion, "mars-shampoo": optkit.mars_shampoo}


def newton_schulz_dtype(recording):
    """Runs of the released code say so; the others were made without its cast."""
    return jnp.bfloat16 if "bfloat16 as released" in recording.meta["notes"] else None


def mars(recording):
    """Translates the authors' words into ours."""
    given = recording.hyperparams
    optimizer = given.word("variant", OPTIMIZERS)
    adam_of_matrices = given.take("b2", "eps", "amsgrad")
    newton_schulz = functools.partial(NEWTON_SCHULZ, eps=given["eps"], dtype=newton_schulz_dtype(recording))
    of_matrices = {
        "mars-adamw": adam_of_matrices,
        "mars-lion": {},  # It has none of these, though its runs record them.
        "mars-shampoo": {**given.take("b2", "eps"), "orthogonalize": newton_schulz},
    }
    assert not (optimizer is optkit.mars_shampoo and given["amsgrad"])  # Its Adam of vectors is the plain one.
    adam = scale_by_amsgrad if given["amsgrad"] else optax.scale_by_adam
    return optimizer(
        **given.take("learning_rate", "b1", "weight_decay", "gamma"),
        **given.word("variant", of_matrices),
        corrected=True if given["optimize_1d"] else None,
        correction=optkit.MarsCorrection(**given.take("exact", max_norm="max_correction_norm")),
        others=optax.chain(
            adam(given["b1_1d"], given["b2_1d"], given["eps"]),
            optax.add_decayed_weights(given["weight_decay_1d"]),
            optax.scale_by_learning_rate(given["lr_1d"]),
        ),
    )


def mars_m(recording):
    given = recording.hyperparams
    one_buffer = given["memory_efficient"]
    assert not one_buffer or given["max_correction_norm"] is None
    adam = scale_by_adam(given["adamw_b1"], given["adamw_b2"], given["adamw_eps"], eps_placement="pre")
    return optkit.mars_m(
        **given.take("learning_rate", "weight_decay", "gamma", b1="beta"),
        orthogonalize=functools.partial(NEWTON_SCHULZ, steps=given["ns_steps"], dtype=newton_schulz_dtype(recording)),
        correction=optkit.MarsCorrection(**given.take("exact", max_norm="max_correction_norm")),
        others=optax.chain(
            adam,
            optax.add_decayed_weights(given["weight_decay"]),
            optax.scale_by_learning_rate(given["learning_rate"]),
        ),
    )


def replay(tx, recording):
    return replay_oracle(tx, recording) if recording.meta["kind"] == "oracle" else replay_gradients(tx, recording)


@replays("mars")
def test_golden_mars(recording):
    assert_replays(recording, replay(mars(recording), recording))


@replays("mars_m")
def test_golden_mars_m(recording):
    assert_replays(recording, replay(mars_m(recording), recording))
