"""An application to roll: `seamless demo-app`. Standard library only.

It can be made to do what applications do wrong: start slowly, answer slowly, exit on SIGTERM with
requests under way, or take its time. Each answer names its pod in `X-Pod-Name`.

    GET  /healthz   200 once it has started, 503 before (where it listens by then)
    POST /crash     the process ends at once, with status 1, where --crash allows it
    any  /...       200 after --request, a little JSON that names the pod and the version

On SIGTERM, by --term:

    exit    the process ends at once: what was under way is cut off
    drain   it accepts no more, finishes what was begun, then ends
    linger  it goes on serving for --linger with `Connection: close`, then drains
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from dataclasses import dataclass, fields
from typing import Final

_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - a pod is reached by its address
POD_HEADER: Final = "X-Pod-Name"
TERMS: Final = ("exit", "drain", "linger")
_MOST_BODY: Final = 1024 * 1024
_MOST_HEADERS: Final = 64
_HEADER_SECONDS: Final = 10.0
_IDLE_SECONDS: Final = 75.0
_ASKED_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.01
_REASONS: Final = {200: "OK", 400: "Bad Request", 503: "Service Unavailable"}


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the application does; times in seconds.

    Args:
        host: where it listens.
        port: the port; 0 for any.
        start: how long it takes to start.
        listen_early: whether it listens meanwhile, and answers 503, or does not listen yet.
        request: how long an answer takes.
        term: what it does on SIGTERM.
        linger: how long it goes on serving after SIGTERM, with `linger`.
        crash: whether POST /crash ends it.
        pod: its pod's name.
        version: told in the answers.
    """

    host: str = _EVERYWHERE
    port: int = 8080
    start: float = 0.0
    listen_early: bool = False
    request: float = 0.0
    term: str = "drain"
    linger: float = 0.0
    crash: bool = False
    pod: str = ""
    version: str = "1"


class Application:
    """The server.

    Args:
        behaviour: what it does.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._started = False
        self._closing = False
        self._busy: set[asyncio.StreamWriter] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._term = asyncio.Event()
        # Of each that is open: whether it has carried a request.
        self._connections: dict[asyncio.StreamWriter, bool] = {}

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        behaviour = self._behaviour
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self._terminate)
        if behaviour.listen_early:
            server = await self._listen()
            await self._sleep_unless_terminated(behaviour.start)
        else:
            await self._sleep_unless_terminated(behaviour.start)
            server = await self._listen()
        self._started = True
        port = server.sockets[0].getsockname()[1]
        _say(f"serving on port {port} as {behaviour.pod or 'nobody'}")
        await self._term.wait()
        if behaviour.term == "linger":
            self._closing = True
            await asyncio.sleep(behaviour.linger)
        server.close()
        self._closing = True
        for writer, answered in list(self._connections.items()):
            if answered and writer not in self._busy:
                writer.close()
        # Whoever has just connected is about to ask: that is the first thing that is done there.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._until_asked(), _ASKED_SECONDS)
        await self._idle.wait()

    async def _until_asked(self) -> None:
        while not all(self._connections.values()):  # noqa: ASYNC110 - once, at the very end
            await asyncio.sleep(_POLL_SECONDS)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(
            self._serve, self._behaviour.host, self._behaviour.port, backlog=1024
        )

    async def _sleep_unless_terminated(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._term.wait(), seconds)

    def _terminate(self) -> None:
        _say(f"SIGTERM: {self._behaviour.term}, {len(self._busy)} requests under way")
        if self._behaviour.term == "exit":
            os._exit(0)
        self._term.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections[writer] = False
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while await self._exchange(reader, writer):
                pass
        except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError):
            pass  # the client has gone, or speaks no HTTP
        finally:
            self._end(writer)
            self._connections.pop(writer, None)
            writer.close()

    def _begin(self, writer: asyncio.StreamWriter) -> None:
        self._connections[writer] = True
        self._busy.add(writer)
        self._idle.clear()

    def _end(self, writer: asyncio.StreamWriter) -> None:
        self._busy.discard(writer)
        if not self._busy:
            self._idle.set()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; tells whether the connection is kept."""
        first = await asyncio.wait_for(reader.readline(), _IDLE_SECONDS)
        if not first:
            return False
        self._begin(writer)
        method, path, keep = await asyncio.wait_for(_request(first, reader), _HEADER_SECONDS)
        status = 200
        if not self._started:
            status = 503
        elif path == "/crash" and method == "POST" and self._behaviour.crash:
            _say("crashing, as asked")
            os._exit(1)
        elif path != "/healthz" and self._behaviour.request:
            await asyncio.sleep(self._behaviour.request)
        keep = keep and not self._closing
        writer.write(self._answer(status, keep=keep))
        await writer.drain()
        self._end(writer)
        return keep and not self._closing

    def _answer(self, status: int, *, keep: bool) -> bytes:
        behaviour = self._behaviour
        body = json.dumps({"pod": behaviour.pod, "version": behaviour.version}) + "\n"
        lines = [
            f"HTTP/1.1 {status} {_REASONS[status]}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            f"{POD_HEADER}: {behaviour.pod}",
            f"Connection: {'keep-alive' if keep else 'close'}",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


async def _request(first: bytes, reader: asyncio.StreamReader) -> tuple[str, str, bool]:
    """Read a request to its end: its method, its path, and whether the connection is kept.

    Raises:
        ValueError: it is no request of HTTP/1.x with a Content-Length, within bounds.
    """
    parts = first.decode("ascii").split()
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):  # noqa: PLR2004 - method, path, version
        message = "no request of HTTP/1.x"
        raise ValueError(message)
    length, keep = 0, parts[2] == "HTTP/1.1"
    for _ in range(_MOST_HEADERS):
        line = (await reader.readline()).decode("latin-1").strip()
        if not line:
            break
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            length = int(value)
        elif name.lower() == "connection":
            keep = value.strip().lower() != "close"
    else:
        message = "too many headers"
        raise ValueError(message)
    if not 0 <= length <= _MOST_BODY:
        message = "a body of more than 1 MiB"
        raise ValueError(message)
    await reader.readexactly(length)
    return parts[0], parts[1].partition("?")[0], keep


