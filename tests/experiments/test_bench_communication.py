"""What `bench communication` promises."""

import json

import pytest

from experiments import __main__ as command_line
from experiments.benchmarks import communication
from experiments.benchmarks.transformer import Size


def execute(*arguments):
    return command_line.execute(command_line.parser().parse_args(["bench", "communication", *arguments]))


def row(sent, unpacking=0.0):
    return communication.Row(
        mean="a mean",
        size=8_000,
        sent=sent,
        copy_milliseconds=(1.0, 1.0, 1.0),
        packing_milliseconds=(1.0, 2.0, 3.0),
        unpacking_milliseconds=(0.0, unpacking, 9.0),
    )


@pytest.mark.slow
def test_a_run_prints_lines_and_writes_json_and_markdown(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(communication, "SIZES", {"7M": Size(vocabulary=8, positions=4, width=4, layers=1)})
    monkeypatch.setattr(communication, "TURNS", 2)
    monkeypatch.setattr(communication, "RUNS", 1)
    chosen = {name: communication.MEANS[name] for name in ("sign", "PowerSGD, rank 4")}
    monkeypatch.setattr(communication, "MEANS", chosen)
    assert execute("--out", str(tmp_path)) == 0
    assert "mean: sign, sent, MB: 0.00" in capsys.readouterr().out
    sign, power_sgd = json.loads((tmp_path / "bench-communication.json").read_text())["rows"]
    numbers = 8 * 4 + 4 * 4 + 6 * 4 + 4 * (4 * 4 + 4) + (4 * 16 + 16) + (16 * 4 + 4)
    assert sign["size"] == 4 * numbers
    assert set(sign["sent"]) == {"all-gather"}
    assert sign["unpacking_milliseconds"][1] > 0 == power_sgd["unpacking_milliseconds"][1]
    assert "| sign | " in (tmp_path / "bench-communication.md").read_text()


def test_gathered_bytes_grow_with_the_workers_and_others_do_not():
    gathered, added = row({"all-gather": 700}), row({"all-reduce": 700})
    assert [gathered.bytes_sent(workers) for workers in (2, 8, 64)] == [100, 700, 6300]
    assert [round(added.bytes_sent(workers)) for workers in (2, 8, 64)] == [400, 700, 788]


def test_slices_are_sent_twice_however_many_workers_there_are():
    in_slices = row({"all-to-all": 700, "all-gather": 700})
    assert [round(in_slices.bytes_sent(workers)) for workers in (2, 8, 64)] == [800, 1400, 1575]


def test_the_time_is_own_work_and_bytes_over_bandwidth():
    # 8,000 bytes, sent 1.5 times by each of 4 workers at 1 Mb/s, take 96 ms.
    assert row({"all-gather": 700}, unpacking=2.0).relative_seconds(4, 1e6) == pytest.approx((2 + 2 + 2.4) / 96)


def test_the_command_asks_for_the_devices_that_it_runs_on():
    assert command_line.parser().parse_args(["bench", "communication"]).workers == communication.DEVICES


def test_results_that_cannot_be_written_are_refused_in_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        execute("--out", "/dev/null/results")
    assert capsys.readouterr().err.startswith("error: argument --out: cannot write to /dev/null/results")
