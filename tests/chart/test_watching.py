"""What the chart gives to those who watch: alerts, the dashboard, Events."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import promql_parser
import pytest

from tests.chart.rendering import (
    NAME,
    NAMESPACE,
    Manifest,
    of_kind,
    only,
    refusal,
    render,
)
from webhook.cli import serve

WATCHED: Final = {
    "prometheusRule": {"enabled": True},
    "serviceMonitor": {"enabled": True},
    "dashboard": {"enabled": True},
}
RUNBOOK: Final = Path("docs/runbook.md").read_text(encoding="utf-8")
# What `seamless serve` exports; what other commands write is further down.
METRICS: Final = Path("docs/metrics.md").read_text(encoding="utf-8").partition("\n### ")[0]
PROMETHEUS_OWN: Final = {"up"}


def rules(values: Manifest | None = None) -> list[Manifest]:
    """Render the alerts."""
    (group,) = only(render({**WATCHED, **(values or {})}), "PrometheusRule")["spec"]["groups"]
    found: list[Manifest] = group["rules"]
    return found


def dashboard() -> Manifest:
    """Read the dashboard as Grafana gets it."""
    found = only(render(WATCHED), "ConfigMap", f"{NAME}-dashboard")
    (text,) = found["data"].values()
    content: Manifest = json.loads(text)
    return content


def queries() -> Iterator[str]:
    """Give the queries of all panels."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"].replace("$__rate_interval", "5m")


def selectors(node: Any) -> Iterator[Any]:
    """Find the selectors in a parsed query."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        below = getattr(node, name, None)
        if below is not None:
            yield from selectors(below)
    for each in getattr(node, "args", None) or ():
        yield from selectors(each)


def documented() -> dict[str, set[str]]:
    """Read the metrics of docs/metrics.md with their labels; the API server's too."""
    found: dict[str, set[str]] = {name: set() for name in PROMETHEUS_OWN}
    for line in METRICS.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = re.fullmatch(r"`((?:seamless|process|apiserver)_[a-z_]+)`", cells[0])
        if name and len(cells) == 4:
            found[name[1]] = set(re.findall(r"`([a-z]+)`", cells[2]))
            if cells[1] == "histogram":
                found |= {f"{name[1]}_{end}": {"le"} for end in ("bucket", "sum", "count")}
    # As the API server's own reference has them.
    duration = {"name", "operation", "rejected", "type"}
    for end in ("bucket", "sum", "count"):
        found[f"apiserver_admission_webhook_admission_duration_seconds_{end}"] = {*duration, "le"}
    found["apiserver_admission_webhook_fail_open_count"] = {"name", "type"}
    found["apiserver_admission_webhook_rejection_count"] = {
        *("error_type", "name", "operation", "rejection_code", "type")
    }
    return found


def check(query: str) -> int:
    """Check that a query selects metrics and labels that there are; gives how many it selects."""
    known = documented()
    count = 0
    for selector in selectors(promql_parser.parse(query)):
        count += 1
        assert selector.name in known, query
        labels = {matcher.name for matcher in selector.matchers.matchers}
        assert labels <= known[selector.name] | {"namespace", "job"}, query
        if not selector.name.startswith("apiserver_"):
            assert {"namespace", "job"} <= labels, query
    return count


# --- alerts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PrometheusRule", "ServiceMonitor"])
def test_nothing_of_the_operator_is_created_unless_asked_for(kind: str) -> None:
    """Its kinds are not in every cluster."""
    assert of_kind(render(), kind) == []
    assert of_kind(render(WATCHED), kind)


def test_every_alert_asks_for_metrics_that_there_are() -> None:
    """Each query parses, and its metrics and labels are documented."""
    found = rules()
    assert len(found) > 10
    for rule in found:
        assert check(rule["expr"]), rule["alert"]


def test_every_alert_links_to_a_section_of_the_runbook_and_each_section_has_its_alert() -> None:
    """The anchor is what a heading of that name becomes."""
    linked = set()
    for rule in rules():
        url, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert url.endswith("/docs/runbook.md")
        assert anchor == rule["alert"].lower()
        linked.add(rule["alert"])
    headings = re.findall(r"^#+ (SeamlessRollouts\w+)$", RUNBOOK, flags=re.MULTILINE)
    assert len(headings) == len(set(headings))
    assert set(headings) == linked


def test_every_alert_says_how_bad_it_is_and_what_it_means() -> None:
    """The labels and annotations that people route and read by."""
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert "\n" not in rule["annotations"]["description"]


def test_alerts_are_about_this_release_alone() -> None:
    """By the job and namespace that the ServiceMonitor makes; the API server's by our entries."""
    manifests = render(WATCHED)
    entries = [each["name"] for each in only(manifests, "MutatingWebhookConfiguration")["webhooks"]]
    assert entries
    for rule in rules():
        for selector in selectors(promql_parser.parse(rule["expr"])):
            matchers = {each.name: each.value for each in selector.matchers.matchers}
            if selector.name.startswith("apiserver_"):
                assert all(re.fullmatch(matchers["name"], each) for each in entries)
            else:
                assert matchers["job"] == only(manifests, "Service")["metadata"]["name"]
                assert matchers["namespace"] == NAMESPACE


