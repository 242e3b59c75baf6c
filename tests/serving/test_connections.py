"""What a client sees of requests, however they arrive, and what we assume of uvicorn."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import itertools
import json
import re
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import uvicorn
import uvloop

from tests.servers import PATIENCE_SECONDS, REVIEW
from tests.serving.test_load import HEAD, MEBIBYTE, Running, running, until
from webhook.decision.admission import Admission, Answer
from webhook.decision.configuration import Configuration
from webhook.decision.review import Request
from webhook.decision.settings import Namespace
from webhook.serving import connections
from webhook.serving.app import State, webhook_app
from webhook.serving.connections import Bounds, Connection
from webhook.serving.connections import Server as Listener
from webhook.serving.load import Limits
from webhook.serving.metrics import Metrics
from webhook.serving.run import listener as new_listener

UVICORN = "0.54.0"
"""Whose inside was read; with another, read `connections` and this file again."""


class Watched:
    """An app that notes the scopes that reach it."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Speak ASGI."""
        self.scopes.append(scope)
        await self._app(scope, receive, send)


class Way:
    """A webhook, and what there is to see of it."""

    def __init__(self, server: Running, app: Watched, metrics: Metrics, state: State) -> None:
        self.server, self.app, self.metrics, self.state = server, app, metrics, state

    async def exchange(self, *segments: bytes) -> bytes:
        """Send segments, each once the one before has been read; gives all that comes back."""
        reader, writer = await self.server.connect()
        for segment in segments:
            writer.write(segment)
            await asyncio.sleep(0.05 if len(segments) > 1 else 0)
        answer = await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)
        writer.transport.abort()
        return answer

    def counted(self, line: str) -> bool:
        """Tell whether a line is among the metrics."""
        return line in self.metrics.text().decode().splitlines()


@contextlib.asynccontextmanager
async def way(
    *,
    answer: Any = None,
    limits: Limits | None = None,
    bounds: Bounds | None = None,
    **others: Any,
) -> AsyncIterator[Way]:
    """Serve the webhook."""
    metrics, state = Metrics(), State()
    answer = answer or Admission(Configuration()).answer
    made = webhook_app(answer, metrics, state, limits=limits or Limits(), **others)
    app = Watched(made)
    async with running(app=app, bounds=bounds) as server:
        yield Way(server, app, metrics, state)


def post(
    body: bytes = REVIEW, path: bytes = b"/mutate", *, last: bool = True, version: bytes = b"1.1"
) -> bytes:
    """Write a review as a request, by default one after which the client wants no other."""
    end = b"Connection: close\r\n" if last else b""
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    head = HEAD.replace(b"/mutate", path).replace(b"HTTP/1.1", b"HTTP/" + version)
    return head + end + length + body


def chunked(*chunks: bytes) -> bytes:
    """Write a review as a request in chunks."""
    head = HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in (*chunks, b""))


LONG = b"/mutate?" + b"a" * 65_600
WHOLE = post()
STAYING = post(last=False)
SECOND = post(REVIEW.replace(b"705ab4f5", b"aaaaaaaa"))


