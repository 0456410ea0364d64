"""Starts the process of an attempt and outlives the daemon: run as a program, by its path.

An agent that the daemon starts must go on when the daemon is restarted, and
its end must be learnt all the same.  So it is the child of this keeper, which
is nobody's child and of no importance to systemd's idea of the daemon.  It
holds the other ends of the agent's output, writes that to files that do not
grow without bound, waits for the end, and writes down how it ended, as a whole
or not at all.  The daemon watches the keeper by a pidfd and reads the files of
the directory that it gave it:

    spec          what to start (marshalled): argv, cwd, env, output_bytes, sequence; whoever
                  removes it has it: this keeper, or a daemon that wants it no more
    keeper.json   who keeps it, until it is started
    process.json  who was started, and who keeps it
    stdout        the end of each output
    stderr
    status.json   how it ended: {"exit_code": 1}, {"signal": "SIGKILL"}, or
                  {"launch_failed": "…"}; there only when it has

It imports little, and nothing of this package: one runs beside every agent that
was resumed, so it is to be small, and to start fast (json alone would double it).
"""

# pathlib would be a third of what this process holds.
# ruff: noqa: PTH104, PTH108, PTH123

from __future__ import annotations

import marshal
import os
import resource
import select
import signal
import sys
from typing import Any, Final

READ_BYTES: Final = 65_536
DESCRIPTORS_USUAL: Final = 1024  # more break programs that use select(); the daemon has many more
DESCRIPTORS_MOST: Final = 1 << 20  # what Linux allows where nobody changed it
UMASK_USUAL: Final = 0o022

_IGNORED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE)


def write_whole(path: str, text: str) -> None:
    """Put *text* there so that nobody ever reads a part of it."""
    descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
    os.rename(f"{path}.new", path)


