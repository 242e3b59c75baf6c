"""What the chart runs for existing workloads: status every now and then, and a backfill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.chart.rendering import NAME, NAMESPACE, Manifest, of_kind, only, refusal, render
from webhook.cli import backfill, serve, status

STATUS = f"{NAME}-status"
BACKFILL = f"{NAME}-backfill"
APPS = ["deployments", "statefulsets", "daemonsets"]
CLUSTER = {"nodes": ["list"], "customresourcedefinitions": ["get"]}
"""What the cluster can carry: its nodes, and the CRD of Argo Rollouts."""


def cron_job(**values: Any) -> list[Manifest]:
    """Render with the CronJob."""
    return render({"status": {"cronJob": {"enabled": True, **values}}})


def job(also: Manifest | None = None, **values: Any) -> list[Manifest]:
    """Render with the Job."""
    return render({"backfill": {"job": {"enabled": True, **values}}, **(also or {})})


def pod(manifests: list[Manifest]) -> Manifest:
    """Give the pod template of the CronJob or the Job."""
    for each in of_kind(manifests, "CronJob"):
        return each["spec"]["jobTemplate"]["spec"]["template"]
    return only(manifests, "Job")["spec"]["template"]


def arguments(manifests: list[Manifest]) -> list[str]:
    """Give what follows the name of the command."""
    (container,) = pod(manifests)["spec"]["containers"]
    return list(container["args"][1:])


def rights(manifests: list[Manifest], name: str) -> dict[str, list[str]]:
    """Give the verbs of each resource in a ClusterRole."""
    return {
        resource: rule["verbs"]
        for rule in only(manifests, "ClusterRole", name)["rules"]
        for resource in rule["resources"]
    }


def ports(manifests: list[Manifest], name: str) -> set[int]:
    """Give the TCP ports that a NetworkPolicy lets out, DNS aside."""
    policy = only(manifests, "NetworkPolicy", name)
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy["spec"]
    return {each["port"] for each in policy["spec"]["egress"][0]["ports"]}


def test_neither_is_there_unless_it_is_wanted() -> None:
    """Nor a trace of them: no account, no right."""
    for manifest in render():
        name = manifest["metadata"]["name"]
        assert not name.endswith(("-status", "-backfill"))
        assert manifest["kind"] not in ("Job", "CronJob")


@pytest.mark.parametrize("either", [cron_job, job])
def test_its_rights_are_its_own(either: Callable[[], list[Manifest]]) -> None:
    """An account for it alone, bound to a role for it alone, and never the webhook's."""
    manifests = either()
    name = pod(manifests)["spec"]["serviceAccountName"]
    assert only(manifests, "ServiceAccount", name)["automountServiceAccountToken"] is False
    binding = only(manifests, "ClusterRoleBinding", name)
    assert binding["roleRef"]["name"] == name
    (subject,) = binding["subjects"]
    assert (subject["name"], subject["namespace"]) == (name, NAMESPACE)
    assert rights(manifests, NAME) == rights(render(), NAME)


@pytest.mark.parametrize("either", [cron_job, job])
def test_its_pods_are_none_of_the_webhooks(either: Callable[[], list[Manifest]]) -> None:
    """The Service would send reviews to them, and the budget count them."""
    manifests = either()
    labels = pod(manifests)["metadata"]["labels"]
    selector = only(manifests, "Service")["spec"]["selector"]
    assert not selector.items() <= labels.items()
    policy = only(manifests, "NetworkPolicy", pod(manifests)["spec"]["serviceAccountName"])
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("either", [cron_job, job])
def test_it_decides_by_the_configuration_of_the_webhook(
    either: Callable[[], list[Manifest]],
) -> None:
    """And knows the namespace that is never touched."""
    manifests = either()
    spec = pod(manifests)["spec"]
    assert "--config=/etc/seamless-rollouts/config.yaml" in arguments(manifests)
    config = next(each for each in spec["volumes"] if each["name"] == "config")
    assert config["configMap"]["name"] == only(manifests, "ConfigMap")["metadata"]["name"]
    (container,) = spec["containers"]
    assert container["env"][0]["name"] == "POD_NAMESPACE"


# --- status --------------------------------------------------------------------------------------


