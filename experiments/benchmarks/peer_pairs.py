"""Which methods are measured beside which implementation in PyTorch, with hyperparameters that mean the same.

Kernels are outputs first on both sides, as in PyTorch, so that both have the same tree.
"""

import functools
import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

import optkit
from experiments.benchmarks.nearest import LEARNING_RATE
from experiments.errors import UserError, check_name

PACKAGES = ("torch", "pytorch_optimizer", "heavyball")
COMPILERS = ("g++", "clang++")
# Why both need not come to equal parameters.
BFLOAT16 = "theirs multiplies matrices in bfloat16, ours in float32"
OTHER_START = "theirs starts the momentum at zero, ours at the first gradient, and scales leaves of one axis otherwise"

OTHER_MARS = (
    "theirs, compiled, compares a gradient with the last corrected one, and divides by 1 - gamma, not by 1 - b1"
)
OTHER_MUON = "theirs adds the gradient and its average, has other coefficients in each step, and multiplies in bfloat16"

_DECAY = {"weight_decay": 0.01}
_OUTPUTS_FIRST = optax.contrib.MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)
# Muon's authors' AdamW for parameters that are no kernels.
_OTHERS = {"betas": (0.9, 0.95), "eps": 1e-10, "weight_decay": 0.0}
_MUON_GROUPS = (
    {"use_muon": True, "lr": LEARNING_RATE, **_DECAY},
    {"use_muon": False, "lr": LEARNING_RATE, **_OTHERS},
)
# Theirs adds epsilon before the bias correction, ours behind it. Theirs decays parameters of one axis by this much.
_THEIR_MARS = {"eps": 0.0, "lr_1d": LEARNING_RATE, "weight_decay_1d": 0.1}
_OUR_MARS = {"others": optax.adamw(LEARNING_RATE, 0.9, 0.95, eps=0.0, weight_decay=0.1)}
# With the rank, the gap and the scale of `galore_adamw`.
_GALORE_GROUPS = ({"rank": 128, "update_proj_gap": 200, "scale": 0.25, "projection_type": "std"}, {})


class Tensors(NamedTuple):
    """The parameters of an optimizer of PyTorch.

    Attributes:
        kernels: of dense layers.
        others: embeddings, norms and biases.
    """

    kernels: list[Any]
    others: list[Any]


class Pair(NamedTuple):
    """A method, and an implementation of it in PyTorch.

    Attributes:
        method: what ours is called in tables.
        peer: what theirs is called there.
        ours: builds ours.
        theirs: builds theirs, and returns the function that takes a step.
        differs: what of the rule is not the same; nothing where both come to equal parameters.
    """

    method: str
    peer: str
    ours: Callable[[], optax.GradientTransformation]
    theirs: Callable[[Tensors], Callable[[], Any]]
    differs: str = ""


def find(names: tuple[str, ...] | None) -> list[Pair]:
    """Looks pairs up.

    Args:
        names: of methods; None for all.

    Returns:
        All pairs of these methods.

    Raises:
        UserError: if there is none of a name.
    """
    known = dict.fromkeys(pair.method for pair in PAIRS)
    for name in names or ():
        check_name("optimizer", name, known)
    return [pair for pair in PAIRS if names is None or pair.method in names]


