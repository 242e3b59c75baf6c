"""Settings that come, change, go or are wrong, and hooks of the user's own."""

from __future__ import annotations

import pytest

from tests.builders import (
    EXEC_QUIT,
    HTTP_HOOK,
    NATIVE_30,
    PREFIX,
    canonical,
    container,
    deployment,
    grace,
    hooked,
    hooks,
    record_of,
    template_changed,
    with_settings,
    worker,
)
from tests.e2e.cluster import ENABLED, KubectlError, Shop, until
from tests.e2e.release import Release
from webhook.cluster.client import ApiError

WEB = deployment()
WAYS = ("--server-side=false", "--server-side")
HOOKED = deployment(hooked(EXEC_QUIT))


def test_a_setting_that_acts_on_the_template_restarts_pods(shop: Shop) -> None:
    """The old value is replaced, never added to; none takes it away."""
    shop.create(WEB)
    for sleep, expected in (("10s", 10), ("1m", 60)):
        with shop.watch() as change:
            shop.annotate("deployment/web", pre_stop_sleep=sleep)
        assert change.generations == 1
        assert change.restarts
        assert hooks(change.now) == [{"sleep": {"seconds": expected}}]
        assert grace(change.now) == 30 + expected
    with shop.watch() as change:
        shop.annotate("deployment/web", pre_stop_sleep="none")
    assert change.restarts
    assert hooks(change.now) == [None]
    assert grace(change.now) == 30
    assert change.now["spec"]["minReadySeconds"] == 30


def test_a_setting_outside_the_template_restarts_nothing(shop: Shop) -> None:
    """The generation moves, as the spec does; the pod template does not."""
    shop.create(WEB)
    for text, expected in (("5s", 5), ("2m", 120), ("0", None)):
        with shop.watch() as change:
            shop.annotate("deployment/web", min_ready=text)
        assert change.generations == 1
        assert not change.restarts
        assert change.now["spec"].get("minReadySeconds") == expected


def test_a_setting_that_is_applied_again_changes_nothing(shop: Shop) -> None:
    """On the workload, or on its template."""
    for given in (
        with_settings(WEB, pre_stop_sleep="9s"),
        with_settings(WEB, template=True, pre_stop_sleep="9s"),
    ):
        shop.apply(given, way="--server-side")
        assert hooks(shop.get()) == [{"sleep": {"seconds": 9}}]
        with shop.watch() as change:
            shop.replace(given)
        assert not change.generations


def test_a_setting_on_the_namespace_arrives_with_the_next_rollout(shop: Shop) -> None:
    """Outside the template at the next update; a new workload has it all at once."""
    shop.create(WEB)
    shop.annotate_namespace(pre_stop_sleep="11s", min_ready="12s")
    until(lambda: shop.touched()["spec"]["minReadySeconds"] == 12)
    with shop.watch() as change:
        shop.touch()
    assert change.generations == 1
    assert not change.restarts
    assert hooks(change.now) == [NATIVE_30]
    assert change.now["spec"]["minReadySeconds"] == 12
    with shop.watch() as change:
        shop.kubectl("rollout", "restart", "deployment/web")
    assert hooks(change.now) == [{"sleep": {"seconds": 11}}]
    assert grace(change.now) == 41
    shop.create(WEB | {"metadata": {"name": "new"}})
    assert hooks(shop.get("deployment/new")) == [{"sleep": {"seconds": 11}}]


def test_an_inherited_setting_is_for_what_serves(shop: Shop) -> None:
    """A worker without a port or probe stays as it was written, unless it says so itself."""
    shop.create(deployment(worker()))
    assert hooks(shop.get()) == [None]
    assert "minReadySeconds" not in shop.get()["spec"]
    with shop.watch() as change:
        shop.annotate("deployment/web", pre_stop_sleep="5s")
    assert change.restarts
    assert hooks(change.now) == [{"sleep": {"seconds": 5}}]


# --- hooks of the user's own ---------------------------------------------------------------------


@pytest.mark.parametrize("hook", [EXEC_QUIT, {"sleep": {"seconds": 5}}])
def test_an_existing_hook_is_kept(shop: Shop, hook: object) -> None:
    """The sleep of a user's own is covered by the grace period only where we inject one."""
    given = deployment(hooked(hook))
    shop.create(given)
    assert hooks(shop.get()) == [hook]
    assert grace(shop.get()) == 30
    assert shop.get()["spec"]["minReadySeconds"] == 30
    with shop.watch() as change:
        shop.replace(given)
    assert not change.generations


