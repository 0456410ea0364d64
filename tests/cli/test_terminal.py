"""Tables, widths, colours, and data that wants to harm the terminal."""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_journal.cli.terminal import (
    Cell,
    Column,
    Rule,
    Table,
    Terminal,
    Wide,
    cut,
    harmless,
    harmless_json,
    width_of,
)

NASTY = "a\x00\x07\x1b]0;title\x07\x1b[2J\r\n\t\x7f\x9b31m\u202e\u2028\ufeff\U000e0041z"


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def table(
    *rows: tuple[Cell | str, ...] | Rule,
    columns: tuple[Column, ...],
    environ: Mapping[str, str],
    stream: io.StringIO | None = None,
) -> list[str]:
    stream = stream or io.StringIO()
    Table(Terminal(stream, environ), columns).print(rows)
    return stream.getvalue().splitlines()


def controls(text: str) -> set[str]:
    allowed = {"\u200c", "\u200d"}
    return {c for c in text if unicodedata.category(c)[0] == "C" and c not in allowed}


def test_control_characters_are_shown_as_escapes() -> None:
    assert harmless("a\x1b[2Jb\nc") == "a\\x1b[2Jb\\nc"
    assert controls(harmless(NASTY)) == set()


@given(st.text())
def test_no_text_reaches_the_terminal_as_a_control_character(text: str) -> None:
    assert controls(harmless(text)) == set()


@given(st.text())
def test_json_keeps_its_value_and_has_no_control_character(text: str) -> None:
    printed = harmless_json(json.dumps({"text": text}, ensure_ascii=False))
    assert json.loads(printed) == {"text": text}
    assert controls(printed) == set()


def test_text_of_other_scripts_is_left_alone() -> None:
    for text in ("Grüße", "世界", "नमस्ते", "می\u200cخواهم", "👩\u200d💻"):  # noqa: RUF001
        assert harmless(text) == text
    assert harmless("a\u00a0b\u3000c") == "a b c"


@pytest.mark.parametrize(
    ("text", "width"), [("abc", 3), ("世界", 4), ("e\u0301", 1), ("🎉!", 3), ("", 0)]
)
def test_width(text: str, width: int) -> None:
    assert width_of(text) == width


@given(st.text(alphabet=st.characters(exclude_categories=["C"])), st.integers(0, 20))
def test_cut_text_fits_and_says_that_it_was_cut(text: str, width: int) -> None:
    shown = cut(text, width)
    assert width_of(shown) <= width
    if width_of(text) <= width and len(text) <= width:
        assert shown == text
    elif width > 0:
        assert shown.endswith("…")


def test_columns_are_as_wide_as_their_content() -> None:
    columns = (Column(title="N", right=True), Column(title="NAME"), Column(title="END"))
    assert table(("7", "世界", "x"), ("1234", "a", "y"), columns=columns, environ={}) == [
        "   N  NAME  END",
        "   7  世界  x",
        "1234  a     y",
    ]


def test_rows_behind_the_measured_ones_are_printed_as_well() -> None:
    columns = (Column(title="N"), Column(title="X"))
    lines = table(*((str(n), "x") for n in range(1000)), columns=columns, environ={})
    assert len(lines) == 1001
    assert lines[-1] == "999  x"


def test_a_piped_table_has_whole_lines_and_no_colours() -> None:
    columns = (Column(title="A"), Column(title="DETAIL", flexible=True))
    lines = table((Cell("a", "red"), "x" * 500), columns=columns, environ={})
    assert lines[1] == "a  " + "x" * 500


def test_the_flexible_column_is_cut_to_the_terminal() -> None:
    columns = (Column(title="A"), Column(title="DETAIL", flexible=True))
    lines = table(("a", "x" * 500), columns=columns, environ={"COLUMNS": "60"})
    assert lines[1] == "a  " + "x" * 56 + "…"


def test_an_empty_optional_column_is_left_out() -> None:
    columns = (Column(title="A"), Column(title="B", optional=True), Column(title="C"))
    assert table(("a", "", "c"), columns=columns, environ={}) == ["A  C", "a  c"]
    assert table(("a", "b", "c"), columns=columns, environ={})[0] == "A  B  C"


def test_a_rule_goes_across_and_is_no_row() -> None:
    stream = io.StringIO()
    printed = Table(Terminal(stream, {"COLUMNS": "50"}), (Column(title="A"),)).print(
        [("a",), Rule("mid\x1bnight"), ("b",)]
    )
    lines = stream.getvalue().splitlines()
    assert printed == 2
    assert lines[2].startswith("── mid\\x1bnight ──")
    assert len(lines[2]) == 50


@pytest.mark.parametrize(
    ("environ", "is_tty", "has_colours"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"TERM": "dumb"}, True, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "0"}, False, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
    ],
    ids=str,
)
def test_colours(environ: dict[str, str], is_tty: bool, has_colours: bool) -> None:  # noqa: FBT001
    stream = Screen() if is_tty else io.StringIO()
    assert Terminal(stream, environ).has_colours is has_colours
    lines = table((Cell("a", "red"),), columns=(Column(title="A"),), environ=environ, stream=stream)
    assert ("\x1b[31ma\x1b[0m" in lines[1]) is has_colours


def test_a_terminal_that_does_not_tell_its_width_has_80_columns() -> None:
    assert Terminal(Screen(), {}).width == 80
    assert Terminal(Screen(), {"COLUMNS": "132"}).width == 132
    assert Terminal(Screen(), {"COLUMNS": "wide"}).width == 80
    assert Terminal(io.StringIO(), {}).width is None


def test_a_wide_row_takes_the_place_of_the_columns_behind_its_cells() -> None:
    columns = (Column(title="A", right=True), Column(title="B", optional=True), Column(title="C"))
    rows = [Wide(("1",), "a text \x1b[2J that is wide"), ("20", "", "c"), Wide(("300",), "")]
    out = io.StringIO()
    assert Table(Terminal(out, {"COLUMNS": "40"}), columns).print(rows) == 3
    assert out.getvalue().splitlines() == [
        "  A  C",
        "  1  a text \\x1b[2J that is wide",
        " 20  c",
        "300",
    ]
    out = io.StringIO()
    Table(Terminal(out, {"COLUMNS": "40"}), columns).row(Wide(("1",), "x" * 99))
    assert out.getvalue().splitlines()[1] == "1  " + "x" * 36 + "…"
