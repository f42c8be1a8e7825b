"""What the comparison of orders with published ones promises."""

import itertools
import json

import numpy as np
import pytest

from experiments import evidence, published
from experiments.published import PUBLISHED, correlation


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


def test_too_few_methods_in_common_are_refused():
    with pytest.raises(ValueError, match="fewer than three methods in common: muon, adamw"):
        correlation({"adamw": 1.0, "muon": 2.0}, PUBLISHED["130M, 2x"])


@pytest.mark.slow
def test_seeds_are_correlated_alone_and_together():
    losses = {name: [loss, -loss] for name, loss in PUBLISHED["300M, 2x"].items()}
    losses = {name: [first, first + 0.1 * second] for name, (first, second) in losses.items()}
    found = published.compared(losses)["300M, 2x"]
    np.testing.assert_allclose((found["spearman"], *found["spearman_by_seed"]), 1)
    losses["muon"] = [9.0, losses["muon"][1]]
    assert published.compared(losses)["300M, 2x"]["spearman_by_seed"][0] < 1


@pytest.mark.slow
def test_the_committed_page_shows_the_committed_results():
    content = json.loads((evidence.RESULTS / "published-order.json").read_text())
    losses = content["losses"]
    page = published.markdown(content["task"], losses, content["correlations"])
    assert (evidence.RESULTS / "published-order.md").read_text() == page
    assert content["correlations"] == json.loads(json.dumps(published.compared(losses)))
