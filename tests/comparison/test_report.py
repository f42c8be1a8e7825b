"""What the report shows, wherever it is read."""

import dataclasses
import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from optkit.comparison import figure, report, results
from optkit.comparison.results import decades

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = "</script><img src=x onerror=alert(1)>\"'`|*[x](y)&amp;\x1b[31m\u202e"
STEPS = [0, 10, 20]


def make(names=("adamw", "signum", "mine", "wild"), task="digits", summary="Mine.", metric="accuracy"):
    """The records of a finished run; the second optimizer is clearly better, the last one diverges."""
    settings = {"task": task, "optimizers": list(names), "steps": 20, "rates": 3, "rounds": 1, "seeds": [0, 1, 2]}
    settings |= {"batch_size": 8, "weight_decay": 0.0, "tune": ["b1"], "workers": 1}
    lines = [
        {
            "record": "run",
            "settings": settings,
            "data": {"parameters": 1000, "size": {"train": 3}, summary: summary},
            "versions": {"jax": "0.10"},
            "hardware": {"devices": "2 x cpu", "processors": 2, "platform": task},
        },
        {"record": "optimizer", "optimizer": names[2], "program": "0", "summary": summary},
    ]
    for number, name in enumerate(names):
        for rate, worse in ((0.01, 0.5), (0.1, 0.0), (1.0, 0.03)):
            for seed in range(3):
                end = 1.0 - 0.2 * (number == 1) + worse + 0.01 * seed
                curve = [4.0, 2.0, end] if name != names[3] else [4.0, None, None]
                lines.append(
                    {
                        "record": "training",
                        "optimizer": name,
                        "round": 0,
                        "learning_rate": rate,
                        "tuned": {"b1": 0.9},
                        "seed": seed,
                        "steps": STEPS,
                        "train_loss": curve,
                        "validation": {"loss": curve},
                        "test": {"loss": end + 0.001 * seed * number, metric: 0.9},
                    }
                )
        lines.append(
            {
                "record": "round",
                "optimizer": name,
                "round": 0,
                "seeds": [0, 1, 2],
                "state_bytes_per_parameter": 4.0 * number,
                "milliseconds_per_step": [1.0 + number],
            }
        )
    return json.loads(json.dumps(lines))


