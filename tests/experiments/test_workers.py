"""What a run on many workers shows, deals, counts, refuses and continues."""

import inspect
import io
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_records
from matplotlib.figure import Figure
from rich.console import Console

from experiments import __main__ as command_line
from experiments import compare, optimizers, pieces, tasks, workers
from experiments.errors import UserError
from experiments.workers import DEFAULT, Options, choices, picture, simulation, split, traffic
from experiments.workers.records import RUN
from optkit import catalog, compressors
from optkit.communication import feedback
from optkit.comparison import ComparisonError
from optkit.comparison import run as engine
from optkit.comparison.records import read_records
from optkit.comparison.task import Task
from optkit.compressors import identity, top_k
from optkit.decentralized import mix
from optkit.decentralized.topology import complete, path, ring

METHODS = optimizers.between_workers()


@pytest.fixture
def blobs():
    """Four classes of points in the plane."""
    random = np.random.default_rng(0)
    labels = np.arange(160) % 4
    points = (random.normal(size=(160, 2)) * 0.3 + np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])[labels]).astype("f")
    data = {"x": points, "label": np.eye(4, dtype="f")[labels]}

    def loss(params, batch):
        logits = batch["x"] @ params["w"] + params["b"]
        return -jnp.mean(jnp.sum(batch["label"] * jax.nn.log_softmax(logits), axis=-1))

    return Task(
        train=jax.tree.map(lambda x: x[:120], data),
        validation=jax.tree.map(lambda x: x[120:140], data),
        test=jax.tree.map(lambda x: x[140:], data),
        init=lambda key: {"w": 0.1 * jax.random.normal(key, (2, 4)), "b": jnp.zeros(4)},
        loss=loss,
        metrics=lambda params, split: {
            "loss": -jnp.sum(split["label"] * jax.nn.log_softmax(split["x"] @ params["w"] + params["b"]), axis=-1)
        },
        steps=40,
        batch_size=16,
        facts={},
        labels=lambda batch: batch["label"].argmax(axis=-1),
        classes=4,
    )


