import jax
import numpy as np
import optax
import pytest
from golden_files import assert_replays, replays
from optax.contrib import MuonDimensionNumbers

from optkit.core.adam import scale_by_adam
from optkit.core.decay import decayed_after_step
from optkit.memory_efficient._adagrad_snsm import adagrad_snsm
from optkit.memory_efficient._adam_snsm import adam_snsm
from optkit.memory_efficient._block_projector import block_projector
from optkit.memory_efficient._frugal import frugal, frugal_along_projections
from optkit.memory_efficient._frugal_adamw import frugal_adamw
from optkit.memory_efficient._frugal_rest import only_rest
from optkit.memory_efficient._sgd_sm import sgd_sm
from optkit.memory_efficient._subset_norm import scale_by_subset_norm
from optkit.memory_efficient._subspace_momentum import momentum_along_projections, subspace_momentum
from optkit.memory_efficient._subspace_optimizer import in_and_outside
from optkit.memory_efficient._subspaces import subspace_projector
from optkit.testing import golden

pytestmark = pytest.mark.slow

OUTPUTS_FIRST = MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)
RULES = {"sgd": "sgd"}


def recorded_projections(recording, projector):
    """The recorded projection of each leaf that has one, time first, in the form of a projector's own."""
    recorded = recording.tree("draws.projector")

    def projection(name, p):
        if name not in recorded:
            return optax.MaskedNode()
        start = jax.eval_shape(projector.start, p)
        if not isinstance(start, tuple):
            return recorded[name].astype(start.dtype)
        return tuple(None if side is None else recorded[name] for side in start)

    return {name: projection(name, p) for name, p in recording.tree("params0").items()}


def refreshes(recording, gap, *, first_count):
    """In which steps projections are new, where steps are counted from `first_count`."""
    counts = np.arange(len(next(iter(recording.tree("grads").values()))))
    return (counts == 0) | ((counts + first_count) % gap == 0)


def options(recording, **changes):
    """What the recorded run was made with, in our words, but for what changes."""
    recorded = recording.hyperparams
    recorded.word("momentum_type", ("sm",))
    kind = recorded.word("matrix_leaves.proj_type", ("svd", "topk", "uniform"))
    return {
        **recorded.take("learning_rate", "b1", "weight_decay", update_gap="matrix_leaves.update_proj_gap"),
        "projector": subspace_projector(kind, rank=recorded["matrix_leaves.rank"]),
        "reset": "after" if "AS IS" in recording.meta["source"] else "before",
        "weight_dimension_numbers": OUTPUTS_FIRST,
        **changes,
    }


def subsets(recording):
    """The second moments of the recorded run, in our words; None if it has none."""
    recorded = recording.hyperparams
    found = recorded.take("b2", "eps", "bias_correction")
    if recorded.word("second_moment_type", {"none": True, "sn": False}):
        return None
    size = "matrix_leaves.subset_size"
    return {
        **found,
        "subset_size": recorded.word(size, ("heuristics",)) if recorded.is_word(size) else recorded[size],
    }


def preconditioned(recording, momentum):
    """The recorded optimizer around a momentum."""
    recorded = recording.hyperparams
    direction, scaled = momentum, subsets(recording)
    if scaled is not None:
        b2 = scaled.pop("b2")
        direction = scale_by_subset_norm(
            None if b2 == 1 else b2,
            momentum=momentum,
            weight_dimension_numbers=OUTPUTS_FIRST,
            **scaled,
        )
    return decayed_after_step(
        recording.meta["method"], recorded["learning_rate"], direction, recorded["weight_decay"], None
    )


