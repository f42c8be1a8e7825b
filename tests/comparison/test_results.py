"""What the table says."""

import io
import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from rich.console import Console

from experiments.links import Link
from experiments.workers import picture, report
from experiments.workers.times import Clock
from optkit.comparison import figure, results, table
from optkit.comparison.terminal import Terminal

STEPS = [0, 10, 20, 30, 40]


def training(optimizer, rate, seed, validation, test=0.5):
    return {
        "record": "training",
        "optimizer": optimizer,
        "round": 0,
        "learning_rate": rate,
        "tuned": {},
        "seed": seed,
        "steps": STEPS,
        "train_loss": validation,
        "validation": {"loss": validation},
        "test": {"loss": test},
    }


def finished(optimizer, milliseconds):
    return {
        "record": "round",
        "optimizer": optimizer,
        "round": 0,
        "seeds": [0, 1],
        "state_bytes_per_parameter": 4.0,
        "milliseconds_per_step": milliseconds,
    }


@pytest.fixture
def records():
    settings = {"task": "t", "optimizers": ["adamw", "quick", "wild", "unfinished"], "steps": 40}
    header = {"record": "run", "settings": {**settings, "rates": 2, "rounds": 1, "seeds": [0, 1], "tune": []}}
    lines = [header]
    for seed in (0, 1):
        shift = 0.2 * seed
        lines += [
            training("adamw", 0.1, seed, [4.0, 3.5, 3.0, 2.0, 0.9 + shift], test=1.1 + shift),
            training("adamw", 1.0, seed, [4.0, 3.5, 3.0, 2.0, 1.9], test=0.1),
            training("quick", 0.1, seed, [4.0, 2.0, 0.5, 0.5, 0.5], test=0.7 + shift),
            training("quick", 1.0, seed, [4.0, 2.0, 0.5, None if seed else 0.5, None if seed else 0.1]),
            training("wild", 0.1, seed, [4.0, 9.0, 90.0, 900.0, 9000.0]),
            training("wild", 1.0, seed, [4.0, None, None, None, None]),
            training("unfinished", 1.0, seed, [4.0, 1.0, 1.0, 1.0, 1.0]),
        ]
    return [*lines, finished("adamw", [2.0, 2.0, 50.0]), finished("quick", [3.0]), finished("wild", [2.0])]


def test_the_rate_is_chosen_on_validation_and_reported_on_test(records):
    adamw = next(row for row in results.summarize(records) if row.optimizer == "adamw")
    assert adamw.rates[adamw.best] == 0.1
    assert adamw.test["loss"][0] == pytest.approx(1.2)


def test_rows_are_sorted_by_test_loss_with_diverged_ones_last(records):
    rows = results.summarize(records)
    assert [row.optimizer for row in rows] == ["quick", "adamw", "wild"]
    assert [row.diverged for row in rows] == [False, False, True]


def test_a_rate_at_which_one_seed_diverges_is_not_chosen(records):
    quick = results.summarize(records)[0]
    assert quick.rates[quick.best] == 0.1
    assert quick.validation[1] == math.inf


def test_speed_up_is_adamws_steps_over_those_to_its_final_loss(records):
    quick, adamw, wild = results.summarize(records)
    # AdamW ends at 1.0; from 2.0 at step 10 to 0.5 at step 20, the other is there after 16 2/3 steps.
    assert quick.speed_up == pytest.approx(40 / (10 + 10 * 2 / 3))
    assert adamw.speed_up == 1
    assert math.isnan(wild.speed_up)


def test_its_interval_is_that_of_the_seeds_paired_with_adamws(records):
    quick, adamw, _ = results.summarize(records)
    # AdamW's seeds end at 0.9 and 1.1, which the other reaches after 17 1/3 and 16 steps.
    logarithms = np.log([40 / (10 + 10 * 1.1 / 1.5), 40 / 16])
    half = 12.706205 * np.std(logarithms, ddof=1) / math.sqrt(2)  # the table's t for 1 degree of freedom
    expected = np.exp(np.mean(logarithms) + half * np.array([-1, 1]))
    np.testing.assert_allclose(quick.speed_up_interval, expected, rtol=1e-6)
    assert np.isnan(adamw.speed_up_interval).all()


