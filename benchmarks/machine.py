"""Facts about the machine that figures were measured on, and places to measure in."""

import os
import platform
import resource
import sqlite3
import sys
import tempfile
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent
MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})  # where an fsync costs nothing


def file_system(path: Path) -> str:
    """Return the type of the file system that holds *path*."""
    path = path.resolve()
    best, kind = -1, "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        mount_point = Path(before.split()[4].replace("\\040", " "))
        # Later lines cover earlier ones, so of two equal mount points the last one counts.
        if path.is_relative_to(mount_point) and len(mount_point.parts) >= best:
            best, kind = len(mount_point.parts), after.split()[0]
    return kind


def data_directory(chosen: Path | None) -> Path:
    """Return an empty directory on a real disk for the databases of one run.

    All servers measured in one run keep their data below it, so that all of
    them pay for the same fsync.

    Raises:
        SystemExit: the directory is kept in memory, where there is no fsync to measure.
    """
    parent = chosen or BENCHMARKS / ".data"
    parent.mkdir(parents=True, exist_ok=True)
    kind = file_system(parent)
    if kind in MEMORY_FILE_SYSTEMS:
        raise SystemExit(
            f"{parent} is on {kind}, where an fsync costs nothing and durability is not measured; "
            "choose a directory on a disk with --dir"
        )
    return Path(tempfile.mkdtemp(prefix="run-", dir=parent))


def raise_file_limit() -> int:
    """Let this process and its children open as many files as the host allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def facts(directory: Path) -> dict[str, object]:
    """Return what a reader needs to know to place the figures."""
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "kernel": platform.release(),
        "file_system": file_system(directory),
        "python": sys.version.split()[0],
        "sqlite": sqlite3.sqlite_version,
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def in_words(known: dict[str, object]) -> str:
    """Return the facts as one line above the tables."""
    return (
        f"{known['cores']} cores ({known['cpu']}), Linux {known['kernel']}, "
        f"{known['file_system']}, Python {known['python']}, SQLite {known['sqlite']}"
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
