"""Every method of the catalog, and every variant of one, keeps the contract."""

import optax
import pytest

import optkit
from optkit.catalog import METHODS
from optkit.testing import check_method, check_transformation

ENTRIES = [entry for method in METHODS.values() for entry in (method, *map(method.variant, method.variants))]


@pytest.mark.parametrize("method", [pytest.param(entry, id=entry.name) for entry in ENTRIES])
def test_contract(method):
    check_method(method)


# Catalog factories build their inner optimizer themselves, where nobody sees what reaches it.
@pytest.mark.parametrize("wrapper", [optkit.cautious, optkit.grams])
def test_wrapper_hands_on_extra_args(wrapper):
    check_transformation(wrapper, promises=["hands_on_extra_args"], inner=optax.sgd(1e-3))
