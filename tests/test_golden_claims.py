"""No golden file may stop being replayed, and no method may lose its recording, without a test that fails."""

import pathlib

import golden_files
import pytest
from golden_files import claimed_methods, files

from optkit.catalog import METHODS

# One may be exchanged for another that covers more, but there may not be fewer.
RECORDINGS = 202
WITHOUT_RECORDING = {
    "aksel": "its authors publish no code, and no recording of another one is here",
    "add_cautious_decayed_weights": "its authors' runs are of muon with `cautious_wd`, and none of those is here",
    "clipped_sgd": "Optax's clipping, by the global norm or by value, which its tests compare it with",
    "delayed_dual_averaging": "its authors' code is not public",
    "gradient_noise_scale_over_steps": "the recorded estimate over other rows, which its tests compare it with",
    "online_to_nonconvex": "its authors publish proofs, and code of the other form only, `randomly_scaled`",
    "proximal_median": "its authors record it as `median_tracking`, one proximal step for each gradient",
}

of_this_repository = pytest.mark.skipif(
    not golden_files.all_are_there(), reason="OPTKIT_GOLDEN names another folder, where any method may be missing"
)


def catalogued():
    methods = [method for method in METHODS.values() if method.kind != "function"]
    return {method.name: method.golden or method.name for method in methods}


def recorded():
    return {path.stem.split("__")[0] for path in files("*")}


@pytest.mark.slow
def test_golden_files_of_catalogued_methods_are_all_replayed():
    asked = recorded() if golden_files.all_are_there() else recorded() & set(catalogued().values())
    assert asked <= claimed_methods()


@pytest.mark.slow
@of_this_repository
def test_golden_files_are_as_many_as_ever_and_small():
    replayed = [path for method in claimed_methods() for path in files(method)]
    assert len(replayed) == len(files("*")) >= RECORDINGS
    assert sum(path.stat().st_size for path in replayed) <= 10_000_000


@of_this_repository
def test_methods_without_a_recording_are_those_that_are_known_to_have_none():
    assert {name for name, golden in catalogued().items() if golden not in recorded()} == set(WITHOUT_RECORDING)


@pytest.mark.slow
def test_pytest_collects_every_recording(request):
    config = request.config
    folders = [pathlib.Path(config.invocation_params.dir, argument) for argument in config.args]
    narrowed = config.option.keyword not in {"", "golden"} or config.option.markexpr or config.option.deselect
    if narrowed or not any(golden_files.TESTS.is_relative_to(folder) for folder in folders):
        pytest.skip("a part of the tests runs")
    collected = {
        item.callspec.id
        for item in request.session.items
        if "recording" in getattr(item, "fixturenames", ())
        and not any(item.get_closest_marker(name) for name in ("skip", "skipif", "xfail"))
    }
    assert collected == {path.stem for method in claimed_methods() for path in files(method)}


def test_methods_without_a_file_are_refused_unless_files_come_from_another_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(golden_files, "FOLDER", golden_files.OWN_FOLDER)
    with pytest.raises(ValueError, match=r"names methods without a file in .*: typo, tpyo"):
        golden_files.replays("typo", "lion", "tpyo")
    monkeypatch.setattr(golden_files, "FOLDER", tmp_path)
    assert golden_files.replays("lion")(lambda recording: recording) is None
