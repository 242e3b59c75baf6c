"""Hostile input, bytes to bytes: never a crash, never a stack, always an answer."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import (
    DEFAULT,
    EXEC_QUIT,
    KINDS,
    NATIVE_30,
    OLD_SERVER,
    PREFIX,
    RECORD,
    Json,
    admission,
    after,
    answer,
    apply,
    canonical,
    changed,
    codes,
    container,
    deployment,
    forged,
    hooked,
    hooks,
    namespaces,
    operations_of,
    review,
    rolling,
    sidecar,
    worker,
    workload,
)
from tests.decision.test_properties import every_path
from webhook.decision.admission import Admission, Answer

LENIENT = admission(
    {"invalidSettings": "warn", "applyDefaultsTo": "all", "awsReadinessGates": True},
    namespace=namespaces(),
)
SAYS = {
    "precheck": "db:5432 web.shop:80",
    "precheck-require": "2",
    "readiness-gates": "example.com/ready",
    "readiness-probe": "http://:web/health",
    "strategy": "surge",
    "pre-stop-existing": "chain",
    "pre-stop-containers": "app quits probed",
    "shutdown-time": "40s",
}


def rich(kind: str = "Deployment") -> Json:
    """Give a workload in which everything that is ever read has a value."""
    port = {"containerPort": 80, "name": "web", "hostPort": 0}
    spec = rolling(kind, maxUnavailable=1, maxSurge=0) if kind != "Rollout" else {}
    if kind == "Rollout":
        spec["strategy"] = {"canary": {"maxUnavailable": 1}}
    return workload(
        kind,
        worker("app", ports=[port]),
        hooked(EXEC_QUIT, "quits"),
        hooked({"sleep": {"seconds": 3}}, "sleeps"),
        container(
            "probed", livenessProbe={"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 5}
        ),
        says=SAYS,
        template_says={"min-ready": "7s"},
        labels={"inject": "enabled"},
        template_labels={"inject": "enabled"},
        pod={
            "initContainers": [
                sidecar("proxy", lifecycle={"preStop": {"sleep": {"seconds": 1}}}),
                worker("first"),
            ],
            "terminationGracePeriodSeconds": 33,
            "readinessGates": [{"conditionType": "example.com/own"}],
            "os": {"name": "linux"},
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
            "hostNetwork": False,
        },
        minReadySeconds=3,
        progressDeadlineSeconds=44,
        podManagementPolicy="Parallel",
        **spec,
    )


def treated(kind: str) -> Json:
    """Give it with its records, as deeply nested values that can be replaced, too."""
    return after(rich(kind))


def check(found: Answer, sent: Any = None) -> None:
    """Hold an answer to what must always hold."""
    assert found.status in {200, 400}
    assert b"Traceback" not in found.body
    assert b"File " not in found.body
    if found.status == 400:
        return
    assert found.decision is not None
    assert found.decision.skipped != "error", found.body
    content = orjson.loads(found.body)["response"]
    assert isinstance(content["allowed"], bool)
    for warning in content.get("warnings", []):
        assert len(warning) <= 120
    operations = operations_of(content)
    if operations and isinstance(sent, dict):
        patched = apply(copy.deepcopy(sent), operations)
        assert canonical(patched) == canonical(found.decision.result)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 30, 2**31, 2**53, 2**63 - 1, -(2**63), 2**63, 2**64 - 1]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        ["", "x", "30", "100%", "Always", "windows", "\x00", "\u202e", "🙂", "a" * 300]
    ),
    st.text(st.characters(codec="utf-8"), max_size=5),
    st.sampled_from([[], {}, [None], [[]], [{}], {"name": None}, {"": None}, {"a": {}}]),
    st.sampled_from(
        [{"name": "app"}, [{"name": "app"}], {"seconds": "x"}, {"exec": None}, ["a", 1]]
    ),
)
REVIEWS = {
    (kind, way): orjson.dumps(
        review(
            treated(kind) if way != "plain" else rich(kind),
            treated(kind) if way == "update" else None,
        )
    )
    for kind in KINDS
    for way in ("plain", "create", "update")
}
PLACES = {key: list(every_path(orjson.loads(body))) for key, body in REVIEWS.items()}


@given(
    st.sampled_from(sorted(REVIEWS)),
    st.sampled_from([DEFAULT, LENIENT, admission({"mode": "audit"}, server=OLD_SERVER)]),
    st.data(),
)
def test_any_value_in_any_place_is_answered(
    key: tuple[str, str], by: Admission, data: st.DataObject
) -> None:
    """Any node, or three, of a valid review replaced by another JSON value."""
    content = orjson.loads(REVIEWS[key])
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(PLACES[key]))
        content = put(content, path, copy.deepcopy(data.draw(JUNK)))
    found = by.answer(orjson.dumps(content))
    check(found, content["request"]["object"] if found.status == 200 else None)


def put(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Replace a place, where it is still there."""
    if not path:
        return value
    node = content
    for step in path[:-1]:
        if isinstance(node, dict):
            node = node.get(step)
        elif isinstance(node, list) and isinstance(step, int) and step < len(node):
            node = node[step]
    last = path[-1]
    fits = isinstance(node, list) and isinstance(last, int) and last < len(node)
    if isinstance(node, dict) or fits:
        node[last] = value
    return content


