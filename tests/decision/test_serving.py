"""Contract §1, "Serving": to whom inherited settings apply."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import (
    EXEC_QUIT,
    KINDS,
    NATIVE_30,
    OLD_SERVER,
    Json,
    admission,
    after,
    apply,
    codes,
    container,
    decide,
    deployment,
    grace,
    hooks,
    namespaces,
    pod_of,
    sidecar,
    with_settings,
    worker,
    workload,
)


def listening(*names: str | None, **fields: Any) -> Json:
    """Give a container with ports of these names and no probe."""
    ports = [
        {"containerPort": 9000 + at} if name is None else {"containerPort": 9000 + at, "name": name}
        for at, name in enumerate(names)
    ]
    return worker(ports=ports, **fields)


HTTP = {"httpGet": {"path": "/", "port": 80}}
HTTP_PROBE = {"readinessProbe": HTTP}
OF_OBSERVERS = (
    *("metrics", "http-metrics", "prometheus", "health", "healthz", "probes", "liveness"),
    *("readiness", "pprof", "profiling", "debug"),
)


@pytest.mark.parametrize("name", [*OF_OBSERVERS, *(f"a-{name}" for name in OF_OBSERVERS)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_port_for_metrics_health_or_profiling_serves_nobody(kind: str, name: str) -> None:
    """Nothing inherited comes, and no warning that a readiness probe is missing."""
    given = workload(kind, listening(name))
    decision = decide(given)
    assert decision.skipped == "not-serving"
    assert not decision.operations
    assert not decision.alerts


@pytest.mark.parametrize(
    ("containers", "more", "serving"),
    [
        ([worker(ports=[{"containerPort": 80}])], {}, True),
        ([worker("a"), worker("b", ports=[{"containerPort": 80}])], {}, True),
        ([worker(readinessProbe=HTTP)], {}, True),
        ([worker(readinessProbe={"tcpSocket": {"port": 80}})], {}, True),
        ([worker(readinessProbe={"grpc": {"port": 80}})], {}, True),
        ([worker()], {"says": {"inject": "enabled"}}, True),
        ([worker()], {"labels": {"inject": "enabled"}}, True),
        ([worker()], {"says": {"readiness-probe": "tcp://:80"}}, True),
        ([worker()], {"template_says": {"readiness-probe": "tcp://:80"}}, True),
        ([worker()], {}, False),
        ([worker(ports=[])], {}, False),
        ([worker(readinessProbe={"exec": {"command": ["true"]}})], {}, False),
        ([worker(livenessProbe=HTTP)], {}, False),
        ([worker(startupProbe=HTTP)], {}, False),
        ([listening("web", "metrics")], {}, True),
        ([listening("metrics", None)], {}, True),
        ([listening(None)], {}, True),
        ([listening("metric")], {}, True),
        ([listening("metricsd")], {}, True),
        ([listening("xmetrics")], {}, True),
        ([listening("metrics-web")], {}, True),
        ([listening("monitoring")], {}, True),
        ([listening("http")], {}, True),
        ([worker("a", **HTTP_PROBE), listening("metrics")], {}, False),
        ([listening("metrics", **HTTP_PROBE)], {}, False),
        ([listening("metrics")], {"says": {"inject": "enabled"}}, True),
        ([listening("metrics")], {"says": {"readiness-probe": "tcp://:9000"}}, True),
        ([listening("metrics", "healthz", "pprof")], {}, False),
        ([worker("a"), listening("app-metrics")], {}, False),
        ([worker()], {"pod": {"initContainers": [sidecar(ports=[{"containerPort": 80}])]}}, False),
        ([worker()], {"pod": {"initContainers": [sidecar(readinessProbe=HTTP)]}}, False),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_workload_serves_by_its_ports_its_readiness_probe_or_its_own_word(
    kind: str,
    containers: list[Json],
    more: Json,
    serving: bool,  # noqa: FBT001 - a table's column
) -> None:
    """A regular container's port or network probe; sidecars and other probes do not count."""
    result = after(workload(kind, *containers, **more))
    assert (NATIVE_30 in hooks(result)) is serving
    inherits = serving and kind != "DaemonSet"  # its built-in min-ready is none
    assert (result["spec"].get("minReadySeconds") == 30) is inherits
    if not serving:
        assert result == workload(kind, *containers, **more)


@pytest.mark.parametrize(
    "said", [{"inject": "enabled"}, {"inject": "enabled", "readiness-probe": "tcp://:80"}]
)
def test_a_namespace_s_word_makes_no_worker_serve(said: Json) -> None:
    """The workload itself must say it."""
    labels = {"inject": said["inject"]}
    rest = {key: value for key, value in said.items() if key != "inject"}
    given = deployment(worker())
    assert after(given, by=admission(namespace=namespaces(labels, **rest))) == given


def test_serving_is_judged_before_any_change() -> None:
    """A probe of ours does not make a worker serve once its setting has gone."""
    treated = after(deployment(worker(), says={"readiness-probe": "tcp://:80"}))
    assert hooks(treated) == [NATIVE_30]
    plain = with_settings(treated, **{"readiness-probe": None})
    assert after(plain, treated)["spec"] == deployment(worker())["spec"]


def test_apply_defaults_to_all_lifts_the_limit() -> None:
    """`applyDefaultsTo: all`."""
    result = after(deployment(worker()), by=admission({"applyDefaultsTo": "all"}))
    assert hooks(result) == [NATIVE_30]
    assert result["spec"]["minReadySeconds"] == 30


