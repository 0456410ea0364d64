"""What of a client's command is kept, and whose."""

from __future__ import annotations

import os
from typing import Any

import pytest

from agent_journal.model import AgentId, Uid
from helpers import ALICE, ROOT, Service, code_of

OURS = Uid(os.geteuid())
COMMAND = {"argv": ["/usr/bin/python3", "-m", "agent"], "cwd": "/srv"}


def attach(command: Any = None, **fields: Any) -> dict[str, Any]:
    return {"op": "attach", "agent_id": "a", "command": command, **fields}


async def test_our_own_command_is_kept() -> None:
    async with Service() as service:
        env = {
            "PATH": "/bin",
            "LC_ALL": "C",
            "XDG_RUNTIME_DIR": "/run/user/5",
            "MODEL": "large",
            "LANG": "",
        }
        client = service.connect(OURS)
        assert (await client.ask_one(attach({**COMMAND, "env": env})))["ok"]
        (record,) = await service.store.store.load([(OURS, AgentId("a"))])
        assert record is not None
        assert record.attachment is not None
        command = record.attachment.command
        assert command is not None
        assert (command.argv, command.cwd, command.env) == (
            ("/usr/bin/python3", "-m", "agent"),
            "/srv",
            env,
        )
        ((_, started),) = await service.payloads(uid=OURS)
        assert started["command"] == COMMAND["argv"]
        agent = (await client.ask_one({"op": "describe", "agent_id": "a"}))["agent"]
        assert agent["command"] == COMMAND  # its environment is nobody else's business


async def test_a_later_attach_that_says_nothing_changes_nothing() -> None:
    async with Service() as service:
        service.resumer.launchers = {"python"}
        client = service.connect(OURS)
        describe = {"op": "describe", "agent_id": "a"}
        await client.ask(attach(COMMAND), attach(take_over=True))
        assert (await client.ask_one(describe))["agent"]["command"] == COMMAND
        await client.ask(attach(launcher="python", take_over=True))
        agent = (await client.ask_one(describe))["agent"]
        assert agent["launcher"] == "python"
        assert "command" not in agent


async def test_nobody_elses_command_is_run_as_us() -> None:
    """Not even for an administrator in another's namespace; launchers are for that."""
    async with Service() as service:
        service.resumer.launchers = {"python"}
        refused = await service.connect(ALICE).ask_one(attach(COMMAND))
        assert code_of(refused) == "forbidden"
        assert "launcher" in refused["error"]["message"]
        refused = await service.connect(ROOT).ask_one(attach(COMMAND, uid=ALICE))
        assert code_of(refused) == "forbidden"
        assert await service.events() == []
        reply = await service.connect(ALICE).ask_one(attach(launcher="python"))
        assert reply["ok"]
        ((_, started),) = await service.payloads()
        assert started["command"] == "python"


async def test_a_launcher_is_one_that_the_configuration_names() -> None:
    async with Service() as service:
        refused = await service.connect().ask_one(attach(launcher="python"))
        assert code_of(refused) == "invalid"
        assert "[launchers.python]" in refused["error"]["message"]


@pytest.mark.parametrize(
    "name", ["API_KEY", "OPENAI_API_KEY", "GITHUB_TOKEN", "client_secret", "PGPASSWORD", "Token"]
)
async def test_a_secret_is_not_kept(name: str) -> None:
    async with Service() as service:
        command = {**COMMAND, "env": {"PATH": "/bin", name: "s3cr3t-value"}}
        refused = await service.connect(OURS).ask_one(attach(command))
        assert code_of(refused) == "invalid"
        assert refused["error"]["field"] == f"command.env.{name}"
        assert "s3cr3t-value" not in refused["error"]["message"]
        assert await service.events(uid=OURS) == []


@pytest.mark.parametrize(
    ("command", "field"),
    [
        ({"cwd": "/"}, "command"),
        ({"argv": [], "cwd": "/"}, "command.argv"),
        ({"argv": [""], "cwd": "/"}, "command.argv"),
        ({"argv": ["a\0b"], "cwd": "/"}, "command.argv"),
        ({"argv": ["x"] * 1025, "cwd": "/"}, "command.argv"),
        ({"argv": "x", "cwd": "/"}, "command.argv"),
        ({"argv": ["x"]}, "command"),
        ({"argv": ["x"], "cwd": "srv"}, "command.cwd"),
        ({"argv": ["x"], "cwd": "/\0"}, "command.cwd"),
        ({"argv": ["x"], "cwd": "/", "env": {"A": 5}}, "command.env"),
        ({"argv": ["x"], "cwd": "/", "env": {"A=B": "5"}}, "command.env"),
        ({"argv": ["x"], "cwd": "/", "env": {"": "5"}}, "command.env"),
        ({"argv": ["x"], "cwd": "/", "env": {"A": "5\0"}}, "command.env.A"),
        ({"argv": ["x" * 200_000], "cwd": "/"}, "command"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_bad_command_names_its_field(command: Any, field: str) -> None:
    async with Service() as service:
        refused = await service.connect(OURS).ask_one(attach(command))
        assert code_of(refused) == "invalid"
        assert refused["error"]["field"].startswith(field)


async def test_a_command_or_a_launcher() -> None:
    async with Service() as service:
        service.resumer.launchers = {"python"}
        refused = await service.connect(OURS).ask_one(attach(COMMAND, launcher="python"))
        assert code_of(refused) == "invalid"
