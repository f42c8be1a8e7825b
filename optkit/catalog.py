"""All methods and tools by name and by other names; tests, documentation and experiments read this list."""

import collections
import difflib
import html
import math
import re
import types
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from optkit import (
    _tools,
    communication,
    compressors,
    decentralized,
    linalg,
    local_training,
    median_clipping,
    memory_efficient,
    orthonormalization,
    prox,
    random_scaling,
    robust_aggregation,
    sign_momentum,
    variance_reduction,
)
from optkit.method import Method, methods_of

__all__ = ["METHODS", "Found", "find", "with_variants"]

_LISTS = (
    variance_reduction,
    median_clipping,
    random_scaling,
    sign_momentum,
    memory_efficient,
    orthonormalization,
    decentralized,
    robust_aggregation,
    communication,
    local_training,
    compressors,
    prox,
    linalg,
    _tools,
)

METHODS: Mapping[str, Method] = types.MappingProxyType({method.name: method for method in methods_of(*_LISTS)})


def with_variants() -> Mapping[str, Method]:
    """Returns all methods that can be made into optimizers, and all their variants, which are named `name:variant`.

    Example:
        >>> with_variants()["lion_kappa:huber"].summary == METHODS["lion_kappa"].summary
        True
    """
    methods = [method for method in METHODS.values() if method.kind != "function"]
    entries = ((method, *map(method.variant, method.variants)) for method in methods)
    return {entry.name: entry for group in entries for entry in group}


