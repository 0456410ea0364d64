"""Owns very many agents until it is ended: what a host full of agents is to its daemon.

    holder.py SOCKET COMMAND-JSON < agent ids, one a line

It attaches to each with that command, prints a line when all are its, and holds
them until it is killed.
"""

import json
import socket
import sys

WINDOW = 64  # attaches in flight


def main() -> None:
    """Attach to all, tell, and wait for the end."""
    path, command = sys.argv[1], json.loads(sys.argv[2])
    agents = sys.stdin.read().split()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        lines = connection.makefile("rb")
        for first in range(0, len(agents), WINDOW):
            asked = agents[first : first + WINDOW]
            requests = ({"op": "attach", "agent_id": name, "command": command} for name in asked)
            connection.sendall("".join(f"{json.dumps(one)}\n" for one in requests).encode())
            for _ in asked:
                answer = json.loads(lines.readline())
                if not answer["ok"]:
                    sys.exit(f"attach: {answer}")
        print("held", flush=True)
        lines.read()  # the daemon is stopped first
    sys.stdin.close()


if __name__ == "__main__":
    main()
