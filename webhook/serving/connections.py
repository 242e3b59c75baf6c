"""Connections: how many, how long they may keep us waiting, and how they end.

What the application answers is not known here. A stranger who reaches the port can open
connections, finish no handshake, send heads without end, put request behind request, and never
read an answer. Each of these has a bound, and whoever runs into it is cut off, so that memory,
file descriptors and patience last for the others.

A connection that is idle costs its client dearly when it goes at the wrong time: Go's client, which
the API server is, sends a POST once only, and loses it where the connection closes under it. So an
idle connection is its client's to close, or it is closed last, and never with a request in it.

HTTP itself is uvicorn's. What is assumed of its inside (0.54.0; each has a test in
tests/serving/test_connections.py, and an update that breaks one fails there):

1. `HttpToolsProtocol(config, server_state, app_state)` is an `asyncio.Protocol` that any transport
   may drive. It feeds `self.parser`, an `httptools.HttpRequestParser`, with all that arrives, whose
   callbacks are its methods, and lets go of it when the connection is lost.
2. `self.url` and `self.headers` are what the parser has found in the head under way.
3. `on_response_complete` is called once an answer is written, whatever its status.
4. A second request that comes before the first is answered waits in `self.pipeline`, as a pair
   whose first part holds us by its `on_response`.
5. `shutdown` closes an idle connection, and a busy one after its answer.
6. `app_state` is copied into each scope's `state`.
7. An error in parsing, our own in a callback too, is answered with 400, and ends the connection.
8. `ServerState.tasks` are the requests under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import resource
import select
import socket
import ssl
import struct
import termios
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

log = logging.getLogger("webhook")

SCOPE: Final = "seamless.connection"
"""Where the `state` of a request's scope holds its `Connection`."""
REASONS: Final = ("accept", "handshake", "head", "pipeline", "room", "unread")
"""Why a connection is cut off."""
LARGE_ANSWER_BYTES: Final = 64 * 2**10
"""More than this, in one answer or several, is not left unread for long."""
# The API server's client keeps idle connections for 90 s: it must be the one to close them.
KEEP_ALIVE_SECONDS: Final = 120
_BATCH: Final = 64  # connections accepted in one turn of the event loop
_NO_ROOM_SECONDS: Final = 0.1
_LOOK_SECONDS: Final = 1.0
_STEP_SECONDS: Final = 0.02
_FINISH_SECONDS: Final = 10.0  # for answers under way, once told to stop
# File descriptors that are for connections of neither port: files, the API server.
_RESERVED: Final = 64
_MOST_HEADERS: Final = 100
_MOST_AHEAD: Final = 2  # requests that are not answered yet, the one being answered included
# What is parsed at once, so that a head is known to be too long before it is taken.
_PIECE_BYTES: Final = 16 * 2**10


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the connections of one port may take.

    Args:
        most: how many there may be; a new one then takes the place of the least useful.
        share: of the file descriptors that there are for connections. The ports of one process
            have 1 together.
        handshake_seconds: how long TLS may take to be agreed on, and to be ended.
        head_seconds: how long the head of a request may take, the first one after the handshake
            included.
        head_bytes: how large it may be.
        unread_seconds: how long a client may leave a large answer, or many, unread.
        unread_bytes: how much of these all clients together may leave unread.
    """

    most: int = 256
    share: float = 1.0
    handshake_seconds: float = 5.0
    head_seconds: float = 10.0
    head_bytes: int = 64 * 2**10
    unread_seconds: float = 5.0
    unread_bytes: int = 8 * 2**20

    def within(self, descriptors: int) -> int:
        """Give how many connections there may be where so many files may be open.

        Accepting with none left would fail, and fail again at once, for as long as that lasts.
        """
        return max(1, min(self.most, int((descriptors - _RESERVED) * self.share)))


class Connections:
    """All connections of one port, from the moment they are accepted.

    Args:
        bounds: what they may take.
        cut: told the reason of each that is cut off, one of `REASONS`.
    """

    def __init__(self, bounds: Bounds, cut: Callable[[str], None]) -> None:
        self.bounds = bounds
        self.cut = cut
        self._open: dict[Connection, None] = {}  # the oldest first
        self._unread: dict[Connection, tuple[float, int]] = {}  # since when, and how much
        self._most = bounds.within(resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self):  # type: ignore[no-untyped-def]  # noqa: ANN204 - of connections
        return iter(list(self._open))

    def add(self, connection: Connection) -> bool:
        """Take a connection, at the cost of a less useful one if need be.

        Gives whether it was taken: where each of the others has a request under way, it is not.
        """
        if len(self._open) >= self._most:
            victim = min(self._open, key=Connection.usefulness)
            self.cut("room")
            if victim.busy:
                return False
            victim.abort()
            self.forget(victim)
        self._open[connection] = None
        return True

    def forget(self, connection: Connection) -> None:
        """Let go of one that has ended."""
        self._open.pop(connection, None)
        self._unread.pop(connection, None)
        connection.let_go()

    def watch_unread(self, connection: Connection, size: int) -> None:
        """Mind an answer that may go unread."""
        loop = connection.loop
        if not self._unread:
            loop.call_later(_LOOK_SECONDS, self._look, loop)
        since, before = self._unread.get(connection, (loop.time(), 0))
        self._unread[connection] = since, before + size
        if sum(size for _, size in self._unread.values()) > self.bounds.unread_bytes:
            self._cut_largest()

    def _cut_largest(self) -> None:
        """Cut off the largest first: the API server reads its answers."""
        unread = {each: size for each, (_, size) in self._unread.items() if each.unread()}
        total = sum(unread.values())
        for each in sorted(unread, key=unread.__getitem__, reverse=True):
            if total <= self.bounds.unread_bytes:
                break
            total -= unread[each]
            self._cut_unread(each)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        for each, (since, _) in list(self._unread.items()):
            if not each.unread():
                del self._unread[each]
            elif loop.time() - since >= self.bounds.unread_seconds:
                self._cut_unread(each)
        if self._unread:
            loop.call_later(_LOOK_SECONDS, self._look, loop)

    def _cut_unread(self, connection: Connection) -> None:
        self.cut("unread")
        connection.abort()
        self.forget(connection)


class _Parser(httptools.HttpRequestParser):
    """A parser for a server that never upgrades, and answers who would like to in HTTP/1.1.

    llhttp stops behind the head of such a request, and takes its body for the next request: one
    that a stranger could hide in it. So its head is parsed again, without the wish.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._connection = connection
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own

    def feed_data(self, data: Any) -> None:
        """Parse what has arrived, as httptools does."""
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            connection = self._connection
            head = connection.head_without_upgrade()
            connection.parser = _Parser(connection)  # this one may have come to its end
            connection.parser.feed_data(head)
            connection.parser.feed_data(data[stopped.args[0] :])