class Found(tuple[Method, ...]):
    """Methods, with the best match first; a notebook or a terminal shows them as a table."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Returns one line for each method."""
        if not self:
            return "nothing found"
        width = max(len(method.name) for method in self)
        return "\n".join(f"{method.name:<{width}}  {method.kind:<14}  {method.summary}" for method in self)

    def _repr_html_(self) -> str:
        """Returns a table with links to the papers, which notebooks show."""
        if not self:
            return "<p>nothing found</p>"
        columns = ("name", "kind", "what it does", "also known as", "paper")
        rows = ["".join(f"<th style='text-align: left'>{column}</th>" for column in columns)]
        for method in self:
            cells = (
                f"<code>optkit.{html.escape(method.name)}</code>",
                html.escape(method.kind),
                html.escape(method.summary),
                html.escape(", ".join(method.also_known_as)),
                _reference(method),
            )
            rows.append("".join(f"<td style='text-align: left'>{cell}</td>" for cell in cells))
        return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def find(text: str, *, most: int = 10, methods: Iterable[Method] | None = None) -> Found:
    """Finds methods and tools by any name or word that people use for them.

    It searches names, acronyms and names in other papers and libraries first, then the paper's title, its authors, its
    arXiv id, and the words of the summary. It tolerates spelling mistakes.

    Args:
        text: The words to look for, for example "VRGD", "Karimireddy", "2310.05898" or "clip gradients median".
        most: Largest number of results. Default: 10.
        methods: The methods to search. Default: None, all of optkit.

    Returns:
        The methods, with the best match first; empty if nothing is similar enough.

    Raises:
        TypeError: If `text` is not a string.

    Example:
        >>> find("VRGD")[0].name
        'vr_sgd'
        >>> find("arXiv:2310.05898")[0].name
        'lion_kappa'
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, got {text!r}")
    entries = tuple(METHODS.values() if methods is None else methods)
    index = _index(entries)
    score = {entry.name: _score(text, entry, index) for entry in entries}
    ranked = sorted((entry for entry in entries if score[entry.name] >= _LEAST), key=lambda e: -score[e.name])
    best = score[ranked[0].name] if ranked else 0.0
    return Found([entry for entry in ranked if score[entry.name] >= best / 3][:most])


# The weight of a word found in a method's names, its paper's title, the authors, the summary or the family.
_WEIGHTS = {"names": 1.0, "title": 0.7, "authors": 0.7, "summary": 0.5, "family": 0.4}
_LEAST = 0.3
# Of two equally good matches, the one that needs no other part comes first.
_PREFERENCE = {
    "optimizer": 0.04,
    "sampler": 0.04,
    "wrapper": 0.03,
    "aggregator": 0.03,
    "transformation": 0.02,
    "function": 0.0,
}
_STOP_WORDS = frozenset(("a", "and", "by", "for", "in", "is", "of", "on", "the", "to", "with"))
# Words at least as similar as this count as the same word, misspelt.
_NEAR = 0.75


def _plain(text: str) -> str:
    """Returns lower-case ASCII letters and digits, with spaces between words: "STORM+" becomes "storm plus"."""
    text = text.replace("\N{GREEK SMALL LETTER KAPPA}", "kappa").replace("\N{GREEK SMALL LETTER ALPHA}", "alpha")
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return " ".join(re.findall(r"[a-z]+|[0-9]+", text.replace("'", "").replace("+", " plus ")))


def _squeezed(text: str) -> str:
    return _plain(text).replace(" ", "")


def _own_names(method: Method) -> Sequence[str]:
    return method.name, method.name.rpartition(".")[2]


def _inner_names(method: Method) -> Sequence[str]:
    return *method.variants, *(getattr(part, "__name__", "") for part in method.parts)


def _fields(method: Method) -> Mapping[str, str]:
    paper = method.paper
    return {
        "names": " ".join((*_own_names(method), *method.also_known_as, *_inner_names(method))),
        "title": paper.title if paper else "",
        "authors": paper.authors if paper else "",
        "summary": method.summary,
        "family": method.family,
    }


def _index(entries: Sequence[Method]) -> Mapping[str, float]:
    """Returns how rare each word is, between 0 and 1."""
    counts = collections.Counter(
        word for entry in entries for word in set(_plain(" ".join(_fields(entry).values())).split())
    )
    return {word: 1 - math.log(count) / math.log(1 + len(entries)) for word, count in counts.items()}


def _score(text: str, method: Method, rarity: Mapping[str, float]) -> float:
    arxiv = re.search(r"\d{4}\.\d{4,5}", text)
    if arxiv:
        ids = (method.paper.arxiv if method.paper else "", *method.also_known_as)
        return float(any(arxiv.group() in known for known in ids))
    squeezed, best = _squeezed(text), 0.0
    for names, certainty in ((_own_names(method), 4.0), (method.also_known_as, 3.0), (_inner_names(method), 2.0)):
        for name in map(_squeezed, names):
            if squeezed == name:
                return certainty + _PREFERENCE[method.kind]
            # Most words of three or four letters are similar to some acronym.
            near = difflib.SequenceMatcher(None, squeezed, name).ratio() if len(squeezed) >= 5 else 0.0
            best = max(best, near * certainty / 4 if near >= _NEAR else 0.0)
    if method.paper and _squeezed(method.paper.title) == squeezed:
        best = max(best, 3.0)
    fields = {name: _plain(field).split() for name, field in _fields(method).items()}
    words = [word for word in _plain(text).split() if word not in _STOP_WORDS]
    weight = {word: rarity.get(word, 1.0) for word in words}
    found = sum(
        weight[word] * max(_WEIGHTS[name] * _likeness(word, field) for name, field in fields.items()) for word in words
    )
    return (
        best + (found / sum(weight.values()) if words else 0.0) + (_PREFERENCE[method.kind] if best or found else 0.0)
    )


def _likeness(word: str, field: Sequence[str]) -> float:
    """Returns how similar a word is to the most similar word of a field: 1 if it is there, 0 if none is similar."""
    if word in field:
        return 1.0
    if len(word) >= 3 and any(other.startswith(word) for other in field):
        return 0.8
    near = difflib.get_close_matches(word, field, n=1, cutoff=_NEAR) if len(word) >= 4 else []
    return 0.8 * difflib.SequenceMatcher(None, word, near[0]).ratio() if near else 0.0


def _reference(method: Method) -> str:
    paper = method.paper
    if paper is None:
        return ""
    cited = f"{html.escape(paper.authors)} {paper.year}: {html.escape(paper.title)}"
    return f"<a href='https://arxiv.org/abs/{paper.arxiv}'>{cited}</a>" if paper.arxiv else cited
