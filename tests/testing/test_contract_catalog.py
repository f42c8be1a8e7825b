"""Every method of the catalog, and every variant of one, keeps the contract."""

import inspect

import jax
import optax
import pytest

import optkit
from optkit.catalog import with_variants
from optkit.testing import PROMISES, check_method, check_transformation
from optkit.testing.case import Case, fed_with_rows
from optkit.testing.usage import without_params

ENTRIES = with_variants()
# What the arguments of a variant cannot break as long as its state is of the same types as that of the method itself.
OF_THE_STATE = {
    "allows_donation",
    "takes_all_containers",
    "recovers_from_nan",
    "accepts_unknown_extra_args",
    "hands_on_extra_args",
    "names_missing_extra_args",
    "works_masked",
    "works_partitioned",
    "works_in_multi_steps",
    "works_in_chain",
    "takes_schedules",
    "works_with_map_params",
    "works_in_nnx_optimizer",
    "trains_callable_model",
    "masks_decay",
    "is_deterministic",
    "continues_from_orbax",
    "continues_from_flax",
}


def case_of(method):
    return Case(
        factory=method.optimizer_factory
        if method.stacked is None
        else fed_with_rows(method.optimizer_factory, method.stacked),
        example=method.arguments,
        static_args=method.static,
        needs=method.needs,
        eval_params=method.eval_params,
        tuned=method.tuned,
        sampler=False,
        devices=jax.device_count(),
    )


def state_types(method):
    case = case_of(method)
    return jax.eval_shape(case.init(case.build()), case.params())


def promises(name):
    """The promises to check: all of a method, and of a variant those that its arguments can break."""
    method = name.partition(":")[0]
    if method == name or state_types(ENTRIES[method]) != state_types(ENTRIES[name]):
        return PROMISES
    return [promise for promise in PROMISES if promise not in OF_THE_STATE]


# `make test-quick` checks one.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "lion_kappa" else pytest.mark.slow) for name in ENTRIES]
)
def test_contract(name):
    check_method(ENTRIES[name], promises(name))


def test_what_is_tuned_can_be_injected():
    assert [name for name, method in ENTRIES.items() if method.tuned in method.static] == []


def test_who_needs_the_parameters_is_named_as_users_know_it():
    named = {}
    for name, method in ENTRIES.items():
        case = case_of(method)
        tx, params = case.build(), case.params()
        state = jax.eval_shape(case.init(tx), params)
        try:
            jax.eval_shape(case.update(without_params(tx)), params, state, params)
        except ValueError as error:
            named[name] = str(error).split(maxsplit=1)[0]
    assert {name: who for name, who in named.items() if not hasattr(optkit, who)} == {}


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, method in ENTRIES.items()
        if method.is_composed and "applies_to" in inspect.signature(method.factory).parameters
    ],
)
def test_leaves_outside_pass_through_a_transformation(name):
    method = ENTRIES[name]
    check_transformation(method.factory, promises=["works_masked"], needs=method.needs, **method.example)


# Catalog factories build their inner optimizer themselves, where nobody sees what reaches it.
@pytest.mark.parametrize("wrapper", [optkit.cautious, optkit.grams])
def test_wrapper_hands_on_extra_args(wrapper):
    check_transformation(wrapper, promises=["hands_on_extra_args"], inner=optax.sgd(1e-3))
