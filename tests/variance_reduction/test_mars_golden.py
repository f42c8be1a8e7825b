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
    arguments = {
        "max_norm": given.pop("max_correction_norm"),
        "corrected": True if given.pop("optimize_1d") else is_matrix,
        "learning_rate_ratio_1d": given.pop("lr_1d") / given["learning_rate"],
    }
    variant = given.pop("variant")
    if variant == "mars-lion":
        given.pop("b2")
    if variant == "mars-shampoo":
        arguments["newton_schulz_dtype"] = newton_schulz_dtype(recording)
    return OPTIMIZERS[variant](**given, **arguments)


def mars_m(recording):
    given = recording.hyperparams
    one_buffer = given.pop("memory_efficient")
    assert not one_buffer or given["max_correction_norm"] is None
    return optkit.mars_m(
        b1=given.pop("beta"),
        newton_schulz_steps=given.pop("ns_steps"),
        max_norm=given.pop("max_correction_norm"),
        newton_schulz_dtype=newton_schulz_dtype(recording),
        **given,
    )


def replay(tx, recording):
    return replay_oracle(tx, recording) if recording.meta["kind"] == "oracle" else replay_gradients(tx, recording)


@replays("mars")
def test_golden_mars(recording):
    assert_replays(recording, replay(mars(recording), recording))


@replays("mars_m")
def test_golden_mars_m(recording):
    assert_replays(recording, replay(mars_m(recording), recording))
