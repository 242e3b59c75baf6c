"""Two replicas behind a balancer, API servers that call them, and what gets lost when one goes.

The balancer stands for kube-proxy and the endpoints behind it: it asks each replica's `/readyz`
now and then, and acts on the answer only after a delay. It then sends it no new connections;
established ones stay.

`Caller` stands for the client of an API server, Go's `http.Transport`, and forgives no more than
that does: a POST with a body is sent once. Another connection is tried only where the one that was
kept turned out to be closed before a single byte of the request was written. A request that was
written when the connection went is lost, as is one whose connection cannot be opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.servers import REVIEW, Server, trusting

_MOST_IDLE = 25  # of the API server's client, for each host
_GIVE_UP_SECONDS = 10.0
IDLE_SECONDS = 1.0
"""After this a caller closes a connection that it has not used: 90 in an API server."""
LINGER_SECONDS = 1.5
"""How long a replica must leave idle connections to it, in proportion."""
_HEAD = (
    b"POST /mutate?timeout=10s HTTP/1.1\r\nHost: webhook\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n"
)
REQUEST = _HEAD % len(REVIEW) + REVIEW


class LostError(Exception):
    """A request that got no answer, and why."""


# --- the caller ----------------------------------------------------------------------------------


class _Line(asyncio.Protocol):
    """One connection of a caller."""

    expiry: asyncio.TimerHandle  # while it is idle

    def __init__(self) -> None:
        self.reused = self.closed = False
        self._answer: asyncio.Future[bool] | None = None
        self._got = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def send(self, request: bytes) -> asyncio.Future[bool]:
        """Send a request; the future tells whether the connection may be used again."""
        self._answer = asyncio.get_running_loop().create_future()
        self._got = b""
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, blank, body = self._got.partition(b"\r\n\r\n")
        if self._answer is None or self._answer.done() or not blank:
            return
        lines = head.lower().split(b"\r\n")
        sizes = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
        if len(body) < sizes[0]:
            return
        if lines[0].split()[1] == b"200":
            self._answer.set_result(b"connection: close" not in lines)
        else:
            self._answer.set_exception(LostError(head.splitlines()[0].decode()))

    def eof_received(self) -> None:
        self.closed = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._answer is not None and not self._answer.done():
            how = "closed" if exc is None else type(exc).__name__
            where = "kept" if self.reused else "fresh"
            self._answer.set_exception(LostError(f"{where} connection {how} after the request"))


class Caller:
    """The client of one API server: a pool of connections, the last one used is used first."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[_Line] = []
        self._context = trusting()

    async def call(self) -> None:
        """Have one admission reviewed.

        Raises:
            LostError: there was no answer, or not the one of a review.
        """
        while True:
            line = await self._connection()
            if line.closed or line.transport.is_closing():
                continue  # nothing was written: the only case in which Go tries again
            try:
                keep = await asyncio.wait_for(line.send(REQUEST), _GIVE_UP_SECONDS)
            except TimeoutError:
                line.transport.abort()
                message = "no answer in time"
                raise LostError(message) from None
            line.reused = True
            if keep and len(self._idle) < _MOST_IDLE:
                self._idle.append(line)
                line.expiry = asyncio.get_running_loop().call_later(
                    IDLE_SECONDS, self._expire, line
                )
            else:
                line.transport.close()
            return

    def _expire(self, line: _Line) -> None:
        self._idle.remove(line)
        line.transport.close()

    async def _connection(self) -> _Line:
        while self._idle:
            line = self._idle.pop()
            line.expiry.cancel()
            if not line.closed:
                return line
        try:
            _, line = await asyncio.wait_for(
                asyncio.get_running_loop().create_connection(
                    _Line, "127.0.0.1", self._port, ssl=self._context
                ),
                _GIVE_UP_SECONDS,
            )
        except (OSError, TimeoutError) as error:
            message = f"no connection: {type(error).__name__}"
            raise LostError(message) from None
        return line

    def close(self) -> None:
        """Close what is idle."""
        for line in self._idle:
            line.expiry.cancel()
            line.transport.abort()


# --- the balancer --------------------------------------------------------------------------------


class _Half(asyncio.Protocol):
    """One side of a connection through the balancer."""

    other: _Half | None = None
    transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close() if exc is None else self.other.transport.abort()


class _Front(_Half):
    """The side of the client: finds a replica, and holds back what comes meanwhile."""

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer
        self._early: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._task = asyncio.get_running_loop().create_task(self._connect())

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        else:
            super().data_received(data)

    async def _connect(self) -> None:
        try:
            _, other = await asyncio.get_running_loop().create_connection(
                _Half, "127.0.0.1", self._balancer.choose()
            )
        except (OSError, LookupError):
            self.transport.abort()
            return
        other.other, self.other = self, other
        other.transport.writelines(self._early)
        if self.transport.is_closing():
            other.transport.close()


