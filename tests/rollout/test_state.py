"""Where a workload stands: each state, and each edge between two."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest

from tests.builders import (
    KINDS,
    PREFIX,
    RECORD,
    Json,
    admission,
    after,
    canonical,
    changed,
    deployment,
    forged,
    hooked,
    namespaces,
    template_changed,
    with_settings,
    worker,
    workload,
)
from webhook.decision import workload as kinds
from webhook.decision.admission import Admission
from webhook.decision.mutations.model import ServerVersion
from webhook.rollout.state import STATES, WorkloadState, workload_state

NOBODY = namespaces({})
"""Every namespace is known, and says nothing."""


def cluster_scope(configuration: Json | None = None, **more: Any) -> Admission:
    """Give a webhook that patches everything."""
    return admission({"scope": "cluster", **(configuration or {})}, namespace=NOBODY, **more)


EVERYTHING = cluster_scope()
OPT_IN = admission(namespace=NOBODY)


def stands(given: Json, by: Admission = EVERYTHING) -> WorkloadState:
    """Tell where a workload stands, and see that it was left as it was."""
    before = canonical(given)
    found = workload_state(by, kinds.KINDS[given.get("kind", "Deployment")], given)
    assert canonical(given) == before
    assert found.state in STATES
    assert "\n" not in found.reason
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_never_passed_the_webhook_is_unpatched(kind: str) -> None:
    """The reason names what it would get, and that its pods would restart."""
    found = stands(workload(kind))
    assert found.state == "unpatched"
    settings = ("pre-stop-sleep",) if kind == "DaemonSet" else ("pre-stop-sleep", "min-ready")
    assert found.reason == f"would get {', '.join(settings)}; pods would restart"
    assert found.changes == found.decision.applied == settings
    assert found.decision.operations
    assert not found.injected


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_passed_the_webhook_is_patched(kind: str) -> None:
    """Nothing is left to change."""
    found = stands(after(workload(kind), by=EVERYTHING))
    assert found.state == "patched"
    more = "" if kind == "DaemonSet" else ", min-ready"
    assert found.reason == f"has pre-stop-sleep{more}"
    assert found.injected
    assert not found.decision.operations
    assert not found.changes


@pytest.mark.parametrize(
    ("defaults", "changes", "restart"),
    [
        ({"min-ready": "10s"}, ("min-ready",), "no pod would restart"),
        ({"pre-stop-sleep": "10s"}, ("pre-stop-sleep",), "pods would restart"),
        ({"precheck": "db:5432"}, ("precheck",), "pods would restart"),
        (
            {"pre-stop-sleep": "none", "min-ready": "10s"},
            ("pre-stop-sleep", "min-ready"),
            "pods would restart",
        ),
    ],
)
def test_what_was_injected_by_older_settings_is_stale(
    defaults: Json, changes: tuple[str, ...], restart: str
) -> None:
    """The reason names the settings, in the order of the docs, and what pods would do."""
    found = stands(after(deployment(), by=EVERYTHING), cluster_scope({"defaults": defaults}))
    assert found.state == "stale"
    assert found.reason == f"would change {', '.join(changes)}; {restart}"
    assert found.changes == changes
    assert found.injected


def test_a_precheck_container_of_an_older_image_is_stale() -> None:
    """A record does not hold what is in a whole container, so it is compared itself."""
    old = cluster_scope({"defaults": {"precheck": "db:5432"}, "precheck": {"image": "check:1"}})
    new = cluster_scope({"defaults": {"precheck": "db:5432"}, "precheck": {"image": "check:2"}})
    patched = after(deployment(), by=old)
    assert stands(patched, old).state == "patched"
    assert stands(patched, new).changes == ("precheck",)


def test_a_value_that_its_user_has_changed_is_stale_until_the_record_knows() -> None:
    """The value is theirs now, and leaves the record at the next update."""
    patched = after(deployment(), by=EVERYTHING)
    found = stands(changed(patched, "spec", "minReadySeconds", to=90))
    assert (found.state, found.changes) == ("stale", ("min-ready",))
    assert not found.decision.restarts


def test_what_bears_injections_that_nothing_asks_for_any_more_is_stale() -> None:
    """It is in scope, so what is injected is what its settings say: nothing."""
    none = cluster_scope({"defaults": {"pre-stop-sleep": "none", "min-ready": "none"}})
    found = stands(after(deployment(), by=EVERYTHING), none)
    assert (found.state, found.changes) == ("stale", ("pre-stop-sleep", "min-ready"))
    assert not found.decision.applied


@pytest.mark.parametrize("record", ["[]", forged({"spec.replicas": {"is": 3}}), forged({})])
def test_a_record_that_is_none_of_ours_is_put_right_and_so_stale(record: str) -> None:
    """It names no setting: the reason names what would be written."""
    given = changed(
        deployment(says={"pre-stop-sleep": "0", "min-ready": "0"}),
        "metadata",
        "annotations",
        RECORD,
        to=record,
    )
    found = stands(given)
    assert found.state == "stale"
    assert "/metadata/annotations" in found.reason
    assert not found.changes


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (deployment(worker()), "does not serve traffic, and has no settings of its own"),
        (
            deployment(hooked({"sleep": {"seconds": 5}}), minReadySeconds=60),
            "nothing to inject: it has its own, or its settings are off",
        ),
        (
            deployment(says={"pre-stop-sleep": "none", "min-ready": "none"}),
            "nothing to inject: it has its own, or its settings are off",
        ),
    ],
)
def test_what_would_get_nothing_is_out_of_scope_and_not_unpatched(given: Json, reason: str) -> None:
    """A backfill could not bring it in: `--fail-on unpatched` must not wait for it."""
    found = stands(given)
    assert (found.state, found.reason) == ("out-of-scope", reason)
    assert not found.decision.operations


@pytest.mark.parametrize(
    ("given", "who"),
    [
        (deployment(says={"inject": "disabled"}), "the workload"),
        (deployment(labels={"inject": "disabled"}), "the workload"),
        (deployment(template_says={"inject": "disabled"}), "its pod template"),
        (deployment(template_labels={"inject": "disabled"}), "its pod template"),
    ],
)
def test_what_says_disabled_has_opted_out(given: Json, who: str) -> None:
    """The reason tells where that stands."""
    found = stands(given)
    assert (found.state, found.reason) == ("opted-out", f"inject: disabled on {who}")


def test_a_namespace_opts_out_all_that_do_not_say_otherwise() -> None:
    """The nearest word counts."""
    by = admission({"scope": "cluster"}, namespace=namespaces({"inject": "disabled"}))
    found = stands(deployment(), by)
    assert (found.state, found.reason) == ("opted-out", "inject: disabled on its namespace")
    assert stands(deployment(says={"inject": "enabled"}), by).state == "unpatched"


def test_nothing_is_in_scope_until_it_or_its_namespace_opts_in() -> None:
    """The default scope."""
    found = stands(deployment(), OPT_IN)
    assert found.state == "out-of-scope"
    assert found.reason == "neither it nor its namespace says inject: enabled"
    assert stands(deployment(says={"inject": "enabled"}), OPT_IN).state == "unpatched"
    assert stands(deployment(), admission(namespace=namespaces())).state == "unpatched"


@pytest.mark.parametrize(
    ("given", "by", "state"),
    [
        (with_settings(after(deployment(), by=EVERYTHING), inject="disabled"), None, "opted-out"),
        (after(deployment(), by=EVERYTHING), OPT_IN, "out-of-scope"),
    ],
)
def test_what_is_out_but_still_injected_says_so(
    given: Json, by: Admission | None, state: str
) -> None:
    """The opt-in was withdrawn, and there has been no rollout since."""
    found = stands(given, by or EVERYTHING)
    assert found.state == state
    assert found.reason.endswith(
        "; still injected: leaves with the next rollout, or by seamless revert"
    )
    assert found.injected
    assert found.changes == ("pre-stop-sleep", "min-ready")
    assert found.decision.operations


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"configuration": {"excludedNamespaces": ["shop"]}}, "its namespace is excluded"),
        ({"own_namespace": "shop"}, "its namespace is excluded"),
        ({"configuration": {"excludedNamespaces": ["sh*"]}}, "its namespace is excluded"),
        ({"configuration": {"exclude": [{"name": "*"}]}}, "the configuration excludes it"),
        ({"configuration": {"kinds": ["DaemonSet"]}}, "the configuration leaves its kind out"),
    ],
)
def test_where_the_webhook_never_comes_only_a_revert_takes_injections_out(
    more: Json, reason: str
) -> None:
    """Its namespace or kind was excluded after it had been patched."""
    by = cluster_scope(**more)
    plain = stands(deployment(), by)
    assert (plain.state, plain.reason) == ("out-of-scope", reason)
    left = stands(after(deployment(), by=EVERYTHING), by)
    assert left.state == "out-of-scope"
    assert left.reason == f"{reason}; still injected: seamless revert takes it out"
    assert left.injected


@pytest.mark.parametrize("name", ["kube-system", "kube-public", "kube-node-lease"])
def test_the_clusters_own_namespaces_are_out_of_scope(name: str) -> None:
    """Whatever is set."""
    given = deployment(metadata={"namespace": name}, says={"inject": "enabled"})
    assert stands(given).reason == "its namespace is excluded"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            deployment(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}),
            "it is being deleted",
        ),
        (
            workload("Rollout", workloadRef={"kind": "Deployment", "name": "web"}, template=None),
            "the Deployment of its workloadRef is patched instead",
        ),
        (
            {"metadata": {"name": "web", "namespace": "shop"}, "spec": []},
            "nothing is patched: spec is not a mapping",
        ),
        (
            template_changed(deployment(), "containers", to=[]),
            "nothing is patched: it has no containers",
        ),
    ],
)
def test_what_the_webhook_leaves_alone_is_out_of_scope(given: Json, reason: str) -> None:
    """With the reason."""
    found = stands(given)
    assert (found.state, found.reason) == ("out-of-scope", reason)


@pytest.mark.parametrize("template", [False, True])
@pytest.mark.parametrize("patched", [False, True])
def test_a_setting_that_would_be_refused_today_makes_it_refused(
    *, template: bool, patched: bool
) -> None:
    """An update skips what was there before; whoever creates it anew will be refused."""
    given = after(deployment(), by=EVERYTHING) if patched else deployment()
    given = with_settings(given, template=template, min_ready="soon")
    found = stands(given)
    assert found.state == "refused"
    assert found.reason.startswith("would be refused if it were created: ")
    assert f'metadata.annotations["{PREFIX}min-ready"]: "soon": ' in found.reason
    until_then = "patched" if patched else "unpatched"
    assert found.reason.endswith(f"; until then {until_then} without it")
    assert found.injected is patched
    assert not found.decision.refused


def test_very_many_bad_settings_are_told_in_few_words() -> None:
    """The first five."""
    found = stands(deployment(says={f"wrong-{number}": "1" for number in range(40)}))
    assert found.state == "refused"
    assert "; and 35 more; until then" in found.reason


@pytest.mark.parametrize("mode", ["patch", "audit"])
def test_where_nothing_is_ever_refused_a_bad_setting_is_only_skipped(mode: str) -> None:
    """By the configuration."""
    by = cluster_scope({"mode": mode, "invalidSettings": "warn"})
    assert stands(with_settings(deployment(), min_ready="soon"), by).state == "unpatched"


def test_a_bad_setting_out_of_scope_is_nobodys_matter() -> None:
    """The webhook does not refuse it, either."""
    assert stands(with_settings(deployment(), min_ready="soon"), OPT_IN).state == "out-of-scope"
    disabled = deployment(says={"inject": "disabled", "min-ready": "soon"})
    assert stands(disabled).state == "opted-out"


def test_a_bad_setting_of_the_namespace_refuses_nobody() -> None:
    """It is inherited: the next layer holds."""
    by = admission({"scope": "cluster"}, namespace=namespaces({}, min_ready="soon"))
    assert stands(deployment(), by).state == "unpatched"


def test_in_audit_mode_states_are_what_patch_mode_would_make_of_it() -> None:
    """And the reason says that it is audit mode."""
    by = cluster_scope({"mode": "audit", "defaults": {"min-ready": "10s"}})
    assert stands(deployment(), by).reason == (
        "audit mode: would get pre-stop-sleep, min-ready; pods would restart"
    )
    stale = stands(after(deployment(), by=EVERYTHING), by)
    assert stale.state == "stale"
    assert stale.reason.startswith("audit mode: would change min-ready")
    bad = stands(with_settings(deployment(), min_ready="soon"), by)
    assert bad.state == "refused"
    assert bad.reason.startswith("audit mode: would be refused if it were created: metadata.")


def test_annotations_without_room_for_a_record_leave_it_unpatched() -> None:
    """It is not protected, which is what whoever asks wants to know."""
    full = {"metadata": {"labels": {"app": "web"}, "annotations": {"example.com/a": "x" * 262_000}}}
    given = deployment()
    given["spec"]["template"].update(full)
    found = stands(given)
    assert found.state == "unpatched"
    assert "no room for its record" in found.reason
    assert not found.changes


def test_what_has_opted_in_by_itself_serves_by_its_own_word() -> None:
    """A worker that says `enabled` gets what is inherited."""
    assert stands(deployment(worker(), says={"inject": "enabled"})).state == "unpatched"


def test_the_api_servers_version_counts() -> None:
    """On an old one the sleep is a command, so a native one is stale there."""
    old = cluster_scope(server=ServerVersion(1, 29))
    assert stands(after(deployment(), by=EVERYTHING), old).changes == ("pre-stop-sleep",)


def test_an_unexpected_error_is_told_and_hurts_nobody_else(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The webhook would let that request pass unpatched."""
    # A command that a test has run here before has hushed it.
    monkeypatch.setattr(logging.getLogger("webhook"), "propagate", True)
    by = cluster_scope()
    by.namespaces = lambda name: 1 // 0 if name else None
    with caplog.at_level(logging.ERROR, "webhook"):
        found = workload_state(by, kinds.DEPLOYMENT, deployment())
    assert found.state == "unpatched"
    assert found.decision.skipped == "error"
    assert "unexpected error (ZeroDivisionError)" in found.reason
    assert "ZeroDivisionError" in caplog.text


def test_what_is_nested_too_deeply_is_out_of_scope() -> None:
    """As the webhook answers it."""
    by = cluster_scope()

    def too_deep(_name: str) -> None:
        raise RecursionError

    by.namespaces = too_deep
    found = workload_state(by, kinds.DEPLOYMENT, deployment())
    assert (found.state, found.reason) == ("out-of-scope", "it is nested too deeply")


def test_a_record_in_other_words_alone_restarts_nobody() -> None:
    """Another annotation came in past the webhook: the record would no longer say `made`."""
    given = with_settings(after(deployment(), by=EVERYTHING), template=True, min_ready="30s")
    found = stands(given)
    assert found.decision.operations
    assert (found.state, found.reason) == ("patched", "has pre-stop-sleep, min-ready")


def test_a_workload_is_decided_as_a_backfill_would_and_never_kept() -> None:
    """The pod template would move: that is what a backfill is for."""
    found = stands(copy.deepcopy(deployment()))
    assert not found.decision.kept
    assert found.decision.restarts