def _say(text: str) -> None:
    sys.stdout.write(f"demo-app: {text}\n")
    sys.stdout.flush()


def _seconds(text: str) -> float:
    value = float(text.removesuffix("s"))
    if not 0 <= value <= 3600:  # noqa: PLR2004 - an hour
        raise ValueError(text)
    return value


_seconds.__name__ = "number of seconds up to 3600"


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:  # noqa: PLR2004 - of 16 bits
        raise ValueError(text)
    return value


_port.__name__ = "port"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seamless demo-app",
        description="An application that starts, answers and stops as it is told.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--host", default=_EVERYWHERE, help="where to listen (every address)")
    add("--port", type=_port, default=8080, help="the port; 0 for any (8080)")
    add("--start", type=_seconds, default=0.0, metavar="S", help="seconds it takes to start (0)")
    add("--listen-early", action="store_true", help="listen while starting, and answer 503")
    add("--request", type=_seconds, default=0.0, metavar="S", help="seconds an answer takes (0)")
    add("--term", choices=TERMS, default="drain", help="what SIGTERM does (drain)")
    add("--linger", type=_seconds, default=0.0, metavar="S", help="seconds, with --term linger")
    add("--crash", action="store_true", help="let POST /crash end the process")
    add("--pod", default=os.environ.get("POD_NAME") or socket.gethostname(), help="its name")
    add("--version", default=os.environ.get("VERSION", "1"), help="told in the answers")
    return parser


def main(arguments: list[str]) -> int:
    """Run the command; gives its exit status."""
    options = _parser().parse_args(arguments)
    pod = "".join(each for each in options.pod if each.isalnum() or each in "-._")[:253]
    given = {each.name: getattr(options, each.name) for each in fields(Behaviour)}
    try:
        asyncio.run(Application(Behaviour(**given | {"pod": pod})).run())
    except OSError as error:
        sys.stderr.write(
            f"seamless demo-app: cannot listen on {options.host}:{options.port}: "
            f"{error.strerror or error}\n"
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