def test_an_existing_exec_hook_is_chained_where_that_is_asked(shop: Shop) -> None:
    """With its arguments intact, and put back when it is asked no more."""
    chained = with_settings(HOOKED, pre_stop_existing="chain", pre_stop_sleep="7s")
    said = shop.create(chained)
    assert any("needs sh" in each for each in said.warnings)
    (hook,) = hooks(shop.get())
    assert hook is not None
    command = hook["exec"]["command"]
    assert command[-3:] == EXEC_QUIT["exec"]["command"]
    assert "sleep 7" in command[2]
    assert grace(shop.get()) == 37
    with shop.watch() as change:
        shop.replace(chained)
    assert not change.generations
    with shop.watch() as change:
        shop.annotate("deployment/web", pre_stop_existing=None)
    assert hooks(change.now) == [EXEC_QUIT]


def test_another_handler_is_kept_with_a_warning_where_chaining_is_asked(shop: Shop) -> None:
    """The API server has filled in parts of it by then."""
    said = shop.apply(with_settings(deployment(hooked(HTTP_HOOK)), pre_stop_existing="chain"))
    assert any("only exec can be chained" in each for each in said.warnings)
    (hook,) = hooks(shop.get())
    assert hook is not None
    assert hook["httpGet"]["path"] == "/drain"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("hook", [EXEC_QUIT, {"sleep": {"seconds": 3}}])
def test_a_user_who_adds_a_hook_gets_theirs(shop: Shop, way: str, hook: dict[str, object]) -> None:
    """A merge puts it beside ours, or into it; the API server would refuse two handlers.

    Beside a hook of their own the grace period is what they gave.
    """
    shop.apply(WEB, way=way)
    theirs = deployment(hooked(hook))
    with shop.watch() as change:
        shop.apply(theirs, way=way)
    assert change.generations == 1
    assert change.restarts
    assert hooks(change.now) == [hook]
    assert grace(change.now) == 30
    with shop.watch() as change:
        shop.apply(WEB, way=way)
    assert change.generations == 1
    assert hooks(change.now) == [NATIVE_30]
    assert grace(change.now) == 60


@pytest.mark.parametrize("way", WAYS)
def test_a_renamed_container_is_treated_under_its_new_name(shop: Shop, way: str) -> None:
    """And the one that has gone leaves nothing behind."""
    shop.apply(WEB, way=way)
    with shop.watch() as change:
        shop.apply(deployment(container("api")), way=way)
    assert change.generations == 1
    assert hooks(change.now) == [NATIVE_30]
    record = record_of(change.now, template=True)
    assert record is not None
    assert not any("[app]" in each for each in record["fields"])


@pytest.mark.parametrize("way", WAYS)
def test_a_template_that_loses_its_last_annotation_does_not_lose_its_record(
    shop: Shop, way: str
) -> None:
    """A client-side merge then drops all annotations of the template, the record among them."""
    annotated = with_settings(WEB, template=True, pre_stop_sleep="9s")
    shop.apply(annotated, way=way)
    assert hooks(shop.get()) == [{"sleep": {"seconds": 9}}]
    with shop.watch() as change:
        shop.apply(WEB, way=way)
    assert change.generations == 1
    assert hooks(change.now) == [NATIVE_30]
    assert grace(change.now) == 60
    shop.annotate("deployment/web", inject="disabled")
    assert hooks(shop.get()) == [None]
    assert grace(shop.get()) == 30


# --- bad settings, and warnings ------------------------------------------------------------------


def test_a_bad_setting_is_refused_and_the_message_says_why(shop: Shop) -> None:
    """Which one, what it was, what is expected; code 422, and nothing is stored."""
    bad = with_settings(WEB, pre_stop_sleep="soon")
    with pytest.raises(KubectlError) as caught:
        shop.apply(bad)
    text = str(caught.value)
    assert 'admission webhook "in-scope.seamless-rollouts.dev" denied the request' in text
    for part in (PREFIX + "pre-stop-sleep", "soon", "30s"):
        assert part in text
    assert shop.find("deployment/web") is None
    path = f"/apis/apps/v1/namespaces/{shop.name}/deployments"
    with pytest.raises(ApiError) as refused:
        shop.cluster.api.request("POST", path, body=shop.own(bad))
    assert refused.value.status == 422


