"""What is fuzzed: plain functions of bytes, each with what must hold.

Every one is run by hypothesis in `make test`, for a moment and always alike, and by `make fuzz`
for as long as is wanted, guided by coverage. A failed assertion, or any exception, is a finding.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson

from tests.builders import (
    DEFAULT,
    EXEC_QUIT,
    KINDS,
    NATIVE_30,
    OLD_SERVER,
    RECORD,
    Json,
    admission,
    after,
    container,
    deployment,
    forged,
    hooked,
    namespaces,
    plain,
    review,
    rolling,
    settings,
    sidecar,
    worker,
    workload,
)
from tests.decision.growth import Pair, body_of, check_growth, check_memory
from tests.decision.test_hostile import rich
from tests.decision.test_printable import assert_safe
from tests.decision.validation import complaints
from tests.fuzz.choices import Choices, dumps, garbled, mutate
from tests.fuzz.oracles import check_answer, check_line, check_places, check_settled
from webhook.cli import manifests
from webhook.cli.manifests import ManifestError
from webhook.cluster.client import ApiError
from webhook.cluster.namespaces import NamespaceWatch, lines
from webhook.cluster.version import parse_version
from webhook.decision import configuration as config
from webhook.decision.admission import Admission
from webhook.decision.configuration import ConfigurationError
from webhook.decision.mutations.readiness_probe import Probe, parse_probe
from webhook.decision.partial import alike
from webhook.decision.settings import PREFIX, WORKLOAD, InvalidSettingError, Table
from webhook.decision.workload import KINDS as WORKLOAD_KINDS
from webhook.decision.workload import malformed
from webhook.precheck import program
from webhook.precheck.targets import parse_duration, parse_require, parse_target
from webhook.rollout.simulation import SimulationError, simulate
from webhook.rollout.timings import Timings, TimingsError
from webhook.rollout.timings import parse as parse_timings
from webhook.serving.app import State, webhook_app
from webhook.serving.load import Limits
from webhook.serving.metrics import Metrics

Harness = Callable[[bytes], None]

_LONGEST_MESSAGE: Final = 4_000
ADMISSIONS: Final[tuple[Admission, ...]] = (
    DEFAULT,
    admission(
        {"invalidSettings": "warn", "applyDefaultsTo": "all", "awsReadinessGates": True},
        namespace=namespaces(),
    ),
    admission({"mode": "audit"}, server=OLD_SERVER),
    admission({"scope": "cluster"}, server=OLD_SERVER, namespace=namespaces({}, strategy="surge")),
    admission(namespace=namespaces({})),
)


# --- the decision --------------------------------------------------------------------------------

PLAIN: Final[tuple[Json, ...]] = (
    *(rich(kind) for kind in KINDS),
    deployment(),
    deployment(hooked(EXEC_QUIT), worker("second"), says={"pre-stop-existing": "chain"}),
    workload("DaemonSet", says={"strategy": "surge"}, **rolling("DaemonSet", maxUnavailable=1)),
    deployment(
        hooked({"exec": {"command": ["/bin/sh", "-c", "sleep 0.5m"]}}),
        worker("second"),
        says={"pre-stop-existing": "native", "max-grace": "50s", "precheck": "db:5432"},
        pod={
            "terminationGracePeriodSeconds": -1,
            "resources": {"requests": {"cpu": "50m"}, "limits": {"memory": "1Gi"}},
            "initContainers": [sidecar(resources={"requests": {"cpu": "0.01"}})],
        },
    ),
    workload(
        "StatefulSet",
        replicas=1,
        pod={
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [
                            {
                                "matchExpressions": [
                                    {
                                        "key": "kubernetes.io/os",
                                        "operator": "In",
                                        "values": ["windows"],
                                    }
                                ]
                            }
                        ]
                    }
                }
            },
            "securityContext": {"windowsOptions": {"hostProcess": True}},
        },
    ),
    workload("Rollout", worker(), says={"precheck": "db:5432", "readiness-gates": "a.test/ready"}),
    deployment(
        worker(ports=[{"containerPort": 80, "name": "web"}]),
        says={"readiness-probe": "http://:web/ok", "inject": "enabled"},
        pod={"initContainers": [sidecar()], "terminationGracePeriodSeconds": 90},
        minReadySeconds=5,
    ),
)
OBJECTS: Final = tuple(map(dumps, (*PLAIN, *(after(each) for each in PLAIN))))
_NAMESPACE: Final = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
EXAMPLE: Final = Path("examples/review.json").read_bytes()
REVIEWS: Final = (
    EXAMPLE,
    dumps(review(_NAMESPACE, kind={"group": "", "version": "v1", "kind": "Namespace"})),
    *(dumps(review(orjson.loads(each))) for each in OBJECTS),
    *(dumps(review(orjson.loads(each), orjson.loads(each))) for each in OBJECTS[-3:]),
)
MANAGERS: Final = ("kubectl", "seamless-backfill", "seamless-revert", None)


def decoder(data: bytes) -> None:
    """Any body is answered by an AdmissionReview or by 400, and the boundary is never needed."""
    choices = Choices(data)
    by = choices.pick(ADMISSIONS)
    way = choices.number(4)
    if way == 0:
        body = choices.rest()
    else:
        content = mutated_review(choices)
        body = _dumps(content)
        if way == 1:
            body = garbled(choices, body)
    check_answer(by.answer(body))


def mutated_review(choices: Choices) -> Any:
    """Change a review, mostly in one of its objects: the rest is soon told."""
    content = orjson.loads(choices.pick(REVIEWS))
    for _ in range(choices.number(4) + 1):
        request = content.get("request") if isinstance(content, dict) else None
        key = choices.pick(("object", "object", "oldObject"))
        if isinstance(request, dict) and request.get(key) and choices.number(8):
            request[key] = mutate(choices, request[key])
        else:
            content = mutate(choices, content)
    return content


def decision(data: bytes) -> None:
    """Of a workload, however odd, only what is ours changes; and deciding again changes nothing."""
    choices = Choices(data)
    by = choices.pick(ADMISSIONS)
    given = _changed(choices, orjson.loads(choices.pick(OBJECTS)))
    old = choices.pick((None, given, ..., ...))
    if old is ... and choices.number(2):
        old = copy.deepcopy(given)
        for _ in range(1 + choices.number(3)):
            _edit_live(choices, given)
    elif old is ...:
        old = _changed(choices, choices.pick((orjson.loads(choices.pick(OBJECTS)), given)))
    _decide(by, given, old, choices.pick(MANAGERS))


def _changed(choices: Choices, given: Any) -> Any:
    given = copy.deepcopy(given)
    for _ in range(choices.number(4)):
        if choices.number(3) == 2:
            _say(choices, given)
        else:
            given = mutate(choices, given)
    return given


def _edit_live(choices: Choices, given: Any) -> None:
    """Do what people, tools and schemas do to an object that was treated."""
    with contextlib.suppress(KeyError, TypeError, AttributeError, IndexError, ZeroDivisionError):
        template = given["spec"]["template"]
        found = template["spec"]["containers"]
        each = choices.pick(found)
        way = choices.number(8)
        if way == 0:
            each["name"] = choices.pick(("renamed", "app", "x" * 63))
        elif way == 1:
            found.append({**copy.deepcopy(each), "name": choices.pick(("copy", "copy-2"))})
        elif way == 2:
            del template["metadata"]["annotations"]
        elif way == 3:
            each["lifecycle"]["preStop"] = {}
        elif way == 4:
            del each[choices.pick(("lifecycle", "readinessProbe"))]
        elif way == 5:
            template["spec"]["terminationGracePeriodSeconds"] = choices.pick((0, 1, 20, 45, 60, 75))
        elif way == 6:
            given["spec"]["workloadRef"] = {"kind": "Deployment", "name": "web"}
            if choices.number(2):
                del given["spec"]["template"]
        else:
            each["image"] = "new:2"


def _say(choices: Choices, given: Any) -> None:
    """Write a setting, whatever it says, on the workload or its template."""
    with contextlib.suppress(KeyError, TypeError, AttributeError, IndexError):
        target = given if choices.number(2) else given["spec"]["template"]
        name = choices.pick((*DEFAULT.table, "inject", "injected"))
        text = choices.pick(GOOD[name]) if name in GOOD and choices.number(4) else choices.text()
        metadata = target["metadata"]
        metadata["annotations"] = {**(metadata.get("annotations") or {}), PREFIX + name: text}


GOOD: Final = {
    **{name: (*setting.examples, "none") for name, setting in DEFAULT.table.items()},
    "inject": ("enabled", "disabled"),
}


def _decide(by: Admission, given: Any, old: Any, manager: Any) -> None:
    content = review(given, old, options={"fieldManager": manager})
    body = _dumps(content)
    found = by.answer(body)
    check_answer(found)
    decided = found.decision
    if decided is None or decided.result is None:
        return
    check_places(given, plain(decided.result), kept=decided.kept)
    if decided.kept:
        assert alike(decided.result["spec"]["template"], old["spec"]["template"]), "not kept"
    check_settled(decided, by)


def _dumps(content: Any) -> bytes:
    try:
        return dumps(content)
    except TypeError:  # deeper than orjson writes, or a number that it does not know
        return json.dumps(content).encode()


def growth(data: bytes) -> None:
    """Four times the input takes about four times the time, and memory in proportion."""
    choices = Choices(data)
    by = choices.pick(ADMISSIONS)
    given = orjson.loads(choices.pick(OBJECTS))
    old = choices.pick((None, copy.deepcopy(given), orjson.loads(choices.pick(OBJECTS))))
    spots = [(given, _spot(choices, given))]
    if old is not None and choices.number(2):
        spots.append((old, _spot(choices, old)))
    if choices.number(3) == 2:
        spots.append((given, _spot(choices, given)))
    same = choices.number(2)

    def grow(count: int) -> Pair:
        grown = copy.deepcopy((given, old))
        for at, (root, (path, piece)) in enumerate(spots):
            _grow(grown[root is old], path, piece, count, "" if same else f"s{at}-")
        return grown

    check_growth(by, grow, 300)
    check_memory(by, body_of(grow, 2000))


Spot = tuple[tuple[Any, ...], Any]


def _spot(choices: Choices, root: Any) -> Spot:
    """Choose a place that can grow, and what it shall be made of."""
    metadata = choices.pick((("metadata",), ("spec", "template", "metadata")))
    name = choices.pick((*DEFAULT.table, "inject", "injected", "no-such"))
    text = choices.pick(
        ("a", "a,", "a.example/g, ", "db:1 ", "\U0001f642", " ", "1m", '{"fields":')
    )
    way = choices.number(4)
    if way == 0:
        return (*metadata, "annotations", PREFIX + name), text
    if way == 1:
        return (*metadata, choices.pick(("annotations", "labels"))), choices.pick((PREFIX, "a"))
    path: tuple[Any, ...] = ()
    node = root
    while isinstance(node, dict | list) and node:
        if isinstance(node, list) and choices.number(2):
            break
        step = choices.pick(list(node)) if isinstance(node, dict) else choices.number(len(node))
        path, node = (*path, step), node[step]
    return path, text


def _grow(root: Any, path: tuple[Any, ...], piece: Any, count: int, word: str) -> None:
    """Put so many of a thing in a place: characters, items of a list, or keys of a mapping."""
    node, last = root, path[-1]
    for step in path[:-1]:
        node = node[step] if isinstance(node, list) else node.setdefault(step, {})
    now = node.get(last) if isinstance(node, dict) else node[last]
    if isinstance(now, dict) or last in {"annotations", "labels"}:
        node[last] = {**(now or {}), **{f"{piece}{word}{at}": "1" for at in range(count)}}
    elif isinstance(now, list):
        node[last] = [_other(each, f"{word}{at}") for at in range(count) for each in now[:3]]
    else:
        node[last] = str(piece) * (20 * count)


def _other(item: Any, name: str) -> Any:
    """Copy an item of a list, under another name."""
    if not isinstance(item, dict):
        return item
    keys = [key for key in ("name", "conditionType") if key in item]
    return {**item, **dict.fromkeys(keys, name)}


# --- the record ----------------------------------------------------------------------------------

KEYS: Final = (
    "spec.terminationGracePeriodSeconds",
    "spec.containers[app].lifecycle.preStop",
    "spec.containers[gone].lifecycle.preStop",
    "spec.containers[app].readinessProbe",
    "spec.readinessGates[example.com/ready]",
    "spec.initContainers[seamless-precheck]",
    "spec.minReadySeconds",
    "spec.progressDeadlineSeconds",
    "spec.strategy.rollingUpdate.maxUnavailable",
    "spec.strategy.rollingUpdate.maxSurge",
    "spec.updateStrategy.rollingUpdate.maxUnavailable",
    "spec.containers[app].image",
    "spec.containers[app].lifecycle.postStart",
    "spec.initContainers[first]",
    "spec.initContainers[proxy].lifecycle.preStop",
    "spec.replicas",
    "spec.serviceAccountName",
    "metadata.name",
    "spec.containers[*].lifecycle.preStop",
    "spec.containers[a]b].lifecycle.preStop",
)
_VALID: Final[tuple[Json, ...]] = (
    *(after(each) for each in PLAIN if not complaints(after(each))),
    *(each for each in PLAIN if not complaints(each)),
    deployment(
        hooked(NATIVE_30),
        pod={
            "terminationGracePeriodSeconds": 60,
            "readinessGates": [{"conditionType": "example.com/ready"}],
        },
        minReadySeconds=60,
        progressDeadlineSeconds=700,
        **rolling(maxUnavailable=0, maxSurge=1),
    ),
    deployment(
        hooked({"exec": {"command": ["sleep", "30"]}}),
        container("second", lifecycle={}),
        pod={"initContainers": [], "readinessGates": []},
    ),
)
VALID: Final = tuple(map(dumps, _VALID))
VALUES: Final[tuple[Any, ...]] = (
    *(NATIVE_30, EXEC_QUIT, {"exec": {"command": ["sleep", "30"]}}, 30, 60, 600, 0, 1, "25%", "0%"),
    *(None, {}, [], True, -1, 2**63, {"sleep": {"seconds": 61}}, {"httpGet": {"port": 8080}}),
    *({"httpGet": {"path": "/ready", "port": 8080}}, {"sleep": {"seconds": 30}, "exec": None}),
)


def record(data: bytes) -> None:
    """A record that a user has edited, forged or broken does no harm and reaches nothing else."""
    choices = Choices(data)
    by = choices.pick(ADMISSIONS)
    given = orjson.loads(choices.pick(VALID))
    old = choices.pick((None, copy.deepcopy(given), ...))
    if old is ...:
        old = orjson.loads(choices.pick(VALID))
        old["kind"], old["apiVersion"] = given["kind"], given["apiVersion"]
    for each in (given, old):
        if each is not None:
            for target in (each, each["spec"]["template"]):
                if choices.number(2):
                    _forge(choices, target)
            if choices.number(3) == 2:
                name = choices.pick(tuple(GOOD))
                _annotate(each, PREFIX + name, choices.pick(GOOD[name]))
    _decide(by, given, old, choices.pick(MANAGERS))
    if not complaints(given):
        content = review(given, old, options={"fieldManager": choices.pick(MANAGERS)})
        decided = by.decide(by.decode(dumps(content)))
        if decided.result is not None:
            left = complaints(decided.result)
            assert not left, f"a valid workload became invalid: {left}"


def _forge(choices: Choices, target: Json) -> None:
    annotations = (target.get("metadata") or {}).get("annotations") or {}
    way = choices.number(5)
    text: Any = annotations.get(RECORD) or forged({KEYS[0]: {"is": 60, "was": 30}})
    if way == 0:
        text = choices.text()
    elif way == 1:
        text = garbled(choices, text.encode()).decode("utf-8", "replace")
    elif way == 2:
        content = orjson.loads(text)
        for _ in range(1 + choices.number(3)):
            content = mutate(choices, content)
        text = _dumps(content).decode()
    else:
        entries: Json = {}
        for _ in range(1 + choices.number(3)):
            entry: Json = {}
            for member in ("is", "was"):
                if choices.number(3):
                    entry[member] = choices.pick(VALUES) if choices.number(4) else choices.json()
            for member in ("made", "null"):
                if choices.number(3) == 2:
                    entry[member] = choices.pick((1, 2, True, 0, -1, False))
            entries[choices.pick(KEYS)] = entry
        text = forged(entries, **({"made": choices.number(4)} if choices.number(2) else {}))
    _annotate(target, RECORD, text)


def _annotate(target: Json, key: str, text: str) -> None:
    metadata = target.setdefault("metadata", {})
    metadata["annotations"] = {**(metadata.get("annotations") or {}), key: text}


# --- settings ------------------------------------------------------------------------------------

TABLE: Final[Table] = DEFAULT.table
_DURATIONS: Final = {
    "pre-stop-sleep": 3600,
    "shutdown-time": 86_400,
    "max-grace": 86_400,
    "min-ready": 3600,
    "precheck-timeout": 3600,
}


def setting(data: bytes) -> None:
    """Any text is a value of a setting, or a problem that says in one line what is expected."""
    choices = Choices(data)
    name = choices.pick((*TABLE, "inject", "no-such-setting"))
    text = choices.text() if choices.number(8) else choices.rest().decode("utf-8", "replace")
    layer = TABLE.layer(WORKLOAD, "metadata", None, settings({name: text}))
    for problem in layer.problems:
        check_line(str(problem), _LONGEST_MESSAGE)
        check_line(problem.brief.split(":", 1)[0], 120)
        assert problem.expected
    if name in layer.values:
        _check_value(name, text, layer.values[name])
    else:
        assert bool(layer.problems) != (layer.inject is not None)


def _check_value(name: str, text: str, value: Any) -> None:
    if text == "none":
        assert value == TABLE[name].off
        return
    if value == TABLE[name].off and not value:
        assert set(text.replace(",", " ").split()) == {"none"} or name in _DURATIONS
        return
    again: str
    if name in _DURATIONS:
        assert type(value) is int
        assert 0 <= value <= _DURATIONS[name]
        again = f"{value}s"
    elif isinstance(value, Probe):
        assert parse_probe(str(value)) == value
        again = str(value)
    elif isinstance(value, tuple):
        assert value
        assert all(value)
        again = ",".join(value)
    else:
        again = str(value)
    assert again.isascii()
    assert again.isprintable()
    assert TABLE.parse(name, again) == value


# --- the precheck --------------------------------------------------------------------------------


def target(data: bytes) -> None:
    """Any text is a target, a quorum, a duration or an error of one line; nothing is looked up."""
    choices = Choices(data)
    text = (
        choices.text() if choices.number(4) else choices.rest().decode("utf-8", "surrogateescape")
    )
    for parse in (parse_target, parse_require, parse_duration):
        try:
            parsed: Any = parse(text)
        except ValueError as error:
            check_line(str(error), 500)
        else:
            if parse is parse_duration:
                assert 0 <= parsed <= 3600
            if parse is parse_target:
                assert parsed.host
                assert parse_target(parsed.text) == parsed
                assert parsed.port is None or 0 < parsed.port <= 65535
                shown = str(parsed).partition("://")[2]
                assert not parsed.credentials or shown.startswith("***@")
    arguments = [text]
    while choices and len(arguments) < 6:
        option = choices.pick(("--", "--require=", "--timeout=", "--interval", "--log-format", ""))
        arguments.append(option + choices.text())
    try:
        found = program._parse_arguments(arguments, program.Options())
    except ValueError as error:
        check_line(str(error), 500)
    else:
        asks = {"-h", "--help"} & set(arguments)
        assert found or asks


# --- configuration, manifests, the cluster's answers ---------------------------------------------

CONFIGURATION: Final = b"""\
scope: opt-in
mode: patch
invalidSettings: deny
applyDefaultsTo: serving
kinds: [Deployment, StatefulSet, DaemonSet, Rollout]
excludedNamespaces: [monitoring, openshift-*]
exclude: [{namespace: a*, kind: "*Set", name: db-*, owner: db.example/*, labels: {a: "1*"}}]
kindDefaults: {DaemonSet: {min-ready: none}}
defaults: {pre-stop-sleep: 30s, min-ready: 30}
precheck: {image: "example/image:1", runAsUser: 65532, resources: {limits: {cpu: 1}}}
awsReadinessGates: false
"""


def configuration(data: bytes) -> None:
    """Any file is a configuration that can be used, or an error of one line."""
    choices = Choices(data)
    if choices.number(3):
        content = mutate(choices, orjson.loads(dumps(_CONFIGURATION)))
        text = _dumps(content).decode()
    else:
        text = garbled(choices, CONFIGURATION).decode("utf-8", "replace")
    try:
        found = config.parse(text, "config.yaml")
        Admission(found)
    except (ConfigurationError, InvalidSettingError) as error:
        check_line(_in_one_line(error), 10 * len(text) + 2000)


def _in_one_line(error: Exception) -> str:
    """Give a message as `seamless` prints it: on a stderr that escapes what it cannot write."""
    return ascii(" ".join(str(error).split()))


_CONFIGURATION: Final = config.parse(CONFIGURATION.decode(), "").model_dump(
    mode="json", by_alias=True
)
MANIFESTS: Final = tuple(
    path.read_bytes()
    for path in sorted(Path("examples").glob("*/*.yaml"))
    if "expected" not in path.name
)


def manifest(data: bytes) -> None:
    """Any text is read as manifests, which are read the same when they are written, or refused."""
    choices = Choices(data)
    way = choices.number(3)
    if way == 0:
        text = choices.rest().decode("utf-8", "replace")
    elif way == 1:
        text = garbled(choices, choices.pick(MANIFESTS)).decode("utf-8", "replace")
    else:
        text = _dumps(mutate(choices, orjson.loads(choices.pick(OBJECTS)))).decode()
        text = garbled(choices, text.encode()).decode("utf-8", "replace")
    try:
        documents = manifests.read(text, "file")
    except ManifestError as error:
        check_line(_in_one_line(error), len(text) + 500)
        return
    for document in documents:
        written = manifests.dump(document.content)
        assert_safe(written)
        again = manifests.read(written, "again")
        assert [each.content for each in again] == [document.content]


def watch_line(data: bytes) -> None:
    """What the API server says of namespaces is taken, or is an `ApiError`."""
    choices = Choices(data)
    watch = NamespaceWatch(_NO_API, TABLE.namespace)
    pieces = []
    for _ in range(1 + choices.number(3)):
        line = dumps(mutate(choices, orjson.loads(choices.pick(_EVENTS))))
        pieces.append(garbled(choices, line) if choices.number(2) else line)
    stream = b"\n".join(pieces) + b"\n"
    at = choices.number(len(stream))
    try:
        for line in lines(_Stream([stream[:at], stream[at:]]), "namespaces"):
            watch._take(line)
    except ApiError as error:
        check_line(_in_one_line(error), len(stream) + 500)
    for name, known in watch._known.items():
        assert known.name == name
        assert watch.lookup(name) is known


_NO_API: Any = None
_EVENTS: Final = tuple(
    dumps({"type": kind, "object": {"metadata": metadata}})
    for kind in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR")
    for metadata in (
        {"name": "shop", "resourceVersion": "7", "labels": settings(inject="enabled")},
        {"name": "a", "resourceVersion": "8", "annotations": settings({"min-ready": "5s"})},
    )
)


class _Stream:
    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def stream(self, _amount: int, *, decode_content: bool) -> list[bytes]:  # noqa: ARG002
        return self._pieces


def version(data: bytes) -> None:
    """Any answer of `/version` tells a version, or none."""
    choices = Choices(data)
    names = ("major", "minor", "gitVersion", "emulationMajor", "emulationMinor")
    document = {"major": "1", "minor": "30+", "gitVersion": "v1.30.2"}
    for _ in range(choices.number(4)):
        document[choices.pick(names)] = choices.json() if choices.number(2) else choices.text()
    found = parse_version(document)
    assert found is None or (found.major >= 0 and found.minor >= 0)


# --- HTTP ----------------------------------------------------------------------------------------

_LOOP: Final = asyncio.new_event_loop()
_LIMIT: Final = 30_000
_APP: Final = webhook_app(DEFAULT.answer, Metrics(), State(), limits=Limits(body_bytes=_LIMIT))
PATHS: Final = (
    *(
        "/mutate",
        "/mutate",
        "/mutate",
        "/mutate/",
        "//mutate",
        "/mutate/..",
        "/../mutate",
        "/MUTATE",
    ),
    *(
        "/mutate\x00",
        "/",
        "",
        "*",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/metrics",
        "/livez",
        "/mutate;x",
    ),
)


def http(data: bytes) -> None:
    """Any request gets one answer: a review's, or a refusal that is quick and clear."""
    choices = Choices(data)
    path = choices.pick(PATHS)
    headers = [
        (b"content-type", choices.pick((b"application/json", b"application/json; q=1", b"")))
    ]
    for _ in range(choices.number(4)):
        name = choices.pick(
            (b"content-length", b"content-encoding", b"content-type", b"host", b"x")
        )
        headers.append((name, choices.text().encode("utf-8", "replace")))
    body = choices.pick(REVIEWS) if choices.number(4) else choices.rest()
    incoming: list[Json] = []
    while choices.number(3) and len(incoming) < 6:
        at = choices.number(len(body) + 1)
        incoming.append({"type": "http.request", "body": body[:at], "more_body": True})
        body = body[at:]
    incoming.append({"type": "http.request", "body": body})
    if choices.number(8) == 7:
        incoming[choices.number(len(incoming))] = {"type": "http.disconnect"}
    sent: list[Json] = []

    async def receive() -> Json:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "https",
        "method": choices.pick(("POST", "POST", "POST", "GET", "HEAD", "OPTIONS", "PUT", "TRACE")),
        "path": path,
        "raw_path": path.encode(),
        "query_string": choices.pick((b"", b"timeout=3s", b"%ff=\x00")),
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8443),
    }
    _LOOP.run_until_complete(_APP(scope, receive, send))
    start, *rest = sent
    answered = b"".join(each.get("body", b"") for each in rest)
    assert start["type"] == "http.response.start"
    assert start["status"] in {200, 307, 400, 404, 405, 413, 415}, start["status"]
    assert b"Traceback" not in answered
    if start["status"] == 200:
        assert scope["path"] == "/mutate"
        assert scope["method"] == "POST"
        assert orjson.loads(answered)["kind"] == "AdmissionReview"