def require_packages() -> None:
    """Makes sure that what is measured could run, without importing it.

    Raises:
        UserError: if a package is not installed, or there is no compiler for HeavyBall's steps.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"bench peers needs {', '.join(missing)}: pip install -e '.[peers]'")
    if not any(map(shutil.which, (os.environ.get("CXX", ""), *COMPILERS))):
        raise UserError(f"bench peers needs a compiler for C++, for compiled steps: {' or '.join(COMPILERS)}")


def is_kernel(params: Any) -> Any:
    """Returns a tree that says which leaves are kernels of dense layers."""
    return jax.tree.map_with_path(lambda path, _: getattr(path[-1], "key", None) == "kernel", params)


def _ours(factory, **arguments):
    return functools.partial(factory, LEARNING_RATE, **_DECAY, **arguments)


def _our_muon(factory, **arguments):
    labels = lambda params: jax.tree.map(lambda chosen: "matrix" if chosen else "other", is_kernel(params))  # noqa: E731
    others = optax.adamw(LEARNING_RATE, *_OTHERS["betas"], eps=_OTHERS["eps"], weight_decay=_OTHERS["weight_decay"])
    return _ours(factory, labels=labels, others=others, weight_dimension_numbers=_OUTPUTS_FIRST, **arguments)


def _our_cautious_decay():
    return optax.chain(
        optax.scale_by_adam(),
        optkit.add_cautious_decayed_weights(**_DECAY),
        optax.scale_by_learning_rate(LEARNING_RATE),
    )


def _public(package, name) -> Any:
    return getattr(importlib.import_module(package), name)


def _whole(package, name, **arguments):
    """Builds an optimizer of all parameters."""

    def build(tensors):
        return _public(package, name)(
            [*tensors.kernels, *tensors.others], lr=LEARNING_RATE, **{**_DECAY, **arguments}
        ).step

    return build


def _compiled(name, **arguments):
    """Builds an optimizer of pytorch_optimizer whose step is compiled."""

    def build(tensors):
        model = _public("torch.nn", "ParameterList")([*tensors.kernels, *tensors.others])
        create = _public("pytorch_optimizer", "create_optimizer")
        return create(model, name, lr=LEARNING_RATE, **_DECAY, wd_ban_list=(), compile=True, **arguments).step

    return build


def _grouped(name, groups, **arguments):
    """Builds an optimizer of pytorch_optimizer with one group of kernels and one of all other parameters."""

    def build(tensors):
        params = [{"params": list(part), **group} for part, group in zip(tensors, groups, strict=True)]
        return _public("pytorch_optimizer", name)(params, **arguments).step

    return build


def _two(package, name, others, **arguments):
    """Builds an optimizer of the kernels, and an AdamW of the same package for all other parameters."""

    def build(tensors):
        steps = (
            _whole(package, name, **arguments)(Tensors(tensors.kernels, [])),
            _whole(package, "AdamW", **_OTHERS, **others)(Tensors([], tensors.others)),
        )

        def step():
            for take in steps:
                take()

        return step

    return build


def _clipped(tensors):
    """Builds SGD with momentum behind PyTorch's clipping."""
    parameters = [*tensors.kernels, *tensors.others]
    clip = _public("torch.nn.utils", "clip_grad_norm_")
    optimizer = _public("torch.optim", "SGD")(parameters, lr=LEARNING_RATE, momentum=0.9)

    def step():
        clip(parameters, 1.0)
        optimizer.step()

    return step


_ADAMW = _ours(optax.adamw)
_LION = _ours(optkit.lion_kappa)
_GRAMS = _ours(optkit.grams_adamw, eps_placement="post")
_MARS = _ours(optkit.mars_adamw, eps=0.0, **_OUR_MARS)
_MUON = _our_muon(optkit.muon)
_SAI = _ours(optkit.sgd_sai)
_BETAS = {"betas": (0.9, 0.999)}

