"""The shipped ``config.toml`` and what the daemon believes its defaults are must agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from agent_journal.service.config import (
    Config,
    default_database,
    default_socket,
    load,
    options,
)
from agent_journal.service.config_resume import KindLimits, LauncherOptions, table_names

CONFIG_FILE = Path(__file__).parents[2] / "config.toml"
TABLES = {
    "resume.kinds",
    "retention.kinds",
    "launchers",
}  # their names are a person's own: shown by example


@pytest.fixture
def uncommented(tmp_path: Path) -> Path:
    """Return the shipped file with every option switched on."""
    path = tmp_path / "config.toml"
    path.write_text(re.sub(r"(?m)^#(?=[a-z_]+ = )", "", CONFIG_FILE.read_text()))
    return path


def test_the_file_as_shipped_changes_nothing() -> None:
    assert load(CONFIG_FILE) == Config()


def test_every_option_is_in_the_file_and_every_option_of_the_file_exists(
    uncommented: Path,
) -> None:
    names = set()
    for key, value in tomllib.loads(uncommented.read_text()).items():
        names |= {f"{key}.{inner}" for inner in value} if isinstance(value, dict) else {key}
    assert names == {name for name, _, _ in options(Config())} - TABLES


def test_the_examples_of_tables_can_be_used_as_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(re.sub(r"(?m)^#(?=\[|  [a-z_]+ = )", "", CONFIG_FILE.read_text()))
    config = load(path)
    assert {*config.resume.kinds["nightly-report"]} == {"attempts_max", "backoff_seconds_initial"}
    assert {**config.retention.kinds["audit"]} == {"completed_days": 0, "is_spared_by_size": True}
    assert config.launchers["report"].argv is not None
    assert config.launchers["coder"] == LauncherOptions(
        unit="coder-agent@.service", users=("anna",)
    )


def test_what_a_table_may_say_is_in_the_file() -> None:
    text = CONFIG_FILE.read_text()
    for name in (*table_names(KindLimits), *table_names(LauncherOptions)):
        assert re.search(rf"\b{name}\b", text.split("[resume]")[1]), name


def test_every_option_of_the_file_is_shown_at_its_default(uncommented: Path) -> None:
    shown = {name: value for name, _, value in options(load(uncommented))}
    defaults = {name: value for name, _, value in options(Config())}
    # These two have no one default: shown is what a service of the system gets.
    defaults["socket"] = default_socket({}, uid=0)
    defaults["database"] = default_database({"STATE_DIRECTORY": "/var/lib/agent-journal"}, uid=0)
    assert shown == defaults


def test_every_option_is_said_to_be_live_or_to_need_a_restart() -> None:
    """The last word of the comment above an option is the one its field's metadata has."""
    said = {}
    section, word = "", ""
    for line in CONFIG_FILE.read_text().splitlines():
        if match := re.fullmatch(r"\[([a-z]+)\]", line):
            section = f"{match[1]}."
        elif match := re.match(r"#\[(resume\.kinds|retention\.kinds|launchers)\.", line):
            said[match[1]] = word
        elif match := re.match(r"#([a-z_]+) = ", line):
            said[section + match[1]] = word
        elif words := re.findall(r"\b(Live|Restart)\b", line):
            word = words[-1]
        elif not line:
            word = ""
    assert said == {
        name: "Live" if option.live else "Restart" for name, option, _ in options(Config())
    }
