"""Too much at once: what is refused, what is cut off, and that the others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import json
import os
import socket
import ssl
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import uvloop

from tests.servers import JSON, PATIENCE_SECONDS, REVIEW, Server, ask, trusting
from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration
from webhook.serving.app import State, webhook_app
from webhook.serving.connections import Bounds, Connection, Connections
from webhook.serving.connections import Server as Listener
from webhook.serving.load import Limits
from webhook.serving.metrics import Metrics
from webhook.serving.run import listener as new_listener
from webhook.tls.certificates import new_context, self_signed, serve, utc_now

ENTRY = b'{"name":"A_NAME","value":"value"},'
"""As dense as real objects get: an environment variable."""
HEAD = b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
MEBIBYTE = 2**20
MEMORY_LIMIT = 256  # MiB, of the chart


# --- in this process: bounds small enough to meet ------------------------------------------------


def with_parts(part: bytes, size: int) -> bytes:
    """Build a review of a Deployment that holds as many of them as fit into the size."""
    review = json.loads(REVIEW)
    review["request"]["object"]["spec"]["template"]["spec"]["containers"][0]["env"] = "HERE"
    empty = json.dumps(review).encode()
    parts = part * ((size - len(empty)) // len(part) - 1)
    return empty.replace(b'"HERE"', b"[" + parts + part[:-1] + b"]")


class Running:
    """A webhook with bounds of its own, served in this process."""

    def __init__(self, listener: Listener, port: int, metrics: Metrics, state: State) -> None:
        self.listener, self.port, self.metrics, self.state = listener, port, metrics, state
        self.cut: list[str] = []
        listener.open.cut = self.cut.append

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection."""
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=trusting())

    async def post(self, body: bytes = REVIEW) -> bytes:
        """Send a whole review on a connection of its own; gives the answer's first line."""
        reader, writer = await self.connect()
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        line = await asyncio.wait_for(reader.readline(), PATIENCE_SECONDS)
        writer.transport.abort()
        return line.strip()

    async def begin(self, size: int, sent: int = 1) -> tuple[Any, Any]:
        """Begin a review that is not sent to its end."""
        reader, writer = await self.connect()
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % size + b" " * sent)
        return reader, writer

    async def held(self, least: int) -> None:
        """Wait until that many bytes of bodies count as held."""
        await until(lambda: self.number("seamless_held_body_bytes") >= least)

    def number(self, name: str) -> float:
        """Give the value of a metric."""
        for line in self.metrics.text().decode().splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
        return 0.0


