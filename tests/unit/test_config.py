"""Options are read, judged as a whole, and found where they belong."""

# ruff: noqa: E501 - the tables are read more easily with a case a line

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from agent_journal.errors import ConfigError
from agent_journal.model import Uid
from agent_journal.service.config import (
    Access,
    Config,
    Limits,
    Log,
    Resume,
    changes,
    default_config_file,
    default_database,
    default_socket,
    in_force,
    load,
    options,
)
from agent_journal.service.config_resume import KindLimits, LauncherOptions
from agent_journal.service.config_retention import Retention

A_GROUP = grp.getgrgid(0).gr_name


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


@pytest.fixture
def problems(path: Path) -> Callable[[str], list[str]]:
    """Load a text and return what is wrong with it, without the file's name."""

    def problems(text: str) -> list[str]:
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load(path)
        lines = str(caught.value).splitlines()
        assert all(line.startswith(f"{path}: ") for line in lines)
        return [line.removeprefix(f"{path}: ") for line in lines]

    return problems


class TestLoading:
    def test_an_empty_file_gives_the_defaults(self, path: Path) -> None:
        path.write_text("")
        assert load(path) == Config()

    def test_options_of_the_file_take_the_place_of_defaults(self, path: Path) -> None:
        path.write_text(
            f'socket = "/run/x.sock"\n[limits]\nconnections_per_uid_max = 7\n'
            f'[access]\nadmin_group = "{A_GROUP}"\nsocket_mode = "660"\n[log]\nlevel = "debug"\n'
        )
        assert load(path) == Config(
            socket=Path("/run/x.sock"),
            limits=Limits(connections_per_uid_max=7),
            access=Access(admin_group=A_GROUP, socket_mode="660"),
            log=Log(level="debug"),
        )

    @pytest.mark.parametrize(
        ("written", "size"),
        [
            ("65536", 65536),
            ('"65536"', 65536),
            ('"64KiB"', 65536),
            ('"64 KiB"', 65536),
            ('"64kib"', 65536),
            ('"65536B"', 65536),
            ('"2MiB"', 2 << 20),
            ("0x10_000", 65536),
        ],
    )
    def test_a_size_may_have_a_unit(self, path: Path, written: str, size: int) -> None:
        path.write_text(f"[limits]\nreply_bytes_max = {written}\n")
        assert load(path).limits.reply_bytes_max == size

    def test_a_path_may_begin_at_home(self, path: Path) -> None:
        path.write_text('database = "~/journals/a.db"')
        home = {"HOME": "/home/anna"}
        assert load(path, environ=home).database == Path("/home/anna/journals/a.db")

    def test_a_config_can_not_be_changed(self) -> None:
        with pytest.raises(FrozenInstanceError):
            Config().socket = Path("/x")  # type: ignore[misc]

    def test_without_a_path_the_default_file_is_read(self, tmp_path: Path) -> None:
        environ = {"CONFIGURATION_DIRECTORY": str(tmp_path)}
        assert load(None, environ=environ) == Config()
        (tmp_path / "config.toml").write_text('[log]\nlevel = "error"')
        assert load(None, environ=environ).log.level == "error"

    def test_a_broken_default_file_is_not_passed_over(self, tmp_path: Path) -> None:
        (tmp_path / "config.toml").mkdir()
        with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
            load(None, environ={"CONFIGURATION_DIRECTORY": str(tmp_path)})

    def test_a_file_that_was_asked_for_must_exist(self, path: Path) -> None:
        with pytest.raises(ConfigError, match=r"config\.toml: cannot be read: No such file"):
            load(path)