def test_what_is_switched_off_raises_no_alert() -> None:
    """Without entries the API server calls nothing; without self-managed certificates is no CA."""
    off = {rule["alert"] for rule in rules({"webhook": {"enabled": False}})}
    assert "SeamlessRolloutsDown" not in off
    assert "SeamlessRolloutsErrors" in off
    others = {rule["alert"] for rule in rules({"certificates": {"mode": "cert-manager"}})}
    assert "SeamlessRolloutsCAExpiring" not in others
    assert "SeamlessRolloutsCertificateExpired" in others


def test_rules_and_labels_of_ones_own_are_added() -> None:
    """And the runbook may lie elsewhere."""
    mine = {"alert": "Mine", "expr": "vector(1)"}
    values = {
        "enabled": True,
        "labels": {"release": "prometheus"},
        "additionalRules": [mine],
        "runbookUrl": "https://wiki.example.com/docs/runbook.md",
    }
    found = only(render({"prometheusRule": values}), "PrometheusRule")
    assert found["metadata"]["labels"]["release"] == "prometheus"
    *ours, last = found["spec"]["groups"][0]["rules"]
    assert last == mine
    assert all("wiki.example.com" in each["annotations"]["runbook_url"] for each in ours)
    assert refusal({"prometheusRule": {**values, "runbookUrl": "docs"}})


# --- dashboard -----------------------------------------------------------------------------------


def test_every_panel_asks_for_metrics_that_there_are() -> None:
    """Each query parses, and its metrics and labels are documented."""
    checked = [check(each) for each in queries()]
    assert len(checked) > 20
    assert all(checked)


def test_everything_that_is_counted_by_labels_is_on_the_dashboard() -> None:
    """What the webhook tells apart, people can see apart."""
    shown = " ".join(queries())
    counters = [name for name, labels in documented().items() if labels and "seamless" in name]
    assert len(counters) > 5
    for name in counters:
        assert name.removesuffix("_sum").removesuffix("_count") in shown


def test_the_dashboard_is_found_by_grafanas_sidecar_and_off_by_default() -> None:
    """By its label; a folder may be named in an annotation."""
    assert of_kind(render(), "ConfigMap", f"{NAME}-dashboard") == []
    values = {"enabled": True, "annotations": {"grafana_folder": "Platform"}}
    found = only(render({"dashboard": values}), "ConfigMap", f"{NAME}-dashboard")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["annotations"] == {"grafana_folder": "Platform"}


def test_panels_do_not_overlap_and_are_told_apart() -> None:
    """Grafana's grid is 24 wide; two panels of one number would show the same."""
    taken: dict[tuple[int, int], str] = {}
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken.get((x, y)))
                taken[x, y] = panel["title"]


def test_every_variable_of_the_dashboard_is_declared() -> None:
    """The data source, and which release."""
    content = dashboard()
    declared = {each["name"] for each in content["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)\}?", json.dumps(content))) - {"__rate_interval"}
    assert used == declared


# --- events, logs --------------------------------------------------------------------------------


def arguments(manifests: list[Manifest]) -> list[str]:
    """Give the arguments of the container."""
    (container,) = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    return list(container["args"])


def granted(manifests: list[Manifest]) -> set[tuple[str, str, str]]:
    """Give group, resource and verb of each right across the cluster."""
    return {
        (group, resource, verb)
        for rule in only(manifests, "ClusterRole")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_events_bring_their_rights_and_declare_their_side_effects() -> None:
    """And without them there is none of it."""
    without, with_events = render(), render({"events": {"enabled": True}})
    for manifests, effect in ((without, "None"), (with_events, "NoneOnDryRun")):
        webhooks = only(manifests, "MutatingWebhookConfiguration")["webhooks"]
        assert {each["sideEffects"] for each in webhooks} == {effect}
    assert "--events" in arguments(with_events)
    assert "--events" not in arguments(without)
    workloads = {
        ("apps", "deployments", "get"),
        ("apps", "statefulsets", "get"),
        ("apps", "daemonsets", "get"),
        ("argoproj.io", "rollouts", "get"),
    }
    events = {("events.k8s.io", "events", "create"), ("events.k8s.io", "events", "patch")}
    assert granted(with_events) - granted(without) == workloads | events


@pytest.mark.parametrize("kinds", [["Rollout"], ["DaemonSet"]])
def test_events_read_only_the_kinds_that_are_patched(kinds: list[str]) -> None:
    """No right for the others."""
    found = granted(render({"events": {"enabled": True}, "kinds": kinds}))
    resources = {resource for _, resource, verb in found if verb == "get"}
    assert resources & {"deployments", "statefulsets", "daemonsets", "rollouts"} == {
        f"{kind.lower()}s" for kind in kinds
    }


def test_the_log_level_reaches_the_command_and_is_one_that_it_knows() -> None:
    """A wrong one is refused by Helm already."""
    for level in ("debug", "info", "warning", "error"):
        found = arguments(render({"logLevel": level}))
        assert f"--log-level={level}" in found
        assert serve._parser().parse_args(found[1:]).log_level == level
    assert refusal({"logLevel": "loud"})


def test_traces_may_leave_by_a_rule_of_ones_own() -> None:
    """The NetworkPolicy lets out nothing else."""
    rule = {"ports": [{"port": 4318, "protocol": "TCP"}]}
    found = only(render({"networkPolicy": {"extraEgress": [rule]}}), "NetworkPolicy")
    assert rule in found["spec"]["egress"]
