"""What a client can have the daemon start: nothing but what it may, whatever it calls itself.

An agent's id becomes a directory, a word on a command line, a part of a unit's name
and a template's instance.  What is none of these everywhere is refused as an id.
"""

from __future__ import annotations

import os
import re
import shutil
import string
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_journal.model import AgentId, Uid, is_agent_id
from agent_journal.service.attempt_output import AttemptFiles
from agent_journal.service.config import Config
from agent_journal.service.config_resume import LauncherOptions
from agent_journal.service.launch_systemd import unit_name
from agent_journal.service.launchers import (
    PLAIN_VARIABLES,
    NoMeansError,
    filled,
    means_for,
    plain_env,
)
from agent_journal.store.attachment import Attachment, Command
from agent_journal.store.base import AgentNumber, AgentRecord
from helpers import BOB, Message, Service, code_of

RULES = Path(__file__).parents[2] / "systemd" / "agent-journal.rules"

HOSTILE = [
    "", "-", "--", "--help", "-x", "-a", "--uid=root", ".", "..", ".a", "../..", "a/../../b",
    "/etc", "a/b", "a\\b", "%i", "%n", "a%ib", "%%", ";", "a;id", "$(id)", "`id`", "a b", "a\tb",
    "a\nb", "a\n", "a\r", "a\0", "\x1b[2J", "a\x1b]0;t\x07", "\x7f", "\x9b", "a|b", "a&b",
    "a>b", "a*", "a?", "~root", "{agent_id}", "{attempt}", "'a'", '"a"', "a,b", "a=b", "a+b", "a#b",
    "\u00e9", "\uff41", "a\u202e", "\u0660", "a\u0301", "\U0001f600", "_a", ":a", "@a", "a" * 129,
    "unit@.service/../x",
]  # fmt: skip
UNUSUAL = [
    "a", "0", "a--b", "a..", "a@b", "x@y.service", "a.service", "a:b", "9" * 128,
    "@".join("ab" * 30), "systemd-journald.service", "agent-0-a-1.service", "A_B-c.d:e@f", "a@@b",
    "a-",
]  # fmt: skip

ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}", fullmatch=True).map(AgentId)
anything = st.one_of(st.text(max_size=140), st.sampled_from(HOSTILE + UNUSUAL))
uids = st.integers(0, 2**32 - 2).map(Uid)

NAMING: list[Message] = [
    {"op": "append", "agent_id": "ID", "event": {"A": 1}},
    {"op": "append", "agent_id": "ID", "entries": [{"event": {"A": 1}}]},
    {"op": "attach", "agent_id": "ID"},
    {"op": "attach", "agent_id": "ok", "kind": "ID"},
    {"op": "attach", "agent_id": "ok", "launcher": "ID"},
    {"op": "fork", "agent_id": "there", "at_sequence": 0, "as": "ID"},
    {"op": "import", "agent": {"agent_id": "ID", "state": "running", "entries": 1,
                               "created_at": "2026-01-01T00:00:00Z"},
     "entries": [{"sequence": 0, "timestamp": "2026-01-01T00:00:00Z", "event": {"A": 1}}]},
]  # fmt: skip


def named(value: Any, agent_id: str) -> Any:
    if isinstance(value, dict):
        return {key: named(item, agent_id) for key, item in value.items()}
    return agent_id if value == "ID" else value


@pytest.mark.parametrize("request_", NAMING, ids=range(len(NAMING)))
async def test_a_hostile_id_is_none(request_: Message) -> None:
    """Nothing begins under it, by whatever operation it is given."""
    async with Service() as service:
        service.resumer.launchers = set(HOSTILE)
        client = service.connect(BOB)
        await client.ask({"op": "append", "agent_id": "there", "event": {"A": 1}})
        for hostile in HOSTILE:
            reply = await client.ask_one(named(request_, hostile))
            assert code_of(reply) == "invalid", hostile
        (listed,) = await client.ask({"op": "agents"})
        assert [agent["agent_id"] for agent in listed["agents"]] == ["there"]


@given(anything)
def test_an_id_is_one_word_of_letters_digits_and_five_marks(text: str) -> None:
    allowed = {*string.ascii_letters, *string.digits, *"._:@-"}
    is_one = 1 <= len(text) <= 128 and {*text} <= allowed and text[0] not in "._:@-"
    assert is_agent_id(text) is is_one


@given(ids)
def test_on_a_command_line_it_is_the_one_word(agent_id: AgentId) -> None:
    """It is never an option, and nothing in it is a placeholder."""
    argv = ("/bin/agent", "--id={agent_id}", "{agent_id}", "{agent_id}-{attempt}")
    found = filled(argv, agent_id, 7)
    assert found == ["/bin/agent", f"--id={agent_id}", agent_id, f"{agent_id}-7"]
    assert not found[2].startswith("-")


@given(uids, ids, st.integers(1, 10**9))
def test_its_directory_is_where_it_should_be(uid: Uid, agent_id: AgentId, attempt: int) -> None:
    root = Path("/var/lib/agent-journal/attempts")
    directory = AttemptFiles(root).directory(uid, agent_id, attempt)
    assert directory.relative_to(root).parts == (str(uid), agent_id, str(attempt))
    assert os.path.normpath(directory) == str(directory)


