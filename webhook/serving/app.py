"""The webhook's routes: `/mutate` on the TLS port, health and metrics on the plain one.

The API server fails over to "unpatched" on anything but a review (`failurePolicy: Ignore`), so
every limit here answers quickly and clearly, and none lets a request pile up. `serving.load` has
the limits on bodies, `serving.connections` those on connections.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from fastapi import FastAPI
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from webhook.decision.admission import Answer
from webhook.decision.review import Request
from webhook.serving import connections
from webhook.serving.dispatch import Direct
from webhook.serving.load import LARGE_BYTES, Limits, Load, RefusedError, too_large, weigh
from webhook.serving.metrics import CONTENT_TYPE, Metrics

log = logging.getLogger("webhook")

_PATH: Final = "/mutate"
_OK: Final = 200
_OURS: Final = frozenset({408, 413, 503})  # what a request met that may have been in order
_JSON: Final = b"application/json"
_TEXT: Final = b"text/plain; charset=utf-8"
_LIMITS: Final = Limits()
_DIGITS: Final = 18  # of a length that is worth parsing


Learn = Callable[[Request], Callable[[], Awaitable[None]] | None]
"""Asked of a review: none where all that bears on it is known, else what to call and await."""

Observe = Callable[[Answer, float, Scope], None]
"""Told of an answer, of the seconds that it took, and of the HTTP request (an ASGI scope)."""


_Decided = tuple[Answer, float, Callable[[], Awaitable[None]] | None]


class State:
    """What the two ports share: whether this process is on its way out."""

    def __init__(self) -> None:
        self.draining = False


def webhook_app(
    answer: Callable[[bytes], Answer],
    metrics: Metrics,
    state: State,
    *,
    limits: Limits = _LIMITS,
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
        self._load = Load(limits)
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
            await self._refuse(RefusedError(503, "too many requests in flight"), send)
            return
        load.under_way += 1
        try:
            await self._review(scope, receive, send)
        except RefusedError as refused:
            await self._refuse(refused, send)
        except MemoryError:
            await self._refuse(RefusedError(503, "out of memory"), send)
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
            raise RefusedError(415, "expected the content type application/json")
        size = 0
        if declared.isdigit():
            size = int(declared) if len(declared) <= _DIGITS else limits.body_bytes + 1
            if size > limits.body_bytes:
                raise too_large(limits)
        body = await self._load.read(receive, size)
        try:
            if len(body) > LARGE_BYTES:
                weigh(body, limits)
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
        if len(body) <= LARGE_BYTES:
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

    async def _refuse(self, refused: RefusedError, send: Send) -> None:
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
