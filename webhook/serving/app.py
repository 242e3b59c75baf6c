"""The webhook over HTTP: `/mutate` over TLS, health and metrics on the plain port.

The API server fails over to "unpatched" on anything but a review (`failurePolicy: Ignore`), so
every limit here answers quickly and clearly, and none lets a request pile up.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from webhook.decision.admission import Answer
from webhook.decision.review import Request
from webhook.serving import connections
from webhook.serving.dispatch import Direct
from webhook.serving.metrics import CONTENT_TYPE, Metrics
from webhook.serving.signals import ending_signals

log = logging.getLogger("webhook")

_PATH: Final = "/mutate"
_OK: Final = 200
_OURS: Final = frozenset({408, 413, 503})  # what a request met that may have been in order
_JSON: Final = b"application/json"
_TEXT: Final = b"text/plain; charset=utf-8"
_DIGITS: Final = 18  # of a length that is worth parsing
# Reviews of this size are rare, and matter where memory is short; the usual ones do not.
_LARGE_BYTES: Final = 256 * 2**10
# What Python makes of a JSON object and of any other value, about.
_OBJECT_BYTES: Final = 240
_VALUE_BYTES: Final = 80
# A body that is sent at all arrives in less, unless it is a slow one.
_PATIENCE_SECONDS: Final = 0.25
# Of the file descriptors for connections, those of the webhook's port; the rest is for probes.
_MAIN_SHARE: Final = 0.7
# For a connection that was opened in the last moment to say what it wants.
_LAST_WORD_SECONDS: Final = 2.0


Learn = Callable[[Request], Callable[[], Awaitable[None]] | None]
"""Asked of a review: none where all that bears on it is known, else what to call and await."""

Observe = Callable[[Answer, float, Scope], None]
"""Told of an answer, of the seconds that it took, and of the HTTP request (an ASGI scope)."""


_Decided = tuple[Answer, float, Callable[[], Awaitable[None]] | None]


def tune_garbage_collector() -> None:
    """Keep the garbage collector from looking through each review while it is being decided.

    A review is many small objects that all go at once, by reference counts alone; the collector's
    usual threshold is passed several times a request, and each time it would look at all of them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process takes. docs/decisions/0020 tells how these fit into 256 MiB.

    Args:
        body_bytes: the largest body; two 3 MiB objects (etcd allows 1.5 MiB) and their frame.
        body_seconds: how long a body may take to arrive.
        decoded_bytes: the largest that a body may become when decoded, by an estimate.
        in_flight: how many reviews may be read or answered at once.
        held_bytes: how large their bodies may be together; what is announced counts at once.
    """

    body_bytes: int = 7 * 2**20
    body_seconds: float = 5.0
    decoded_bytes: int = 96 * 2**20
    in_flight: int = 200
    held_bytes: int = 24 * 2**20


class State:
    """What the two ports share: whether this process is on its way out."""

    def __init__(self) -> None:
        self.draining = False


def webhook_app(
    answer: Callable[[bytes], Answer],
    metrics: Metrics,
    state: State,
    *,
    limits: Limits = Limits(),
    learn: Learn = lambda _request: None,
    observe: Observe | None = None,
) -> FastAPI:
    """Build the app of the TLS port.

    Args:
        answer: decides a review.
        metrics: counts.
        state: tells when to ask clients to go elsewhere.
        limits: what is taken.
        learn: asked of each review; what it gives is awaited, within a bound of its own, before the
            review is answered anew.
        observe: told of each answer once it is sent.
    """
    endpoint = _Mutate(answer, metrics, state, limits, learn, observe)
    return Direct(
        _PATH, endpoint, title="Seamless Rollouts", openapi_url=None, redirect_slashes=False
    )


class _RefusedError(Exception):
    """A request that is not answered as a review: its status code and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Mutate:
    """`POST /mutate`: an endpoint that speaks ASGI itself.

    It reads the body within bounds that a request object does not have, and tells of an answer once
    it is sent. What FastAPI would parse and validate, `review.decode` does.
    """

    def __init__(
        self,
        answer: Callable[[bytes], Answer],
        metrics: Metrics,
        state: State,
        limits: Limits,
        learn: Learn,
        observe: Observe | None,
    ) -> None:
        self._answer = answer
        self._metrics = metrics
        self._state = state
        self._limits = limits
        self._learn = learn
        self._observe = observe
        self._load = _Load(limits)
        self._aside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large-review")
        metrics.watch_in_flight(lambda: self._load.under_way)
        metrics.watch(
            lambda: {
                "seamless_held_body_bytes": ("Bytes of bodies read or awaited.", self._load.held)
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        load = self._load
        if load.under_way >= self._limits.in_flight and not load.room_for_one():
            await self._refuse(_RefusedError(503, "too many requests in flight"), send)
            return
        load.under_way += 1
        try:
            await self._review(scope, receive, send)
        except _RefusedError as refused:
            await self._refuse(refused, send)
        except MemoryError:
            await self._refuse(_RefusedError(503, "out of memory"), send)
        except Exception:
            self._metrics.refuse(500)  # as it is answered by whoever catches it
            raise
        finally:
            load.under_way -= 1

    async def _review(self, scope: Scope, receive: Receive, send: Send) -> None:
        limits = self._limits
        content_type = declared = b""
        for name, value in scope["headers"]:
            if name == b"content-type":
                content_type = value
            elif name == b"content-length":
                declared = value
        if content_type != _JSON and content_type.partition(b";")[0].strip().lower() != _JSON:
            raise _RefusedError(415, "expected the content type application/json")
        size = 0
        if declared.isdigit():
            size = int(declared) if len(declared) <= _DIGITS else limits.body_bytes + 1
            if size > limits.body_bytes:
                raise _too_large(limits)
        body = await self._load.read(receive, size)
        try:
            if len(body) > _LARGE_BYTES:
                _weigh(body, limits)
            answered, seconds, learning = await self._decide_in_turn(body)
            if learning is not None:
                await learning()
                answered, seconds, _ = await self._decide_in_turn(body)
        finally:
            self._load.held -= len(body)
        self._metrics.count(answered, seconds)
        media = _JSON if answered.status == _OK else _TEXT
        await self._send(send, answered.status, media, answered.body, close=self._state.draining)
        self._tell(answered, seconds, scope)

    async def _decide_in_turn(self, body: bytes) -> _Decided:
        """Decide a usual review here and now, and a large one beside the event loop.

        So others, and probes, are answered meanwhile. One after the other, for each may take as
        much memory as there is for one.
        """
        if len(body) <= _LARGE_BYTES:
            return self._decide(body)
        return await asyncio.get_running_loop().run_in_executor(self._aside, self._decide, body)

    def _decide(self, body: bytes) -> _Decided:
        """Give an answer, the seconds that it took, and what is to be learned first."""
        start = time.perf_counter()
        answered = self._answer(body)
        seconds = time.perf_counter() - start
        learning = None if answered.request is None else self._learn(answered.request)
        return answered, seconds, learning

    def _tell(self, answered: Answer, seconds: float, scope: Scope) -> None:
        if len(answered.body) > connections.LARGE_ANSWER_BYTES:
            connection = scope.get("state", {}).get(connections.SCOPE)
            if connection is not None:  # it is our own server's
                connection.mind_answer(len(answered.body))
        if self._observe is not None:
            self._observe(answered, seconds, scope)

    async def _refuse(self, refused: _RefusedError, send: Send) -> None:
        self._metrics.refuse(refused.status)
        if refused.status in _OURS:
            log.warning("refused with %d: %s", refused.status, refused)
        # What is left of an unread body must not be taken for the next request: close.
        await self._send(send, refused.status, _TEXT, f"{refused}\n".encode(), close=True)

    @staticmethod
    async def _send(send: Send, status: int, media: bytes, body: bytes, *, close: bool) -> None:
        headers = [(b"content-type", media), (b"content-length", b"%d" % len(body))]
        if close:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _Load:
    """What is held of bodies: how many, how many bytes, and how long each is awaited.

    Where there is no room for another, the one that has been awaited longest makes some, if it is
    a slow one: who sends slowly on purpose keeps nobody else out. Else the new one is refused.

    Time is kept by one look a while at all that are awaited. A timer for each request would cost
    more than the reading itself, which mostly is no waiting.
    """

    def __init__(self, limits: Limits) -> None:
        self.under_way = 0
        self.held = 0
        self._limits = limits
        self._begun: dict[asyncio.Task[Any], float] = {}  # the longest awaited first
        self._large: dict[asyncio.Task[Any], int] = {}  # what those of them hold that hold much
        self._cut: dict[asyncio.Task[Any], _RefusedError] = {}  # told to end, and not ended yet
        self._watching = False

    async def read(self, receive: Receive, declared: int) -> bytes:
        """Read a body; it counts as held until its size is taken from `held` again.

        Args:
            receive: gives its parts.
            declared: its size, or 0 where that is not said.

        Raises:
            _RefusedError: it is too large, or there is no room, or it did not arrive in time.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in one
        counted = 0
        size = 0
        chunks: list[bytes] = []
        self._begun[task] = loop.time()
        if not self._watching:
            self._watching = True
            loop.call_later(self._limits.body_seconds / 4, self._look, loop)
        try:
            if declared:
                self._take(task, declared, declared)
                counted = declared
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _RefusedError(400, "the body ended early")  # noqa: TRY301 - one of many
                chunk: bytes = message.get("body", b"")
                size += len(chunk)
                if size > self._limits.body_bytes:
                    raise _too_large(self._limits)  # noqa: TRY301 - one of many
                if size > counted:
                    self._take(task, size - counted, size)
                    counted = size
                if not message.get("more_body", False):
                    break
                chunks.append(chunk)
        except BaseException as error:
            self.held -= counted
            if isinstance(error, asyncio.CancelledError) and task in self._cut:
                task.uncancel()
                raise self._cut[task] from None
            raise
        finally:
            del self._begun[task]
            self._large.pop(task, None)
            self._cut.pop(task, None)
        self.held -= counted - size
        return b"".join([*chunks, chunk]) if chunks else chunk

    def room_for_one(self) -> bool:
        """Make room for another request, if there is none; tells whether there is now."""
        if self.under_way - len(self._cut) < self._limits.in_flight:
            return True
        now = asyncio.get_running_loop().time()
        for task in self._slow(self._begun, now):
            self._end(task, 503, "the body was slow to arrive, and others were waiting")
            return True
        return False

    def _take(self, task: asyncio.Task[Any], size: int, total: int) -> None:
        if self.held + size > self._limits.held_bytes:
            self._make_room(task, size)
        self.held += size
        if total > _LARGE_BYTES:
            self._large[task] = total

    def _make_room(self, task: asyncio.Task[Any], size: int) -> None:
        leaving = sum(self._large.get(each, 0) for each in self._cut)
        missing = self.held - leaving + size - self._limits.held_bytes
        ending = []
        now = asyncio.get_running_loop().time()
        for each in self._slow(self._large, now):
            if missing <= 0:
                break
            if each is not task:
                ending.append(each)
                missing -= self._large[each]
        if missing > 0:
            raise _RefusedError(503, "too many bytes in flight")
        for each in ending:
            self._end(each, 503, "the body was slow to arrive, and others were waiting")

    def _slow(self, among: Iterable[asyncio.Task[Any]], now: float) -> Iterator[asyncio.Task[Any]]:
        for task in among:
            if task not in self._cut and now - self._begun[task] > _PATIENCE_SECONDS:
                yield task

    def _end(self, task: asyncio.Task[Any], status: int, why: str) -> None:
        self._cut[task] = _RefusedError(status, why)
        task.cancel()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        seconds = self._limits.body_seconds
        now = loop.time()
        for task, begun in self._begun.items():
            if now - begun >= seconds and task not in self._cut:
                self._end(task, 408, f"the body took over {seconds:g} s to arrive")
        self._watching = bool(self._begun)
        if self._watching:
            loop.call_later(seconds / 4, self._look, loop)


def _weigh(body: bytes, limits: Limits) -> None:
    """Refuse a body that would take too much memory, before it is decoded.

    Seven megabytes of `{"a":0},` become thirty times as much. What an API server holds, which is
    names and texts, becomes ten times as much at most, and etcd takes no more than 1.5 MiB of it.
    """
    values = body.count(b",") + body.count(b"[")
    if body.count(b"{") * _OBJECT_BYTES + values * _VALUE_BYTES > limits.decoded_bytes:
        raise _RefusedError(413, "the body has too many parts")


def _too_large(limits: Limits) -> _RefusedError:
    return _RefusedError(413, f"the body is larger than {limits.body_bytes} bytes")


def health_app(
    metrics: Metrics,
    state: State,
    problems: Callable[[], list[str]],
    notes: Callable[[], list[str]] = list,
) -> FastAPI:
    """Build the app of the plain port.

    Args:
        metrics: what `/metrics` shows.
        state: tells when to be not ready.
        problems: why the webhook is not ready; nothing where it is.
        notes: what `/readyz` says beside, though it is ready.
    """
    app = FastAPI(title="Seamless Rollouts health", openapi_url=None, redirect_slashes=False)

    @app.get("/livez")
    async def livez() -> Response:
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    async def readyz() -> Response:
        found = ["shutting down"] if state.draining else problems()
        if found:
            return PlainTextResponse("not ready: " + "; ".join([*found, *notes()]) + "\n", 503)
        return PlainTextResponse("".join(f"{each}\n" for each in ["ok", *notes()]))

    @app.get("/metrics")
    async def metrics_text() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return app


def listener(
    app: ASGIApp,
    context: ssl.SSLContext | None,
    cut: Callable[[str], None] = lambda _reason: None,
    bounds: connections.Bounds | None = None,
) -> connections.Server:
    """Make what serves one port.

    Args:
        app: what is served.
        context: for TLS; none for plain HTTP.
        cut: told the reason of each connection that is cut off.
        bounds: what connections may take.
    """
    config = uvicorn.Config(
        app,
        loop="uvloop",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",  # what strangers send is counted, not logged
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=connections.KEEP_ALIVE_SECONDS,
    )
    return connections.Server(config, context, bounds or connections.Bounds(), cut)


async def run(
    *,
    webhook: FastAPI,
    health: FastAPI,
    state: State,
    context: ssl.SSLContext,
    sockets: tuple[socket.socket, socket.socket],
    drain_seconds: float,
    linger_seconds: float = 0,
    metrics: Metrics | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then drain.

    At once the process says that it is not ready, and asks each client that it answers to connect
    anew. For the drain time it goes on serving, new connections too, since endpoints leave other
    nodes only by and by. Then it accepts no more, and finishes what is in flight. Connections that
    are idle are left to their clients for `linger_seconds`, and it goes when the last has gone.
    SIGINT while it drains ends all waiting; SIGTERM again changes nothing. SIGHUP means a terminal
    that has gone, where nobody said (`nohup`) that it means nothing.
    """
    cut = _counter(metrics)
    main = listener(webhook, context, cut, connections.Bounds(share=_MAIN_SHARE))
    plain = listener(health, None, cut, connections.Bounds(share=1 - _MAIN_SHARE))
    if metrics is not None:
        metrics.watch(lambda: {"seamless_connections": ("Open connections.", len(main.open))})
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        if stop.is_set():
            hurry.set()
        stop.set()

    for number in ending_signals() - {signal.SIGINT}:
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGINT, interrupt)
    serving = [
        asyncio.create_task(main.serve([sockets[0]])),
        asyncio.create_task(plain.serve([sockets[1]])),
    ]
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([*serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        state.draining = True
        log.info("draining for %g s", drain_seconds)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), drain_seconds)
        await main.leave(_LAST_WORD_SECONDS, linger_seconds, hurry)
    main.stop()
    await serving[0]
    plain.stop()  # last, so that probes are answered until the end
    await serving[1]
    stopping.cancel()


def _counter(metrics: Metrics | None) -> Callable[[str], None]:
    if metrics is None:
        return lambda _reason: None
    tally = metrics.tally(
        "seamless_connections_cut_total", "Connections cut off, by the bound they met.", "reason"
    )
    for reason in connections.REASONS:
        tally.add(reason, number=0)
    return tally.add
