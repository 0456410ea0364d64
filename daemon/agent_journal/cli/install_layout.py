"""Where an installation puts its files: for one user, or for the host."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SYSTEM_BIN: Final = Path("/usr/local/bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The directories, as the programs that read them see them."""

    is_system: bool
    units: Path
    manuals: Path
    bash: Path
    zsh: Path
    fish: Path
    configuration: Path
    programs: Path
    manifest: Path
    state: Path  # where the journal is unless the configuration says otherwise
    directory_mode: int


def layout_of(*, is_system: bool, environ: Mapping[str, str] = os.environ) -> Layout:
    """Return where the files go."""
    return _of_the_system() if is_system else _of_a_user(environ)


def _of_the_system() -> Layout:
    shared = Path("/usr/local/share")
    return Layout(
        is_system=True,
        units=Path("/etc/systemd/system"),
        manuals=shared / "man",
        bash=shared / "bash-completion/completions",
        zsh=shared / "zsh/site-functions",
        fish=shared / "fish/vendor_completions.d",
        configuration=Path("/etc/agent-journal"),
        programs=_SYSTEM_BIN,
        # Not beside the journal: root deletes what it names, and that place is the daemon's.
        manifest=Path("/usr/local/lib/agent-journal/installed.json"),
        state=Path("/var/lib/agent-journal"),
        directory_mode=0o755,
    )


def _of_a_user(environ: Mapping[str, str]) -> Layout:
    home = Path(environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir)
    configuration = _directory(environ, "XDG_CONFIG_HOME", home / ".config")
    data = _directory(environ, "XDG_DATA_HOME", home / ".local/share")
    state = _directory(environ, "XDG_STATE_HOME", home / ".local/state")
    return Layout(
        is_system=False,
        units=configuration / "systemd/user",
        manuals=data / "man",
        bash=data / "bash-completion/completions",
        zsh=data / "zsh/site-functions",
        fish=data / "fish/vendor_completions.d",
        configuration=configuration / "agent-journal",
        programs=home / ".local/bin",
        manifest=data / "agent-journal/installed.json",
        state=state / "agent-journal",
        directory_mode=0o700,
    )


def _directory(environ: Mapping[str, str], name: str, default: Path) -> Path:
    said = environ.get(name, "")
    return Path(said) if said.startswith("/") else default


def below(root: Path, path: Path) -> Path:
    """Return *path* as it is while its system lies below *root*."""
    return path if root == Path("/") else root / path.relative_to("/")
