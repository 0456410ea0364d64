"""The daemon's figures in Prometheus' text format, version 0.0.4.

Pure: what ``stats`` answers goes in, text comes out.  So ``GET /metrics`` on the
socket and the command ``agent-journal metrics`` print the same, and a figure that
the caller may not see, or that an older daemon does not know, is simply not there.

``FAMILIES`` is the list of all that can be printed.  Names keep Prometheus' rules:
base units, ``_total`` for what only rises.  None is called ``process_…``: printed
into a file for node_exporter it would collide with that program's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

from ..errors import ERRORS

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PREFIX: Final = "agent_journal_"

Figures = Mapping[str, Any]
Labels = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    """One line of a family."""

    suffix: str
    labels: Labels
    value: float


class Family(NamedTuple):
    """A metric: what it is called, and where in the figures it is."""

    name: str  # without the prefix
    kind: Literal["counter", "gauge", "histogram"]
    about: str
    figure: str
    label: str | None = None  # of a figure that is an object: what its members' names are
    member: str | None = None  # of an object in that object
    names: tuple[str, ...] = ()  # of its members; what is not there yet is 0


# What the daemon may say; the client has one more of its own.
_CODES: Final = tuple(sorted(ERRORS.keys() - {"connection_lost"}))
HOWS: Final = ("detached", "exited", "launch_failed", "lost", "replaced", "signalled")

FAMILIES: Final = (
    Family("uptime_seconds", "gauge", "Time since the daemon was started.", "uptime_seconds"),
    Family("damaged", "gauge", "1 if the journal failed its checks and is not served.", "damaged"),
    Family("storage_full", "gauge", "1 if the last entries found no room.", "storage_full"),
    Family(
        "committed_entries_total",
        "counter",
        "Entries that are durable and were acknowledged.",
        "entries_committed",
    ),
    Family(
        "committed_bytes_total",
        "counter",
        "Bytes of these entries, with what a request costs.",
        "bytes_committed",
    ),
    Family("commits_total", "counter", "Transactions, each with one fsync.", "commits"),
    Family("batch_entries", "histogram", "Entries in a commit.", "batch_entries"),
    Family(
        "commit_seconds",
        "histogram",
        "Time from handing a batch to the store until it is durable.",
        "commit_seconds",
    ),
    Family(
        "write_seconds",
        "histogram",
        "The part of it in the database: insertion, write and fsync.",
        "write_seconds",
    ),
    Family(
        "checkpoint_seconds",
        "histogram",
        "Time to copy the WAL into the database.",
        "checkpoint_seconds",
    ),
    Family(
        "refused_total",
        "counter",
        "Requests answered with an error.",
        "refused",
        "code",
        names=_CODES,
    ),
    Family("queued_entries", "gauge", "Entries that wait to be committed.", "queued_entries"),
    Family("queued_bytes", "gauge", "Bytes that wait to be committed.", "queued_bytes"),
    Family("connections", "gauge", "Open connections.", "uids", "uid", "connections"),
    Family(
        "in_flight_bytes",
        "gauge",
        "Bytes received and not answered, or answered and not read.",
        "uids",
        "uid",
        "bytes_in_flight",
    ),
    Family("connections_max", "gauge", "Connections that may be open.", "connections_max"),
    Family("connections_accepted_total", "counter", "Connections served.", "connections_accepted"),
    Family(
        "connections_refused_total",
        "counter",
        "Connections refused because too many were open.",
        "connections_refused",
    ),
    Family("agents", "gauge", "Agents, by state.", "agents", "state"),
    Family(
        "attempts_launched_total",
        "counter",
        "Attempts launched by the daemon to resume an agent.",
        "attempts_launched",
    ),
    Family(
        "attempts_ended_total",
        "counter",
        "Attempts that ended before their agent did, by how.",
        "attempts_ended",
        "how",
        names=HOWS,
    ),
    Family("attaches_total", "counter", "Attaches that were granted.", "attaches"),
    Family(
        "attaches_resumed_total",
        "counter",
        "Those of them of agents that had begun before.",
        "attaches_resumed",
    ),
    Family("parks_total", "counter", "Agents parked, to wait for a person.", "parks"),
    Family("removed_agents_total", "counter", "Agents removed by retention.", "agents_removed"),
    Family("removed_entries_total", "counter", "Entries of these agents.", "entries_removed"),
    Family("archived_agents_total", "counter", "Those archived before.", "agents_archived"),
    Family(
        "archive_failures_total",
        "counter",
        "Archives that could not be written; their agents were kept.",
        "archives_failed",
    ),
    Family("database_bytes", "gauge", "Size of the database file.", "database_bytes"),
    Family("wal_bytes", "gauge", "Size of the WAL.", "wal_bytes"),
    Family("disk_bytes", "gauge", "Size of the disk that holds the journal.", "disk_bytes"),
    Family("disk_free_bytes", "gauge", "What is free of it.", "disk_free_bytes"),
    Family(
        "disk_free_bytes_min",
        "gauge",
        "What is kept free: below it entries are refused.",
        "disk_free_bytes_min",
    ),
    Family("scrub_bytes_total", "counter", "Bytes looked at by the scrub.", "scrub_bytes_total"),
    Family(
        "scrub_finished_timestamp_seconds",
        "gauge",
        "When the scrub last came to the end of the file, since 1970.",
        "scrubbed_at",
    ),
    Family("scrub_position_bytes", "gauge", "How far this round of it has come.", "scrubbed_bytes"),
    Family("unsummed_bytes", "gauge", "Bytes that have no sum yet.", "unsummed_bytes"),
    Family("cpu_seconds_total", "counter", "Processor time of the daemon.", "cpu_seconds"),
    Family("resident_memory_bytes", "gauge", "Memory of the daemon.", "rss_bytes"),
    Family("open_fds", "gauge", "Open descriptors of the daemon.", "fds"),
    Family("max_fds", "gauge", "Descriptors that it may open.", "fds_max"),
)

_BUILD: Final = "build_info"


def samples(figures: Figures) -> Iterator[tuple[str, str, str, list[Sample]]]:
    """Yield what there is of each family: name, type, help and samples."""
    versions = [(name, figures.get(name)) for name in ("version", "sqlite_version")]
    labels = tuple((name, value) for name, value in versions if isinstance(value, str))
    build = [Sample("", labels, 1.0)]
    yield PREFIX + _BUILD, "gauge", "Which daemon this is.", build
    for family in FAMILIES:
        found = [*_samples(family, figures.get(family.figure))]
        if found:
            yield PREFIX + family.name, family.kind, family.about, found


def exposition(figures: Figures) -> str:
    """Return the text that a Prometheus server reads."""
    lines: list[str] = []
    for name, kind, about, found in samples(figures):
        lines += (f"# HELP {name} {about}", f"# TYPE {name} {kind}")
        lines += [
            f"{name}{suffix}{_labels(labels)} {number(value)}" for suffix, labels, value in found
        ]
    return "\n".join((*lines, ""))


def _samples(family: Family, figure: object) -> Iterator[Sample]:
    if family.kind == "histogram":
        if isinstance(figure, Mapping):
            yield from _buckets(figure)
    elif family.label is None:
        value = _value(figure)
        if value is not None:
            yield Sample("", (), value)
    elif isinstance(figure, Mapping):
        # A counter that came into being at 1 would hide its first increase.
        for name, inner in {**dict.fromkeys(family.names, 0), **figure}.items():
            member = inner.get(family.member) if isinstance(inner, Mapping) else inner
            value = _value(member)
            if value is not None:
                yield Sample("", ((family.label, str(name)),), value)


def _buckets(histogram: Mapping[str, Any]) -> Iterator[Sample]:
    for bound, count in histogram["buckets"]:
        yield Sample("_bucket", (("le", number(bound)),), float(count))
    yield Sample("_bucket", (("le", "+Inf"),), float(histogram["count"]))
    yield Sample("_sum", (), float(histogram["sum"]))
    yield Sample("_count", (), float(histogram["count"]))


def _value(figure: object) -> float | None:
    """Return a figure as a number; a time in seconds since 1970."""
    if isinstance(figure, int | float):
        return float(figure)
    if isinstance(figure, str):
        return datetime.fromisoformat(figure).timestamp()
    return None


def number(value: float) -> str:
    """Return a number as Go and Python both write and read it."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