def test_status_may_list_and_nothing_else() -> None:
    """Least rights."""
    found = rights(cron_job(), STATUS)
    read = {resource: ["list"] for resource in ("namespaces", *APPS, "rollouts")}
    assert found == {**read, **CLUSTER}


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({}, {"output": "table", "fail_on": "", "push_gateway": None}),
        (
            {
                "output": "json",
                "failOn": ["unpatched", "stale"],
                "pushGateway": "http://gateway:9091",
                "metricsByNamespace": True,
            },
            {
                "output": "json",
                "fail_on": "unpatched,stale",
                "push_gateway": "http://gateway:9091",
                "metrics_by_namespace": True,
            },
        ),
    ],
)
def test_the_arguments_of_status_are_such_as_it_takes(values: Manifest, wanted: Manifest) -> None:
    """As the values say them."""
    found = vars(status._parser().parse_args(arguments(cron_job(**values))))
    assert found.items() >= {**wanted, "all_namespaces": True}.items()


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("", None),
        ("http://gateway:9091", 9091),
        ("http://gateway.monitoring.svc", 80),
        ("https://gateway.example.com/push", 443),
        ("http://[fd00::1]:9091/", 9091),
    ],
)
def test_the_network_policy_lets_status_reach_the_gateway(url: str, port: int | None) -> None:
    """On the port of its URL."""
    usual = ports(cron_job(), STATUS)
    assert ports(cron_job(pushGateway=url), STATUS) == usual | ({port} if port else set())


def test_a_survey_neither_piles_up_nor_is_tried_again() -> None:
    """The next one comes soon enough."""
    spec = only(cron_job(), "CronJob")["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["jobTemplate"]["spec"]["backoffLimit"] == 0
    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] == 600
    assert "timeZone" not in spec


def test_the_webhook_counts_workloads_only_where_it_is_told_to() -> None:
    """Then it may list them, too."""
    manifests = render({"status": {"interval": "10m"}})
    given = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"][1:]
    assert serve._parser().parse_args(given).status_interval == 600
    assert rights(manifests, NAME)["deployments"] == ["list"]
    assert rights(manifests, NAME)["rollouts"] == ["list"]
    assert "deployments" not in rights(render(), NAME)


# --- backfill ------------------------------------------------------------------------------------


def test_a_preview_may_change_nothing() -> None:
    """It is the default: neither the argument nor the right is there."""
    manifests = job()
    assert "--apply" not in arguments(manifests)
    found = rights(manifests, BACKFILL)
    assert {verb for verbs in found.values() for verb in verbs} == {"get", "list"}


def test_a_backfill_may_patch_workloads_and_write_events() -> None:
    """And still no more than that."""
    reads = ["get", "list"]
    assert rights(job(apply=True), BACKFILL) == {
        "namespaces": reads,
        **{resource: [*reads, "patch"] for resource in (*APPS, "rollouts")},
        "poddisruptionbudgets": ["list"],
        "mutatingwebhookconfigurations": ["get"],
        "events": ["create"],
        **CLUSTER,
    }
    named = [
        each["resourceNames"]
        for each in only(job(apply=True), "ClusterRole", BACKFILL)["rules"]
        if "resourceNames" in each
    ]
    assert sorted(named) == [["rollouts.argoproj.io"], [NAME]]


def test_a_backfill_of_one_namespace_may_change_nothing_beyond_it() -> None:
    """What it reads and patches is in a Role there, bound to the account of the Job."""
    manifests = job(apply=True, namespace="shop")
    everywhere = only(manifests, "ClusterRole", BACKFILL)["rules"]
    assert [
        (each["resources"], each.get("resourceNames"), each["verbs"]) for each in everywhere
    ] == [
        (["namespaces"], ["shop"], ["get"]),
        (["nodes"], None, ["list"]),
        (["customresourcedefinitions"], ["rollouts.argoproj.io"], ["get"]),
        (["mutatingwebhookconfigurations"], [NAME], ["get"]),
    ]
    role = only(manifests, "Role", BACKFILL)
    assert role["metadata"]["namespace"] == "shop"
    verbs = {name: each["verbs"] for each in role["rules"] for name in each["resources"]}
    assert verbs == {
        **{resource: ["get", "list", "patch"] for resource in (*APPS, "rollouts")},
        "poddisruptionbudgets": ["list"],
        "events": ["create"],
    }
    binding = only(manifests, "RoleBinding", BACKFILL)
    assert binding["metadata"]["namespace"] == "shop"
    assert binding["roleRef"] == {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "Role",
        "name": BACKFILL,
    }
    (subject,) = binding["subjects"]
    assert (subject["name"], subject["namespace"]) == (BACKFILL, NAMESPACE)
    preview = only(job(namespace="shop"), "Role", BACKFILL)["rules"]
    assert {verb for rule in preview for verb in rule["verbs"]} == {"get", "list"}
    assert of_kind(job(apply=True), "Role", BACKFILL) == []


