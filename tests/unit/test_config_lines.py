"""Options are found on the lines on which they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_journal.service.config_lines import LINES_MAX, lines_of

EVERY_FORM = r'''# a comment
socket = "/run/x"
commit.free_bytes_min = "1MiB"

[limits]
# another
frame_bytes_max = """
4MiB\
"""
[resume]
env = [
  # not "b", which is no option
  "a",
]
kinds = { nightly = { attempts_max = 2 } }
[launchers."a b"]
unit = "x@.service"  # [not.a.section]
'''


def test_every_form_of_an_option_is_found() -> None:
    assert lines_of(EVERY_FORM) == {
        "socket": 2,
        "commit": 3,
        "commit.free_bytes_min": 3,
        "limits": 5,
        "limits.frame_bytes_max": 7,
        "resume": 10,
        "resume.env": 11,
        "resume.kinds": 15,
        "resume.kinds.nightly": 15,
        "resume.kinds.nightly.attempts_max": 15,
        "launchers": 16,
        "launchers.a b": 16,
        "launchers.a b.unit": 17,
    }


def test_what_stands_before_a_mistake_is_found() -> None:
    assert lines_of('a = 1\nb = "open\nc = 2\n') == {"a": 1}


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "x = 1\n" * (LINES_MAX + 1)])
def test_there_may_be_nothing_to_find(text: str) -> None:
    assert lines_of(text) == {}


def test_the_shipped_file_has_only_its_sections() -> None:
    shipped = Path(__file__).parents[2] / "config.toml"
    lines = shipped.read_text("utf-8").splitlines()
    found = lines_of(shipped.read_text("utf-8"))
    assert {lines[number - 1] for number in found.values()} == {f"[{name}]" for name in found}