@pytest.fixture
def run(blobs, monkeypatch, tmp_path):
    """Trains on the toy task; returns what was printed and the records of trainings by name."""
    monkeypatch.setattr(tasks, "load", lambda _: blobs)
    monkeypatch.setattr(picture, "draw", lambda *_: None)

    def run(*names, out="run", **options):
        console = Console(file=io.StringIO(), width=120)
        workers.run(Options(optimizers=names, out=tmp_path / out, **options), console)
        records = read_records(tmp_path / out, RUN)
        return console.file.getvalue(), {record["optimizer"]: record for record in records[1:]}

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_the_catalog_trains(blobs, name):
    topology = {"relay_sum": path(8), "exact_diffusion:d2": complete(8)}.get(name, ring(8))
    compressor = identity() if name == "masha1" else top_k(0.5)
    rate = min(METHODS[name].grid, 0.1)
    inner = optax.sgd(rate, 0.5 if "average_state" in METHODS[name].example else None)
    made = choices.Pieces(inner, rate, topology, mix, compressor, gamma=0.8, every=4)
    training = simulation.Training(network_of(blobs), METHODS[name], choices.build(METHODS[name], made))
    carry, first, *_ = training.advance(training.start(), 0, 15)
    _, second, sent, _ = training.advance(carry, 15, 30)
    assert second < first
    seldom = {"every", "probability"} & optimizers.takes(METHODS[name])
    assert sent.exchanges >= (15 // 4 if seldom else 15)


def test_a_method_is_found_by_its_entry_alone():
    assert set(DEFAULT) <= set(METHODS)
    needing_workers = {name for name, method in catalog.with_variants().items() if "axis_name" in method.needs}
    assert needing_workers <= set(METHODS)
    assert {"mean", "trimmed_mean", "geometric_median"} <= set(METHODS) - needing_workers


def test_every_compressor_and_feedback_of_the_library_has_its_name():
    def takes_another(factory):
        return next(iter(inspect.signature(factory).parameters), None) == "compressor"

    known = {method.name.split(".")[1] for method in compressors.METHODS if not takes_another(method.factory)}
    assert set(pieces.COMPRESSORS) == known
    assert set(pieces.FEEDBACK) == {"none", *feedback.__all__}


def test_methods_of_lazy_topologies_get_one_and_others_do_not():
    made = choices.Pieces(optax.sgd(0.1), 0.1, ring(8), mix, top_k(0.5), gamma=0.8)
    choices.build(METHODS["exact_diffusion"], made)
    with pytest.raises(ValueError, match="exact_diffusion does not settle on this topology"):
        choices.build(METHODS["exact_diffusion:d2"], made)


@pytest.mark.slow
def test_bytes_are_those_of_the_formulas(run):
    _, trained = run("mean", "gossip", "gradient_tracking", "choco", compressor="top_k:0.5", steps=2)
    numbers = 12
    sent = {name: {kind: curve[-1] / 2 for kind, curve in record["sent"].items()} for name, record in trained.items()}
    assert sent["mean"] == {"all-reduce": 2 * 7 / 8 * 4 * numbers}
    assert sent["gossip"] == {"collective-permute": 2 * 4 * numbers}
    assert sent["gradient_tracking"] == {"collective-permute": 2 * 2 * 4 * numbers}
    assert sent["choco"] == {"collective-permute": 2 * (4 + 4) * numbers // 2}


@pytest.mark.slow
def test_local_steps_send_nothing(run):
    _, trained = run("mean", "gossip", "gossip:cta", "dfedsam", every=4, steps=9, alpha=math.inf)
    assert trained.pop("mean")["exchanges"] == list(range(10))
    for record in trained.values():
        exchanges = record["exchanges"]
        assert exchanges[-1] == 2
        assert record["sent"] == {"collective-permute": [2 * 4 * 12 * done for done in exchanges]}
    assert trained["gossip"]["exchanges"] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert trained["gossip"]["consensus"][8] < 0.9 * trained["gossip"]["consensus"][7]  # The eighth step exchanges.


def test_bytes_are_counted_where_branches_are_taken():
    def update(index, x):
        def send(times):
            return lambda x: sum(jax.lax.psum(x * i, "workers") for i in range(1, times + 1))

        x = jax.lax.switch(index, [lambda x: x, send(1), send(2)], x)
        return jax.lax.cond(index == 2, lambda x: jax.lax.ppermute(x, "workers", [(0, 1), (1, 0)]), lambda x: x, x)

    counted, plain = (
        jax.jit(jax.vmap(function, (None, 0), axis_name="workers"))
        for function in (traffic.counting(update, 2), update)
    )
    for index, size in enumerate((0, 8, 16 + 8)):
        values, found = counted(index, jnp.ones([2, 2]))
        np.testing.assert_array_equal(values, plain(index, jnp.ones([2, 2])))
        assert found.share.tolist() == [pytest.approx(size / 24)] * 2
        assert found.exchanges.tolist() == [float(size > 0)] * 2


@pytest.mark.parametrize("name", ["gossip", "dfedsam"])
def test_local_steps_stay_steps_without_an_exchange(blobs, name):
    made = choices.Pieces(optax.sgd(0.1, 0.9), 0.1, ring(8), mix, top_k(0.5), gamma=0.8, every=8)
    network = network_of(blobs)
    training = simulation.Training(network, METHODS[name], choices.build(METHODS[name], made))
    program = jax.make_jaxpr(training.program)(training.start(), network.rows[:, :8], jnp.arange(8), blobs.train)
    assert " cond[" in str(program)


@pytest.mark.slow
def test_bytes_of_an_attacked_run_are_those_without_the_attack(run):
    _, trained = run("gossip", attack="sign_flip", byzantine=1, steps=2)
    assert trained["gossip"]["sent"] == {"collective-permute": [0, 2 * 4 * 12, 2 * 2 * 4 * 12]}


@pytest.mark.slow
def test_steps_of_a_changing_topology_count_as_they_are(run):
    _, trained = run("gossip", topology="one_peer_exponential", steps=2)
    (sent,) = trained["gossip"]["sent"].values()
    assert sent == [0, 4 * 12, 2 * 4 * 12]


@pytest.mark.slow
def test_workers_differ_on_uneven_data_and_tracking_brings_them_together(run):
    _, trained = run("gossip", "gradient_tracking", alpha=0.1, learning_rate=0.1, steps=200)
    assert trained["gossip"]["consensus"][0] < 1e-6
    assert trained["gossip"]["consensus"][-1] > 2 * trained["gradient_tracking"]["consensus"][-1]
    assert trained["gossip"]["worst"][-1] > trained["gossip"]["validation"]["loss"][-1]


@pytest.mark.slow
def test_lost_links_and_silent_workers_part_workers(run):
    _, clean = run("gossip", steps=30)
    _, lossy = run("gossip", steps=30, dropout=0.6, out="lossy")
    _, silent = run("gossip", steps=30, silent=2, out="silent")
    steps = clean["gossip"]["steps"]
    middle = steps.index(20)
    assert lossy["gossip"]["consensus"][middle] > 1.1 * clean["gossip"]["consensus"][middle]
    assert silent["gossip"]["consensus"][middle] > 1.1 * clean["gossip"]["consensus"][middle]
    assert silent["gossip"]["consensus"][: steps.index(10) + 1] == clean["gossip"]["consensus"][: steps.index(10) + 1]


@pytest.mark.slow
def test_workers_that_are_missing_do_not_count_in_a_mean(run):
    _, clean = run("mean", "compressed_mean", steps=4)
    _, lossy = run("mean", "compressed_mean", steps=4, dropout=0.5, silent=2, out="lossy")
    for name, record in lossy.items():
        assert np.all(np.isfinite(record["validation"]["loss"]))
        assert record["validation"]["loss"][1:] != clean[name]["validation"]["loss"][1:]


@pytest.mark.slow
def test_a_method_that_knows_no_lost_messages_is_refused(run):
    with pytest.raises(UserError, match="power_sgd knows no lost messages: --dropout and --silent have no effect"):
        run("power_sgd", dropout=0.1, steps=2)


@pytest.mark.slow
def test_an_aggregator_trains_under_an_attack_that_ruins_the_mean(run):
    _, found = run("mean", "trimmed_mean", "local_updates", attack="gaussian_noise:30", alpha=math.inf, steps=40)
    assert found["local_updates"]["exchanges"][-1] == 40 / 8
    assert found["trimmed_mean"]["validation"]["loss"][-1] < 0.6 * found["mean"]["validation"]["loss"][-1]


@pytest.mark.slow
def test_a_robust_rule_trains_under_an_attack_that_ruins_the_mean(run):
    attacked = {"topology": "complete", "attack": "sign_flip", "alpha": math.inf, "steps": 40}
    _, mean = run("gossip", **attacked)
    _, robust = run("gossip", **attacked, mixing="trimmed_mean", out="robust")
    assert robust["gossip"]["validation"]["loss"][-1] < 0.6 * mean["gossip"]["validation"]["loss"][-1]


@pytest.mark.parametrize("name", pieces.MIXINGS)
def test_every_mixing_brings_workers_together(name):
    mixing = pieces.make("mixing", name, pieces.MIXINGS, 2)
    values = np.array([0.0, 1, 1, 1.5, 2, 2, 2, 3], np.float32)
    topology = complete(8) if name != "accelerated_mix" else ring(8).lazy()
    mixed = jax.jit(jax.vmap(lambda x: mixing({"x": x}, topology, "workers")["x"], axis_name="workers"))(values)
    assert 0 < np.mean(mixed) < 3
    assert np.std(mixed) < np.std(values)


@pytest.mark.slow
@pytest.mark.parametrize("name", pieces.COMPRESSORS)
def test_every_compressor_gives_something_like_what_it_got(name):
    compressor = pieces.make("compressor", name, pieces.COMPRESSORS)
    tree = {"x": np.linspace(-1.0, 3.0, 50, dtype=np.float32)}

    @jax.jit
    def there_and_back(tree):
        return compressor.decompress(compressor.compress(tree, compressor.init(tree))[0], tree)

    assert np.vdot(there_and_back(tree)["x"], tree["x"]) > 0


@pytest.mark.parametrize("name", pieces.TOPOLOGIES)
def test_every_topology_joins_all_workers(name):
    topology = pieces.make("topology", name, pieces.TOPOLOGIES, 8)
    assert topology.size == 8
    assert topology.contraction < 1


@pytest.mark.parametrize("attack", pieces.ATTACKS)
def test_every_attack_attacks(blobs, attack):
    network = network_of(blobs, attack=attack, byzantine=2)
    values = np.arange(8, dtype=np.float32)[:, None] + np.arange(3, dtype=np.float32)
    mixing = network.attacked(lambda tree, *_, **__: tree)
    sent = np.asarray(jax.jit(jax.vmap(lambda x: mixing(x, None, "workers"), axis_name="workers"))(values))
    np.testing.assert_array_equal(sent[:6], values[:6])
    assert not np.any(sent[6:] == values[6:])


@pytest.mark.slow
def test_flipped_labels_are_the_attackers(blobs):
    network = network_of(blobs, attack=pieces.LABEL_FLIP, byzantine=2)
    rows = jnp.arange(8)[:, None]
    batch = jax.vmap(lambda rows: network.batch(jax.tree.map(jnp.asarray, blobs.train), rows), axis_name="workers")(
        rows
    )
    labels = np.argmax(batch["label"][:, 0], axis=-1)
    assert labels.tolist() == [0, 1, 2, 3, 0, 1, 3 - 2, 3 - 3]


@pytest.mark.slow
def test_attackers_do_not_count_in_what_is_reported(blobs):
    network = network_of(blobs, attack="send_nan", byzantine=2)
    values = jnp.concatenate([jnp.array([1.0, 2, 3, 1, 2, 3]), jnp.full(2, jnp.nan)])
    params = {"w": values[:, None, None] * jnp.ones((2, 4)), "b": jnp.zeros((8, 4))}
    scores = simulation.Evaluation(network)(params, params, blobs.validation)
    assert scores["consensus"] == pytest.approx(np.sqrt(8 * 2 / 3))
    assert scores["mean"]["loss"] == pytest.approx(
        float(blobs.loss({"w": jnp.full((2, 4), 2.0), "b": jnp.zeros(4)}, blobs.validation))
    )
    assert np.isfinite(scores["worst"])


@pytest.mark.slow
def test_devices_give_the_numbers_of_the_simulation(run):
    faults = {"dropout": 0.3, "silent": 1, "steps": 30}
    _, simulated = run("gossip", "gradient_tracking", **faults)
    _, on_devices = run("gossip", "gradient_tracking", **faults, backend="shard_map", out="devices")
    for name in simulated:
        for curve in ("consensus", "train_loss", "worst"):
            expected, found = (np.array(trained[name][curve], float) for trained in (simulated, on_devices))
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_a_stopped_run_continues_from_its_last_checkpoint(run, monkeypatch):
    class KilledError(Exception):
        pass

    advance, left = simulation.Training.advance, 6

    def count(*arguments):
        nonlocal left
        left -= 1
        if left < 0:
            raise KilledError
        return advance(*arguments)

    monkeypatch.setattr(engine, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(simulation.Training, "advance", count)
    with pytest.raises(KilledError):
        run("gossip", "choco", steps=4)
    left = 2 * 4 - 6
    _, continued = run("gossip", "choco", steps=4)
    assert left == 0
    left = 2 * 4
    monkeypatch.setattr(engine, "SECONDS_BETWEEN_CHECKPOINTS", 1e9)
    _, at_once = run("gossip", "choco", steps=4, out="at once")
    for record in (*continued.values(), *at_once.values()):
        del record["milliseconds_per_step"]
    assert continued == at_once


@pytest.mark.slow
def test_another_configuration_in_the_same_folder_is_refused(run):
    run("gossip", steps=2)
    with pytest.raises(ComparisonError, match=r"holds a run with dropout 0\.0, not 0\.5; choose another folder"):
        run("gossip", steps=2, dropout=0.5)


@pytest.mark.slow
def test_the_run_can_be_drawn_again_without_training(run, tmp_path, monkeypatch):
    printed, _ = run("gossip", steps=4)
    monkeypatch.undo()
    assert not (tmp_path / "run" / "figure.png").exists()
    monkeypatch.delattr(workers, "Training")
    console = Console(file=io.StringIO(), width=120)
    workers.show(tmp_path / "run", console, Options())
    assert console.file.getvalue() in printed
    assert (tmp_path / "run" / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("longest", "scale"), [(100, "linear"), (1000, "log")])
def test_short_lines_can_be_read_beside_long_ones(longest, scale):
    axis = Figure().subplots()
    axis.plot([0, 50], [1, 2])
    axis.plot([0, longest], [1, 2])
    picture.spread_out(axis)
    assert axis.get_xscale() == scale


def test_results_of_the_other_command_are_refused(run, tmp_path):
    run("gossip", steps=2)
    with pytest.raises(ComparisonError, match="is not the header of a run of `compare`"):
        compare.show(tmp_path / "run", Console())
    (tmp_path / "run" / "results.jsonl").write_text(test_records.as_text(test_records.comparison()))
    with pytest.raises(ComparisonError, match="is not the header of a run of `workers`"):
        workers.show(tmp_path / "run", Console(), Options())


def test_a_diverged_run_says_so(run):
    printed, _ = run("gossip", attack="send_nan", topology="complete", steps=4)
    assert any("gossip" in line and "diverged" in line for line in printed.splitlines())


def test_every_example_is_dealt_once(blobs):
    for alpha in (0.3, 100.0, math.inf):
        parts = split.deal(blobs, workers=5, alpha=alpha, least=2, seed=0)
        assert sorted(np.concatenate(parts).tolist()) == list(range(120))
        assert min(map(len, parts)) >= 2


def test_small_concentrations_part_the_classes(blobs):
    labels = np.argmax(blobs.train["label"], axis=-1)

    def commonest(alpha):
        parts = split.deal(blobs, workers=4, alpha=alpha, least=2, seed=0)
        return np.mean([np.bincount(labels[part], minlength=4).max() / len(part) for part in parts])

    assert commonest(0.1) > 0.6
    assert commonest(math.inf) < 0.5


def test_batches_are_each_workers_own_examples_in_turn(blobs):
    parts = split.deal(blobs, workers=4, alpha=0.5, least=3, seed=0)
    rows = split.batches(parts, batch_size=3, steps=50, seed=0)
    assert rows.shape == (4, 50, 3)
    for part, own in zip(parts, rows, strict=True):
        assert set(own.ravel().tolist()) == set(part.tolist())
        counts = np.unique(own, return_counts=True)[1]
        assert np.ptp(counts) <= 1


def network_of(task, **options):
    defaults = {"alpha": math.inf, "dropout": 0.0, "silent": 0, "seed": 0, "backend": "vmap"}
    defaults |= {"attack": None, "byzantine": 0}
    return simulation.deal(task, workers=8, steps=30, **(defaults | options))


REFUSED = [
    ({"task": "digits-mpl"}, "unknown task 'digits-mpl'; did you mean digits-mlp"),
    ({"optimizers": "gosip"}, "unknown optimizer 'gosip'; did you mean gossip"),
    ({"optimizers": "DIGing"}, "unknown optimizer 'DIGing'; did you mean track_gradients"),
    ({"inner": "sdg"}, "unknown optimizer 'sdg'; did you mean sgd"),
    ({"topology": "rign"}, "unknown topology 'rign'; did you mean ring"),
    ({"topology": "ring:3"}, "topology 'ring' takes no number, got 'ring:3'"),
    ({"topology": "hypercube", "workers": "6"}, "size must be a power of two"),
    ({"topology": "erdos_renyi:2"}, "topology 'erdos_renyi:2': probability must"),
    ({"compressor": "top_k:2"}, "compressor 'top_k:2': density must"),
    ({"compressor": "top_k:few"}, "compressor 'top_k:few': could not convert"),
    ({"attack": "sign_flop"}, "unknown attack 'sign_flop'; did you mean sign_flip"),
    ({"mixing": "trimed_mean"}, "unknown mixing 'trimed_mean'; did you mean trimmed_mean"),
    ({"optimizers": "choco", "mixing": "trimmed_mean:1"}, "choco has an exchange of its own"),
    ({"optimizers": "choco", "topology": "one_peer_exponential"}, "choco: choco keeps running sums"),
    ({"optimizers": "exact_diffusion:d2"}, "exact_diffusion:d2: exact_diffusion does not settle on this topology"),
    ({"optimizers": "relay_sum"}, "relay_sum: relay_sum needs a topology that is a tree"),
    ({"optimizers": "gossip", "mixing": "trimmed_mean:2"}, "gossip: "),
    ({"task": "diabetes-ridge"}, "the task has no classes to deal unevenly; --alpha inf"),
    ({"feedback": "ef22"}, "unknown feedback 'ef22'; did you mean ef21"),
    ({"feedback": "double_ef:2"}, "feedback 'double_ef' takes no number, got 'double_ef:2'"),
    ({"optimizers": "mean", "mixing": "mix"}, "--mixing mix has no effect on mean: it is for gossip"),
    ({"optimizers": "mean", "compressor": "qsgd"}, "--compressor qsgd has no effect on mean: it is for "),
    ({"optimizers": "compressed_mean", "feedback": "econtrol:-1"}, "feedback 'econtrol:-1': eta must"),
    ({"bandwidth": "1,fast"}, "must be a number of at least 0, got fast"),
    ({"bandwidth": "0"}, "must be a positive number, got 0"),
    ({"latency": "-1"}, "must be a number of at least 0, got -1"),
    ({"step-milliseconds": "0"}, "must be a positive number, got 0"),
    ({"processes": "0"}, "must be a positive integer, got 0"),
    ({"processes": "3"}, "--processes must divide the 8 workers, got 3"),
    ({"processes": "2", "backend": "vmap"}, "--backend vmap runs all workers in one process, not in 2"),
    ({"workers": "100"}, "raise --alpha, or take fewer workers"),
    ({"workers": "2000"}, "2000 workers cannot get 1 examples each: there are 1077"),
    ({"alpha": "0"}, "must be a positive number or inf, got 0"),
    ({"alpha": "nan"}, "must be a positive number or inf, got nan"),
    ({"dropout": "1.5"}, "must lie in [0, 1], got 1.5"),
    ({"seed": "-1"}, "must be an integer of at least 0, got -1"),
    ({"silent": "8"}, "--silent must leave at least one of 8 workers, got 8"),
    ({"attack": "sign_flip", "byzantine": "8"}, "--byzantine must leave at least one of 8 workers, got 8"),
    ({"task": "diabetes-ridge", "attack": "label_flip", "alpha": "inf"}, "label_flip needs a task with classes"),
    ({"backend": "shard_map", "workers": "9"}, "--backend shard_map needs a device for each worker"),
    (
        {"optimizers": "nids", "every": "2"},
        "--every 2 has no effect on nids: it is for gossip, gossip:cta, dfedsam",
    ),
    ({"backend": "pmap"}, "invalid choice: 'pmap'"),
    ({"plot-only": "/nowhere"}, "there is no results.jsonl in /nowhere"),
    ({"out": "/dev/null/run", "optimizers": "gossip"}, "cannot write to /dev/null/run"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[" ".join(o.values()) for o, _ in REFUSED])
def test_bad_input_is_refused_in_one_line(capsys, options, message):
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    try:
        code = command_line.execute(command_line.parser().parse_args(["workers", *words]))
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
