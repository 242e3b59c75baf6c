"""`seamless playground`: a local page that shows what becomes of manifests, and of their rollout.

The page sends what is in its editor with every change, and draws what comes back. Nothing is stored
here, and nothing is sent anywhere else: the browser is told so by the Content-Security-Policy.

    page ── text, settings, timings ──▶ preview ── Planner ──▶ what the page draws

A web page of strangers can make a browser send requests to this port, and can have a name of its
own resolve to it (DNS rebinding). So a request must name this server in `Host` as its user does,
and must come from this page where it says where it comes from.
"""

from __future__ import annotations

import asyncio
import difflib
import ipaddress
import re
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
import uvicorn
from fastapi import FastAPI, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webhook.cli.common import (
    Parser,
    UsageError,
    configuration,
    fail,
    line,
    note,
    read_text,
    whole_number,
)
from webhook.cli.manifests import Document, ManifestError, dump, read
from webhook.cli.planner import Options, Planned, Planner, admitted, objects
from webhook.decision import aws
from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration
from webhook.decision.estimate import duration
from webhook.decision.printable import harmful
from webhook.decision.settings import (
    LONGEST_VALUE,
    PREFIX,
    RECORD,
    WORKLOAD,
    InvalidSettingError,
    Setting,
)
from webhook.decision.workload import Json, malformed
from webhook.rollout import timings as rollout_timings
from webhook.rollout.shape import MOST_PODS, shape_of
from webhook.rollout.simulation import Rollout
from webhook.rollout.timings import BALANCER, Timings, TimingsError

PROGRAM: Final = "seamless playground"
DESCRIPTION: Final = """\
Serve a page on this machine: manifests in; diff, warnings and timeline of the rollout out, with
live controls. Nothing is stored, and nothing is sent anywhere else. Ctrl-C ends it."""

ASSETS: Final = Path(__file__).resolve().parent.parent / "playground"
_FILES: Final[Mapping[str, tuple[str, str]]] = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/playground.css": ("playground.css", "text/css; charset=utf-8"),
    "/playground.js": ("playground.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_EXAMPLE_ROW: Final = re.compile(r"^\| \[([a-z0-9-]+)\]\([a-z0-9-]+\) \| (.+) \|$", re.MULTILINE)

# What one request may ask for. A chart of fifty workloads stays below.
MOST_TEXT: Final = 256 * 1024
"""Characters of manifests."""
MOST_BODY: Final = 2 * 1024 * 1024
"""Bytes of a request: the text as JSON, where a character may take several."""
MOST_WORKLOADS: Final = 50
"""Workloads that are shown."""
MOST_EXPANDED: Final = 1024 * 1024
"""Bytes of the manifests as JSON, with what their aliases stand for."""
MOST_SIMULATED: Final = 5_000
"""Pods of all workloads together that are followed."""
MOST_DRAWN: Final = 40
"""Pods of a workload that are drawn; of more, some are left out, evenly."""
MOST_COMPARED: Final = 4_000
"""Lines of an object whose diff is shown."""
_ANSWER_SECONDS: Final = 10.0
_BODY_SECONDS: Final = 10.0
_AT_ONCE: Final = 2
_MOST_WAITING: Final = 8

_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def main(arguments: list[str]) -> int:
    """Run the command; gives its exit status."""
    try:
        options = _parser().parse_args(arguments)
        port = _port(options.port)
        settings = configuration(options.config)
        base = _timings_file(options.timings)
        playground = Playground(settings, base)
        listening = _listen(options.host, port)
    except (UsageError, InvalidSettingError) as error:
        return fail(PROGRAM, error)
    with listening:
        host, port = listening.getsockname()[:2]
        if not ipaddress.ip_address(host).is_loopback:
            note(
                PROGRAM,
                f"warning: {host} is no loopback address: whoever reaches port {port} can use this "
                "page, unencrypted and without a password",
            )
        hosts = frozenset({"localhost", options.host.lower()})
        _serve(app(playground, hosts), listening, _url(host, port))
    return 0


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description=DESCRIPTION)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where to listen (127.0.0.1: this machine alone can reach it)",
    )
    parser.add_argument(
        "--port", default="8088", metavar="PORT", help="the port; 0 takes a free one (8088)"
    )
    parser.add_argument("--config", metavar="FILE", help="the webhook's configuration")
    parser.add_argument("--timings", metavar="FILE", help="what the cluster and applications take")
    return parser