def test_the_arguments_of_backfill_are_such_as_it_takes() -> None:
    """As the values say them."""
    parser = backfill.parser()
    found = vars(parser.parse_args(arguments(job())))
    assert found["all_namespaces"] is True
    assert found["apply"] is False
    assert found["webhook_configuration"] == NAME
    manifests = job(
        apply=True,
        namespace="shop",
        selector="tier=web",
        exclude=["legacy", "shop/database"],
        maxConcurrent=3,
        pauseBetween=90,
        window="22:00-06:00",
        timeZone="Europe/Berlin",
        noRestart=True,
        output="json",
    )
    found = vars(parser.parse_args(arguments(manifests)))
    wanted = {
        "all_namespaces": False,
        "apply": True,
        "namespace": "shop",
        "selector": "tier=web",
        "exclude": ["legacy", "shop/database"],
        "max_concurrent": "3",
        "pause_between": "90",
        "window": "22:00-06:00",
        "time_zone": "Europe/Berlin",
        "no_restart": True,
        "output": "json",
    }
    assert found.items() >= wanted.items()


def test_a_job_that_would_do_something_else_has_another_name() -> None:
    """A Job's pod template cannot be changed; and what is the same is not run again."""
    names = [
        only(manifests, "Job")["metadata"]["name"]
        for manifests in (
            job(),
            job(apply=True),
            job(run="again"),
            job(run=2),
            job({"defaults": {"min-ready": "10s"}}),
            job({"image": {"tag": "next"}}),
        )
    ]
    assert len(set(names)) == len(names)
    assert names[0] == only(job(ttlSecondsAfterFinished=60), "Job")["metadata"]["name"]
    assert all(name.startswith(f"{BACKFILL}-") for name in names)


def test_a_job_is_not_tried_again_but_for_a_drained_node() -> None:
    """A rollout that failed ends the run, until somebody has looked at it."""
    spec = only(job(), "Job")["spec"]
    assert spec["backoffLimit"] == 0
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["action"] == "Ignore"
    assert [each["type"] for each in rule["onPodConditions"]] == ["DisruptionTarget"]
    assert spec["ttlSecondsAfterFinished"] == 86400
    kept = only(job(ttlSecondsAfterFinished=""), "Job")["spec"]
    assert "ttlSecondsAfterFinished" not in kept
    assert "annotations" not in only(job(), "Job")["metadata"]


def test_a_backfill_waits_for_the_webhook_where_there_is_one() -> None:
    """On a first install the Job is created together with the webhook's pods."""
    manifests = job()
    (waiting,) = pod(manifests)["spec"]["initContainers"]
    assert waiting["args"][0] == "precheck"
    assert waiting["args"][-1] == f"tcp://{NAME}.{NAMESPACE}.svc:443"
    assert {443, 8443} <= ports(manifests, BACKFILL)
    without = job({"webhook": {"enabled": False}})
    assert "initContainers" not in pod(without)["spec"]
    assert not [each for each in arguments(without) if "webhook-configuration" in each]
    assert rights(without, BACKFILL)["mutatingwebhookconfigurations"] == ["list"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"status": {"interval": "often"}}, "/status/interval"),
        ({"status": {"cronJob": {"failOn": ["old"]}}}, "/status/cronJob/failOn"),
        ({"status": {"cronJob": {"output": "text"}}}, "/status/cronJob/output"),
        ({"status": {"cronJob": {"pushGateway": "gateway:9091"}}}, "/status/cronJob/pushGateway"),
        ({"backfill": {"job": {"maxConcurrent": 0}}}, "/backfill/job/maxConcurrent"),
        ({"backfill": {"job": {"window": "22-06"}}}, "/backfill/job/window"),
        ({"backfill": {"job": {"pauseBetween": "soon"}}}, "/backfill/job/pauseBetween"),
        ({"backfill": {"job": {"exclude": ["A_b"]}}}, "/backfill/job/exclude"),
        ({"backfill": {"job": {"force": True}}}, "force"),
    ],
)
def test_values_that_could_not_work_are_refused(values: Manifest, message: str) -> None:
    """Before anything is installed, naming the key."""
    assert message in refusal(values)
