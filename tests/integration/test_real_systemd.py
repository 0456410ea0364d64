"""The installed units under a systemd that really runs: agents are killed, the host is rebooted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration.container import (
    ANNA,
    PYTHON,
    SYSTEM_SOCKET,
    USER_SOCKET,
    Machine,
    booted,
)

AGENT = """
import json, os, signal, socket, sys
mode, agent_id = sys.argv[1], os.environ["AGENT_JOURNAL_AGENT_ID"]
connection = socket.socket(socket.AF_UNIX)
connection.connect(os.environ["AGENT_JOURNAL_SOCKET"])
lines = connection.makefile("rwb")
def ask(op, **members):
    lines.write(json.dumps({"op": op, "agent_id": agent_id, **members}).encode() + b"\\n")
    lines.flush()
    reply = json.loads(lines.readline())
    assert reply["ok"], reply
    return reply
means = {"launcher": "test"} if os.environ.get("BY_LAUNCHER") else {
    "command": {"argv": [sys.executable, *sys.argv], "cwd": "/", "env": {}}}
attached = ask("attach", **means)
def record(**event):
    ask("append", iteration=0, epoch=attached["epoch"], event=event)
cgroup = [line for line in open("/proc/self/cgroup") if "systemd" in line or line[:2] == "0:"]
record(StepCompleted={"key": str(attached["attempt"]), "result": cgroup[0].strip()})
if attached["attempt"] < 3 and mode == "crash":
    os.kill(os.getpid(), signal.SIGKILL)
if attached["attempt"] < 2 and mode == "pause":
    signal.pause()
if mode == "stay":
    signal.pause()
record(Terminated={"reason": "Completed"})
"""

TEMPLATE = f"""
[Service]
User=anna
ExecStart={PYTHON} /opt/test/agent.py %j
Environment=AGENT_JOURNAL_AGENT_ID=%i AGENT_JOURNAL_SOCKET={SYSTEM_SOCKET} BY_LAUNCHER=1
"""


def add_launcher(machine: Machine) -> None:
    """Let the system's daemon start anna's agents, as instances of a template unit."""
    machine.write(
        "/etc/agent-journal/config.toml",
        '[launchers.test]\nunit = "test-agent@.service"\nusers = ["anna"]\n',
    )
    template = TEMPLATE.replace("%j", "pause")
    machine.write("/etc/systemd/system/test-agent@.service", template)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with booted(tmp_path_factory.mktemp("machine"), AGENT, prepare=add_launcher) as machine:
        yield machine


def test_a_user_s_agents_are_units_of_their_own(machine: Machine) -> None:
    """They are resumed, and a restart of the daemon leaves them alone."""
    machine.run("systemctl", "--user", "start", "agent-journald.service", anna=True)
    machine.start_agent(USER_SOCKET, "mine", "crash")
    machine.wait_for(USER_SOCKET, "mine", "completed", 3)
    cgroups = machine.cgroups(USER_SOCKET, "mine")
    assert cgroups[1].endswith(f"/agent-{ANNA}-mine-2.service")
    assert cgroups[2].endswith(f"/agent-{ANNA}-mine-3.service")

    machine.start_agent(USER_SOCKET, "stays", "stay")
    machine.wait_for(USER_SOCKET, "stays", "running", 1)
    by_hand = machine.describe(USER_SOCKET, "stays")["owner"]["pid"]
    machine.run("kill", "-KILL", str(by_hand))
    machine.wait_for(USER_SOCKET, "stays", "running", 2)
    owner = machine.describe(USER_SOCKET, "stays")["owner"]
    machine.run("systemctl", "--user", "restart", "agent-journald.service", anna=True)
    assert machine.describe(USER_SOCKET, "stays")["owner"] == owner
    unit = f"agent-{ANNA}-stays-2.service"
    machine.run("systemctl", "--user", "stop", unit, anna=True)
    machine.wait_for(USER_SOCKET, "stays", "running", 3)
    entries = machine.ask(USER_SOCKET, op="read", agent_id="stays")["entries"]
    ends = [one["event"]["AttemptEnded"] for one in entries if "AttemptEnded" in one["event"]]
    assert (ends[-1]["how"], ends[-1]["signal"]) == ("signalled", "SIGTERM")


def test_the_host_is_rebooted_and_its_agents_finish(machine: Machine) -> None:
    """The daemon of the system starts them by a launcher, without a privilege of its own."""
    if not (machine.root / "usr/lib/polkit-1/polkitd").exists():
        pytest.skip("polkit is not installed: a launcher of the system daemon was not checked")
    machine.start_agent(SYSTEM_SOCKET, "report", "pause", BY_LAUNCHER="1")
    machine.wait_for(SYSTEM_SOCKET, "report", "running", 1)
    machine.power_off()
    machine.boot()
    machine.start_services()
    machine.wait_for(SYSTEM_SOCKET, "report", "completed", 2)
    assert machine.cgroups(SYSTEM_SOCKET, "report")[1].endswith("/test-agent@report.service")
    status = machine.run("systemctl", "show", "--property=User,Result", "agent-journald.service")
    assert {*status.split()} == {"User=agent-journal", "Result=success"}
