"""Runs the daemon: ``agent-journald``, or ``python -m agent_journal``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import uvloop

from . import __version__
from .errors import ConfigError, JournalError
from .service import config as configuration
from .service import logs
from .service.app import App
from .service.places import AlreadyRunningError, is_passing

EXIT_IO = 74  # EX_IOERR
EXIT_TEMPORARY = 75  # EX_TEMPFAIL: the lock is held
EXIT_CONFIG = 78  # EX_CONFIG: no restart will help

_EPILOG = """\
examples:
  agent-journald                                  your own journal, in the foreground
  agent-journald --socket ./j.sock --database ./j.db
  agent-journald --config /etc/agent-journal/config.toml

stop it with Ctrl-C or SIGTERM: what is queued is answered first.
SIGHUP, or a change of the file, reloads the configuration.

exit codes:
  0 stopped   74 the disk failed   75 another daemon holds the journal
  78 the configuration is not usable
"""


def main() -> int:
    """Run the daemon until it is told to stop; return the exit code."""
    arguments = parser().parse_args()
    try:
        config = configuration.load(arguments.config)
        logs.configure(config.log)
        uid = os.geteuid()
        environ = os.environ
        app = App(
            config,
            arguments.config or configuration.default_config_file(environ, uid=uid),
            socket_path=arguments.socket
            or config.socket
            or configuration.default_socket(environ, uid=uid),
            database=arguments.database
            or config.database
            or configuration.default_database(environ, uid=uid),
        )
        return uvloop.run(app.run())
    except ConfigError as error:
        # A file on a disk that fails just now is no reason never to start again.
        return _fail(error, EXIT_IO if is_passing(error.__cause__) else EXIT_CONFIG)
    except AlreadyRunningError as error:
        return _fail(error, EXIT_TEMPORARY)
    except JournalError as error:
        return _fail(error, EXIT_IO)


def _fail(error: Exception, code: int) -> int:
    for line in str(error).splitlines():
        print(f"agent-journald: {line}", file=sys.stderr)  # noqa: T201 - before there is a log
    return code


def parser() -> argparse.ArgumentParser:
    """Return what the command line may hold."""
    own = argparse.ArgumentParser(
        prog="agent-journald",
        description="The durable journal of this host's AI agents, on a Unix socket.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own.add_argument("--socket", type=_path, metavar="PATH", help="where to listen")
    own.add_argument("--database", type=_path, metavar="PATH", help="where the journal is kept")
    own.add_argument("--config", type=_path, metavar="FILE", help="the configuration (TOML)")
    own.add_argument("--version", action="version", version=f"agent-journald {__version__}")
    return own


def _path(text: str) -> Path:
    return Path(text).absolute()


if __name__ == "__main__":
    sys.exit(main())
