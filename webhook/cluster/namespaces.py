"""What namespaces say, kept in memory: a request only ever reads a dict.

One thread lists all namespaces in pages and then watches them, metadata alone. Of each only its
name and what stands under our prefix is kept, so ten thousand take a few megabytes.

What goes wrong, and what is done:

- the connection drops, the server restarts or says 429 or 5xx: watch again from the last version
  that was seen, after a wait that grows with each failure and is spread, or as long as is asked;
- the version is too old (410), or an event is unreadable: list anew, and replace all at once;
- silence: the server ends each watch after a few minutes, and sends bookmarks before; a little
  after that the connection counts as lost;
- the token is replaced (401): the next try reads the new one.

Until the first list, and while nothing can be reached, what is known stays in use.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from threading import Lock
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import orjson
import urllib3

from webhook.cluster.client import (
    GONE,
    METADATA,
    METADATA_LIST,
    NOT_FOUND,
    Api,
    ApiError,
    Backoff,
    Json,
)
from webhook.decision.settings import Namespace, is_label
from webhook.tls.certificates import Background

log = logging.getLogger("webhook.cluster.namespaces")

Parse = Callable[[str, Any, Any], Namespace]

PATH: Final = "/api/v1/namespaces"
_PAGE: Final = 500
_LONGEST_LINE: Final = 8 * 1024 * 1024
# A watch that lasts less than this did not work: the next one waits longer.
_LASTING_SECONDS: Final = 5.0
_SILENCE_SECONDS: Final = 10.0

# Namespaces that are fetched for one request, until the watch brings them.
_FETCHES_AT_ONCE: Final = 8
_REMEMBERED: Final = 512
_FOUND_FOR: Final = 30.0
_MISSING_FOR: Final = 2.0
_PAUSE_AFTER_ERROR: Final = 1.0


class _Fetched(NamedTuple):
    namespace: Namespace | None
    until: float


class NamespaceWatch:
    """Knows what each namespace says.

    Args:
        api: the Kubernetes API.
        parse: makes a `Namespace` of a name, labels and annotations.
        watch_seconds: how long one watch lasts, give or take a third.
        clock: tells seconds since some time or other.
        on_connect: called whenever a watch has begun.
        backoff: how long to wait after failures.
    """

    def __init__(
        self,
        api: Api,
        parse: Parse,
        *,
        watch_seconds: float = 240.0,
        clock: Callable[[], float] = time.monotonic,
        on_connect: Callable[[], None] = lambda: None,
        backoff: Backoff | None = None,
    ) -> None:
        self.synced = False
        self.restarts = 0
        self.errors = 0
        self._api = api
        self._parse = parse
        self._watch_seconds = watch_seconds
        self._clock = clock
        self._on_connect = on_connect
        self._backoff = backoff or Backoff()
        self._known: dict[str, Namespace] = {}
        self._version: str | None = None
        self._alive_at: float | None = None
        self._response: Any = None
        self._fetched: dict[str, _Fetched] = {}
        self._pending: dict[str, Future[Namespace | None]] = {}
        self._paused_until = float("-inf")
        self._lock = Lock()
        self._background = Background("namespaces", self.step)

    def start(self) -> None:
        """Begin to list and watch."""
        self._background.start()

    def stop(self) -> None:
        """End the watch; what is known stays."""
        self._background.stopped = True
        response = self._response
        if response is not None:
            # Wakes the thread that waits for the next byte.
            with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):
                response.shutdown()
        self._background.stop()

    # --- reading ---------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._known)

    def lookup(self, name: str) -> Namespace | None:
        """Give a namespace, if it is known: two looks into memory at most."""
        found = self._known.get(name)
        if found is None and (fetched := self._fetched.get(name)) is not None:
            return fetched.namespace if fetched.until > self._clock() else None
        return found

    def age_seconds(self) -> float | None:
        """Tell how long ago the API server last gave a sign of life: list, event or bookmark.

        Bookmarks come about once a minute where etcd tells its progress; else, with nothing new, a
        sign comes when a watch ends, after five minutes or so. Ten mean that something is wrong.
        """
        return None if self._alive_at is None else self._clock() - self._alive_at

    def fetch(self, name: str, timeout: float) -> Namespace | None:
        """Ask for one namespace that is not known, as it may be seconds old. Blocks.

        Requests for the same name share one question, at most eight are asked at a time, and
        for two seconds a missing one is not asked for again, nor anything for a second after an
        error: neither a flood of names nor an API server that is away can hold up requests.

        Args:
            name: the namespace's.
            timeout: the seconds to wait at most.

        Returns:
            The namespace; none where it does not exist, or cannot be known in time.
        """
        if not is_label(name):  # as a part of a path, `..` would lead elsewhere
            return None
        with self._lock:
            now = self._clock()
            known = self._known.get(name)
            recent = self._fetched.get(name)
            if known is not None:
                return known
            if recent is not None and recent.until > now:
                return recent.namespace
            shared = self._pending.get(name)
            if shared is None:
                if len(self._pending) >= _FETCHES_AT_ONCE or now < self._paused_until:
                    return None
                self._pending[name] = asked = Future[Namespace | None]()
        if shared is not None:
            with contextlib.suppress(TimeoutError):
                return shared.result(timeout)
            return None
        found = None
        try:
            found = self._ask(name, timeout)
        finally:
            with self._lock:
                del self._pending[name]
            asked.set_result(found)
        return found

    def _ask(self, name: str, timeout: float) -> Namespace | None:
        found = None
        try:
            path = f"{PATH}/{quote(name, safe='')}"
            document = self._api.request("GET", path, accept=METADATA, timeout=timeout)
            found = self._read(document)[0]
        except ApiError as error:
            if error.status != NOT_FOUND:
                log.warning("namespace %r counts as not known: %s", name, error)
                self.errors += 1
                self._paused_until = self._clock() + _PAUSE_AFTER_ERROR
                return None
        with self._lock:
            while len(self._fetched) >= _REMEMBERED:
                del self._fetched[next(iter(self._fetched))]
            keep = _MISSING_FOR if found is None else _FOUND_FOR
            self._fetched[name] = _Fetched(found, self._clock() + keep)
        return found

    # --- list and watch --------------------------------------------------------------------------

    def step(self) -> float:
        """List if need be, then watch until that ends; tells how long to wait before the next."""
        began = self._clock()
        try:
            if self._version is None:
                self._list()
                began = self._clock()
            self._watch(self._version or "")
        except ApiError as error:
            if self._background.stopped:
                return 0.0
            self.errors += 1
            if error.status == GONE:
                self._version = None
            if self._clock() - began > _LASTING_SECONDS:
                self._backoff.succeeded()
            level = logging.INFO if self._backoff.failures else logging.WARNING
            log.log(level, "the watch of namespaces was interrupted: %s", error)
            return self._backoff.failed(error)
        if self._clock() - began < _LASTING_SECONDS:
            return self._backoff.failed()
        self._backoff.succeeded()
        return random.random()  # noqa: S311 - spreads replicas

    def _list(self) -> None:
        """Learn all namespaces, and then replace what was known at once."""
        found: dict[str, Namespace] = {}
        query: dict[str, Any] = {"limit": _PAGE}
        while not self._background.stopped:
            try:
                page = self._api.request("GET", PATH, query=query, accept=METADATA_LIST)
            except ApiError as error:
                if error.status != GONE or "continue" not in query:
                    raise
                # The pages took too long, and their version is no more: all in one, then.
                found, query = {}, {}
                continue
            for item in page.get("items") or ():
                namespace, _ = self._read(item)
                found[namespace.name] = namespace
            metadata = page.get("metadata") or {}
            if metadata.get("continue"):
                query = {"limit": _PAGE, "continue": metadata["continue"]}
                continue
            self._version = metadata.get("resourceVersion")
            self._replace(found)
            return

    def _replace(self, found: dict[str, Namespace]) -> None:
        with self._lock:
            self._known = found
            self._fetched = {}
        if not self.synced:
            log.info("%d namespaces are known", len(found))
        self.synced = True
        self._alive_at = self._clock()

    def _watch(self, version: str) -> None:
        seconds = self._watch_seconds * random.uniform(0.67, 1.33)  # noqa: S311 - spreads replicas
        self._response = response = self._api.stream(
            PATH,
            query={
                "watch": "1",
                "allowWatchBookmarks": "true",
                "resourceVersion": version,
                "timeoutSeconds": max(1, round(seconds)),
            },
            accept=METADATA,
            silence=seconds + _SILENCE_SECONDS,
        )
        self.restarts += 1
        self._alive_at = self._clock()
        try:
            if self._background.stopped:  # stop() may have come before there was a response
                return
            self._on_connect()
            for line in lines(response, "namespaces"):
                self._take(line)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # Closed from another thread, urllib3 may find its own parts gone.
            message = f"watch of namespaces: {error or type(error).__name__}"
            raise ApiError(message) from None
        finally:
            self._response = None
            response.close()

    def _take(self, line: bytes) -> None:
        """Apply one event.

        Raises:
            ApiError: it is an error, or unreadable; 410 means that all must be listed anew.
        """
        try:
            event = orjson.loads(line)
            kind, thing = event["type"], event["object"]
            if kind == "ERROR":
                message = f"watch of namespaces: {thing.get('code')} {thing.get('message')}"
                # Whatever is the matter, a list is a safe ground to go on from.
                raise ApiError(message, GONE)
            if kind == "BOOKMARK":
                version = thing["metadata"]["resourceVersion"]
            else:
                namespace, version = self._read(thing)
                with self._lock:
                    self._fetched.pop(namespace.name, None)
                    if kind in ("ADDED", "MODIFIED"):
                        self._known[namespace.name] = namespace
                    elif kind == "DELETED":
                        self._known.pop(namespace.name, None)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            message = f"watch of namespaces: an unreadable event of {len(line)} bytes"
            raise ApiError(message, GONE) from None
        self._version = version
        self._alive_at = self._clock()

    def _read(self, document: Json) -> tuple[Namespace, str]:
        try:
            metadata = document["metadata"]
            name, version = metadata["name"], metadata.get("resourceVersion", "")
        except (KeyError, TypeError, AttributeError):
            message = "a namespace without metadata.name in the API server's answer"
            raise ApiError(message, GONE) from None
        try:
            return self._parse(name, metadata.get("labels"), metadata.get("annotations")), version
        except Exception:  # one namespace must not keep all others from being known
            log.exception("namespace %r counts as one that says nothing: unexpected error", name)
            return Namespace(name), version


def lines(response: Any, what: str) -> Iterator[bytes]:
    """Split a stream at line ends, wherever its pieces are cut; `what` is watched.

    Raises:
        ApiError: a line without end.
    """
    rest = b""
    for piece in response.stream(65536, decode_content=True):
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            if line.strip():
                yield line
        if len(rest) > _LONGEST_LINE:
            message = f"watch of {what}: an event of more than {_LONGEST_LINE} bytes"
            raise ApiError(message, GONE)