@pytest.mark.parametrize("place", ["says", "template_says"])
def test_a_setting_written_on_the_workload_or_its_template_always_applies(place: str) -> None:
    """And only that one: the inherited ones stay away from a worker."""
    result = after(deployment(worker(), **{place: {"min-ready": "7s"}}))
    assert result["spec"]["minReadySeconds"] == 7
    assert hooks(result) == [None]
    result = after(deployment(worker(), **{place: {"pre-stop-sleep": "7s"}}))
    assert hooks(result) == [{"sleep": {"seconds": 7}}]
    assert grace(result) == 37
    assert "minReadySeconds" not in result["spec"]


LAYERS = ("template", "namespace", "configuration")


def inherited(layer: str, **said: str) -> Json:
    """Put settings on one layer: what `decide` needs, and what the builder does."""
    if layer == "template":
        return {"template_says": said}
    if layer == "namespace":
        return {"by": admission(namespace=namespaces(**said))}
    return {"by": admission({"defaults": said})}


def decide_with(layer: str, said: Json, *containers: Json, **more: Any) -> Any:
    """Decide a workload with settings on one layer."""
    places = inherited(layer, **said)
    by = places.pop("by", admission())
    return decide(deployment(*containers, **more, **places), by=by)


@pytest.mark.parametrize("layer", LAYERS)
def test_settings_that_modify_another_follow_it_through_every_layer(layer: str) -> None:
    """A worker that asks for the sleep gets the namespace's handler, names and grace with it."""
    own = {"pre-stop-sleep": "7s"}
    decision = decide_with(layer, {"pre-stop-handler": "exec"}, worker(), says=own)
    assert hooks(decision.result) == [{"exec": {"command": ["sleep", "7"]}}]
    decision = decide_with(layer, {"pre-stop-containers": "a"}, worker("a"), worker("b"), says=own)
    assert hooks(decision.result) == [{"sleep": {"seconds": 7}}, None]
    quits = worker(lifecycle={"preStop": EXEC_QUIT})
    decision = decide_with(layer, {"pre-stop-existing": "chain"}, quits, says=own)
    assert "chain-needs-shell" in codes(decision)
    decision = decide_with(layer, {"shutdown-time": "60s"}, worker(), says=own)
    assert grace(decision.result) == 67
    decision = decide_with(layer, {"max-grace": "33s"}, worker(), says=own)
    assert grace(decision.result) == 33
    sleeps = worker(lifecycle={"preStop": {"exec": {"command": ["sleep", "3"]}}})
    decision = decide_with(layer, {"pre-stop-existing": "native"}, sleeps, says=own)
    assert hooks(decision.result) == [{"sleep": {"seconds": 3}}]
    own = {"precheck": "db:5432 mq:5672"}
    decision = decide_with(layer, {"precheck-resources": "1/1Gi"}, worker(), says=own)
    resources = pod_of(decision.result)["initContainers"][0]["resources"]
    assert resources["limits"] == {"cpu": "1", "memory": "1Gi"} == resources["requests"]
    decision = decide_with(layer, {"precheck-require": "any"}, worker(), says=own)
    assert "--require=any" in pod_of(decision.result)["initContainers"][0]["args"]
    decision = decide_with(layer, {"precheck-timeout": "5s"}, worker(), says=own)
    assert "--timeout=5s" in pod_of(decision.result)["initContainers"][0]["args"]


@pytest.mark.parametrize("layer", ["namespace", "configuration"])
@pytest.mark.parametrize(
    "said",
    [
        {"pre-stop-handler": "exec"},
        {"pre-stop-containers": "other"},
        {"pre-stop-existing": "chain"},
        {"pre-stop-existing": "native"},
        {"shutdown-time": "50s"},
        {"max-grace": "5s"},
        {"precheck-resources": "1/1Gi"},
        {"precheck-require": "9"},
        {"precheck-timeout": "5s"},
    ],
)
def test_an_inherited_modifier_alone_does_nothing_to_a_worker(layer: str, said: Json) -> None:
    """There is nothing that it could follow."""
    given = deployment(worker(lifecycle={"preStop": EXEC_QUIT}))
    decision = decide_with(layer, said, worker(lifecycle={"preStop": EXEC_QUIT}))
    assert apply(given, decision.operations) == given
    assert not decision.alerts


@pytest.mark.parametrize("layer", ["namespace", "configuration"])
def test_an_inherited_setting_that_stands_by_itself_stays_away_from_a_worker(layer: str) -> None:
    """Each of those that modify no other."""
    said = {
        "pre-stop-sleep": "7s",
        "min-ready": "7s",
        "readiness-gates": "example.com/ready",
        "precheck": "db:5432",
        "readiness-probe": "tcp://:80",
        "strategy": "surge",
    }
    decision = decide_with(layer, said, worker())
    assert not decision.operations
    assert decision.skipped == "not-serving"
    assert not decision.alerts


def test_a_worker_that_was_opted_in_by_its_namespace_alone_draws_no_warnings() -> None:
    """It is not treated, so there is nothing to tell."""
    decision = decide(deployment(worker()), by=admission(server=OLD_SERVER))
    assert not decision.alerts
    assert "no-readiness-probe" in codes(decide(deployment(container(readinessProbe=None))))
