"""Sends requests at a constant rate, and says of each how it ended: `seamless load`.

An open loop: a request is due at its time whatever became of those before it, so a stall counts for
all that it held up. Nothing is sent twice. Half of them open a connection each, half keep theirs
(`--connections` says otherwise): proxies and applications lose these for different reasons.

It runs as a process of its own, beside `seamless prove` or in a pod, so that nothing else which
that does makes it late; and it writes what it saw to standard output, a line of JSON about every
quarter of a second:

    {"n": 7, "now": 1.75, "upTo": 1.71, "due": 175, "sent": 175, "late": 0, "mostLate": 0.001,
     "ok": [[1.52, 0.101], ...], "failed": [{...}], "answered": {"web-1": [0.0, 1.6]}}

`upTo` says that whatever was due before has ended, and was told. It ends by SIGTERM, or after
`--for`; nobody needs to stop it in an orderly way.

The client is aiohttp: it is maintained, holds the rate on one core, and is locked already, as the
Kubernetes client needs it. What is assumed of its inside: it sends an idempotent request a second
time where a kept connection turns out to be closed, and tells so by reusing or making a second
connection for one request (`_Seen`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import json
import math
import os
import resource
import signal
import ssl
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import aiohttp

from webhook.proof.failures import Failure, Kind
from webhook.proof.verdict import LATE_SECONDS

POD_HEADER: Final = "X-Pod-Name"
"""The answer's header that tells who answered, as the demo application sets it."""
MOST_RATE: Final = 2000.0
MOST_SECONDS: Final = 24 * 3600.0
CONNECTIONS: Final = ("both", "fresh", "kept")
_ROUND_SECONDS: Final = 0.25
_IDLE_SECONDS: Final = 60.0
_MOST_READ: Final = 16 * 1024 * 1024
_MOST_TEXT: Final = 200
_MOST_PODS: Final = 1000
_SPARE_DESCRIPTORS: Final = 100
_TIME_WAIT_SECONDS: Final = 60
_BAD_STATUS: Final = 400
_OWN_ERRORS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}
)


