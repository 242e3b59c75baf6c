"""Bounds on the bodies in flight: how many, how large together, and how long each is awaited.

    a body          7 MiB at most (413), and within 5 s (408)
    decoded         96 MiB at most, by an estimate made before it is decoded (413)
    all at once     200 requests, and 24 MiB of bodies, read or announced (503)

Where there is no room for another, the slow ones that have been awaited longest are cut off to make
some; where none is slow, the new one is refused at once, so that its client may go elsewhere.
docs/decisions/0020 tells how the figures fit into the memory limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from starlette.types import Receive

LARGE_BYTES: Final = 256 * 2**10
"""Reviews of this size are rare, and matter where memory is short; the usual ones do not."""

# What Python makes of a JSON object and of any other value, about.
_OBJECT_BYTES: Final = 240
_VALUE_BYTES: Final = 80
# A body that is sent at all arrives in less, unless it is a slow one.
_SLOW_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process takes. docs/decisions/0020 tells how these fit into 256 MiB.

    Args:
        body_bytes: the largest body; two 3 MiB objects (etcd allows 1.5 MiB) and their frame.
        body_seconds: how long a body may take to arrive.
        decoded_bytes: the largest that a body may become when decoded, by an estimate.
        in_flight: how many reviews may be read or answered at once.
        held_bytes: how large their bodies may be together; what is announced counts at once.
    """

    body_bytes: int = 7 * 2**20
    body_seconds: float = 5.0
    decoded_bytes: int = 96 * 2**20
    in_flight: int = 200
    held_bytes: int = 24 * 2**20


class RefusedError(Exception):
    """A request that is not answered as a review: its status code and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Load:
    """What is held of bodies: how many, how many bytes, and how long each is awaited.

    Where there is no room for another, the one that has been awaited longest makes some, if it is
    a slow one: who sends slowly on purpose keeps nobody else out. Else the new one is refused.

    Time is kept by one look a while at all that are awaited. A timer for each request would cost
    more than the reading itself, which mostly is no waiting.

    `under_way` counts the requests whose bodies are read or answered, and `held` the bytes of them:
    those that have arrived, or as many as were announced. What was cut off counts as room at once,
    though its task ends a little later: both counts are its own to take back.
    """

    def __init__(self, limits: Limits) -> None:
        self.under_way = 0
        self.held = 0
        self._limits = limits
        self._begun: dict[asyncio.Task[Any], float] = {}  # the longest awaited first
        self._large: dict[asyncio.Task[Any], int] = {}  # what those of them hold that hold much
        self._cut: dict[asyncio.Task[Any], RefusedError] = {}  # told to end, and not ended yet
        self._watching = False

    async def read(self, receive: Receive, declared: int) -> bytes:
        """Read a body; it counts as held until its size is taken from `held` again.

        Args:
            receive: gives its parts.
            declared: its size, or 0 where that is not said.

        Raises:
            RefusedError: it is too large, or there is no room, or it did not arrive in time.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in one
        counted = 0
        size = 0
        chunks: list[bytes] = []
        self._begun[task] = loop.time()
        if not self._watching:
            self._watching = True
            loop.call_later(self._limits.body_seconds / 4, self._look, loop)
        try:
            if declared:
                self._take(task, declared, declared)
                counted = declared
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RefusedError(400, "the body ended early")  # noqa: TRY301 - one of many
                chunk: bytes = message.get("body", b"")
                size += len(chunk)
                if size > self._limits.body_bytes:
                    raise too_large(self._limits)  # noqa: TRY301 - one of many
                if size > counted:
                    self._take(task, size - counted, size)
                    counted = size
                if not message.get("more_body", False):
                    break
                chunks.append(chunk)
        except BaseException as error:
            self.held -= counted
            if isinstance(error, asyncio.CancelledError) and task in self._cut:
                task.uncancel()
                raise self._cut[task] from None
            raise
        finally:
            del self._begun[task]
            self._large.pop(task, None)
            self._cut.pop(task, None)
        self.held -= counted - size
        return b"".join([*chunks, chunk]) if chunks else chunk

    def room_for_one(self) -> bool:
        """Make room for another request, if there is none; tells whether there is now."""
        if self.under_way - len(self._cut) < self._limits.in_flight:
            return True
        now = asyncio.get_running_loop().time()
        for task in self._slow(self._begun, now):
            self._end(task, 503, "the body was slow to arrive, and others were waiting")
            return True
        return False

    def _take(self, task: asyncio.Task[Any], size: int, total: int) -> None:
        if self.held + size > self._limits.held_bytes:
            self._make_room(task, size)
        self.held += size
        if total > LARGE_BYTES:
            self._large[task] = total

    def _make_room(self, task: asyncio.Task[Any], size: int) -> None:
        leaving = sum(self._large.get(each, 0) for each in self._cut)
        missing = self.held - leaving + size - self._limits.held_bytes
        ending = []
        now = asyncio.get_running_loop().time()
        for each in self._slow(self._large, now):
            if missing <= 0:
                break
            if each is not task:
                ending.append(each)
                missing -= self._large[each]
        if missing > 0:
            raise RefusedError(503, "too many bytes in flight")
        for each in ending:
            self._end(each, 503, "the body was slow to arrive, and others were waiting")

    def _slow(self, among: Iterable[asyncio.Task[Any]], now: float) -> Iterator[asyncio.Task[Any]]:
        for task in among:
            if task not in self._cut and now - self._begun[task] > _SLOW_SECONDS:
                yield task

    def _end(self, task: asyncio.Task[Any], status: int, why: str) -> None:
        self._cut[task] = RefusedError(status, why)
        task.cancel()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        seconds = self._limits.body_seconds
        now = loop.time()
        for task, begun in self._begun.items():
            if now - begun >= seconds and task not in self._cut:
                self._end(task, 408, f"the body took over {seconds:g} s to arrive")
        self._watching = bool(self._begun)
        if self._watching:
            loop.call_later(seconds / 4, self._look, loop)


def weigh(body: bytes, limits: Limits) -> None:
    """Refuse a body that would take too much memory, before it is decoded.

    Two counts of bytes tell enough: each object has a brace, and each value a comma or a bracket
    before it. Those within texts only make the estimate greater. Seven megabytes of `{"a":0},`
    become thirty times as much. What an API server holds, which is names and texts, becomes ten
    times as much at most, and etcd takes no more than 1.5 MiB of it.
    """
    values = body.count(b",") + body.count(b"[")
    if body.count(b"{") * _OBJECT_BYTES + values * _VALUE_BYTES > limits.decoded_bytes:
        raise RefusedError(413, "the body has too many parts")


def too_large(limits: Limits) -> RefusedError:
    """Make the answer to a body that is larger than one may be."""
    return RefusedError(413, f"the body is larger than {limits.body_bytes} bytes")