@given(st.tuples(uids, ids, st.integers(1, 99)), st.tuples(uids, ids, st.integers(1, 99)))
def test_a_unit_is_of_one_attempt_of_one_user_s_agent(
    one: tuple[Uid, AgentId, int], other: tuple[Uid, AgentId, int]
) -> None:
    """And its name is one that systemd takes, of no template, and no path."""
    name = unit_name(*one)
    assert re.fullmatch(r"agent-[0-9]+-[A-Za-z0-9:_.\\-]+-[0-9]+\.service", name)
    assert len(name) <= 255
    assert (unit_name(*other) == name) is (one == other)


@given(ids.filter(lambda agent_id: "-agent@" not in agent_id))
def test_the_rule_for_polkit_allows_instances_of_agents_templates_alone(agent_id: AgentId) -> None:
    pattern = re.search(r"/(\^.*\$)/\.test", RULES.read_text())
    assert pattern is not None
    rule = re.compile(pattern[1])
    assert rule.fullmatch(f"report-agent@{agent_id}.service")
    others = [
        f"{agent_id}.service", f"getty@{agent_id}.service", f"{agent_id}-agent@.service",
        f"x-agent@{agent_id}.socket", f"x-agent@{agent_id}/y.service",
        f"x-agent@{agent_id} y.service", f"x-agent@{agent_id}.service\n",
    ]  # fmt: skip
    assert [unit for unit in others if rule.fullmatch(unit)] == []


@pytest.mark.parametrize("agent_id", UNUSUAL)
def test_systemd_takes_each_name(agent_id: str) -> None:
    """As one unit, of which the instance is the agent's id as it is."""
    if shutil.which("systemd-escape") is None:
        pytest.skip("systemd is not installed: whether it takes the units' names was not checked")
    assert is_agent_id(agent_id)
    unit = unit_name(Uid(1000), AgentId(agent_id), 3)
    assert verified(unit) == unit
    if len(agent_id) < 100:
        instance = f"x-agent@{agent_id}.service"
        assert verified(instance) == instance
        asked = ["systemd-escape", "--unescape", "--instance", "--", instance]
        if "-" not in agent_id:  # "%I" turns "-" into "/": "%i" is what INSTALL.md says
            done = subprocess.run(asked, capture_output=True, text=True, check=True)
            assert done.stdout.strip() == agent_id


def verified(unit: str) -> str:
    """Return what systemd makes of a unit's name, which is the same if it is one."""
    command = ["systemd-escape", "--mangle", "--", unit]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(uids.filter(lambda uid: uid != os.geteuid()), st.lists(words, min_size=1), words)
def test_no_word_of_another_user_s_is_run(uid: Uid, argv: list[str], value: str) -> None:
    """Not from his attach, and not from an import, or a journal that was put here."""
    command = Command(tuple(argv), "/", {"LD_PRELOAD": value})
    record = AgentRecord(uid, AgentId("a"), AgentNumber(1), attachment=Attachment(command=command))
    with pytest.raises(NoMeansError):
        means_for(record, Config(), {})
    launcher = Config(launchers={"l": LauncherOptions(argv=("/bin/agent", "x"), users=("*",))})
    attachment = Attachment(launcher="l", command=command)
    means = means_for(
        AgentRecord(uid, AgentId("a"), AgentNumber(1), attachment=attachment), launcher, {}
    )
    assert means.argv == ("/bin/agent", "x")
    assert means.env == {"AGENT_JOURNAL_UID": str(uid)}
    assert means.cwd == "/"


@given(st.dictionaries(st.text(string.ascii_uppercase + "_", min_size=1), words))
def test_of_the_daemon_s_environment_an_agent_gets_what_is_listed(environ: dict[str, str]) -> None:
    allowed = {name for name in environ if name in PLAIN_VARIABLES or name.startswith("LC_")}
    assert plain_env({**environ, "LD_PRELOAD": "x", "API_KEY": "x"}).keys() == allowed


COMMAND = {"argv": ["/bin/true"], "cwd": "/"}
IMPORTED: Message = {
    "op": "import",
    "agent": {
        "agent_id": "a", "state": "interrupted", "entries": 1, "epoch": 1, "attempts": 1,
        "created_at": "2026-01-01T00:00:00Z", "attachment": {"command": {**COMMAND, "env": {}}},
    },
    "entries": [{"sequence": 0, "timestamp": "2026-01-01T00:00:00Z", "event": {"A": 1}}],
}  # fmt: skip


@pytest.mark.parametrize(
    "request_", [{"op": "attach", "agent_id": "a", "command": COMMAND}, IMPORTED]
)
async def test_a_command_is_kept_of_the_daemon_s_own_user_alone(request_: Message) -> None:
    """In his own namespace: an administrator who acts for another can't leave one there either."""
    own = Uid(os.geteuid())
    async with Service() as service:
        bob, me = service.connect(BOB), service.connect(own)
        for client, more in ((bob, {}), (me, {"uid": BOB})):
            assert code_of(await client.ask_one({**request_, **more})) == "forbidden"
        assert code_of(await me.ask_one(request_)) is None
        assert code_of(await bob.ask_one({"op": "describe", "agent_id": "a"})) == "not_found"
