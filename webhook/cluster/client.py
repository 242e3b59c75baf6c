"""How the Kubernetes API is reached: one connection pool, raw JSON in and out.

    ClusterError            the cluster cannot be used at all: no token, a broken kubeconfig
    └── ApiError            one request failed: refused, timed out, or answered with an error
        └── MissingRightError   we may not; names the rule that would let us (`cluster.workloads`)

The client's typed models are not used by what serves: decoding a list of namespaces into them takes
many times the time and memory of reading the bytes.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import kubernetes
import orjson
import urllib3
import yaml
from kubernetes.config.incluster_config import SERVICE_TOKEN_FILENAME

from webhook import VERSION

Json = dict[str, Any]

USER_AGENT: Final = f"seamless-rollouts/{VERSION}"
METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
JSON_PATCH: Final = "application/json-patch+json"
_CONNECT_SECONDS: Final = 5.0
_READ_SECONDS: Final = 30.0
_MOST_SHOWN: Final = 300
_WARNING: Final = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')

UNAUTHORIZED: Final = 401
FORBIDDEN: Final = 403
NOT_FOUND: Final = 404
CONFLICT: Final = 409
GONE: Final = 410
INVALID: Final = 422
TOO_MANY_REQUESTS: Final = 429


class ClusterError(Exception):
    """The Kubernetes API cannot be used; the text says why."""


class ApiError(ClusterError):
    """A request to the Kubernetes API failed.

    Args:
        message: what was asked, and what came of it.
        status: the HTTP status; none where there was no answer.
        retry_after: the seconds that the server asks to wait, if it does.
        token: where a list whose pages have expired may go on, if the server says.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        retry_after: float | None = None,
        token: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.token = token


def connect(kubeconfig: Path | None) -> Any | None:
    """Reach for the cluster: the one that `kubeconfig` names, else the one that this pod runs in.

    Returns:
        A `kubernetes.client.ApiClient`; none where there is neither.

    Raises:
        ClusterError: what says where the cluster is cannot be used.
    """
    load: Any = kubernetes.config
    configuration: Any = kubernetes.client.Configuration()
    try:
        if kubeconfig is not None:
            where = str(kubeconfig)
            load.load_kube_config(config_file=where, client_configuration=configuration)
        elif os.environ.get("KUBERNETES_SERVICE_HOST"):
            where = "this pod's service account"
            load.load_incluster_config(client_configuration=configuration)
            configuration.refresh_api_key_hook = _read_token
        else:
            return None
    except BROKEN as error:
        message = f"cannot reach the cluster by {where}: {what_is_wrong(error)}"
        raise ClusterError(message) from None
    configuration.socket_options = _keep_alive()
    found = kubernetes.client.ApiClient(configuration)
    found.user_agent = USER_AGENT
    return found


BROKEN: Final[tuple[type[Exception], ...]] = (
    kubernetes.config.ConfigException,
    yaml.YAMLError,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
)
"""What the client raises at a kubeconfig that it cannot use: it looks at no shape first."""


def what_is_wrong(error: Exception) -> str:
    """Say in one line what is wrong with a kubeconfig, and never what it holds, keys and all."""
    if isinstance(error, OSError):
        return str(error.strerror or error)
    if isinstance(error, (TypeError, KeyError, AttributeError)):
        return "it is no kubeconfig"
    return " ".join(str(error).split()).partition("/{")[0]


def _read_token(configuration: Any) -> None:
    """Take the token anew for each request, as the kubelet replaces it every hour.

    The client's own way asks the wall clock once a minute, and goes on with a dead token after the
    clock has been set back. There are few requests, and the file is in memory.
    """
    with contextlib.suppress(OSError):
        token = Path(SERVICE_TOKEN_FILENAME).read_text(encoding="ascii").strip()
        if token:
            configuration.api_key = dict.fromkeys(configuration.api_key, f"Bearer {token}")


def _keep_alive() -> list[tuple[int, int, int]]:
    """Have the kernel find out within a minute that the other end has vanished."""
    options = [
        *urllib3.connection.HTTPConnection.default_socket_options,
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ]
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


