"""Tries, from where it is run, what a service may and may not do: run as a program, in a unit.

It prints nothing: it writes down, as JSON, what became of each try, in the file that
it is given.  Nothing that it does is left behind if it succeeds, or it is done in a
place that goes away with the container.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import resource
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)

# x86-64, arm64; calls that libc has no function for
CALLS = {
    "x86_64": {"init_module": 175, "delete_module": 176, "kexec_load": 246, "bpf": 321,
               "perf_event_open": 298, "userfaultfd": 323, "pivot_root": 155, "add_key": 248,
               "process_vm_readv": 310, "clock_settime": 227, "syslog": 103, "swapon": 167,
               "quotactl": 179, "open_by_handle_at": 304, "setns": 308, "reboot": 169},
    "aarch64": {"init_module": 105, "delete_module": 106, "kexec_load": 104, "bpf": 280,
                "perf_event_open": 241, "userfaultfd": 282, "pivot_root": 41, "add_key": 217,
                "process_vm_readv": 270, "clock_settime": 112, "syslog": 116, "swapon": 224,
                "quotactl": 60, "open_by_handle_at": 265, "setns": 268, "reboot": 142},
}[os.uname().machine]  # fmt: skip

CLONE_NEW = {"mount": 0x20000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000,
             "pid": 0x20000000, "net": 0x40000000, "cgroup": 0x2000000}  # fmt: skip
PTRACE_ATTACH = 16
PR_SET_NAME = 15


def checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def call(name: str, *arguments: object) -> int:
    """Make a system call; that it was let through and then failed for its arguments is success."""
    # Of an int the upper half of the register would be anything.
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    try:
        return checked(LIBC.syscall(ctypes.c_long(CALLS[name]), *words))
    except OSError as error:
        if error.errno in {errno.EPERM, errno.EACCES, errno.ENOSYS}:
            raise
        if error.errno == errno.ESRCH:
            raise RuntimeError("there is no such process, so nothing was tried") from error
        return 0


def write(path: str) -> None:
    place = Path(path)
    with place.open("a") as file:
        file.write("")
    if place.stat().st_size == 0 and place.name == "probe":
        place.unlink()


def unshare(flag: int) -> None:
    child = os.fork()
    if child == 0:
        code = 0 if LIBC.unshare(flag) == 0 else ctypes.get_errno()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))


def writable_and_executable() -> None:
    with mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC):
        pass


def made_executable() -> None:
    with mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE) as memory:
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        checked(LIBC.mprotect(ctypes.c_void_p(address), 4096, mmap.PROT_READ | mmap.PROT_EXEC))


def another_process() -> int:
    """Return a process of another user's, who is not the service manager."""
    numbered = (place for place in Path("/proc").iterdir() if place.name.isdigit())
    for place in numbered:
        is_others = place.name != "1" and place.stat().st_uid != os.getuid()
        if is_others and (place / "cmdline").read_bytes():  # not one of the kernel's
            return int(place.name)
    raise ProcessLookupError(errno.ESRCH, "there is none to be seen")


def ptrace() -> None:
    LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    child = os.fork()
    if child == 0:
        threading.Event().wait(20)
        os._exit(0)
    try:
        checked(LIBC.ptrace(PTRACE_ATTACH, child, None, None))
        os.waitpid(child, 0)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def set_user_id() -> None:
    place = Path(sys.argv[1]).with_name("suid")
    place.touch()
    try:
        place.chmod(0o4755)
        if not place.stat().st_mode & 0o4000:
            raise PermissionError(errno.EPERM, "the bit was dropped")
    finally:
        place.unlink()


