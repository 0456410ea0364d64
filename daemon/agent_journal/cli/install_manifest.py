"""What an installation made, so that it alone is changed or removed later.

A file is ours while it is what was written.  One that a person has changed is the
person's, and so is one that was there before: neither is touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .failures import CommandError
from .install_layout import below
from .whole_file import WholeFile

FORMAT: Final = 1


@dataclass(slots=True, kw_only=True)
class Manifest:
    """What was made.  Paths are those of the system that was installed to, without ``--root``."""

    version: str = ""
    # More than one digest while an installation is under way: either may be there then.
    files: dict[str, list[str]] = field(default_factory=dict)
    directories: list[str] = field(default_factory=list)
    has_enabled_linger: bool = False

    @classmethod
    def read(cls, path: Path) -> Manifest | None:
        """Return what *path* says; ``None`` if nothing is installed.

        Raises:
            CommandError: it cannot be understood, so it is not known what may be removed.
        """
        try:
            said: dict[str, Any] = json.loads(path.read_bytes())
            return cls(
                version=str({FORMAT: said}[said["format"]]["version"]),
                files={str(name): [*map(str, sums)] for name, sums in said["files"].items()},
                directories=[*map(str, said["directories"])],
                has_enabled_linger=bool(said["has_enabled_linger"]),
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CommandError(
                f"{path} cannot be understood ({error}), so it is not known what was installed",
                "look at it; remove it, and install again over what is there",
            ) from None

    def write(self, path: Path) -> None:
        """Make *path* say this."""
        said = {
            "format": FORMAT,
            "version": self.version,
            "files": dict(sorted(self.files.items())),
            "directories": sorted(self.directories),
            "has_enabled_linger": self.has_enabled_linger,
        }
        with WholeFile(path) as file:
            file.stream.write(json.dumps(said, indent=1).encode() + b"\n")
            os.fchmod(file.stream.fileno(), 0o644)

    def is_ours(self, path: Path, root: Path) -> bool:
        """Tell whether what is at *path* is what was written there."""
        return digest_at(below(root, path)) in self.files.get(str(path), ())


def digest(content: bytes, *, leads_to: Path | None = None) -> str:
    """Return what tells one content, or one link, from another."""
    if leads_to is not None:
        return f"link:{leads_to}"
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def digest_at(path: Path) -> str | None:
    """Return the digest of what is at *path*: "" if nothing is, ``None`` if it is no file."""
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            return digest(b"", leads_to=path.readlink())
        return digest(path.read_bytes()) if stat.S_ISREG(mode) else None
    except (FileNotFoundError, NotADirectoryError):
        return ""
