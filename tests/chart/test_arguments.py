"""Values that the chart's schema takes are values that the commands start with."""

from __future__ import annotations

import json
import zoneinfo
from typing import Any

import pytest
from helm_python import HelmError
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.chart.rendering import CHART, Manifest, only, refusal, render
from webhook.cli import backfill, changing, serve, status
from webhook.cli.common import UsageError
from webhook.decision import configuration
from webhook.decision.admission import Admission
from webhook.decision.settings import InvalidSettingError

SCHEMA: Manifest = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
CONFIGURATION = (
    "scope",
    "mode",
    "invalidSettings",
    "applyDefaultsTo",
    "kinds",
    "excludedNamespaces",
    "exclude",
    "defaults",
    "kindDefaults",
    "precheck",
    "awsReadinessGates",
)
"""What goes into the file."""
SERVING = (
    "workers",
    "drainSeconds",
    "lingerSeconds",
    "logFormat",
    "logLevel",
    "listenAddress",
    "ports",
)


CHECKED = ("must differ", "backfill.job.timeZone", "backfill.job.window", "exclude.")
"""What the chart says where the schema cannot judge: two values together, a pattern of kinds."""
SETTINGS = settings(
    max_examples=30,
    deadline=None,
    # To make a failing example smaller takes minutes, as each is rendered anew.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def values_of(node: Manifest) -> st.SearchStrategy[Any]:
    """Make values that a part of the schema takes."""
    if "$ref" in node:
        found = SCHEMA
        for key in node["$ref"].removeprefix("#/").split("/"):
            found = found[key]
        return values_of(found)
    if "enum" in node:
        return st.sampled_from(node["enum"])
    kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
    return st.one_of(*(_of_type(kind, node) for kind in kinds))


def _of_type(kind: str, node: Manifest) -> st.SearchStrategy[Any]:  # noqa: PLR0911
    least, most = node.get("minimum", -(2**31)), node.get("maximum", 2**31)
    match kind:
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(least, most)
        case "number":
            return st.floats(least, most, allow_nan=False) | st.integers(least, most)
        case "array":
            unique = node.get("uniqueItems", False)
            return st.lists(
                values_of(node["items"]),
                min_size=node.get("minItems", 0),
                max_size=3,
                unique=unique,
            )
        case "string":
            if "pattern" not in node:
                return st.text(min_size=node.get("minLength", 0), max_size=20)
            # Helm's expressions are Go's: `$` is the end, and `\s`, here within brackets, is ASCII.
            pattern = node["pattern"].removesuffix("$") + r"\Z"
            found = st.from_regex(pattern.replace(r"\s", r" \t\n"))
            return found.filter(
                lambda text: node.get("minLength", 0) <= len(text) <= node.get("maxLength", 4096)
            )
    keys = {key: values_of(each) for key, each in node.get("properties", {}).items()}
    if not keys and isinstance(node.get("additionalProperties"), dict):
        inside = values_of(node["additionalProperties"])
        least = node.get("minProperties", 0)
        return st.dictionaries(st.sampled_from(["cpu", "memory"]), inside, min_size=least)
    required = node.get("required", [])
    found = st.fixed_dictionaries(
        {key: keys[key] for key in required},
        optional={key: each for key, each in keys.items() if key not in required},
    )
    return found.filter(lambda made: len(made) >= node.get("minProperties", 0))


def some_of(*names: str) -> st.SearchStrategy[Manifest]:
    """Make values of some of the keys at the top."""
    return st.fixed_dictionaries(
        {}, optional={name: values_of(SCHEMA["properties"][name]) for name in names}
    )


def rendered(values: Manifest) -> list[Manifest]:
    """Render values; what the chart itself refuses, naming the key, reaches no command."""
    try:
        return render(values, strict=False)
    except HelmError as error:
        message = str(error)
        assert any(key in message for key in CHECKED), message
        return []


def container(manifests: list[Manifest], kind: str) -> list[str]:
    """Give the arguments of the pods of a kind."""
    spec = only(manifests, kind)["spec"]
    spec = spec["jobTemplate"]["spec"] if kind == "CronJob" else spec
    (found,) = spec["template"]["spec"]["containers"]
    return list(found["args"][1:])


@SETTINGS
@given(some_of(*CONFIGURATION))
def test_the_webhook_starts_with_each_configuration_that_the_schema_takes(values: Manifest) -> None:
    """It parses the rendered file, and makes its decision of it."""
    for manifest in rendered(values):
        if manifest["kind"] == "ConfigMap":
            Admission(configuration.parse(manifest["data"]["config.yaml"], "config.yaml"))


@SETTINGS
@given(some_of(*SERVING), values_of(SCHEMA["properties"]["status"]["properties"]["interval"]))
def test_the_webhook_starts_with_each_argument_that_the_schema_takes(
    values: Manifest, interval: str
) -> None:
    """And so with each interval."""
    manifests = rendered({**values, "status": {"interval": interval}})
    if manifests:
        serve._parser().parse_args(container(manifests, "Deployment"))


@SETTINGS
@given(values_of(SCHEMA["properties"]["backfill"]["properties"]["job"]))
def test_backfill_starts_with_each_argument_that_the_schema_takes(job: Manifest) -> None:
    """A time zone is one that there is: no schema has the list."""
    job = {**job, "enabled": True, "resources": {}}
    if job.get("timeZone") not in zoneinfo.available_timezones():
        job["timeZone"] = ""
    manifests = rendered({"backfill": {"job": job}})
    if manifests:
        options = backfill.parser().parse_args(container(manifests, "Job"))
        options.namespace = options.namespace or "here"
        changing._selection(options)
        changing._number(options.max_concurrent)
        changing._pause(options.pause_between)
        changing._window(options)
        changing._agree_seconds(options.webhook_timeout)


@SETTINGS
@given(values_of(SCHEMA["properties"]["status"]["properties"]["cronJob"]))
def test_status_starts_with_each_argument_that_the_schema_takes(job: Manifest) -> None:
    """Its states, its gateway and its output."""
    job = {**job, "enabled": True, "resources": {}}
    manifests = rendered({"status": {"cronJob": job}})
    options = status._parser().parse_args(container(manifests, "CronJob"))
    status._states(options.fail_on)


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "59", "59s", "30s", "60", "90s", "1m", "10m", "90m", "1h", "1h30m", "2h", "24h"),
        *("25h", "1441m", "86400", "86401", "1d", "often", "1m59s", "0s", "23h59m59s"),
    ],
)
def test_schema_and_command_judge_an_interval_alike(text: str) -> None:
    """What one refuses, the other does."""
    try:
        serve._parser().parse_args([f"--status-interval={text}"] if text else [])
    except UsageError:
        taken = False
    else:
        taken = True
    assert (refusal({"status": {"interval": text}}) == "") == taken


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (name, text)
        for name in ("pre-stop-sleep", "min-ready", "precheck-timeout")
        for text in (
            "3600",
            "3601",
            "1h",
            "2h",
            "60m",
            "61m",
            "1h1s",
            "90m",
            "0h59m59s",
            "none",
            "",
        )
    ]
    + [
        ("precheck-require", "0"),
        ("precheck-require", "1000000000"),
        ("pre-stop-containers", "web, sidecar"),
        ("pre-stop-containers", "Web"),
        ("readiness-gates", "example.com/ready target-health.elbv2.k8s.aws/a"),
        ("readiness-gates", "a/b/c"),
        ("readiness-probe", "http://:8080/healthz?full=1"),
        ("readiness-probe", "http://:0/"),
        ("readiness-probe", "grpc://:70000"),
    ],
)
def test_schema_and_webhook_judge_a_default_alike(name: str, text: str) -> None:
    """A default that the webhook refuses would stop its pods."""
    try:
        Admission(configuration.Configuration(defaults={name: text}))
    except InvalidSettingError:
        taken = False
    else:
        taken = True
    assert (refusal({"defaults": {name: text}}) == "") == taken
