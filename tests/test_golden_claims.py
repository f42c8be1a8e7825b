import golden_files
from golden_files import claimed_methods

from optkit.catalog import METHODS


def test_golden_files_of_catalogued_methods_are_all_replayed():
    recorded = {path.stem.split("__")[0] for path in golden_files.files("*")}
    catalogued = {method.golden or method.name for method in METHODS.values()}
    assert recorded & catalogued <= claimed_methods()
