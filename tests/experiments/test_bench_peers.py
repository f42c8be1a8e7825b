"""What `bench peers` promises; its timings are no tests."""

import dataclasses
import functools
import importlib.util
import json

import benches
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.benchmarks import peer_pairs, peers, peers_report, transformer, update
from optkit.catalog import METHODS

TINY = transformer.Size(vocabulary=32, positions=8, width=8, layers=1)
MISSING = [name for name in peer_pairs.PACKAGES if importlib.util.find_spec(name) is None]
needs_peers = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed: pip install -e '.[peers]'")

ROW = peers_report.Row(
    parameters=1000,
    optimizer="lion_kappa",
    peer="pytorch_optimizer.Lion",
    differs="",
    threads=2,
    rounds=20,
    milliseconds=(1.0, 2.0, 3.0),
    peer_milliseconds=(2.0, 4.0, 6.0),
    ratio=(0.4, 0.5, 0.6),
    compile_seconds=0.5,
    peer_compile_seconds=0.1,
    versions=dict.fromkeys(("jax", "optax", *peer_pairs.PACKAGES), "1.0"),
    hardware={"devices": "2 x cpu", "processors": 2, "platform": "Linux"},
)


execute = functools.partial(benches.execute, "peers")
refused = functools.partial(benches.refused, "peers")


def normal(random):
    shapes = transformer.parameters(TINY, "float32")
    return jax.tree.map(lambda leaf: random.standard_normal(leaf.shape, np.float32), shapes)


def tolerance(pair):
    """How far two steps may part by rounding, in multiples of the learning rate and, below it, of a parameter of 4."""
    if pair.differs == peer_pairs.BFLOAT16:
        # Three products in each of five iterations, each rounded by half of epsilon.
        return 2 * 15 * float(jnp.finfo(jnp.bfloat16).eps) / 2 * peer_pairs.LEARNING_RATE
    return 4 * 4 * float(jnp.finfo(jnp.float32).eps)


@needs_peers
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler is deprecating itself
@pytest.mark.parametrize("pair", peer_pairs.PAIRS, ids=lambda pair: f"{pair.method} {pair.peer}")
def test_both_sides_of_a_pair_take_the_same_steps_or_say_what_differs(pair):
    random = np.random.default_rng(0)
    start, *gradients = (normal(random) for _ in range(3))
    peer = peers.Peer(pair, start)
    tx = optax.with_extra_args_support(pair.ours())
    step = jax.jit(tx.update)
    params, state = jax.tree.map(jnp.asarray, start), tx.init(start)
    for gradient in gradients:
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
        peer.step(peers.tensors(gradient))
    apart = max(
        np.abs(ours - theirs.detach().numpy()).max()
        for ours, theirs in zip(jax.tree.leaves(params), peer.parameters, strict=True)
    )
    assert (apart <= tolerance(pair)) == (pair.differs in {"", peer_pairs.BFLOAT16}), apart


@needs_peers
@pytest.mark.slow
def test_a_run_prints_lines_and_a_table_and_writes_json_and_markdown(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(update, "SIZES", {"7M": TINY})
    monkeypatch.setattr(update, "SECONDS_A_TURN", 1e-9)
    assert execute("--optimizers", "lion_kappa,clipped_sgd", "--rounds", "3", "--out", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "lion_kappa beside pytorch_optimizer.Lion: " in printed
    assert "\x1b" not in printed
    rows = json.loads((tmp_path / "bench-peers-cpu.json").read_text())["rows"]
    assert [row["optimizer"] for row in rows] == ["lion_kappa", "lion_kappa", "clipped_sgd"]
    for row in rows:
        assert row["rounds"] == 3
        assert set(peer_pairs.PACKAGES) <= set(row["versions"])
        for quartiles in ("ratio", "milliseconds", "peer_milliseconds"):
            low, middle, high = row[quartiles]
            assert 0 < low <= middle <= high < np.inf
    page = (tmp_path / "bench-peers-cpu.md").read_text()
    assert f"torch {rows[0]['versions']['torch']}" in page
    assert "| clipped_sgd | torch.optim.SGD, clip_grad_norm_ |" in page


@pytest.mark.parametrize("missing", [("torch",), peer_pairs.PACKAGES])
def test_what_is_not_installed_is_named_in_one_line(capsys, monkeypatch, tmp_path, missing):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else object())
    assert f"bench peers needs {', '.join(missing)}: pip install" in refused(capsys, "--out", str(tmp_path))


def test_a_missing_compiler_is_named_in_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(peer_pairs.shutil, "which", lambda _: None)
    assert "needs a compiler for C++" in refused(capsys, "--out", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--optimizers", "lion_kapa"), "unknown optimizer 'lion_kapa'; did you mean lion_kappa"),
        (("--rounds", "0"), "must be a positive integer, got 0"),
        (("--out", "/dev/null/results"), "cannot write to /dev/null/results"),
    ],
)
def test_bad_input_is_refused_in_one_line(capsys, arguments, message):
    assert message in refused(capsys, *arguments)


def test_foreign_results_are_refused_in_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(peer_pairs, "require_packages", lambda: None)
    (tmp_path / "bench-peers-cpu.json").write_text("[]")
    said = refused(capsys, "--optimizers", "lion_kappa", "--out", str(tmp_path))
    assert f"{tmp_path}/bench-peers-cpu.json, line 1: [] is not of type 'object'" in said


def test_pairs_and_reasons_name_what_exists():
    places = [(pair.method, pair.peer) for pair in peer_pairs.PAIRS]
    assert len(set(places)) == len(places)
    assert {method for method, _ in places} - set(METHODS) == {"optax.adamw"}
    assert peers_report.REASONS.keys() <= set(places)
    assert set(peers_report.REASONS.values()) == peers_report.MEANINGS.keys()


def test_kernels_are_the_matrices_of_dense_layers():
    shapes = transformer.parameters(TINY, "float32")
    kernels = peer_pairs.is_kernel(shapes)
    assert kernels["blocks"][0]["attention"]["query"] == {"kernel": True, "bias": False}
    assert sum(jax.tree.leaves(kernels)) == 6


def test_rows_are_read_as_they_were_written_and_replaced(tmp_path):
    file = tmp_path / "bench-peers-cpu.json"
    other = dataclasses.replace(ROW, peer="pytorch_optimizer.Lion, compiled")
    peers_report.write([ROW, other], file)
    read = peers_report.read(file)
    assert [row.peer for row in read] == [ROW.peer, other.peer]
    new = dataclasses.replace(ROW, rounds=5)
    assert [row.rounds for row in peers_report.merge(read, new)] == [5, 20]


def test_a_row_says_whether_ours_is_ahead_or_why_not(monkeypatch):
    behind = dataclasses.replace(ROW, ratio=(0.9, 1.1, 1.2))
    assert ROW.result == "ahead"
    assert "not explained" in behind.line()
    monkeypatch.setattr(peers_report, "REASONS", {(ROW.optimizer, ROW.peer): "it is fused by hand"})
    assert behind.result == "behind: it is fused by hand"
    assert "| ahead |" in peers_report.markdown([ROW])
