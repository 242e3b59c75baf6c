"""A small API server for faults: HTTP, a version for each write, lists in pages, watches.

Of our own rather than a mock library's, as what is tested is what those leave out: writes that fail
because another was first, versions that are too old, pages that expire, and connections that fall
silent, break in the middle of a line or answer with an error. The real API server is tested too
(`test_real_api.py`); this one says on command what that one says on a bad day.
"""

from __future__ import annotations

import contextlib
import copy
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import jsonpatch
import kubernetes

from webhook.cluster.client import Api

NAMESPACES = "/api/v1/namespaces"
NODES = "/api/v1/nodes"
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"


class Request(NamedTuple):
    """What a client asked."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]

    @property
    def watches(self) -> bool:
        """Whether it asks for a watch."""
        return "watch" in self.query


class Fault(NamedTuple):
    """What it gets instead of an answer; status 0 drops the connection."""

    status: int
    headers: dict[str, str] = {}  # noqa: RUF012 - nobody writes to it
    body: bytes = b""


class FakeApi:
    """The server; `faults` are asked first, each with the request, until one gives a fault."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.faults: list[Callable[[Request], Fault | None]] = []
        self.version: dict[str, Any] = {"major": "1", "minor": "30+", "gitVersion": "v1.30.2-x"}
        self.clock_is_ahead = timedelta()
        self.token: str | None = None
        self.watches_end = True
        self.objects: dict[str, dict[str, Any]] = {}
        self._last = 100
        self._oldest = 0
        self._history: list[tuple[int, bytes]] = []
        self._generation = 0
        self.streams = 0
        self._changed = threading.Condition(threading.RLock())
        self._open = True
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def api(self) -> Api:
        """Make a client of it."""
        configuration: Any = kubernetes.client.Configuration(host=self.url)
        return Api(kubernetes.client.ApiClient(configuration))

    def close(self) -> None:
        """Stop."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # --- what tests do to it ---------------------------------------------------------------------

    def now(self) -> datetime:
        """Tell its time."""
        return datetime.now(UTC) + self.clock_is_ahead

    def put(self, collection: str, name: str, thing: dict[str, Any]) -> dict[str, Any]:
        """Store an object, whatever is there."""
        with self._changed:
            self._last += 1
            there = self.objects.setdefault(collection, {})
            kind = "MODIFIED" if name in there else "ADDED"
            thing = copy.deepcopy(thing)
            metadata = thing.setdefault("metadata", {})
            metadata.update(name=name, resourceVersion=str(self._last))
            there[name] = thing
            if collection == NAMESPACES or collection.endswith("/configmaps"):
                self._tell(kind, thing)
            return thing

    def namespace(self, name: str, **annotations: str) -> None:
        """Store a namespace with annotations under our prefix; `inject` is a label."""
        keys = {
            "seamless-rollouts.dev/" + key.replace("_", "-"): annotations[key]
            for key in annotations
        }
        labels = {key: value for key, value in keys.items() if key.endswith("/inject")}
        rest = {key: value for key, value in keys.items() if key not in labels}
        self.put(NAMESPACES, name, {"metadata": {"labels": labels, "annotations": rest}})

    def delete(self, collection: str, name: str) -> None:
        """Delete an object."""
        with self._changed:
            self._last += 1
            thing = self.objects[collection].pop(name)
            thing["metadata"]["resourceVersion"] = str(self._last)
            if collection == NAMESPACES or collection.endswith("/configmaps"):
                self._tell("DELETED", thing)

    def bookmark(self) -> None:
        """Send a bookmark of the last version."""
        with self._changed:
            self._last += 1
            self._tell("BOOKMARK", {"metadata": {"resourceVersion": str(self._last)}})

    def send(self, line: bytes) -> None:
        """Send bytes to those who watch now."""
        with self._changed:
            self._last += 1
            self._history.append((self._last, line))
            self._changed.notify_all()

    def compact(self) -> None:
        """Forget what was: versions before the last are too old from now on."""
        with self._changed:
            self._last += 1
            self._oldest = self._last
            self._history.clear()

    def drop_streams(self) -> None:
        """Break all watches off."""
        with self._changed:
            self._generation += 1
            self._changed.notify_all()

    def asked(self, method: str, path: str = "", *, watches: bool = False) -> list[Request]:
        """List the requests that were made."""
        return [
            each
            for each in self.requests
            if each.method == method and each.path.startswith(path) and each.watches == watches
        ]

    # --- what it answers -------------------------------------------------------------------------

    def _tell(self, kind: str, thing: dict[str, Any]) -> None:
        line = json.dumps({"type": kind, "object": thing}).encode() + b"\n"
        self._history.append((self._last, line))
        self._changed.notify_all()

    def answer(self, request: Request, body: bytes) -> tuple[int, dict[str, Any]]:
        """Answer a request that is no watch."""
        with self._changed:
            if request.path == "/version":
                return 200, self.version
            if request.path == NODES:
                return self._table(request)
            collection, _, name = request.path.rpartition("/")
            if request.path in (NAMESPACES, CONFIGURATIONS) or request.path.endswith(
                ("/secrets", "/configmaps")
            ):
                if request.method == "POST":
                    return self._create(request.path, json.loads(body))
                return self._list(request)
            stored = self.objects.get(collection, {}).get(name)
            if stored is None:
                return _status(404, f'"{name}" not found')
            if request.method == "GET":
                return 200, stored
            return self._change(request, collection, name, stored, body)

    def heads(self, request: Request) -> dict[str, str]:  # noqa: ARG002 - others tell more
        """Give the headers that go with an answer."""
        return {}

    def _create(self, collection: str, thing: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = thing["metadata"]["name"]
        if name in self.objects.get(collection, {}):
            return _status(409, f'"{name}" already exists')
        return 201, self.put(collection, name, thing)

    def _change(
        self, request: Request, collection: str, name: str, stored: dict[str, Any], body: bytes
    ) -> tuple[int, dict[str, Any]]:
        if request.method == "PUT":
            thing = json.loads(body)
            if thing["metadata"].get("resourceVersion") != stored["metadata"]["resourceVersion"]:
                return _status(409, "the object has been modified")
            return 200, self.put(collection, name, thing)
        try:
            return 200, self.put(collection, name, jsonpatch.apply_patch(stored, body.decode()))
        except jsonpatch.JsonPatchException:
            return _status(422, "the server rejected our request due to an error in our request")

    def _list(self, request: Request) -> tuple[int, dict[str, Any]]:
        names = sorted(self.objects.get(request.path, {}))
        limit = int(request.query.get("limit", "0")) or len(names)
        start, version = 0, self._last
        if "continue" in request.query:
            start, version = map(int, request.query["continue"].split("/"))
            if version < self._oldest:
                return _status(410, "the provided continue parameter is too old")
        page = names[start : start + limit]
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if start + limit < len(names):
            metadata["continue"] = f"{start + limit}/{version}"
        items = [self.objects[request.path][name] for name in page]
        return 200, {"metadata": metadata, "items": items}

    def _table(self, request: Request) -> tuple[int, dict[str, Any]]:
        """Give a list of nodes as `kubectl get` asks for it."""
        status, page = self._list(request)
        if status == 200:
            items = page.pop("items")
            rows = [
                {"cells": [each["metadata"]["name"], "Ready", "<none>", "3d", each["version"]]}
                for each in items
            ]
            columns = ["Name", "Status", "Roles", "Age", "Version"]
            page["columnDefinitions"] = [{"name": name, "type": "string"} for name in columns]
            page |= {"kind": "Table", "rows": rows}
        return status, page

    def events(self, request: Request) -> Iterator[bytes]:
        """Give the lines of a watch, until it ends; raises where it is to break off."""
        seen = int(request.query["resourceVersion"] or 0)
        ends = time.monotonic() + int(request.query["timeoutSeconds"])
        with self._changed:
            generation = self._generation
            if seen < self._oldest:
                gone = _status(410, "too old resource version")[1]
                yield json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n"
                return
            while self._open:
                lines = [line for version, line in self._history if version > seen]
                seen = max([seen, *(version for version, _ in self._history)])
                yield from lines
                if generation != self._generation:
                    raise ConnectionAbortedError
                if self.watches_end and time.monotonic() >= ends:
                    return
                if not lines:
                    self._changed.wait(0.05)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: connections break here on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fake: FakeApi

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def date_time_string(self, timestamp: float | None = None) -> str:  # noqa: ARG002
        """Tell the fake's time as `Date`."""
        return format_datetime(self.fake.now(), usegmt=True)

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        request = Request(
            self.command, parts.path, dict(parse_qsl(parts.query)), dict(self.headers.items())
        )
        self.fake.requests.append(request)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = next(filter(None, (ask(request) for ask in list(self.fake.faults))), None)
        if fault is None and self.fake.token is not None:
            given = request.headers.get("Authorization", "")
            fault = None if given == f"Bearer {self.fake.token}" else Fault(401)
        if fault is not None:
            self._fail(fault)
        elif request.watches:
            self._stream(request)
        else:
            status, document = self.fake.answer(request, body)
            self._send(status, self.fake.heads(request), json.dumps(document).encode())

    do_GET = do_POST = do_PUT = do_PATCH = _serve  # noqa: N815 - http.server's names

    def _fail(self, fault: Fault) -> None:
        if fault.status == 0:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._send(fault.status, fault.headers, fault.body)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, request: Request) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.fake.streams += 1
        try:
            for line in self.fake.events(request):
                # In two pieces, as networks do.
                for piece in filter(None, (line[: len(line) // 2], line[len(line) // 2 :])):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        except ConnectionAbortedError:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        finally:
            self.fake.streams -= 1


def _status(code: int, message: str) -> tuple[int, dict[str, Any]]:
    return code, {"kind": "Status", "status": "Failure", "message": message, "code": code}


def once(fault: Fault, *, watches: bool | None = None, times: int = 1) -> Callable[[Request], Any]:
    """Make a fault that happens a number of times, to watches, to others or to both."""
    left = [times]

    def ask(request: Request) -> Fault | None:
        if left[0] <= 0 or (watches is not None and watches != request.watches):
            return None
        left[0] -= 1
        return fault

    return ask


def until(true: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait until something is so, and fail where it never is."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.005)
