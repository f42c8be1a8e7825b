"""What `python -m experiments claims` promises."""

import io
import json
import types
from typing import Any, cast

import numpy as np
import pytest
from rich.console import Console

import optkit
from experiments import claims, evidence
from experiments.claims import Claim, Finding, judge
from experiments.errors import UserError
from optkit.catalog import METHODS

CLAIMS = claims.load()


def claim(holds, measured="1 against 2", draw=None):
    return Claim(
        method="lion",
        arxiv="2302.06675",
        statement="Better than |x|.",
        experiment="One step.",
        required="less than 2",
        measure=lambda: Finding(measured, holds, draw),
    )


@pytest.fixture
def three(monkeypatch):
    """Claims of two families, one of which fails."""
    made = {
        "first/good": claim(holds=True, draw=lambda axes: axes.plot([1, 2])),
        "first/bad": claim(holds=False),
        "second/found": claim(holds=None, measured="3"),
    }
    monkeypatch.setattr(
        claims, "load", lambda names=(): {n: c for n, c in made.items() if not names or {n, n.split("/")[0]} & {*names}}
    )
    return made


def run(folder, *names):
    output = io.StringIO()
    evidence.run(names, folder, Console(file=output, width=120))
    return output.getvalue()


def test_a_failed_claim_stays_in_the_table_as_failed(three, tmp_path):
    assert "fails" in run(tmp_path)
    page = (tmp_path / "claims.md").read_text()
    assert page.count("**fails**") == 1
    assert "1 hold, 1 fail, 1 are reported" in page
    assert r"Better than \|x\|." in page
    assert {name: record["holds"] for name, record in json.loads((tmp_path / "claims.json").read_text()).items()} == {
        name: made.measure().holds for name, made in three.items()
    }


def test_a_claim_with_a_picture_links_it(three, tmp_path):
    del three
    run(tmp_path)
    assert "([figure](claim-first-good.png))" in (tmp_path / "claims.md").read_text()
    assert (tmp_path / "claim-first-good.png").stat().st_size > 5000


def test_a_claim_that_is_not_on_arxiv_has_no_link(three, tmp_path):
    object.__setattr__(three["first/bad"], "arxiv", "")
    run(tmp_path)
    page = (tmp_path / "claims.md").read_text()
    assert page.count("https://arxiv.org/abs/2302.06675") == 2
    assert "| `lion`: Better" in page


def test_ratios_of_losses_are_paired_by_seed():
    ours, theirs = (
        cast("Any", types.SimpleNamespace(test_losses=np.array(losses))) for losses in ([1.0, 10.0], [2.0, 20.0])
    )
    found, text = judge.log_ratio(ours, theirs)
    np.testing.assert_allclose(found[:3], np.log(0.5))
    assert text == "0.50 times (0.50 to 0.50)"


@pytest.mark.slow
def test_one_family_leaves_the_results_of_the_others(three, tmp_path):
    run(tmp_path)
    three["first/bad"] = claim(holds=True)
    assert "second/found" not in run(tmp_path, "first")
    page = (tmp_path / "claims.md").read_text()
    assert "2 hold, 0 fail, 1 are reported" in page


def test_a_claim_that_is_gone_leaves_the_page(three, tmp_path):
    run(tmp_path)
    del three["first/bad"]
    run(tmp_path, "second")
    assert "1 hold, 0 fail, 1 are reported" in (tmp_path / "claims.md").read_text()


def test_results_survive_an_interruption(three, tmp_path):
    three["second/found"] = claim(holds=None)

    def interrupt():
        raise KeyboardInterrupt

    object.__setattr__(three["second/found"], "measure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert len(json.loads((tmp_path / "claims.json").read_text())) == 2


def test_two_runs_into_one_folder_keep_the_results_of_both(three, tmp_path):
    def measure():
        run(tmp_path, "first")
        return Finding("4", None)

    object.__setattr__(three["second/found"], "measure", measure)
    run(tmp_path, "second")
    records = json.loads((tmp_path / "claims.json").read_text())
    assert list(records) == ["first/good", "first/bad", "second/found"]
    assert "1 hold, 1 fail, 1 are reported" in (tmp_path / "claims.md").read_text()


def test_an_unknown_family_is_named():
    with pytest.raises(UserError, match="unknown family 'xyz'; there are communication, decentralized, "):
        claims.load(["xyz"])


def test_an_unknown_claim_is_named():
    message = "unknown claim 'random_scaling/parities'; did you mean random_scaling/parity"
    with pytest.raises(UserError, match=message):
        claims.load(["random_scaling", "random_scaling/parities"])


def test_claims_are_chosen_by_their_names_and_by_families():
    chosen = list(claims.load(["sign_momentum/lion_bound", "random_scaling"]))
    assert chosen == [n for n in CLAIMS if n == "sign_momentum/lion_bound" or n.startswith("random_scaling/")]
    assert len(chosen) > 2


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_is_about_a_public_method_and_says_what_it_requires(name):
    found = CLAIMS[name]
    assert found.method in METHODS or callable(getattr(optkit, found.method, None))
    for words in (found.statement, found.experiment):
        assert words.endswith(".")
    assert found.required


def test_the_committed_page_shows_the_committed_results_in_the_words_of_the_claims():
    records = json.loads((evidence.RESULTS / "claims.json").read_text())
    assert (evidence.RESULTS / "claims.md").read_text() == evidence.markdown(records)
    assert set(records) == set(CLAIMS)
    for name, claim in CLAIMS.items():
        for field in ("method", "arxiv", "statement", "experiment", "required"):
            assert records[name][field] == getattr(claim, field), (name, field)