PAIRS = (
    Pair("optax.adamw", "torch.optim.AdamW, fused", _ADAMW, _whole("torch.optim", "AdamW", fused=True)),
    Pair("optax.adamw", "torch.optim.AdamW, foreach", _ADAMW, _whole("torch.optim", "AdamW", foreach=True)),
    Pair("optax.adamw", "heavyball.AdamW", _ADAMW, _whole("heavyball", "AdamW", **_BETAS)),
    Pair("lion_kappa", "pytorch_optimizer.Lion", _LION, _whole("pytorch_optimizer", "Lion")),
    Pair("lion_kappa", "pytorch_optimizer.Lion, compiled", _LION, _compiled("lion")),
    Pair(
        "cautious_lion",
        "pytorch_optimizer.Lion, cautious",
        _ours(optkit.cautious_lion, b1=0.9, b2=0.99),
        _whole("pytorch_optimizer", "Lion", cautious=True),
    ),
    Pair(
        "signum",
        "pytorch_optimizer.SignSGD",
        _ours(optkit.signum),
        _whole("pytorch_optimizer", "SignSGD", momentum=0.9),
    ),
    Pair(
        "cautious_adamw",
        "heavyball.AdamW, caution",
        _ours(optkit.cautious_adamw, eps=1e-8, eps_placement="post"),
        _whole("heavyball", "AdamW", caution=True, **_BETAS),
    ),
    Pair(
        "add_cautious_decayed_weights",
        "heavyball.AdamW, cautious_weight_decay",
        _our_cautious_decay,
        _whole("heavyball", "AdamW", cautious_weight_decay=True, **_BETAS),
    ),
    Pair("grams_adamw", "pytorch_optimizer.Grams", _GRAMS, _whole("pytorch_optimizer", "Grams")),
    Pair("grams_adamw", "pytorch_optimizer.Grams, compiled", _GRAMS, _compiled("grams")),
    Pair("mars_adamw", "pytorch_optimizer.MARS", _MARS, _whole("pytorch_optimizer", "MARS", **_THEIR_MARS)),
    Pair("mars_adamw", "pytorch_optimizer.MARS, compiled", _MARS, _compiled("mars", **_THEIR_MARS)),
    Pair(
        "mars_adamw",
        "heavyball.AdamW, mars",
        _ours(optkit.mars_adamw, corrected=True, correction=optkit.MarsCorrection(max_norm=None)),
        _whole("heavyball", "AdamW", betas=(0.95, 0.99), mars=True, mars_gamma=0.025),
        OTHER_MARS,
    ),
    Pair(
        "mars_lion",
        "pytorch_optimizer.MARS, lion",
        _ours(optkit.mars_lion, **_OUR_MARS),
        _whole("pytorch_optimizer", "MARS", mars_type="lion", **_THEIR_MARS),
    ),
    Pair(
        "mars_shampoo",
        "pytorch_optimizer.MARS, shampoo",
        _ours(optkit.mars_shampoo, **_OUR_MARS, weight_dimension_numbers=_OUTPUTS_FIRST),
        _whole("pytorch_optimizer", "MARS", mars_type="shampoo", **_THEIR_MARS),
        BFLOAT16,
    ),
    Pair("muon", "torch.optim.Muon", _MUON, _two("torch.optim", "Muon", {"fused": True}), BFLOAT16),
    Pair("muon", "pytorch_optimizer.Muon", _MUON, _grouped("Muon", _MUON_GROUPS), BFLOAT16),
    Pair("muon", "heavyball.Muon", _MUON, _two("heavyball", "Muon", {}, betas=(0.95, 0.99)), OTHER_MUON),
    Pair(
        "normuon",
        "pytorch_optimizer.NorMuon",
        _our_muon(
            optkit.normuon,
            nesterov=True,
            ema=True,
            scale="jordan",
            orthogonalize=optkit.linalg.gram_newton_schulz,
        ),
        _grouped("NorMuon", _MUON_GROUPS),
        BFLOAT16,
    ),
    Pair("sgd_sai", "pytorch_optimizer.SGDSaI", _SAI, _whole("pytorch_optimizer", "SGDSaI"), OTHER_START),
    Pair("sgd_sai", "pytorch_optimizer.SGDSaI, compiled", _SAI, _compiled("sgdsai"), OTHER_START),
    Pair(
        "galore_adamw",
        "pytorch_optimizer.GaLore",
        _ours(optkit.galore_adamw, leaves=is_kernel, weight_dimension_numbers=_OUTPUTS_FIRST),
        _grouped("GaLore", _GALORE_GROUPS, lr=LEARNING_RATE, **_DECAY),
    ),
    Pair(
        "adam_sn",
        "pytorch_optimizer.AdamWSN",
        _ours(optkit.adam_sn, eps=1e-8, subset_size=-1, subset_leaves=is_kernel),
        _grouped("AdamWSN", ({"sn": True}, {"sn": False}), lr=LEARNING_RATE, **_DECAY),
    ),
    Pair(
        "clipped_sgd",
        "torch.optim.SGD, clip_grad_norm_",
        functools.partial(optkit.clipped_sgd, LEARNING_RATE, momentum=0.9),
        _clipped,
    ),
)
