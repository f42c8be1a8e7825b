import re

from experiments.readme import ADDRESS, BEGIN, END, README, with_links, with_methods_table
from optkit.catalog import METHODS


def test_the_table_of_methods_is_up_to_date():
    text = README.read_text()
    assert BEGIN in text
    assert END in text
    assert text == with_methods_table(text), "the README is stale: run `make readme`"


def test_every_method_and_tool_stands_in_one_row():
    rows = [row for row in README.read_text().splitlines() if row.startswith("| ")]
    for name in METHODS:
        assert sum(f"`{name}`" in row.partition("|")[2].partition("|")[2] for row in rows) == 1


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 150


def test_links_lead_to_one_address():
    text = README.read_text()
    assert text == with_links(text), "the README is stale: run `make readme`"
    absolute = with_links(text, "https://example.org/")
    assert set(re.findall(r"\]\((?!https?://|#)[^)]*\)", absolute)) == set()
    assert absolute.replace("https://example.org/", ADDRESS) == text
