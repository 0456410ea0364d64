"""Journal an agent's start, a step and its end, and read them back; the standard library only.

python append.py [agent-id]
"""

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any


def find_socket() -> str:
    """Return where the daemon listens: as the environment says, the user's own, the host's."""
    if named := os.environ.get("AGENT_JOURNAL_SOCKET"):
        return named
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        own = Path(runtime, "agent-journal")
    else:
        own = Path(f"/tmp/agent-journal-{os.getuid()}")  # noqa: S108 - its owner is looked at
    if (own / "journal.sock").exists() and own.stat().st_uid == os.getuid():
        return str(own / "journal.sock")
    return "/run/agent-journal/journal.sock"


def main(agent_id: str) -> None:
    """Send each request when the one before is durable."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(find_socket())
        stream = connection.makefile("rw", encoding="utf-8", newline="\n")

        def call(op: str, **fields: object) -> dict[str, Any]:
            request = {"op": op, "agent_id": agent_id, **fields}
            stream.write(json.dumps(request) + "\n")
            stream.flush()
            reply: dict[str, Any] = json.loads(stream.readline() or '{"ok": false}')
            if not reply["ok"]:
                sys.exit(f"{op} failed: {reply.get('error', 'the connection was closed')}")
            return reply

        # With a key, a repeat is recognised: the entry is recorded once, however often it is sent.
        print(call("append", event={"Started": {"goal": "greet"}}, key="start"))
        step = {"StepCompleted": {"result": "Hello!"}}
        print(call("append", iteration=1, event=step, key="greet"))
        end = {"Terminated": {"reason": "Completed"}}
        print(call("append", iteration=1, event=end, key="end"))
        for entry in call("read")["entries"]:
            print(entry["sequence"], entry["timestamp"], json.dumps(entry["event"]))


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else f"python-{os.getpid()}")
    except OSError as problem:
        sys.exit(f"{find_socket()}: {problem.strerror}; is agent-journald running?")
