"""Requests answered at once, and through ASGI: alike in all that a client sees."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import json
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, ClassVar

import pytest
import uvloop

from tests.serving import PATIENCE_SECONDS, REVIEW
from tests.test_overload import HEAD, MEBIBYTE, Running, running, until
from webhook.admission import Admission, Answer
from webhook.config import Configuration
from webhook.connections import Bounds, Connection
from webhook.metrics import Metrics
from webhook.review import Request
from webhook.server import Limits, State, webhook_app
from webhook.settings import Namespace

AT_ONCE, BY_ASGI = True, False
WAYS = pytest.mark.parametrize("at_once", [AT_ONCE, BY_ASGI], ids=["at once", "by ASGI"])


class Watched:
    """An app that notes the scopes that reach it by ASGI, and offers `at_once` or does not."""

    def __init__(self, app: Any, *, at_once: bool) -> None:
        self._app = app
        self.scopes: list[Any] = []
        if at_once:
            self.at_once = app.at_once

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Speak ASGI."""
        self.scopes.append(scope)
        await self._app(scope, receive, send)


class Way:
    """A webhook that answers one way or the other, and what there is to see of it."""

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
    at_once: bool,
    answer: Any = None,
    limits: Limits | None = None,
    bounds: Bounds | None = None,
    **others: Any,
) -> AsyncIterator[Way]:
    """Serve the webhook one way or the other."""
    metrics, state = Metrics(), State()
    answer = answer or Admission(Configuration()).answer
    made = webhook_app(answer, metrics, state, limits=limits or Limits(), **others)
    app = Watched(made, at_once=at_once)
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
    ("segments", "status", "usual"),
    [
        pytest.param([WHOLE], 200, True, id="a review"),
        pytest.param([post(path=b"/mutate?timeout=3s")], 200, True, id="with a query"),
        pytest.param([post(path=b"/%6dutate")], 200, False, id="with an escape in its path"),
        pytest.param([post(version=b"1.0")], 200, True, id="HTTP/1.0"),
        pytest.param(
            [post(version=b"1.0").replace(b": close", b": keep-alive")],
            200,
            True,
            id="HTTP/1.0 that would stay",
        ),
        pytest.param([chunked(REVIEW)], 200, True, id="one chunk"),
        pytest.param([chunked(REVIEW[:700], REVIEW[700:])], 200, False, id="two chunks"),
        pytest.param([WHOLE[:60], WHOLE[60:]], 200, True, id="a head in two segments"),
        pytest.param([WHOLE[:-500], WHOLE[-500:]], 200, False, id="a body in two segments"),
        pytest.param(
            [WHOLE[: -len(REVIEW)], REVIEW[:300], REVIEW[300:]], 200, False, id="a head first"
        ),
        pytest.param(
            [WHOLE.replace(b"Host", b"Expect: 100-continue\r\nHost")],
            100,
            False,
            id="100-continue",
        ),
        pytest.param([post(b"{}")], 400, True, id="no review"),
        pytest.param([post(b"")], 400, True, id="nothing"),
        pytest.param([WHOLE.replace(b"n/json", b"n/yaml")], 415, False, id="another type"),
        pytest.param([WHOLE.replace(b"n/json", b"n/json; a=b")], 200, False, id="a parameter"),
        pytest.param([post(REVIEW + b" " * 30_000)], 413, False, id="too large"),
        pytest.param([post(path=b"/mutated")], 404, False, id="another path"),
        pytest.param([post(path=LONG)], 400, True, id="a URL beyond what can be parsed"),
        pytest.param(
            [post(path=LONG)[:-500], post(path=LONG)[-500:]], 400, True, id="such a one in two"
        ),
        pytest.param([WHOLE.replace(b"POST", b"GET")], 405, False, id="another method"),
        pytest.param([post(last=False) + b"\0\0"], 400, False, id="garbage behind it"),
        pytest.param([WHOLE + b"\0\0"], 200, True, id="garbage behind the last"),
        pytest.param(
            [WHOLE.replace(b"close", b"upgrade, close\r\nUpgrade: h2c")],
            400,
            False,
            id="an upgrade",
        ),
        pytest.param(
            [post(last=False) + SECOND], 200, False, id="a second one before the first is answered"
        ),
        pytest.param(
            [post(last=False) + post(version=b"1.0")], 200, False, id="one of another version"
        ),
        pytest.param(
            [post(last=False) + WHOLE.replace(b"POST", b"GET")],
            200,
            False,
            id="one by another method",
        ),
        pytest.param(
            [post(last=False) + WHOLE[:100], WHOLE[100:]], 200, False, id="and half of a second"
        ),
        pytest.param([WHOLE + SECOND], 200, True, id="a second one after the last"),
        pytest.param([post(last=False), post(b"{}")], 200, True, id="one after the other"),
    ],
)
def test_both_ways_answer_alike_byte_for_byte(
    caplog: pytest.LogCaptureFixture,
    segments: list[bytes],
    status: int,
    usual: bool,  # noqa: FBT001 - a case
) -> None:
    """What is usual needs no ASGI, nor what is no request; what is not usual is left to it."""

    async def body() -> None:
        answers = []
        for at_once in (AT_ONCE, BY_ASGI):
            limits = Limits(body_bytes=len(REVIEW) + 20_000)
            async with way(at_once=at_once, limits=limits) as server:
                answers.append(await server.exchange(*segments))
                await until(lambda server=server: len(server.server.listener.open) == 0)
                assert server.counted("seamless_requests_in_flight 0.0")
                assert server.counted("seamless_held_body_bytes 0.0")
                if at_once:
                    assert (not server.app.scopes) == usual
        assert answers[0] == answers[1]
        assert answers[0].startswith(b"HTTP/1.1 %d " % status)

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
        async with way(at_once=AT_ONCE) as server:
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


