import inspect
import re

import pytest

import optkit
from optkit import catalog
from optkit.catalog import METHODS, with_variants
from optkit.method import Method, Paper, methods_of

ENTRIES = with_variants()
# What papers, their code and other libraries call a method, or what somebody remembers of it, and what it is here.
CALLED = {
    # acronyms and names of papers
    "VRGD": "vr_sgd",
    "VR-Adam": "vr_adam",
    "EFCP": "sparse_m_fac",
    "low-rank EFCP": "low_rank_m_fac",
    "PowerSGD": "power_sgd",
    "DGC": "deep_gradient_compression",
    "DeMo": "demo",
    "TernGrad": "terngrad",
    "EF21": "feedback.ef21",
    "1-bit Adam": "compressed_mean",
    "SNSM": "adam_snsm",
    "AdAdaGrad": "adaptive_batch_size",
    "SPL+": "cvar_prox_linear",
    "STORM+": "storm_plus",
    "MVR": "recursive_momentum",
    "SpiderBoost": "spider_boost",
    "N-IGT": "nigt",
    "SGD-SaI": "sgd_sai",
    "AdaGrad-Norm": "adagrad_norm",
    "alpha-SVRG": "svrg",
    "MARS-M": "mars_m",
    "AGVM": "agvm",
    "C-AdamW": "cautious_adamw",
    "C-Lion": "cautious_lion",
    "CWD": "add_cautious_decayed_weights",
    "Lion": "lion_kappa",
    "Lion-K": "lion_kappa",
    "PCNGD": "class_normalized",
    "RFA": "geometric_median",
    "NNM": "nearest_neighbor_mixing",
    "MeaMed": "meamed",
    "CGE": "cge",
    "CClip": "centered_clip",
    "ClippedGossip": "self_centered_clip",
    "ALIE": "attacks.a_little_is_enough",
    "IPM": "attacks.inner_product_manipulation",
    "Fall of Empires": "attacks.inner_product_manipulation",
    "D-PSGD": "gossip",
    "D2": "exact_diffusion",
    "DIGing": "track_gradients",
    "QG-DSGDm": "qg_dsgdm",
    "RelaySGD": "relay_sum",
    "CHOCO-SGD": "choco",
    "DProxSGT": "proximal_gradient_tracking",
    "CDProxSGT": "compressed_proximal_tracking",
    "MoDeST": "participation_mix",
    "DIMAT": "activation_matched_mix",
    "SA-SRRW": "self_repellent_walk",
    "TIES-Merging": "ties_merge",
    "DADAO": "dadao",
    "Network Lasso": "network_lasso",
    "GaLore": "galore_adamw",
    "MicroAdam": "micro_adam",
    "M-FAC": "m_fac",
    "Moonlight": "muon",
    "Dion3": "nordion2",
    "Polar Express": "linalg.polar_express",
    "QSGD": "compressors.qsgd",
    # names in other libraries
    "multi-Krum": "krum",
    "zeropower_via_newtonschulz5": "linalg.newton_schulz",
    "signSGD": "signum",
    "TrMean": "trimmed_mean",
    "Metropolis-Hastings weights": "topology.metropolis_weights",
    "soft thresholding": "prox.l1",
    # ideas
    "critical batch size": "gradient_noise_scale",
    "gradient noise scale": "gradient_noise_scale",
    "sgd with clipping": "clipped_sgd",
    "Weiszfeld": "geometric_median",
    "decentralized SGD": "gossip",
    # titles, authors, ids
    "No More Adam: Learning Rate Scaling at Initialization is All You Need": "sgd_sai",
    "Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts": "lion_kappa",
    "arXiv:2302.14252": "proximal_gradient_tracking",
    "https://arxiv.org/abs/2504.05295": "dion",
    "2502.16982": "muon",
    "Levy, Kavis, Cevher": "storm_plus",
    "Allouah": "nearest_neighbor_mixing",
    # misspelt
    "krumm": "krum",
    "lion kapa": "lion_kappa",
    "galor": "galore_adamw",
    "geometic median": "geometric_median",
    "Karimiredy": "robust_sgd",
}


@pytest.mark.parametrize("name", ENTRIES)
def test_the_example_builds_something_usable(name):
    method = ENTRIES[name]
    assert callable(method.optimizer(method.arguments[method.tuned]).update)


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_of_a_method_is_complete(name):
    method = ENTRIES[name]
    arguments = inspect.signature(method.optimizer_factory).parameters
    assert method.paper is not None
    assert method.tuned in arguments
    assert method.tuned in method.arguments
    assert method.grid > 0
    assert {*method.arguments} <= set(arguments)
    assert [name for name, argument in arguments.items() if argument.annotation is argument.empty] == []


@pytest.mark.parametrize("name", METHODS)
def test_an_entry_says_what_it_is(name):
    method = METHODS[name]
    assert re.fullmatch(r"[A-Z\d].*\.", method.summary)
    assert method.family in {"_tools", "linalg"} or f"optkit.{method.family}" in method.factory.__module__
    assert method.paper is None or not method.paper.arxiv or re.fullmatch(r"\d{4}\.\d{4,5}", method.paper.arxiv)
    assert method.name not in method.also_known_as
    assert len(set(method.also_known_as)) == len(method.also_known_as)


def test_names_are_unique():
    listed = methods_of(*(vars(catalog)[name] for name in {method.family for method in METHODS.values()}))
    assert len(listed) == len({method.name for method in listed}) == len(METHODS)


def test_a_function_is_no_optimizer():
    with pytest.raises(TypeError, match=r"topology.ring is a function, from which no optimizer can be built"):
        METHODS["topology.ring"].optimizer(0.1)


@pytest.mark.parametrize("text", CALLED)
def test_names_of_papers_and_peers_are_found(text):
    assert catalog.find(text)[0].name == CALLED[text]


def test_what_is_found_shows_itself():
    found = catalog.find("Byzantine")
    assert found
    assert str(found).splitlines()[0].startswith(found[0].name)
    assert f"<code>optkit.{found[0].name}</code>" in found._repr_html_()
    assert f"https://arxiv.org/abs/{found[0].paper.arxiv}" in found._repr_html_()


def test_nothing_is_found_where_nothing_is_near():
    for text in ("xyzzy", "", "0000.00000"):
        assert catalog.find(text) == ()
        assert str(catalog.find(text)) == "nothing found"


def test_html_is_escaped():
    entry = Method(name="tag", factory=optkit.signum, kind="optimizer", summary="<b>", paper=Paper("<i>", "<u>", 2020))
    assert "<b>" not in catalog.find("tag", methods=[entry])._repr_html_()


def test_other_lists_are_searched_too():
    entry = Method(name="my_method", factory=optkit.signum, kind="optimizer", summary="Mine.", also_known_as=("MM",))
    assert catalog.find("mm", methods=[entry])[0] is entry


def test_text_must_be_a_string():
    with pytest.raises(TypeError, match="text must be a string, got 3"):
        catalog.find(3)