# --- the whole command ---------------------------------------------------------------------------


def plan(data: bytes) -> None:
    """`seamless plan` ends with 0, 1 or 2 and at most a line on stderr, whatever the file says."""
    from webhook.cli import plan as command

    choices = Choices(data)
    output = choices.pick(("text", "json", "yaml", "patch"))
    if choices.number(2):
        text = garbled(choices, choices.pick(MANIFESTS))
    else:
        text = _dumps(_changed(choices, orjson.loads(choices.pick(OBJECTS))))
        if choices.number(3) == 2:
            text = garbled(choices, text)
    out, err = io.StringIO(), io.StringIO()
    previous = command.read_text
    command.read_text = lambda *_, **__: text.decode("utf-8", "replace")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = command.main(["-o", output, "file"])
    finally:
        command.read_text = previous
    assert_safe(out.getvalue())
    assert_safe(err.getvalue())
    assert status in {0, 1, 2}
    if status == 2:
        assert err.getvalue().count("\n") == 1
        assert not out.getvalue()


# --- a rollout before it happens -----------------------------------------------------------------

TIMINGS: Final = b"""\
formatVersion: 1
application: {start: 5, stop: 1, request: 0.1}
pod: {start: 1, end: 0.5, imagePull: 0}
service: {add: 0.3, remove: {p50: 0.1, p99: 1, max: 3}}
balancer: {add: 15, remove: 30}
rate: 100
workloads: {deployment/web: {application: {start: 20}}}
"""
_ARGO: Final = (
    {"canary": {"steps": [{"setWeight": 20}, {"pause": {"duration": "1m"}}, {"setWeight": 60}]}},
    {"canary": {"steps": [{"setCanaryScale": {"weight": 25}}], "trafficRouting": {"nginx": {}}}},
    {"blueGreen": {"scaleDownDelaySeconds": 5, "previewReplicaCount": 1}},
)