def test_losses_are_compared_with_adamws_seed_by_seed(records):
    quick, adamw, wild = results.summarize(records)
    # Each seed's loss is lower by 0.4, although the seeds' own losses differ by 0.2.
    assert quick.difference.mean == pytest.approx(-0.4)
    assert quick.difference.high - quick.difference.low == pytest.approx(0.0, abs=1e-9)
    assert quick.p == pytest.approx(0.0, abs=1e-9)
    assert math.isnan(adamw.p)
    assert math.isnan(wild.p)


def test_pairs_do_not_depend_on_the_order_of_the_records(records):
    expected = results.summarize(records)[0]
    other_way = results.summarize([records[0], *records[:0:-1]])[0]
    np.testing.assert_array_equal(other_way.test_losses, expected.test_losses)
    np.testing.assert_array_equal(other_way.curves, expected.curves)


def test_p_values_are_corrected_for_all_optimizers_of_the_run(records):
    rows = results.summarize(records)
    noisy = [training("noisy", 0.1, seed, [4.0, 2.0, 0.5, 0.5, 0.5], test=0.7 + 0.5 * seed) for seed in (0, 1)]
    settings = {**records[0]["settings"], "optimizers": ["adamw", "quick", "noisy"]}
    more = [{**records[0], "settings": settings}, *records[1:], *noisy, finished("noisy", [2.0])]
    alone = {**records[0], "settings": {**settings, "optimizers": ["adamw", "noisy"]}}
    (beside,) = (row for row in results.summarize(more) if row.optimizer == "noisy")
    (single,) = (row for row in results.summarize([alone, *more[1:]]) if row.optimizer == "noisy")
    assert single.p == single.difference.p == beside.difference.p
    assert beside.p == pytest.approx(max(beside.difference.p, 2 * rows[0].difference.p))


def shown(records, width=132):
    console = Terminal(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    console.width = width
    with console.capture() as capture:
        console.print(table.table(records[0], results.summarize(records)))
    return {line.split("│")[2].strip(): line for line in capture.get().splitlines() if line.startswith("│")}


def test_the_table_shows_what_is_significant_and_the_intervals(records):
    lines = shown(records)
    assert "-0.4" in lines["quick"]
    assert "*" in lines["quick"]
    assert "2.40x (1.44 to 3.99)" in lines["quick"]
    assert "*" not in lines["adamw"]


def test_the_seeds_that_are_missing_are_named():
    # Losses of 1.1 and 1.3 deviate by 0.141, differences of two such by 0.2; two seeds show 11.55 times that.
    told = results.resolution(np.array([1.1, 1.3]), 0.5)
    assert "2 seeds show, in four of five runs, a difference of 2.3 (192%)" in told
    assert told.endswith("one of 0.5 of the loss needs 4 seeds.")
    assert results.resolution(np.array([1.1]), 0.5) is None


def test_time_is_the_median_relative_to_adamw(records):
    assert [row.relative_time for row in results.summarize(records)] == [1.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([4, 3, 2, 1, 0], 20),
        ([4, 0, 4, 3, 1], 35),  # a dip does not count
        ([4, 3, 3, 3, 3], math.nan),
        ([4, 3, math.inf, 1, 1], 30),
        ([1, 1, 1, 1, 1], 0),
    ],
)
def test_a_loss_is_reached_where_the_curve_stays_at_or_below_it(curve, expected):
    np.testing.assert_equal(results.reached(np.array(STEPS), np.array(curve, float), 2.0), float(expected))