class JobError(Exception):
    """A load that cannot be sent as asked; the text says why."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be sent.

    Args:
        url: to whom.
        rate: requests a second.
        method: the method.
        headers: more headers.
        body: the body, as text.
        timeout: after how many seconds without a whole answer a request has failed.
        connections: `both`, `fresh` or `kept`.
        seconds: when to end by itself.
        verify: whether to check certificates.
    """

    url: str
    rate: float = 100.0
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    timeout: float = 10.0
    connections: str = "both"
    seconds: float = 3600.0
    verify: bool = True

    def dump(self) -> str:
        """Write it as JSON, for the process that is to do it."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Job:
        """Read what `dump` wrote.

        Raises:
            JobError: it is none.
        """
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            raise JobError("the job is no JSON document of its own options") from None


def check(job: Job) -> list[str]:
    """Look whether this machine can send it, and raise the limit of descriptors as far as allowed.

    Returns:
        What may run short, for people.

    Raises:
        JobError: descriptors do not suffice.
    """
    needed = int(job.rate * job.timeout) + _SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft != resource.RLIM_INFINITY and soft < needed:
        message = (
            f"{job.rate:g} requests a second that may wait {job.timeout:g} s each need {needed} "
            f"file descriptors: there are {soft}; use a lower --rate or --timeout"
        )
        raise JobError(message)
    share = {"both": 0.5, "fresh": 1.0, "kept": 0.0}[job.connections]
    ports = _ports()
    if ports is not None and job.rate * share * _TIME_WAIT_SECONDS > ports:
        warning = (
            f"{job.rate * share:g} fresh connections a second may use up the {ports} local ports, "
            "as each is held for a minute: where one is missing there is no verdict"
        )
        return [warning]
    return []


def _ports() -> int | None:
    try:
        found = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
        return int(found[1]) - int(found[0]) + 1
    except (OSError, ValueError, IndexError):
        return None


class _SentTwiceError(Exception):
    """The client was about to send a request again."""


class _Seen(SimpleNamespace):
    """How far a request got: told by aiohttp as it goes."""

    connected: bool
    reused: bool


def _tracing() -> aiohttp.TraceConfig:
    """Watch for connections: is it a new one, is it there, is it the second for one request?"""
    tracing = aiohttp.TraceConfig()

    async def reuses(_session: Any, context: Any, _params: Any) -> None:
        _again(context.trace_request_ctx)
        context.trace_request_ctx.connected = True
        context.trace_request_ctx.reused = True

    async def creates(_session: Any, context: Any, _params: Any) -> None:
        _again(context.trace_request_ctx)

    async def created(_session: Any, context: Any, _params: Any) -> None:
        context.trace_request_ctx.connected = True

    tracing.on_connection_reuseconn.append(reuses)
    tracing.on_connection_create_start.append(creates)
    tracing.on_connection_create_end.append(created)
    return tracing


def _again(seen: _Seen) -> None:
    if seen.connected:
        raise _SentTwiceError


class Generator:
    """Sends a job's requests.

    Args:
        job: what to send.
        write: takes each line of the report.
    """

    def __init__(self, job: Job, write: Callable[[str], object]) -> None:
        self._job = job
        self._write = write
        self._body = job.body.encode()
        self._lines = 0
        self._sent = self._late = 0
        self._most_late = 0.0
        self._ok: list[tuple[float, float]] = []
        self._failed: list[Failure] = []
        self._answered: dict[str, list[float]] = {}
        self._pods: set[str] = set()
        self._open: dict[int, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = asyncio.Event()
        self._ended: tuple[float, ...] = ()
        self._loop = asyncio.get_running_loop()
        self._began = 0.0

    def stop(self) -> None:
        """Send no more."""
        self._ended = (self._now(),)
        self._stopped.set()

    async def run(self) -> None:
        """Send until it is stopped, or for as long as the job says; then wait for what is open."""
        timeout = aiohttp.ClientTimeout(total=self._job.timeout)
        verify = self._job.verify
        async with contextlib.AsyncExitStack() as stack:
            sessions = []
            for kept in (False, True):
                connector = (
                    aiohttp.TCPConnector(limit=0, ssl=verify, keepalive_timeout=_IDLE_SECONDS)
                    if kept
                    else aiohttp.TCPConnector(limit=0, ssl=verify, force_close=True)
                )
                session = aiohttp.ClientSession(
                    connector=connector,
                    timeout=timeout,
                    trace_configs=[_tracing()],
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                )
                sessions.append(await stack.enter_async_context(session))
            self._began = self._loop.time()
            reporting = self._loop.create_task(self._report())
            try:
                await self._send_all(*sessions)
                while self._tasks:
                    await asyncio.wait(self._tasks)
            finally:
                reporting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await reporting
            self._tell()

    def _now(self) -> float:
        return self._loop.time() - self._began

    async def _send_all(self, fresh: aiohttp.ClientSession, kept: aiohttp.ClientSession) -> None:
        lanes = {"both": (False, True), "fresh": (False,), "kept": (True,)}[self._job.connections]
        number = 0
        while not self._stopped.is_set():
            at = number / self._job.rate
            if at >= self._job.seconds:
                return
            pause = at - self._now()
            if pause > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopped.wait(), pause)
                continue
            lane = lanes[number % len(lanes)]
            self._open[number] = at
            task = self._loop.create_task(self._send(number, at, kept if lane else fresh, lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            number += 1
            if not number % 50:
                await asyncio.sleep(0)  # where many are due at once, what is under way goes on

    async def _send(
        self,
        number: int,
        at: float,
        session: aiohttp.ClientSession,
        kept: bool,  # noqa: FBT001
    ) -> None:
        late = self._now() - at
        self._sent += 1
        self._late += late > LATE_SECONDS
        self._most_late = max(self._most_late, late)
        seen = _Seen(connected=False, reused=False)
        headers = self._job.headers if kept else {**self._job.headers, "Connection": "close"}
        pod = None
        status = None
        error: BaseException | None = None
        try:
            async with session.request(
                self._job.method,
                self._job.url,
                data=self._body or None,
                headers=headers,
                allow_redirects=False,
                trace_request_ctx=seen,
            ) as answer:
                pod, status = answer.headers.get(POD_HEADER), answer.status
                read = 0
                async for piece in answer.content.iter_any():
                    read += len(piece)
                    if read > _MOST_READ:
                        raise aiohttp.ClientPayloadError("an answer of more than 16 MiB")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, _SentTwiceError) as caught:
            error = caught
        finally:
            self._open.pop(number, None)
        took = self._now() - at
        if error is None and status is not None and status < _BAD_STATUS:
            self._ok.append((at, took))
            self._note(pod, at + took)
            return
        kind, text = (Kind.STATUS, "") if error is None else seen_as(error)
        self._failed.append(
            Failure(
                at,
                took,
                kind,
                kept,
                seen.reused,
                seen.connected,
                status if error is None else None,
                None if pod is None else pod[:_MOST_TEXT],
                text,
            )
        )

    def _note(self, pod: str | None, at: float) -> None:
        if pod is None or len(pod) > _MOST_TEXT:
            return
        if pod in self._answered:
            self._answered[pod][1] = at
        elif pod in self._pods or len(self._pods) < _MOST_PODS:
            self._pods.add(pod)
            self._answered[pod] = [at, at]

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_ROUND_SECONDS)
            self._tell()

    def _due(self, now: float) -> int:
        """Count what was to be sent by now, whatever was sent."""
        ends = min(now, self._job.seconds, *self._ended)
        return math.ceil(ends * self._job.rate)

    def _tell(self) -> None:
        now = self._now()
        line = {
            "n": self._lines,
            "now": round(now, 4),
            "upTo": round(min(self._open.values(), default=now), 4),
            "due": self._due(now),
            "sent": self._sent,
            "late": self._late,
            "mostLate": round(self._most_late, 4),
            "ok": [(round(at, 4), round(took, 4)) for at, took in self._ok],
            "failed": [_dumped(each) for each in self._failed],
            "answered": {
                pod: (round(first, 4), round(last, 4))
                for pod, (first, last) in self._answered.items()
            },
        }
        self._lines += 1
        self._ok, self._failed, self._answered = [], [], {}
        self._write(json.dumps(line, separators=(",", ":")) + "\n")


def _dumped(failure: Failure) -> dict[str, Any]:
    found = asdict(failure)
    return found | {"at": round(failure.at, 4), "took": round(failure.took, 4)}


def seen_as(error: BaseException) -> tuple[Kind, str]:
    """Tell what an error of the client's means, and its own words where they say more."""
    code = _code(error)
    if code in _OWN_ERRORS:
        return Kind.OWN, os.strerror(code)
    by_code = next((kind for codes, kind in _BY_CODE if code in codes), None)
    if by_code is not None:
        return by_code, ""
    return next(
        (kind, _brief(error) if told else "")
        for errors, kind, told in _BY_ERROR
        if isinstance(error, errors)
    )


