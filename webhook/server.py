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
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import uvicorn
from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from webhook.admission import Answer
from webhook.metrics import CONTENT_TYPE, Metrics

log = logging.getLogger("webhook")

JSON: Final = "application/json"
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
    prepare: Callable[[bytes], Awaitable[None]] | None = None,
) -> FastAPI:
    """Build the app of the TLS port.

    Args:
        answer: decides a review.
        metrics: counts.
        state: tells when to ask clients to go elsewhere.
        limits: what is taken.
        prepare: awaited with each body first; may look something up, within its own bound.
    """
    app = FastAPI(title="Seamless Rollouts", openapi_url=None)
    under_way = 0

    async def mutate(request: Request) -> Response:
        nonlocal under_way
        if under_way >= limits.in_flight:
            return refuse(503, "too many requests in flight")
        under_way += 1
        metrics.in_flight.inc()
        try:
            return await review(request)
        finally:
            under_way -= 1
            metrics.in_flight.dec()

    async def review(request: Request) -> Response:
        content_type = request.headers.get("content-type", "")
        if content_type.partition(";")[0].strip().lower() != JSON:
            return refuse(415, f"expected the content type {JSON}")
        try:
            async with asyncio.timeout(limits.body_seconds):
                body = await _read(request, limits.body_bytes)
        except TimeoutError:
            return refuse(408, f"the body took over {limits.body_seconds:g} s to arrive")
        except ClientDisconnect:
            return refuse(400, "the body ended early")
        if body is None:
            return refuse(413, f"the body is larger than {limits.body_bytes} bytes")
        if prepare is not None:
            await prepare(body)
        start = time.perf_counter()
        answered = answer(body)
        metrics.count(answered, time.perf_counter() - start)
        media = JSON if answered.status == 200 else "text/plain; charset=utf-8"  # noqa: PLR2004
        return respond(Response(answered.body, answered.status, media_type=media))

    def refuse(status: int, text: str) -> Response:
        metrics.refused.labels(str(status)).inc()
        response = PlainTextResponse(text + "\n", status)
        # What is left of an unread body must not be taken for the next request.
        response.headers["connection"] = "close"
        return response

    def respond(response: Response) -> Response:
        if state.draining:
            response.headers["connection"] = "close"
        return response

    # A plain route: what FastAPI would parse and validate here, `review.decode` does.
    app.add_route("/mutate", mutate, methods=["POST"])
    return app


async def _read(request: Request, limit: int) -> bytes | None:
    """Read a body; `None` for one that is too large, which is left unread."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > len(str(limit)) or int(declared) > limit):
        return None
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


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


class _Server(uvicorn.Server):
    """A uvicorn that leaves signals to us: two of them share one process."""

    def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN202 - as in uvicorn
        from contextlib import nullcontext

        return nullcontext()


def _server(app: FastAPI, context: ssl.SSLContext | None) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            http="httptools",
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
