"""Connections: how many, how long they may keep us waiting, and how they end.

What the application answers is not known here. A stranger who reaches the port can open
connections, finish no handshake, send heads without end, put request behind request, and never
read an answer. Each of these has a bound, and whoever runs into it is cut off, so that memory,
file descriptors and patience last for the others.

A connection that is idle costs its client dearly when it goes at the wrong time: Go's client, which
the API server is, sends a POST once only, and loses it where the connection closes under it. So an
idle connection is its client's to close, or it is closed last, and never with a request in it.
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import uvicorn
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

log = logging.getLogger("webhook")

SCOPE: Final = "seamless.connection"
"""Where a request's scope holds its `Connection`."""
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
# File descriptors that are not for connections: files, the API server, the other port.
_RESERVED: Final = 64
_MOST_HEADERS: Final = 100
_LONGEST_URL: Final = 65_535  # that httptools parses; uvicorn answers 400 to one that is longer
_NOTHING: Final[Mapping[bytes, AtOnce]] = {}


class AtOnce(Protocol):
    """Answers a POST that has arrived whole, as most do, without waiting for anything.

    An ASGI app offers it beside ASGI, as its `at_once`: a mapping of paths. A task, two messages
    and what uvicorn keeps for them take longer than all else that serving such a request takes.
    """

    def __call__(self, connection: Connection, scope: Scope, body: bytes) -> None:
        """Call `connection.answer`, or leave the request to the ASGI app by not doing so."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the connections of one port may take.

    Args:
        most: how many there may be; a new one then takes the place of the least useful.
        handshake_seconds: how long TLS may take to be agreed on, and to be ended.
        head_seconds: how long the head of a request may take, the first one after the handshake
            included.
        head_bytes: how large it may be.
        unread_seconds: how long a client may leave a large answer, or many, unread.
        unread_bytes: how much of these all clients together may leave unread.
    """

    most: int = 256
    handshake_seconds: float = 5.0
    head_seconds: float = 10.0
    head_bytes: int = 64 * 2**10
    unread_seconds: float = 5.0
    unread_bytes: int = 8 * 2**20

    def within(self, descriptors: int) -> int:
        """Give how many connections there may be where so many files may be open.

        Accepting with none left would fail, and fail again at once, for as long as that lasts.
        """
        return max(1, min(self.most, descriptors - _RESERVED))


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


