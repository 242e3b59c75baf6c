"""The values: what is refused, and that schema, README and the settings table say the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from scripts import chart_readme
from tests.chart.rendering import CHART, Manifest, read_values, refusal, render_files
from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration, parse
from webhook.decision.settings import InvalidSettingError, Table

VALUES = CHART / "values.yaml"
DIGEST = "sha256:" + "0" * 64


def schema() -> Manifest:
    """Read the schema."""
    found: Manifest = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return found


def settings() -> Table:
    """Give the settings table."""
    return Admission(parse("", "built in")).table


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scope": "namespace"}, "/scope"),
        ({"scope": None}, "missing property 'scope'"),
        ({"image": {"tag": None}}, "missing property 'tag'"),
        ({"kinds": None}, "missing property 'kinds'"),
        ({"Scope": "cluster"}, "Scope"),
        ({"mode": "off"}, "/mode"),
        ({"invalidSettings": True}, "/invalidSettings"),
        ({"applyDefaultsTo": "none"}, "/applyDefaultsTo"),
        ({"kinds": []}, "/kinds"),
        ({"kinds": ["Job"]}, "/kinds"),
        ({"kinds": ["Deployment", "Deployment"]}, "/kinds"),
        ({"kinds": "Deployment"}, "/kinds"),
        ({"excludedNamespaces": ["Team A"]}, "/excludedNamespaces/0"),
        ({"excludedNamespaces": "team-a"}, "/excludedNamespaces"),
        ({"defaults": {"preStopSleep": "30s"}}, "preStopSleep"),
        ({"defaults": {"pre-stop-sleep": "30 seconds"}}, "/defaults/pre-stop-sleep"),
        ({"defaults": {"min-ready": 30.5}}, "/defaults/min-ready"),
        ({"defaults": {"strategy": "fast"}}, "/defaults/strategy"),
        ({"defaults": {"precheck-require": 0}}, "/defaults/precheck-require"),
        ({"precheck": {"runAsUser": 0}}, "/precheck/runAsUser"),
        ({"precheck": {"runAsUser": "nobody"}}, "/precheck/runAsUser"),
        ({"precheck": {"resources": {"request": {}}}}, "request"),
        ({"awsReadinessGates": "yes"}, "/awsReadinessGates"),
        ({"webhook": {"failurePolicy": "ignore"}}, "/webhook/failurePolicy"),
        ({"webhook": {"matchConditions": "never"}}, "/webhook/matchConditions"),
        ({"webhook": {"matchConditions": False}}, "/webhook/matchConditions"),
        ({"webhook": {"timeoutSeconds": 30}}, "/webhook/timeoutSeconds"),
        ({"webhook": {"annotations": {"a": True}}}, "/webhook/annotations/a"),
        ({"certificates": {"mode": "manual"}}, "/certificates/mode"),
        ({"certificates": {"certManager": {"duration": "90d"}}}, "/certManager/duration"),
        ({"certificates": {"mode": "provided"}}, "certificates.provided.secretName: empty"),
        ({"certificates": {"provided": {"caBundle": "eA=="}}}, "only with certificates.mode=prov"),
        ({"clientCA": {"configMapName": "a", "secretName": "b"}}, "configMapName or secretName"),
        ({"image": {"digest": "0123"}}, "/image/digest"),
        ({"image": {"repository": f"a@{DIGEST}"}}, "/image/repository"),
        ({"image": {"tag": 1.0}}, "/image/tag"),
        ({"replicaCount": "2"}, "/replicaCount"),
        ({"replicaCount": -1}, "/replicaCount"),
        ({"workers": 0}, "/workers"),
        ({"drainSeconds": "15s"}, "/drainSeconds"),
        ({"ports": {"https": 8080}}, "https and health must differ"),
        ({"ports": {"https": 70000}}, "/ports/https"),
        ({"resources": {"cpu": 1}}, "cpu"),
        ({"podLabels": {"a": "b c"}}, "/podLabels/a"),
        ({"autoscaling": {"enabled": True, "minReplicas": 9}}, "more than maxReplicas"),
        ({"podDisruptionBudget": {"minAvailable": 1}}, "minAvailable"),
        ({"tests": {"namespace": ""}}, "/tests/namespace"),
        ({"fullnameOverride": "Seamless"}, "/fullnameOverride"),
    ],
    ids=str,
)
def test_a_bad_value_is_refused_by_its_name(values: Manifest, message: str) -> None:
    """Helm says which value it was, before anything reaches the cluster."""
    assert message in refusal(values)


@pytest.mark.parametrize(
    "values",
    [
        {"global": {"anything": 1}},
        {"enabled": True},
        {"precheck": {"runAsUser": None}},
        {"defaults": {"pre-stop-sleep": 0, "min-ready": "1m30s", "precheck-require": 2}},
        {"podSecurityContext": {"runAsUser": None, "supplementalGroups": [1]}},
        {"resources": {"limits": {"cpu": 1, "memory": "1Gi"}}},
        {"resources": {"limits": None}, "securityContext": None, "webhook": {"annotations": None}},
        {
            "podLabels": None,
            "commonLabels": None,
            "defaults": None,
            "precheck": {"resources": None},
        },
        {"nodeSelector": {"kubernetes.io/os": None}, "service": {"annotations": None}},
        {"podDisruptionBudget": {"maxUnavailable": "50%"}},
    ],
    ids=str,
)
def test_a_good_value_is_taken(values: Manifest) -> None:
    """Also what Helm itself adds where the chart is part of another."""
    assert refusal(values) == ""


def objects(node: Any, path: str = "") -> list[tuple[str, Manifest]]:
    """Walk the objects of the schema that list their keys."""
    if not isinstance(node, dict):
        return []
    found = [(path, node)] if "properties" in node else []
    for key, child in node.items():
        found += objects(child, f"{path}/{key}")
    return found


def test_the_schema_takes_no_unknown_key_anywhere() -> None:
    """A misspelt value must not pass in silence."""
    for path, node in objects(schema()):
        assert node["additionalProperties"] is False, path


def keys(node: Any, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Give the keys of the schema, with those above each, as far as they are listed."""
    found = {path} if path else set()
    for key, child in node.get("properties", {}).items():
        found |= keys(child, (*path, key))
    return found


