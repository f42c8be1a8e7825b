"""Writes the site's pages on families and tools from the catalog and the recorded results."""

import functools
import inspect
import itertools
import json
import pathlib
import re

import numpy as np

import optkit
from experiments.readme import shelf
from optkit.catalog import METHODS

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
FAMILIES = {
    "sign_momentum": "Lion, Signum, and one-line changes of any optimizer such as Cautious and Grams.",
    "variance_reduction": "MARS, STORM, SVRG and relatives, and measures of gradient noise and batch size.",
    "memory_efficient": "Second moments by row, subspaces, and compressed state: subset norms, FRUGAL, MicroAdam.",
    "orthonormalization": "Muon, Dion and relatives for hidden matrices, on one device or sharded.",
    "random_scaling": "Updates scaled by a random number, and online learners as optimizers.",
    "median_clipping": "Clipping as median estimation, robust means of samples, and the largest losses (CVaR).",
    "decentralized": "Training over a network of workers without a server: gossip, gradient tracking, compression.",
    "robust_aggregation": "Aggregation rules for workers that fail or attack, and attacks to test them.",
    "communication": "Means over workers that send fewer bytes: compressed, with feedback of what was left out.",
    "local_training": "Workers that train alone for some steps between two exchanges: local SGD, DiLoCo, MT-DAO.",
}


def title(family: str) -> str:
    """Returns a family's name as a heading."""
    return family.replace("_", " ").capitalize()


@functools.cache
def _steps():
    rows = json.loads((RESULTS / "bench-update-cpu.json").read_text())["rows"]
    return {row["optimizer"]: row for row in rows if row["size"] == "7M" and row["dtype"] == "float32"}


@functools.cache
def _claims():
    by_method = {}
    for claim in json.loads((RESULTS / "claims.json").read_text()).values():
        by_method.setdefault(claim["method"], []).append(claim)
    return by_method


@functools.cache
def _recordings():
    """The source of each recorded run, by the method's name in the recordings."""
    sources = {}
    for path in sorted((ROOT / "tests" / "golden").glob("*.npz")):
        with np.load(path, allow_pickle=False) as recording:
            source = json.loads(str(recording["meta"]))["source"]
        sources.setdefault(path.stem.partition("__")[0], {}).setdefault(source, []).append(path.stem)
    return sources


def _facts(method):
    """What is known of a method: names of facts, and texts in Markdown."""
    if method.also_known_as:
        yield "Also known as", ", ".join(method.also_known_as)
    if method.paper is not None:
        paper = method.paper
        where = f", [arXiv:{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else ""
        yield "Paper", f"{paper.authors}, “{paper.title}”, {paper.year}{where}"
    if method.needs:
        yield "`update` needs", ", ".join(f"`{name}`" for name in method.needs)
    if method.variants:
        yield "Variants in `compare`", ", ".join(f"`{method.name}:{variant}`" for variant in method.variants)
    step = _steps().get(method.name)
    if step:
        low, middle, high = step["ratio"]
        state, reference_state = step["state_bytes_per_parameter"], step["reference_state_bytes_per_parameter"]
        reference = f"`{step['reference']}`"
        text = (
            f"{state:.1f} bytes of state per parameter ({reference}: {reference_state:.1f}); a step takes {middle:.2f} "
            f"times that of {reference} ({low:.2f} to {high:.2f}), measured on {step['hardware']['devices']} with 7 "
            "million parameters in float32"
        )
        yield "Cost", text
    recordings = _recordings().get(method.golden or method.name)
    if recordings:
        yield "Replays", "; ".join(f"{source} ({', '.join(names)})" for source, names in recordings.items())
    for claim in _claims().get(method.name, ()):
        result = {True: "holds", False: "**fails**", None: "reported without a margin"}[claim["holds"]]
        arxiv = f" (arXiv:{claim['arxiv']})" if claim["arxiv"] else ""
        yield f"Claim: {result}", f"{claim['statement']}{arxiv} Measured: {claim['measured']}."