def test_intervals_are_students():
    mean, half = results.interval(np.array([1.0, 2.0, 3.0]))
    assert mean == 2.0
    assert half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)  # the table's t for 2 degrees of freedom
    assert math.isnan(results.interval(np.array([1.0]))[1])


def test_the_table_has_a_line_for_every_optimizer(records):
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(table.table(records[0], results.summarize(records)))
    console.file.close()
    lines = {line.split("│")[2].strip(): line for line in console.export_text().splitlines() if line.startswith("│")}
    assert "diverged" in lines["wild"]
    assert "0.8 ± 1.3" in lines["quick"]
    assert "0.1 ↓" in lines["quick"]


@pytest.mark.slow
def test_the_figure_shows_every_optimizer_that_did_not_diverge(records):
    assert len(figure.as_png(figure.draw(records[0], results.summarize(records)))) > 10_000


@pytest.mark.slow
def test_the_figure_stays_empty_where_everything_diverged(records):
    assert figure.as_png(figure.draw(records[0], results.summarize(records)[-1:]))


# As they stand in a results file, and as they are shown.
NAMES = {
    "$\\frac{$": "$\\frac{$",
    "_underscored": "_underscored",
    "[red]x[/a]": "[red]x[/a]",
    "\x1b[31mred\n\t\u202e": "\\x1b[31mred\\n\\t\\u202e",
}


def texts_of(monkeypatch, draw, *arguments):
    """All texts that a figure shows."""
    shown = []

    def save(picture, file, **options):
        savefig(picture, file, **options)
        shown.extend(text.get_text() for text in picture.findobj(Text))

    savefig = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", save)
    draw(*arguments)
    return shown


def printed(table):
    terminal = Terminal(io.StringIO())
    terminal.width = 200
    terminal.print(table)
    return terminal.file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_are(records, monkeypatch, name):
    settings = records[0]["settings"] | {"task": name, "optimizers": ["adamw", name, "wild", "unfinished"]}
    named = [record | ({"optimizer": name} if record.get("optimizer") == "quick" else {}) for record in records]
    named[0] = records[0] | {"settings": settings}
    named = [record | ({"test": {"loss": 0.5, name: 0.5}} if "test" in record else {}) for record in named]
    rows = results.summarize(named)
    assert printed(table.table(named[0], rows)).count(NAMES[name]) == 3
    drawn = texts_of(monkeypatch, lambda: figure.as_png(figure.draw(named[0], rows)))
    assert NAMES[name] in drawn
    assert any(text.startswith(f"{NAMES[name]}: every optimizer") for text in drawn)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_names_of_runs_on_many_workers_are_shown_as_they_are(monkeypatch, tmp_path, name):
    settings = {"task": name, "topology": name, "attack": name, "mixing": name, "alpha": None, "dropout": 0.0}
    settings |= {"silent": 0, "byzantine": 2, "every": 1, "workers": 8, "steps": 40}
    settings |= {"compressor": None, "processes": 1}
    trained = training(name, 0.1, 0, [4.0, 3.0, 2.0, 1.0, 1.0])
    trained |= {"worst": [4.0] * 5, "consensus": [0.0, 1.0, 1.0, 1.0, 1.0], "exchanges": [0.0, 1.0, 2.0, 3.0, 4.0]}
    trained |= {"sent": {"collective-permute": [0.0, 8.0, 16.0, 24.0, 32.0]}}
    trained |= {"test": {"loss": 1.0, name: 1.0}, "milliseconds_per_step": [1.0]}
    named = [{"record": "workers", "settings": settings}, trained]
    clock = Clock([Link(1e9)])
    assert printed(report.results(named).shown()).count(NAMES[name]) == 6
    assert printed(report.durations(named, clock).shown()).count(NAMES[name]) == 1
    drawn = texts_of(monkeypatch, picture.draw, named, clock, tmp_path / "figure.png")
    assert NAMES[name] in drawn
    assert any(text.count(NAMES[name]) == 4 for text in drawn)