class Piece(ctypes.Structure):
    """A struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def read_memory() -> None:
    """Read a byte of another process, or learn that it has none there: that is as good."""
    byte = ctypes.create_string_buffer(1)
    ours, theirs = Piece(ctypes.addressof(byte), 1), Piece(4096, 1)
    call("process_vm_readv", another_process(), ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)


def gain_by_a_program() -> None:
    """Run a set-uid program and see whose it is then."""
    program = "/opt/test/set-user-id"
    done = subprocess.run([program, "-u"], capture_output=True, text=True, check=True)
    if done.stdout.strip() != "0" or os.geteuid() == 0:
        raise PermissionError(errno.EPERM, f"it was run as {done.stdout.strip()}")


def more_capabilities() -> None:
    status = Path("/proc/self/status").read_text()
    caps = {line.split()[0]: int(line.split()[1], 16) for line in status.splitlines()
            if line.startswith("Cap")}  # fmt: skip
    if not (caps["CapEff:"] or caps["CapBnd:"] or caps["CapAmb:"] or caps["CapInh:"]):
        raise PermissionError(errno.EPERM, "there are none to be had")


def new_privileges() -> None:
    if "NoNewPrivs:\t1" in Path("/proc/self/status").read_text():
        raise PermissionError(errno.EPERM, "no new privileges")


def mount() -> None:
    checked(LIBC.mount(b"none", b"/mnt", b"tmpfs", 0, None))
    LIBC.umount2(b"/mnt", 2)


def open_socket(family: int) -> None:
    socket.socket(family, socket.SOCK_RAW if family == socket.AF_PACKET else socket.SOCK_DGRAM)


def reach_the_network() -> None:
    interfaces = [line.split(":")[0].strip() for line in
                  Path("/proc/self/net/dev").read_text().splitlines()[2:]]  # fmt: skip
    if interfaces == ["lo"]:
        raise PermissionError(errno.EPERM, "there is none")


def list_directory(path: str) -> None:
    if not [*Path(path).iterdir()]:
        raise PermissionError(errno.EACCES, "there is nothing in it")


def a_device() -> None:
    place = Path(sys.argv[1]).with_name("device")
    os.mknod(place, 0o600 | 0o020000, os.makedev(1, 3))
    place.unlink()


def become_another() -> None:
    """Be root, or who is root already, somebody else; in a child, which does not come back."""
    child = os.fork()
    if child == 0:
        try:
            os.setuid(0 if os.geteuid() else 1)
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))


def have_more_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard + 1))
    except ValueError as error:  # Python's word for EPERM here
        raise PermissionError(errno.EPERM, str(error)) from error


PLACES = (
    "/probe", "/etc/probe", "/usr/probe", "/opt/probe", "/var/probe", "/var/lib/probe",
    "/var/log/probe", "/run/probe", "/run/agent-journal/probe", "/etc/agent-journal/probe",
    "/etc/systemd/system/probe", "/run/systemd/probe", "/boot/probe", "/srv/probe",
    "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/proc/sys/vm/swappiness",
    "/sys/fs/cgroup/cgroup.procs", "/sys/kernel/mm/ksm/run",
)  # fmt: skip
HOMES = ("/home", "/root", "/home/anna", "/run/user")
FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET)

MUST_FAIL: dict[str, Callable[[], object]] = {
    **{f"write {path}": partial(write, path) for path in PLACES},
    **{f"see {path}": partial(list_directory, path) for path in HOMES},
    **{f"socket {family.name}": partial(open_socket, family) for family in FAMILIES},
    **{f"new {name} namespace": partial(unshare, flag) for name, flag in CLONE_NEW.items()},
    "read a home": lambda: Path("/home/anna/secret").read_text(),
    "read another's secret file": lambda: Path("/var/lib/secret").read_text(),
    "see a network": reach_the_network,
    "ptrace a child": ptrace,
    "read another's memory": read_memory,
    "read another's environment": lambda: Path("/proc/1/environ").read_bytes(),
    "mount": mount,
    "chroot": lambda: os.chroot("/"),
    "change the root": lambda: call("pivot_root", b"/", b"/"),
    "enter a namespace": lambda: call("setns", os.open("/proc/self/ns/uts", os.O_RDONLY), 0),
    "memory that is written and executed": writable_and_executable,
    "memory that is made executable": made_executable,
    "become root": become_another,
    "make a set-uid file": set_user_id,
    "gain by a set-uid program": gain_by_a_program,
    "have capabilities": more_capabilities,
    "have new privileges": new_privileges,
    "make a device": a_device,
    "read the kernel's log": lambda: os.close(os.open("/dev/kmsg", os.O_RDONLY)),
    "clear the kernel's log": lambda: call("syslog", 4, ctypes.create_string_buffer(1), 1),
    "load a module": lambda: call("init_module", b"", 0, b""),
    "unload a module": lambda: call("delete_module", b"no_such_module", 0),
    "load a kernel": lambda: call("kexec_load", 0, 0, 0, 0),
    "load a program into the kernel": lambda: call("bpf", 0, 0, 0),
    "count events": lambda: call("perf_event_open", 0, 0, -1, -1, 0),
    "handle page faults": lambda: call("userfaultfd", 0),
    "change the clock": lambda: call("clock_settime", 0, 0),
    "change the host's name": lambda: socket.sethostname(socket.gethostname()),
    "reboot": lambda: call("reboot", 0, 0, 0, 0),
    "swap": lambda: call("swapon", b"/no/such/file", 0),
    "set quotas": lambda: call("quotactl", 0, 0, 0, 0),
    "open by handle": lambda: call("open_by_handle_at", -1, 0, 0),
    "add a key": lambda: call("add_key", b"user", b"n", b"v", 1, -2),
    "be another architecture": lambda: checked(LIBC.personality(8)),
    "run in real time": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    "be more important": lambda: os.setpriority(os.PRIO_PROCESS, 0, -5),
    "have more files": have_more_files,
    "signal the manager": lambda: os.kill(1, 0),
    "signal another": lambda: os.kill(another_process(), 0),
}


def keep_a_journal() -> None:
    place = Path(sys.argv[1]).with_name("probe.db")
    connection = sqlite3.connect(place)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t(a)")
    connection.commit()
    connection.close()
    place.unlink()


def serve_and_connect() -> None:
    place = Path(sys.argv[1]).with_name("probe.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(place))
        listener.listen()
        client.connect(str(place))
        place.unlink()
        accepted, _ = listener.accept()
        credentials = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        accepted.close()
    if struct.unpack("3i", credentials) != (os.getpid(), os.getuid(), os.getgid()):
        raise PermissionError(errno.EPERM, "the kernel says it is another")


def watch_another() -> None:
    """Tell whether an owner lives, as the daemon does: by when it began, and a pidfd."""
    pid = another_process()
    assert int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]) >= 0
    os.close(os.pidfd_open(pid))


def ask_systemd() -> None:
    command = ["systemctl", "show", "--property=Version"]
    subprocess.run(command, check=True, capture_output=True, timeout=20)


def start_threads() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


MUST_WORK: dict[str, Callable[[], object]] = {
    "keep a journal": keep_a_journal,
    "serve and connect": serve_and_connect,
    "watch another process": watch_another,
    "ask systemd to start an agent": ask_systemd,
    "start threads": start_threads,
    "read the boot id": lambda: Path("/proc/sys/kernel/random/boot_id").read_text(),
    "read the overflow uid": lambda: Path("/proc/sys/kernel/overflowuid").read_text(),
    "read its configuration": lambda: [*Path("/etc/agent-journal").iterdir()],
    "use a temporary file": lambda: write("/tmp/probe"),  # noqa: S108 - its own
}


def tried(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return f"{errno.errorcode.get(error.errno or 0, '?')}: {error.strerror}"
    except Exception as error:  # noqa: BLE001 - it is what became of it
        return f"failed: {error!r}"
    return "done"


def main() -> None:
    """Write down what became of each try."""
    Path(f"/tmp/left-by-{os.getuid()}").touch()  # noqa: S108 - to be looked for outside
    found = {
        "uid": os.getuid(),
        "must_fail": {name: tried(attempt) for name, attempt in MUST_FAIL.items()},
        "must_work": {name: tried(attempt) for name, attempt in MUST_WORK.items()},
    }
    Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
