"""Leaving without a loss: the order of not ready, `Connection: close`, finishing, and exit."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.replicas import LINGER_SECONDS, Drill
from tests.servers import PATIENCE_SECONDS, REVIEW, Server, ask, trusting
from tests.serving.test_load import HEAD, Running, running, until

REQUEST = HEAD + b"Content-Length: %d\r\n\r\n" % len(REVIEW) + REVIEW


def test_rolling_one_of_two_replicas_loses_nothing() -> None:
    """Under steady load, with a client that sends each review once; `make drill` does it longer.

    A replica that is killed does take something along: a count that cannot rise proves nothing.
    """

    async def body() -> None:
        drill = Drill(
            "--drain-seconds=1.5", f"--linger-seconds={LINGER_SECONDS}", each_second=200, delay=0.3
        )
        async with drill.load():
            for _ in range(2):
                await drill.roll()
            rolled = drill.take()
            for _ in range(5):  # one may have nothing in flight just then
                await drill.kill()
                killed = drill.take()
                if killed.lost:
                    break
        assert not rolled.lost
        assert rolled.answered > 50
        assert rolled.ends == {"0": 2}
        assert killed.lost
        assert killed.ends == {"-9": 1}

    asyncio.run(body())


async def leave(server: Running, fresh: float = PATIENCE_SECONDS, idle: float = 0) -> None:
    """Have it leave."""
    await server.listener.leave(fresh, idle, asyncio.Event())


async def answered(reader: asyncio.StreamReader) -> bytes:
    """Read until the end; gives the first line."""
    answer = await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)
    return answer.partition(b"\r\n")[0]


def test_a_connection_opened_in_the_last_moment_may_say_what_it_wants() -> None:
    """Its client has not used it before, and would not try again."""

    async def body() -> None:
        async with running() as server:
            reader, writer = await server.connect()
            leaving = asyncio.create_task(leave(server))
            await asyncio.sleep(0.2)
            assert not leaving.done()
            writer.write(REQUEST)
            assert await answered(reader) == b"HTTP/1.1 200 OK"
            writer.close()
            await leaving
            assert len(server.listener.open) == 0

    uvloop.run(body())


def test_a_connection_that_never_asks_does_not_hold_up_the_end() -> None:
    """The last word has a time limit."""

    async def body() -> None:
        async with running() as server:
            reader, writer = await server.connect()
            await leave(server, 0.2)
            assert await asyncio.wait_for(reader.read(), PATIENCE_SECONDS) == b""
            writer.close()

    uvloop.run(body())


def test_an_idle_connection_is_not_closed_over_a_request_that_has_arrived() -> None:
    """What the kernel holds already is read and answered first."""

    async def body() -> None:
        async with running() as server:
            with socket.create_connection(("127.0.0.1", server.port)) as opened:
                opened.settimeout(PATIENCE_SECONDS)
                loop = asyncio.get_running_loop()
                secure = await loop.run_in_executor(
                    None, lambda: trusting().wrap_socket(opened, do_handshake_on_connect=True)
                )
                with secure:
                    secure.sendall(REQUEST)
                    first = await loop.run_in_executor(None, secure.recv, 65536)
                    assert first.startswith(b"HTTP/1.1 200")
                    await until(lambda: not any(each.busy for each in server.listener.open))
                    secure.sendall(REQUEST)  # the event loop has no chance to read it before
                    leaving = asyncio.create_task(leave(server))
                    rest = await loop.run_in_executor(None, lambda: read_all(secure))
                    assert b"HTTP/1.1 200 OK" in rest
                    secure.close()
                    await leaving

    uvloop.run(body())


def read_all(opened: Any) -> bytes:
    """Read until the end."""
    found = b""
    while chunk := opened.recv(65536):
        found += chunk
    return found


def test_an_idle_connection_is_left_to_its_client() -> None:
    """A request that comes on it after all is answered, and then it is closed."""

    async def body() -> None:
        async with running() as server:
            lines = [await server.connect() for _ in range(2)]
            for reader, writer in lines:
                writer.write(REQUEST)
                await reader.readuntil(b"}}")
            leaving = asyncio.create_task(leave(server, 0, PATIENCE_SECONDS))
            await asyncio.sleep(0.2)
            assert not leaving.done()
            server.state.draining = True
            (reader, writer), (_, other) = lines
            writer.write(REQUEST)
            answer = await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)
            assert b"HTTP/1.1 200 OK" in answer
            assert b"connection: close" in answer
            writer.close()
            other.close()
            await leaving

    uvloop.run(body())


def test_whom_the_kernel_has_let_in_is_answered() -> None:
    """A connection that waits to be accepted when the last moment comes is no less welcome."""

    async def body() -> None:
        async with running() as server:
            loop = asyncio.get_running_loop()
            with socket.create_connection(("127.0.0.1", server.port)) as opened:
                leaving = asyncio.create_task(leave(server))

                def talk() -> bytes:
                    opened.settimeout(PATIENCE_SECONDS)
                    with trusting().wrap_socket(opened) as secure:
                        secure.sendall(REQUEST)
                        return secure.recv(65536)

                assert (await loop.run_in_executor(None, talk)).startswith(b"HTTP/1.1 200")
                await leaving

    uvloop.run(body())


def test_sigterm_again_changes_nothing(serve: Callable[..., Server]) -> None:
    """It goes on draining, and serving."""
    server = serve("--drain-seconds=1.5")
    server.process.send_signal(signal.SIGTERM)
    server.until(lambda: server.health("/readyz") == (503, "not ready: shutting down\n"))
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    connection = server.connect()
    answer, content = ask(connection)
    connection.close()
    assert content["response"]["allowed"]
    assert answer.getheader("connection") == "close"
    assert server.process.wait(PATIENCE_SECONDS) == 0
    assert server.log().count("draining") == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_twice_ends_the_drain_time(serve: Callable[..., Server], workers: int) -> None:
    """Who sits before it does not want to wait; all processes of a terminal get the signal."""
    server = serve("--drain-seconds=3600", f"--workers={workers}")
    server.until(server.workers_serve)
    os.killpg(server.process.pid, signal.SIGINT)
    server.until(lambda: server.log().count("draining") == workers)
    os.killpg(server.process.pid, signal.SIGINT)
    assert server.process.wait(PATIENCE_SECONDS) == 0


def test_several_workers_all_drain(serve: Callable[..., Server]) -> None:
    """The signal that reaches the first process reaches each of them, once they serve."""
    server = serve("--drain-seconds=2", "--workers=2")
    server.until(server.workers_serve)
    server.process.send_signal(signal.SIGTERM)
    server.until(lambda: server.log().count("draining") == 2)
    for _ in range(6):
        connection = server.connect()
        answer, content = ask(connection)
        connection.close()
        assert content["response"]["allowed"]
        assert answer.getheader("connection") == "close"
        assert server.health("/readyz") == (503, "not ready: shutting down\n")
    assert len(server.workers()) == 2
    assert server.process.wait(PATIENCE_SECONDS) == 0


def fresh(port: int) -> str:
    """Open a connection and send a review on it; gives what became of that."""
    opened = None
    try:
        opened = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)
        with trusting().wrap_socket(opened) as secure:
            secure.sendall(REQUEST)
            return "answered" if secure.recv(65536).startswith(b"HTTP/1.1 200") else "lost"
    except ConnectionRefusedError:
        return "refused"  # nobody listens any more, which the client learns before it sends
    except OSError:
        return "lost" if opened is not None else "refused"
    finally:
        if opened is not None:
            opened.close()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_connection_that_is_let_in_at_the_end_of_the_drain_is_answered(
    serve: Callable[..., Server], workers: int
) -> None:
    """Over and over, by several clients at once: whoever was not refused has an answer."""
    for _ in range(3):
        server = serve("--drain-seconds=0.3", f"--workers={workers}")
        server.until(server.workers_serve)
        outcomes: Counter[str] = Counter()
        ended = threading.Event()

        def call(server: Server = server, ended: threading.Event = ended, found=outcomes) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
            while not ended.is_set():
                found[fresh(server.port)] += 1

        threads = [threading.Thread(target=call) for _ in range(4)]
        for each in threads:
            each.start()
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        status = server.process.wait(PATIENCE_SECONDS)
        ended.set()
        for each in threads:
            each.join(PATIENCE_SECONDS)
        assert status == 0
        assert outcomes["lost"] == 0
        assert outcomes["answered"] > 0
        assert outcomes["refused"] > 0


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_drains_as_sigterm_does(serve: Callable[..., Server], workers: int) -> None:
    """The terminal has gone; requests have not."""
    server = serve("--drain-seconds=1", f"--workers={workers}")
    server.until(server.workers_serve)
    server.process.send_signal(signal.SIGHUP)
    server.until(lambda: server.log().count("draining") == workers)
    connection = server.connect()
    assert ask(connection)[0].getheader("connection") == "close"
    connection.close()
    assert server.process.wait(PATIENCE_SECONDS) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_means_nothing_where_it_is_ignored(
    serve: Callable[..., Server], workers: int
) -> None:
    """As under `nohup`."""
    server = serve(
        "--drain-seconds=0",
        f"--workers={workers}",
        preexec=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    server.until(server.workers_serve)
    os.killpg(server.process.pid, signal.SIGHUP)
    connection = server.connect()
    answer, _content = ask(connection)
    connection.close()
    assert answer.status == 200
    assert "draining" not in server.log()
    assert server.stop() == 0


def test_workers_drain_and_clear_up_when_their_parent_is_killed(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    """Nobody else would end them, or remove the folder of their metrics."""
    server = serve("--drain-seconds=0.5", "--workers=2", environment={"TMPDIR": str(tmp_path)})
    server.until(server.workers_serve)
    workers = server.workers()
    assert len(workers) == 2
    assert len(list(tmp_path.iterdir())) == 1
    os.kill(server.process.pid, signal.SIGKILL)
    server.until(lambda: server.log().count("draining") == 2)
    assert fresh(server.port) == "answered"
    server.until(lambda: not any(Path(f"/proc/{each}/cmdline").exists() for each in workers))
    assert list(tmp_path.iterdir()) == []
