"""Record ``agent-journal demo`` on a terminal, as docs/demo.svg: ``make recording``.

What is in the picture is what the command printed, in its colours; only the path
of the checkout is written as ``~/agent-journal``.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "demo.svg"
COLUMNS, ROWS = 100, 60
COMMAND = "make demo"  # what a newcomer types; it runs the line below
DEMO = [sys.executable, "-m", "agent_journal.cli", "demo"]

# No font of somebody's server: a picture in a README may load nothing.
TEMPLATE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"
  xml:space="preserve" role="img">
<title>agent-journal demo: agent and daemon are killed, and nothing is lost or done twice</title>
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas,
  "DejaVu Sans Mono", monospace; font-size: {char_height}px; line-height: {line_height}px;
  white-space: pre; }}
.{unique_id}-title {{ font: bold 14px sans-serif; text-anchor: middle; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def printed() -> str:
    """Run the demo on a terminal of its own and return what it printed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    kept = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "COLUMNS"}}
    demo = subprocess.Popen(
        DEMO,
        cwd=ROOT,
        env={**kept, "TERM": "xterm-256color", "PYTHONUTF8": "1"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    text = bytearray()
    while True:
        try:
            text += os.read(ours, 65536)
        except OSError:  # the demo has ended, and its terminal with it
            break
    os.close(ours)
    if demo.wait() != 0:
        raise SystemExit(f"the demo ended with {demo.returncode}:\n{text.decode()}")
    return text.decode().replace("\r\n", "\n").replace(str(ROOT), "~/agent-journal")


def main() -> None:
    """Write the picture."""
    console = Console(
        record=True,
        width=COLUMNS,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    console.print(Text.assemble(("$ ", "dim"), (COMMAND, "bold")))
    console.print(Text.from_ansi(printed()), no_wrap=True, crop=True)
    picture = console.export_svg(
        title="agent-journal", theme=MONOKAI, code_format=TEMPLATE, unique_id="demo"
    )
    PICTURE.write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
