"""Coverage-guided fuzzing, where atheris is installed: ``fuzz.py`` in a process of its own."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Size = Callable[[int, int], int]
Figures = Callable[..., None]


@pytest.mark.sized
@pytest.mark.timeout(7200)
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed (requirements/fuzz.txt): no coverage-guided fuzzing",
)
def test_guided_fuzzing_finds_nothing(
    tmp_path: Path, size: Size, seed: str, figures: Figures
) -> None:
    runs = size(20_000, 5_000_000)
    command = [
        sys.executable,
        str(Path(__file__).with_name("fuzz.py")),
        f"-runs={runs}",
        f"-seed={int(seed, 16)}",
        "-max_len=1500",
        f"-artifact_prefix={tmp_path}/",
        str(tmp_path / "corpus"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = re.search(r"DONE\s+cov: (\d+) ft: (\d+)", done.stderr)
    assert found, done.stderr[-2000:]
    figures(inputs=runs, edges=found[1], features=found[2], findings=0, seed=seed)