class Connection(HttpToolsProtocol):
    """HTTP on one connection, within bounds: uvicorn has none for what is sent and not answered."""

    greeting: asyncio.Task[None]  # until it has a transport
    _all: Connections
    _has_transport = False
    _asked = False
    _in_head = False
    _upgrading = False  # the head under way is to be parsed again
    _unanswered = 0  # requests whose head was read
    _piece = 0  # bytes that are being parsed
    _silent = 0  # bytes that were no body, and have made no head whole yet
    _timer: asyncio.TimerHandle | None = None
    _idle_since: float | None = None  # the end of its last answer, until a request begins

    def __init__(self, config: uvicorn.Config, state: ServerState, everyone: Connections) -> None:
        super().__init__(config=config, server_state=state, app_state={SCOPE: weakref.proxy(self)})
        self._all = everyone
        self.headers = []
        self.parser = _Parser(self)

    # --- what the event loop calls ---

    def connection_made(self, transport: Any) -> None:
        """Expect a first request, soon."""
        super().connection_made(transport)
        self._has_transport = True
        transport.set_write_buffer_limits(high=LARGE_ANSWER_BYTES)
        self._arm()

    def data_received(self, data: bytes) -> None:
        """Parse it by pieces, none of which goes past the bound of a head."""
        most = self._all.bounds.head_bytes
        at, end = 0, len(data)
        while at < end:
            self._piece = min(end - at, _PIECE_BYTES, most - self._silent)
            self._silent += self._piece
            super().data_received(data if self._piece == end else data[at : at + self._piece])
            at += self._piece
            if self.transport.is_closing():
                return
            if self._silent >= most or len(self.headers) > _MOST_HEADERS:
                self._cut_head()
                return
        if self._silent and self._timer is None and (self._in_head or not self._unanswered):
            self._arm()

    def pause_writing(self) -> None:
        """Wait for a client that does not read its answers, but not for ever."""
        super().pause_writing()
        self.mind_answer(2 * LARGE_ANSWER_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        """There is nothing to expect any more."""
        self._disarm()
        if self.timeout_keep_alive_task is not None:  # uvicorn leaves it where there was an error
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        if self._has_transport:  # else it has got no further than the handshake
            super().connection_lost(exc)
        self._all.forget(self)

    def let_go(self) -> None:
        """Hold nothing that holds us: what has ended goes at once, collector or not."""
        for cycle, _app in self.pipeline:
            cycle.on_response = _nothing
        self.pipeline.clear()
        if not self._has_transport:
            self.parser = None  # type: ignore[assignment] # as uvicorn does for others

    # --- what the parser calls ---

    def on_message_begin(self) -> None:
        """A request begins. No client of ours sends a third before the first is answered."""
        if self._unanswered >= _MOST_AHEAD:
            self._all.cut("pipeline")
            self.abort()
            message = "requests sent ahead of answers"
            raise ValueError(message)  # ends the parsing of what has arrived
        self._in_head = True
        self._idle_since = None
        self._silent = self._piece  # what lay before it in this piece counts, too
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is whole; for its body, the app has a bound of its own."""
        if self.parser.get_method() == b"CONNECT":
            message = "this is no proxy"
            raise ValueError(message)  # what follows would be no HTTP
        if self.parser.should_upgrade():
            self._upgrading = True
            return
        self._in_head = False
        self._asked = True
        self._silent = 0
        self._unanswered += 1
        self._disarm()
        super().on_headers_complete()

    def head_without_upgrade(self) -> bytes:
        """Write the head that was read once more, so that it asks for no other protocol."""
        self._upgrading = False
        head = [
            b"%s %s HTTP/%s"
            % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        ]
        head += [b"%s: %s" % each for each in self.headers if each[0] != b"upgrade"]
        return b"\r\n".join([*head, b"", b""])

    def on_body(self, body: bytes) -> None:
        """Some of its body has come."""
        self._silent = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """It is all there."""
        if self._upgrading:
            return
        self._silent = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin to be idle, unless another request waits."""
        self._unanswered -= 1
        if not (self._unanswered or self._in_head):
            self._idle_since = self.loop.time()
        super().on_response_complete()

    def mind_answer(self, size: int) -> None:
        """See to it that an answer that was given is read in time."""
        if self._has_transport:
            self._all.watch_unread(self, size)

    # --- bounds ---

    def _arm(self) -> None:
        self._timer = self.loop.call_later(self._all.bounds.head_seconds, self._cut_head)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut_head(self) -> None:
        self._all.cut("head")
        self.abort()

    def abort(self) -> None:
        """End at once, whatever is unsent or unread."""
        self._disarm()
        if self._has_transport:
            self.transport.abort()
        else:
            self.greeting.cancel()

    def finish(self) -> None:
        """End after the answer under way, or at once where there is none."""
        if self._has_transport:
            self.shutdown()
        else:
            self.abort()

    def unread(self) -> bool:
        """Tell whether the client has not taken all of its answers: the kernel knows."""
        with contextlib.suppress(OSError, ValueError):  # it has just been closed
            return _unsent(self.transport.get_extra_info("socket")) > 0
        return False

    @property
    def busy(self) -> bool:
        """Whether a request whose head was read is not answered yet."""
        return self._unanswered > 0

    def usefulness(self) -> tuple[int, float]:
        """Rank: one that has never sent a request, then one that is idle, the longest first."""
        if self.busy:
            return 2, 0.0
        if self._idle_since is None:
            return 0, 0.0
        return 1, self._idle_since

    def leave(self, *, spare_fresh: bool, spare_idle: bool) -> None:
        """Close, unless a request would be lost by that, or is spared for fear that it would.

        Args:
            spare_fresh: whether to spare it if it has not sent its first request.
            spare_idle: whether to spare it if it has.
        """
        if self.busy or self._in_head or not self._has_transport or self.transport.is_closing():
            return
        if spare_idle if self._asked else spare_fresh:
            return
        if not _readable(self.transport.get_extra_info("socket")):
            self.transport.close()


def _nothing() -> None:
    """Do nothing."""


def _readable(source: Any) -> bool:
    """Tell whether something has arrived that the event loop has not read yet."""
    poll = select.poll()
    poll.register(source.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _unsent(source: Any) -> int:
    """Tell how many bytes the kernel has not delivered; what it has not taken waits behind them."""
    number: int = struct.unpack("i", fcntl.ioctl(source.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]
    return number


class Server:
    """What serves one port, until it is told to stop. Signals are not its affair.

    Args:
        config: of uvicorn, which speaks HTTP on each connection.
        context: for TLS; none for plain HTTP.
        bounds: what connections may take.
        cut: told the reason of each that is cut off.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        context: ssl.SSLContext | None,
        bounds: Bounds,
        cut: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self.config = config
        self.started = False
        self.open = Connections(bounds, cut)
        self.state = ServerState()
        self._context = context
        self._listening: list[socket.socket] = []
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Accept no more, finish what is in flight, and end."""
        self._stopped.set()

    async def serve(self, sockets: list[socket.socket]) -> None:
        """Serve on sockets that listen already, until told to stop."""
        if not self.config.loaded:
            self.config.load()
        # We accept ourselves, to count connections from their first moment.
        self._listening = sockets
        self._listen()
        self.started = True
        await self._stopped.wait()
        self._close_listening()
        for each in self.open:
            each.finish()
        loop = asyncio.get_running_loop()
        end = loop.time() + _FINISH_SECONDS
        while (len(self.open) or self.state.tasks) and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(_STEP_SECONDS)
        for each in self.open:
            each.abort()
        for task in self.state.tasks:
            task.cancel()

    def _close_listening(self) -> None:
        self._listen_no_more()
        for each in self._listening:
            each.close()
        self._listening = []

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for each in self._listening:
            loop.add_reader(each, self._accept, each)

    def _listen_no_more(self) -> None:
        loop = asyncio.get_running_loop()
        for each in self._listening:
            loop.remove_reader(each)

    def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_BATCH):
            try:
                accepted, _address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # No file descriptors or no memory left: at once again would change nothing.
                self.open.cut("accept")
                log.error("cannot accept connections: %s", error.strerror)  # noqa: TRY400
                self._listen_no_more()
                loop.call_later(_NO_ROOM_SECONDS, self._listen)
                return
            connection = Connection(self.config, self.state, self.open)
            if self.open.add(connection):
                connection.greeting = loop.create_task(self._greet(connection, accepted))
            else:
                accepted.close()

    async def _greet(self, connection: Connection, accepted: socket.socket) -> None:
        accepted.setblocking(False)  # noqa: FBT003 - socket's own signature
        seconds = None if self._context is None else self.open.bounds.handshake_seconds
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=seconds,
            )
        except OSError:  # the client's affair: counted, not logged
            self.open.cut("handshake")
            self.open.forget(connection)
        except asyncio.CancelledError:  # by `abort`
            self.open.forget(connection)

    async def leave(self, fresh_seconds: float, idle_seconds: float, hurry: asyncio.Event) -> None:
        """Accept no more, and end all connections without losing a request.

        Args:
            fresh_seconds: how long those may stay that were opened and have not asked yet.
            idle_seconds: how long those may stay that are idle, for their clients to close them;
                after that we do, and lose a request that is on its way just then.
            hurry: set where there is no time for either any more.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        fresh, idle = begun + fresh_seconds, begun + idle_seconds
        # Whom the kernel has let in already is let in.
        while any(map(_readable, self._listening)) and loop.time() < fresh:  # noqa: ASYNC110
            await asyncio.sleep(0)
        self._close_listening()
        while len(self.open) and (now := loop.time()) < max(fresh, idle) and not hurry.is_set():
            for connection in self.open:
                connection.leave(spare_fresh=now < fresh, spare_idle=now < idle)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hurry.wait(), _STEP_SECONDS)
        for connection in self.open:
            connection.leave(spare_fresh=False, spare_idle=False)