_BY_CODE: Final = (
    ({errno.ECONNREFUSED}, Kind.REFUSED),
    ({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN}, Kind.UNREACHABLE),
    ({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED}, Kind.RESET),
    ({errno.ETIMEDOUT}, Kind.TIMEOUT),
)
# The first that fits.
_BY_ERROR: Final[
    tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Kind, bool], ...]
] = (
    (_SentTwiceError, Kind.RESET, False),
    (aiohttp.ClientConnectorDNSError, Kind.OWN, True),
    ((aiohttp.ClientSSLError, ssl.SSLError), Kind.TLS, True),
    (TimeoutError, Kind.TIMEOUT, False),
    (aiohttp.ServerDisconnectedError, Kind.CLOSED, False),
    (aiohttp.ClientPayloadError, Kind.CLOSED, True),
    (aiohttp.ClientConnectionError, Kind.CLOSED, True),
    (BaseException, Kind.PROTOCOL, True),
)


def _code(error: BaseException | None) -> int:
    """Find the system's error number, in the error or in what it came from; those are positive."""
    while error is not None:
        inner = getattr(error, "os_error", None)
        number = getattr(inner, "errno", None) or getattr(error, "errno", None)
        if isinstance(number, int) and number > 0 and not isinstance(error, ssl.SSLError):
            return number
        error = error.__cause__
    return 0


def _brief(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:_MOST_TEXT]


USAGE: Final = """\
usage: seamless load [--job FILE]

Send requests at a constant rate, and report them to standard output: what `seamless prove` runs.
The job is read from standard input, or from FILE.
"""


def main(arguments: list[str]) -> int:
    """Run the command; gives its exit status."""
    parser = argparse.ArgumentParser(prog="seamless load", usage=USAGE, add_help=False)
    parser.add_argument("--job", type=Path)
    parser.add_argument("-h", "--help", action="store_true")
    options = parser.parse_args(arguments)
    if options.help:
        sys.stdout.write(USAGE)
        return 0
    try:
        text = sys.stdin.read() if options.job is None else options.job.read_text(encoding="utf-8")
        job = Job.read(text)
        for warning in check(job):
            sys.stderr.write(f"seamless load: {warning}\n")
    except (JobError, OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"seamless load: {error}\n")
        return 2
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        _run(_sending(job))
        return 0
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _run(sending: Any) -> None:
    """Run it on uvloop: half the work for each request."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(sending)
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(sending)


async def _sending(job: Job) -> None:
    def write(line: str) -> None:
        sys.stdout.write(line)
        sys.stdout.flush()

    generator = Generator(job, write)
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, generator.stop)
    await generator.run()
