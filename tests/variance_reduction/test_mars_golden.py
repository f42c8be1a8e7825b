import jax.numpy as jnp
from golden_files import assert_replays, replays

import optkit
from optkit.testing.golden import replay_gradients, replay_oracle
from optkit.variance_reduction.mars_chain import is_matrix

OPTIMIZERS = {"mars-adamw": optkit.mars_adamw, "mars-lion": optkit.mars_lion, "mars-shampoo": optkit.mars_shampoo}


def newton_schulz_dtype(recording):
    """Runs of the released code say so; the others were made without its cast."""
    return jnp.bfloat16 if "bfloat16 as released" in recording.meta["notes"] else None


def mars(recording):
    """Translates the authors' words into ours."""
    given = recording.hyperparams
    optimizer = given.word("variant", OPTIMIZERS)
    b2 = given.take("b2")
    of_matrices = {
        "mars-adamw": b2,
        "mars-lion": {},  # It has no b2, though its runs record one.
        "mars-shampoo": {**b2, "newton_schulz_dtype": newton_schulz_dtype(recording)},
    }
    return optimizer(
        **given.take("learning_rate", "b1", "eps", "weight_decay", "amsgrad", "gamma", "exact"),
        **given.take("b1_1d", "b2_1d", "weight_decay_1d", max_norm="max_correction_norm"),
        **given.word("variant", of_matrices),
        corrected=True if given["optimize_1d"] else is_matrix,
        learning_rate_ratio_1d=given["lr_1d"] / given["learning_rate"],
    )


def mars_m(recording):
    given = recording.hyperparams
    one_buffer = given["memory_efficient"]
    assert not one_buffer or given["max_correction_norm"] is None
    return optkit.mars_m(
        **given.take("learning_rate", "weight_decay", "gamma", "exact", "adamw_b1", "adamw_b2", "adamw_eps"),
        **given.take(b1="beta", newton_schulz_steps="ns_steps", max_norm="max_correction_norm"),
        newton_schulz_dtype=newton_schulz_dtype(recording),
    )


def replay(tx, recording):
    return replay_oracle(tx, recording) if recording.meta["kind"] == "oracle" else replay_gradients(tx, recording)


@replays("mars")
def test_golden_mars(recording):
    assert_replays(recording, replay(mars(recording), recording))


@replays("mars_m")
def test_golden_mars_m(recording):
    assert_replays(recording, replay(mars_m(recording), recording))
