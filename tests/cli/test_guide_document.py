"""docs/GUIDE.md: what it says is typed in one shell, from the installation on."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "GUIDE.md"
MARK = "=== end of a block"


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="aj-home-") as name:
        yield Path(name)


def blocks() -> list[tuple[str, str]]:
    """Return what is typed, each time with what it prints."""
    found = re.findall(
        r"^```(\w*)\n(.*?)^```$", DOCUMENT.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    assert {language for language, _ in found} == {"sh", ""}
    pairs = itertools.pairwise([*found, ("sh", "")])
    return [
        (text, told if language == "" else "")
        for (kind, text), (language, told) in pairs
        if kind == "sh"
    ]


def shape(text: str) -> list[str]:
    """Return the lines without what is another at each run; the same one twice is one."""
    for pattern, name in (
        (r"\S+/journal\.sock", "SOCKET"),
        (r"\b[A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d\b", "TIME"),
        (r"\d\d:\d\d:\d\d\.\d{3}", "TIME"),
        (r"\b[\d.]+ (ms|s|min)\b", "SPAN"),
        (r"\b(one|two|three|four|five)\b", "PAGE"),
        (r"\d+", "N"),
        (r"[ ─]+", " "),
    ):
        text = re.sub(pattern, name, text)
    return [line.strip() for line, _ in itertools.groupby(text.strip().splitlines())]


@pytest.mark.timeout(180)  # it makes an environment, and waits for an agent that takes its time
def test_what_the_guide_says_is_typed(home: Path) -> None:
    pytest.importorskip("hatchling", reason="without it nothing can be installed from a checkout")
    (home / "bin").mkdir()
    (home / "bin" / "python3").symlink_to(sys.executable)
    (home / "run").mkdir(mode=0o700)
    environ = {
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home / "run"),
        # The index is not asked: what the package needs is taken from where the tests run.
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
    }
    script = "".join(f"{typed}echo '{MARK}'\n" for typed, _ in blocks())
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"trap 'kill $(jobs -p); wait' EXIT\n{script}"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    log = home / "agent-journald.log"
    said = f"{done.stdout}\n{done.stderr}\n{log.read_text() if log.exists() else ''}"
    assert done.stdout.count(MARK) == len(blocks()), said
    printed = done.stdout.split(f"{MARK}\n")
    for (typed, told), text in zip(blocks(), printed, strict=False):
        if told:
            assert shape(text) == shape(told), f"{typed}\n{text}"
    assert (home / "agent-journal" / "bin" / "agent-journald").exists(), "it was installed"
