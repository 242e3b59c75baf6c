"""The demo application: what it answers, and how it ends."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from webhook.demo import app

_SECONDS = 10.0


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The application, as the image would start it; gives its process and port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where = ("--host", "127.0.0.1", "--port", str(port), "--pod", "web-1")
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(app.__file__)), *where, *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        if "--start" not in arguments:
            assert process.stdout is not None
            assert "serving" in process.stdout.readline()
        yield process, port
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def ask(
    port: int, path: str = "/", method: str = "POST", body: str = ""
) -> tuple[int, dict[str, str], Any]:
    """Ask once."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), json.loads(answer.read())
    finally:
        connection.close()


def test_it_names_its_pod_and_version() -> None:
    """In a header, and in the body."""
    with running("--version", "7") as (_, port):
        status, headers, body = ask(port, "/order", body="x" * 5000)
    assert (status, headers["X-Pod-Name"]) == (200, "web-1")
    assert body == {"pod": "web-1", "version": "7"}


def test_it_is_not_ready_before_it_has_started() -> None:
    """It listens by then, or does not."""
    with running("--start", "60", "--listen-early") as (_, port):
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                status = ask(port, "/healthz", "GET")[0]
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
        assert status == 503
    with running("--start", "60") as (_, port), pytest.raises(ConnectionRefusedError):
        ask(port)


@pytest.mark.parametrize(
    ("arguments", "answered"),
    [
        (("--term", "exit"), False),
        (("--term", "drain"), True),
        (("--term", "linger", "--linger", "0.1"), True),
    ],
)
def test_sigterm_cuts_requests_off_or_lets_them_end(
    arguments: tuple[str, ...],
    answered: bool,  # noqa: FBT001
) -> None:
    """As --term says; the process ends by itself, with status 0."""
    found: list[object] = []

    def request(port: int) -> None:
        try:
            found.append(ask(port)[0])
        except (OSError, http.client.HTTPException) as error:
            found.append(error)

    with running("--request", "0.5", *arguments) as (process, port):
        thread = threading.Thread(target=request, args=(port,))
        thread.start()
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        thread.join()
        assert process.wait(_SECONDS) == 0
    assert (found == [200]) is answered


def test_kept_connections_are_told_that_it_ends() -> None:
    """With `Connection: close`, while it lingers."""
    with running("--term", "linger", "--linger", "5") as (process, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
        connection.request("POST", "/")
        assert connection.getresponse().read()
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert "SIGTERM" in process.stdout.readline()
        connection.request("POST", "/")
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Connection"]) == (200, "close")
        connection.close()


def test_it_crashes_only_where_that_is_allowed() -> None:
    """With status 1."""
    with running() as (process, port):
        assert ask(port, "/crash")[0] == 200
        assert process.poll() is None
    with running("--crash") as (process, port):
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(port, "/crash")
        assert process.wait(_SECONDS) == 1


@pytest.mark.parametrize(
    "text",
    [
        b"\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 1000 + b"\r\n",
        b"x" * 200_000,
    ],
)
def test_what_is_no_request_ends_its_connection_and_nothing_else(text: bytes) -> None:
    """The next one is answered."""
    with running() as (_, port):
        with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as raw:
            try:
                raw.sendall(text)
                assert not raw.recv(100).startswith(b"HTTP/1.1 200")
            except ConnectionError:
                pass
        assert ask(port)[0] == 200


def test_a_port_that_is_taken_is_told_in_a_line() -> None:
    """With exit status 2."""
    with running() as (_, port):
        done = subprocess.run(
            [sys.executable, str(Path(app.__file__)), "--host", "127.0.0.1", "--port", str(port)],
            capture_output=True,
            check=False,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
