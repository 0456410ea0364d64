"""A config file that changes is noticed however it changes, and reloaded safely."""

# ruff: noqa: ASYNC240 - changing files is what these tests are about

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from agent_journal.service.config import Config, Log, load
from agent_journal.service.config_watch import ConfigReloader, file_state, watch


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


class FakeNotifier:
    """Keeps what systemd would have been told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def reloading(self) -> None:
        self.told.append("reloading")

    def ready(self, status: str) -> None:
        self.told.append(status)


class Reloading:
    """A reloader with everything it talks to."""

    def __init__(self, path: Path, *, apply: Callable[[Config], object] | None = None) -> None:
        self.applied: list[Config] = []
        self.notifier = FakeNotifier()
        self.capture = LogCapture()
        log: Any = structlog.wrap_logger(None, processors=[self.capture])
        self.reloader = ConfigReloader(
            path,
            current=load(path) if path.exists() else Config(),
            apply=apply or self.applied.append,
            log=log,
            notify=self.notifier,
        )

    @property
    def logged(self) -> list[dict[str, Any]]:
        return [
            {name: value for name, value in line.items() if name != "path"}
            for line in map(dict, self.capture.entries)
        ]


class TestReloading:
    def test_a_live_change_is_applied_and_reported(self, path: Path) -> None:
        path.write_text("")
        it = Reloading(path)
        path.write_text('[log]\nlevel = "debug"')
        assert it.reloader.reload("SIGHUP")
        assert it.applied == [Config(log=Log(level="debug"))] == [it.reloader.current]
        assert it.notifier.told == ["reloading", "config reloaded"]
        assert it.logged == [
            {
                "event": "config_reloaded",
                "log_level": "info",
                "reason": "SIGHUP",
                "live": ["log.level"],
                "needs_restart": [],
            }
        ]

    def test_what_needs_a_restart_is_reported_until_there_is_one(self, path: Path) -> None:
        path.write_text("")
        it = Reloading(path)
        path.write_text('[access]\nsocket_mode = "0666"')
        for _ in range(2):
            assert it.reloader.reload("file")
        assert it.applied == []
        assert it.reloader.current == Config()
        assert it.notifier.told[-1] == "config reloaded; waits for a restart: access.socket_mode"
        assert [line["needs_restart"] for line in it.logged] == [["access.socket_mode"]] * 2
        assert {line["log_level"] for line in it.logged} == {"warning"}

    def test_a_bad_file_leaves_the_former_settings_in_force_and_says_so(self, path: Path) -> None:
        path.write_text('[log]\nlevel = "debug"')
        it = Reloading(path)
        path.write_text('[log]\nlevel = "loud"\nformt = 3')
        assert not it.reloader.reload("file")
        assert it.applied == []
        assert it.reloader.current.log.level == "debug"
        assert it.reloader.problem == it.notifier.told[-1]
        assert it.reloader.problem.startswith(
            "config rejected, the former settings stay in force: log.level: "
        )
        assert it.logged[0] == {
            "event": "config_rejected",
            "log_level": "error",
            "reason": "file",
            "problems": 2,
        }
        assert [line["problem"].split(":")[0] for line in it.logged[1:]] == [
            "log.level",
            "log.formt",
        ]
        path.write_text('[log]\nlevel = "error"')
        assert it.reloader.reload("file")
        assert it.reloader.problem == ""
        assert it.applied == [Config(log=Log(level="error"))]

    def test_a_file_that_disappears_does_not_bring_the_defaults_back(self, path: Path) -> None:
        path.write_text('[log]\nlevel = "debug"')
        it = Reloading(path)
        path.unlink()
        assert not it.reloader.reload("file")
        assert it.reloader.current.log.level == "debug"

    def test_where_there_never_was_a_file_a_reload_changes_nothing(self, path: Path) -> None:
        it = Reloading(path)
        assert it.reloader.reload("SIGHUP")
        assert it.applied == []
        assert it.notifier.told == ["reloading", "config reloaded"]

    def test_a_file_that_appears_is_loaded(self, path: Path) -> None:
        it = Reloading(path)
        path.write_text('[log]\nlevel = "debug"')
        assert it.reloader.reload("file")
        assert it.applied == [Config(log=Log(level="debug"))]

    def test_a_change_that_was_loaded_already_is_not_loaded_again(self, path: Path) -> None:
        """Whoever saves the file and says ``systemctl reload`` gets one report."""
        it = Reloading(path)
        path.write_text('[log]\nlevel = "debug"')
        it.reloader.reload("SIGHUP")
        it.reloader.on_change()
        assert [line["reason"] for line in it.logged] == ["SIGHUP"]
        path.write_text('[log]\nlevel = "error"')
        it.reloader.on_change()
        assert [line["reason"] for line in it.logged] == ["SIGHUP", "file"]

    def test_systemd_hears_the_end_of_a_reload_that_fails_in_an_unforeseen_way(
        self, path: Path
    ) -> None:
        def broken(config: Config) -> None:
            raise RuntimeError("a bug")

        it = Reloading(path, apply=broken)
        path.write_text('[log]\nlevel = "debug"')
        with pytest.raises(RuntimeError):
            it.reloader.reload("file")
        assert it.notifier.told[0] == "reloading"
        assert len(it.notifier.told) == 2


class Watching:
    """Counts calls of ``on_change``, so that a test can wait for the next one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changed = asyncio.Event()

    def on_change(self) -> None:
        self._changed.set()

    async def changed(self) -> None:
        await self._changed.wait()
        self._changed.clear()


