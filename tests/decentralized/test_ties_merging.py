import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import assert_replays, replays

from optkit.decentralized import ties_merge

merge = jax.jit(ties_merge, static_argnames=("density", "elect", "combine"))


def vector(*values):
    return np.array(values, float)


@pytest.mark.slow
@replays("ties_merging")
def test_golden_ties_merging(recording):
    hyperparams = recording.hyperparams
    merged = merge(
        recording.tree("base"),
        recording.tree("models"),
        hyperparams["top_k_percent"] / 100,
        hyperparams["lam"],
        elect=hyperparams.word("resolve", {"mass": "mass", "normmass": "norm_mass"}),
        combine=hyperparams.word("merge", {"dis-max": "max", "dis-mean": "mean", "dis-sum": "sum"}),
    )
    assert_replays(recording, merged, "merged")


@pytest.mark.slow
def test_entries_are_trimmed_over_all_leaves_at_once():
    models = {"small": np.full((1, 3), 0.25, np.float32), "large": vector(1.0, 2.0, 3.0)[None]}
    merged = merge(jax.tree.map(lambda x: np.zeros(x.shape[1:]), models), models, density=0.5)
    np.testing.assert_array_equal(merged["small"], 0.25)  # the code keeps what ties with the last one
    np.testing.assert_array_equal(merged["large"], [1, 2, 3])
    merged = merge(jax.tree.map(lambda x: np.zeros(x.shape[1:]), models), models, density=0.4)
    np.testing.assert_array_equal(merged["small"], 0)


@pytest.mark.slow
def test_density_one_keeps_everything():
    base, models = vector(1, 2, 3), vector(1, 2, 3) + np.array([[1.0, -2.0, 0.5]])
    np.testing.assert_allclose(merge(base, models, density=1.0), models[0])


@pytest.mark.slow
def test_larger_mass_elects_the_sign_and_the_rest_is_left_out():
    models = np.array([[5.0], [-1.0], [-2.0]])
    np.testing.assert_allclose(merge(np.zeros(1), models, density=1.0), 5.0)
    np.testing.assert_allclose(merge(np.zeros(1), -models, density=1.0), -5.0)


@pytest.mark.slow
def test_norm_mass_elects_by_the_share_in_the_model_s_norm():
    # The first model's entry is larger, and smaller beside its others.
    models = np.array([[5.0, 100.0], [-1.0, 0.0]])
    np.testing.assert_allclose(merge(np.zeros(2), models, density=1.0, elect="norm_mass"), [-1, 100])
    np.testing.assert_allclose(merge(np.zeros(2), models, density=1.0, elect="mass"), [5, 100])


def test_undecided_entries_take_the_sign_that_wins_elsewhere():
    models = np.array([[2.0, -1.0, -1.0], [-2.0, -1.0, -1.0]])
    np.testing.assert_allclose(merge(np.zeros(3), models, density=1.0), [-2, -1, -1])


@pytest.mark.parametrize(("combine", "expected"), [("mean", 2.0), ("sum", 4.0), ("max", 3.0)])
def test_agreeing_changes_are_combined(combine, expected):
    models = np.array([[1.0], [3.0], [-2.0]])
    np.testing.assert_allclose(merge(np.zeros(1), models, density=1.0, combine=combine), expected)


@pytest.mark.slow
def test_equal_models_merge_to_themselves_and_none_moves_the_base():
    model = {"w": vector(1, -2, 3), "scalar": np.array(4.0), "none": None}
    models = jax.tree.map(lambda x: np.stack([x] * 3), model)
    base = jax.tree.map(np.zeros_like, model)
    jax.tree.map(np.testing.assert_allclose, merge(base, models, density=1.0), model)
    jax.tree.map(np.testing.assert_allclose, merge(model, models), model)
    assert merge({}, {}) == {}


def test_dtypes_stay_and_changes_are_computed_in_float32():
    base = {"w": np.ones(4, jnp.bfloat16), "b": np.zeros(2)}
    merged = merge(base, jax.tree.map(lambda x: x[None] + 0.5, base), density=1.0)
    assert (merged["w"].dtype, merged["b"].dtype) == (jnp.bfloat16, np.float32)
    np.testing.assert_array_equal(merged["w"], 1.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"density": 0.0}, r"density must be in \(0, 1\], got 0.0"),
        ({"density": 20}, r"density must be in \(0, 1\], got 20"),
        ({"elect": "normmass"}, "elect must be 'mass' or 'norm_mass', got 'normmass'"),
        ({"combine": "dis-mean"}, "combine must be 'mean', 'sum' or 'max', got 'dis-mean'"),
    ],
)
def test_wrong_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        ties_merge(jnp.zeros(2), jnp.ones((3, 2)), **changes)


@pytest.mark.parametrize("combine", ["mean", "sum", "max"])
def test_nan_does_not_vanish(combine):
    models = np.array([[4.0, np.nan, 1.0], [2.0, 5.0, 3.0]])
    merged = merge(np.zeros(3), models, density=1.0, combine=combine)
    assert np.isnan(merged).tolist() == [False, True, False]
    assert np.all(np.isnan(merge(np.zeros(3), models, density=1.0, combine=combine, elect="norm_mass")))


@pytest.mark.slow
def test_complex_numbers_are_refused():
    with pytest.raises(TypeError, match="ties_merge works on real parameters"):
        ties_merge(jnp.zeros(2), jnp.ones((2, 2), jnp.complex64))
