"""Connections between simulated clients and a simulated daemon, as the kernel makes them.

Bytes come in pieces of any size, later, and in order.  What a client does not read
stays in a buffer of the kernel's, and when that is full in the daemon's.  A client
that closes, or is killed, leaves behind what it had sent; a daemon that is killed
leaves behind what the kernel had taken.

The daemon's own ``Connection`` and ``Server`` stand on the transports here, so that
what is between a socket and a session is run as well.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from agent_journal.testing.virtual_loop import VirtualLoop, VirtualProcess, this_process

if TYPE_CHECKING:
    from agent_journal.service.server import Connection

LATENCY_SECONDS: Final = 0.0004
KERNEL_BYTES: Final = (4_096, 32_768, 212_992)  # what the kernel holds for who does not read


class FakeSocket:
    """What the daemon asks of a socket: who is there."""

    def __init__(self, uid: int, pid: int) -> None:
        self._credentials = struct.pack("iII", pid, uid, uid)
        self.is_closed = False  # by the client

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        """Answer as the kernel does; there are no further groups."""
        assert level == socket.SOL_SOCKET
        return self._credentials if option == socket.SO_PEERCRED else b""

    def fileno(self) -> FakeSocket:
        """Return what stands for it with the kernel."""
        return self


class Listener:
    """The socket that clients connect to; it outlives daemons."""

    def __init__(self, loop: VirtualLoop, chance: random.Random) -> None:
        self.connections: list[Transport] = []
        self._loop = loop
        self._chance = chance
        self._accept: Callable[[], Any] | None = None
        self._process: VirtualProcess | None = None

    def getsockname(self) -> str:
        """Return where it is."""
        return "/run/journal.sock"

    def listen(self, accept: Callable[[], Any]) -> FakeServer:
        """Have the daemon that runs now accept clients."""
        self._accept, self._process = accept, this_process()
        return FakeServer(self)

    def close(self) -> None:
        """Accept nobody."""
        self._accept = self._process = None

    def connect(self, client: ClientEnd, uid: int, pid: int) -> Transport | None:
        """Connect *client*; ``None``: nobody listens."""
        process = self._process
        if process is None or process.is_dead:
            return None
        transport = Transport(self._loop, self._chance, process, client, FakeSocket(uid, pid))
        self.connections.append(transport)
        delay = self._chance.random() * LATENCY_SECONDS
        self._loop.inside(process, delay, self._accepted, transport)
        return transport

    def _accepted(self, transport: Transport) -> None:
        if self._accept is None:
            transport.abort()
        else:
            transport.begin(self._accept())

    def drop_all(self) -> None:
        """End the connections of a daemon that is no more."""
        self.close()
        for transport in self.connections:
            transport.die()
        self.connections.clear()


class FakeServer:
    """What ``create_unix_server`` gives."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def close(self) -> None:
        """Accept nobody any more."""
        self._listener.close()


