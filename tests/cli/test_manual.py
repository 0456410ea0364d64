"""The manual pages: made from what they describe, and clean to the programs that show them."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent_journal.__main__ import parser as daemon_parser
from agent_journal.cli import COMMANDS, HIDDEN, whole_parser
from agent_journal.cli.man import NAMES
from agent_journal.cli.manual import PAGES, all_pages
from agent_journal.cli.markdown_page import add_markdown
from agent_journal.cli.roff import Page, prose
from agent_journal.service.config import Config, options
from cli.fake_daemon import Run

ROOT = Path(__file__).parents[2]


def judged(*command: str, page: str) -> str:
    program = shutil.which(command[0])
    if program is None:
        pytest.skip(f"{command[0]} is not installed: the pages were not judged by it")
    done = subprocess.run(
        [program, *command[1:]], input=page, capture_output=True, text=True, check=False
    )
    return done.stderr + (done.stdout if command[0] == "mandoc" else "")


def shown(page: str) -> str:
    """Return a page as a person reads it, on one line."""
    program = shutil.which("groff")
    if program is None:
        pytest.skip("groff is not installed: the pages were not read")
    done = subprocess.run(
        [program, "-man", "-Tutf8", "-P-cbou"],
        input=page,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return " ".join(done.stdout.split())


@pytest.mark.parametrize("name", NAMES)
class TestEveryPage:
    def test_groff_has_nothing_against_it(self, name: str) -> None:
        assert judged("groff", "-ww", "-man", "-Tutf8", page=PAGES[name]().text()) == ""

    def test_mandoc_has_nothing_against_it(self, name: str) -> None:
        assert judged("mandoc", "-Tlint", page=PAGES[name]().text()) == ""

    def test_it_is_plain_text_in_short_lines(self, name: str) -> None:
        text = PAGES[name]().text()
        assert text.isascii()
        filled = re.sub(r"(?s)\.nf\n.*?\.fi\n", "", text)
        assert max(map(len, filled.splitlines())) <= 90

    def test_the_command_prints_it(self, run: Run, name: str) -> None:
        assert run("man", name).out == PAGES[name]().text()


def test_names_are_those_of_the_pages() -> None:
    assert {*NAMES} == {*PAGES}
    assert {*all_pages()} == {
        "man1/agent-journal.1",
        "man5/agent-journal.toml.5",
        "man7/agent-journal-protocol.7",
        "man8/agent-journald.8",
    }


def test_every_option_of_every_command_is_in_its_page() -> None:
    text = PAGES["agent-journal"]().text().replace("\\-", "-")
    for action in whole_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                if name in HIDDEN:
                    continue
                assert f'.SS "{name}"' in text
                for option in command._actions:
                    for flag in option.option_strings if option.help != argparse.SUPPRESS else ():
                        assert f"\\fB{flag}\\fR" in text, (name, flag)
    assert "--agents" not in text


def test_the_help_of_a_command_ends_its_part() -> None:
    text = shown(PAGES["agent-journal"]().text())
    assert "agent-journal install --dry-run # every step, and none of them done" in text
    assert "6 the journal is damaged" in text


def test_every_option_of_the_daemon_is_in_its_page() -> None:
    text = shown(PAGES["agent-journald"]().text())
    for action in daemon_parser()._actions:
        assert action.option_strings[-1] in text
    assert "75 another daemon holds the journal" in text


def test_every_option_of_the_configuration_is_in_its_page() -> None:
    text = PAGES["agent-journal.toml"]().text().replace("\\-", "-")
    for name, _, value in options(Config()):
        section, _, key = name.rpartition(".")
        if not isinstance(value, dict) and key not in {"kinds", "launchers"}:
            assert f"\\fB{key} = " in text, name
        if section:
            assert f'.SH "[{section}]"' in text
    assert text.count("AT THE TOP OF THE FILE") == 1
    assert "[resume.kinds.nightly-report]" in text


def test_every_operation_and_code_is_in_the_protocol_s_page() -> None:
    document = (ROOT / "docs/PROTOCOL.md").read_text("utf-8")
    text = shown(PAGES["agent-journal-protocol"]().text())
    for heading in re.findall(r"^##+ (.*)$", document, re.MULTILINE):
        plain = heading.replace("`", "")
        assert plain in text or plain.upper() in text, heading
    for line in re.findall(r"(?ms)^```\n(.*?)^```", document):
        assert " ".join(line.split()) in text


@pytest.mark.parametrize(
    ("text", "roff"),
    [
        ("plain", "plain"),
        ("a `--flag` to type", r"a \fB\-\-flag\fR to type"),
        ("**strong** and [a link](#x)", r"\fBstrong\fR and a link"),
        ("[`code`](#x) in a link", r"\fBcode\fR in a link"),
        (r"a\nb", r"a\enb"),
        ("don't ~ ^ `", r"don\(aqt \(ti \(ha \(ga"),
        ("… 世", r"\[u2026] \[u4E16]"),
    ],
)
def test_what_roff_would_take_for_its_own_is_escaped(text: str, roff: str) -> None:
    assert prose(text) == roff


def test_text_is_never_taken_for_a_request() -> None:
    page = Page("x", 1, what="y", date="", version="")
    page.paragraph(".SH evil")
    page.example("'br\n.br\n\nend")
    text = shown(page.text())
    assert ".SH evil 'br .br end" in text


def test_every_form_of_the_document_is_understood() -> None:
    page = Page("x", 7, what="y", date="", version="")
    add_markdown(
        page,
        "# Title\nintro\ngoes on\n\n## Part\n- one\n  item\n- two\n\n1. first\n\n"
        "| name | what |\n|---|---|\n| `a` | b \\| c |\n| d | |\n\n"
        "```\n{ x }\n```\n### Small\nend\n",
    )
    assert (
        shown(page.text())
        .split("intro")[1]
        .split("x 0")[0]
        .startswith(" goes on PART • one item • two • first a what: b | c d { x } Small end")
    )


class TestHelp:
    def test_a_command_s_help_is_its_help(self, run: Run) -> None:
        assert run("help", "ls").out == run("ls", "--help").out
        assert run("help").out == run("--help").out

    @pytest.mark.parametrize(
        ("topic", "file"), [("config", "config.toml"), ("protocol", "docs/PROTOCOL.md")]
    )
    def test_a_topic_is_its_document_where_nobody_pages(
        self, run: Run, topic: str, file: str
    ) -> None:
        assert run("help", topic).out == (ROOT / file).read_text("utf-8")

    def test_the_daemon_has_a_help_too(self, run: Run) -> None:
        assert run("help", "agent-journald").out == daemon_parser().format_help()

    def test_what_there_is_no_help_on(self, run: Run) -> None:
        assert run("help", "nothing").code == 2


@pytest.mark.parametrize("name", ["", *COMMANDS, *HIDDEN])
def test_a_help_fits_eighty_columns(run: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whatever the terminal's width: what is wider than that wraps on many."""
    monkeypatch.setenv("COLUMNS", "200")
    lines = run(*[name] * bool(name), "--help").lines
    assert [line for line in lines if len(line) > 80] == []