class TestRejection:
    def test_every_problem_is_reported_at_once(self, problems: Callable[[str], list[str]]) -> None:
        found = problems(
            'sokcet = "/x"\n[limits]\nconnections_max = "7"\nframe_bytes_max = "4MB"\n'
            '[access]\nsocket_mode = 600\n[log]\nlevel = "loud"\n'
        )
        keys = [problem.split(": ")[0] for problem in found]
        assert keys == [
            "sokcet",
            "limits.connections_max",
            "limits.frame_bytes_max",
            "access.socket_mode",
            "log.level",
        ]

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("[limits]\nconection_max = 3", "limits.conection_max: unknown option; the nearest is connections_max"),
            ("[limits]\nframe-bytes-max = 3", "limits.frame-bytes-max: unknown option; the nearest is frame_bytes_max"),
            ("[limits]\nlevel = 3", "limits.level: unknown option; the nearest is level in [log]"),
            ("level = 3", "level: unknown option; the nearest is level in [log]"),
            ("databse = 3", "databse: unknown option; the nearest is database"),
            ("[log]\nsocket = 3", "log.socket: unknown option; the nearest is socket at the top of the file, above all sections"),
            ("[limit]\nx = 3", "limit: unknown section; the nearest is [limits]"),
            ('"a\\u001b[31m" = 3', '"a\\u001b[31m": unknown option'),
        ],
        ids=str,
    )  # fmt: skip
    def test_an_unknown_name_gets_the_nearest_valid_one(
        self, problems: Callable[[str], list[str]], text: str, problem: str
    ) -> None:
        assert problems(text)[0].startswith(problem)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("[limits]\nconnections_max = true", "limits.connections_max: true is not a whole number; write 1 to 1000000"),
            ("[limits]\nconnections_max = 1e3", "limits.connections_max: 1000.0 is not a whole number; write 1 to 1000000"),
            ("[limits]\nconnections_max = 0", "limits.connections_max: 0 is out of range; write 1 to 1000000"),
            (f"[limits]\nconnections_max = {'9' * 400}", "limits.connections_max: a huge number is out of range; write 1 to 1000000"),
            ("[limits]\nread_entries_max = [1]", "limits.read_entries_max: a list is not a whole number; write 1 to 1000000"),
            ("[limits]\nreply_bytes_max = 3", "limits.reply_bytes_max: 3 is out of range; write 4KiB to 256MiB"),
            ("[limits]\nreply_bytes_max = -1", "limits.reply_bytes_max: -1 is out of range; write 4KiB to 256MiB"),
            ("[limits.frame_bytes_max]\nx = 3", 'limits.frame_bytes_max: a section is not a size; write a number of bytes or one like "4MiB" (units: B, KiB, MiB, GiB, TiB)'),
            ("log = 3", "log: is a section; write [log] above its options"),
            ('[log]\nformat = "xml"', 'log.format: "xml" is not known; write one of auto, console, json, journal'),
            ('socket = "run/x.sock"', 'socket: "run/x.sock" is not the path of a file; write it in full, from / or from ~/'),
            ('socket = ""', 'socket: "" is not the path of a file; write it in full, from / or from ~/'),
            (f'socket = "/{"x" * 107}"', "socket: the path is longer than 107 bytes; choose a shorter one"),
            ('database = "/var/lib/x/"', 'database: "/var/lib/x/" is not the path of a file; write it in full, from / or from ~/'),
            ("database = 1979-05-27", "database: 1979-05-27 is not a path; write it in quotes"),
            ('socket = "/x"\ndatabase = "/x"', "database: is the socket's path too; give it another"),
            ('[access]\nsocket_mode = "0777"', 'access.socket_mode: "0777" is not the mode of a socket; write "0600", "0660" (the group too) or "0666" (everybody)'),
            ('[access]\nsocket_group = "no-such-group"', 'access.socket_group: there is no group "no-such-group"; create it (groupadd), correct the name, or write "" for none'),
            ("[resume]\nenabled = 1", "resume.enabled: 1 is not known; write true or false"),
            ("[resume]\nper_second = 0", "resume.per_second: 0 is out of range; write 0.001 to 10000"),
            ("[resume]\nper_second = nan", "resume.per_second: nan is out of range; write 0.001 to 10000"),
            ('[resume]\nattach_seconds = "1m"', 'resume.attach_seconds: "1m" is not a number; write 0.1 to 86400'),
            ('[resume]\nenv = "A"', 'resume.env: "A" is not a list; write ["one", "another"]'),
            ("[resume]\nenv = [3]", "resume.env: 3 in the list is not a text; write it in quotes"),
            ('[resume]\nenv = ["A=B"]', 'resume.env: "A=B" is not the name of an environment variable'),
            ("[resume.kinds]\na = 3", "resume.kinds.a: is a section; write its name above its options"),
            ('[resume.kinds."a b"]', 'resume.kinds."a b": is no name; use letters, digits and ._:-'),
            ("[resume.kinds.a]\natempts_max = 3", "resume.kinds.a.atempts_max: unknown option; the nearest is attempts_max"),
            ("[resume.kinds.a]\nattempts_max = 0", "resume.kinds.a.attempts_max: 0 is out of range; write 1 to 1000000"),
            ("[resume]\nkinds = 3", "resume.kinds: 3 is not a section; write one for each name"),
            ("[launchers.a]", "launchers.a: needs either argv (a program) or unit (a template unit)"),
            ('[launchers.a]\nargv = ["/x"]\nunit = "a@.service"', "launchers.a: needs either argv (a program) or unit (a template unit)"),
            ('[launchers.a]\nargv = ["x"]', 'launchers.a.argv: the program is not named in full; write ["/path/to/program", "argument", …]'),
            ("[launchers.a]\nargv = []", 'launchers.a.argv: the program is not named in full; write ["/path/to/program", "argument", …]'),
            ('[launchers.a]\nargv = ["/{agent_id}"]', "launchers.a.argv: the program is the same for every agent; name it without {…}"),
            ('[launchers.a]\nargv = ["/x", "{id}"]', 'launchers.a.argv: "{id}" is not known; write {agent_id} or {attempt}'),
            ('[launchers.a]\nunit = "a.service"', 'launchers.a.unit: "a.service" is not a template unit; write a name like "agent@.service", which the agent\'s id becomes the instance of'),
            ("[launcher.a]\nx = 3", "launcher: unknown section; the nearest is [launchers]"),
            ("[access]\nadmin_group = 0", "access.admin_group: 0 is not the name of a group; write it in quotes"),
        ],
        ids=str,
    )  # fmt: skip
    def test_a_wrong_value_is_named_with_what_to_write(
        self, problems: Callable[[str], list[str]], text: str, problem: str
    ) -> None:
        assert problems(text) == [problem]

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            (
                "connections_max = 5",
                (
                    "limits.connections_per_uid_max: 16384 (the default) is more than "
                    "limits.connections_max, 5; set it to 5 or less, or raise limits.connections_max"
                ),
            ),
            (
                "frame_bytes_max = 50331648",
                (
                    "limits.frame_bytes_max: 50331648 is more than limits.uid_bytes_in_flight_max, "
                    "33554432; set it to 33554432 or less, or raise limits.uid_bytes_in_flight_max"
                ),
            ),
            (
                'uid_bytes_in_flight_max = "1GiB"',
                (
                    "limits.uid_bytes_in_flight_max: 1073741824 is more than "
                    "limits.bytes_in_flight_max, 67108864; set it to 67108864 or less, "
                    "or raise limits.bytes_in_flight_max"
                ),
            ),
        ],
        ids=["connections", "frame", "bytes"],
    )
    def test_options_that_contradict_each_other_are_refused(
        self, problems: Callable[[str], list[str]], text: str, problem: str
    ) -> None:
        assert problems(f"[limits]\n{text}") == [problem]

    def test_a_wrong_value_is_not_reported_again_as_a_contradiction(
        self, problems: Callable[[str], list[str]]
    ) -> None:
        found = problems("[limits]\nconnections_max = 0")
        assert len(found) == 1

    def test_the_home_directory_counts_in_the_length_of_a_path(self, path: Path) -> None:
        path.write_text('socket = "~/journal.sock"')
        with pytest.raises(ConfigError, match="longer than 107 bytes"):
            load(path, environ={"HOME": "/" + "x" * 100})

    @pytest.mark.parametrize(
        ("raw", "problem"),
        [
            (b"[limits]\na = \n", "not TOML: .*at line 2"),
            (b"a = '\xff'", "byte 5 is not UTF-8; save it as UTF-8"),
            (b"a = 1\na = 2", "not TOML: Cannot overwrite a value"),
            (b"a = " + b"9" * 5000, "not TOML: "),
            (b"a = " + b"[" * 100_000, "not TOML: "),
        ],
        ids=["syntax", "bytes", "twice", "digits", "depth"],
    )
    def test_what_is_no_toml_is_refused(self, path: Path, raw: bytes, problem: str) -> None:
        path.write_bytes(raw)
        with pytest.raises(ConfigError, match=problem):
            load(path)


