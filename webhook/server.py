"""The webhook over HTTP: `/mutate` over TLS, health and metrics on the plain port.

The API server fails over to "unpatched" on anything but a review (`failurePolicy: Ignore`), so
every limit here answers quickly and clearly, and none lets a request pile up.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from webhook.admission import Answer
from webhook.metrics import CONTENT_TYPE, Metrics
from webhook.review import Request

log = logging.getLogger("webhook")

_OK: Final = 200
_JSON: Final = b"application/json"
_TEXT: Final = b"text/plain; charset=utf-8"
_DIGITS: Final = 18  # of a length that is worth parsing
# The API server's client keeps idle connections for 90 s: it must be the one to close them.
KEEP_ALIVE_SECONDS: Final = 120


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
    """What one process takes.

    Args:
        body_bytes: the largest body; two 3 MiB objects (etcd allows 1.5 MiB) and their frame.
        body_seconds: how long a body may take to arrive.
        in_flight: how many reviews may be read or answered at once.
    """

    body_bytes: int = 7 * 2**20
    body_seconds: float = 5.0
    in_flight: int = 200


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
    learn: Callable[[Request], Awaitable[None] | None] = lambda _request: None,
) -> FastAPI:
    """Build the app of the TLS port.

    Args:
        answer: decides a review.
        metrics: counts.
        state: tells when to ask clients to go elsewhere.
        limits: what is taken.
        learn: asked of each review; gives nothing where all that bears on it is known, else what
            to await, within its own bound, before it is answered anew.
    """
    app = FastAPI(title="Seamless Rollouts", openapi_url=None)
    endpoint = _Mutate(answer, metrics, state, limits, learn)
    app.router.routes.append(Route("/mutate", endpoint, methods=["POST"]))
    return app


class _RefusedError(Exception):
    """A request that is not answered as a review: its status code and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Mutate:
    """`POST /mutate`, spoken in ASGI itself.

    Request and response objects, and FastAPI's own validation of parameters that are not there,
    cost a third of what the decision does; what they would parse, `review.decode` does.
    """

    def __init__(
        self,
        answer: Callable[[bytes], Answer],
        metrics: Metrics,
        state: State,
        limits: Limits,
        learn: Callable[[Request], Awaitable[None] | None],
    ) -> None:
        self._answer = answer
        self._metrics = metrics
        self._state = state
        self._limits = limits
        self._learn = learn
        self._under_way = 0
        self._deadlines = _Deadlines(limits.body_seconds)
        metrics.watch_in_flight(lambda: self._under_way)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._under_way >= self._limits.in_flight:
            await self._refuse(_RefusedError(503, "too many requests in flight"), send)
            return
        self._under_way += 1
        try:
            await self._review(scope, receive, send)
        except _RefusedError as refused:
            await self._refuse(refused, send)
        finally:
            self._under_way -= 1

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
        if declared.isdigit() and (len(declared) > _DIGITS or int(declared) > limits.body_bytes):
            raise _too_large(limits)
        body = await self._deadlines.hold(_read(receive, limits))
        start = time.perf_counter()
        answered = self._answer(body)
        if answered.request is not None:
            learning = self._learn(answered.request)
            if learning is not None:
                await learning
                start = time.perf_counter()
                answered = self._answer(body)
        self._metrics.count(answered, time.perf_counter() - start)
        media = _JSON if answered.status == _OK else _TEXT
        await self._send(send, answered.status, media, answered.body, close=self._state.draining)

    async def _refuse(self, refused: _RefusedError, send: Send) -> None:
        self._metrics.refused.labels(str(refused.status)).inc()
        # What is left of an unread body must not be taken for the next request: close.
        await self._send(send, refused.status, _TEXT, f"{refused}\n".encode(), close=True)

    @staticmethod
    async def _send(send: Send, status: int, media: bytes, body: bytes, *, close: bool) -> None:
        headers = [(b"content-type", media), (b"content-length", b"%d" % len(body))]
        if close:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _Deadlines:
    """Bounds how long a body may take to arrive, with one look a while at all that are awaited.

    A timer for each request would cost more than the reading itself, which mostly is no waiting.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._begun: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._watching = False

    async def hold(self, reading: Coroutine[Any, Any, bytes]) -> bytes:
        """Await a body.

        Raises:
            _RefusedError: it did not arrive in time.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in one
        self._begun[task] = loop.time()
        if not self._watching:
            self._watching = True
            loop.call_later(self._seconds / 4, self._look, loop)
        try:
            return await reading
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            task.uncancel()
            why = f"the body took over {self._seconds:g} s to arrive"
            raise _RefusedError(408, why) from None
        finally:
            del self._begun[task]
            self._late.discard(task)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for task, begun in self._begun.items():
            if now - begun >= self._seconds and task not in self._late:
                self._late.add(task)
                task.cancel()
        self._watching = bool(self._begun)
        if self._watching:
            loop.call_later(self._seconds / 4, self._look, loop)


