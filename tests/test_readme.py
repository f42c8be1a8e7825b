from experiments.readme import BEGIN, END, README, with_methods_table
from optkit.catalog import METHODS


def test_the_table_of_methods_is_up_to_date():
    text = README.read_text()
    assert BEGIN in text
    assert END in text
    assert text == with_methods_table(text), "the README is stale: run `make readme`"


def test_every_method_has_its_row():
    rows = README.read_text().splitlines()
    for method in METHODS.values():
        assert sum(row.startswith(f"| `{method.name}` |") for row in rows) == 1
