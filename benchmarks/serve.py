"""The webhook over TLS beside the same stack that answers a constant: throughput and latency.

Both serve at once, in processes of their own on loopback, and are driven in turn, so that ratios
hold on a noisy machine. `python benchmarks/serve.py [ROUNDS [SECONDS]]`
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import socket
import ssl
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import uvloop
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

sys.path.insert(0, str(__import__("pathlib").Path(__file__).parent))

from decide import admission_review, admitted, deployment

from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration
from webhook.serving import app as server
from webhook.serving import run
from webhook.serving.metrics import Metrics
from webhook.tls import certificates

CONNECTIONS = (1, 8, 50)


def constant_app(content: bytes) -> FastAPI:
    """Build the ceiling: FastAPI reads the body and answers the same bytes each time."""
    app = FastAPI()

    @app.post("/mutate")
    async def mutate(request: Request) -> Response:
        await request.body()
        return Response(content, media_type="application/json")

    return app


def webhook_app() -> FastAPI:
    """Build the webhook as `seamless serve` does."""
    return server.webhook_app(Admission(Configuration()).answer, Metrics(), server.State())


def run_server(app: Callable[[], FastAPI], opened: socket.socket) -> None:
    """Serve one app over TLS until SIGTERM."""
    context = certificates.new_context()
    pair = certificates.self_signed(["localhost"], certificates.utc_now())
    certificates.serve(context, pair)
    run.tune_garbage_collector()
    state = server.State()
    spare = socket.create_server(("127.0.0.1", 0))
    uvloop.run(
        run.run(
            webhook=app(),
            health=server.health_app(Metrics(), state, list),
            state=state,
            context=context,
            sockets=(opened, spare),
            drain_seconds=0,
        )
    )


class Client(asyncio.Protocol):
    """Sends one request after the other on one connection, and notes how long each took."""

    def __init__(self, request: bytes, until: float, times: list[float]) -> None:
        self.request, self.until, self.times = request, until, times
        self.missing = -1
        self.head = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self.transport = transport
        self.send()

    def send(self) -> None:
        """Send the next request, if there is time."""
        now = time.perf_counter()
        if now >= self.until:
            self.transport.close()
            self.done.set_result(None)
            return
        self.start, self.missing, self.head = now, -1, b""
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Read one answer."""
        if self.missing < 0:
            self.head += data
            head, blank, body = self.head.partition(b"\r\n\r\n")
            if not blank:
                return
            assert head.startswith(b"HTTP/1.1 200"), head
            length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
            self.missing = int(length) - len(body)
        else:
            self.missing -= len(data)
        if self.missing == 0:
            self.times.append(time.perf_counter() - self.start)
            self.send()


async def drive(port: int, request: bytes, connections: int, seconds: float) -> list[float]:
    """Drive one server; gives the latency of each request in seconds."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    times: list[float] = []
    until = time.perf_counter() + seconds
    loop = asyncio.get_running_loop()
    clients = [
        (
            await loop.create_connection(
                lambda: Client(request, until, times), "127.0.0.1", port, ssl=context
            )
        )[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*(client.done for client in clients))
    return times


def percentile(times: list[float], share: float) -> float:
    """Give a percentile, in milliseconds."""
    return sorted(times)[int(len(times) * share)] * 1e3


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 1.5
    admission = Admission(Configuration())
    plain, newer = deployment(6_600, "1.28"), deployment(6_600, "1.29")
    body = admission_review(newer, plain)
    content = admission.answer(body).body
    changed, stored = admitted(admission, newer), admitted(admission, plain)
    head = b"POST /mutate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

    def framed(review: bytes) -> bytes:
        return head + b"Content-Length: %d\r\n\r\n" % len(review) + review

    requests = {
        "first contact": framed(body),
        "new image": framed(admission_review(changed, stored)),
    }
    sockets = [socket.create_server(("127.0.0.1", 0), backlog=256) for _ in range(2)]
    context = multiprocessing.get_context("fork")
    makers: list[Callable[[], FastAPI]] = [lambda: constant_app(content), webhook_app]
    processes = [
        context.Process(target=run_server, args=(app, opened))
        for app, opened in zip(makers, sockets, strict=True)
    ]
    for process in processes:
        process.start()
    ports = [opened.getsockname()[1] for opened in sockets]
    try:
        print(f"14 kB reviews ({len(body):,} bytes) over TLS with keep-alive, one worker\n")
        print("| connections | review | constant | webhook | share | p99 constant | p99 | ratio |")
        print("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        for connections in CONNECTIONS:
            for name, request in requests.items():
                row(name, connections, request, ports, rounds, seconds)
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()
        for process in processes:
            process.join()


def row(
    name: str, connections: int, request: bytes, ports: list[int], rounds: int, seconds: float
) -> None:
    """Measure one line of the table: medians over the rounds of figures taken in turn."""
    rates: tuple[list[float], list[float]] = ([], [])
    tails: tuple[list[float], list[float]] = ([], [])
    for port in ports:
        uvloop.run(drive(port, request, connections, 0.3))  # warm
    for _ in range(rounds):
        for index, port in enumerate(ports):
            times = uvloop.run(drive(port, request, connections, seconds))
            rates[index].append(len(times) / seconds)
            tails[index].append(percentile(times, 0.99))
    ratio = statistics.median(b / a for a, b in zip(*rates, strict=True))
    tail = statistics.median(b / a for a, b in zip(*tails, strict=True))
    low, high = (statistics.median(each) for each in rates)
    p_low, p_high = (statistics.median(each) for each in tails)
    print(
        f"| {connections} | {name} | {low:,.0f}/s | {high:,.0f}/s | {ratio:.0%} "
        f"| {p_low:.2f} ms | {p_high:.2f} ms | {tail:.2f} x |",
        flush=True,
    )


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main()
