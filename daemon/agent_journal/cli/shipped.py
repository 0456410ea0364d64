"""The files that are shipped beside the code: units, the configuration, the protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from .failures import CommandError

_PACKAGE: Final = Path(__file__).parents[1]
IN_CHECKOUT: Final = {"PROTOCOL.md": "docs/PROTOCOL.md"}  # the others have the same place in both


def shipped(name: str) -> Path:
    """Return the file *name*, out of the installed package or the checkout that this is.

    Raises:
        CommandError: it is in neither.
    """
    installed = _PACKAGE / "_share" / name
    in_checkout = _PACKAGE.parents[1] / IN_CHECKOUT.get(name, name)
    for path in (installed, in_checkout):
        if path.exists():
            return path
    raise CommandError(
        f"{installed} is missing from this installation",
        "install the package again: pip install --force-reinstall agent-journal",
    )