async def _read(receive: Receive, limits: Limits) -> bytes:
    """Read a body."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _RefusedError(400, "the body ended early")
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limits.body_bytes:
            raise _too_large(limits)
        if not message.get("more_body", False):
            return b"".join([*chunks, chunk]) if chunks else chunk
        chunks.append(chunk)


def _too_large(limits: Limits) -> _RefusedError:
    return _RefusedError(413, f"the body is larger than {limits.body_bytes} bytes")


def health_app(metrics: Metrics, state: State, problems: Callable[[], list[str]]) -> FastAPI:
    """Build the app of the plain port.

    Args:
        metrics: what `/metrics` shows.
        state: tells when to be not ready.
        problems: why the webhook is not ready; nothing where it is.
    """
    app = FastAPI(title="Seamless Rollouts health", openapi_url=None)

    @app.get("/livez")
    async def livez() -> Response:
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    async def readyz() -> Response:
        found = ["shutting down"] if state.draining else problems()
        if found:
            return PlainTextResponse("not ready: " + "; ".join(found) + "\n", 503)
        return PlainTextResponse("ok\n")

    @app.get("/metrics")
    async def metrics_text() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return app


class _Protocol(HttpToolsProtocol):
    """HTTP that does not wait for ever: uvicorn has no bound for a half-sent head."""

    head_seconds = 10.0
    _in_head = False
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Expect a first request, soon."""
        super().connection_made(transport)
        self._arm()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is whole; for its body, the app has a bound of its own."""
        self._in_head = False
        self._disarm()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Mostly a head comes whole, and needs no timer."""
        super().data_received(data)
        if self._in_head and self._timer is None:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """There is nothing to expect any more."""
        self._disarm()
        super().connection_lost(exc)

    def _arm(self) -> None:
        self._timer = self.loop.call_later(self.head_seconds, self.transport.close)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Server(uvicorn.Server):
    """A uvicorn that leaves signals to us: two of them share one process."""

    def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN202 - as in uvicorn
        from contextlib import nullcontext

        return nullcontext()


def _server(app: FastAPI, context: ssl.SSLContext | None) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            http=_Protocol,
            loop="uvloop",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=10,
            ssl_context_factory=None if context is None else lambda _config, _default: context,
        )
    )


async def run(
    *,
    webhook: FastAPI,
    health: FastAPI,
    state: State,
    context: ssl.SSLContext,
    sockets: tuple[socket.socket, socket.socket],
    drain_seconds: float,
    started: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    At once the process says that it is not ready and asks each client to connect anew; for the
    drain time it goes on serving, since endpoints leave other nodes only by and by; what is in
    flight then is finished.
    """
    main, plain = _server(webhook, context), _server(health, None)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    serving = [
        asyncio.create_task(main.serve([sockets[0]])),
        asyncio.create_task(plain.serve([sockets[1]])),
    ]
    stopping = asyncio.create_task(stop.wait())
    started()
    await asyncio.wait([*serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        state.draining = True
        log.info("draining for %g s", drain_seconds)
        await asyncio.sleep(drain_seconds)
    main.should_exit = True
    await serving[0]
    plain.should_exit = True  # last, so that probes are answered until the end
    await serving[1]
    stopping.cancel()
