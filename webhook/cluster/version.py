"""The API server's version, which decides between the native sleep action and exec."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, Final

from webhook.certificates import Background, jittered
from webhook.cluster.client import Api, ApiError, Backoff
from webhook.mutations.model import ServerVersion

log = logging.getLogger("webhook.cluster.version")

_REFRESH_SECONDS: Final = 600.0
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_GIT_VERSION: Final = re.compile(r"v?([0-9]{1,9})\.([0-9]{1,9})")


def parse_version(document: Mapping[str, Any]) -> ServerVersion | None:
    """Read the answer of `/version`; none where it tells no version.

    Providers write `30+`, and some leave it to `gitVersion`. A server that emulates an older
    version validates as that one does.
    """
    pairs = [("major", "minor"), ("emulationMajor", "emulationMinor")]
    found = []
    for names in pairs:
        numbers = [_NUMBER.match(str(document.get(name, ""))) for name in names]
        if all(numbers):
            found.append(ServerVersion(*(int(number[0]) for number in numbers if number)))
    if not found and (text := _GIT_VERSION.match(str(document.get("gitVersion", "")))):
        found.append(ServerVersion(int(text[1]), int(text[2])))
    return min(found, default=None)


class ServerVersionWatch:
    """Knows the API server's version: learned at start, and asked for again every ten minutes.

    Args:
        api: the Kubernetes API.
        backoff: how long to wait after failures.
    """

    def __init__(self, api: Api, *, backoff: Backoff | None = None) -> None:
        self._api = api
        self._backoff = backoff or Backoff()
        self._version: ServerVersion | None = None
        self._background = Background("server-version", self.step)

    def start(self) -> None:
        """Learn it, and keep it up to date."""
        self._background.start()

    def stop(self) -> None:
        """Keep it up to date no longer."""
        self._background.stop()

    def refresh(self) -> None:
        """Ask again now: the server that answers may be another one."""
        self._background.wake()

    def version(self) -> ServerVersion | None:
        """Give the version that was last heard of, without waiting."""
        return self._version

    def step(self) -> float:
        """Ask once, and tell when to ask again."""
        try:
            found = parse_version(self._api.request("GET", "/version"))
        except ApiError as error:
            log.log(
                logging.INFO if self._backoff.failures else logging.WARNING,
                "the API server's version cannot be learned: %s",
                error,
            )
            return self._backoff.failed(error)
        self._backoff.succeeded()
        if found is None:
            log.warning("the API server tells no version: %s", "expected major and minor")
        elif found != self._version:
            log.info("the API server's version is %d.%d", *found)
        self._version = found or self._version
        return jittered(_REFRESH_SECONDS)