@WAYS
def test_blank_lines_keep_no_connection_open(at_once: bool) -> None:  # noqa: FBT001
    """They begin no request, so they are no reason to wait for its end."""

    async def body() -> None:
        async with way(at_once=at_once) as server:
            server.server.listener.config.timeout_keep_alive = 1
            reader, writer = await server.server.connect()
            writer.write(post(last=False))
            await reader.readuntil(b"}}")
            await asyncio.sleep(0.1)
            writer.write(b"\r\n")
            assert await asyncio.wait_for(reader.read(), PATIENCE_SECONDS) is not None
            writer.transport.abort()

    uvloop.run(body())


@WAYS
def test_two_requests_in_one_segment_are_answered_in_their_order(at_once: bool) -> None:  # noqa: FBT001
    """Each once, though the second was read before the first was answered."""

    async def body() -> None:
        async with way(at_once=at_once) as server:
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
        async with way(at_once=AT_ONCE) as server:
            await server.exchange(post(last=False) * 4)
            assert server.server.cut == ["pipeline"]

    uvloop.run(body())


@WAYS
def test_a_request_in_many_segments_is_answered_the_same(at_once: bool) -> None:  # noqa: FBT001
    """Wherever it is cut."""

    async def body() -> None:
        async with way(at_once=at_once) as server:
            whole = await server.exchange(WHOLE)
            for at in (1, 20, 100, len(WHOLE) - len(REVIEW) - 1, len(WHOLE) - 1):
                assert await server.exchange(WHOLE[:at], WHOLE[at:]) == whole

    uvloop.run(body())


@WAYS
def test_while_draining_the_answer_closes_the_connection(at_once: bool) -> None:  # noqa: FBT001
    """Whatever the client wanted."""

    async def body() -> None:
        async with way(at_once=at_once) as server:
            server.state.draining = True
            answer = await server.exchange(post(last=False))
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.count(b"\r\nconnection: close\r\n") == 1

    uvloop.run(body())


@WAYS
def test_a_client_that_has_gone_leaves_nothing_behind(at_once: bool) -> None:  # noqa: FBT001
    """It sends all and hangs up."""

    async def body() -> None:
        async with way(at_once=at_once) as server:
            for _ in range(5):
                _, writer = await server.server.connect()
                writer.write(post(last=False))
                await asyncio.sleep(0)
                writer.transport.abort()
            await until(lambda: len(server.server.listener.open) == 0)
            assert server.counted("seamless_requests_in_flight 0.0")
            assert (await server.exchange(WHOLE)).startswith(b"HTTP/1.1 200 OK")

    uvloop.run(body())


@WAYS
def test_an_error_is_answered_and_counted_the_same(at_once: bool) -> None:  # noqa: FBT001
    """500 for what nobody expected, 503 for want of memory."""

    async def body() -> None:
        for error, status in ((ValueError, 500), (MemoryError, 503)):

            def fail(_body: bytes, error: type[Exception] = error) -> Answer:
                raise error

            async with way(at_once=at_once, answer=fail) as server:
                answer = await server.exchange(WHOLE)
                assert answer.startswith(b"HTTP/1.1 %d " % status)
                assert server.counted(f'seamless_requests_refused_total{{status="{status}"}} 1.0')

    uvloop.run(body())


@WAYS
def test_who_fails_to_observe_an_answer_does_not_take_it_back(at_once: bool) -> None:  # noqa: FBT001
    """It is there, whole, and the connection ends."""

    def observe(*_: Any) -> None:
        raise ValueError

    async def body() -> None:
        async with way(at_once=at_once, observe=observe) as server:
            answer = await server.exchange(post(last=False))
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["response"]["allowed"]

    uvloop.run(body())


