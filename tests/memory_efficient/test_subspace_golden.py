import jax.numpy as jnp
import numpy as np
import optax
from golden_files import assert_replays, replays
from optax.contrib import MuonDimensionNumbers

from optkit.core.adam import scale_by_adam
from optkit.core.decay import decayed_after_step
from optkit.memory_efficient.along_projections import in_and_outside
from optkit.memory_efficient.blocks import block_projector
from optkit.memory_efficient.frugal import frugal_adamw, frugal_along_projections, only_rest
from optkit.memory_efficient.matrices import is_matrix
from optkit.memory_efficient.snsm import adagrad_snsm, adam_snsm, sgd_sm
from optkit.memory_efficient.subset_norm import scale_by_subset_norm
from optkit.memory_efficient.subspace_momentum import momentum_along_projections
from optkit.memory_efficient.subspaces import subspace_projector
from optkit.testing import golden

OUTPUTS_FIRST = MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)
RULES = {"sign_sgd": "sign", "sgd": "sgd", "no": None}


def recorded_projections(recording, projector):
    """The recorded projection of each leaf that has one, time first, in the form of a projector's own."""
    recorded = recording.tree("draws.projector")

    def projection(name, p):
        if name not in recorded:
            return optax.MaskedNode()
        start = projector.start(jnp.asarray(p))
        if not isinstance(start, tuple):
            return recorded[name].astype(start.dtype)
        return tuple(None if side is None else recorded[name] for side in start)

    return {name: projection(name, p) for name, p in recording.tree("params0").items()}


def refreshes(recording, gap, *, first_count):
    """In which steps projections are new, where steps are counted from `first_count`."""
    counts = np.arange(len(next(iter(recording.tree("grads").values()))))
    return (counts == 0) | ((counts + first_count) % gap == 0)


def options(recording):
    """What the recorded run was made with, in our words."""
    recorded = recording.hyperparams
    matrices = recorded["matrix_leaves"]
    return {
        "learning_rate": recorded["learning_rate"],
        "b1": recorded["b1"],
        "weight_decay": recorded["weight_decay"],
        "projector": subspace_projector(matrices["proj_type"], rank=matrices["rank"]),
        "update_gap": matrices["update_proj_gap"],
        "reset": "after" if "AS IS" in recording.meta["source"] else "before",
        "weight_dimension_numbers": OUTPUTS_FIRST,
    }


def preconditioned(recording, momentum):
    """The recorded optimizer around a momentum."""
    recorded = recording.hyperparams
    direction = momentum
    if recorded["second_moment_type"] != "none":
        direction = scale_by_subset_norm(
            None if recorded["b2"] == 1 else recorded["b2"],
            recorded["eps"],
            recorded["matrix_leaves"]["subset_size"],
            momentum=momentum,
            weight_dimension_numbers=OUTPUTS_FIRST,
            bias_correction=recorded["bias_correction"],
        )
    return decayed_after_step(recorded["learning_rate"], direction, recorded["weight_decay"], None)


@replays("adam_snsm", "adagrad_snsm", "sgd_sm")
def test_golden_snsm_along_recorded_projections(recording):
    recorded = recording.hyperparams
    used = options(recording)
    debias = recorded["bias_correction"]
    inside = momentum_along_projections(used["b1"], used["projector"], debias=debias, reset=used["reset"])
    outside = optax.ema(used["b1"], debias=debias)
    momentum = in_and_outside(inside, outside, used["projector"], is_matrix, OUTPUTS_FIRST)
    extra_args = {
        "projections": recorded_projections(recording, used["projector"]),
        "refreshed": refreshes(recording, used["update_gap"], first_count=1),
    }
    assert_replays(recording, golden.replay_gradients(preconditioned(recording, momentum), recording, extra_args))


def is_reproducible(recording):
    """Whether the run follows from its gradients: nothing is drawn, and the signs of singular vectors do not matter."""
    used = options(recording)
    return not used["projector"].draws and used["reset"] == "before"