def test_schema_values_and_readme_know_the_same_keys() -> None:
    """Each key of the schema has a default and a row of the README, and the other way round."""
    known = {path for path in keys(schema()) if path not in {("global",), ("enabled",)}}
    text = VALUES.read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    described = {tuple(row.path.split(".")) for row in chart_readme.rows(text)}
    for path in described:
        assert path in known, path
    inside = {path for path in known if any(path[:n] in described for n in range(1, len(path)))}
    above = {path[:n] for path in described for n in range(1, len(path))}
    assert known - inside - above == described
    for path in described:
        found = values
        for key in path:
            assert key in found, path
            found = found[key]


def test_the_schema_knows_each_setting_and_no_other() -> None:
    """`defaults` takes what the settings table has."""
    assert set(schema()["properties"]["defaults"]["properties"]) == set(settings())


@pytest.mark.parametrize(
    "text",
    [
        *("none", "0", "30", "30s", "2m", "1m30s", "1h", "3600", "1h0m0s", "01s"),
        *("auto", "sleep", "exec", "keep", "chain", "surge", "all", "any", "majority"),
        *("http://:8080/healthz", "tcp://:5432", "postgres:5432, dns://redis", "a b,c"),
    ],
)
def test_the_schema_never_refuses_what_the_webhook_takes(text: str) -> None:
    """It may be the laxer of the two, never the stricter."""
    table = settings()
    for name in table:
        try:
            table.parse(name, text)
        except InvalidSettingError:
            continue
        assert refusal({"defaults": {name: text}}) == "", name


def test_the_configuration_has_the_same_keys_as_the_values() -> None:
    """Each key of the file is a value of the same name, with the same default where it is fixed."""
    values = read_values(VALUES)
    file = Configuration().model_dump(by_alias=True, mode="json")
    for key, default in file.items():
        assert key in values, key
        if key != "precheck":
            assert values[key] == default, key
    assert set(values["precheck"]) == set(file["precheck"])
    assert values["precheck"]["runAsUser"] == file["precheck"]["runAsUser"]


def test_the_readme_is_up_to_date() -> None:
    """`scripts/chart_readme.py` writes it from values.yaml."""
    assert chart_readme.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "kubectl label namespace NAMESPACE seamless-rollouts.dev/inject=enabled"),
        ({}, "kubectl delete mutatingwebhookconfiguration seamless-rollouts"),
        ({}, "helm test seamless-rollouts"),
        ({"scope": "cluster"}, "seamless-rollouts.dev/inject=disabled"),
        ({"mode": "audit"}, "patches nothing"),
        ({"webhook": {"enabled": False}}, "switched off"),
        ({"webhook": {"failurePolicy": "Fail"}}, "no workload in scope can be created"),
        ({"replicaCount": 1}, "fewer than two replicas"),
        (
            {"certificates": {"mode": "provided", "provided": {"secretName": "a"}}},
            "certificates.provided.caBundle is empty",
        ),
    ],
    ids=str,
)
def test_the_notes_say_what_happens_next(values: Manifest, text: str) -> None:
    """What to do, how to stop it, and what these values bring with them."""
    assert text in render_files(values)["seamless-rollouts/templates/NOTES.txt"]
