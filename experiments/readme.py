"""Writes the tables of the README that follow from the catalog: `python -m experiments.readme`."""

import pathlib
import re

from optkit.catalog import METHODS

README = pathlib.Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- methods: written by `make readme` -->\n", "<!-- end of methods -->\n"


def methods_table() -> str:
    """Returns one row for each method of the catalog, as Markdown."""
    rows = ["| method | kind | what it does | paper |", "|---|---|---|---|"]
    for method in METHODS.values():
        paper = method.paper
        reference = f"[{paper.authors} {paper.year}](https://arxiv.org/abs/{paper.arxiv})" if paper else ""
        rows.append(f"| `{method.name}` | {method.kind} | {method.summary} | {reference} |")
    return "\n".join(rows) + "\n"


def with_methods_table(text: str) -> str:
    """Returns the README's text with its table of methods up to date."""
    return re.sub(f"(?<={re.escape(BEGIN)}).*(?={re.escape(END)})", lambda _: methods_table(), text, flags=re.DOTALL)


if __name__ == "__main__":
    README.write_text(with_methods_table(README.read_text()))