def snsm_along_recorded_projections(recording, **changes):
    used = options(recording, **changes)
    debias = recording.hyperparams["bias_correction"]
    inside = momentum_along_projections(used["b1"], used["projector"], debias=debias, reset=used["reset"])
    outside = optax.ema(used["b1"], debias=debias)
    momentum = in_and_outside("momentum", inside, outside, used["projector"], None, OUTPUTS_FIRST)
    extra_args = {
        "projections": recorded_projections(recording, used["projector"]),
        "refreshed": refreshes(recording, used["update_gap"], first_count=1),
    }
    return golden.replay_gradients(preconditioned(recording, momentum), recording, extra_args)


@pytest.mark.slow
@replays("adam_snsm", "adagrad_snsm", "sgd_sm")
def test_golden_snsm_along_recorded_projections(recording):
    assert_replays(recording, snsm_along_recorded_projections(recording))


def assert_same_where_it_follows(recording, trajectory, expected, projector, *, signs_matter):
    """Fails unless two runs agree, within the file's tolerance, in the leaves that follow from the gradients.

    Leaves along subspaces do, unless these are drawn, or are singular vectors whose signs, which nobody fixes, matter.
    """
    recording.hyperparams.refuse_unread()
    drawn = recording.tree("draws.projector") if projector.draws or signs_matter else {}
    following = [leaf for leaf in trajectory if leaf not in drawn]
    actual, expected = ({leaf: np.asarray(run[leaf]) for leaf in following} for run in (trajectory, expected))
    assert golden.deviation(actual, expected) <= recording.meta["rtol"]


def assert_finds_the_subspaces(recording, expected, **changes):
    """Fails unless optimizers that find the subspaces themselves make the expected run, the named one among them."""
    used = options(recording, **changes)
    if used["projector"].draws:
        used["key"] = 0
    shared = {name: value for name, value in used.items() if name not in {"learning_rate", "weight_decay"}}
    debias = recording.hyperparams["bias_correction"]
    # A reset after the step takes old coordinates along new singular vectors once.
    kind = recording.hyperparams.word("matrix_leaves.proj_type", ("svd", "topk", "uniform"))
    reset = used.pop("reset")
    optimizers = [preconditioned(recording, subspace_momentum(**shared, debias=debias))]
    if reset == "before":
        optimizers.append(named_optimizer(recording, used))
    for tx in optimizers:
        trajectory = golden.replay_gradients(tx, recording)
        signs_matter = kind == "svd" and reset == "after"
        assert_same_where_it_follows(recording, trajectory, expected, used["projector"], signs_matter=signs_matter)


def named_optimizer(recording, used):
    method, scaled = recording.meta["method"], subsets(recording)
    if method == "sgd_sm":
        assert not recording.hyperparams["bias_correction"]
        return sgd_sm(**used)
    if method == "adagrad_snsm":
        assert (scaled.pop("b2"), scaled.pop("bias_correction")) == (1, False)
        return adagrad_snsm(**used, **scaled)
    return adam_snsm(**used, **scaled)


@pytest.mark.slow
@replays("adam_snsm", "adagrad_snsm", "sgd_sm")
def test_golden_snsm_whole(recording):
    assert_finds_the_subspaces(recording, recording.tree("params"))


@replays("adagrad_snsm")
def test_golden_snsm_whole_with_a_reset_after_the_step(recording):
    """What was chosen by size has no signs: its run follows from the gradients, whenever the reset comes."""
    expected = snsm_along_recorded_projections(recording, reset="after")
    assert_finds_the_subspaces(recording, expected, reset="after")


def recorded_projector(recording):
    recorded = recording.hyperparams
    if recording.meta["method"] == "galore_adamw":
        side = recorded.word("proj_type", ("reverse_std", "std"))
        return subspace_projector("svd", rank=recorded["rank"], side=side)
    kind = recorded.match("class", "(Block|Coord|Galore)AdamW|(Coord|Galore)Lion")[0]
    if kind.startswith("Block"):
        order = recorded.word("block_order", ("descending", "random"))
        return block_projector(recorded["density"], order)
    if kind.startswith("Coord"):
        choice = recorded.word("coord_choice", ("columns", "randk", "rows"))
        return subspace_projector(choice, density=recorded["density"])
    name = recorded.word("proj_type", ("random", "svd"))
    side = recorded.word("proj_side", ("left", "std"))
    return subspace_projector(name, density=recorded["density"], side=side)


