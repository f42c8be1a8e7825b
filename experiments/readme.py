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
    """Returns one row for each family, and one for each namespace of tools, as Markdown."""
    rows = ["| family | methods |", "|---|---|"]
    methods = sorted((m for m in METHODS.values() if m.kind != "function"), key=lambda method: method.family)
    for family, members in itertools.groupby(methods, key=lambda method: method.family):
        names = ", ".join(f"`{method.name}`" for method in members)
        rows.append(f"| [{family.replace('_', ' ')}](optkit/{family}) | {names} |")
    rows += ["", "| tools | functions |", "|---|---|"]
    tools = sorted((shelf(name), name) for name, method in METHODS.items() if method.kind == "function")
    for space, names in itertools.groupby(tools, key=lambda tool: tool[0]):
        rows.append(f"| {space} | {', '.join(f'`{name}`' for _, name in names)} |")
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


def shelf(name: str) -> str:
    """Returns where a tool stands: its namespace, or its family's name.

    Args:
        name: a name in the catalog.
    """
    space, dot, _ = name.rpartition(".")
    return f"`optkit.{space}`" if dot else METHODS[name].family.strip("_").replace("_", " ")


if __name__ == "__main__":
    README.write_text(with_links(with_methods_table(README.read_text())))
