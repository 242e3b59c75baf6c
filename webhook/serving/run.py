"""Listen, serve, drain: the life of one process that serves the webhook's two ports."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import ssl
from collections.abc import Callable
from typing import Final

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from webhook.serving import connections
from webhook.serving.app import State
from webhook.serving.metrics import Metrics
from webhook.serving.signals import ending_signals

log = logging.getLogger("webhook")

# Of the file descriptors for connections, those of the webhook's port; the rest is for probes.
_MAIN_SHARE: Final = 0.7
# For a connection that was opened in the last moment to say what it wants.
_LAST_WORD_SECONDS: Final = 2.0


def tune_garbage_collector() -> None:
    """Keep the garbage collector from looking through each review while it is being decided.

    A review is many small objects that all go at once, by reference counts alone; the collector's
    usual threshold is passed several times a request, and each time it would look at all of them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


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
