"""The load generator: its rate, its honesty, and what it calls what it sees."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import resource
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from webhook.demo import app
from webhook.proof import load as module
from webhook.proof.failures import Failure, Kind
from webhook.proof.load import Generator, Job, JobError, check, seen_as
from webhook.proof.reading import Reading
from webhook.proof.verdict import Load

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Pod-Name: web-1\r\n\r\nok"
_RATE = 500
_REQUESTS = 600


@contextlib.asynccontextmanager
async def served(handle: Handle) -> AsyncIterator[str]:
    """A server on loopback; gives its URL."""
    tasks: set[asyncio.Task[Any]] = set()

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await handle(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            tasks.discard(task)

    server = await asyncio.start_server(guarded, "127.0.0.1", 0, backlog=512)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/order"
    finally:
        server.close()
        while tasks:  # the client has gone, so each comes to its end
            await asyncio.wait(tasks)


async def loaded(job: Job) -> Load:
    """Send a job's requests in this process; gives what was reported."""
    reading = Reading(job.rate)
    await Generator(job, lambda line: reading.take(line, 0.0)).run()
    return reading.load


def against(handle: Handle, **given: Any) -> Load:
    """Send a few requests to a server."""

    async def run() -> Load:
        async with served(handle) as url:
            usual: dict[str, Any] = {"rate": 50, "seconds": 0.2, "timeout": 1.0}
            return await loaded(Job(url, **usual | given))

    return asyncio.run(run())


async def request(reader: asyncio.StreamReader) -> bytes:
    """Read a request without a body, or with one of two bytes."""
    head = await reader.readuntil(b"\r\n\r\n")
    if b"Content-Length: 2" in head:
        await reader.readexactly(2)
    return head


async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer on and on."""
    while True:
        await request(reader)
        writer.write(_OK)


@pytest.fixture(scope="module")
def application() -> Iterator[str]:
    """The demo application, as a process; gives its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(Path(app.__file__)), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert b"serving" in process.stdout.readline()
    yield f"http://127.0.0.1:{port}/order"
    process.terminate()
    process.wait()
    process.stdout.close()


def test_five_hundred_a_second_take_less_than_one_core(application: str) -> None:
    """Every request that was due is sent, once, and a second's worth costs less than a second."""
    job = Job(application, rate=_RATE, seconds=_REQUESTS / _RATE)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "webhook", "load"],
        input=job.dump(),
        capture_output=True,
        check=True,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    reading = Reading(_RATE)
    for line in done.stdout.splitlines():
        reading.take(line, 0.0)
    load = reading.load
    assert (load.due, load.sent, load.requests) == (_REQUESTS, _REQUESTS, _REQUESTS)
    assert not load.failures
    due = [round(each * _RATE) for each in sorted(load.at)]
    assert due == list(range(_REQUESTS))
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert (
        spent / _REQUESTS * _RATE < 1.0 + 1.0 * _RATE / _REQUESTS
    )  # its start is a second at most


def test_half_the_connections_are_fresh_and_half_are_kept() -> None:
    """Side by side; fresh ones ask to be closed."""
    heads: list[bytes] = []
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            heads.append(await request(reader))
            writer.write(_OK)

    load = against(handle)
    closing = [each for each in heads if b"Connection: close" in each]
    assert (load.requests, len(heads), len(closing)) == (10, 10, 5)
    assert connections < 10
    assert load.answered["web-1"]


@pytest.mark.parametrize(("connections", "fresh"), [("fresh", 10), ("kept", 0)])
def test_the_connections_can_be_all_of_one_sort(connections: str, fresh: int) -> None:
    """As `--connections` says."""
    heads: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append(await request(reader))
            writer.write(_OK)

    against(handle, connections=connections)
    assert sum(b"Connection: close" in each for each in heads) == fresh


def test_method_headers_and_body_are_those_of_the_job() -> None:
    """POST unless told otherwise."""
    heads: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await request(reader))
        writer.write(_OK)

    against(handle, body="hi", headers={"X-Key": "secret"}, connections="fresh")
    assert all(each.startswith(b"POST /order HTTP/1.1\r\n") for each in heads)
    assert all(b"X-Key: secret" in each and b"Content-Length: 2" in each for each in heads)


def test_a_stall_holds_no_request_up_and_counts_for_all_of_them() -> None:
    """An open loop: each is sent when it is due, whatever became of those before it."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        await asyncio.sleep(0.5)
        writer.write(_OK)

    load = against(handle, connections="fresh")
    assert (load.sent, load.requests) == (10, 10)
    assert all(took >= 0.5 for took in load.took)


async def hangs(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Answer never."""
    await reader.read()