class Connection(HttpToolsProtocol):
    """HTTP on one connection, within bounds: uvicorn has none for what is sent and not answered."""

    greeting: asyncio.Task[None]  # until it has a transport
    _all: Connections
    _has_transport = False
    _in_head = False
    _head_bytes = 0
    _timer: asyncio.TimerHandle | None = None
    _asked = False
    _idle_since: float | None = None  # the end of its last answer, until something arrives
    # A request that uvicorn has not been told of, while what has just arrived is being parsed.
    _at_once: Mapping[bytes, AtOnce]
    _held = False
    _whole = False
    _keep_alive = False
    _body = b""

    @classmethod
    def new(cls, server: Server) -> Connection:
        """Begin with a connection that was just accepted."""
        made = cls(config=server.config, server_state=server.server_state, app_state={})
        made._all = server.open
        made.headers = []
        plain = not (server.config.root_path or server.config.limit_concurrency or made.access_log)
        made._at_once = getattr(made.app, "at_once", _NOTHING) if plain else _NOTHING
        return made

    # --- what uvicorn and the event loop call ---

    def connection_made(self, transport: Any) -> None:
        """Expect a first request, soon."""
        super().connection_made(transport)
        self._has_transport = True
        transport.set_write_buffer_limits(high=LARGE_ANSWER_BYTES)
        self._arm()

    def on_message_begin(self) -> None:
        """A request begins. No client of ours sends a third before the first is answered."""
        if self._held:
            self._hand_over()
        if self.pipeline:
            self._all.cut("pipeline")
            self.abort()
            message = "requests sent ahead of answers"
            raise ValueError(message)  # ends the parsing of what has arrived
        self._in_head = True
        super().on_message_begin()
        self.scope[SCOPE] = self  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        """Its head is whole; for its body, the app has a bound of its own."""
        self._in_head = False
        self._asked = True
        self._disarm()
        parser = self.parser
        if (
            self.url.partition(b"?")[0] in self._at_once
            and len(self.url) <= _LONGEST_URL
            and parser.get_method() == b"POST"
            and not (self.busy or self.expect_100_continue or parser.should_upgrade())
        ):
            version = parser.get_http_version()
            self.scope["http_version"] = version
            self._keep_alive = version != "1.0" and parser.should_keep_alive()
            self._held = True
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hold a body that comes in one piece as that piece: uvicorn would copy it twice."""
        if self._held and not self._body:
            self._body = body
            return
        if self._held:
            self._hand_over()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """It is all there."""
        if self._held:
            self._whole = True
        else:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin to be idle, as in uvicorn, but with one timer for many requests."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._be_idle()

    def _be_idle(self) -> None:
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._await_request(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """Close, if it has been idle all the time."""
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            return  # the next answer brings a new timer
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._await_request(left)
        else:
            super().timeout_keep_alive_handler()

    def _await_request(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None  # and the timer stays: it looks when it ends

    def pause_writing(self) -> None:
        """Wait for a client that does not read its answers, but not for ever."""
        super().pause_writing()
        self.mind_answer(2 * LARGE_ANSWER_BYTES)

    def mind_answer(self, size: int) -> None:
        """See to it that an answer that was given is read in time."""
        if self._has_transport:
            self._all.watch_unread(self, size)

    def data_received(self, data: bytes) -> None:
        """Mostly a head comes whole, and needs neither timer nor count."""
        super().data_received(data)
        if self._in_head or len(self.headers) > _MOST_HEADERS:
            self._mind_head(len(data))
        if self._held:
            self._settle()
        elif self._asked and self._idle_since is None and not (self._in_head or self.busy):
            self._be_idle()  # it was a blank line

    def connection_lost(self, exc: Exception | None) -> None:
        """There is nothing to expect any more."""
        self._disarm()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        if self._has_transport:  # else it has got no further than the handshake
            super().connection_lost(exc)
        self._all.forget(self)

    def let_go(self) -> None:
        """Hold nothing that holds us: what has ended goes at once, collector or not."""
        scopes: list[Any] = [self.scope, self.cycle and self.cycle.scope]
        for cycle, _ in self.pipeline:
            cycle.on_response = _nothing
            scopes.append(cycle.scope)
        self.pipeline.clear()
        for scope in filter(None, scopes):
            scope.pop(SCOPE, None)
        if not self._has_transport:
            self.parser = None  # type: ignore[assignment] # as uvicorn does for others

    # --- requests that are answered at once ---

    def _settle(self) -> None:
        """Have the held request answered, or else leave it to uvicorn and the app."""
        if self._whole and not self.flow.write_paused and not self.transport.is_closing():
            scope: Any = self.scope  # uvicorn's own type for it is another
            path, _, query = self.url.partition(b"?")
            scope["method"] = "POST"
            scope["path"] = path.decode("ascii")
            scope["raw_path"] = path
            scope["query_string"] = query
            try:
                self._at_once[path](self, scope, self._body)
            except Exception:
                if not self._held:  # else the app meets it again, and uvicorn tells
                    log.exception("a request was answered, and could not be ended")
                    self.transport.close()
        if self._held:
            self._hand_over()

    def answer(self, status: int, media: bytes, body: bytes, *, close: bool) -> None:
        """Answer the held request as uvicorn would, but in one TLS record instead of two.

        Args:
            status: of HTTP.
            media: the content type.
            body: the answer.
            close: whether to close the connection after it.
        """
        keep_alive = self._keep_alive and not close
        self._let_go_of_held()
        defaults = b"".join([b"%s: %s\r\n" % each for each in self.server_state.default_headers])
        self.transport.write(
            b"%s%scontent-type: %s\r\ncontent-length: %d\r\n%s\r\n%s"
            % (
                STATUS_LINE[status],
                defaults,
                media,
                len(body),
                b"" if keep_alive else b"connection: close\r\n",
                body,
            )
        )
        if not keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _hand_over(self) -> None:
        """Tell uvicorn of the held request, as if all of it had arrived just now."""
        body, whole = self._body, self._whole
        self._let_go_of_held()
        super().on_headers_complete()
        self.cycle.keep_alive = self._keep_alive  # the parser has forgotten at a request's end
        if body:
            super().on_body(body)
        if whole:
            super().on_message_complete()

    def _let_go_of_held(self) -> None:
        self._held = self._whole = False
        self._body = b""  # an idle connection holds nothing

    # --- bounds ---

    def _mind_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._all.bounds.head_bytes or len(self.headers) > _MOST_HEADERS:
            self._cut_head()
        elif self._timer is None:
            self._arm()

    def _arm(self) -> None:
        self._timer = self.loop.call_later(self._all.bounds.head_seconds, self._cut_head)

    def _disarm(self) -> None:
        self._head_bytes = 0
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

    def unread(self) -> bool:
        """Tell whether the client has not taken all of its answers: the kernel knows."""
        with contextlib.suppress(OSError, ValueError):  # it has just been closed
            return _unsent(self.transport.get_extra_info("socket")) > 0
        return False

    @property
    def busy(self) -> bool:
        """Whether a request is being read or answered."""
        return self.cycle is not None and not self.cycle.response_complete

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
        if self.busy or not self._has_transport or self.transport.is_closing():
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


class Server(uvicorn.Server):
    """A uvicorn that bounds its connections, and leaves signals to us: two share one process.

    Args:
        config: of uvicorn.
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
        super().__init__(config)
        self.open = Connections(bounds, cut)
        self._context = context
        self._listening: list[socket.socket] = []

    def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN201 - as in uvicorn
        """Capture none."""
        return contextlib.nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. We accept ourselves, to count connections from their first moment."""
        await self.lifespan.startup()
        self.servers = []
        self._listening = sockets or []
        self._listen()
        self.started = True

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
            connection = Connection.new(self)
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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, and finish what is in flight."""
        self._listen_no_more()
        self._listening = []
        await super().shutdown(sockets)

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
        self._listen_no_more()
        for each in self._listening:
            each.close()
        self._listening = []
        while len(self.open) and (now := loop.time()) < max(fresh, idle) and not hurry.is_set():
            for connection in self.open:
                connection.leave(spare_fresh=now < fresh, spare_idle=now < idle)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hurry.wait(), _STEP_SECONDS)
        for connection in self.open:
            connection.leave(spare_fresh=False, spare_idle=False)