@asynccontextmanager
async def watching(path: Path, **options: Any) -> AsyncGenerator[Watching, None]:
    """Watch a file; only events can be in time, unless ``look_ms`` says otherwise."""
    it = Watching(path)
    stop = asyncio.Event()
    options = {"since": file_state(path), "look_ms": 60_000, **options}
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        tasks.create_task(watch(path, on_change=it.on_change, stop=stop, **options))
        try:
            yield it
        finally:
            stop.set()


class TestWatching:
    async def test_a_file_written_in_place_is_seen(self, path: Path) -> None:
        path.write_text("a = 1")
        async with watching(path) as it:
            path.write_text("a = 22")
            await it.changed()

    async def test_a_file_put_in_place_of_another_is_seen_again_and_again(self, path: Path) -> None:
        path.write_text("a = 1")
        async with watching(path) as it:
            for turn in range(3):
                beside = path.with_suffix(".new")
                beside.write_text(f"a = {turn}")
                beside.rename(path)
                await it.changed()

    async def test_a_file_that_appears_and_disappears_is_seen(self, path: Path) -> None:
        async with watching(path) as it:
            path.write_text("a = 1")
            await it.changed()
            path.unlink()
            await it.changed()

    async def test_the_directory_may_appear_later_vanish_and_come_back(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "a" / "b" / "config.toml"
        async with watching(path) as it:
            for _ in range(2):
                path.parent.mkdir(parents=True)
                path.write_text("a = 1")
                await it.changed()
                shutil.rmtree(tmp_path / "a")
                await it.changed()

    async def test_a_directory_replaced_by_another_is_followed(self, tmp_path: Path) -> None:
        path = tmp_path / "a" / "config.toml"
        path.parent.mkdir()
        path.write_text("a = 1")
        async with watching(path) as it:
            path.parent.rename(tmp_path / "former")
            await it.changed()
            path.parent.mkdir()
            path.write_text("a = 2")
            await it.changed()
            path.write_text("a = 33")
            await it.changed()

    async def test_the_target_of_a_symbolic_link_elsewhere_is_followed(
        self, tmp_path: Path
    ) -> None:
        target = tmp_path / "elsewhere" / "real.toml"
        target.parent.mkdir()
        target.write_text("a = 1")
        path = tmp_path / "here" / "config.toml"
        path.parent.mkdir()
        path.symlink_to(target)
        async with watching(path, look_ms=50) as it:
            target.write_text("a = 22")
            await it.changed()

    async def test_a_change_between_loading_and_watching_is_not_missed(self, path: Path) -> None:
        path.write_text("a = 1")
        loaded = file_state(path)
        path.write_text("a = 22")
        async with watching(path, since=loaded) as it:
            await it.changed()

    async def test_a_neighbour_in_the_directory_changes_nothing(self, path: Path) -> None:
        path.write_text("a = 1")
        calls: list[str] = []
        stop = asyncio.Event()

        async def make_noise() -> None:
            async with watching(path.with_name("other.toml")) as other:
                for turn in range(3):
                    other.path.write_text("x" * turn)
                    await other.changed()
            stop.set()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch(path, on_change=lambda: calls.append("call"), stop=stop))
            tasks.create_task(make_noise())
        assert calls == []

    async def test_beside_the_journal_the_file_is_looked_at_now_and_then(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its directory is not watched: each write of a commit would be an event."""

        def watched(*args: object, **kwargs: object) -> None:
            raise AssertionError("the journal's directory is watched")

        other_name = tmp_path.parent / "other name"
        other_name.symlink_to(tmp_path)
        path.write_text("")
        monkeypatch.setattr("agent_journal.service.config_watch.watchfiles.awatch", watched)
        monkeypatch.setattr("agent_journal.service.config_watch.BUSY_LOOK_MS", 10)
        async with watching(path, journal=other_name / "journal.db") as it:
            path.write_text("# changed")
            await it.changed()

    async def test_without_inotify_the_file_is_looked_at_now_and_then(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def exhausted(*args: object, **kwargs: object) -> None:
            raise OSError(28, "OS file watch limit reached.")

        monkeypatch.setattr("watchfiles.main.RustNotify", exhausted)
        path.write_text("a = 1")
        async with watching(path, look_ms=20) as it:
            path.write_text("a = 22")
            await it.changed()

    async def test_a_reload_follows_a_saved_file(self, path: Path) -> None:
        path.write_text("")
        it = Reloading(path)
        stop = asyncio.Event()

        def reload() -> None:
            it.reloader.on_change()
            if it.applied:
                stop.set()

        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            tasks.create_task(watch(path, on_change=reload, stop=stop, since=it.reloader.loaded))
            path.write_text('[log]\nlevel = "debug"')
        assert it.applied[-1] == Config(log=Log(level="debug"))
