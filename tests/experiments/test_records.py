"""What is wrong with a results file is said in one line, with the file and the line."""

import json

import pytest

from experiments import evidence
from experiments.benchmarks import update, update_report
from experiments.workers.records import RUN as A_RUN_ON_WORKERS
from optkit.comparison import ComparisonError
from optkit.comparison.records import COMPARISON as A_COMPARISON
from optkit.comparison.records import read_records
from optkit.comparison.store import RunFolder

KINDS = (A_COMPARISON, A_RUN_ON_WORKERS)
SECTIONS = {
    "data": {},
    "versions": {"jax": "0.10"},
    "hardware": {"devices": "2 x cpu", "processors": 2, "platform": "Linux"},
}
COMPARISON = {
    "record": "run",
    "settings": {
        "task": "t",
        "optimizers": ["adamw", "lion"],
        "steps": 20,
        "batch_size": 8,
        "rates": 2,
        "rounds": 2,
        "seeds": [0, 1],
        "weight_decay": 0.0,
        "tune": [],
        "workers": 1,
    },
    **SECTIONS,
}
TRAINING = {
    "steps": [0, 10, 20],
    "train_loss": [None, 2.0, 1.0],
    "validation": {"loss": [3.0, 2.0, 1.0], "error": [0.9, 0.5, 0.1]},
    "test": {"loss": 1.0, "error": 0.1},
}
WORKERS = {
    "record": "workers",
    "settings": {
        "command": "workers",
        "task": "t",
        "optimizers": ["gossip", "choco"],
        "inner": "sgd",
        "learning_rate": {"gossip": 0.1, "choco": 0.1},
        "topology": "ring",
        "workers": 4,
        "alpha": None,
        "mixing": None,
        "compressor": None,
        "feedback": "ef14",
        "gamma": 0.3,
        "every": 1,
        "dropout": 0.0,
        "silent": 0,
        "attack": None,
        "byzantine": 0,
        "steps": 20,
        "batch_size": 8,
        "seed": 0,
        "backend": "vmap",
        "processes": 1,
    },
    **SECTIONS,
}


def comparison():
    """Two rounds of AdamW and one of Lion: lines 2 to 6, 7 to 11, 12 to 16."""
    lines = [COMPARISON]
    for optimizer, number in (("adamw", 0), ("adamw", 1), ("lion", 0)):
        whose = {"optimizer": optimizer, "round": number}
        lines += [
            {"record": "training", **whose, "learning_rate": rate, "tuned": {}, "seed": seed, **TRAINING}
            for rate in (0.1, 1.0)
            for seed in (0, 1)
        ]
        times = {"seeds": [0, 1], "state_bytes_per_parameter": 8.0, "milliseconds_per_step": [1.0, 2.0]}
        lines.append({"record": "round", **whose, **times})
    return json.loads(json.dumps(lines))


def workers():
    """Gossip and CHOCO: lines 2 and 3."""
    sent = {"sent": {"collective-permute": [0.0, 1280.0, 2560.0]}, "exchanges": [0.0, 10.0, 20.0]}
    own = {"worst": [3.0, 2.0, 1.0], "consensus": [0.0, 1.0, 2.0], "milliseconds_per_step": [1.0]}
    lines = [{"record": "training", "optimizer": name, **TRAINING, **own, **sent} for name in ("gossip", "choco")]
    return json.loads(json.dumps([WORKERS, *lines]))


def said_of(folder, text):
    """What is said of a run's results, without the file's name."""
    file = folder / "results.jsonl"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ComparisonError) as error:
        read_records(folder, *KINDS)
    start = f"{file}, line "
    assert str(error.value).startswith(start)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(file)) + 400
    with pytest.raises(ComparisonError, match="line"), RunFolder.locked(folder, *KINDS):
        pass
    return str(error.value).removeprefix(start)


def assert_named(folder, records, line, place, value, words):
    """A value put into a place of a line is named with the line."""
    target = records[line - 1]
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    said = said_of(folder, as_text(records))
    assert said.startswith(f"{line}: ")
    assert words in said


def as_text(records):
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.mark.parametrize("records", [comparison(), comparison()[:6], comparison()[:1], workers()])
def test_what_a_run_writes_is_read(tmp_path, records):
    assert read_records(tmp_path, *KINDS) == []
    (tmp_path / "results.jsonl").write_text(as_text(records))
    assert read_records(tmp_path, *KINDS) == records