async def closes(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Take the request, then close."""
    await request(reader)


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take the request, then reset."""
    await request(reader)
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def fails(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer 503."""
    await request(reader)
    writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")


async def breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer a part."""
    await request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\npart")


async def babbles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer no HTTP."""
    await request(reader)
    writer.write(b"hello\r\n\r\n")


@pytest.mark.parametrize(
    ("handle", "kind", "status"),
    [
        (hangs, Kind.TIMEOUT, None),
        (closes, Kind.CLOSED, None),
        (resets, Kind.RESET, None),
        (fails, Kind.STATUS, 503),
        (breaks_off, Kind.CLOSED, None),
        (babbles, Kind.PROTOCOL, None),
    ],
)
def test_what_a_server_does_is_called_by_its_name(
    handle: Handle, kind: Kind, status: int | None
) -> None:
    """And each request ends, once."""
    load = against(handle, timeout=0.3)
    assert {(each.kind, each.status) for each in load.failures} == {(kind, status)}
    assert (load.requests, load.at) == (10, [])
    assert all(each.connected for each in load.failures)


def test_a_port_that_nobody_listens_on_refuses() -> None:
    """There was no connection."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/"
        load = asyncio.run(loaded(Job(url, rate=50, seconds=0.1)))
    assert {(each.kind, each.connected) for each in load.failures} == {(Kind.REFUSED, False)}
    assert load.requests == 5


@pytest.mark.parametrize("method", ["POST", "GET", "PUT"])
def test_nothing_is_sent_twice(method: str) -> None:
    """Not even what HTTP allows to be repeated, on a kept connection that turns out closed."""
    seen = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        await request(reader)
        seen += 1
        writer.write(_OK)
        await request(reader)
        seen += 1

    load = against(handle, method=method, connections="kept", rate=20, seconds=0.5)
    assert seen == load.sent == load.requests == 10
    assert len(load.failures) == 5
    assert {each.reused for each in load.failures} == {True}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.EMFILE, "x"), Kind.OWN),
        (OSError(errno.EADDRNOTAVAIL, "x"), Kind.OWN),
        (OSError(errno.ENOBUFS, "x"), Kind.OWN),
        (OSError(errno.EHOSTUNREACH, "x"), Kind.UNREACHABLE),
        (OSError(errno.ETIMEDOUT, "x"), Kind.TIMEOUT),
        (OSError(errno.EPIPE, "x"), Kind.RESET),
        (TimeoutError(), Kind.TIMEOUT),
        (ssl.SSLError(1, "x"), Kind.TLS),
        (aiohttp.ServerDisconnectedError(), Kind.CLOSED),
        (aiohttp.ClientPayloadError("x"), Kind.CLOSED),
        (ValueError("x"), Kind.PROTOCOL),
    ],
)
def test_an_error_is_the_servers_or_our_own(error: Exception, kind: Kind) -> None:
    """Ports, descriptors and memory are ours."""
    assert seen_as(error)[0] is kind
    wrapped = aiohttp.ClientConnectionError("wrapped")
    wrapped.__cause__ = error
    if isinstance(error, OSError) and error.errno and kind is not Kind.TLS:
        assert seen_as(wrapped)[0] is kind


def test_want_of_descriptors_gives_no_verdict() -> None:
    """It is never reported as the server's."""

    async def run() -> Load:
        async with served(hangs) as url:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            taken = [socket.socket() for _ in range(3)]
            resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1].fileno() + 8, hard))
            try:
                job = Job(url, rate=200, seconds=0.3, timeout=0.5, connections="fresh")
                return await loaded(job)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for each in taken:
                    each.close()

    load = asyncio.run(run())
    own = [each for each in load.failures if each.kind is Kind.OWN]
    assert own
    assert any("failed here: Too many open files" in each for each in load.faults())


def test_more_than_descriptors_allow_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the number that is needed, and the number that there is."""
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (1000, 1000))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    with pytest.raises(JobError, match="need 5100 file descriptors: there are 1000"):
        check(Job("http://x/", rate=500, timeout=10))


def test_a_rate_that_may_use_up_the_ports_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is held for a minute."""
    monkeypatch.setattr(module, "_ports", lambda: 28_232)
    assert not check(Job("http://x/", rate=500, timeout=1))
    (warning,) = check(Job("http://x/", rate=500, timeout=1, connections="fresh"))
    assert "500 fresh connections a second may use up the 28232 local ports" in warning


@pytest.mark.parametrize("text", ["", "[]", "{", '{"url": "http://x/", "speed": 1}', "null"])
def test_a_job_that_is_none_is_refused_in_one_line(text: str) -> None:
    """With exit status 2."""
    done = subprocess.run(
        [sys.executable, "-m", "webhook", "load"],
        input=text,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_a_job_is_read_as_it_was_written() -> None:
    """Headers and all."""
    job = Job("http://x/", headers={"A": "ü"}, body="{}", connections="kept")
    assert Job.read(job.dump()) == job


def test_a_failure_is_reported_with_all_that_is_known() -> None:
    """What `Reading` gives is what the generator saw."""
    lines: list[str] = []

    async def run() -> None:
        async with served(fails) as url:
            await Generator(Job(url, rate=20, seconds=0.1), lines.append).run()

    asyncio.run(run())
    failed = [each for line in lines for each in json.loads(line)["failed"]]
    assert set(failed[0]) == set(Failure.__slots__)