WRONG: list[Any] = [None, True, 0, -1, 1.5, 2**63, "", "x", [], {}, [None], [{}], {"name": 1}]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_a_wrong_type_at_every_depth_is_answered(kind: str, wrong: Any) -> None:
    """Each place of a workload with records, one after another."""
    old = treated(kind)
    for path in every_path(old):
        if path:
            sent = changed(old, *path, to=wrong)
            check(answer(sent, None, LENIENT), sent)
            check(answer(sent, old, DEFAULT), sent)
            check(answer(old, sent, LENIENT))


@pytest.mark.parametrize("kind", KINDS)
def test_an_absent_field_at_every_depth_is_answered(kind: str) -> None:
    """Each place taken away."""
    old = treated(kind)
    for path in every_path(old):
        if path:
            sent = changed(old, *path, to=...)
            check(answer(sent, None, LENIENT), sent)
            check(answer(sent, old, DEFAULT), sent)


@pytest.mark.parametrize("wrong", [*WRONG, {"requests": 5}, {"limits": {"cpu": []}}], ids=repr)
@pytest.mark.parametrize(
    "place", ["resources", "securityContext", "image", "args", "command", "env", "restartPolicy"]
)
def test_an_odd_precheck_container_is_answered(place: str, wrong: Any) -> None:
    """Ours by its record, whatever has become of it."""
    stored = after(deployment(says={"precheck": "db:5432"}))
    sent = changed(stored, "spec", "template", "spec", "initContainers", 0, place, to=wrong)
    check(answer(sent), sent)
    check(answer(sent, sent, options={"fieldManager": "seamless-backfill"}), sent)
    check(answer(sent, stored), sent)


QUANTITIES: list[Any] = [
    "1e999999999",
    "1e-999999999",
    "1E99999999999999999999",
    "9" * 5000,
    "0." + "1" * 5000,
    "1Ei",
    "1Zi",
    "1e",
    "-1",
    "+1",
    "NaN",
    "Infinity",
    "sNaN",
    "",
    ".",
    "٣",
    0.01,
    True,
]


@pytest.mark.parametrize("quantity", QUANTITIES, ids=lambda each: ascii(each)[:30])
def test_an_odd_quantity_in_a_precheck_container_is_answered(quantity: Any) -> None:
    """It is compared with what is configured."""
    stored = after(deployment(says={"precheck": "db:5432"}))
    path = ("spec", "template", "spec", "initContainers", 0, "resources", "requests", "cpu")
    sent = changed(stored, *path, to=quantity)
    check(answer(sent, sent, options={"fieldManager": "seamless-backfill"}), sent)
    check(answer(sent), sent)


