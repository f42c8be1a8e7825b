"""What text looks like on any terminal."""

import io

import pytest
from rich.table import Table
from rich.text import Text

from optkit.comparison.terminal import Terminal, visible


class Stream(io.TextIOWrapper):
    """A stream as standard output is in a locale."""

    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict")

    def text(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


def shown(encoding, *cells, width=120):
    stream = Stream(encoding)
    terminal = Terminal(stream)
    terminal.width = width
    table = Table("name", "value", title=cells[0], caption=cells[0])
    table.add_row(*cells)
    terminal.print(table)
    terminal.print(cells[0])
    return stream.text()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_boxes_are_of_characters_that_the_encoding_has(encoding):
    assert "| lion " in shown(encoding, "lion", "1")


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("ascii", "0.1 +- 0.2 v"), ("latin-1", "0.1 ± 0.2 v"), ("cp1252", "0.1 ± 0.2 v"), ("utf-8", "0.1 ± 0.2 ↓")],
)
def test_signs_are_replaced_where_the_encoding_lacks_them(encoding, expected):
    assert expected in shown(encoding, "lion", "0.1 ± 0.2 ↓")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize("name", ["x[/a]", "[red]x", "[link=y]x", ":smile:", "$\\frac{$", "\\[x]", "{x}"])
def test_text_is_never_markup(encoding, name):
    assert shown(encoding, name, "1").count(name) == 4


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\tb", "a\\tb"),
        ("a\rb", "a\\rb"),
        ("a\x00b\x7f\x9b", "a\\x00b\\x7f\\x9b"),
        ("a\u202eb\u2066", "a\\u202eb\\u2066"),
        ("a\u2028b", "a\\u2028b"),
        ("a\udcffb", "a\\udcffb"),
        ("naïve Größe 名", "naïve Größe 名"),
    ],
)
def test_control_characters_are_written_out_and_letters_stay(name, expected):
    assert visible(name) == expected
    assert shown("utf-8", name, "1").count(expected) == 4


def test_a_line_break_in_a_name_is_written_out():
    assert visible("a\nb") == "a\\nb"


def test_other_letters_that_the_encoding_lacks_are_written_out():
    assert shown("ascii", "é", "1").count("\\xe9") == 4


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_narrow_terminals_cut_names_and_do_not_crash(encoding):
    for width in (1, 5, 20):
        assert shown(encoding, "a_very_long_name_of_an_optimizer", "0.1 ± 0.2 ↓", width=width)


def test_text_for_a_file_is_text_alone_in_a_notebook_too(monkeypatch):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as its kernel does
    terminal = Terminal(io.StringIO())
    terminal.print(Text("red", style="bold red"))
    assert terminal.file.getvalue() == "red\n"