@pytest.mark.parametrize(
    ("segments", "statuses"),
    [
        pytest.param([WHOLE], [200], id="a review"),
        pytest.param([post(path=b"/mutate?timeout=3s")], [200], id="with a query"),
        pytest.param([post(path=b"/%6dutate")], [200], id="with an escape in its path"),
        pytest.param([post(version=b"1.0")], [200], id="HTTP/1.0"),
        pytest.param(
            [post(version=b"1.0").replace(b": close", b": keep-alive")],
            [200],
            id="HTTP/1.0 that would stay",
        ),
        pytest.param([chunked(REVIEW)], [200], id="one chunk"),
        pytest.param([chunked(REVIEW[:700], REVIEW[700:])], [200], id="two chunks"),
        pytest.param([WHOLE[:60], WHOLE[60:]], [200], id="a head in two segments"),
        pytest.param([WHOLE[:-500], WHOLE[-500:]], [200], id="a body in two segments"),
        pytest.param([WHOLE[: -len(REVIEW)], REVIEW[:300], REVIEW[300:]], [200], id="a head first"),
        pytest.param(
            [WHOLE.replace(b"Host", b"Expect: 100-continue\r\nHost")],
            [100, 200],
            id="100-continue",
        ),
        pytest.param([post(b"{}")], [400], id="no review"),
        pytest.param([post(b"")], [400], id="nothing"),
        pytest.param([WHOLE.replace(b"n/json", b"n/yaml")], [415], id="another type"),
        pytest.param([WHOLE.replace(b"n/json", b"n/json; a=b")], [200], id="a parameter"),
        pytest.param([post(REVIEW + b" " * 30_000)], [413], id="too large"),
        pytest.param([post(path=b"/mutated")], [404], id="another path"),
        pytest.param([post(path=LONG)], [], id="a URL beyond what can be parsed"),
        pytest.param([post(path=LONG)[:-500], post(path=LONG)[-500:]], [], id="such a one in two"),
        pytest.param([WHOLE.replace(b"POST", b"GET")], [405], id="another method"),
        pytest.param([post(last=False) + b"\0\0"], [400], id="garbage behind it"),
        pytest.param([WHOLE + b"\0\0"], [200], id="garbage behind the last"),
        pytest.param(
            [WHOLE.replace(b"close", b"upgrade, close\r\nUpgrade: h2c")],
            [200],
            id="an upgrade",
        ),
        pytest.param(
            [post(last=False) + SECOND], [200, 200], id="a second one before the first is answered"
        ),
        pytest.param(
            [post(last=False) + post(version=b"1.0")], [200, 200], id="one of another version"
        ),
        pytest.param(
            [post(last=False) + WHOLE.replace(b"POST", b"GET")],
            [200, 405],
            id="one by another method",
        ),
        pytest.param(
            [post(last=False) + WHOLE[:100], WHOLE[100:]], [200, 200], id="and half of a second"
        ),
        pytest.param([WHOLE + SECOND], [200], id="a second one after the last"),
        pytest.param([post(last=False), post(b"{}")], [200, 400], id="one after the other"),
    ],
)
def test_each_request_has_its_answer(
    caplog: pytest.LogCaptureFixture, segments: list[bytes], statuses: list[int]
) -> None:
    """One each, in their order, and nothing is left behind."""

    async def body() -> None:
        limits = Limits(body_bytes=len(REVIEW) + 20_000)
        async with way(limits=limits) as server:
            answer = await server.exchange(*segments)
            await until(lambda: len(server.server.listener.open) == 0)
            assert server.counted("seamless_requests_in_flight 0.0")
            assert server.counted("seamless_held_body_bytes 0.0")
            found = [int(each) for each in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]
            assert found == statuses

    uvloop.run(body())
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "segments",
    [
        pytest.param([STAYING * 3], id="three at once"),
        pytest.param([STAYING + b"JUNK"], id="garbage behind it"),
        pytest.param([STAYING[:-5], STAYING[-5:], STAYING[:30]], id="a head behind one in parts"),
        pytest.param([STAYING.replace(b"POST", b"GET"), b"PO"], id="half a word"),
        pytest.param([STAYING[:-5]], id="a body that ends early"),
    ],
)
def test_a_connection_that_has_ended_is_freed_without_the_collector(segments: list[bytes]) -> None:
    """It comes seldom, and a client can make many connections in a second."""

    async def body() -> None:
        async with way() as server:
            listener = server.server.listener
            gc.collect()
            gc.disable()
            try:
                made: list[weakref.ref[Connection]] = []
                for _ in range(3):
                    _reader, writer = await server.server.connect()
                    await until(lambda: len(listener.open) == 1)
                    made.append(weakref.ref(next(iter(listener.open))))
                    for segment in segments:
                        writer.write(segment)
                        await asyncio.sleep(0.02)
                    writer.transport.abort()
                    await until(lambda: len(listener.open) == 0)
                server.app.scopes.clear()
                await until(lambda: [each() for each in made] == [None] * 3)
            finally:
                gc.enable()

    uvloop.run(body())