def _plain(text):
    """Text in which Markdown sees no markup but links, bold words and code."""
    return re.sub(r"(?<!\*)\*(?!\*)|[<>|$#{}]", lambda mark: "\\" + mark.group(), text)


def _object(name, documented):
    if name in documented:
        return []
    documented.add(name)
    thing = _get(name)
    directive = "autoclass" if isinstance(thing, type) else "autofunction" if callable(thing) else "autodata"
    return ["", "```{eval-rst}", f".. {directive}:: optkit.{name}", "```"]


def _get(name):
    return functools.reduce(getattr, name.split("."), optkit)


def _family_page(family, documented):
    lines = [f"# {title(family)}", "", FAMILIES[family]]
    methods = [method for method in METHODS.values() if method.family == family]
    own = [method for method in methods if method.kind != "function"]
    for method in own:
        lines += _entry(method, "##", f" *({method.kind})*", documented)
    for space, tools in itertools.groupby(
        sorted((m for m in methods if m.kind == "function"), key=lambda m: shelf(m.name)), lambda m: shelf(m.name)
    ):
        lines += ["", f"## Tools: {space}"]
        for tool in tools:
            lines += _entry(tool, "###", "", documented)
    return "\n".join(lines) + "\n"


def _parts(method):
    """The public names of a method's parts, in `optkit` or in one of its namespaces."""
    spaces = {"": optkit} | {f"{name}.": space for name, space in vars(optkit).items() if inspect.ismodule(space)}
    for part in method.parts:
        yield from itertools.islice(
            (start + part.__name__ for start, space in spaces.items() if getattr(space, part.__name__, None) is part), 1
        )


def _api_page(documented):
    about = "What works with every optimizer; then the namespaces, and what lists and checks methods."
    lines = ["# Tools and namespaces", "", about]
    others = sorted((method for method in METHODS.values() if method.family not in FAMILIES), key=_shelf_first)
    for space, tools in itertools.groupby(others, lambda method: shelf(method.name)):
        lines += ["", f"## {space.capitalize() if space == 'tools' else space}"]
        for tool in tools:
            lines += _entry(tool, "###", "", documented)
    known = {id(_get(name)) for name in documented}
    for space in ("catalog", "method", "testing", "typing"):
        module = getattr(optkit, space)
        lines += ["", f"## `optkit.{space}`", "", (module.__doc__ or "").partition("\n\n")[0].replace("\n", " ")]
        for name in module.__all__:
            if id(getattr(module, name)) not in known:
                lines += _object(f"{space}.{name}", documented)
    return "\n".join(lines) + "\n"


def _shelf_first(method):
    return shelf(method.name) != "tools", shelf(method.name)


def _entry(method, heading, kind, documented):
    lines = ["", f"{heading} {method.name}", "", f"{_plain(method.summary)}{kind}", ""]
    lines += [f"- **{_plain(name)}:** {_plain(text)}" for name, text in _facts(method)]
    for name in (method.name, *_parts(method)):
        lines += _object(name, documented)
    return lines


def write_pages(folder: pathlib.Path) -> None:
    """Writes the pages, and copies notebooks and results beside them.

    Args:
        folder: where the site's sources stand.
    """
    documented = set()
    pages = {family: _family_page(family, documented) for family in FAMILIES}
    pages["tools"] = _api_page(documented)
    for name, text in pages.items():
        _write(folder / "families" / f"{name}.md", text.encode())
    for path in itertools.chain((ROOT / "notebooks").glob("*.ipynb"), RESULTS.glob("*.md"), RESULTS.glob("*.png")):
        _write(folder / path.parent.name / path.name, path.read_bytes())


def _write(path, content):
    """Writes what has changed only: Sphinx reads again what is newer than its last build."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)


def setup(app):
    """Writes the pages before Sphinx looks for them."""
    app.connect("builder-inited", lambda app: write_pages(pathlib.Path(app.srcdir)))
    return {"parallel_read_safe": True}
