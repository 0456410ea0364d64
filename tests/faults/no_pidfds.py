"""A daemon that has no descriptor left for a pidfd."""

from __future__ import annotations

import errno
import os


def _refused(_pid: int, _flags: int = 0) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


os.pidfd_open = _refused