def test_blank_lines_keep_no_connection_open() -> None:
    """They begin no request, so they are no reason to wait for its end."""

    async def body() -> None:
        async with way(bounds=Bounds(head_seconds=0.5)) as server:
            reader, writer = await server.server.connect()
            writer.write(post(last=False))
            await reader.readuntil(b"}}")
            await asyncio.sleep(0.1)
            writer.write(b"\r\n")
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)
            assert server.server.cut == ["head"]
            writer.transport.abort()

    uvloop.run(body())


def test_two_requests_in_one_segment_are_answered_in_their_order() -> None:
    """Each once, though the second was read before the first was answered."""

    async def body() -> None:
        async with way() as server:
            answer = await server.exchange(post(last=False) + SECOND)
            first, second = [
                json.loads(each.partition(b"\r\n\r\n")[2])["response"]["uid"]
                for each in answer.split(b"HTTP/1.1 200 OK")[1:]
            ]
            assert first == json.loads(REVIEW)["request"]["uid"]
            assert second == first.replace("705ab4f5", "aaaaaaaa") != first

    uvloop.run(body())


def test_reviews_sent_ahead_of_answers_are_bounded() -> None:
    """As requests of any other kind are."""

    async def body() -> None:
        async with way() as server:
            await server.exchange(post(last=False) * 4)
            assert server.server.cut == ["pipeline"]

    uvloop.run(body())


def test_a_request_in_many_segments_is_answered_the_same() -> None:
    """Wherever it is cut."""

    async def body() -> None:
        async with way() as server:
            whole = await server.exchange(WHOLE)
            for at in (1, 20, 100, len(WHOLE) - len(REVIEW) - 1, len(WHOLE) - 1):
                assert await server.exchange(WHOLE[:at], WHOLE[at:]) == whole

    uvloop.run(body())


def test_while_draining_the_answer_closes_the_connection() -> None:
    """Whatever the client wanted."""

    async def body() -> None:
        async with way() as server:
            server.state.draining = True
            answer = await server.exchange(post(last=False))
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.count(b"\r\nconnection: close\r\n") == 1

    uvloop.run(body())


def test_a_client_that_has_gone_leaves_nothing_behind() -> None:
    """It sends all and hangs up."""

    async def body() -> None:
        async with way() as server:
            for _ in range(5):
                _, writer = await server.server.connect()
                writer.write(post(last=False))
                await asyncio.sleep(0)
                writer.transport.abort()
            await until(lambda: len(server.server.listener.open) == 0)
            assert server.counted("seamless_requests_in_flight 0.0")
            assert (await server.exchange(WHOLE)).startswith(b"HTTP/1.1 200 OK")

    uvloop.run(body())


def test_an_error_is_answered_and_counted_the_same() -> None:
    """500 for what nobody expected, 503 for want of memory."""

    async def body() -> None:
        for error, status in ((ValueError, 500), (MemoryError, 503)):

            def fail(_body: bytes, error: type[Exception] = error) -> Answer:
                raise error

            async with way(answer=fail) as server:
                answer = await server.exchange(WHOLE)
                assert answer.startswith(b"HTTP/1.1 %d " % status)
                assert server.counted(f'seamless_requests_refused_total{{status="{status}"}} 1.0')

    uvloop.run(body())


def test_who_fails_to_observe_an_answer_does_not_take_it_back() -> None:
    """It is there, whole, and the connection ends."""

    def observe(*_: Any) -> None:
        raise ValueError

    async def body() -> None:
        async with way(observe=observe) as server:
            answer = await server.exchange(post(last=False))
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["response"]["allowed"]

    uvloop.run(body())


def test_a_whole_review_with_too_many_headers_is_cut_off() -> None:
    """It is not answered first."""

    async def body() -> None:
        async with way() as server:
            answer = await server.exchange(WHOLE.replace(b"Host: x\r\n", b"X: y\r\n" * 200))
            assert answer == b""
            assert server.server.cut == ["head"]

    uvloop.run(body())


