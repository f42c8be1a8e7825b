"""Every method of the catalog, and every variant of one, keeps the contract."""

import optax
import pytest

import optkit
from optkit.catalog import with_variants
from optkit.testing import check_method, check_transformation

ENTRIES = with_variants()


@pytest.mark.parametrize("name", ENTRIES)
def test_contract(name):
    check_method(ENTRIES[name])


# Catalog factories build their inner optimizer themselves, where nobody sees what reaches it.
@pytest.mark.parametrize("wrapper", [optkit.cautious, optkit.grams])
def test_wrapper_hands_on_extra_args(wrapper):
    check_transformation(wrapper, promises=["hands_on_extra_args"], inner=optax.sgd(1e-3))
