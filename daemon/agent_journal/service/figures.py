"""What the operation ``stats`` tells, and to whom.

Each caller is told of his own: his connections, his agents, what he has in
flight; and of the daemon what anybody may know who waits for it.  What tells of
the host as a whole is for administrators: from how many bytes were committed
between two looks one could read the size of each event of another user, and from
the refusals what goes wrong with him.  From the gaps between positions anybody
can tell how much others wrote; nothing here may add to that.

To look costs some system calls and no look at the journal: how many agents
there are is kept (``store/census.py``), not counted.
"""

from __future__ import annotations

import os
import resource
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any, Final

from .. import __version__
from ..model import AgentState, Uid
from ..store.base import Store
from ..store.figures import StoreFigures, file_figures
from ..wire import Stats
from .context import Context
from .operations import EVERYONE, Caller
from .scrubbing import scrub_figures

_PROCESS: Final = Path("/proc/self")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def stats(caller: Caller, request: Stats) -> dict[str, object]:
    """Give counters and gauges: the caller's own, and to an administrator the host's as well."""
    uid = caller.namespaces(request.uid) if request.uid is not None else caller.peer.uid
    own = _own_figures(caller.context, uid) | {"is_admin": caller.is_admin}
    return own | _host_figures(caller.context) if caller.is_admin else own


def all_figures(caller: Caller) -> dict[str, Any]:
    """Return the figures of everything that the caller may see."""
    return stats(caller, Stats(uid=EVERYONE if caller.is_admin else None))


def _own_figures(context: Context, uid: Uid | None) -> dict[str, object]:
    """Return the figures of one uid, or of all, and those of the daemon that everybody may know."""
    metrics, accounts = context.metrics, context.admission.accounts
    shown = {owner: account for owner, account in accounts.items() if uid in (None, owner)}
    commit = metrics.commit_seconds
    return {
        "version": __version__,
        "sqlite_version": sqlite3.sqlite_version,
        "pid": os.getpid(),
        "uptime_seconds": round(context.clock.monotonic() - metrics.started, 3),
        "connections": sum(account.connections for account in shown.values()),
        "bytes_in_flight": sum(account.bytes_in_flight for account in shown.values()),
        "commit_ms_p50": round(commit.quantile(0.5) * 1000, 3),
        "commit_ms_p99": round(commit.quantile(0.99) * 1000, 3),
        "commit_ms_max": round(commit.highest * 1000, 3),
        "agents": _agents(context.store, uid),
        "uids": {
            str(owner): {
                "connections": account.connections,
                "bytes_in_flight": account.bytes_in_flight,
            }
            for owner, account in sorted(shown.items())
        },
    }


def _agents(store: Store, uid: Uid | None) -> dict[str, int] | None:
    """Return how many agents are in each state; ``None`` as long as they are being counted."""
    counts = store.agent_counts
    if counts is None:
        return None
    found: Counter[AgentState] = Counter()
    for (owner, state), count in counts.items():
        if uid in (None, owner):
            found[state] += count
    return {state.value: found[state] for state in AgentState}


def _host_figures(context: Context) -> dict[str, object]:
    """Return the figures of the host, which are for administrators."""
    metrics, committer, limits = context.metrics, context.committer, context.config.limits
    return {
        "connections_accepted": metrics.connections_accepted,
        "connections_refused": metrics.connections_refused,
        "connections_max": limits.connections_max,
        "queued_entries": committer.queued_entries,
        "queued_bytes": committer.queued_bytes,
        "entries_committed": metrics.entries,
        "bytes_committed": metrics.entry_bytes,
        "commits": metrics.commits,
        "batch_entries_mean": round(metrics.entries / max(metrics.commits, 1), 2),
        "batch_entries_max": metrics.batch_entries_max,
        "batch_entries": metrics.batch_entries.shown(),
        "commit_seconds": metrics.commit_seconds.shown(),
        "refused": dict(metrics.refused),
        "storage_full": committer.is_full,
        "attempts_launched": metrics.attempts_launched,
        "attempts_ended": dict(metrics.attempts_ended),
        "attaches": metrics.attaches,
        "attaches_resumed": metrics.attaches_resumed,
        "parks": metrics.parks,
        "scrub_bytes_total": metrics.scrub_bytes,
        "agents_removed": metrics.agents_removed,
        "entries_removed": metrics.entries_removed,
        "agents_archived": metrics.agents_archived,
        "archives_failed": metrics.archives_failed,
        **_store_figures(context),
        **scrub_figures(context.store),
        **_process_figures(),
    }


def _store_figures(context: Context) -> dict[str, object]:
    store = context.store
    shown: dict[str, object] = {"damaged": getattr(store, "damage", None) is not None}
    figures: StoreFigures | None = getattr(store, "figures", None)
    path: Path | None = getattr(store, "path", None)
    if figures is not None:
        shown["write_seconds"] = figures.write_seconds.shown()
        shown["checkpoint_seconds"] = figures.checkpoint_seconds.shown()
    if path is not None:
        shown |= file_figures(path)
        shown["disk_free_bytes_min"] = context.config.commit.free_bytes_min
    return shown


def _process_figures() -> dict[str, object]:
    """Return what the daemon costs, as far as ``/proc`` says."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    shown: dict[str, object] = {"cpu_seconds": round(used.ru_utime + used.ru_stime, 3)}
    try:
        pages = int((_PROCESS / "statm").read_text("ascii").split()[1])
        shown["rss_bytes"] = pages * _PAGE_BYTES
        shown["fds"] = _open_descriptors()
        shown["fds_max"] = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except (OSError, ValueError, IndexError):  # not Linux, or no descriptor left to look with
        pass
    return shown


def _open_descriptors() -> int:
    """Return how many descriptors are open.

    Since Linux 6.2 the directory's size is their number; to list ten thousand of
    them takes milliseconds, in which nobody is served.
    """
    directory = _PROCESS / "fd"
    return directory.stat().st_size or len(os.listdir(directory))  # noqa: PTH208 - only counted
