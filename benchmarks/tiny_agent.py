"""The least that is an agent: it attaches, says that it has finished, and ends.

Run with ``python -I -S``, since what is measured is the daemon that starts it.
"""

import json
import os
import socket
import sys

agent_id = os.environ["AGENT_JOURNAL_AGENT_ID"]
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(os.environ["AGENT_JOURNAL_SOCKET"])
    lines = connection.makefile("rwb", buffering=0)
    lines.write(json.dumps({"op": "attach", "agent_id": agent_id}).encode() + b"\n")
    attached = json.loads(lines.readline())
    if not attached["ok"]:
        sys.exit(str(attached))
    end = {"op": "append", "agent_id": agent_id, "epoch": attached["epoch"], "iteration": 1}
    end["event"] = {"Terminated": {"reason": "Completed"}}
    lines.write(json.dumps(end).encode() + b"\n")
    if not json.loads(lines.readline())["ok"]:
        sys.exit(1)
