"""Reading and patching workloads through an API server that fails on command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import Json, deployment
from tests.cluster.fake_api import CONFIGURATIONS, Fault, Request, once
from tests.cluster.rolling import Rolling
from webhook.cluster import installed
from webhook.cluster.client import ApiError, Backoff, ClusterError
from webhook.cluster.workloads import MissingRightError, Workloads
from webhook.decision.configuration import Configuration
from webhook.decision.workload import DEPLOYMENT, ROLLOUT

LIST = "/apis/apps/v1/deployments"


@pytest.fixture
def api() -> Iterator[Rolling]:
    """A cluster with seven Deployments in two namespaces."""
    server = Rolling()
    for index in range(4):
        server.place(deployment(), f"web-{index}", "shop")
    for index in range(3):
        server.place(deployment(), f"web-{index}", "bank")
    yield server
    server.close()


class Reader:
    """Workloads in pages of two, and the seconds that it waited."""

    def __init__(self, api: Rolling) -> None:
        self.waited: list[float] = []
        self.told: list[str] = []
        self.workloads = Workloads(
            api.api(),
            page=2,
            wait=self.waited.append,
            backoff=lambda: Backoff(spread=lambda: 1.0),
            tell=self.told.append,
        )

    def names(self, namespace: str | None = None, selector: str | None = None) -> list[str]:
        """List all Deployments."""
        return [
            f"{thing['metadata']['namespace']}/{thing['metadata']['name']}"
            for page in self.workloads.pages(DEPLOYMENT, namespace, selector)
            for thing in page
        ]


ALL = [f"bank/web-{index}" for index in range(3)] + [f"shop/web-{index}" for index in range(4)]


def test_a_list_comes_in_pages_and_whole(api: Rolling) -> None:
    """No more than two objects an answer."""
    assert Reader(api).names() == ALL
    asked = api.asked("GET", LIST)
    assert len(asked) == 4
    assert all(each.query["limit"] == "2" for each in asked)
    assert Reader(api).names("bank") == ALL[:3]


class Expiring:
    """A continue token that expires; with `token` the answer brings another one."""

    def __init__(self, at: int, *, token: bool) -> None:
        self.left = at
        self.token = token

    def __call__(self, request: Request) -> Fault | None:
        """Fail once."""
        if "continue" not in request.query:
            return None
        self.left -= 1
        if self.left != 0:
            return None
        token = request.query["continue"]
        metadata = f', "metadata": {{"continue": "{token}"}}' if self.token else ""
        return Fault(410, body=f'{{"message": "too old"{metadata}}}'.encode())


@pytest.mark.parametrize("token", [True, False])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_expired_page_goes_on_and_gives_no_object_twice(
    api: Rolling, at: int, *, token: bool
) -> None:
    """By the token that the answer brings, else from the start."""
    api.faults.append(Expiring(at, token=token))
    assert Reader(api).names() == ALL
    without = [each for each in api.asked("GET", LIST) if "continue" not in each.query]
    assert len(without) == (1 if token else 2)


def test_what_appears_while_pages_expire_is_given_once(api: Rolling) -> None:
    """One before the place that was reached has been missed, as by every list."""
    reader = Reader(api)
    pages = reader.workloads.pages(DEPLOYMENT)
    seen = [thing["metadata"]["name"] for thing in next(pages)]
    api.place(deployment(), "a-new", "bank")
    api.place(deployment(), "z-new", "shop")
    api.faults.append(Expiring(1, token=False))
    seen += [thing["metadata"]["name"] for page in pages for thing in page]
    assert len(seen) == len(ALL) + 1
    assert "z-new" in seen


def test_throttling_is_waited_for_as_long_as_is_asked(api: Rolling) -> None:
    """And 503 likewise."""
    reader = Reader(api)
    api.faults.append(once(Fault(429, {"Retry-After": "17"})))
    api.faults.append(once(Fault(503, {"Retry-After": "9"})))
    assert reader.names() == ALL
    assert reader.waited == [17.0, 9.0]


def test_a_failure_that_passes_at_once_is_not_told(api: Rolling) -> None:
    """Nobody can do anything about it."""
    reader = Reader(api)
    api.faults.append(once(Fault(500)))
    assert reader.names() == ALL
    assert reader.told == []


@pytest.mark.parametrize("fault", [Fault(0), Fault(500), Fault(429)])
def test_failures_are_tried_again_a_bounded_number_of_times(api: Rolling, fault: Fault) -> None:
    """Each wait is longer than the one before; a success begins anew."""
    reader = Reader(api)
    api.faults.append(once(fault, times=7))
    assert reader.names() == ALL
    assert reader.waited == [0.5, 1, 2, 4, 8, 16, 30]
    assert len(reader.told) == 1
    assert "trying again" in reader.told[0]
    reader.waited.clear()
    api.faults.append(once(fault, times=8))
    with pytest.raises(ApiError):
        reader.names()
    assert len(reader.waited) == 7


def test_other_errors_are_not_tried_again(api: Rolling) -> None:
    """As a selector that cannot be read."""
    reader = Reader(api)
    api.faults.append(once(Fault(400, body=b'{"message": "unable to parse"}')))
    with pytest.raises(ApiError, match="unable to parse"):
        reader.names(selector="a in (")
    assert reader.waited == []


def test_a_missing_right_is_named_with_the_rule_that_would_grant_it(api: Rolling) -> None:
    """Listing, reading, patching, writing Events."""
    workloads = Reader(api).workloads
    body = b'{"message": "User \\"me\\" cannot patch resource \\"x\\", cannot create resource"}'
    api.faults.append(lambda _: Fault(403, body=body))
    stored = api.stored(DEPLOYMENT, "web-0")
    rules = {
        "list": lambda: list(workloads.pages(DEPLOYMENT)),
        "get": lambda: workloads.get(DEPLOYMENT, "shop", "web-0"),
        "patch": lambda: workloads.patch(DEPLOYMENT, "shop", "web-0", [], "1", "me"),
    }
    for verb, ask in rules.items():
        with pytest.raises(MissingRightError) as caught:
            ask()
        rule = f'needs: apiGroups ["apps"], resources [deployments], verbs [{verb}]'
        assert str(caught.value).endswith(rule)
    with pytest.raises(MissingRightError, match=r'\["events.k8s.io"\], resources \[events\]'):
        workloads.event(DEPLOYMENT, stored, manager="m", action="A", reason="R", note="n")
    with pytest.raises(MissingRightError, match=r'\[""\], resources \[namespaces\], verbs \[list'):
        list(workloads.namespaces())
    with pytest.raises(MissingRightError, match="poddisruptionbudgets"):
        workloads.pod_disruption_budgets("shop")


@pytest.mark.parametrize("allowed", [True, False])
def test_a_kind_that_is_not_served_has_no_workloads(api: Rolling, *, allowed: bool) -> None:
    """Argo Rollouts is not installed; nor does anybody grant a right to list its kind then."""
    api.served.discard(ROLLOUT)
    if not allowed:
        api.forbidden.add("rollouts")
    assert list(Reader(api).workloads.pages(ROLLOUT)) == []


def test_a_right_to_list_a_kind_that_is_served_is_missed(api: Rolling) -> None:
    """Its workloads would be passed over without a word."""
    api.forbidden.add("rollouts")
    with pytest.raises(MissingRightError, match=r"argoproj.io.*rollouts"):
        list(Reader(api).workloads.pages(ROLLOUT))


def test_a_patch_is_refused_where_the_workload_is_another_by_now(api: Rolling) -> None:
    """Told by the status of a conflict, though the API server tells it as an invalid patch."""
    workloads = Reader(api).workloads
    stored = api.stored(DEPLOYMENT, "web-0")
    version = stored["metadata"]["resourceVersion"]
    operations = [{"op": "add", "path": "/spec/minReadySeconds", "value": 3}]
    done = workloads.patch(DEPLOYMENT, "shop", "web-0", operations, version, "me")
    assert done["spec"]["minReadySeconds"] == 3
    assert api.patches == [("web-0", "me", operations)]
    with pytest.raises(ApiError) as caught:
        workloads.patch(DEPLOYMENT, "shop", "web-0", operations, version, "me")
    assert caught.value.status == 409
    bad = [{"op": "remove", "path": "/spec/nothing"}]
    api.faults.append(lambda ask: Fault(422) if ask.method == "PATCH" else None)
    with pytest.raises(ApiError) as caught:
        workloads.patch(DEPLOYMENT, "shop", "web-0", bad, done["metadata"]["resourceVersion"], "me")
    assert caught.value.status == 422


def test_an_event_that_was_written_though_its_answer_was_lost_is_no_error(api: Rolling) -> None:
    """The second try finds it there: its name is its own."""
    workloads = Reader(api).workloads
    stored = api.stored(DEPLOYMENT, "web-0")
    api.faults.append(once(Fault(409)))
    workloads.event(
        DEPLOYMENT, stored, manager="m", action="A", reason="R", note="x" * 5000, warning=True
    )
    workloads.event(DEPLOYMENT, stored, manager="m", action="A", reason="R", note="x" * 5000)
    (event,) = api.events_written
    assert len(event["note"]) == 1024
    assert event["eventTime"].endswith("Z")
    assert event["type"] == "Normal"


# --- the webhook that is installed ---------------------------------------------------------------


def test_the_configuration_is_read_where_the_webhook_runs(api: Rolling) -> None:
    """The ConfigMap of its name, in the namespace of its Service."""
    workloads = Reader(api).workloads
    assert installed.installed(workloads) == installed.Installed()
    api.install({"scope": "cluster"})
    found = installed.installed(workloads)
    assert found == installed.Installed(Configuration(scope="cluster"), "seamless", present=True)
    given = Configuration(mode="audit")
    assert installed.installed(workloads, None, given).configuration == given
    assert installed.installed(workloads, "webhook") == found


def test_a_configuration_that_is_not_there_or_broken_is_told(api: Rolling) -> None:
    """None, or an error that names the ConfigMap."""
    workloads = Reader(api).workloads
    api.install({"scope": "everything"}, calls=False)
    with pytest.raises(ClusterError, match=r"ConfigMap seamless/webhook, config.yaml: scope"):
        installed.installed(workloads)
    api.delete("/api/v1/namespaces/seamless/configmaps", "webhook")
    found = installed.installed(workloads)
    assert (found.configuration, found.present) == (None, True)


def test_several_webhooks_must_be_told_apart(api: Rolling) -> None:
    """The error names them, and the option."""
    api.install({})
    other: Json = dict(api.objects[CONFIGURATIONS]["webhook"])
    api.put(CONFIGURATIONS, "other", other)
    workloads = Reader(api).workloads
    with pytest.raises(ClusterError, match=r"other, webhook: expected --webhook-configuration"):
        installed.installed(workloads)
    assert installed.installed(workloads, "webhook").namespace == "seamless"


def test_a_webhook_that_may_not_be_read_is_an_error_unless_a_configuration_is_given(
    api: Rolling,
) -> None:
    """Then what is missing is told."""
    workloads = Reader(api).workloads
    api.forbidden.add("mutatingwebhookconfigurations")
    with pytest.raises(MissingRightError):
        installed.installed(workloads)
    found = installed.installed(workloads, None, Configuration())
    assert "mutatingwebhookconfigurations" in str(found.unread)


def test_without_a_cluster_in_reach_what_would_be_one_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No option, no environment, no file, no pod."""
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ClusterError, match="no cluster in reach: expected --kubeconfig"):
        installed.reach(None)