@pytest.mark.parametrize(
    ("line", "place", "value", "words"),
    [
        (1, ("settings", "steps"), "20", "'20' is not of type 'integer'"),
        (1, ("settings", "steps"), True, "True is not of type 'integer'"),
        (1, ("settings", "steps"), 20.0, "20.0 is not of type 'integer'"),
        (1, ("settings", "rates"), 0, "less than the minimum"),
        (1, ("settings", "rounds"), -1, "less than the minimum"),
        (1, ("settings", "seeds"), [0, 0], "non-unique"),
        (1, ("settings", "seeds"), [], "settings.seeds"),
        (1, ("settings", "optimizers"), ["adamw", 3], "3 is not of type 'string'"),
        (1, ("settings",), None, "None is not of type 'object'"),
        (1, ("versions",), [], "[] is not of type 'object'"),
        (1, ("hardware",), {}, "'devices' is a required property"),
        (3, ("learning_rate",), "0.1", "'0.1' is not of type 'number'"),
        (3, ("learning_rate",), None, "None is not of type 'number'"),
        (3, ("learning_rate",), 10**400, "its maximum must be"),
        (3, ("train_loss",), None, "None is not of type 'array'"),
        (3, ("train_loss",), [1.0, "2", 3.0], "train_loss.1: '2' is not of type"),
        (3, ("train_loss",), [1.0, 2.0], "train_loss has 2 values, not one for each of 3 steps"),
        (3, ("validation", "loss"), [1.0], "validation.loss has 1 values"),
        (3, ("validation",), {"error": [1.0, 1.0, 1.0]}, "'loss' is a required property"),
        (4, ("test",), {"loss": 1.0}, "test has other metrics than that of the first training"),
        (3, ("test", "loss"), [], "[] is not of type"),
        (3, ("steps",), [0, 20, 10], "steps do not go from 0 to 20"),
        (3, ("steps",), [0, 10, 30], "steps do not go from 0 to 20"),
        (3, ("optimizer",), "sgd", "'sgd' is none of the run's optimizers"),
        (3, ("optimizer",), ["adamw"], "['adamw'] is not of type 'string'"),
        (3, ("seed",), 7, "7 is none of the run's seeds"),
        (3, ("seed",), 0, "with seed 0 stands on line 2 already"),
        (6, ("round",), 2, "round 2 of 2"),
        (6, ("record",), "training", "is a required property"),
        (6, ("record",), "run", "record: 'run' is not one of ['optimizer', 'training', 'round']"),
        (6, ("record",), ["round"], "record: ['round'] is not one of ['optimizer', 'training', 'round']"),
        (6, ("seeds",), [7], "7 is none of the run's seeds"),
        (3, ("tuned",), {"b2": "0.9"}, "'0.9' is not of type 'number'"),
        (6, ("milliseconds_per_step",), None, "milliseconds_per_step"),
        (6, ("milliseconds_per_step",), [-1.0], "less than the minimum"),
        (6, ("state_bytes_per_parameter",), {}, "{} is not of type 'number'"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(tmp_path, line, place, value, words):
    assert_named(tmp_path, comparison(), line, place, value, words)


@pytest.mark.parametrize(
    ("line", "place", "value", "words"),
    [
        (1, ("settings", "alpha"), "inf", "'inf' is not of type"),
        (1, ("settings", "dropout"), 2, "greater than the maximum"),
        (1, ("settings", "attack"), 1, "1 is not of type"),
        (2, ("worst",), [1.0], "worst has 1 values"),
        (2, ("consensus",), [None, "a", 1.0], "'a' is not of type"),
        (1, ("settings", "processes"), 0, "less than the minimum"),
        (3, ("sent",), {"all-gather": None}, "None is not of type 'array'"),
        (3, ("sent",), {"all-gather": [0.0, 1.0]}, "sent.all-gather has 2 values"),
        (3, ("exchanges",), [0.0, -1.0, 2.0], "less than the minimum"),
        (3, ("sent",), 128, "128 is not of type 'object'"),
        (3, ("optimizer",), "gossip", "the training of gossip stands on line 2 already"),
        (3, ("record",), "round", "record: 'round' is not one of ['training']"),
    ],
)
def test_a_value_of_the_wrong_kind_in_a_run_on_many_workers_is_named(tmp_path, line, place, value, words):
    assert_named(tmp_path, workers(), line, place, value, words)


def test_missing_and_doubled_lines_are_named(tmp_path):
    lines = comparison()
    said = said_of(tmp_path, as_text([*lines[:3], *lines[4:]]))
    assert said.startswith("5: round 0 of adamw has not 2 trainings with each of its seeds")
    assert "a round 1 without a round 0" in said_of(tmp_path, as_text([lines[0], *lines[6:]]))
    assert said_of(tmp_path, as_text([lines[0], *lines])).startswith(
        "2: record: 'run' is not one of ['optimizer', 'training', 'round']"
    )
    assert said_of(tmp_path, as_text([*lines, lines[-1]])).startswith(
        "17: the round of lion in round 0 with seeds [0, 1] stands on"
    )
    assert said_of(tmp_path, as_text([*lines, lines[2]])).startswith("17: the training of adamw in round 0 at learning")
    assert said_of(tmp_path, as_text(lines[1:])).startswith("1: is not the header")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1: is not JSON"),
        ("\n", "1: is not JSON"),
        ("[]\n", "1: is not the header"),
        ("null\n", "1: is not the header"),
        ("3\n", "1: is not the header"),
        ('{"record": "round"}\n', "1: is not the header"),
        ('{"record": {}}\n', "1: is not the header"),
        ('{"record": "run"}\n', "1: 'settings' is a required property"),
        ("[" * 100_000 + "\n", "1: is nested too deeply"),
        ('{"record": NaN}\n', "1: is not JSON: there is no NaN"),
        ("\x00", "1: is not JSON"),
        (b"\xff\xfe\n", "1: is not text in UTF-8"),
        ("1" * 5000, "1: is not JSON: Exceeds the limit"),
        (as_text(comparison()) + "{", "17: is not JSON"),
        (as_text(comparison()) + "\n", "17: is not JSON"),
        (as_text(comparison())[:-40], "16: is not JSON"),
        (as_text(comparison()).encode() + b"\x80\n", "17: is not text in UTF-8"),
        (as_text(comparison()) + "[" * 100_000, "17: is nested too deeply"),
    ],
)
def test_what_no_run_wrote_is_refused(tmp_path, text, said):
    assert said_of(tmp_path, text).startswith(said)


def test_a_folder_in_a_files_place_is_refused(tmp_path):
    for name in ("results.jsonl", "claims.json"):
        (tmp_path / name).mkdir()
    with pytest.raises(ComparisonError, match=r"cannot read .*results\.jsonl"):
        read_records(tmp_path, *KINDS)
    with pytest.raises(ComparisonError, match=r"cannot read .*claims\.json"):
        evidence.read(tmp_path / "claims.json")


CLAIM = json.loads((evidence.RESULTS / "claims.json").read_text())["random_scaling/parity"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"holds": "yes"}, "5: b.holds: 'yes' is not of type"),
        ({"holds": 1}, "5: b.holds: 1 is not of type"),
        ({"measured": None}, "5: b.measured: None is not of type 'string'"),
        ({"seconds": -1.0}, "5: b.seconds: -1.0 is less than the minimum"),
        ({"versions": {"jax": 1}}, "6: b.versions.jax: 1 is not of type 'string'"),
        ({"hardware": []}, "5: b.hardware: [] is not of type 'object'"),
    ],
)
def test_a_claim_of_the_wrong_kind_is_named(tmp_path, change, said):
    (name, value), file = next(iter(change.items())), tmp_path / "claims.json"
    wrong = json.dumps(value, indent=None) if name != "versions" else '{\n"jax": 1}'
    rest = json.dumps({key: item for key, item in CLAIM.items() if key != name})[1:-1]
    file.write_text(f'{{\n"a": {json.dumps(CLAIM)},\n"b": {{\n{rest},\n"{name}": {wrong}}}}}\n')
    with pytest.raises(ComparisonError) as error:
        evidence.read(file)
    assert str(error.value).startswith(f"{file}, line {said}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: is not JSON"),
        ('{\n"a": {\n', "line 3: is not JSON"),
        ("[]", "line 1: [] is not of type 'object'"),
        ("[" * 100_000, "line 1: is nested too deeply"),
        ('{"a": 1}', "line 1: a: 1 is not of type 'object'"),
        ('{\n\t"a": {}}', "line 2: a: 'method' is a required property"),
        ('{"b":\n"]}",\n"a": {}}', "line 2: b: ']}' is not of type 'object'"),
        ('{"a": {},\n"a": 1}', "line 2: a: 1 is not of type 'object'"),
        ('{\n"\\ud83d\\ude00": {}}', "line 2: \U0001f600: 'method' is a required property"),
        ('{\n"\x7f": {}}', "line 2: \x7f: 'method' is a required property"),
        ('{\n"%s": 1}' % ("k" * 2000), "line 2: kkk"),
        ('{\n"a": %s}' % ("[" * 900 + "]" * 900), "line "),
        ('{\n"a": {"method": %s}}' % ('{"x":' * 900 + "1" + "}" * 900), "line "),
    ],
)
def test_a_foreign_file_of_claims_is_refused_before_anything_is_measured(tmp_path, text, said):
    file = tmp_path / "claims.json"
    file.write_text(text)
    with pytest.raises(ComparisonError) as error:
        evidence.run(["random_scaling"], tmp_path, None)
    assert str(error.value).startswith(f"{file}, {said}")
    assert file.read_text() == text


def test_committed_results_are_read():
    assert evidence.read(evidence.RESULTS / "claims.json")
    assert update_report.read(update.RESULTS / "bench-update-cpu.json")


def test_wrong_rows_of_a_benchmark_are_named(tmp_path):
    content = json.loads((update.RESULTS / "bench-update-cpu.json").read_text())["rows"][:2]
    file = tmp_path / "rows.json"

    def said_of(rows):
        file.write_text('{"rows": [\n' + ",\n".join(map(json.dumps, rows)) + "]}")
        with pytest.raises(ComparisonError) as error:
            update_report.read(file)
        return str(error.value).removeprefix(f"{file}, line ")

    first, second = content
    assert said_of([first, {**second, "ratio": [1.0]}]).startswith("3: rows.1.ratio: ")
    assert said_of([first, {**second, "rounds": "2"}]).startswith("3: rows.1.rounds: '2' is not of type 'integer'")
    assert said_of([first, {**second, "more": 1}]).startswith("3: rows.1: ")
    assert said_of([first, 3]).startswith("3: rows.1: 3 is not of type 'object'")
    assert said_of([first, first]).startswith(f"3: rows.1: {first['optimizer']} at {first['size']} has a row before")
