"""`seamless serve` as a process: TLS, keep-alive, draining, workers, wrong use."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from webhook import cli
from webhook.certificates import self_signed, utc_now
from webhook.server import _Protocol

REVIEW = Path("examples/review.json").read_bytes()
JSON = {"Content-Type": "application/json"}
PATIENCE_SECONDS = 30


class Server:
    """A running `seamless serve` on ports of its own."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "webhook",
                "serve",
                "--host=127.0.0.1",
                "--port=0",
                "--health-port=0",
                *arguments,
            ],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self.port = self._port(r"https://127\.0\.0\.1:(\d+)/mutate")
        self.health_port = self._port(r"http://127\.0\.0\.1:(\d+)")
        self.until(lambda: self.health("/readyz")[0] == 200)

    def _port(self, pattern: str) -> int:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            found = re.search(pattern, line)
            if found:
                return int(found[1])
        message = f"it ended with {self.process.wait()}"
        raise AssertionError(message)

    def until(self, done: Callable[[], bool]) -> None:
        """Wait for something, within reason."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                if done():
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise AssertionError("it did not happen in time")

    def health(self, path: str) -> tuple[int, str]:
        """Ask the plain port."""
        connection = http.client.HTTPConnection("127.0.0.1", self.health_port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def connect(self, context: ssl.SSLContext | None = None) -> http.client.HTTPSConnection:
        """Open a connection to the TLS port, trusting anything unless told otherwise."""
        if context is None:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=context)

    def stop(self) -> int:
        """End it as Kubernetes does; gives its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE_SECONDS)
        finally:
            self.process.kill()
            if self.process.stderr is not None:
                self.process.stderr.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start servers, and end those that a test leaves running."""
    started: list[Server] = []

    def start(*arguments: str) -> Server:
        started.append(Server(*arguments))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop()
        elif server.process.stderr is not None:
            server.process.stderr.close()


def ask(connection: http.client.HTTPSConnection) -> tuple[http.client.HTTPResponse, Any]:
    """Send a review; gives the answer and its content."""
    connection.request("POST", "/mutate", REVIEW, JSON)
    answer = connection.getresponse()
    return answer, json.loads(answer.read())


def test_it_serves_on_a_certificate_of_its_own_and_keeps_connections(
    serve: Callable[..., Server],
) -> None:
    """With no certificate given; the API server keeps its connections for 90 seconds."""
    server = serve("--drain-seconds=0")
    connection = server.connect()
    for _ in range(3):
        answer, content = ask(connection)
        assert answer.status == 200
        assert content["response"]["allowed"]
        assert answer.getheader("connection") is None
        assert connection.sock is not None
    connection.close()
    assert server.health("/livez") == (200, "ok\n")
    assert "seamless_build_info" in server.health("/metrics")[1]
    assert server.stop() == 0


def test_a_given_certificate_is_served(serve: Callable[..., Server], tmp_path: Path) -> None:
    """Clients that trust it are content."""
    pair = self_signed(["127.0.0.1"], utc_now())
    (tmp_path / "tls.crt").write_bytes(pair.certificate)
    (tmp_path / "tls.key").write_bytes(pair.key)
    server = serve(
        f"--tls-cert={tmp_path / 'tls.crt'}",
        f"--tls-key={tmp_path / 'tls.key'}",
        "--drain-seconds=0",
    )
    context = ssl.create_default_context(cadata=pair.certificate.decode())
    connection = server.connect(context)
    assert ask(connection)[0].status == 200
    connection.close()


def test_a_request_that_is_never_sent_to_its_end_is_cut_off() -> None:
    """Neither a silent connection nor half a head holds a place for ever."""

    class Hasty(_Protocol):
        head_seconds = 0.2

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def body() -> None:
        config = uvicorn.Config(app, http=Hasty, lifespan="off", log_config=None)
        config.load()
        state = uvicorn.server.ServerState()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Hasty(config=config, server_state=state, app_state={}), "127.0.0.1", 0
        )
        port = server.sockets[0].getsockname()[1]
        for sent in (b"", b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            assert await asyncio.wait_for(reader.read(), PATIENCE_SECONDS) == b""
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):  # a whole request, and a pause that is longer than a head may take
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
            await asyncio.sleep(0.5)
        writer.close()
        server.close()

    asyncio.run(body())


def test_on_sigterm_it_drains_before_it_goes(serve: Callable[..., Server]) -> None:
    """Not ready at once, still serving with `Connection: close`, then gone with status 0."""
    server = serve("--drain-seconds=2")
    server.process.send_signal(signal.SIGTERM)
    server.until(lambda: server.health("/readyz") == (503, "not ready: shutting down\n"))
    connection = server.connect()
    answer, content = ask(connection)
    connection.close()
    assert content["response"]["allowed"]
    assert answer.getheader("connection") == "close"
    assert server.process.wait(PATIENCE_SECONDS) == 0


def test_workers_share_the_ports_and_their_metrics(serve: Callable[..., Server]) -> None:
    """A worker that dies is replaced; what all of them counted is added up."""
    server = serve("--workers=2", "--drain-seconds=0")
    for _ in range(8):
        connection = server.connect()
        assert ask(connection)[0].status == 200
        connection.close()
    counted = 'kind="Deployment",operation="CREATE",outcome="patched",reason=""} 8.0'
    server.until(lambda: counted in server.health("/metrics")[1])
    assert "seamless_certificate_expiry_timestamp_seconds" in server.health("/metrics")[1]
    assert "seamless_requests_in_flight" in server.health("/metrics")[1]
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    before = children.read_text().split()
    assert len(before) == 2
    os.kill(int(before[0]), signal.SIGKILL)
    server.until(lambda: set(children.read_text().split()) != set(before))
    connection = server.connect()
    assert ask(connection)[0].status == 200
    connection.close()
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tls-cert=x"], "--tls-cert and --tls-key go together"),
        (["--tls-cert=/none", "--tls-key=/none"], "/none: No such file"),
        (["--config=/none.yaml"], "/none.yaml: No such file"),
        (["--port=99999"], "from 0 to 65535"),
        (["--port=x"], "from 0 to 65535"),
        (["--workers=0"], "from 1 to 64"),
        (["--drain-seconds=-1"], "from 0 to 3600"),
        (["--drain-seconds=nan"], "from 0 to 3600"),
        (["--host=300.1.1.1"], "cannot listen on 300.1.1.1"),
        (["--pony"], "--pony"),
        (["--log-format=xml"], "xml"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what was wrong, and never shows a traceback."""
    assert cli.main(["serve", "--port=0", "--health-port=0", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("seamless serve: ")
    assert error.count("\n") == 1


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """One line says which."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--host=127.0.0.1", f"--port={port}"]) == 2
    assert f"port {port}: Address already in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scop: cluster", "scop: unknown key; known are scope, mode,"),
        ("scope: all", "scope: 'all': Input should be 'opt-in' or 'cluster'"),
        ("precheck: {imag: x}", "precheck.imag: unknown key"),
        ("defaults: {min-ready: soon}", 'defaults.min-ready: "soon"'),
        ("defaults: {min-redy: 30}", "did you mean min-ready?"),
        ("excludedNamespaces: [A_b]", "expected a namespace's name"),
        ("[1", "not YAML"),
        ("- a", "expected a mapping"),
        ("kinds: [Pod]", "kinds.0"),
        ("precheck: {runAsUser: 0}", "precheck.runAsUser"),
    ],
)
def test_a_bad_configuration_is_named_with_what_would_be_right(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown keys are errors, as are values that mean nothing."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert cli.main(["serve", "--port=0", "--health-port=0", f"--config={path}"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