async def until(done: Callable[[], bool]) -> None:
    """Wait for something, within reason."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not done():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(
    limits: Limits | None = None,
    bounds: Bounds | None = None,
    app: Any = None,
    **others: Any,
) -> AsyncIterator[Running]:
    """Serve the webhook in this process."""
    metrics, state = Metrics(), State()
    answer = Admission(Configuration()).answer
    app = app or webhook_app(answer, metrics, state, limits=limits or Limits(), **others)
    context = new_context()
    serve(context, self_signed(["localhost"], utc_now()))
    listener = new_listener(app, context, bounds=bounds or Bounds())
    with socket.create_server(("127.0.0.1", 0)) as opened:
        opened.setblocking(False)  # noqa: FBT003 - socket's own signature
        port = opened.getsockname()[1]
        task = asyncio.create_task(listener.serve([opened]))
        await until(lambda: listener.started)
        try:
            yield Running(listener, port, metrics, state)
        finally:
            for connection in listener.open:
                connection.abort()
            listener.stop()
            await task


def test_what_is_announced_counts_at_once_and_past_the_bound_the_answer_is_503() -> None:
    """Nothing of the body needs to have come."""

    async def body() -> None:
        async with running(Limits(held_bytes=5 * MEBIBYTE)) as server:
            _, first = await server.begin(4 * MEBIBYTE)
            await server.held(4 * MEBIBYTE)
            reader, second = await server.begin(2 * MEBIBYTE)
            answer = await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"connection: close" in answer
            assert answer.endswith(b"too many bytes in flight\n")
            assert await server.post() == b"HTTP/1.1 200 OK"
            assert b'refused_total{status="503"} 1.0' in server.metrics.text()
            for each in (first, second):
                each.transport.abort()
            await until(lambda: server.number("seamless_held_body_bytes") == 0)

    uvloop.run(body())


def test_a_body_in_chunks_counts_as_it_arrives() -> None:
    """Its size is not known before."""

    async def body() -> None:
        async with running(Limits(held_bytes=3 * MEBIBYTE)) as server:
            _, first = await server.begin(2 * MEBIBYTE)
            await server.held(2 * MEBIBYTE)
            reader, second = await server.connect()
            second.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(40):
                second.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
            answer = await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)
            assert answer.endswith(b"too many bytes in flight\n")
            first.transport.abort()
            second.transport.abort()
            await until(lambda: server.number("seamless_held_body_bytes") == 0)

    uvloop.run(body())


@pytest.mark.parametrize(
    "limits", [Limits(in_flight=3), Limits(held_bytes=3 * MEBIBYTE)], ids=["count", "bytes"]
)
def test_who_sends_slowly_makes_room_for_who_does_not(limits: Limits) -> None:
    """Three slow bodies fill everything; each whole one that comes takes the place of the first."""

    async def body() -> None:
        async with running(limits) as server:
            slow = [await server.begin(MEBIBYTE) for _ in range(3)]
            await until(lambda: server.number("seamless_requests_in_flight") == 3)
            await asyncio.sleep(0.4)  # they are slow now
            assert await server.post() == b"HTTP/1.1 200 OK"
            answer = await asyncio.wait_for(slow[0][0].read(), PATIENCE_SECONDS)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"the body was slow to arrive, and others were waiting" in answer
            assert server.number("seamless_requests_in_flight") == 2
            for _, writer in slow:
                writer.transport.abort()

    uvloop.run(body())


def test_a_body_that_takes_too_long_is_408_and_holds_nothing() -> None:
    """Over TLS, too."""

    async def body() -> None:
        async with running(Limits(body_seconds=0.2)) as server:
            reader, writer = await server.begin(MEBIBYTE, sent=1000)
            answer = await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)
            assert answer.startswith(b"HTTP/1.1 408")
            assert server.number("seamless_held_body_bytes") == 0
            writer.transport.abort()

    uvloop.run(body())


def test_a_body_of_too_many_parts_is_413_before_it_is_decoded() -> None:
    """Seven megabytes of small objects would become two hundred in memory."""

    async def body() -> None:
        async with running() as server:
            bomb = with_parts(b'{"a":0},', 6 * MEBIBYTE)
            assert (await server.post(bomb)).startswith(b"HTTP/1.1 413 ")
            assert await server.post(with_parts(ENTRY, 7 * MEBIBYTE)) == b"HTTP/1.1 200 OK"

    uvloop.run(body())


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        pytest.param(b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-", "head", id="half a head"),
        pytest.param(b"", "head", id="nothing"),
        pytest.param(b"POST /mutate HTTP/1.1\r\nX: " + b"y" * 2**17, "head", id="a long header"),
        pytest.param(b"POST /mutate HTTP/1.1\r\n" + b"X: y\r\n" * 5000, "head", id="many headers"),
        pytest.param(b"POST /" + b"y" * 2**17, "head", id="a long path"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100, "pipeline", id="a pipeline"),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 5000,
            "head",
            id="many trailers",
        ),
    ],
)
def test_a_connection_that_meets_a_bound_is_cut_off_and_counted(sent: bytes, reason: str) -> None:
    """Its memory is not for a stranger to fill."""

    async def body() -> None:
        async with running(bounds=Bounds(head_seconds=0.2)) as server:
            reader, writer = await server.connect()
            writer.write(sent)
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)
            await until(lambda: len(server.listener.open) == 0)
            assert server.cut == [reason]
            writer.transport.abort()
            assert await server.post() == b"HTTP/1.1 200 OK"

    uvloop.run(body())


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n" * 9])
def test_a_handshake_that_does_not_end_is_cut_off_and_counted(sent: bytes) -> None:
    """Silence, half a greeting, and what is no TLS."""

    async def body() -> None:
        async with running(bounds=Bounds(handshake_seconds=0.3)) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(sent)
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)
            await until(lambda: len(server.listener.open) == 0)
            assert server.cut == ["handshake"]
            writer.transport.abort()

    uvloop.run(body())


def test_a_pause_between_requests_is_no_offence() -> None:
    """The time limit is for a head, not for a connection that is kept."""

    async def body() -> None:
        async with running(bounds=Bounds(head_seconds=0.2)) as server:
            reader, writer = await server.connect()
            for _ in range(2):
                writer.write(HEAD + b"Content-Length: 2\r\n\r\n{}")
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 400")
                await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
                await asyncio.sleep(0.5)
            writer.transport.abort()
            assert server.cut == []

    uvloop.run(body())


async def large_app(scope: Any, _receive: Any, send: Any) -> None:
    """Answer with as much as the path says."""
    answer = b"x" * int(scope["path"][1:])
    headers = [(b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
    if len(answer) > MEBIBYTE:
        scope["state"]["seamless.connection"].mind_answer(len(answer))


@pytest.mark.parametrize(
    ("path", "requests"), [(20 * MEBIBYTE, 1), (60_000, 1000)], ids=["one large", "many small"]
)
def test_who_never_reads_is_cut_off(path: int, requests: int) -> None:
    """Neither a large answer nor many small ones are kept for long."""

    async def body() -> None:
        bounds = Bounds(unread_seconds=0.5, unread_bytes=100 * MEBIBYTE)
        async with running(bounds=bounds, app=large_app) as server:
            reader, writer = await server.connect()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(requests):
                writer.write(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % path)
                await asyncio.sleep(0.001)  # each alone: this is no pipeline
                if server.cut:
                    break
            await until(lambda: bool(server.cut))
            assert server.cut[0] == "unread"
            await until(lambda: len(server.listener.open) == 0)
            writer.transport.abort()
            del reader

    uvloop.run(body())


def test_a_large_answer_that_is_read_is_no_offence() -> None:
    """All of it arrives."""

    async def body() -> None:
        bounds = Bounds(unread_seconds=0.5, unread_bytes=30 * MEBIBYTE)
        async with running(bounds=bounds, app=large_app) as server:
            for _ in range(3):
                reader, writer = await server.connect()
                writer.write(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % (20 * MEBIBYTE))
                await reader.readuntil(b"\r\n\r\n")
                assert len(await reader.readexactly(20 * MEBIBYTE)) == 20 * MEBIBYTE
                writer.transport.abort()
            assert server.cut == []

    uvloop.run(body())


def test_unread_answers_of_all_together_are_bounded() -> None:
    """The largest go first, at once."""

    async def body() -> None:
        bounds = Bounds(unread_seconds=60, unread_bytes=30 * MEBIBYTE)
        async with running(bounds=bounds, app=large_app) as server:
            writers = []
            for size in (20, 12, 15):
                _, writer = await server.connect()
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                writer.write(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % (size * MEBIBYTE))
                writers.append(writer)
                await asyncio.sleep(0.1)
            await until(lambda: len(server.listener.open) == 2)
            assert server.cut == ["unread"]
            for writer in writers:
                writer.transport.abort()

    uvloop.run(body())


def test_a_new_connection_takes_the_place_of_the_least_useful() -> None:
    """First one that never asked for anything; then one that is idle; never one that waits."""

    async def body() -> None:
        async with running(bounds=Bounds(most=3)) as server:
            silent = await server.connect()
            idle = await server.connect()
            idle[1].write(HEAD + b"Content-Length: 2\r\n\r\n{}")
            await idle[0].readline()
            busy = [await server.begin(MEBIBYTE)]
            await until(lambda: server.number("seamless_requests_in_flight") == 1)
            busy.append(await server.begin(MEBIBYTE))
            assert await asyncio.wait_for(silent[0].read(), PATIENCE_SECONDS) == b""
            # One that has yet to ask would go before the idle one.
            await until(lambda: server.number("seamless_requests_in_flight") == len(busy))
            busy.append(await server.begin(MEBIBYTE))
            rest = await asyncio.wait_for(idle[0].read(), PATIENCE_SECONDS)
            assert b"HTTP/1.1" not in rest
            assert server.cut == ["room", "room"]
            await until(lambda: server.number("seamless_requests_in_flight") == 3)
            with pytest.raises(OSError, match=r".*"):
                await server.connect()
            assert server.number("seamless_requests_in_flight") == len(busy)
            for _, writer in (silent, idle, *busy):
                writer.transport.abort()

    uvloop.run(body())


def test_what_has_ended_leaves_nothing_behind() -> None:
    """One that was used, one that was not, and one that was no TLS; without the collector."""

    async def body() -> None:
        async with running() as server:
            seen: list[weakref.ref[Connection]] = []
            add = server.listener.open.add

            def note(connection: Connection) -> bool:
                seen.append(weakref.ref(connection))
                return add(connection)

            server.listener.open.add = note  # type: ignore[method-assign]
            gc.collect()
            gc.disable()
            try:
                await server.post()
                _, writer = await server.connect()
                writer.transport.abort()
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(b"no TLS")
                writer.transport.abort()
                await until(lambda: len(seen) == 3 and not any(each() for each in seen))
            finally:
                gc.enable()

    uvloop.run(body())


def test_connections_leave_file_descriptors_for_the_rest() -> None:
    """Accepting never has to fail for want of one."""
    assert Bounds(most=256).within(1_000_000) == 256
    assert Bounds(most=256).within(100) == 36
    assert Bounds(most=256).within(10) == 1
    assert len(Connections(Bounds(), lambda _: None)) == 0


# --- a process of its own, attacked --------------------------------------------------------------


class Attack:
    """Strangers who do one thing again and again, each in a thread, until told to stop."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def by(self, number: int, what: Callable[[socket.socket], None]) -> None:
        """Add strangers who connect, do this, and connect again."""

        def again() -> None:
            while not self._stopped.is_set():
                try:
                    with socket.create_connection(("127.0.0.1", self._port), 1.5) as opened:
                        what(opened)
                except OSError:
                    time.sleep(0.05)

        for _ in range(number):
            thread = threading.Thread(target=again, daemon=True)
            thread.start()
            self._threads.append(thread)

    def tls(self, sent: bytes, *, reads: bool = True) -> Callable[[socket.socket], None]:
        """Make strangers who agree on TLS, send something and wait to be cut off."""
        context = trusting()

        def act(opened: socket.socket) -> None:
            with context.wrap_socket(opened) as secure:
                secure.sendall(sent)
                while reads and secure.recv(65536):
                    pass
                self._stopped.wait(2)

        return act

    def wait(self, opened: socket.socket) -> None:
        """Wait to be cut off."""
        opened.settimeout(0.5)
        while not self._stopped.is_set():
            with contextlib.suppress(TimeoutError):
                if not opened.recv(1000):
                    return

    def garbage(self, opened: socket.socket) -> None:
        """Send what is no TLS."""
        opened.sendall(os.urandom(2000))
        self.wait(opened)

    def stop(self) -> None:
        """End it all."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)


@pytest.fixture
def attacked(serve: Callable[..., Server]) -> Iterator[tuple[Server, Attack]]:
    """Start a server, and whatever comes over it."""
    server = serve("--drain-seconds=0")
    attack = Attack(server.port)
    yield server, attack
    attack.stop()


def test_a_well_behaved_client_notices_nothing_of_an_attack(
    attacked: tuple[Server, Attack],
) -> None:
    """Each of its reviews is answered, and the process stays within the chart's memory limit."""
    server, attack = attacked
    large = 7 * MEBIBYTE
    bomb = with_parts(b'{"a":0},', large)
    attack.by(30, attack.wait)
    attack.by(2, attack.garbage)
    attack.by(30, attack.tls(b"POST /mutate HTTP/1.1\r\nHost: x\r\n"))
    attack.by(30, attack.tls(HEAD + b"Content-Length: %d\r\n\r\n" % large + b" " * 100_000))
    attack.by(1, attack.tls(HEAD + b"Content-Length: %d\r\n\r\n" % len(bomb) + bomb))
    attack.by(2, attack.tls(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 5000, reads=False))
    server.until(lambda: server.metric("seamless_connections") > 80)
    time.sleep(0.5)
    statuses = []
    connection = server.connect(seconds=PATIENCE_SECONDS)
    for index in range(100):
        answer, content = ask(connection)
        statuses.append((answer.status, content["response"]["allowed"]))
        if index % 10 == 9:  # the API server opens new ones, too
            connection.close()
    connection.close()
    assert set(statuses) == {(200, True)}
    assert server.memory() < MEMORY_LIMIT
    for reason in ("handshake", "pipeline"):
        assert server.metric("seamless_connections_cut_total", reason=reason) > 0
    assert server.metric("seamless_requests_refused_total", status="503") > 0
    attack.stop()
    server.until(lambda: server.metric("seamless_requests_in_flight") == 0)
    assert server.metric("seamless_held_body_bytes") == 0
    assert server.stop() == 0


def test_the_largest_bodies_from_everywhere_fit_into_the_memory_limit(
    attacked: tuple[Server, Attack],
) -> None:
    """As dense as is taken, as large as is taken, as many as come."""
    server, attack = attacked
    body = with_parts(ENTRY, 7 * MEBIBYTE)
    attack.by(6, attack.tls(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body))
    server.until(lambda: server.metric("seamless_requests_in_flight") > 2)
    for _ in range(10):
        connection = http.client.HTTPSConnection(
            "127.0.0.1", server.port, timeout=PATIENCE_SECONDS, context=trusting()
        )
        with contextlib.suppress(ssl.SSLError):
            connection.request("POST", "/mutate", REVIEW, JSON)
            assert connection.getresponse().status in {200, 503}
        connection.close()
    assert server.memory() < MEMORY_LIMIT
    assert server.process.poll() is None