def _port(text: str) -> int:
    try:
        return whole_number(text, 0, 65535)
    except UsageError as error:
        message = f"--port: {error}"
        raise UsageError(message) from None


def _timings_file(path: str | None) -> Timings:
    if path is None:
        return Timings()
    try:
        return rollout_timings.parse(read_text(path), path)
    except TimingsError as error:
        raise UsageError(str(error)) from None


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        message = f"cannot listen on {host} port {port}: {why}; another with --host and --port"
        raise UsageError(message) from None


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _serve(served: ASGIApp, listening: socket.socket, url: str) -> None:
    server = uvicorn.Server(
        uvicorn.Config(
            served,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            limit_concurrency=64,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=2,
        )
    )
    # The server heeds these signals, and raises them once more at its end: that it was asked to.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: None)
    line(f"{url} (Ctrl-C ends it)")
    server.run(sockets=[listening])


# --- the app -------------------------------------------------------------------------------------


def app(playground: Playground, hosts: frozenset[str]) -> ASGIApp:
    """Make the app.

    Args:
        playground: what answers.
        hosts: names that a request may call this server by; any IP address is one, too, as no
            stranger's name can be.
    """
    api = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="preview")
    waiting: set[asyncio.Future[bytes]] = set()
    options = orjson.dumps(playground.options())

    for path, (name, content_type) in _FILES.items():
        api.add_api_route(path, _file(ASSETS / name, content_type), methods=["GET"])

    @api.get("/api/options")
    async def _options() -> Response:
        return Response(options, media_type="application/json")

    @api.post("/api/preview")
    async def _preview(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return PlainTextResponse("expected application/json\n", 415)
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await _body(request)
        except TimeoutError:
            return PlainTextResponse("the request did not arrive in time\n", 408)
        if body is None:
            return PlainTextResponse(f"expected at most {MOST_BODY} bytes\n", 413)
        if len(waiting) >= _MOST_WAITING:
            return PlainTextResponse("too many requests at once\n", 503)
        answering = asyncio.get_running_loop().run_in_executor(threads, playground.answer, body)
        waiting.add(answering)
        answering.add_done_callback(waiting.discard)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return Response(await asyncio.shield(answering), media_type="application/json")
        except TimeoutError:
            text = f"these manifests take longer than {_ANSWER_SECONDS:.0f} s"
            return Response(orjson.dumps({"error": {"text": text}}), media_type="application/json")

    return _Guard(api, hosts)


def _file(path: Path, content_type: str) -> Callable[[], Any]:
    content = path.read_bytes()

    async def answer() -> Response:
        return Response(content, media_type=content_type)

    return answer


async def _body(request: Request) -> bytes | None:
    """Read a body; none where it is longer than any that the page sends."""
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > MOST_BODY:
            return None
    return bytes(found)


class _Guard:
    """Lets requests to this server pass that come from its own page, and adds headers to all."""

    def __init__(self, inner: ASGIApp, hosts: frozenset[str]) -> None:
        self._inner = inner
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        refused = self._refused(Headers(scope=scope))
        answer = self._inner if refused is None else PlainTextResponse(refused, 403)
        await answer(scope, receive, guarded)

    def _refused(self, headers: Headers) -> str | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            return "this server is not called by that name: use its address, or --host NAME\n"
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"http://{hosts[0].lower()}":
            return "the request comes from another page\n"
        return None

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


# --- what the page is told -----------------------------------------------------------------------


class _InputError(ValueError):
    """What was sent cannot be shown."""

    def __init__(self, message: str, position: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.position = position


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the page sends: manifests, settings by name, and timings over those of the file."""

    text: str
    settings: dict[str, str]
    timings: Timings


class Playground:
    """Answers the page.

    Args:
        settings: the webhook's configuration.
        timings: what holds where the page says nothing else.

    Raises:
        InvalidSettingError: the configuration's defaults do not parse.
    """

    def __init__(self, settings: Configuration, timings: Timings | None = None) -> None:
        self._settings = settings
        self._timings = timings or Timings()
        self._table = Admission(settings).table

    def options(self) -> Json:
        """Tell the page what it offers: settings, examples, and the timings that hold at first."""
        times = self._timings.times
        balancer = times.balancer
        return {
            "mode": self._settings.mode,
            "mostText": MOST_TEXT,
            "settings": [_control(each) for each in self._table.values()],
            "timings": {
                "start": times.application.start.p50,
                "stop": times.application.stop.p50,
                "rate": times.rate,
                "service": times.service.remove.max,
                "balancer": (balancer or BALANCER).remove.max,
                "balanced": balancer is not None,
            },
            "examples": list(_examples()),
        }

    def answer(self, body: bytes) -> bytes:
        """Answer what the page sent: a preview, or `error` with what is wrong, and where."""
        try:
            return orjson.dumps(self._preview(self._asked(body)))
        except (_InputError, ManifestError) as error:
            text = str(error).removeprefix(f"{_SOURCE}, ")
            where = error.position
            if where is not None:  # the page says it, of the whole text
                text = re.sub(r"^(document \d+: )?line \d+, column \d+: ", "", text)
            place = {} if where is None else {"line": where[0], "column": where[1]}
            return orjson.dumps({"error": {"text": text, **place}})
        except Exception as error:  # noqa: BLE001 - one line on the page, never a traceback
            text = f"unexpected {type(error).__name__}: a fault of this program, please report it"
            return orjson.dumps({"error": {"text": text}})

    def _asked(self, body: bytes) -> _Asked:
        try:
            sent = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise _InputError("the request is no JSON") from None
        if not isinstance(sent, dict) or not isinstance(sent.get("text"), str):
            raise _InputError("the request has no text")
        settings = sent.get("settings") or {}
        if not isinstance(settings, dict):
            raise _InputError("settings: expected a mapping")
        for name, value in settings.items():
            if name not in self._table or not isinstance(value, str) or len(value) > LONGEST_VALUE:
                message = f"settings: {name[:100]}: expected a known setting and its text"
                raise _InputError(message)
        if len(sent["text"]) > MOST_TEXT:
            message = f"{len(sent['text']):,} characters: expected at most {MOST_TEXT:,}"
            raise _InputError(message)
        try:
            timings = rollout_timings.over(self._timings, sent.get("timings") or {}, "timings")
        except TimingsError as error:
            raise _InputError(str(error)) from None
        return _Asked(sent["text"], settings, timings)

    def _preview(self, asked: _Asked) -> Json:
        written = read(asked.text, _SOURCE)
        if sum(len(orjson.dumps(each.content)) for each in written) > MOST_EXPANDED:
            message = f"the manifests stand for more than {MOST_EXPANDED:,} bytes"
            raise _InputError(message)
        _bounded(written)
        changed = [_with_settings(each, asked.settings) for each in written]
        plan = Planner(self._settings, Options(timings=asked.timings)).plan(changed)
        originals = {
            (document.number, item): content
            for document in written
            for item, _, content in objects(document)
        }
        return {
            "documents": sum(each.content is not None for each in written),
            "workloads": [
                _workload(each, originals[each.document.number, each.item])
                for each in plan.workloads
            ],
            "yaml": "---\n".join(_ended(_text(*each)) for each in admitted(plan)),
        }


def _bounded(documents: Sequence[Document]) -> None:
    """Refuse what would take long.

    Raises:
        _InputError: more workloads, or more pods, than one page shows.
    """
    workloads = pods = 0
    for document in documents:
        for _, kind, each in objects(document):
            if kind is None:
                continue
            workloads += 1
            if malformed(each) is None:
                found = shape_of(kind, each, None, None).pods
                pods += found if found <= MOST_PODS else 0  # more are not followed at all
    for number, what, most in (
        (workloads, "workloads", MOST_WORKLOADS),
        (pods, "pods", MOST_SIMULATED),
    ):
        if number > most:
            message = f"{number:,} {what}: expected at most {most:,}"
            raise _InputError(message)


_SOURCE: Final = "the text"


def _examples() -> Iterator[Json]:
    """Read the examples, in the order of their list."""
    folder = ASSETS / "examples"
    for name, title in _EXAMPLE_ROW.findall((folder / "README.md").read_text(encoding="utf-8")):
        text = (folder / name / "given.yaml").read_text(encoding="utf-8")
        yield {"name": name, "title": title.replace("`", ""), "text": text}


def _control(setting: Setting) -> Json:
    """Describe a setting, and the words that it takes where it takes nothing else."""
    words = re.findall(r"`([^`]*)`", setting.takes)
    only_words = not re.sub(r"`[^`]*`|[\s,]", "", setting.takes)
    return {
        "name": setting.name,
        "help": setting.help,
        "takes": setting.takes,
        "default": setting.default,
        "choices": words if only_words and "://" not in setting.takes else [],
    }


def _with_settings(document: Document, settings: Mapping[str, str]) -> Document:
    """Write settings on each workload of a document, as annotations."""
    if not settings or not any(kind for _, kind, _ in objects(document)):
        return document
    changed = replace(document, content=deepcopy(document.content))
    for _, kind, each in objects(changed):
        if kind is not None:
            _annotate(each, settings)
    return replace(changed, text=dump(changed.content))


def _annotate(workload: Json, settings: Mapping[str, str]) -> None:
    """Write annotations, unless what is there leaves no room for any: then it is told as it is."""
    metadata = workload.get("metadata")
    if metadata is None:
        metadata = workload["metadata"] = {}
    if not isinstance(metadata, dict):
        return
    annotations = metadata.get("annotations")
    if annotations is None:
        annotations = metadata["annotations"] = {}
    if isinstance(annotations, dict):
        annotations.update({PREFIX + name: value for name, value in settings.items()})


def _workload(each: Planned, original: Json) -> Json:
    """Describe one workload, as it is written and as it would be admitted."""
    decision = each.decision
    situation = decision.situation
    return {
        "name": each.name,
        "namespace": "" if each.kind is aws.NAMESPACE_KIND else each.namespace,
        "state": each.state,
        "changed": bool(each.patch),
        "refused": [
            {"setting": found.name, "own": found.place == WORKLOAD, "text": str(found)}
            for found in decision.refused
        ],
        "warnings": [
            {"code": alert.code, "text": text.removeprefix("seamless-rollouts: ")}
            for alert, text in zip(decision.alerts, each.warnings, strict=True)
        ],
        "leftAlone": each.left_alone,
        "notes": each.in_git,
        "settings": {}
        if situation is None
        else {
            name: {"value": _shown(found.value), "source": found.source}
            for name, found in situation.policy.items()
        },
        "applied": list(decision.applied),
        "diff": _diff(original, each.after),
        "rollout": {
            "written": each.written and _drawn(each.written),
            "admitted": each.admitted and _drawn(each.admitted),
            "notSimulated": each.not_simulated,
        },
    }


def _shown(value: Any) -> str:
    """Write a setting's value as it would be set."""
    if isinstance(value, int):
        return duration(value) if value else "none"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _drawn(rollout: Rollout) -> Json:
    """Describe a rollout as `plan -o json` does, but for its pods: what each does when.

    Of many pods some are left out, evenly.
    """
    found = rollout.to_json()
    pods = rollout.pods
    number = len(pods)
    if number > MOST_DRAWN:
        pods = tuple(pods[at * number // MOST_DRAWN] for at in range(MOST_DRAWN))
    names = {None, *(each.name for each in pods)}
    found["losses"] = [each for each in found["losses"] if each["pod"] in names]
    found["pods"] = [
        {
            "name": each.name,
            "old": each.old,
            "phases": [(phase.name, phase.start, phase.end) for phase in each.phases],
        }
        for each in pods
    ]
    return {
        **found,
        "allPods": number,
        "end": rollout.end,
        "windows": _windows(rollout),
        "replicas": rollout.shape.pods,
        "longestWait": rollout.longest_wait,
    }


def _windows(rollout: Rollout) -> list[tuple[float, float]]:
    """Give when requests are at risk, of whichever pod."""
    found: list[tuple[float, float]] = []
    for each in rollout.losses:
        if found and each.start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], each.end))
        else:
            found.append((each.start, each.end))
    return found


def _text(document: Document, content: Any) -> str:
    if content is document.content and not harmful(document.text):
        return document.text
    return "" if content is None else dump(content)


def _ended(text: str) -> str:
    return text if text.endswith("\n") or not text else text + "\n"


_RECORD_LINE: Final = re.compile(rf"^(\s*{re.escape(RECORD)}:).*$")


def _diff(before: Json, after: Json) -> list[tuple[str, str]]:
    """Compare line by line; gives pairs of ` `, `+`, `-` or `@` (lines left out) and the line.

    The record is folded: it says again what the other lines say.
    """
    old, new = dump(before).splitlines(), dump(after).splitlines()
    if len(old) > MOST_COMPARED:
        return [("@", f"the {len(old):,} lines of it are not compared")]
    found = []
    for each in list(difflib.unified_diff(old, new, lineterm=""))[2:]:
        if each.startswith("@@"):
            found.append(("@", ""))
            continue
        folded = _RECORD_LINE.sub(r"\1 …  # what was injected, and what was there before", each[1:])
        found.append((each[0], folded))
    return found