@pytest.mark.parametrize(
    "limits",
    [Limits(in_flight=0), Limits(held_bytes=len(REVIEW) - 1)],
    ids=["requests", "bytes"],
)
def test_where_there_is_no_room_the_answer_is_503(limits: Limits) -> None:
    """A request that has arrived whole takes no more than another."""

    async def body() -> None:
        async with way(limits=limits) as server:
            assert (await server.exchange(WHOLE)).startswith(b"HTTP/1.1 503 ")
            assert server.counted('seamless_requests_refused_total{status="503"} 1.0')

    uvloop.run(body())


def test_what_is_to_be_learned_is_awaited_once() -> None:
    """Without asking for it twice, and in a task, where it may have a time limit."""
    known: dict[str, Namespace] = {}
    asked: list[str] = []
    admission = Admission(Configuration(), namespaces=known.get)

    async def fetch(name: str) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.sleep(0)
        annotations = {"seamless-rollouts.dev/min-ready": "45s"}
        labels = {"seamless-rollouts.dev/inject": "enabled"}
        known[name] = admission.table.namespace(name, labels, annotations)

    def learn(request: Request) -> Callable[[], Awaitable[None]] | None:
        name = request.namespace or ""
        if name in known:
            return None
        asked.append(name)
        return partial(fetch, name)

    async def body() -> None:
        async with way(answer=admission.answer, learn=learn) as server:
            answers = [(await server.exchange(WHOLE)).partition(b"\r\n\r\n")[2] for _ in range(2)]
            assert answers[0] == answers[1]
            patch = base64.b64decode(json.loads(answers[0])["response"]["patch"])
            assert {"op": "add", "path": "/spec/minReadySeconds", "value": 45} in json.loads(patch)
            assert len(asked) == 1
            assert len(server.app.scopes) == 2

    uvloop.run(body())


def test_who_observes_is_told_of_the_same_request() -> None:
    """Its scope says what the client sent, as ASGI has it."""

    async def body() -> None:
        told: list[dict[str, Any]] = []

        def observe(_answer: Answer, _seconds: float, scope: Any) -> None:
            told.append({key: value for key, value in scope.items() if key != "client"})

        request = post(path=b"/mutate?timeout=3s", version=b"1.0")
        async with way(observe=observe) as server:
            await server.exchange(request)
            assert told[0]["server"][1] == server.server.port
            assert told[0]["path"] == "/mutate"
            assert told[0]["http_version"] == "1.0"
        assert told[0]["query_string"] == b"timeout=3s"

    uvloop.run(body())


@pytest.mark.parametrize("size", [20 * MEBIBYTE, 50_000], ids=["one large", "many small"])
def test_who_never_reads_reviews_is_cut_off(size: int) -> None:
    """Neither a large answer nor many small ones are kept for long."""

    async def body() -> None:
        bounds = Bounds(unread_seconds=0.5, unread_bytes=100 * MEBIBYTE)
        answer = Answer(200, b"x" * size)
        async with way(answer=lambda _: answer, bounds=bounds) as server:
            _, writer = await server.server.connect()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(1 if size > MEBIBYTE else 1000):
                writer.write(post(b"{}", last=False))
                await asyncio.sleep(0.001)  # each alone: this is no pipeline
                if server.server.cut:
                    break
            await until(lambda: bool(server.server.cut))
            assert server.server.cut[0] == "unread"
            await until(lambda: len(server.server.listener.open) == 0)
            writer.transport.abort()

    uvloop.run(body())


def test_who_does_not_read_gets_no_further_answers() -> None:
    """They would pile up here, once the kernel has taken all that it takes."""

    async def body() -> None:
        answered: list[bytes] = []

        def answer(review: bytes) -> Answer:
            answered.append(review)
            return Answer(200, b"x" * 50_000)

        bounds = Bounds(unread_seconds=2 * PATIENCE_SECONDS, unread_bytes=100 * MEBIBYTE)
        async with way(answer=answer, bounds=bounds) as server:
            _, writer = await server.server.connect()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(1000):
                writer.write(post(b"{}", last=False))
                await asyncio.sleep(0.001)  # each alone: this is no pipeline
            writer.transport.abort()
        assert 0 < len(answered) < 500

    uvloop.run(body())


