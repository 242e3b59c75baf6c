"""The webhook's own ConfigMap, watched by name: a change of it is known within a moment.

The kubelet brings a changed ConfigMap into a mounted volume within a minute or so, and a pod that
is on its way out may get none any more. So the API server is asked.

What goes wrong, and what is done:

- the connection drops, or the API server is away: read and watched again, within a second or two;
- silence: the server ends each watch after a minute; a little after that it counts as lost;
- it is deleted, or may not be read: what is in force stays. One that was never read at all leaves
  the field to the mounted file, which then is followed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

import orjson
import urllib3

from webhook.cluster.client import FORBIDDEN, NOT_FOUND, Api, ApiError, Backoff, Json
from webhook.cluster.namespaces import lines
from webhook.decision.workload import mapping
from webhook.tls.certificates import Background

log = logging.getLogger("webhook.cluster.configmap")

KEY: Final = "config.yaml"
Take = Callable[[str, str], None]

_WATCH_SECONDS: Final = 60
_SILENCE_SECONDS: Final = 5.0
_FIRST_SECONDS: Final = 2.0  # to wait for it before the first review is answered
_RETRY_SECONDS: Final = 1.0  # at most, between two tries: changes are in force within two


class ConfigMapWatch:
    """Knows the newest content of one ConfigMap.

    Args:
        api: the Kubernetes API.
        namespace: where it is: our own.
        name: its name.
        take: called with the text of its configuration and where that is from.
        otherwise: called every second or so while it was never read and cannot be: there is none,
            or the right is missing.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        take: Take,
        otherwise: Callable[[], object] = lambda: None,
        backoff: Backoff | None = None,
    ) -> None:
        self._api = api
        self._collection = f"/api/v1/namespaces/{quote(namespace, safe='')}/configmaps"
        self._name = name
        self._where = f"ConfigMap {namespace}/{name}, {KEY}"
        self._take = take
        self._otherwise = otherwise
        self._backoff = backoff or Backoff(first=0.25, most=_RETRY_SECONDS)
        self._read_once = False
        self._problem: str | None = f"{self._where}: not read yet"
        self._response: Any = None
        self._background = Background("configuration", self.step)

    def start(self) -> None:
        """Read it, if it can be read at once, and watch it from now on.

        A process that is started beside others, or in the place of one, must not answer by what it
        was told when those were started.
        """
        try:
            self._read(_FIRST_SECONDS)
        except ApiError as error:
            self._failed(error)
        self._background.start()

    def stop(self) -> None:
        """End the watch; what is in force stays."""
        self._background.stopped = True
        response = self._response
        if response is not None:
            # Wakes the thread that waits for the next byte.
            with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):
                response.shutdown()
        self._background.stop()

    def problem(self) -> str | None:
        """Say that it is not known yet, if so."""
        return self._problem

    def step(self) -> float:
        """Read it, then watch it until that ends; tells how long to wait before the next time."""
        try:
            self._watch(self._read())
        except ApiError as error:
            if self._background.stopped:
                return 0.0
            self._failed(error)
            return self._backoff.failed(error)
        self._backoff.succeeded()
        return 0.0

    def _failed(self, error: ApiError) -> None:
        if not self._backoff.failures:
            log.warning("%s cannot be watched now: %s", self._where, error)
        if self._read_once:
            return
        if error.status in (FORBIDDEN, NOT_FOUND):
            self._problem = None
            self._otherwise()
        elif self._problem is not None:
            self._problem = f"{self._where}: not read yet: {error}"

    def _read(self, timeout: float = 5.0) -> str:
        """Take up what it holds; gives its version."""
        path = f"{self._collection}/{quote(self._name, safe='')}"
        return self._hold(self._api.request("GET", path, timeout=timeout))

    def _hold(self, found: Json) -> str:
        text = mapping(found.get("data")).get(KEY)
        # One without the key is broken, not empty: that would mean all the built-in values.
        self._take(text if isinstance(text, str) else f"{KEY}: missing", self._where)
        self._read_once, self._problem = True, None
        return str(mapping(found.get("metadata")).get("resourceVersion") or "")

    def _watch(self, version: str) -> None:
        self._response = response = self._api.stream(
            self._collection,
            query={
                "watch": "1",
                "fieldSelector": f"metadata.name={self._name}",
                "resourceVersion": version,
                "timeoutSeconds": _WATCH_SECONDS,
            },
            accept="application/json",
            silence=_WATCH_SECONDS + _SILENCE_SECONDS,
        )
        try:
            if self._background.stopped:  # stop() may have come before there was a response
                return
            self._backoff.succeeded()
            for line in lines(response, "a ConfigMap"):
                self._see(line)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # Closed from another thread, urllib3 may find its own parts gone.
            message = f"watch of {self._where}: {error or type(error).__name__}"
            raise ApiError(message) from None
        finally:
            self._response = None
            response.close()

    def _see(self, line: bytes) -> None:
        try:
            event = orjson.loads(line)
            kind, thing = event["type"], event["object"]
            if kind == "ERROR":
                message = f"watch of {self._where}: {thing.get('code')} {thing.get('message')}"
                raise ApiError(message)
            if kind == "DELETED":
                log.warning("%s was deleted: what it held stays in force", self._where)
            elif kind in ("ADDED", "MODIFIED"):
                self._hold(thing)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            message = f"watch of {self._where}: an unreadable event of {len(line)} bytes"
            raise ApiError(message) from None