class Reader(html.parser.HTMLParser):
    """Collects elements and the cells of tables."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.tables, self.titles, self._open = [], {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._open.append(tag)
        if tag == "table":
            self.rows = self.tables[dict(attributes)["id"]] = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if self._open and self._open[-1] == "title":
            self.titles.append(data)
        elif "td" in self._open or ("th" in self._open and "table" in self._open):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def records():
    return make()


@pytest.fixture(scope="module")
def page(records):
    return report.page(records, results.summarize(records))


def test_every_table_has_a_row_for_every_optimizer(page):
    tables = Reader(page).tables
    for name in ("ranking", "sensitivity", "cost", "methods"):
        assert {row[0] for row in tables[name][1:]} == {"adamw", "signum", "mine", "wild"}
    assert [row[0] for row in tables["ranking"][1:]] == ["signum", "adamw", "mine", "wild"]
    assert [row[1] for row in tables["ranking"][1:]] == ["1", "2", "2", "4"]
    assert "diverged" in tables["ranking"][-1]
    assert tables["diverged"][1][:2] == ["wild", "9 of 9"]
    assert tables["cost"][1][-1] == "4,000"


def test_methods_come_with_advice_and_their_paper(page):
    tables = Reader(page).tables
    (signum,) = [row for row in tables["methods"] if row[0] == "signum"]
    assert "Use it when" in signum[2]
    assert "Avoid it" in signum[2]
    assert "signSGD" in signum[3]
    links = {attributes["href"] for tag, attributes in Reader(page).elements if tag == "a"}
    assert "https://arxiv.org/abs/1802.04434" in links


def test_the_page_loads_nothing(page):
    for tag, attributes in Reader(page).elements:
        assert tag not in {"link", "img", "iframe", "object", "embed"}
        assert "src" not in attributes
        if "xlink:href" in attributes:
            assert attributes["xlink:href"].startswith("#")
    assert not re.search(r"@import|url\((?!#)", page)


def test_values_of_the_figure_stand_in_it_without_scripts(page):
    titles = Reader(page).titles
    assert "signum: learning rate 0.1, validation loss 0.81" in titles
    assert any(title == "adamw: step 20, validation loss 1.01" for title in titles)
    (svg,) = [attributes for tag, attributes in Reader(page).elements if tag == "svg"]
    assert svg["role"] == "img"
    assert "validation loss" in svg["aria-label"]


def test_tables_and_fields_have_labels(page):
    reader = Reader(page)
    assert page.count("<caption>") == len(reader.tables) == 5
    assert page.count('scope="col"') == sum(len(rows[0]) for rows in reader.tables.values())
    assert re.search(r"<label>[^<]*<input", page)
    assert ("html", {"lang": "en"}) in reader.elements


def test_whatever_comes_from_a_user_is_escaped(page):
    records = make(("adamw", HOSTILE, f"a{HOSTILE}", "wild"), task=HOSTILE, summary=HOSTILE, metric=HOSTILE)
    hostile = report.page(records, results.summarize(records))
    shapes = [
        [tag for tag, _ in Reader(text).elements if tag not in {"g", "path", "use", "a"}] for text in (page, hostile)
    ]
    assert set(shapes[0]) == set(shapes[1])
    assert shapes[1].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in Reader(hostile).elements for name in attributes)
    assert "\x1b" not in hostile
    assert "\u202e" not in hostile
    assert any(HOSTILE[:20] in row[0] for row in Reader(hostile).tables["ranking"])


def test_markdown_has_the_same_rows_and_is_escaped_too(records):
    rows = results.summarize(records)
    text = report.markdown(records, rows, "report.png")
    assert "![" in text
    assert "](report.png)" in text
    assert "pointer" not in text  # a picture has no values to show
    assert sum(line.startswith("| signum |") for line in text.splitlines()) == 4
    hostile = make(("adamw", HOSTILE, "mine", "wild"), task=HOSTILE, summary=HOSTILE, metric=HOSTILE)
    text = report.markdown(hostile, results.summarize(hostile), "report.png")
    prose = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("    "))
    assert not re.search(r"(?<!\\)<|\x1b|\u202e", prose)
    widths = {line.count("|") - line.count("\\|") for line in text.splitlines() if line.startswith("| ")}
    assert widths == {4, 5, 7, 10}  # one for each number of columns


def test_a_notebook_shows_ranking_and_figure(records):
    reader = Reader(report.fragment(records, results.summarize(records)))
    assert set(reader.tables) == {"ranking"}
    assert "script" not in [tag for tag, _ in reader.elements]
    assert "svg" in [tag for tag, _ in reader.elements]


def test_of_many_optimizers_the_best_and_adamw_are_drawn(records):
    (row,) = (row for row in results.summarize(records) if row.optimizer == "signum")
    rows = [dataclasses.replace(row, optimizer=f"m{i}") for i in range(40)]
    adamw = dataclasses.replace(row, optimizer="adamw")
    settings = {**records[0]["settings"], "optimizers": [row.optimizer for row in (*rows, adamw)]}
    picture = figure.draw({**records[0], "settings": settings}, [*rows, adamw])
    drawn = [line.get_gid() for line in picture.axes[0].lines]
    assert drawn == [*(f"m{i}" for i in range(figure.MOST_CURVES)), "adamw"]


def test_of_many_ties_the_number_is_told(records):
    (row,) = (row for row in results.summarize(records) if row.optimizer == "mine")
    rows = [dataclasses.replace(row, optimizer=f"m{i}") for i in range(40)]
    text = report.markdown(records, rows, "report.png")
    assert "m1, m2, m3, m4, m5, m6, m7, m8, and 31 more." in text


def test_everything_is_shown_when_everything_diverged(records):
    rows = [row for row in results.summarize(records) if row.diverged]
    assert "No optimizer has finished without diverging." in report.page(records, rows)


def test_sensitivity_is_measured_in_decades_within_five_percent():
    rates = np.array([0.001, 0.01, 0.1, 1.0])
    # From 1.0 to 1.1 over a decade: 1.05 lies in the middle of it.
    assert decades(rates, np.array([2.0, 1.0, 1.1, 3.0]))[0] == pytest.approx(0.05 + 0.5)
    assert decades(rates, np.array([2.0, 1.0, 1.01, 1.02])) == (pytest.approx(2.05), True)
    assert decades(rates, np.array([np.inf, 1.0, np.inf, 1.0])) == (0.0, False)
    assert decades(rates, np.full(4, np.inf)) == (0.0, False)


def in_chromium(page, tmp_path, script, width=1280):
    """The text that a script leaves as the page's title."""
    file = tmp_path / "report.html"
    file.write_text(page.replace("</body>", f"<script>document.title = String(({script}))</script></body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", "--dump-dom"]
    run = subprocess.run(
        [CHROMIUM, *options, f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()],
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return re.search(r"<title>(.*?)</title>", run.stdout)[1]


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_tables_are_sorted_and_filtered_in_a_browser(page, tmp_path):
    names = "[...document.querySelectorAll('#ranking tbody tr')].filter(r => !r.hidden).map(r => r.cells[0].innerText)"
    click = "document.querySelectorAll('#ranking thead button')[{}].click()"
    assert in_chromium(page, tmp_path, names) == "signum,adamw,mine,wild"
    assert in_chromium(page, tmp_path, f"{click.format(0)}, {names}") == "adamw,mine,signum,wild"
    twice = f"{click.format(2)}, {click.format(2)}, {names}"
    assert in_chromium(page, tmp_path, twice) == "mine,adamw,signum,wild"
    state = "document.querySelectorAll('#ranking thead th')[0].getAttribute('aria-sort')"
    assert in_chromium(page, tmp_path, f"{click.format(0)}, {state}") == "ascending"
    typed = "(i => (i.value = 'IG', i.dispatchEvent(new Event('input'))))(document.querySelector('input'))"
    assert in_chromium(page, tmp_path, f"{typed}, {names}") == "signum"


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [500, 1280])
def test_the_page_is_no_wider_than_the_window(page, tmp_path, width):
    assert in_chromium(page, tmp_path, "document.documentElement.scrollWidth <= innerWidth", width) == "true"
