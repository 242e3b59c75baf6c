"""A small balancer on loopback, whose view of the endpoints is somebody else's.

    tcp    accepts, then connects to an endpoint and carries bytes, as kube-proxy's rules or a
           network load balancer do; where that fails, the client's connection is reset
    http   reads requests and hands them on over a connection each, as an ingress does; it answers
           502 where a pod fails and 503 where there is none
    nat    as tcp, but that an idle connection's end is not carried on: the client hears of it by
           the reset that its next request meets, as with network load balancers

It tries no second endpoint: what it was told is what it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final

Address = tuple[str, int]

MODES: Final = ("tcp", "http", "nat")
_CONNECT_SECONDS: Final = 2.0
_ANSWER_SECONDS: Final = 60.0
_MOST_HEAD: Final = 65536
_RESET: Final = struct.pack("ii", 1, 0)


class Balancer:
    """The balancer; it serves in the loop that starts it.

    Args:
        endpoints: gives the endpoints of this moment.
        mode: `tcp`, `http` or `nat`.
    """

    def __init__(self, endpoints: Callable[[], Sequence[Address]], mode: str = "tcp") -> None:
        self._endpoints = endpoints
        self._mode = mode
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.BaseTransport] = set()

    async def start(self) -> Address:
        """Listen; gives where."""
        loop = asyncio.get_running_loop()
        if self._mode != "http":
            forgets = self._mode == "nat"
            self._server = await loop.create_server(
                lambda: _Client(self._pick, self._open, forgets), "127.0.0.1", 0, backlog=1024
            )
        else:
            self._server = await asyncio.start_server(
                self._serve, "127.0.0.1", 0, backlog=1024, limit=_MOST_HEAD
            )
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        for each in list(self._open):
            each.close()
        await asyncio.sleep(0)

    def _pick(self) -> Address | None:
        found = self._endpoints()
        return random.choice(found) if found else None  # noqa: S311 - as kube-proxy spreads

    # --- http ------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer.transport)
        try:
            while (request := await _message(reader)) is not None:
                writer.write(await self._forward(request))
                await writer.drain()
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client has gone, or speaks no HTTP
        finally:
            self._open.discard(writer.transport)
            writer.close()

    async def _forward(self, request: bytes) -> bytes:
        address = self._pick()
        if address is None:
            return _made(503, "Service Unavailable")
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                reader, writer = await asyncio.open_connection(*address)
                try:
                    writer.write(_closing(request))
                    found = await _message(reader)
                finally:
                    writer.close()
        except TimeoutError:
            return _made(504, "Gateway Timeout")
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return _made(502, "Bad Gateway")
        return _made(502, "Bad Gateway") if found is None else _keeping(found)


async def _message(reader: asyncio.StreamReader) -> bytes | None:
    """Read a request or an answer with a Content-Length; none at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head + await reader.readexactly(length)


def _with_connection(message: bytes, value: bytes) -> bytes:
    head, _, body = message.partition(b"\r\n\r\n")
    lines = [each for each in head.split(b"\r\n") if not each.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines, b"Connection: " + value]) + b"\r\n\r\n" + body


def _closing(message: bytes) -> bytes:
    return _with_connection(message, b"close")


def _keeping(message: bytes) -> bytes:
    return _with_connection(message, b"keep-alive")


def _made(status: int, reason: str) -> bytes:
    return f"HTTP/1.1 {status} {reason}\r\nContent-Length: 0\r\n\r\n".encode()


# --- tcp -----------------------------------------------------------------------------------------


class _Half(asyncio.Protocol):
    """One end of a carried connection: what it hears goes to its peer, its end too, as it came."""

    def __init__(self, open_ones: set[asyncio.BaseTransport]) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: _Half | None = None
        self._open = open_ones
        self._early: list[bytes] = []
        self.idle = False
        self.forgets = False
        self.forgotten = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream's
        self._open.add(transport)

    def data_received(self, data: bytes) -> None:
        if self.forgotten:
            self.reset()
        elif self.peer is None or self.peer.transport is None:
            self._early.append(data)
        else:
            self.peer.idle, self.idle = False, True
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        if self.peer is not None and self.peer.transport is not None:
            self._end_peer(self.peer, self.peer.transport)
        return False

    def _end_peer(self, peer: _Half, transport: asyncio.Transport) -> None:
        # Whoever spoke last waits for nothing: an upstream that did has answered all that it got.
        if peer.forgets and self.idle:
            peer.forgotten = True
        else:
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.transport is not None:
            self._open.discard(self.transport)
        if self.peer is None or self.peer.transport is None:
            return
        if exc is None or (self.peer.forgets and self.idle):
            self._end_peer(self.peer, self.peer.transport)
        else:
            self.peer.reset()

    def reset(self) -> None:
        """End the connection by a reset, not by an orderly end."""
        if self.transport is None or self.transport.is_closing():
            return
        raw = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def meet(self, peer: _Half) -> None:
        """Carry on to a peer, beginning with what has been heard already."""
        self.peer = peer
        if peer.transport is not None and self._early:
            peer.transport.write(b"".join(self._early))
            self._early.clear()


class _Client(_Half):
    """The client's end: it looks for an endpoint as soon as it is there."""

    def __init__(
        self,
        pick: Callable[[], Address | None],
        open_ones: set[asyncio.BaseTransport],
        forgets: bool,  # noqa: FBT001 - made in one place
    ) -> None:
        super().__init__(open_ones)
        self.forgets = forgets
        self._pick = pick
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        address = self._pick()
        upstream = _Half(self._open)
        try:
            if address is None:
                raise ConnectionRefusedError
            async with asyncio.timeout(_CONNECT_SECONDS):
                await asyncio.get_running_loop().create_connection(lambda: upstream, *address)
        except OSError:
            self.reset()
            return
        upstream.meet(self)
        self.meet(upstream)
        if self.transport is None or self.transport.is_closing():
            upstream.reset()
