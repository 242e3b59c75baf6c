"""Leaving without a loss: the order of not ready, `Connection: close`, finishing, and exit."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from tests.replicas import LINGER_SECONDS, Drill
from tests.serving import PATIENCE_SECONDS, REVIEW, Server, ask, trusting
from tests.test_overload import HEAD, Running, running, until

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