class TestResume:
    def test_a_kind_has_what_all_have_but_for_what_its_table_says(self, path: Path) -> None:
        path.write_text(
            "[resume]\nattempts_max = 7\ntokens_max = 9\n[resume.kinds.report]\nattempts_max = 2\n"
        )
        resume = load(path).resume
        assert resume.of("report").attempts_max == 2
        assert resume.of("report").tokens_max == 9
        assert resume.of("other").attempts_max == resume.of(None).attempts_max == 7

    def test_every_problem_in_tables_is_reported_at_once(
        self, problems: Callable[[str], list[str]]
    ) -> None:
        found = problems(
            '[resume.kinds.a]\nattempts_max = 0\nenabled = 3\n[launchers.b]\nunit = "/"\nusers = 3'
        )
        assert {problem.split(": ")[0] for problem in found} == {
            "resume.kinds.a.attempts_max",
            "resume.kinds.a.enabled",
            "launchers.b.unit",
            "launchers.b.users",
        }

    @pytest.mark.parametrize(
        ("users", "others"),
        [('["*"]', "[]"), ('["anna", "bob"]', "[]"), ('["anna"]', '["bob"]')],
        ids=str,
    )
    def test_a_template_unit_is_of_one_user(
        self, problems: Callable[[str], list[str]], users: str, others: str
    ) -> None:
        """Its instances are named by the agent's id alone, and two users may use one id."""
        found = problems(
            f'[launchers.a]\nunit = "x-agent@.service"\nusers = {users}\n'
            f'[launchers.b]\nunit = "x-agent@.service"\nusers = {others}\n'
        )
        assert found
        assert all("is for agents of one user" in problem for problem in found)

    def test_a_template_unit_may_have_two_launchers_of_one_user(self, path: Path) -> None:
        path.write_text(
            '[launchers.a]\nunit = "x-agent@.service"\nusers = ["anna"]\n'
            '[launchers.b]\nunit = "x-agent@.service"\nusers = ["anna"]\n'
            '[launchers.c]\nunit = "y-agent@.service"\nusers = ["bob"]\n'
        )
        assert {*load(path).launchers} == {"a", "b", "c"}

    @pytest.mark.parametrize(
        ("users", "uid", "is_for"),
        [
            ((), os.geteuid(), True),
            ((), 4_000_000_001, False),
            (("*",), 4_000_000_001, True),
            (("4000000001",), 4_000_000_001, True),
            (("4000000002",), 4_000_000_001, False),
            ((pwd.getpwuid(1).pw_name,), 1, True),
        ],
        ids=str,
    )
    def test_a_launcher_starts_agents_of_those_it_names(
        self, users: tuple[str, ...], uid: int, *, is_for: bool
    ) -> None:
        """Those of the daemon's own user need not be named."""
        assert LauncherOptions(argv=("/x",), users=users).is_for(Uid(uid)) is is_for

    def test_kinds_and_launchers_change_live(self) -> None:
        new = Config(
            resume=Resume(kinds={"a": {"attempts_max": 2}}),
            launchers={"b": LauncherOptions(argv=("/x",))},
        )
        assert changes(Config(), new) == (["resume.kinds", "launchers"], [])
        assert in_force(Config(), new) == new
        assert isinstance(new.resume.of("a"), KindLimits)