@WAYS
def test_a_whole_review_with_too_many_headers_is_cut_off(at_once: bool) -> None:  # noqa: FBT001
    """It is not answered first."""

    async def body() -> None:
        async with way(at_once=at_once) as server:
            answer = await server.exchange(WHOLE.replace(b"Host: x\r\n", b"X: y\r\n" * 200))
            assert answer == b""
            assert server.server.cut == ["head"]
            assert len(server.app.scopes) == 1

    uvloop.run(body())


@pytest.mark.parametrize(
    "limits",
    [Limits(in_flight=0), Limits(held_bytes=len(REVIEW) - 1)],
    ids=["requests", "bytes"],
)
def test_where_there_is_no_room_the_answer_is_503_both_ways(limits: Limits) -> None:
    """A request that has arrived whole takes no more than another."""

    async def body() -> None:
        answers = []
        for at_once in (AT_ONCE, BY_ASGI):
            async with way(at_once=at_once, limits=limits) as server:
                answers.append(await server.exchange(WHOLE))
                assert server.counted('seamless_requests_refused_total{status="503"} 1.0')
        assert answers[0] == answers[1]
        assert answers[0].startswith(b"HTTP/1.1 503 ")

    uvloop.run(body())


def test_a_large_review_is_left_to_asgi_which_weighs_it_first() -> None:
    """However it has come to be whole at once."""

    class Answered:
        bodies: ClassVar[list[bytes]] = []

        def answer(self, _status: int, _media: bytes, body: bytes, *, close: bool) -> None:
            assert not close
            self.bodies.append(body)

    app: Any = webhook_app(Admission(Configuration()).answer, Metrics(), State())
    scope = {"headers": [(b"content-type", b"application/json")]}
    for size in (2**18, 2**18 + 1):
        app.at_once[b"/mutate"](Answered(), scope, REVIEW.ljust(size))
    assert len(Answered.bodies) == 1


@WAYS
def test_what_is_to_be_learned_is_awaited_once(at_once: bool) -> None:  # noqa: FBT001
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
        async with way(at_once=at_once, answer=admission.answer, learn=learn) as server:
            answers = [(await server.exchange(WHOLE)).partition(b"\r\n\r\n")[2] for _ in range(2)]
            assert answers[0] == answers[1]
            patch = base64.b64decode(json.loads(answers[0])["response"]["patch"])
            assert {"op": "add", "path": "/spec/minReadySeconds", "value": 45} in json.loads(patch)
            assert len(asked) == 1
            assert len(server.app.scopes) == (1 if at_once else 2)

    uvloop.run(body())


def test_who_observes_is_told_of_the_same_request() -> None:
    """Its scope says what the client sent, as ASGI has it."""

    async def body() -> None:
        told: list[dict[str, Any]] = []

        def observe(_answer: Answer, _seconds: float, scope: Any) -> None:
            told.append({key: value for key, value in scope.items() if key != "client"})

        request = post(path=b"/mutate?timeout=3s", version=b"1.0")
        for at_once in (AT_ONCE, BY_ASGI):
            async with way(at_once=at_once, observe=observe) as server:
                await server.exchange(request)
                told[-1].pop("seamless.connection")
                assert told[-1].pop("server")[1] == server.server.port
        assert told[0] == told[1]
        assert told[0]["query_string"] == b"timeout=3s"

    uvloop.run(body())


@WAYS
@pytest.mark.parametrize("size", [20 * MEBIBYTE, 50_000], ids=["one large", "many small"])
def test_who_never_reads_reviews_is_cut_off(at_once: bool, size: int) -> None:  # noqa: FBT001
    """Neither a large answer nor many small ones are kept for long."""

    async def body() -> None:
        bounds = Bounds(unread_seconds=0.5, unread_bytes=100 * MEBIBYTE)
        answer = Answer(200, b"x" * size)
        async with way(at_once=at_once, answer=lambda _: answer, bounds=bounds) as server:
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


@WAYS
def test_who_does_not_read_gets_no_further_answers(at_once: bool) -> None:  # noqa: FBT001
    """They would pile up here, once the kernel has taken all that it takes."""

    async def body() -> None:
        answered: list[bytes] = []

        def answer(review: bytes) -> Answer:
            answered.append(review)
            return Answer(200, b"x" * 50_000)

        bounds = Bounds(unread_seconds=2 * PATIENCE_SECONDS, unread_bytes=100 * MEBIBYTE)
        async with way(at_once=at_once, answer=answer, bounds=bounds) as server:
            _, writer = await server.server.connect()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(1000):
                writer.write(post(b"{}", last=False))
                await asyncio.sleep(0.001)  # each alone: this is no pipeline
            writer.transport.abort()
        assert 0 < len(answered) < 500

    uvloop.run(body())


@WAYS
def test_an_idle_connection_is_closed_and_one_in_use_is_not(at_once: bool) -> None:  # noqa: FBT001
    """Since the last answer, not since the first; and not under a request that has begun."""

    async def body() -> None:
        async with way(at_once=at_once) as server:
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