def rollout(data: bytes) -> None:
    """Any workload is simulated to a finite end, or refused in a line; so are any timings."""
    choices = Choices(data)
    try:
        text = garbled(choices, TIMINGS).decode("utf-8", "replace")
        timings = parse_timings(text, "timings.yaml")
    except TimingsError as error:
        check_line(_in_one_line(error), 2000)
        timings = Timings()
    given = orjson.loads(choices.pick(OBJECTS))
    if given["kind"] == "Rollout":
        given["spec"]["strategy"] = copy.deepcopy(choices.pick(_ARGO))
    given = mutate(choices, given)
    kind = WORKLOAD_KINDS[choices.pick(KINDS)]
    if malformed(given) is not None:
        return
    version = choices.pick((None, (1, 28), (1, 35), (1, 36), (1, 37)))
    try:
        found = simulate(kind, given, timings, version)
    except SimulationError as error:
        check_line(_in_one_line(error), 200)
        return
    low, high = found.at_risk
    assert 0 <= low <= high
    assert 0 <= found.least_serving <= found.shape.pods <= found.most_pods
    assert (found.rolled_out is None) == bool(found.unfinished)
    json.dumps(found.to_json(), allow_nan=False)


HARNESSES: Final[dict[str, Harness]] = {
    each.__name__.replace("_", "-"): each
    for each in (
        decoder,
        decision,
        growth,
        record,
        setting,
        target,
        configuration,
        manifest,
        watch_line,
        version,
        http,
        plan,
        rollout,
    )
}