class TestPlaces:
    @pytest.mark.parametrize(
        ("environ", "uid", "place"),
        [
            ({"XDG_RUNTIME_DIR": "/run/user/7"}, 7, "/run/user/7/agent-journal/journal.sock"),
            ({"XDG_RUNTIME_DIR": "/run/user/0"}, 0, "/run/user/0/agent-journal/journal.sock"),
            ({}, 0, "/run/agent-journal/journal.sock"),
            ({}, 7, "/tmp/agent-journal-7/journal.sock"),  # noqa: S108
            ({"XDG_RUNTIME_DIR": ""}, 7, "/tmp/agent-journal-7/journal.sock"),  # noqa: S108
            ({"XDG_RUNTIME_DIR": "a"}, 7, "/tmp/agent-journal-7/journal.sock"),  # noqa: S108
        ],
        ids=str,
    )
    def test_the_socket(self, environ: dict[str, str], uid: int, place: str) -> None:
        assert default_socket(environ, uid=uid) == Path(place)

    @pytest.mark.parametrize(
        ("environ", "place"),
        [
            ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "HOME": "/h"}, "/var/lib/a/journal.db"),
            ({"XDG_STATE_HOME": "/s", "HOME": "/h"}, "/s/agent-journal/journal.db"),
            ({"XDG_STATE_HOME": "s", "HOME": "/h"}, "/h/.local/state/agent-journal/journal.db"),
            ({"HOME": "/h"}, "/h/.local/state/agent-journal/journal.db"),
        ],
        ids=str,
    )
    def test_the_database(self, environ: dict[str, str], place: str) -> None:
        assert default_database(environ, uid=7) == Path(place)

    @pytest.mark.parametrize(
        ("environ", "uid", "place"),
        [
            ({"CONFIGURATION_DIRECTORY": "/etc/a", "XDG_CONFIG_HOME": "/c"}, 7, "/etc/a/config.toml"),
            ({"XDG_CONFIG_HOME": "/c"}, 0, "/c/agent-journal/config.toml"),
            ({"HOME": "/root"}, 0, "/etc/agent-journal/config.toml"),
            ({"HOME": "/h"}, 7, "/h/.config/agent-journal/config.toml"),
        ],
        ids=str,
    )  # fmt: skip
    def test_the_config_file(self, environ: dict[str, str], uid: int, place: str) -> None:
        assert default_config_file(environ, uid=uid) == Path(place)

    def test_who_has_no_home_in_the_environment_has_one_in_the_user_database(self) -> None:
        home = Path(pwd.getpwuid(0).pw_dir)
        assert default_database({}, uid=0) == home / ".local/state/agent-journal/journal.db"

    def test_a_uid_that_nobody_entered_still_gets_a_place(self) -> None:
        place = default_database({}, uid=2**31 - 7)
        assert place == Path("/.local/state/agent-journal/journal.db")