@replays("adam_snsm", "adagrad_snsm", "sgd_sm")
def test_golden_snsm_whole(recording):
    """The named optimizer finds the subspaces itself, and the run is the recorded one unless they were drawn."""
    used = options(recording)
    recorded = recording.hyperparams
    method = recording.meta["method"]
    if method != "sgd_sm":
        used |= {"eps": recorded["eps"], "subset_size": recorded["matrix_leaves"]["subset_size"]}
    if method == "adam_snsm":
        used |= {"b2": recorded["b2"], "bias_correction": recorded["bias_correction"]}
    if used["projector"].draws:
        used["key"] = 0
    tx = {"adam_snsm": adam_snsm, "adagrad_snsm": adagrad_snsm, "sgd_sm": sgd_sm}[method](**used)
    trajectory = golden.replay_gradients(tx, recording)
    deviation = golden.deviation(trajectory, recording.tree("params"))
    assert (deviation <= recording.meta["rtol"]) == is_reproducible(recording)


def recorded_projector(recording):
    recorded = recording.hyperparams
    if "rank" in recorded:
        return subspace_projector("svd", rank=recorded["rank"], side=recorded["proj_type"])
    if "block_order" in recorded:
        return block_projector(recorded["density"], recorded["block_order"])
    if "coord_choice" in recorded:
        return subspace_projector(recorded["coord_choice"], density=recorded["density"])
    return subspace_projector(recorded["proj_type"], density=recorded["density"], side=recorded["proj_side"])


def along_recorded_projections(recording, inner, gap, **options):
    """The recorded direction, and its extra arguments."""
    projector = recorded_projector(recording)
    projections = recorded_projections(recording, projector)
    leaves = {name: not isinstance(p, optax.MaskedNode) for name, p in projections.items()}
    inside = frugal_along_projections(inner, projector, **options)
    options.pop("reset")
    direction = in_and_outside(inside, inner, projector, leaves, OUTPUTS_FIRST, only_rest(**options))
    return direction, {"projections": projections, "refreshed": refreshes(recording, gap, first_count=0)}


@replays("frugal_adamw", "frugal_lion")
def test_golden_frugal(recording):
    recorded = recording.hyperparams
    b1, b2 = recorded["b1"], recorded["b2"]
    is_adam = recording.meta["method"] == "frugal_adamw"
    inner = optax.scale_by_adam(b1, b2, recorded["eps"]) if is_adam else optax.scale_by_lion(b1, b2)
    direction, extra_args = along_recorded_projections(
        recording,
        inner,
        recorded["update_gap"],
        rest=RULES[recorded.get("inactive_update_rule", "sign_sgd")],
        rest_scale=recorded.get("inactive_lr_scale", 1.0),
        scale=recorded.get("proj_params_lr_scale", 1.0),
        reset=recorded.get("reset_statistics", True),
    )
    tx = optax.chain(
        direction,
        optax.add_decayed_weights(recorded["weight_decay"]),
        optax.scale_by_learning_rate(recorded["learning_rate"]),
    )
    assert_replays(recording, golden.replay_gradients(tx, recording, extra_args))


@replays("frugal_adamw")
def test_golden_frugal_whole(recording):
    """Where the state begins anew with each subspace, the signs of singular vectors do not matter."""
    recorded = recording.hyperparams
    projector = recorded_projector(recording)
    reset = recorded.get("reset_statistics", True)
    tx = frugal_adamw(
        recorded["learning_rate"],
        recorded["b1"],
        recorded["b2"],
        recorded["eps"],
        recorded["weight_decay"],
        projector=projector,
        update_gap=recorded["update_gap"],
        rest=RULES[recorded.get("inactive_update_rule", "sign_sgd")],
        rest_scale=recorded.get("inactive_lr_scale", 1.0),
        scale=recorded.get("proj_params_lr_scale", 1.0),
        reset=reset,
        leaves={name: name in recorded["projected_leaves"] for name in recording.tree("params0")},
        weight_dimension_numbers=OUTPUTS_FIRST,
        key=0 if projector.draws else None,
    )
    deviation = golden.deviation(golden.replay_gradients(tx, recording), recording.tree("params"))
    assert deviation <= recording.meta["rtol"] or recorded.get("proj_type") != "svd" or not reset


@replays("galore_adamw")
def test_golden_galore(recording):
    recorded = recording.hyperparams
    adam = scale_by_adam(recorded["b1"], recorded["b2"], recorded["eps"], eps_placement="pre")
    direction, extra_args = along_recorded_projections(
        recording, adam, recorded["update_proj_gap"], rest=None, rest_scale=1.0, scale=recorded["scale"], reset=False
    )
    tx = decayed_after_step(recorded["learning_rate"], direction, recorded["weight_decay"], None)
    assert_replays(recording, golden.replay_gradients(tx, recording, extra_args))
