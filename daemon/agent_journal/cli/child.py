"""One child process that gets our signals, and does not outlive us.

Invariant: a child never outlives the one who started it.  The daemon takes the
death of the agent's owner for the death of its program and starts it again; a
program that went on without its owner would then run twice.  So the kernel is
told to kill the child when we die, whatever kills us (``PR_SET_PDEATHSIG``).

Signals are not caught but waited for: that way it is known who sent them.  What
the terminal sends (Ctrl-C) has reached the child already, which is in our
process group; what somebody sent to us alone is passed on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import stat
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from .failures import CommandError, ExitCode

FORWARDED: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGWINCH,
)
# Python ignores these, and what is ignored stays so in the child.
RESTORED: Final = (signal.SIGPIPE, signal.SIGXFSZ)

PR_SET_PDEATHSIG: Final = 1
SI_FROM_A_PROCESS_MAX: Final = 0  # si_code: above it the kernel itself has sent the signal

EXIT_SIGNALLED: Final = 128  # plus the signal's number, as a shell reports it


class Child:
    """A program that was started."""

    def __init__(self, path: str, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        """Start *path*.

        Raises:
            OSError: it cannot be executed.
        """
        self.has_ended: Final = threading.Event()
        self.signal: str | None = None  # what ended it
        self.received: Final[list[signal.Signals]] = []  # by us, from whomever
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited as ignored, it would tell nothing
        self._waited_for = {signal.SIGCHLD, *_not_ignored()}
        self._mask_before = signal.pthread_sigmask(signal.SIG_BLOCK, self._waited_for)
        try:
            self.pid: Final = self._start(path, argv, environ)
        except BaseException:
            self._restore_mask()
            raise
        self._pidfd = os.pidfd_open(self.pid)

    def wait(self) -> int:
        """Pass signals on until the child ends; return its exit code, 128+n for signal n."""
        try:
            while True:
                told = signal.sigwaitinfo(self._waited_for)
                if told.si_signo != signal.SIGCHLD:
                    self._pass_on(told)
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    break
        finally:
            self.has_ended.set()
        os.close(self._pidfd)
        self._restore_mask()
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return code
        self.signal = _name_of(-code)
        return EXIT_SIGNALLED - code

    def send(self, number: signal.Signals) -> None:
        """Send the child a signal; nothing happens where it has ended."""
        with contextlib.suppress(OSError):  # it ended meanwhile
            signal.pidfd_send_signal(self._pidfd, number)

    def end(self, grace_s: float) -> None:
        """Ask it to end, and kill it when it has not done so in time; for another thread."""
        self.send(signal.SIGTERM)
        if not self.has_ended.wait(grace_s):
            self.send(signal.SIGKILL)

    def _pass_on(self, told: signal.struct_siginfo) -> None:
        number = signal.Signals(told.si_signo)
        self.received.append(number)
        if told.si_code <= SI_FROM_A_PROCESS_MAX and told.si_pid != self.pid:
            self.send(number)

    def _start(self, path: str, argv: Sequence[str], environ: Mapping[str, str]) -> int:
        die_with_parent = _death_wish()
        parent = os.getpid()
        problem, problem_end = os.pipe()  # both close on exec
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, problem)
            try:
                pid = os.fork()
                if pid == 0:
                    self._become(path, argv, environ, problem_end, die_with_parent, parent)
            finally:
                os.close(problem_end)
            told = os.read(problem, 16)
        if told:
            os.waitpid(pid, 0)
            number = int(told)
            raise OSError(number, os.strerror(number), path)
        return pid

    def _become(  # noqa: PLR0913, PLR0917 - all that the other side of a fork needs
        self,
        path: str,
        argv: Sequence[str],
        environ: Mapping[str, str],
        problem_end: int,
        die_with_parent: _DeathWish,
        parent: int,
    ) -> None:
        """Be the program, in the forked child; never return."""
        try:
            for number in RESTORED:
                signal.signal(number, signal.SIG_DFL)
            self._restore_mask()
            die_with_parent()
            if os.getppid() == parent:  # else it died before that could be heard
                os.execve(path, list(argv), dict(environ))  # noqa: S606 - no shell is the point
        except OSError as error:
            os.write(problem_end, str(error.errno).encode())
        finally:
            os._exit(127)

    def _restore_mask(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask_before)


class _DeathWish:
    """Asks the kernel to kill the calling process when its parent dies."""

    def __init__(self) -> None:
        import ctypes  # noqa: PLC0415 - takes its time, and only this needs it

        self._prctl = ctypes.CDLL(None).prctl

    def __call__(self) -> None:
        self._prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def _death_wish() -> _DeathWish:
    return _DeathWish()  # before the fork: the child imports nothing


def _not_ignored() -> set[signal.Signals]:
    """Return the signals to pass on: what nohup or a shell made us ignore is none of them."""
    return {number for number in FORWARDED if signal.getsignal(number) is not signal.SIG_IGN}


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the real-time signals between the first and the last
        return f"signal {number}"


def executable(name: str, environ: Mapping[str, str]) -> str:
    """Return the path of the program that *name* names, as a shell finds it.

    Raises:
        FileNotFoundError: there is none.
        OSError: it is there, and may not be executed.
    """
    folders = environ.get("PATH", os.defpath).split(os.pathsep)
    is_path = "/" in name
    paths = [name] if is_path else [str(Path(folder or ".") / name) for folder in folders]
    refused: OSError | None = None
    for path in paths:
        try:
            _check_may_run(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            # Of PATH only a file of that name tells more than that there is none.
            if is_path or (error.errno == errno.EACCES and _is_file(path)):
                refused = refused or error
        else:
            return path
    raise refused or FileNotFoundError(errno.ENOENT, "no such program", name)


def _check_may_run(path: str) -> None:
    mode = os.stat(path).st_mode  # noqa: PTH116 - its errors are wanted
    reason = errno.EISDIR if stat.S_ISDIR(mode) else 0 if os.access(path, os.X_OK) else errno.EACCES
    if reason:
        raise OSError(reason, os.strerror(reason), path)


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except OSError:  # in a folder of PATH that is somebody else's, say
        return False


def checked_program(name: str, environ: Mapping[str, str], *, told: str = "") -> str:
    """Return the path of a program that can be run; *told* is added to what to try.

    Raises:
        CommandError: there is none, or it may not be run; the exit code is a shell's.
    """
    try:
        return executable(name, environ)
    except FileNotFoundError:
        hint = f"its full path, or another PATH{told}"
        raise CommandError(f"{name}: no such program", hint, ExitCode.NOT_FOUND) from None
    except OSError as error:
        hint = f"another path{told}"
        if error.errno == errno.EACCES and _is_file(error.filename):
            hint = f"chmod +x {shlex.quote(error.filename)}, or its interpreter before it{told}"
        what = f"{error.filename}: {error.strerror}"
        raise CommandError(what, hint, ExitCode.NOT_EXECUTABLE) from None