class Balancer:
    """Sends new connections to the replicas that it believes to be ready.

    Args:
        period: seconds between two looks at a replica.
        delay: seconds until a change that was seen has effect.
    """

    def __init__(self, period: float, delay: float) -> None:
        self._period, self._delay = period, delay
        self._believed: dict[int, bool] = {}
        self._watches: dict[int, asyncio.Task[None]] = {}
        self._turn = 0

    async def start(self) -> int:
        """Listen; gives the port."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Front(self), "127.0.0.1", 0, backlog=1024
        )
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def add(self, port: int, health_port: int) -> None:
        """Know a replica."""
        self._believed[port] = False
        self._watches[port] = asyncio.create_task(self._watch(port, health_port))

    def remove(self, port: int) -> None:
        """Know it no more."""
        self._watches.pop(port).cancel()
        self._believed.pop(port)

    def believes(self, port: int) -> bool:
        """Tell whether new connections may go there."""
        return self._believed.get(port, False)

    def choose(self) -> int:
        """Choose a replica for a new connection, each in turn."""
        ready = [port for port, believed in self._believed.items() if believed]
        if not ready:
            message = "no replica is ready"
            raise LookupError(message)
        self._turn += 1
        return ready[self._turn % len(ready)]

    async def _watch(self, port: int, health_port: int) -> None:
        loop = asyncio.get_running_loop()
        seen = False
        while True:
            ready = await _ready(health_port)
            if ready != seen:
                seen = ready
                loop.call_later(self._delay, self._believe, port, ready)
            await asyncio.sleep(self._period)

    def _believe(self, port: int, ready: bool) -> None:  # noqa: FBT001 - the only thing believed
        if port in self._believed:
            self._believed[port] = ready

    async def stop(self) -> None:
        """Stop listening and looking."""
        for port in list(self._watches):
            self.remove(port)
        self._server.close()


async def _ready(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 1)
        writer.close()
    except (OSError, TimeoutError):
        return False
    return answer.startswith(b"HTTP/1.1 200")


# --- the drill -----------------------------------------------------------------------------------


@dataclass
class Counts:
    """What became of the requests."""

    answered: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)  # how the replicas that left ended


class Drill:
    """Steady load on replicas that come and go.

    Args:
        arguments: of each `seamless serve`.
        callers: how many API servers there are.
        each_second: how many requests all of them send; now and then some come together.
        period: see `Balancer`.
        delay: see `Balancer`.
    """

    def __init__(
        self,
        *arguments: str,
        callers: int = 2,
        each_second: float = 150,
        period: float = 0.05,
        delay: float = 0.1,
    ) -> None:
        self._arguments = arguments
        self._callers = callers
        self._pause = 1 / each_second
        self._balancer = Balancer(period, delay)
        self._replicas: list[Server] = []
        self._counts = Counts()
        self._random = random.Random(20261122)  # noqa: S311 - not a secret

    @contextlib.asynccontextmanager
    async def load(self, replicas: int = 2) -> AsyncIterator[None]:
        """Start the replicas, and load them for as long as this lasts."""
        port = await self._balancer.start()
        for _ in range(replicas):
            await self._start()
        callers = [Caller(port) for _ in range(self._callers)]
        loading = asyncio.create_task(self._load(callers))
        try:
            yield
        finally:
            loading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loading
            for caller in callers:
                caller.close()
            await self._balancer.stop()
            for replica in self._replicas:
                replica.close()

    async def _load(self, callers: list[Caller]) -> None:
        under_way: set[asyncio.Task[None]] = set()
        try:
            while True:
                # Many at once leave connections that then are idle for a while, and used again.
                for _ in range(12 if self._random.random() < 0.05 else 1):
                    call = asyncio.create_task(self._call(self._random.choice(callers)))
                    under_way.add(call)
                    call.add_done_callback(under_way.discard)
                await asyncio.sleep(self._random.expovariate(1 / self._pause / 1.5))
        finally:
            await asyncio.gather(*under_way)

    async def _call(self, caller: Caller) -> None:
        try:
            await caller.call()
        except LostError as error:
            self._counts.lost[str(error)] += 1
        else:
            self._counts.answered += 1

    async def _start(self) -> None:
        replica = await asyncio.to_thread(Server, *self._arguments)
        self._replicas.append(replica)
        self._balancer.add(replica.port, replica.health_port)
        await _until(lambda: self._balancer.believes(replica.port))

    async def roll(self) -> None:
        """Replace the oldest as Kubernetes does: another is ready, then it is told to go."""
        await self._start()
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """Kill the oldest; another takes its place when that is noticed."""
        await self._end(signal.SIGKILL)
        await self._start()

    async def _end(self, number: signal.Signals) -> None:
        replica = self._replicas.pop(0)
        replica.process.send_signal(number)
        status = await asyncio.to_thread(replica.process.wait)
        self._counts.ends[str(status)] += 1
        await _until(lambda: not self._balancer.believes(replica.port))
        self._balancer.remove(replica.port)
        replica.close()

    def take(self) -> Counts:
        """Give what was counted since the last time."""
        counts, self._counts = self._counts, Counts()
        return counts


async def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)