def test_an_idle_connection_is_closed_and_one_in_use_is_not() -> None:
    """Since the last answer, not since the first; and not under a request that has begun."""

    async def body() -> None:
        async with way() as server:
            server.server.listener.config.timeout_keep_alive = 1
            reader, writer = await server.server.connect()
            request = post(last=False)

            async def answer() -> None:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_SECONDS)
                assert head.startswith(b"HTTP/1.1 200 OK")
                await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))

            for _ in range(3):
                writer.write(request)
                await answer()
                await asyncio.sleep(0.6)
            for at in (60, -10):  # in the head, in the body
                writer.write(request[:at])
                await asyncio.sleep(1.3)
                writer.write(request[at:])
                await answer()
            assert await asyncio.wait_for(reader.read(), PATIENCE_SECONDS) == b""
            writer.close()

    uvloop.run(body())


# --- however it is split -------------------------------------------------------------------------


class Wire(asyncio.Transport):
    """A transport without a network: what is fed to the connection, and what it writes."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self.written = b""
        self.closed = self.paused = False
        self.connection = Connection(listener.config, listener.state, listener.open)
        listener.open.add(self.connection)
        self.connection.connection_made(self)

    async def feed(self, data: bytes, turns: int) -> None:
        """Give it some bytes, unless it has ended, and let the event loop turn so often."""
        if not self.closed:
            self.connection.data_received(data)
        for _ in range(turns):
            await asyncio.sleep(0)

    def write(self, data: Any) -> None:
        """Keep it."""
        self.written += bytes(data)

    def close(self) -> None:
        """End."""
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        """Tell whether it has ended."""
        return self.closed

    def pause_reading(self) -> None:
        """Note it."""
        self.paused = True

    def resume_reading(self) -> None:
        """Note it."""
        self.paused = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered."""

    def end(self) -> None:
        """Hang up."""
        self.connection.connection_lost(None)


def wired(app: Any = None, bounds: Bounds | None = None) -> Listener:
    """Make a listener that listens nowhere."""
    app = app or webhook_app(Admission(Configuration()).answer, Metrics(), State())
    made = new_listener(app, None, bounds=bounds or Bounds())
    made.config.load()
    made.open.cut = cuts.append
    cuts.clear()
    return made


cuts: list[str] = []
SHORT = (
    b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"%s",'
    b'"operation":"CREATE","kind":{"group":"","version":"v1","kind":"Pod"},"object":{}}}'
)


def short(uid: bytes, *lines: bytes, version: bytes = b"1.1", chunks: int = 0) -> bytes:
    """Write a small review as a request."""
    body = SHORT % uid
    head = HEAD.replace(b"HTTP/1.1", b"HTTP/" + version) + b"".join(b"%s\r\n" % x for x in lines)
    if not chunks:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    parts = [body[at : at + chunks] for at in range(0, len(body), chunks)]
    sent = b"".join(b"%x;a=b\r\n%s\r\n" % (len(each), each) for each in parts)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + sent + b"0\r\nX: y\r\n\r\n"


