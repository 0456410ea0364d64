"""A conversation's socket, which never blocks.

``advance`` does what can be done at once (connect, send, give up what is too
late) and returns what to wait for; ``receive`` takes what has come.  Whoever
waits, by ``poll`` or in an event loop, needs to know no more than that.

Connecting does not block either: a Unix socket is connected at once, or the
daemon's queue of new connections is full.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..clock import Clock
from ..errors import (
    ConnectionLostError,
    ForbiddenError,
    InvalidError,
    JournalError,
    TooManyConnectionsError,
)
from ..value import Value
from ._core import Conversation, DaemonNotRunningError
from ._discovery import SOCKET_VARIABLE, socket_path

if TYPE_CHECKING:
    from ._patience import Watch

# Beyond 128 KiB the C library maps memory for each read anew.
RECEIVE_BYTES: Final = 1 << 16


class Address:
    """Where the daemon is: as given, else found once and kept when somebody answered there."""

    def __init__(self, given: str | os.PathLike[str] | None) -> None:
        self._path = None if given is None else os.fspath(given)

    def connect(self) -> socket.socket:
        """Return a connected socket that does not block.

        Raises:
            JournalError: nobody listens, or may not be reached.
        """
        path = self._path or socket_path()
        try:
            connected = _connected(path)
        except (OSError, ValueError) as error:
            raise _translated(error, path) from error
        self._path = path
        return connected


class Wait(Value):
    """What to wait for: the socket where there is one, and no longer than ``seconds``."""

    fd: int | None
    readable: bool
    writable: bool
    seconds: float | None


class Patience(Value, kw_only=True):
    """For how long the daemon may say nothing at all (``_patience``)."""

    silence_s: float
    start_s: float = 0.0  # while its process is at work


class Settings(Value, kw_only=True):
    """What all connections of one client have in common."""

    address: Address
    timeout_s: float | None
    retry_s: float
    clock: Clock
    patience: Patience | None = None  # None: whoever keeps the connection open is waited for
    on_lost: Callable[[JournalError], None] | None = None  # called once for each outage

    def watch(self) -> Watch | None:
        """Return what tells when somebody has waited for too long; ``None``: nothing does."""
        if self.patience is None:
            return None
        from ._patience import Watch  # noqa: PLC0415 - the command line's

        return Watch(self.patience, self)

    def new_conversation(self) -> Conversation:
        """Return a conversation that nothing was said in yet."""
        return Conversation(retry_s=self.retry_s, timeout_s=self.timeout_s, random=_random_fraction)


class Link:
    """Carries a conversation's bytes."""

    def __init__(
        self,
        conversation: Conversation,
        settings: Settings,
        *,
        before_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._conversation = conversation
        self._address = settings.address
        self._now = settings.clock.monotonic
        self._before_close = before_close
        self._on_lost = settings.on_lost
        self._socket: socket.socket | None = None
        self._outgoing = bytearray()

    def advance(self) -> Wait:
        """Do what can be done without waiting, and return what to wait for."""
        conversation = self._conversation
        now = self._now()
        conversation.expire(now)
        while True:
            if self._socket is not None:
                if self._send(self._socket, now):
                    break
            elif not conversation.needs_connection or conversation.pause_s(now) > 0:
                break
            else:
                try:
                    self._socket = self._address.connect()
                except JournalError as error:
                    self._failed(error)
                else:
                    conversation.connected(now)
        seconds = conversation.wake_s(now)
        if self._socket is None:
            return Wait(None, readable=False, writable=False, seconds=seconds)
        return Wait(
            self._socket.fileno(),
            readable=conversation.wants_data,
            writable=bool(self._outgoing),
            seconds=seconds,
        )

    def receive(self) -> bool:
        """Take what has come; false where nothing had, or the connection is lost."""
        if self._socket is None or not self._conversation.wants_data:
            return False
        try:
            data = self._socket.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionLostError("the daemon closed the connection")
            self._conversation.receive(data, self._now())
        except BlockingIOError:
            return False
        except OSError as error:
            self.lose(_lost(error))
            return False
        except JournalError as error:
            self.lose(error)
            return False
        return True

    def lose(self, error: JournalError) -> None:
        """Give the connection up because of *error*; the conversation goes on over another."""
        self.close()
        self._failed(error)

    def _failed(self, error: JournalError) -> None:
        self._conversation.failed(error, self._now())
        if self._on_lost is not None and self._conversation.is_first_failure:
            self._on_lost(error)

    @property
    def peer_pid(self) -> int | None:
        """The process that listens at the other end, where that can be told."""
        from ._patience import peer_pid  # noqa: PLC0415 - only where nothing is heard

        return None if self._socket is None else peer_pid(self._socket)

    def wake(self) -> None:
        """Make whoever waits for the socket look again; for another thread."""
        if (connected := self._socket) is not None:
            try:
                connected.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it was closed just now: nobody waits

    def close(self) -> None:
        """Close the socket, and nothing else."""
        if self._socket is not None:
            self._before_close()
            self._socket.close()
            self._socket = None
        # A new one: in a forked child the old one may be held for ever by a
        # thread that was within a send and is not there any more.
        self._outgoing = bytearray()

    def _send(self, connected: socket.socket, now: float) -> bool:
        """Send as much as the socket takes; false where the connection was lost."""
        outgoing = self._outgoing
        is_untouched = False
        try:
            while True:
                if not outgoing:
                    outgoing += self._conversation.bytes_to_send(now)
                    is_untouched = True
                    if not outgoing:
                        return True
                # A program may have set SIGPIPE back to what kills it.
                sent = connected.send(outgoing, socket.MSG_NOSIGNAL)
                is_untouched = False
                del outgoing[:sent]
        except BlockingIOError:
            return True
        except OSError as error:
            if is_untouched:
                self._conversation.take_back()
            # What the daemon said before it hung up tells more than the error.
            while self.receive():
                pass
            if self._socket is not None:
                self.lose(_lost(error))
            return False


def _random_fraction() -> float:
    # The module random takes longer to import than the whole client.
    return int.from_bytes(os.urandom(4), "little") / 2**32


def _connected(path: str) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.setblocking(False)  # noqa: FBT003 - the socket's own interface
        connected.connect(path)
    except BaseException:
        connected.close()
        raise
    return connected


def _lost(error: OSError) -> JournalError:
    lost = ConnectionLostError(f"the connection was lost ({error.strerror or error})")
    lost.__cause__ = error
    return lost


def _translated(error: OSError | ValueError, path: str) -> JournalError:
    match error:
        case FileNotFoundError() | ConnectionRefusedError() | NotADirectoryError():
            return DaemonNotRunningError(
                f"no journal daemon listens at {path}; start one with 'agent-journald' or "
                f"'systemctl --user start agent-journald.socket', "
                f"or name another socket in ${SOCKET_VARIABLE}",
                socket=path,
            )
        case PermissionError():
            return ForbiddenError(
                f"you may not connect to {path} ({error.strerror}); "
                "the socket's group tells who may: 'ls -l' it"
            )
        case BlockingIOError():
            return TooManyConnectionsError(
                f"the queue of new connections at {path} is full: the daemon is busy or stopped"
            )
        case OSError(errno=int()):
            return ConnectionLostError(f"cannot connect to {path}: {error.strerror}")
        case _:  # too long for a socket's address, or no path at all
            return InvalidError(f"{path!r} cannot be a socket's path: {error}", field="socket")