class Transport:
    """The daemon's end of a connection."""

    def __init__(
        self,
        loop: VirtualLoop,
        chance: random.Random,
        process: VirtualProcess,
        client: ClientEnd,
        fake_socket: FakeSocket,
    ) -> None:
        self.process = process
        self._loop = loop
        self._chance = chance
        self._client = client
        self._socket = fake_socket
        self._protocol: Connection | None = None
        self._received = bytearray()  # by the kernel, for the daemon
        self._has_ended = False  # the client sends nothing more
        self._is_reset = False  # and reads nothing more
        self._is_paused = False
        self._is_read_soon = False
        self._unsent = bytearray()  # what the kernel does not take
        self._high = 65_536
        self._is_full = False
        self._is_closing = False
        self._is_lost = False

    # The kernel's side

    def begin(self, protocol: Connection) -> None:
        """Give the connection to the daemon."""
        self._protocol = protocol
        protocol.connection_made(cast("asyncio.Transport", self))
        self._read_soon()

    def arrive(self, data: bytes) -> None:
        """Take what the client sent."""
        if not self._is_lost:
            self._received += data
            self._read_soon()

    def end(self) -> None:
        """Take note that the client sends nothing more."""
        self._has_ended = True
        self._read_soon()

    def reset(self) -> None:
        """Take note that the client has closed its end: who writes to it fails."""
        self._is_reset = self._has_ended = self._socket.is_closed = True
        if self._unsent:
            self._lose(BrokenPipeError())
        self._read_soon()

    def _read_soon(self) -> None:
        if (
            self._protocol is not None
            and not (self._is_read_soon or self._is_paused or self._is_closing)
            and (self._received or self._has_ended)
        ):
            self._is_read_soon = True
            delay = self._chance.random() * LATENCY_SECONDS / 4
            self._loop.inside(self.process, delay, self._read)

    def _read(self) -> None:
        self._is_read_soon = False
        protocol = self._protocol
        if self._is_paused or self._is_closing or protocol is None:
            return
        if self._received:
            buffer = protocol.get_buffer(-1)
            most = min(len(self._received), len(buffer))
            size = most if self._chance.random() < 0.7 else self._chance.randrange(most) + 1
            buffer[:size] = self._received[:size]
            del self._received[:size]
            protocol.buffer_updated(size)
            self._read_soon()
        elif self._has_ended:
            self._has_ended = False
            if not protocol.eof_received():
                self.close()

    def has_room(self) -> None:
        """Give the client more: it has read."""
        if self._unsent and not self._is_lost:
            self._flush()

    def _flush(self) -> None:
        taken = self._client.deliver(bytes(self._unsent))
        del self._unsent[:taken]
        if self._is_full and len(self._unsent) <= self._high // 4:
            self._is_full = False
            assert self._protocol is not None
            self._protocol.resume_writing()
        if self._is_closing and not self._unsent:
            self._lose(None)

    def die(self) -> None:
        """End with the daemon; what the kernel has is still delivered."""
        self._is_lost = self._is_closing = True
        self._unsent.clear()
        self._client.lost()

    def _lose(self, error: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_lost = self._is_closing = True
        self._unsent.clear()
        self._loop.call_soon(self._lost, error, context=self.process.context)

    def _lost(self, error: Exception | None) -> None:
        self._client.lost()
        if self._protocol is not None:
            self._protocol.connection_lost(error)

    # The daemon's side: a transport of asyncio's

    def get_extra_info(self, name: str) -> FakeSocket:
        assert name == "socket"
        return self._socket

    def set_write_buffer_limits(self, *, high: int) -> None:
        self._high = high

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def is_closing(self) -> bool:
        return self._is_closing

    def write(self, data: bytes) -> None:
        assert not self._is_closing or self._protocol is None or self.process.is_dead
        if self._is_lost or self.process.is_dead:
            return
        if self._is_reset:
            self._lose(BrokenPipeError())
            return
        was_empty = not self._unsent
        self._unsent += data
        if was_empty:
            taken = self._client.deliver(bytes(self._unsent))
            del self._unsent[:taken]
        if len(self._unsent) > self._high and not self._is_full:
            self._is_full = True
            assert self._protocol is not None
            self._protocol.pause_writing()

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False
        self._read_soon()

    def close(self) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        if not self._unsent:
            self._lose(None)

    def abort(self) -> None:
        self._lose(None)


class ClientEnd:
    """A client's end of a connection; whoever has it overrides ``take`` and ``gone``."""

    def __init__(self, loop: VirtualLoop, chance: random.Random, listener: Listener) -> None:
        self.is_open = False
        self.has_ended = False  # it can send nothing more
        self._loop = loop
        self._chance = chance
        self._listener = listener
        self._transport: Transport | None = None
        self._is_stalled = False
        self._in_kernel: list[bytes] = []
        self._kernel_bytes = 0
        self._kernel_bytes_max = chance.choice(KERNEL_BYTES)
        self._arrives_at = 0.0  # the last piece that was sent
        self._is_take_soon = False
        self._is_ended = False  # the daemon sends nothing more

    def connect(self, uid: int, pid: int) -> bool:
        """Connect; False: nobody listens."""
        self._transport = self._listener.connect(self, uid, pid)
        self.is_open = self._transport is not None
        return self.is_open

    def take(self, data: bytes) -> None:
        """Take what the daemon sent."""
        raise NotImplementedError

    def gone(self) -> None:
        """Take note that the connection has ended."""
        raise NotImplementedError

    # What the client does

    def send(self, data: bytes) -> None:
        """Send *data*, in pieces of any size."""
        assert not self.has_ended, "sent behind the end"
        chance = self._chance
        start = 0
        while start < len(data):
            if chance.random() < 0.75:
                end = len(data)
            else:
                end = start + 1 + chance.randrange(len(data) - start)
            self._later("arrive", data[start:end])
            start = end

    def end(self) -> None:
        """Send nothing more, and go on reading."""
        self.has_ended = True
        self._later("end")

    def close(self) -> None:
        """Close this end, as the kernel does when its process ends."""
        if self.is_open:
            self.is_open = False
            self._later("reset")

    def _later(self, what: str, *args: object) -> None:
        transport = self._transport
        assert transport is not None
        now, chance = self._loop.now, self._chance
        delay = chance.random() * LATENCY_SECONDS * (20 if chance.random() < 0.05 else 1)
        self._arrives_at = max(self._arrives_at, now + delay) + 1e-9
        act = getattr(transport, what)
        self._loop.inside(transport.process, self._arrives_at - now, act, *args)

    def stall(self, seconds: float) -> None:
        """Read nothing for a while."""
        self._is_stalled = True
        self._loop.outside(seconds, self._wake)

    def _wake(self) -> None:
        self._is_stalled = False
        self._take_soon()

    # What the kernel does

    def deliver(self, data: bytes) -> int:
        """Take as much of *data* as there is room for, on its way to the client."""
        size = min(len(data), self._kernel_bytes_max - self._kernel_bytes)
        if size and self.is_open:
            self._in_kernel.append(data[:size])
            self._kernel_bytes += size
            self._take_soon()
        return size

    def lost(self) -> None:
        """Take note that the daemon's end is closed."""
        self._is_ended = True
        self._take_soon()

    def _take_soon(self) -> None:
        if not self._is_take_soon and not self._is_stalled:
            self._is_take_soon = True
            self._loop.outside(self._chance.random() * LATENCY_SECONDS, self._take)

    def _take(self) -> None:
        self._is_take_soon = False
        if self._is_stalled or not self.is_open:
            return
        pieces, self._in_kernel, self._kernel_bytes = self._in_kernel, [], 0
        if pieces:
            self.take(b"".join(pieces))
        transport = self._transport
        if self._is_ended:
            self.is_open = False
            self.gone()
        elif pieces and transport is not None:
            self._loop.inside(transport.process, LATENCY_SECONDS / 4, transport.has_room)