def projected_leaves(recording):
    """Which leaves are projected: those with a recorded projection."""
    recorded, projected = recording.hyperparams, sorted(recording.tree("draws.projector"))
    if recorded.is_word("projected_leaves"):
        recorded.word("projected_leaves", ("2-D",))
        assert projected == sorted(leaf for leaf, x in recording.tree("params0").items() if x.ndim == 2)
    else:
        assert projected == sorted(recorded["projected_leaves"])
    return {leaf: leaf in projected for leaf in recording.tree("params0")}


def along_recorded_projections(recording, inner, gap, **options):
    """The recorded direction, and its extra arguments."""
    projector = recorded_projector(recording)
    projections, leaves = recorded_projections(recording, projector), projected_leaves(recording)
    inside = frugal_along_projections(inner, projector, **options)
    options.pop("reset")
    direction = in_and_outside("frugal", inside, inner, projector, leaves, OUTPUTS_FIRST, only_rest(**options))
    return direction, {"projections": projections, "refreshed": refreshes(recording, gap, first_count=0)}


def frugal_options(recorded):
    """How FRUGAL treats what is left of the gradient, and its state, in our words."""
    return {
        "rest": recorded.word("inactive_update_rule", RULES, "sign"),
        "rest_scale": recorded.get("inactive_lr_scale", 1.0),
        "scale": recorded.get("proj_params_lr_scale", 1.0),
        "reset": recorded.get("reset_statistics", True),
    }


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
        **frugal_options(recorded),
    )
    tx = optax.chain(
        direction,
        optax.add_decayed_weights(recorded["weight_decay"]),
        optax.scale_by_learning_rate(recorded["learning_rate"]),
    )
    assert_replays(recording, golden.replay_gradients(tx, recording, extra_args))


@pytest.mark.slow
@replays("frugal_adamw")
def test_golden_frugal_whole(recording):
    """Where the state begins anew with each subspace, the signs of singular vectors do not matter."""
    recorded = recording.hyperparams
    projector, used = recorded_projector(recording), frugal_options(recorded)
    rate, decay, moments = recorded["learning_rate"], recorded["weight_decay"], recorded.take("b1", "b2", "eps")
    shared = {
        "projector": projector,
        "update_gap": recorded["update_gap"],
        "leaves": projected_leaves(recording),
        "weight_dimension_numbers": OUTPUTS_FIRST,
        "key": 0 if projector.draws else None,
    }
    direction = frugal(optax.scale_by_adam(**moments), **used, **shared)
    optimizers = [
        optax.chain(direction, optax.add_decayed_weights(decay), optax.scale_by_learning_rate(rate)),
    ]
    if (used["rest"], used["scale"], used["reset"]) == ("sign", 1.0, True):
        optimizers.append(frugal_adamw(rate, **moments, weight_decay=decay, rest_scale=used["rest_scale"], **shared))
    for tx in optimizers:
        trajectory = golden.replay_gradients(tx, recording)
        expected = recording.tree("params")
        assert_same_where_it_follows(recording, trajectory, expected, projector, signs_matter=not used["reset"])


@pytest.mark.slow
@replays("galore_adamw")
def test_golden_galore(recording):
    recorded = recording.hyperparams
    adam = scale_by_adam(recorded["b1"], recorded["b2"], recorded["eps"], eps_placement="pre")
    direction, extra_args = along_recorded_projections(
        recording, adam, recorded["update_proj_gap"], rest=None, rest_scale=1.0, scale=recorded["scale"], reset=False
    )
    tx = decayed_after_step(
        recording.meta["method"], recorded["learning_rate"], direction, recorded["weight_decay"], None
    )
    assert_replays(recording, golden.replay_gradients(tx, recording, extra_args))
