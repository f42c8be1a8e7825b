"""Writes the README's table of methods, from the catalog, and its links: `python -m experiments.readme`."""

import itertools
import pathlib
import re

from optkit.catalog import METHODS

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
# Where the repository's files can be read, for readers of the README on a package index; empty as long as there is no
# such address: links are then relative.
ADDRESS = ""
BEGIN, END = "<!-- methods: written by `make readme` -->\n", "<!-- end of methods -->\n"


def methods_table() -> str:
    """Returns one row for each method of the catalog, and one for the tools of each family, as Markdown."""
    rows = ["| method | kind | what it does | paper |", "|---|---|---|---|"]
    methods = [method for method in METHODS.values() if method.kind != "function"]
    for method in methods:
        paper = method.paper
        reference = "" if paper is None else f"{paper.authors} {paper.year}"
        if paper is not None and paper.arxiv:
            reference = f"[{reference}](https://arxiv.org/abs/{paper.arxiv})"
        rows.append(f"| `{method.name}` | {method.kind} | {method.summary} | {reference} |")
    rows += ["", "| tools | functions |", "|---|---|"]
    tools = sorted((_shelf(name), name) for name, method in METHODS.items() if method.kind == "function")
    for shelf, names in itertools.groupby(tools, key=lambda tool: tool[0]):
        rows.append(f"| {shelf} | {', '.join(f'`{name}`' for _, name in names)} |")
    return "\n".join(rows) + "\n"


def with_methods_table(text: str) -> str:
    """Returns the README's text with its table of methods up to date."""
    return re.sub(f"(?<={re.escape(BEGIN)}).*(?={re.escape(END)})", lambda _: methods_table(), text, flags=re.DOTALL)


def with_links(text: str, address: str = ADDRESS) -> str:
    """Returns the README's text with links to files of the repository that start with `address`."""

    def link(match):
        path = match.group(2).removeprefix(ADDRESS)
        return f"{match.group(1)}({address}{path})" if (ROOT / path).exists() else match.group()

    return re.sub(r"(\[[^\]]*\])\(([^)\s]+)\)", link, text)


def _shelf(name):
    """Where a tool stands: its namespace, or its family's name."""
    space, dot, _ = name.rpartition(".")
    return f"`optkit.{space}`" if dot else METHODS[name].family.strip("_").replace("_", " ")


if __name__ == "__main__":
    README.write_text(with_links(with_methods_table(README.read_text())))