class Api:
    """Requests to the Kubernetes API; also tells the time by its clock.

    It is the API server that judges certificates, so its clock counts, as the `Date` of its last
    answer tells it, and time since then is counted by a clock that cannot be set. So a jump of this
    machine's clock does nothing. Before the first answer it is this machine's.

    Args:
        client: a `kubernetes.client.ApiClient`.
    """

    def __init__(self, client: Any) -> None:
        client.user_agent = USER_AGENT
        self._client = client
        self._last_date: tuple[datetime, float] | None = None

    def now(self) -> datetime:
        """Tell the time by the API server's clock, to a second or so."""
        if self._last_date is None:
            return datetime.now(UTC)
        date, then = self._last_date
        return date + timedelta(seconds=time.monotonic() - then)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        accept: str = "application/json",
        content_type: str = "application/json",
        timeout: float = _READ_SECONDS,
        warnings: list[str] | None = None,
    ) -> Json:
        """Ask, and read the answer; `warnings` gets those that come with it.

        Raises:
            ApiError: there is none, it is an error, or it is no JSON object.
        """
        headers = {"Accept": accept}
        content = None
        if body is not None:
            headers["Content-Type"] = content_type
            content = orjson.dumps(body)
        response = self._send(method, path, query, headers, content, timeout, preload=True)
        what = f"{method} {path}"
        if warnings is not None:
            warnings += _warnings(response)
        try:
            found = orjson.loads(response.data)
        except orjson.JSONDecodeError:
            found = None
        if isinstance(found, dict):
            return found
        message = f"{what}: the answer is no JSON object"
        raise ApiError(message)

    def stream(self, path: str, *, query: Mapping[str, Any], accept: str, silence: float) -> Any:
        """Ask for a stream: the response, whose body is still to be read, and which must be closed.

        Args:
            path: what to watch.
            query: its query.
            accept: the content type to ask for.
            silence: the seconds without a byte after which it counts as lost.

        Raises:
            ApiError: there is no answer, or it is an error.
        """
        return self._send("GET", path, query, {"Accept": accept}, None, silence, preload=False)

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        headers: dict[str, str],
        content: bytes | None,
        timeout: float,
        *,
        preload: bool,
    ) -> Any:
        what = f"{method} {path}"
        if not {".", ".."}.isdisjoint(path.split("/")):  # urllib3 would go where they lead
            message = f"{what}: there is nothing of such a name"
            raise ApiError(message)
        configuration = self._client.configuration
        headers |= self._client.default_headers
        try:
            token = configuration.auth_settings().get("BearerToken", {}).get("value")
            if token:
                headers["Authorization"] = token
            response = self._client.rest_client.pool_manager.request(
                method,
                configuration.host + path + ("?" + urlencode(query) if query else ""),
                body=content,
                headers=headers,
                timeout=urllib3.Timeout(connect=min(timeout, _CONNECT_SECONDS), read=timeout),
                retries=False,
                preload_content=preload,
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            message = f"{what}: no answer from the API server: {_brief(str(error))}"
            raise ApiError(message) from None
        with contextlib.suppress(KeyError, TypeError, ValueError):
            date = parsedate_to_datetime(response.headers["Date"])
            self._last_date = (date.astimezone(UTC), time.monotonic())
        if response.status < 300:  # noqa: PLR2004 - the first that is no success
            return response
        raise _failure(what, response)


def _warnings(response: Any) -> list[str]:
    """Read the warnings of an answer: `299 - "text"` in the header of that name (RFC 7234)."""
    given = ", ".join(response.headers.getlist("Warning"))
    return [re.sub(r"\\(.)", r"\1", each) for each in _WARNING.findall(given)]


def _failure(what: str, response: Any) -> ApiError:
    retry_after = None
    with contextlib.suppress(KeyError, ValueError):
        retry_after = float(response.headers["Retry-After"])
    reason, token = str(response.reason), None
    with contextlib.suppress(urllib3.exceptions.HTTPError, ValueError, KeyError, TypeError):
        answer = orjson.loads(response.data)
        reason = answer["message"]
        token = answer["metadata"]["continue"]
    response.release_conn()
    message = f"{what}: {response.status}: {_brief(reason)}"
    return ApiError(message, response.status, retry_after, token)


def _brief(text: str) -> str:
    text = " ".join(str(text).split())
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "\N{HORIZONTAL ELLIPSIS}"


class Backoff:
    """How long to wait after one more failure in a row: twice as long each time, and spread.

    Args:
        first: seconds after the first one.
        most: seconds at most.
        spread: tells a number from 0 to 1.
    """

    def __init__(
        self, first: float = 0.5, most: float = 30.0, spread: Callable[[], float] = random.random
    ) -> None:
        self.failures = 0
        self._first = first
        self._most = most
        self._spread = spread

    def failed(self, error: ApiError | None = None) -> float:
        """Count a failure, and tell how many seconds to wait: as the server asks, if it does."""
        seconds: float = min(self._first * 2 ** min(self.failures, 30), self._most)
        self.failures += 1
        seconds *= 0.5 + 0.5 * self._spread()
        asked = (error.retry_after or 0.0) if error else 0.0
        return max(seconds, min(asked, 2 * self._most))

    def succeeded(self) -> None:
        """Begin from the first again."""
        self.failures = 0