@given(st.binary(max_size=200))
def test_any_bytes_are_answered(body: bytes) -> None:
    """Almost always with 400."""
    check(DEFAULT.answer(body))


@given(st.sampled_from(sorted(REVIEWS)), st.data())
def test_a_review_that_was_cut_or_garbled_is_answered(
    key: tuple[str, str], data: st.DataObject
) -> None:
    """As by a broken connection."""
    body = bytearray(REVIEWS[key])
    for _ in range(data.draw(st.integers(0, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    check(DEFAULT.answer(bytes(body[: data.draw(st.integers(0, len(body)))])))


# --- depth and size ------------------------------------------------------------------------------

DEPTHS = [100, 253, 254, 255, 300, 900, 950, 980, 1000, 1015, 1023, 1024, 1025, 5000, 200_000]


def nested(depth: int, pair: str = "[]") -> bytes:
    """Give JSON of a depth."""
    opening = pair[0] if pair == "[]" else '{"a":'
    middle = "" if pair == "[]" else "1"
    return (opening * depth + middle + pair[1] * depth).encode()


HOLES: list[Json] = [
    deployment(newField="HOLE"),
    deployment(container(newField="HOLE")),
    deployment(hooked({"exec": {"command": ["a"], "newField": "HOLE"}}), says=SAYS),
    deployment(hooked({"sleep": {"seconds": 30}, "newField": "HOLE"})),
    deployment(metadata={"annotations": {"note": "HOLE"}}),
    deployment(says={"min-ready": "HOLE"}),
    deployment(says={"inject": "HOLE"}),
    deployment(says={"injected": "HOLE"}),
    deployment(template_says={"injected": "HOLE"}),
    deployment(strategy={"type": "HOLE"}),
    deployment(says={"strategy": "surge"}, **rolling(maxUnavailable="HOLE")),
    deployment(pod={"terminationGracePeriodSeconds": "HOLE"}),
    deployment(pod={"initContainers": [worker(restartPolicy="HOLE")]}),
]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("pair", ["[]", "{}"])
def test_a_deeply_nested_body_is_answered(depth: int, pair: str) -> None:
    """In every place that is read, compared or written; as new, as update, and out of scope."""
    deep = nested(depth, pair)
    for given_object in HOLES:
        stored = after(deployment())
        for body in (
            review(given_object),
            review(given_object, given_object),
            review(given_object, stored),
            review(stored, given_object),
        ):
            check(LENIENT.answer(orjson.dumps(body).replace(b'"HOLE"', deep)))


@pytest.mark.parametrize("depth", [100, 250, 300, 900, 1000, 10_000])
def test_a_deeply_nested_record_is_answered(depth: int) -> None:
    """It is text in an annotation; where it cannot be read it names nothing."""
    for entry in ('{"is":HOLE}', '{"is":{"sleep":HOLE}}', '{"is":60,"was":HOLE}', "HOLE"):
        text = '{"fields":{"spec.containers[app].lifecycle.preStop":' + entry + '},"v":1}'
        record = text.replace("HOLE", nested(depth).decode())
        given_object = deployment(
            hooked({"sleep": {"seconds": 1}}), template_says={"injected": record}
        )
        check(answer(given_object))
        check(answer(given_object, given_object))


def test_ten_thousand_containers_are_answered() -> None:
    """They serve, and have no hook; the record of them would not fit."""
    given_object = deployment(*(container(f"c{number}") for number in range(10_000)))
    found = answer(given_object)
    check(found)
    assert found.decision is not None
    assert found.decision.skipped == "annotations-full"
    check(answer(given_object, given_object))


def test_ten_thousand_containers_of_one_name_are_answered() -> None:
    """An API server refuses them."""
    check(answer(deployment(*(container("same") for _ in range(10_000)))))


def recorded(count: int) -> Json:
    """Give a workload that opts out, with a record of as many hooks."""
    names = [f"c{number}" for number in range(count)]
    record = forged(
        {f"spec.containers[{each}].lifecycle.preStop": {"is": NATIVE_30} for each in names}
    )
    return deployment(
        *(hooked(NATIVE_30, each) for each in names),
        template_says={"injected": record, "inject": "disabled"},
    )


def test_the_longest_record_that_an_api_server_stores_is_taken_out() -> None:
    """Of three and a half thousand entries."""
    given_object = recorded(3500)
    found = answer(given_object)
    check(found)
    assert found.decision is not None
    assert not any(hooks(found.decision.result))


def test_a_record_of_ten_thousand_entries_is_answered() -> None:
    """About 700 kB: no API server has stored it, and it is not read."""
    found = answer(recorded(10_000))
    check(found)
    assert found.decision is not None
    assert "unreadable-record" in codes(found.decision)


def test_many_names_in_a_setting_for_many_containers_are_answered() -> None:
    """Not each name against each container."""
    given_object = deployment(
        *(container(f"c{number}") for number in range(5000)),
        says={"pre-stop-containers": " ".join(f"d{number}" for number in range(20_000))},
    )
    check(answer(given_object))


def test_many_settings_that_nobody_knows_are_answered() -> None:
    """In a short message."""
    given_object = deployment(says={f"pre-stop-sleeep-{number}": "1" for number in range(9000)})
    found = answer(given_object)
    check(found)
    assert len(found.body) < 20_000


@pytest.mark.parametrize(
    "text",
    [
        "a" * 3_000_000,
        "db:5432," * 300_000,
        "," * 1_000_000,
        " \t\n" * 300_000,
        "9" * 1_000_000,
        "[" * 1_000_000,
        "db:" + "5" * 1_000_000,
        "http://" + "%" * 1_000_000,
        "1m" * 500_000,
        "a/" * 500_000,
        "-" * 1_000_000,
        "a." * 500_000,
        "\x00" * 100_000,
    ],
    ids=lambda text: f"{text[:8]!a} x {len(text)}",
)
def test_a_huge_value_of_each_setting_is_answered(text: str) -> None:
    """No parser takes more than its length in time."""
    for name in DEFAULT.table:
        check(answer(deployment(says={name: text}), None, LENIENT))


# --- names and characters ------------------------------------------------------------------------

NAMES = ["app", "app", "ü", "🙂", "a\x00b", "a/b", "a~b", "~0", "~1", "\u2028", "%s", "{}", "]", ""]


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_are_answered(name: str) -> None:
    """Of containers, of annotations, of namespaces."""
    given_object = workload(
        "Rollout",
        container(name),
        container("app"),
        pod={"initContainers": [worker(name), sidecar(name)]},
        says={**SAYS, name: "1"},
        metadata={"name": name, "labels": {PREFIX + name: name}},
    )
    for by in (DEFAULT, LENIENT):
        check(answer(given_object, None, by))
        check(answer(given_object, given_object, by, namespace=name))


@pytest.mark.parametrize(
    "raw",
    [
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b'"\\u0000"',
        b'"\x01"',
        b'"\xe2\x80\xae"',
        b"1e999",
        b"-1e999",
        b"NaN",
        b"1" * 400,
        b"0.1" + b"1" * 400,
        b"18446744073709551616",
        b"-9223372036854775809",
    ],
)
def test_odd_characters_and_numbers_are_answered(raw: bytes) -> None:
    """Lone surrogates, control characters, numbers without bounds."""
    for given_object in HOLES:
        body = orjson.dumps(review(given_object, given_object)).replace(b'"HOLE"', raw)
        check(LENIENT.answer(body))


def test_keys_that_come_twice_are_answered() -> None:
    """The last one counts, as in Go."""
    body = orjson.dumps(review(deployment()))
    twice = body.replace(b'"replicas":3', b'"replicas":3,"template":5,"replicas":4')
    check(DEFAULT.answer(twice))
    check(DEFAULT.answer(body.replace(b'"uid":', b'"uid":5,"uid":', 1)))


@pytest.mark.parametrize("value", [5, True, None, 1.5, [], {}, [["x"]], {"a": 1}])
@pytest.mark.parametrize("place", ["metadata", "template"])
def test_annotations_and_labels_that_are_no_strings_are_answered(value: Any, place: str) -> None:
    """Of every setting, of the record and of others."""
    for name in [*DEFAULT.table, "inject", "injected", "unknown"]:
        for key in ("annotations", "labels"):
            given_object = deployment()
            target = given_object if place == "metadata" else given_object["spec"]["template"]
            target["metadata"][key] = {PREFIX + name: value, "note": value}
            for by in (DEFAULT, LENIENT):
                check(answer(given_object, None, by))
                check(answer(given_object, deployment(), by))


def record_values() -> Iterator[Any]:
    """Give records with wrong types at every depth."""
    good: Json = {
        "fields": {
            "spec.terminationGracePeriodSeconds": {"is": 60, "was": 30},
            "spec.containers[app].lifecycle.preStop": {"is": NATIVE_30, "made": 1, "null": True},
            "spec.containers[app].readinessProbe": {"is": {"tcpSocket": {"port": 1}}},
            "spec.readinessGates[example.com/own]": {"made": 1},
            "spec.initContainers[seamless-precheck]": {},
            "spec.minReadySeconds": {"is": 30, "was": 3},
            "spec.progressDeadlineSeconds": {"is": 74, "was": 44},
            "spec.strategy.rollingUpdate.maxUnavailable": {"is": 0, "was": 1},
            "spec.strategy.rollingUpdate.maxSurge": {"is": 1, "made": 2},
        },
        "made": 1,
        "null": True,
        "v": 1,
    }
    for path in every_path(good):
        for wrong in (*WRONG, "30", ["exec"], {"exec": 5}, {"sleep": {}}, 2**64 - 1):
            yield changed(good, *path, to=wrong) if path else wrong


def test_records_with_wrong_types_at_every_depth_are_answered() -> None:
    """Each node of a record replaced, on a workload that bears what it names."""
    base = changed(rich(), "spec", "template", "spec", "terminationGracePeriodSeconds", to=60)
    for content in record_values():
        text = orjson.dumps(content).decode()
        for place in (("metadata",), ("spec", "template", "metadata")):
            sent = changed(base, *place, "annotations", RECORD, to=text)
            check(answer(sent, None, LENIENT))
            check(answer(sent, sent, DEFAULT))


@given(st.text(max_size=40), st.sampled_from(["is", "was", "made", "null", "x"]), JUNK)
def test_any_text_as_a_field_in_a_record_is_answered(key: str, member: str, value: Any) -> None:
    """It names nothing of ours."""
    record = forged({key: {member: value}})
    given_object = deployment(template_says={"injected": record}, says={"injected": record})
    check(answer(given_object))
    check(answer(given_object, given_object))


def test_nothing_hostile_is_logged_as_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """The boundary is for the unexpected alone."""
    with caplog.at_level(logging.WARNING):
        for wrong in WRONG:
            for path in list(every_path(rich()))[1:60]:
                check(answer(changed(rich(), *path, to=wrong), None, LENIENT))
    assert not caplog.records


@pytest.mark.parametrize("wrong", [b"1e999", b'"\xff"'])
def test_an_old_object_that_is_no_json_within_is_400(wrong: bytes) -> None:
    """It is decoded late, and in part; what was skipped until then is no unexpected error."""
    stored = deployment(pod={"strange": "here"})
    body = orjson.dumps(review(stored, stored))
    head, seam, old = body.rpartition(b'"here"')
    found = DEFAULT.answer(head + wrong + old)
    assert seam
    assert found.status == 400
    assert b"not JSON" in found.body