class TestChanges:
    def test_live_options_are_told_from_those_that_need_a_restart(self) -> None:
        new = Config(
            socket=Path("/x"),
            limits=Limits(connections_max=20_000),
            access=Access(admin_group=A_GROUP, socket_group=A_GROUP),
        )
        assert changes(Config(), new) == (
            ["limits.connections_max", "access.admin_group"],
            ["socket", "access.socket_group"],
        )
        assert changes(new, new) == ([], [])

    def test_only_these_need_a_restart(self) -> None:
        assert [name for name, option, _ in options(Config()) if not option.live] == [
            "socket",
            "database",
            "access.socket_mode",
            "access.socket_group",
        ]

    def test_what_a_running_daemon_takes_over_is_what_is_live(self) -> None:
        new = Config(
            database=Path("/x"),
            access=Access(admin_group=A_GROUP, socket_mode="0666"),
            log=Log(level="debug"),
        )
        assert in_force(Config(), new) == Config(
            access=Access(admin_group=A_GROUP), log=Log(level="debug")
        )


class TestRetention:
    def test_it_is_off_by_default_and_on_by_any_rule(self) -> None:
        assert not Retention().is_on
        assert Retention(journal_bytes_max=1).is_on
        assert Retention(failed_days=0.5).is_on
        assert Retention(kinds={"k": {"completed_days": 1}}).is_on
        assert not Retention(archive=Path("/archive")).is_on

    def test_a_kind_says_what_is_different(self) -> None:
        options = Retention(completed_days=30, kinds={"k": {"failed_days": 7}})
        kind = options.of("k")
        assert (kind.completed_days, kind.failed_days) == (30, 7)
        assert options.of("other").failed_days == options.of(None).failed_days == 0

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ('[retention]\narchive = "here"', "retention.archive"),
            ('[retention]\narchive = "/"', "retention.archive"),
            ("[retention]\ncompleted_days = -1", "retention.completed_days"),
            ("[retention.kinds.k]\ncompleted_day = 1", "retention.kinds.k.completed_day"),
            ("[retention]\nkinds = 1", "retention.kinds"),
            ('[redaction]\nmode = "on"', "redaction.mode"),
            ('[redaction]\npatterns = ["ok-[0-9]{4}", "(a+)+"]', "redaction.patterns: pattern 2"),
            ('[redaction]\npatterns = ["("]', "redaction.patterns: pattern 1"),
            ('[redaction]\nkeys = ["pass word"]', "redaction.keys"),
        ],
    )
    def test_a_mistake_is_named_by_its_key(self, tmp_path: Path, text: str, problem: str) -> None:
        path = tmp_path / "config.toml"
        path.write_text(text)
        with pytest.raises(ConfigError) as raised:
            load(path)
        assert f"{path}: {problem}" in str(raised.value)

    def test_an_archive_may_be_told_from_the_home_directory(self, tmp_path: Path) -> None:
        path = tmp_path / "config.toml"
        path.write_text('[retention]\narchive = "~/archive/"')
        config = load(path, environ={"HOME": "/home/ada"})
        assert config.retention.archive == Path("/home/ada/archive")