@pytest.mark.parametrize(
    "bad", [{"pre-stop-slep": "3s"}, {"inject": "yes"}, {"min-ready": "2h"}], ids=str
)
def test_a_bad_setting_does_not_come_by_an_update(shop: Shop, bad: dict[str, str]) -> None:
    """What is stored stays."""
    shop.create(WEB)
    with shop.watch() as change, pytest.raises(KubectlError, match="denied the request"):
        shop.annotate("deployment/web", **bad)
    assert change.nothing


def test_a_bad_setting_that_was_there_before_is_skipped_with_a_warning(release: Release) -> None:
    """It came while nobody asked us: no update is refused for it, and the next layer holds."""
    shop = release.cluster.shop({})
    shop.create(with_settings(WEB, pre_stop_sleep="soon"))
    assert hooks(shop.get()) == [None]
    shop.label_namespace(inject="enabled")
    until(lambda: "minReadySeconds" in shop.touched()["spec"])
    with shop.watch() as change:
        said = shop.kubectl("rollout", "restart", "deployment/web")
    assert change.generations == 1
    assert any("pre-stop-sleep" in each and "soon" in each for each in said.warnings)
    assert hooks(change.now) == [NATIVE_30]
    with pytest.raises(KubectlError, match="denied the request"):
        shop.annotate("deployment/web", pre_stop_sleep="later")


def test_a_bad_setting_on_a_namespace_refuses_nothing(release: Release) -> None:
    """The next layer holds, and a warning tells of it."""
    shop = release.cluster.shop(annotations={PREFIX + "pre-stop-sleep": "soon"})
    said = shop.create(WEB)
    assert any("pre-stop-sleep" in each and "soon" in each for each in said.warnings)
    assert hooks(shop.get()) == [NATIVE_30]


def test_a_bad_setting_out_of_scope_is_nobodys_business(release: Release) -> None:
    """Neither in a namespace that is not selected, nor where the workload says disabled.

    The latter is sent where its namespace is in scope, and then draws a warning.
    """
    bad = with_settings(WEB, pre_stop_sleep="soon")
    assert not release.cluster.shop({}).create(bad).warnings
    said = release.cluster.shop(ENABLED).create(with_settings(bad, inject="disabled"))
    assert len(said.warnings) == 1
    assert "pre-stop-sleep" in said.warnings[0]


def test_warnings_reach_the_user(shop: Shop) -> None:
    """What no patch can mend, each in a line of at most 120 characters."""
    alarming = deployment(
        container(readinessProbe=None), strategy={"type": "Recreate", "rollingUpdate": None}
    )
    said = shop.apply(alarming)
    assert len(said.warnings) == 2
    for each, part in zip(sorted(said.warnings), ("no readiness probe", "Recreate"), strict=True):
        assert each.startswith("seamless-rollouts: ")
        assert part in each
        assert len(each) <= 120
    assert hooks(shop.get()) == [None]  # on Recreate a sleep would only lengthen the outage
    assert shop.get()["spec"]["minReadySeconds"] == 30


def test_a_deployment_without_fault_draws_no_warning(shop: Shop) -> None:
    """Silence where there is nothing to say."""
    assert not shop.apply(WEB).warnings


def test_what_the_user_writes_survives(shop: Shop) -> None:
    """Opting out gives what a cluster without us would have stored, to the letter."""
    given = deployment(
        container(env=[{"name": "A", "value": "1"}]),
        hooked(EXEC_QUIT, "second", ports=None),
        pod={"terminationGracePeriodSeconds": 17},
        minReadySeconds=3,
        metadata={"annotations": {"who": "me"}},
    )
    given = template_changed(given, "containers", 0, "lifecycle", to={"postStart": HTTP_HOOK})
    plain = shop.cluster.shop({})
    out = with_settings(given, inject="disabled")
    plain.create(out)
    shop.create(with_settings(given, readiness_gates="cloud.google.com/x", precheck="db:1"))
    assert hooks(shop.get()) == [NATIVE_30, EXEC_QUIT]
    shop.replace(out)
    assert canonical(shop.get()["spec"]) == canonical(plain.get()["spec"])
    assert shop.get()["metadata"]["annotations"] == plain.get()["metadata"]["annotations"]
