"""A block device that fails on demand, or that writes down what it is told, with ext4 on it.

It is all in user space, so it needs no module of the kernel: nbdkit is the disk,
nbdfuse makes a file of it, a loop device makes a block device of the file.  The
kernel's own ext4 is on top, with its caches and its journal: what becomes of a
write that failed, or that was cut off, is the real thing here, and no model.

Everything is taken down again on every way out, and nbdkit ends with its parent.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, Self

import pytest

WRITE_LOG = Path(__file__).with_name("write_log.py")
PROGRAMS: Final = ("nbdkit", "nbdfuse", "losetup", "mkfs.ext4", "mount", "umount", "fusermount3")
MIB: Final = 1 << 20
_BLKFLSBUF: Final = 0x1261
_TIMEOUT_S: Final = 20.0


def require(what: str) -> None:
    """Skip the test where there is no such device to be had; *what* was not checked then."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: {what} was not checked")
    if not _has_plugin("python"):
        pytest.skip(f"nbdkit has no plugin for Python: {what} was not checked")
    if os.geteuid() != 0:
        pytest.skip(f"only root can mount a file system: {what} was not checked")
    for device in ("/dev/fuse", "/dev/loop-control"):
        if not os.access(device, os.R_OK | os.W_OK):
            pytest.skip(f"no {device}: {what} was not checked")


def _has_plugin(name: str) -> bool:
    command = ["nbdkit", "--dump-plugin", name]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


class Device:
    """A disk, its file system, and the way to both of its faults."""

    def __init__(self, directory: Path, *, size: int, logged: bool = False) -> None:
        self.mounted = directory / "mounted"
        self.log = directory / "log"  # every write and flush, where it is logged
        self._failing = directory / "failing"  # every write fails for as long as it is there
        self._directory = directory
        self._size = size
        self._logged = logged
        self._stack = ExitStack()
        self._loop = ""
        self._left = 0  # writes that are still to fail

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._stack = stack
            self._begin(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.heal()
        self._stack.close()

    def fail(self, writes: int) -> None:
        """Have the next *writes* writes fail, at least; others may be on their way."""
        self._left = writes
        self._failing.touch()

    def heal(self) -> None:
        """Have writes succeed again."""
        self._failing.unlink(missing_ok=True)

    def forget(self) -> None:
        """Read from the disk from now on, and nothing that only the kernel has in memory."""
        os.sync()
        self._unmount()
        _wait_for(self._is_free, "the device, which somebody's mount namespace holds,")
        with open(self._loop, "rb") as device:  # noqa: PTH123 - a device
            fcntl.ioctl(device, _BLKFLSBUF, 0)
        with (self._directory / "fuse" / "disk").open("rb") as disk:
            os.posix_fadvise(disk.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self._mount()

    @property
    def is_read_only(self) -> bool:
        """Tell whether ext4 has given up because its journal could not be written."""
        probe = self.mounted / "probe"
        try:
            probe.touch()
            probe.unlink()
        except OSError:
            return True  # it does not say so in its flags
        return False

    def _begin(self, stack: ExitStack) -> None:
        fuse = self._directory / "fuse"
        fuse.mkdir(parents=True)
        self.mounted.mkdir()
        socket = self._directory / "nbd.sock"
        if self._logged:
            served = ["python", str(WRITE_LOG), f"dsize={self._size}", f"logfile={self.log}"]
        else:
            failing = [f"error-pwrite-file={self._failing}", "error-pwrite-rate=100%"]
            served = ["--filter=error", "memory", str(self._size), "error-pwrite=EIO", *failing]
        command = ["nbdkit", "--exit-with-parent", "-f", "-U", str(socket), *served]
        process = stack.enter_context(_running(command))
        listener = threading.Thread(target=self._listen, args=(process,), daemon=True)
        listener.start()
        _wait_for(socket.exists, "nbdkit")
        stack.enter_context(_running(["nbdfuse", str(fuse / "disk"), "--unix", str(socket)]))
        stack.callback(_try, ["fusermount3", "-u", str(fuse)])
        _wait_for((fuse / "disk").exists, "nbdfuse")
        self._loop = _run(["losetup", "-f", "--show", str(fuse / "disk")]).strip()
        stack.callback(_try, ["losetup", "-d", self._loop])
        _run(["mkfs.ext4", "-q", "-F", "-b", "4096", self._loop])
        self._mount()
        stack.callback(_leave, self.mounted)

    def _is_free(self) -> bool:
        """Tell whether nobody has it mounted: a container begins with all that is mounted here."""
        try:
            os.close(os.open(self._loop, os.O_RDONLY | os.O_EXCL))
        except OSError:
            return False
        return True

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Count the writes that fail, which nbdkit tells of as they do."""
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                if b"injecting" in line:
                    self._left -= 1
                    if self._left <= 0:
                        self.heal()

    def _mount(self) -> None:
        _run(["mount", self._loop, str(self.mounted)])

    def _unmount(self) -> None:
        _run(["umount", str(self.mounted)])


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    """Mount a file that holds a file system."""
    _run(["mount", "-o", "loop", str(image), str(at)])
    try:
        yield at
    finally:
        _leave(at)


@contextmanager
def _running(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE if command[0] == "nbdkit" else subprocess.DEVNULL,
        env=os.environ | {"PATH": _path()},
    )
    try:
        yield process
    finally:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.5 if command[0] == "nbdfuse" else 0)
        process.terminate()
        try:
            process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        env=os.environ | {"PATH": _path()},
    )
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _try(command: Sequence[str]) -> None:
    """Take down what may be down already."""
    with suppress(OSError, subprocess.TimeoutExpired):
        _run(command)


def _leave(directory: Path) -> None:
    """Unmount, in the end even what somebody still uses."""
    deadline = time.monotonic() + 2
    while os.path.ismount(directory):
        lazily = ["-l"] if time.monotonic() > deadline else []
        _try(["umount", *lazily, str(directory)])


def _wait_for(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not holds():
        if time.monotonic() > deadline:
            raise OSError(f"{what} does not come up")
        time.sleep(0.01)
