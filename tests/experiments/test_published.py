"""What the comparison of orders with published ones promises."""

import itertools
import json

import numpy as np
import pytest
import scipy

from experiments import evidence, published
from experiments.published import SOURCES, correlation

WEN = next(source.models for source in SOURCES if source.name == "Wen et al.")


def test_the_same_order_correlates_fully_and_the_reverse_one_negatively():
    losses = {"muon": 1.0, "mars_adamw": 2.0, "adamw": 3.0, "lion": 4.0, "only here": 0.0}
    theirs = {"muon": 3.1, "mars_adamw": 3.2, "adamw": 3.3, "lion": 3.4, "only there": 9.0}
    same = correlation(losses, theirs)
    assert same.methods == ["muon", "mars_adamw", "adamw", "lion"]
    np.testing.assert_allclose((same.spearman, same.kendall), 1)
    # Of the 24 orders, this one and its reverse are as far from zero.
    np.testing.assert_allclose((same.spearman_p, same.kendall_p), 2 / 24)
    reverse = correlation({name: -loss for name, loss in losses.items()}, theirs)
    np.testing.assert_allclose((reverse.spearman, reverse.kendall), -1)


def test_one_swap_of_five_is_as_worked_out_by_hand():
    ours = dict(zip("abcde", (1, 2, 3, 5, 4), strict=True))
    found = correlation(ours, dict(zip("abcde", range(5), strict=True)))
    # Spearman: 1 - 6 * 2 / (5 * 24); Kendall: 9 of 10 pairs agree.
    np.testing.assert_allclose((found.spearman, found.kendall), (0.9, 0.8))
    differences = [sum((i - place) ** 2 for i, place in enumerate(order)) for order in itertools.permutations(range(5))]
    np.testing.assert_allclose(found.spearman_p, np.mean([d <= 2 or d >= 38 for d in differences]))


@pytest.mark.parametrize("count", [3, 7])
def test_ties_count_as_scipy_counts_them(count):
    ours = dict(zip("abcdefghi"[:count], np.random.default_rng(count).permutation(count).tolist(), strict=True))
    theirs = {name: place // 2 for place, name in enumerate(ours)}
    found = correlation(ours, theirs)
    pairs = [ours[name] for name in ours], [theirs[name] for name in ours]
    np.testing.assert_allclose(found.spearman, scipy.stats.spearmanr(*pairs).statistic, atol=1e-12)
    np.testing.assert_allclose(found.kendall, scipy.stats.kendalltau(*pairs).statistic, atol=1e-12)


@pytest.mark.slow
def test_orders_of_many_methods_are_drawn_and_the_same_each_time():
    losses = dict(zip("abcdefghi", range(9), strict=True))
    found = correlation(losses, losses)
    # None of the random orders is this one or its reverse, so that the p-value is the least that can be drawn.
    np.testing.assert_allclose((found.spearman_p, found.kendall_p), 2 / (published.ORDERS + 1))
    swapped = {**losses, "a": 8, "i": 0}
    assert correlation(losses, swapped) == correlation(losses, swapped)


def test_too_few_methods_in_common_are_refused():
    with pytest.raises(ValueError, match="fewer than three methods in common: muon, adamw"):
        correlation({"adamw": 1.0, "muon": 2.0}, WEN["130M, 2x"])


def test_models_with_too_few_methods_in_common_are_left_out():
    losses = {"muon": [1.0], "normuon": [2.0], "adamw": [3.0]}
    found = published.compared(losses)
    assert {name: list(models) for name, models in found.items() if models} == {"Modded-NanoGPT": ["NanoGPT small"]}
    page = published.markdown("task", losses, found)
    assert "## Modded-NanoGPT" in page
    assert "## Wen et al." not in page


def test_every_published_result_is_of_an_optimizer_of_the_committed_run():
    losses = json.loads((evidence.RESULTS / "published-order.json").read_text())["losses"]
    for source in SOURCES:
        for model, results in source.models.items():
            assert results.keys() <= losses.keys(), (source.name, model)
            assert list(results.values()) == sorted(results.values()), f"{source.name}, {model}: the best first"


def test_published_orders_are_correlated_with_each_other():
    found = published.among_themselves()
    # Nine models, of which two have AdamW before Muon.
    assert sorted(np.round(found["Yuan et al."]["Yuan et al."], 2)) == [0.5] * 14 + [1.0] * 22
    assert "Modded-NanoGPT" not in found["Wen et al."]


def test_wins_over_adamw_are_counted_where_both_are():
    found = published.ahead({"muon": [1.0], "cautious_adamw": [1.0], "galore_adamw": [1.0], "adamw": [1.0]})
    assert found == {
        "muon": {
            "Wen et al.": (12, 12),
            "Semenov et al.'s code": (1, 1),
            "Yuan et al.": (7, 9),
            "Modded-NanoGPT": (1, 1),
        },
        "cautious_adamw": {"Wen et al.": (9, 11)},
    }


@pytest.mark.slow
def test_seeds_are_correlated_alone_and_together():
    losses = {name: [loss, loss - 0.1 * loss] for name, loss in WEN["300M, 2x"].items()}
    found = published.compared(losses)["Wen et al."]["300M, 2x"]
    np.testing.assert_allclose((found["spearman"], *found["spearman_by_seed"]), 1)
    losses["muon"] = [9.0, losses["muon"][1]]
    first, second = published.compared(losses)["Wen et al."]["300M, 2x"]["spearman_by_seed"]
    assert first < second == pytest.approx(1)


@pytest.mark.slow
def test_the_committed_page_shows_the_committed_results():
    content = json.loads((evidence.RESULTS / "published-order.json").read_text())
    losses = content["losses"]
    page = published.markdown(content["task"], losses, content["correlations"])
    assert (evidence.RESULTS / "published-order.md").read_text() == page
    assert without_last_digits(content["correlations"]) == without_last_digits(published.compared(losses))
    assert without_last_digits(content["among_published"]) == without_last_digits(published.among_themselves())


def without_last_digits(content):
    """Rounds numbers to 12 digits; in the last ones, processors differ."""
    return json.loads(json.dumps(content), parse_float=lambda text: round(float(text), 12))
