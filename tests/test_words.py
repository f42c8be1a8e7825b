"""How public docstrings are written: arguments that many methods share have one wording, and rules stand at the top."""

import inspect
import re

import pytest

import optkit
from optkit.catalog import METHODS

# What the description of an argument begins with, where it does not refer to another function's: "See `...`".
SHARED = {
    "learning_rate": r"The learning rate, a positive number or a schedule\.",
    "weight_decay": r"Strength of the (decoupled weight decay|L2 penalty), at least 0\.",
    "mask": r"Which leaves decay: a tree of booleans, or a function that makes it from the parameters\.",
    "b1": r"Decay rate of the (first moment|momentum|momenta)\b",
    "b2": r"Decay rate of the (second moment|momentum)\b",
    "eps": r"Added to .*?, (at least|above) 0\.",
    "mu_dtype": r"Dtype of the (momentum|first moment)\. Default: that of the parameters",
    "axis_name": r"Name of the axis over workers",
    "key": r"Seed of the random draws, (an integer or a JAX key|a JAX key)",
    "weight_dimension_numbers": r"Which axes of each matrix are inputs and which are outputs",
    "labels": r'Which leaves are matrices: a tree of "matrix" and "other"',
    "others": r"The optimizer of all other parameters",
    "topology": r"Which workers exchange messages, from `optkit\.topology`\.",
    "applies_to": r"Which leaves are transformed: a tree of booleans, or a function that makes it from the parameters",
    "trainable": r"Which leaves are trained: a tree of booleans, or a function that makes it from the parameters\.",
}
# Arguments of these names that mean something else, by function.
OTHER = {
    "agvm": {"labels"},  # modules
    "cautious_lion": {"b1"},  # weights of an interpolation
    "scale_by_lion_kappa": {"b1"},
    "quadratic_synchronization": {"learning_rate"},  # a schedule only
    "scale_by_ggt": {"b2"},  # of a window
    "prox.masked": {"mask"},  # of a map
    "align_units": {"others"},  # another network
    "attacks.label_flip": {"labels"},  # of examples
}

FACTORIES = {name: method.factory for name, method in METHODS.items() if method.kind != "function"}
PARTS = {part.__name__: part for m in METHODS.values() for part in m.parts if hasattr(optkit, part.__name__)}
PUBLIC = {
    name: thing
    for name, thing in {**{name: method.factory for name, method in METHODS.items()}, **PARTS}.items()
    if inspect.isfunction(thing)
}


def arguments(thing):
    """What the docstring says of each argument, on one line."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.getdoc(thing) or "", re.DOTALL | re.MULTILINE)
    entries = re.split(r"\n(?=    \S)", section.group(1).rstrip()) if section else []
    pairs = (entry.strip().split(":", 1) for entry in entries)
    return {name: " ".join(text.split()) for name, text in pairs}


@pytest.mark.parametrize("name", PUBLIC)
def test_shared_arguments_have_one_wording(name):
    wrong = {
        argument: text
        for argument, text in arguments(PUBLIC[name]).items()
        if argument in SHARED and argument not in OTHER.get(name, ()) and not text.startswith("See `")
        if not re.match(SHARED[argument], text)
    }
    assert wrong == {}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_argument_is_described_in_order(name):
    parameters = [parameter.name for parameter in inspect.signature(PUBLIC[name]).parameters.values()]
    described = arguments(PUBLIC[name])
    assert [argument.lstrip("*") for argument in described] == parameters
    assert [text for text in described.values() if not (text[0].isupper() or text[0] in '`"')] == []


@pytest.mark.parametrize("name", FACTORIES)
def test_a_method_says_its_rule_and_when_to_use_it(name):
    text = inspect.getdoc(FACTORIES[name]) or ""
    about = text.partition("\nArgs:")[0]
    assert re.match(r"[^\n]+\.\n", text), "the first line is one sentence"
    assert re.search(r"::\n|[Rr]ule\s+is\s+`", about), "the rule stands in an indented block, or is one formula"
    assert re.search(r"\bUse\s+it\b", about), "when to use it"
    assert re.search(r"\bAvoid\b", about), "when to avoid it"