H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ")
WEBSOCKET = (b"Connection: keep-alive, upgrade", b"Upgrade: websocket")
INSIDE = b"GET /inside HTTP/1.1\r\nHost: x\r\n\r\n"
SETS = {
    "one": ([short(b"a")], [b"a"]),
    "two": ([short(b"a"), short(b"b")], [b"a", b"b"]),
    "an upgrade": ([short(b"a", *H2C)], [b"a"]),
    "an upgrade, then another": ([short(b"a", *WEBSOCKET), short(b"b")], [b"a", b"b"]),
    "two upgrades in chunks": (
        [short(b"a", *H2C, chunks=50), short(b"b", *H2C, chunks=90)],
        [b"a", b"b"],
    ),
    "100-continue": ([short(b"a", b"Expect: 100-continue"), short(b"b")], [b"a", b"b"]),
    "100-continue and an upgrade": ([short(b"a", b"Expect: 100-continue", *H2C)], [b"a"]),
    "chunks": ([short(b"a", chunks=30), short(b"b", chunks=100)], [b"a", b"b"]),
    "HTTP/1.0": ([short(b"a", version=b"1.0")], [b"a"]),
    "HTTP/1.0, then what is not read": ([short(b"a", version=b"1.0"), short(b"b")], [b"a"]),
    "the last, then what is not read": ([short(b"a", b"Connection: close"), INSIDE], [b"a"]),
    "a request inside another": (
        [
            b"POST /outside HTTP/1.1\r\n%s\r\nContent-Length: %d\r\n\r\n"
            % (b"\r\n".join(H2C), len(INSIDE))
            + INSIDE
        ],
        [404],
    ),
    "one that wants a tunnel": ([b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", INSIDE], [400]),
}


def answers(written: bytes) -> list[bytes | int]:
    """Give for each answer the uid that it is for, or its status where it is for none."""
    found: list[bytes | int] = []
    for each in re.split(rb"(?=HTTP/1\.1 \d{3} )", written)[1:]:
        status = int(each[9:12])
        uid = re.search(rb'"uid":"(\w+)"', each)
        if status != 100:
            found.append(uid[1] if uid else status)
    return found


@pytest.mark.parametrize("turns", [0, 12], ids=["read together", "read one by one"])
@pytest.mark.parametrize(("requests", "expected"), SETS.values(), ids=SETS)
def test_wherever_requests_are_split_each_has_its_own_answer_and_no_more(
    requests: list[bytes], expected: list[bytes | int], turns: int
) -> None:
    """At every place, and by several reads at once."""
    sent = b"".join(requests)

    async def body() -> None:
        listener = wired()
        places = [[at] for at in range(len(sent))]
        places += [list(range(step, len(sent), step)) for step in (1, 7, 100)]
        for at in places:
            wire = Wire(listener)
            for begin, end in itertools.pairwise([0, *at, len(sent)]):
                await wire.feed(sent[begin:end], turns)
            await wire.feed(b"", 60)
            assert answers(wire.written) == expected, at
            wire.end()
        assert len(listener.open) == 0
        assert cuts == []

    asyncio.run(body())


def test_the_head_that_comes_with_an_upgrade_reaches_the_app_whole_but_for_that() -> None:
    """Once, and with what else it said."""

    async def body() -> None:
        async with way() as server:
            wish = b"Upgrade: h2c\r\nX-Y: z\r\nConnection: upgrade, close\r\n"
            sent = WHOLE.replace(b"Connection: close\r\n", wish)
            assert (await server.exchange(sent)).startswith(b"HTTP/1.1 200 ")
            (scope,) = server.app.scopes
            names = [name for name, _ in scope["headers"]]
            assert names == [b"host", b"content-type", b"x-y", b"connection", b"content-length"]

    uvloop.run(body())


@pytest.mark.parametrize("step", [70_000, 16_384, 9_000, 999])
@pytest.mark.parametrize("more", [0, 1, 5_000])
@pytest.mark.parametrize("where", ["path", "header", "blanks", "trailer", "extension"])
def test_a_head_beyond_the_bound_is_cut_off_however_it_arrives(
    where: str, more: int, step: int
) -> None:
    """Exactly there: one byte less is answered. So is what stands behind a body instead of it."""
    most = Bounds().head_bytes
    begin, end, fill = {
        "path": (b"GET /", b" HTTP/1.1\r\nHost: x\r\n\r\n", b"y"),
        "header": (b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"\r\n\r\n", b"y"),
        "blanks": (b"GET / HTTP/1.1\r\nHost: x\r\nX:", b"y\r\n\r\n", b" "),
        "trailer": (short(b"a", chunks=999)[:-8] + b"X: ", b"\r\n\r\n", b"y"),
        "extension": (short(b"a", chunks=999)[:-11] + b"0;", b"\r\n\r\n", b"y"),
    }[where]
    framed = where in {"trailer", "extension"}
    size = most + more - len(begin) - len(end)
    if framed:
        size += 16_384  # that what stands before it in a read may hide
    sent = begin + fill * size + end

    async def body() -> None:
        wire = Wire(wired())
        for at in range(0, len(sent), step):
            await wire.feed(sent[at : at + step], 12)
        if more > framed:
            assert cuts == ["head"]
            assert wire.closed
        elif not framed:
            assert cuts == []
            assert len(answers(wire.written)) == 1
        wire.end()

    asyncio.run(body())


def test_a_long_decision_holds_up_neither_other_reviews_nor_the_event_loop() -> None:
    """A large review is decided aside, one at a time."""
    begun, release = threading.Event(), threading.Event()
    admission = Admission(Configuration())
    together: list[int] = []

    def answer(body: bytes) -> Answer:
        if len(body) > 2**18:
            together.append(1)
            begun.set()
            assert release.wait(PATIENCE_SECONDS)
            assert sum(together) == 1
            together.clear()
        return admission.answer(body)

    async def body() -> None:
        async with way(answer=answer) as server:
            large = post(REVIEW.ljust(2**18 + 1))
            asked = [asyncio.create_task(server.exchange(large)) for _ in range(2)]
            await until(begun.is_set)
            for _ in range(3):
                assert (await server.exchange(WHOLE)).startswith(b"HTTP/1.1 200 ")
            assert not any(each.done() for each in asked)
            release.set()
            for each in asked:
                assert (await each).startswith(b"HTTP/1.1 200 ")

    uvloop.run(body())


# --- what is assumed of uvicorn: the list at the top of webhook/serving/connections.py ------------


def test_the_inside_of_uvicorn_is_the_one_that_was_read() -> None:
    """The version that is installed is the one that the list and these tests are of."""
    assert uvicorn.__version__ == UVICORN
    assert f"({UVICORN};" in (connections.__doc__ or "")


def test_uvicorn_feeds_our_parser_and_lets_go_of_it_when_the_connection_is_lost() -> None:
    """Assumptions 1, 2 and 6."""

    async def body() -> None:
        scopes: list[Any] = []

        async def app(scope: Any, _receive: Any, _send: Any) -> None:
            scopes.append(scope)
            await asyncio.sleep(0)

        wire = Wire(wired(app))
        connection = wire.connection
        assert isinstance(connection, asyncio.Protocol)
        assert type(connection.parser).__name__ == "_Parser"
        await wire.feed(b"GET /some?x=y HTTP/1.1\r\nHost: x\r\n\r\n", 1)
        assert connection.url == b"/some?x=y"
        assert connection.headers == [(b"host", b"x")]
        assert scopes[0]["state"] == {connections.SCOPE: connection}
        wire.end()
        assert connection.parser is None

    asyncio.run(body())


def test_uvicorn_tells_of_each_answer_and_keeps_the_next_request_waiting() -> None:
    """Assumptions 3, 4, 5 and 8."""

    async def body() -> None:
        leave = asyncio.Event()

        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            await leave.wait()
            headers = [(b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 404, "headers": headers})
            await send({"type": "http.response.body", "body": b""})

        listener = wired(app)
        wire = Wire(listener)
        await wire.feed(INSIDE * 2, 3)
        ((cycle, _app),) = wire.connection.pipeline
        assert cycle.on_response == wire.connection.on_response_complete
        assert len(listener.state.tasks) == 1
        assert wire.connection.busy
        wire.connection.shutdown()
        assert not wire.closed
        leave.set()
        await wire.feed(b"", 20)
        assert answers(wire.written) == [404, 404]
        assert not wire.connection.busy
        assert wire.closed  # after the answer, as told
        assert not listener.state.tasks
        idle = Wire(listener)
        idle.connection.shutdown()
        assert idle.closed
        for each in (wire, idle):
            each.end()

    asyncio.run(body())


def test_uvicorn_answers_what_cannot_be_parsed_with_400_and_ends() -> None:
    """Assumption 7: what cannot be read, and what a callback of ours does not want."""

    async def body() -> None:
        for sent in (b"no HTTP\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n"):
            wire = Wire(wired())
            await wire.feed(sent, 3)
            assert answers(wire.written) == [400]
            assert wire.closed
            wire.end()

    asyncio.run(body())