def start_time(pid: int) -> int | None:
    """Return when a process began, in ticks since the boot: with its pid, its identity."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


class Output:
    """A file that holds the end of what was written to it."""

    def __init__(self, path: str, bytes_max: int) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._size = 0
        self._descriptor = self._open(path)

    def write(self, data: bytes) -> None:
        """Keep *data*, and lose the oldest half where it does not fit."""
        try:
            if self._size + len(data) > self._bytes_max:
                data = self._shorten(data)
            while data:
                written = os.write(self._descriptor, data)
                self._size += written
                data = data[written:]
        except OSError:
            return  # a full disk costs the output, not the agent

    def _shorten(self, data: bytes) -> bytes:
        """Go on in a new file; return what it is to begin with."""
        kept = self._bytes_max // 2
        before = max(kept - len(data), 0)
        old = os.pread(self._descriptor, before, max(self._size - before, 0)) if before else b""
        new = self._open(f"{self._path}.new")
        os.rename(f"{self._path}.new", self._path)
        os.close(self._descriptor)
        self._descriptor, self._size = new, 0
        return (old + data)[-self._bytes_max :] if before else data[-kept:]

    @staticmethod
    def _open(path: str) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def start(spec: dict[str, Any], outputs: tuple[int, int]) -> int:
    """Start the agent, in a session of its own and with nothing of the daemon's; return its pid."""
    env: dict[str, str] = spec["env"]
    os.environ["PATH"] = env.get("PATH", os.defpath)  # where posix_spawnp looks
    os.chdir(spec["cwd"])
    try:
        return os.posix_spawnp(
            spec["argv"][0],
            spec["argv"],
            env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, outputs[0], 1),
                (os.POSIX_SPAWN_DUP2, outputs[1], 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
    finally:
        os.chdir("/")


def keep(pid: int, readers: dict[int, Output]) -> None:
    """Take what the agent writes, until it has ended and all of it is taken."""
    ended = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    for descriptor in readers:
        os.set_blocking(descriptor, False)
        poll.register(descriptor, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        for descriptor in ready & readers.keys():
            if not take(descriptor, readers[descriptor]):
                poll.unregister(descriptor)
        if ended in ready:
            break
    for descriptor, output in readers.items():
        while take(descriptor, output):
            pass


def take(descriptor: int, output: Output) -> bool:
    """Keep a piece of what was written; return False where there is none, now or ever."""
    try:
        data = os.read(descriptor, READ_BYTES)
    except BlockingIOError:
        return False
    output.write(data)
    return bool(data)


def ended_how(status: int) -> str:
    """Return how a process ended that was waited for, as JSON."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f'{{"exit_code": {code}}}'
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f'{{"signal": "{name}"}}'


def not_started(error: Exception) -> str:
    """Return why an agent could not be started, as JSON."""
    import json  # noqa: PLC0415 - it takes as long as all else here, and is needed once in a while

    return json.dumps({"launch_failed": str(error)})


def leave_the_daemon() -> None:
    """Give back what this process has from the daemon and an agent should not have."""
    os.umask(UMASK_USUAL)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > DESCRIPTORS_USUAL < soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS_USUAL, hard))
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:
            if int(file.read()) < 0:
                file.write("0")
    except (OSError, ValueError):
        pass  # then it is as likely to be killed as the daemon is


def tell_systemd() -> None:
    """Say that the agent has been started, where systemd started this keeper."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    import socket  # noqa: PLC0415 - only systemd has us need it

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        notify.connect("\0" + address[1:] if address.startswith("@") else address)
        notify.send(b"READY=1")


def run(directory: str) -> None:
    """Start what the directory asks for, and keep it."""
    spec = claimed(directory)
    if spec is None:
        return
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    leave_the_daemon()
    readers: dict[int, Output] = {}
    writers = []
    for name in ("stdout", "stderr"):
        reader, writer = os.pipe2(os.O_CLOEXEC)
        readers[reader] = Output(f"{directory}/{name}", spec["output_bytes"])
        writers.append(writer)
    try:
        pid = start(spec, (writers[0], writers[1]))
    except (OSError, ValueError) as error:
        write_whole(f"{directory}/status.json", not_started(error))
        os.unlink(f"{directory}/keeper.json")
        report()
        return
    for writer in writers:
        os.close(writer)
    write_whole(f"{directory}/process.json", started(pid, spec["sequence"]))
    os.unlink(f"{directory}/keeper.json")
    report()
    keep(pid, readers)
    _, status = os.waitpid(pid, 0)
    write_whole(f"{directory}/status.json", ended_how(status))


def claimed(directory: str) -> dict[str, Any] | None:
    """Take what is to be started, once and for all; ``None``: nobody wants it any more.

    A daemon that was killed while this keeper was on its way is followed by one that
    knows of no process, and would start another.  So whoever removes the file has
    it; and who it is must be there before, for the daemon that finds it gone.
    """
    try:
        with open(f"{directory}/spec", "rb") as file:
            spec: dict[str, Any] = marshal.load(file)  # noqa: S302 - the daemon's, in its own directory
    except FileNotFoundError:
        return None
    write_whole(f"{directory}/keeper.json", started(None, spec["sequence"]))
    try:
        os.unlink(f"{directory}/spec")
    except FileNotFoundError:
        os.unlink(f"{directory}/keeper.json")
        return None
    return spec


def started(pid: int | None, sequence: int) -> str:
    """Return who was started, if anybody was yet, and who keeps it, as JSON."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot_id = file.read().strip()
    me = os.getpid()
    members = {
        "sequence": sequence,
        "pid": pid or "null",
        "start_time": (pid and start_time(pid)) or "null",
        "keeper_pid": me,
        "keeper_start_time": start_time(me) or "null",
        "boot_id": f'"{boot_id}"',
    }
    return "{" + ", ".join(f'"{name}": {value}' for name, value in members.items()) + "}"


def report() -> None:
    """Let go on who waits for the start: the daemon for the end of our output, or systemd."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    tell_systemd()


def main() -> None:
    """Keep one attempt; with ``--detach``, as a process of its own."""
    # Whatever the daemon left open is nothing to the agent; an end of our own
    # output among it would have the daemon wait for the agent's end.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    os.closerange(3, most if most != resource.RLIM_INFINITY else DESCRIPTORS_MOST)
    directory = sys.argv[1]
    if "--detach" in sys.argv[2:]:
        if os.fork():
            os._exit(0)
        os.setsid()
    run(directory)
    os._exit(0)  # there is nothing to tidy, and the daemon waits for the end


if __name__ == "__main__":
    main()
