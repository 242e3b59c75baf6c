"""What backfill and revert make of a workload."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.builders import (
    KINDS,
    RECORD,
    Json,
    admission,
    after,
    apply,
    decide,
    deployment,
    forged,
    namespaces,
    settings,
    template_changed,
    worker,
    workload,
)
from tests.decision.apiserver import fill_in
from webhook.decision.admission import DECIDED_AFRESH
from webhook.decision.workload import DEPLOYMENT
from webhook.decision.workload import KINDS as BY_NAME
from webhook.rollout.planners import BACKFILL, MARK, NO_RESTART, REVERT, Backfill, Revert, Verdict

EVERYTHING = admission({"scope": "cluster"}, namespace=namespaces({}))
NOTHING = admission({}, namespace=namespaces({}))


def done(given: Json, verdict: Verdict) -> Json:
    """Give a workload as the whole patch makes it."""
    return apply(copy.deepcopy(given), verdict.operations)


def min_ready(kind: str) -> tuple[str, ...]:
    """Give the setting, inherited but by a DaemonSet: `kindDefaults` spares its nodes the wait."""
    return () if kind == "DaemonSet" else ("min-ready",)


def test_the_field_managers_are_those_that_the_webhook_decides_afresh() -> None:
    """But for the one that is to leave the template alone."""
    assert {BACKFILL, REVERT} == DECIDED_AFRESH
    assert NO_RESTART not in DECIDED_AFRESH


@pytest.mark.parametrize("kind", KINDS)
def test_a_backfill_makes_what_the_webhook_would_have_made(kind: str) -> None:
    """And has nothing to do with it afterwards."""
    given = fill_in(workload(kind))
    judge = Backfill(EVERYTHING)
    verdict = judge.judge(BY_NAME[kind], given)
    assert done(given, verdict) == after(given, by=EVERYTHING)
    assert verdict.restarts
    assert verdict.settings == ("pre-stop-sleep", *min_ready(kind))
    again = judge.judge(BY_NAME[kind], done(given, verdict))
    assert (again.operations, again.done) == ((), True)


@pytest.mark.parametrize(
    "given",
    [
        deployment(worker()),
        deployment(says={"inject": "disabled"}),
        deployment(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}),
        workload("Rollout", workloadRef={"name": "web"}),
        {"spec": {"replicas": "three"}},
    ],
    ids=["worker", "disabled", "deleting", "elsewhere", "malformed"],
)
def test_a_backfill_has_nothing_to_do_with_what_is_out_of_scope(given: Json) -> None:
    """Nor does it put it off."""
    kind = BY_NAME[given.get("kind", "Deployment")]
    verdict = Backfill(EVERYTHING).judge(kind, given)
    assert not verdict.operations
    assert not verdict.put_off


def test_a_withdrawn_opt_in_is_no_backfills_business() -> None:
    """What is injected still is revert's to take out."""
    given = after(deployment(), by=EVERYTHING)
    verdict = Backfill(NOTHING).judge(DEPLOYMENT, given)
    assert (verdict.operations, verdict.put_off) == ((), False)
    assert Revert(NOTHING).judge(DEPLOYMENT, given).operations


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scope", [None, NOTHING])
def test_a_revert_gives_back_what_the_user_wrote(kind: str, scope: Any) -> None:
    """Out of scope, and with no webhook."""
    given = fill_in(workload(kind, says={"precheck": "db:5432"}))
    given["metadata"]["annotations"] = {"team": "a", **given["metadata"]["annotations"]}
    injected = fill_in(after(given, by=EVERYTHING))
    verdict = Revert(scope).judge(BY_NAME[kind], injected)
    assert verdict.restarts
    assert done(injected, verdict) == given
    assert verdict.asked == ()
    assert verdict.settings == ("pre-stop-sleep", *min_ready(kind), "precheck")


@pytest.mark.parametrize(
    "scope",
    [
        admission({"scope": "cluster", "excludedNamespaces": ["shop"]}),
        admission({"scope": "cluster", "exclude": [{"kind": "*", "name": "*"}]}),
        admission({"scope": "cluster", "kinds": ["DaemonSet"]}),
        admission({"scope": "cluster"}, namespace=namespaces({"inject": "disabled"})),
    ],
    ids=["excluded", "excluded workload", "kind", "disabled"],
)
def test_a_revert_reaches_what_the_webhook_no_longer_looks_at(scope: Any) -> None:
    """Excluded since, of a kind that is left out, or in a namespace that says so."""
    given = fill_in(deployment())
    injected = after(given, by=EVERYTHING)
    assert done(injected, Revert(scope).judge(DEPLOYMENT, injected)) == given


def test_what_the_user_has_changed_since_stays() -> None:
    """A revert takes out what is recorded, and no more."""
    injected = after(fill_in(deployment()), by=EVERYTHING)
    edited = template_changed(injected, "terminationGracePeriodSeconds", to=99)
    back = done(edited, Revert(None).judge(DEPLOYMENT, edited))
    assert back == template_changed(fill_in(deployment()), "terminationGracePeriodSeconds", to=99)


@pytest.mark.parametrize("annotations", [None, {}, {"team": "a"}, settings(inject="enabled")])
def test_what_is_in_scope_is_marked_in_the_same_patch(annotations: Json | None) -> None:
    """The webhook then takes out the rest; the whole patch does so by itself."""
    given = fill_in(deployment())
    if annotations is not None:
        given["metadata"]["annotations"] = annotations
    injected = after(given, by=EVERYTHING)
    assert Revert(EVERYTHING).judge(DEPLOYMENT, injected).put_off
    verdict = Revert(EVERYTHING, disable=True).judge(DEPLOYMENT, injected)
    marked = copy.deepcopy(given)
    marked["metadata"]["annotations"] = {**(annotations or {}), MARK: "disabled"}
    assert done(injected, verdict) == marked
    asked = apply(copy.deepcopy(injected), verdict.asked)
    by_webhook = decide(asked, injected, EVERYTHING, options={"fieldManager": REVERT})
    assert apply(asked, by_webhook.operations) == marked
    again = Revert(EVERYTHING, disable=True).judge(DEPLOYMENT, marked)
    assert (again.operations, again.done) == ((), True)


@pytest.mark.parametrize("text", ["nonsense", "{}", forged({"spec.replicas": {"is": 3}})])
def test_a_record_that_names_nothing_goes_and_changes_nothing_else(text: str) -> None:
    """It is broken, or names what the webhook never writes."""
    given = fill_in(deployment(metadata={"annotations": {"team": "a"}}))
    forged_one = copy.deepcopy(given)
    forged_one["metadata"]["annotations"][RECORD] = text
    assert done(forged_one, Revert(None).judge(DEPLOYMENT, forged_one)) == given
    assert not Revert(None).judge(DEPLOYMENT, given).operations
