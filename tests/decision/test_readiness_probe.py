"""Contract §2, "Readiness probe"."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import (
    KINDS,
    Json,
    after,
    canonical,
    codes,
    container,
    decide,
    deployment,
    pod_of,
    template_changed,
    with_settings,
    worker,
    workload,
)

TCP = {"tcpSocket": {"port": 5432}}
HTTP = {"httpGet": {"path": "/health", "port": 8080}}


def probes(result: Json) -> list[Any]:
    """Give the readiness probe of each regular container."""
    return [each.get("readinessProbe") for each in pod_of(result)["containers"]]


def listening(name: str, number: int, port_name: str | None = None, **fields: Any) -> Json:
    """Give a container that declares a port and has no probe."""
    port = {"containerPort": number} | ({"name": port_name} if port_name else {})
    return worker(name, ports=[port], **fields)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://:8080/health", HTTP),
        ("http://:8080", {"httpGet": {"path": "/", "port": 8080}}),
        ("http://:8080/", {"httpGet": {"path": "/", "port": 8080}}),
        ("http://:web/a?b=c", {"httpGet": {"path": "/a?b=c", "port": "web"}}),
        ("tcp://:8080", {"tcpSocket": {"port": 8080}}),
        ("tcp://:web", {"tcpSocket": {"port": "web"}}),
        ("grpc://:8080", {"grpc": {"port": 8080}}),
        ("grpc://:web", {"grpc": {"port": 8080}}),
    ],
)
def test_it_goes_to_the_container_that_declares_the_port(
    kind: str, text: str, expected: Json
) -> None:
    """By number or name; gRPC takes a number alone."""
    given = workload(
        kind,
        listening("first", 9999, "other"),
        listening("second", 8080, "web"),
        says={"readiness-probe": text},
    )
    decision = decide(given)
    assert probes(decision.result) == [None, expected]
    assert codes(decision) <= {"no-overlap"}
    left = after(with_settings(decision.result, inject="disabled"), decision.result)
    assert canonical(pod_of(left)) == canonical(pod_of(given))


def test_where_no_container_declares_the_port_it_goes_to_the_first() -> None:
    """With a warning: a name in a setting that matches no port."""
    given = deployment(
        listening("first", 1), listening("second", 2), says={"readiness-probe": "tcp://:5432"}
    )
    decision = decide(given)
    assert probes(decision.result) == [TCP, None]
    assert "no-such-port" in codes(decision)


def test_a_port_s_name_that_no_container_declares_draws_a_warning() -> None:
    """Whatever becomes of the probe."""
    given = deployment(listening("first", 1), says={"readiness-probe": "http://:web/"})
    decision = decide(given)
    assert "no-such-port" in codes(decision)


@pytest.mark.parametrize(
    "own", [HTTP, {"exec": {"command": ["true"]}}, {"grpc": {"port": 1}}, {"newField": 1}]
)
def test_a_container_that_has_a_probe_keeps_it(own: Json) -> None:
    """And no other container gets one in its place."""
    given = deployment(
        listening("a", 5432, readinessProbe=own),
        listening("b", 1),
        says={"readiness-probe": "tcp://:5432"},
    )
    assert probes(after(given)) == [own, None]


def test_a_null_is_no_probe() -> None:
    """It comes back as it was."""
    given = deployment(listening("a", 5432), says={"readiness-probe": "tcp://:5432"})
    pod_of(given)["containers"][0]["readinessProbe"] = None
    result = after(given)
    assert probes(result) == [TCP]
    left = after(with_settings(result, inject="disabled"), result)
    assert canonical(pod_of(left)) == canonical(pod_of(given))


FILLED_IN = {
    "timeoutSeconds": 1,
    "periodSeconds": 10,
    "successThreshold": 1,
    "failureThreshold": 3,
}


def stored_with_probe(text: str = "http://:8080/health") -> tuple[Json, Json]:
    """Give a workload and what an API server makes of it once the probe is injected."""
    given = deployment(listening("app", 8080), says={"readiness-probe": text})
    stored = after(given)
    probe = pod_of(stored)["containers"][0]["readinessProbe"]
    probe |= FILLED_IN
    if "httpGet" in probe:
        probe["httpGet"] = {**probe["httpGet"], "scheme": "HTTP"}
    if "grpc" in probe:
        probe["grpc"] = {**probe["grpc"], "service": ""}
    return given, stored


@pytest.mark.parametrize("text", ["http://:8080/health", "tcp://:8080", "grpc://:8080"])
def test_what_the_api_server_fills_in_is_no_change_by_the_user(text: str) -> None:
    """Scheme, periods and thresholds."""
    given, stored = stored_with_probe(text)
    left = after(with_settings(stored, inject="disabled"), stored)
    assert pod_of(left) == pod_of(given)
    none = after(with_settings(stored, readiness_probe="none"), stored)
    assert probes(none) == [None]


@pytest.mark.parametrize(
    "change",
    [
        {"periodSeconds": 5},
        {"initialDelaySeconds": 10},
        {"failureThreshold": 30},
        {"httpGet": {"path": "/other", "port": 8080, "scheme": "HTTP"}},
        {"httpGet": {"path": "/health", "port": 8080, "scheme": "HTTPS"}},
        {"httpGet": {"path": "/health", "port": 9090, "scheme": "HTTP"}},
        {"httpGet": {"path": "/health", "port": 8080, "httpHeaders": [{"name": "a"}]}},
        {"terminationGracePeriodSeconds": 5},
    ],
)
def test_a_probe_that_the_user_has_since_changed_is_the_user_s(change: Json) -> None:
    """It leaves the record, and stays after opting out."""
    _, stored = stored_with_probe()
    own = {**probes(stored)[0], **change}
    sent = template_changed(stored, "containers", 0, "readinessProbe", to=own)
    result = after(sent, stored)
    assert probes(result) == [own]
    left = after(with_settings(result, inject="disabled"), result)
    assert probes(left) == [own]


@pytest.mark.parametrize(
    "handler", [{"exec": {"command": ["true"]}}, {"tcpSocket": {"port": 1}}, {"grpc": {"port": 1}}]
)
def test_a_handler_that_a_merge_has_put_beside_ours_is_the_user_s(handler: Json) -> None:
    """Ours leaves: two handlers would be refused."""
    _, stored = stored_with_probe()
    merged = {**probes(stored)[0], **handler}
    sent = template_changed(stored, "containers", 0, "readinessProbe", to=merged)
    result = after(sent, stored)
    assert probes(result) == [{**FILLED_IN, **handler}]
    left = after(with_settings(result, inject="disabled"), result)
    assert probes(left) == [{**FILLED_IN, **handler}]


def test_a_workload_without_containers_is_left_for_the_api_server_to_refuse() -> None:
    """There is nowhere to put a probe."""
    given = deployment(says={"readiness-probe": "tcp://:1"})
    pod_of(given)["containers"] = []
    assert pod_of(after(given)) == pod_of(given)


def test_a_container_with_a_probe_draws_no_warning() -> None:
    """The injected probe counts."""
    given = deployment(listening("app", 8080))
    assert codes(decide(given)) == {"no-readiness-probe"}
    assert codes(decide(with_settings(given, readiness_probe="tcp://:8080"))) == set()
    assert codes(decide(deployment(container()))) == set()
