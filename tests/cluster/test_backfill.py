"""Backfill and revert against an API server that fails on command."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, time
from typing import Any

import pytest

from tests.builders import RECORD, Json, changed, deployment, record_of, template_of, workload
from tests.cluster.fake_api import NAMESPACES, Fault, Request, once
from tests.cluster.rolling import Rolling, Ticks, bare
from webhook import VERSION
from webhook.cluster.backfill import Care, End, Outcome, Plan, Run, Selection, Stop, Teller, plan
from webhook.cluster.client import Backoff
from webhook.cluster.workloads import Workloads
from webhook.decision.configuration import Configuration, decided_by, digest
from webhook.decision.workload import DAEMON_SET, DEPLOYMENT, ROLLOUT, STATEFUL_SET
from webhook.rollout.planners import Backfill, Judge, Revert
from webhook.rollout.progress import Change, Progress, Window

WHOLE_CLUSTER = {"scope": "cluster"}


class Heard(Teller):
    """What a run has told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def begun(self, change: Change, number: int, total: int) -> None:
        """Note it."""
        self.lines.append(f"begun {change.name} {number}/{total}")

    def moved(self, change: Change, found: Progress) -> None:
        """Note it."""
        self.lines.append(f"moved {change.name}: {found.text}")

    def ended(self, outcome: Outcome) -> None:
        """Note it."""
        self.lines.append(f"{outcome.end} {outcome.change.name}")

    def noted(self, text: str, change: Change | None = None) -> None:
        """Note it."""
        self.lines.append(f"note {change.name}: {text}" if change else f"note {text}")


class Doing:
    """A run, and all that belongs to it."""

    def __init__(self, api: Rolling, judge: Judge, **care: Any) -> None:
        self.api = api
        self.clock = Ticks(api.step)
        self.stop = Stop(self.clock)
        self.heard = Heard()
        self.workloads = Workloads(
            api.api(), page=7, wait=self.stop.wait, backoff=lambda: Backoff(spread=lambda: 0)
        )
        self.judge = judge
        self.run = Run(
            self.workloads,
            judge,
            Care(**{"webhook": api.admission is not None, **care}),
            self.heard,
            clock=self.clock,
            stop=self.stop,
            refresh=lambda _name: None,
        )

    def plan(self, selection: Selection | None = None) -> Plan:
        """Make a plan."""
        return plan(self.workloads, self.judge, selection or Selection())

    def carry_out(self, selection: Selection | None = None) -> dict[str, str]:
        """Plan and do it; gives what became of each, by name."""
        found = self.plan(selection)
        self.run.carry_out(found.groups)
        ended = [*found.put_off, *self.run.outcomes]
        return {each.change.name: f"{each.end}: {each.text}" for each in ended}


@pytest.fixture
def api() -> Iterator[Rolling]:
    """A cluster with one namespace."""
    server = Rolling()
    server.namespace("shop")
    yield server
    server.close()


def backfill(api: Rolling, configuration: Json | None = None, **care: Any) -> Doing:
    """Make a backfill."""
    return Doing(api, Backfill(api.decider(configuration or WHOLE_CLUSTER)), **care)


@pytest.mark.parametrize("webhook", [True, False])
def test_a_backfill_patches_what_is_in_scope_and_awaits_it(api: Rolling, *, webhook: bool) -> None:
    """Through the webhook, which is sent nothing but the wish, and without one."""
    if webhook:
        api.install(WHOLE_CLUSTER)
    for kind in ("Deployment", "StatefulSet", "DaemonSet", "Rollout"):
        api.place(workload(kind), kind.lower())
    doing = backfill(api)
    ended = doing.carry_out()
    assert {name: text.partition(":")[0] for name, text in ended.items()} == dict.fromkeys(
        ("deployment", "statefulset", "daemonset", "rollout"), "done"
    )
    for kind in (DEPLOYMENT, STATEFUL_SET, DAEMON_SET, ROLLOUT):
        stored = api.stored(kind, kind.name.lower())
        assert record_of(stored, template=True)
        assert bool(record_of(stored, template=False)) == (kind is not DAEMON_SET)
    sent = [operations for _, _, operations in api.patches]
    assert all(bool(each) != webhook for each in sent)
    assert {manager for _, manager, _ in api.patches} == {"seamless-backfill"}
    assert api.most_rolling == 1
    assert not doing.plan().changes


# --- what is put off -----------------------------------------------------------------------------

PUT_OFF: list[tuple[str, Json, Callable[[Rolling], object], str]] = [
    ("paused", deployment(paused=True), lambda _: None, "it is paused"),
    (
        "on-delete",
        workload("StatefulSet", updateStrategy={"type": "OnDelete"}),
        lambda _: None,
        "OnDelete",
    ),
    (
        "rolling",
        deployment(),
        lambda api: api.stored(DEPLOYMENT, "rolling")["status"].update(updatedReplicas=1),
        "rolling, or unhealthy, already: 1 of 3 pods are new",
    ),
    (
        "unhealthy",
        workload("Rollout"),
        lambda api: api.stored(ROLLOUT, "unhealthy")["status"].update(phase="Degraded"),
        "unhealthy already: its phase is Degraded",
    ),
    (
        "guarded",
        deployment(),
        lambda api: api.budget("none-to-spare", 0, matchLabels={"app": "web"}),
        "PodDisruptionBudget none-to-spare allows no disruption now",
    ),
    ("refused", deployment(says={"min-ready": "soon"}), lambda _: None, "would be refused"),
]


@pytest.mark.parametrize(("name", "given", "spoil", "reason"), PUT_OFF, ids=lambda x: str(x)[:9])
def test_what_is_no_moment_for_a_change_is_put_off(
    api: Rolling, name: str, given: Json, spoil: Callable[[Rolling], object], reason: str
) -> None:
    """It is told, never forced, and holds nothing else up."""
    api.place(given, name)
    api.place(changed(deployment(), "spec", "template", "metadata", "labels", "app", to="x"), "ok")
    spoil(api)
    ended = backfill(api).carry_out()
    assert ended.pop("ok").startswith("done")
    assert ended[name].startswith("put off: ")
    assert reason in ended[name]
    assert [name for name, _, _ in api.patches] == ["ok"]


def test_what_has_become_no_moment_for_a_change_is_put_off_when_its_turn_comes(
    api: Rolling,
) -> None:
    """The plan may be hours old."""
    api.place(deployment(), "a")
    api.place(deployment(), "b")
    doing = backfill(api)
    found = doing.plan()
    api.stored(DEPLOYMENT, "b")["spec"]["paused"] = True
    api.stored(DEPLOYMENT, "a")["metadata"]["annotations"] = {
        "seamless-rollouts.dev/inject": "disabled"
    }
    doing.run.carry_out(found.groups)
    assert [str(each.end) for each in doing.run.outcomes] == ["unchanged", "put off"]


@pytest.mark.parametrize(
    ("selector", "allowed", "held"),
    [
        ({"matchLabels": {"app": "other"}}, 0, False),
        ({"matchLabels": {"app": "web"}}, 1, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]}, 0, True),
        ({}, 0, True),
    ],
)
def test_a_budget_counts_where_it_selects_the_pods(
    api: Rolling, selector: Json, allowed: int, *, held: bool
) -> None:
    """By the labels of the pod template; an empty selector selects every pod."""
    api.place(deployment(), "web")
    api.budget("budget", allowed, **selector)
    found = backfill(api).plan()
    assert bool(found.put_off) == held
    assert bool(found.changes) != held


# --- what goes wrong -----------------------------------------------------------------------------


def test_the_first_rollout_that_fails_ends_the_run(api: Rolling) -> None:
    """Nothing more is begun, and running again goes on with the others."""
    for name in "abc":
        api.place(deployment(), name)
    api.failing.add("b")
    doing = backfill(api)
    ended = doing.carry_out()
    assert ended["a"].startswith("done")
    assert ended["b"] == "failed: its progress deadline has passed: too late"
    assert doing.run.not_begun == 1
    again = backfill(api)
    ended = again.carry_out()
    # It is patched: nothing is left to do with it, but it is not well.
    assert ended.pop("b").startswith(
        "put off: nothing is left to do with it, but it is unhealthy: its progress deadline"
    )
    assert {name: text[:4] for name, text in ended.items()} == {"c": "done"}


def test_those_under_way_are_awaited_where_one_fails(api: Rolling) -> None:
    """Two at a time: the other one comes to its end."""
    for name in "abcd":
        api.place(deployment(replicas=5), name)
    api.failing.add("a")
    doing = backfill(api, concurrent=2)
    ended = doing.carry_out()
    assert (ended["a"][:6], ended["b"][:4]) == ("failed", "done")
    assert doing.run.not_begun == 2


def test_a_rollout_without_a_step_ahead_fails_in_the_time_that_its_settings_give(
    api: Rolling,
) -> None:
    """The deadline, the grace period after the change, and a minute."""
    api.place(deployment(progressDeadlineSeconds=100), "web")
    api.stuck.add("web")
    doing = backfill(api)
    ended = doing.carry_out()
    assert ended["web"] == "failed: no step ahead in 3m40s: 0 of 3 pods are new"
    assert 220 < doing.clock.passed < 230


def test_a_slow_rollout_that_moves_on_is_waited_for(api: Rolling) -> None:
    """Fifty pods, each of which takes a minute, where ten without any would be too long."""
    api.place(workload("StatefulSet", replicas=50), "db")
    doing = backfill(api, poll=60)
    assert doing.carry_out()["db"].startswith("done")
    assert doing.clock.passed > 50 * 60


def test_a_conflict_is_decided_anew(api: Rolling) -> None:
    """Somebody else has written in between: their change stays, and ours is made for it."""
    api.place(deployment(), "web")

    def edit(_name: str) -> None:
        api.before_patch.clear()
        stored = copy.deepcopy(api.stored(DEPLOYMENT, "web"))
        stored["metadata"]["annotations"] = {"seamless-rollouts.dev/min-ready": "7s"}
        api.put(api.collection(DEPLOYMENT), "web", stored)

    api.before_patch.append(edit)
    assert backfill(api).carry_out()["web"].startswith("done")
    assert api.stored(DEPLOYMENT, "web")["spec"]["minReadySeconds"] == 7
    assert len(api.patches) == 1


def test_conflicts_without_end_are_put_off(api: Rolling) -> None:
    """As with a controller that fights: five times, and it goes on with the others."""
    api.place(deployment(), "a")
    api.place(deployment(), "b")

    def edit(name: str) -> None:
        if name == "a":
            api.put(api.collection(DEPLOYMENT), "a", api.stored(DEPLOYMENT, "a"))

    api.before_patch.append(edit)
    ended = backfill(api).carry_out()
    assert ended["a"] == "put off: others changed it, 5 times in a row"
    assert ended["b"].startswith("done")


@pytest.mark.parametrize("when", ["planned", "patched", "rolling"])
def test_what_is_deleted_midway_is_passed_over(api: Rolling, when: str) -> None:
    """Before it is read, before it is patched, and while it rolls."""
    api.place(deployment(), "a")
    api.place(deployment(), "b")
    doing = backfill(api)
    found = doing.plan()

    def delete(name: str = "a") -> None:
        if name == "a" and "a" in api.objects[api.collection(DEPLOYMENT)]:
            api.delete(api.collection(DEPLOYMENT), "a")

    if when == "planned":
        delete()
    elif when == "patched":
        api.before_patch.append(delete)
    else:
        api.on_step.append(delete)
    doing.run.carry_out(found.groups)
    assert [str(each.end) for each in doing.run.outcomes] == ["gone", "done"]
    assert not doing.run.failed


def test_a_lost_answer_to_a_patch_is_no_lost_rollout(api: Rolling) -> None:
    """It was applied: the second try finds another version, and the rollout is awaited."""
    api.place(deployment(), "web")
    api.answers_to_lose = 1
    doing = backfill(api)
    assert doing.carry_out()["web"].startswith("done")
    assert len(api.patches) == 1
    assert "begun web 1/1" in doing.heard.lines


def test_throttling_and_lost_connections_are_waited_for(api: Rolling) -> None:
    """As long as the server asks."""
    api.place(deployment(), "web")
    doing = backfill(api)
    found = doing.plan()
    before = doing.clock.passed
    api.faults += [once(Fault(429, {"Retry-After": "20"})), once(Fault(503), times=2)]
    api.faults.append(once(Fault(0), times=2))
    doing.run.carry_out(found.groups)
    assert doing.run.outcomes[0].end is End.DONE
    assert doing.clock.passed - before > 20


def test_no_answer_while_a_rollout_is_under_way_is_waited_out(api: Rolling) -> None:
    """An API server that is away for two minutes ends nothing."""
    api.place(deployment(replicas=6), "web")
    doing = backfill(api)
    found = doing.plan()
    end = 150.0

    def away(request: Request) -> Fault | None:
        begun = "begun web 1/1" in doing.heard.lines
        return (
            Fault(503) if begun and request.method == "GET" and doing.clock.passed < end else None
        )

    api.faults.append(away)
    doing.run.carry_out(found.groups)
    assert doing.run.outcomes[0].end is End.DONE
    assert doing.clock.passed > end


def test_a_change_that_the_api_server_refuses_ends_the_run(api: Rolling) -> None:
    """As a policy does; nothing has been changed, and no right is missing."""
    api.place(deployment(), "a")
    api.place(deployment(), "b")
    body = b'{"message": "admission webhook denied the request: no"}'
    api.faults.append(lambda ask: Fault(403, body=body) if ask.method == "PATCH" else None)
    doing = backfill(api)
    ended = doing.carry_out()
    assert ended["a"].startswith("failed: it could not be changed: PATCH ")
    assert "needs" not in ended["a"]
    assert doing.run.not_begun == 1


def test_a_missing_right_to_patch_is_named_with_its_rule(api: Rolling) -> None:
    """And nothing more is tried."""
    api.place(deployment(), "a")
    body = b'{"message": "User \\"me\\" cannot patch resource \\"deployments\\" in API group"}'
    api.faults.append(lambda ask: Fault(403, body=body) if ask.method == "PATCH" else None)
    doing = backfill(api)
    doing.carry_out()
    rule = 'needs: apiGroups ["apps"], resources [deployments], verbs [patch]'
    assert rule in str(doing.run.error)
    assert doing.run.not_begun == 1


def test_a_webhook_that_does_not_do_its_part_ends_the_run(api: Rolling) -> None:
    """It is away, under failurePolicy: Ignore; nothing is sent past it."""
    api.install(WHOLE_CLUSTER, calls=False)
    before = copy.deepcopy(api.place(deployment(), "web"))
    ended = backfill(api, webhook=True).carry_out()
    assert ended["web"].startswith("failed: the webhook left it as it was")
    assert api.stored(DEPLOYMENT, "web") == before


def test_a_webhook_that_decides_otherwise_is_told(api: Rolling) -> None:
    """As one of another version; the rollout that it has begun is awaited."""
    api.install({"scope": "cluster", "defaults": {"min-ready": "5s"}})
    api.place(deployment(), "web")
    doing = backfill(api)
    assert doing.carry_out()["web"].startswith("done")
    (told,) = (line for line in doing.heard.lines if line.startswith("note web"))
    assert "differs from what was decided: " in told
    assert "/spec/minReadySeconds" in told


def test_an_argo_rollout_that_waits_for_somebody_is_handed_over(api: Rolling) -> None:
    """It is no failure, and holds nothing up."""
    api.place(workload("Rollout", strategy={"canary": {"steps": [{"pause": {}}]}}), "canary")
    api.place(workload("StatefulSet"), "db")
    api.held.add("canary")
    doing = backfill(api)
    ended = doing.carry_out()
    assert ended["canary"] == "held: it goes on by hand: its phase is Paused"
    assert ended["db"].startswith("done")
    assert not doing.run.failed


def test_a_right_that_is_lost_midway_leaves_what_is_under_way(api: Rolling) -> None:
    """There is nothing to see it by; the error names the right."""
    for name in "ab":
        api.place(deployment(replicas=8), name)
    doing = backfill(api)
    found = doing.plan()
    late = lambda _ask: Fault(403) if doing.clock.passed > 5 else None  # noqa: E731 - one look
    api.faults.append(late)
    doing.run.carry_out(found.groups)
    (left,) = doing.run.outcomes
    assert (left.end, left.text) == (End.LEFT, "1 of 8 pods are new")
    assert "verbs [get]" in str(doing.run.error)
    assert doing.run.not_begun == 1


def test_a_patch_whose_answer_never_came_may_have_been_made(api: Rolling) -> None:
    """It is told as left, when everything is left while it is tried again."""
    api.place(deployment(), "web")
    doing = backfill(api)
    found = doing.plan()
    fault = Fault(503, {"Retry-After": "50"})
    api.faults.append(lambda ask: fault if ask.method == "PATCH" else None)
    api.on_step.append(lambda: doing.stop.ask(leave=True))
    doing.run.carry_out(found.groups)
    (left,) = doing.run.outcomes
    assert (left.end, left.text) == (End.LEFT, "it was asked for, and no answer came")


# --- ending and going on -------------------------------------------------------------------------


def test_ctrl_c_begins_nothing_more_and_awaits_what_is_under_way(api: Rolling) -> None:
    """And says so once."""
    for name in "ab":
        api.place(deployment(replicas=8), name)
    doing = backfill(api)
    api.on_step.append(lambda: doing.stop.asked or doing.stop.ask())
    ended = doing.carry_out()
    assert ended["a"].startswith("done")
    assert doing.run.not_begun == 1
    asked = [line for line in doing.heard.lines if "Ctrl-C again" in line]
    assert asked == ["note nothing more begins; awaiting 1; Ctrl-C again leaves them"]


@pytest.mark.parametrize("webhook", [True, False])
def test_what_was_left_is_awaited_first_by_the_next_run(api: Rolling, *, webhook: bool) -> None:
    """SIGTERM, a second Ctrl-C, or a kill: all state is in the cluster."""
    if webhook:
        api.install(WHOLE_CLUSTER)
    for name in "abc":
        api.place(deployment(replicas=8), name)
    doing = backfill(api)
    api.on_step.append(lambda: doing.stop.ask(leave=True) if doing.clock.passed > 5 else None)
    ended = doing.carry_out()
    assert ended == {"a": "left: 2 of 8 pods are new"}
    assert doing.run.not_begun == 2
    again = backfill(api)
    assert [str(text)[:4] for text in again.carry_out().values()] == ["done"] * 3
    assert again.heard.lines[0] == "begun a 1/3"
    assert [name for name, _, _ in api.patches] == ["a", "b", "c"]
    assert api.most_rolling == 1


def test_what_is_left_in_the_middle_of_a_wait_is_left_at_once(api: Rolling) -> None:
    """As long as the API server asks to wait for a minute."""
    api.place(deployment(), "web")
    doing = backfill(api)
    found = doing.plan()
    api.faults.append(once(Fault(429, {"Retry-After": "60"}), times=100))
    api.on_step.append(lambda: doing.stop.ask(leave=True))
    doing.run.carry_out(found.groups)
    assert doing.clock.passed <= 60
    assert doing.run.not_begun == 1


# --- with care -----------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrent", [1, 3])
def test_no_more_rollouts_are_under_way_than_are_allowed(api: Rolling, concurrent: int) -> None:
    """And as many as are allowed."""
    for index in range(7):
        api.place(deployment(), f"web-{index}")
    doing = backfill(api, concurrent=concurrent)
    assert len(doing.carry_out()) == 7
    assert api.most_rolling == concurrent


def test_a_namespace_begins_when_the_one_before_it_is_done(api: Rolling) -> None:
    """The least risky first: the one without a StatefulSet, though its name comes later."""
    for name in ("bank", "store"):
        api.namespace(name)
        api.place(deployment(), f"{name}-web", name)
    api.place(workload("StatefulSet"), "bank-db", "bank")
    doing = backfill(api, concurrent=5)
    doing.carry_out()
    order = [line.split()[1] for line in doing.heard.lines if line.startswith(("begun", "done"))]
    assert order == ["store-web", "store-web", *order[2:]]
    assert order[2:4] == ["bank-web", "bank-db"]


def test_a_pause_lies_between_two_rollouts(api: Rolling) -> None:
    """From the end of one to the begin of the next."""
    for name in "abc":
        api.place(deployment(), name)
    quick = backfill(api)
    quick.plan()
    doing = backfill(api, pause=120)
    doing.carry_out()
    assert doing.clock.passed >= 240


def test_outside_its_window_nothing_begins(api: Rolling) -> None:
    """It is noon: the first rollout waits until ten, and what is begun is finished after six."""
    api.place(deployment(replicas=60), "a")
    api.place(deployment(replicas=60), "b")
    doing = backfill(api, window=Window(time(22, 0), time(22, 1), UTC))
    begun: list[datetime] = []
    doing.heard.begun = lambda *_: begun.append(doing.clock.now())  # type: ignore[method-assign]
    doing.clock.start = datetime(2026, 3, 2, 21, 55, tzinfo=UTC)
    api.on_step.append(lambda: doing.clock.passed > 3600 and doing.stop.ask())
    ended = doing.carry_out()
    assert ended["a"].startswith("done")
    assert doing.run.not_begun == 1
    assert [each.time().replace(second=0, microsecond=0) for each in begun] == [time(22, 0)]
    assert doing.heard.lines[0] == "note outside the window: nothing begins before 22:00"


def test_without_restarts_only_what_lies_outside_the_template_comes_in(api: Rolling) -> None:
    """Through the webhook too, which keeps the template for this field manager."""
    for webhook in (True, False):
        name = f"web-{webhook}".lower()
        before = copy.deepcopy(api.place(deployment(), name))
        if webhook:
            api.install(WHOLE_CLUSTER)
        judge = Backfill(api.decider(WHOLE_CLUSTER), restart=False)
        doing = Doing(api, judge, webhook=webhook)
        assert doing.carry_out()[name].startswith("done")
        stored = api.stored(DEPLOYMENT, name)
        assert template_of(stored) == template_of(before)
        assert stored["spec"]["minReadySeconds"] == 30
        assert record_of(stored, template=False)
        assert not doing.plan().changes
        api.admission = None
    assert api.most_rolling == 0
    assert {manager for _, manager, _ in api.patches} == {"seamless-backfill-no-restart"}


def test_events_tell_of_each_rollout(api: Rolling) -> None:
    """Its begin and its end, about the workload, by a controller of our own."""
    api.place(deployment(), "web")
    api.place(deployment(), "worse")
    api.failing.add("worse")
    backfill(api).carry_out()
    told = [
        (event["regarding"]["name"], event["reason"], event["type"]) for event in api.events_written
    ]
    assert told == [
        ("web", "BackfillStarted", "Normal"),
        ("web", "BackfillFinished", "Normal"),
        ("worse", "BackfillStarted", "Normal"),
        ("worse", "BackfillFailed", "Warning"),
    ]
    event = api.events_written[0]
    assert event["reportingController"] == "seamless-rollouts.dev/seamless-backfill"
    assert event["regarding"]["uid"] == api.stored(DEPLOYMENT, "web")["metadata"]["uid"]


def test_without_a_right_to_write_events_it_goes_on_and_says_so_once(api: Rolling) -> None:
    """It names the rule."""
    api.place(deployment(), "a")
    api.place(deployment(), "b")
    body = b'{"message": "User \\"me\\" cannot create resource \\"events\\" in API group"}'
    api.faults.append(lambda ask: Fault(403, body=body) if ask.method == "POST" else None)
    doing = backfill(api)
    assert all(text.startswith("done") for text in doing.carry_out().values())
    (told,) = (line for line in doing.heard.lines if "no Events" in line)
    assert 'needs: apiGroups ["events.k8s.io"], resources [events], verbs [create]' in told


# --- revert --------------------------------------------------------------------------------------

KINDS = (DEPLOYMENT, STATEFUL_SET, DAEMON_SET, ROLLOUT)


def injected(api: Rolling, configuration: Json | None = None) -> dict[str, Json]:
    """Place a workload of each kind, bring it in, and give what each was before."""
    for kind in KINDS:
        api.place(workload(kind.name), kind.name.lower())
    before = {name: copy.deepcopy(bare(thing)) for name, thing in _named(api).items()}
    backfill(api, configuration).carry_out()
    assert all(RECORD in str(thing) for thing in _named(api).values())
    api.patches.clear()
    return before


def _named(api: Rolling) -> dict[str, Json]:
    return {name: thing for (_, _, name), thing in api.everything().items()}


def now(api: Rolling) -> dict[str, Json]:
    """Give all workloads without what the API server counts."""
    return {name: bare(thing) for name, thing in _named(api).items()}


def withdraw(api: Rolling) -> None:
    """Take the namespace out of scope."""
    api.put(
        NAMESPACES, "shop", {"metadata": {"labels": {"seamless-rollouts.dev/inject": "disabled"}}}
    )


def test_a_revert_leaves_workloads_as_their_users_wrote_them(api: Rolling) -> None:
    """By the webhook, for the scope has been withdrawn."""
    api.install(WHOLE_CLUSTER)
    before = injected(api)
    withdraw(api)
    ended = Doing(api, Revert(api.decider(WHOLE_CLUSTER))).carry_out()
    assert [text[:4] for text in ended.values()] == ["done"] * 4
    assert now(api) == before
    assert {manager for _, manager, _ in api.patches} == {"seamless-revert"}
    assert all(operations == [] for _, _, operations in api.patches)


def test_a_revert_needs_no_webhook(api: Rolling) -> None:
    """It has been uninstalled: nothing is in scope any more."""
    before = injected(api)
    Doing(api, Revert(None)).carry_out()
    assert now(api) == before


@pytest.mark.parametrize("why", ["away", "excluded"])
def test_a_revert_gets_by_without_a_webhook_that_does_not_do_its_part(
    api: Rolling, why: str
) -> None:
    """It is away, or never called for the namespace: the whole patch is sent then."""
    before = injected(api)
    configuration = {
        "scope": "cluster",
        "excludedNamespaces": ["shop"] if why == "excluded" else [],
    }
    api.install(configuration, calls=why == "excluded")
    if why == "away":
        withdraw(api)
    Doing(api, Revert(api.decider(configuration)), webhook=True).carry_out()
    assert now(api) == before


def test_what_is_still_in_scope_is_not_reverted(api: Rolling) -> None:
    """The webhook would bring it in again at the next rollout: it is told."""
    api.install(WHOLE_CLUSTER)
    injected(api)
    there = now(api)
    ended = Doing(api, Revert(api.decider(WHOLE_CLUSTER))).carry_out()
    assert all("still in scope" in text for text in ended.values())
    assert now(api) == there
    assert not api.patches


@pytest.mark.parametrize("webhook", [True, False])
def test_what_is_still_in_scope_is_marked_first_if_asked(api: Rolling, *, webhook: bool) -> None:
    """In one patch; afterwards there is the mark, and nothing else."""
    if webhook:
        api.install(WHOLE_CLUSTER)
    before = injected(api)
    ended = Doing(
        api, Revert(api.decider(WHOLE_CLUSTER), disable=True), webhook=webhook
    ).carry_out()
    assert [text[:4] for text in ended.values()] == ["done"] * 4
    after = now(api)
    for thing in after.values():
        assert thing["metadata"].pop("annotations") == {"seamless-rollouts.dev/inject": "disabled"}
    assert after == before
    assert len(api.patches) == 4
    assert not backfill(api).plan().changes


def test_a_revert_is_as_careful_as_a_backfill(api: Rolling) -> None:
    """Paused is put off, and the first that fails ends it."""
    for name in "abc":
        api.place(deployment(), name)
    backfill(api).carry_out()
    api.stored(DEPLOYMENT, "a")["spec"]["paused"] = True
    api.failing.add("b")
    doing = Doing(api, Revert(None))
    ended = doing.carry_out()
    assert ended["a"] == "put off: it is paused"
    assert ended["b"].startswith("failed")
    assert doing.run.not_begun == 1


# --- what the webhook decides by -----------------------------------------------------------------


def decides_by(api: Rolling, configuration: Json) -> None:
    """Have the webhook decide by a configuration that is not the one in the cluster."""
    api.admission = api.decider(configuration)


def agreeing(api: Rolling, **care: Any) -> Doing:
    """Make a backfill that asks what the webhook decides by."""
    wanted = decided_by(digest(Configuration.model_validate(WHOLE_CLUSTER)))
    return backfill(api, webhook=True, decided_by=wanted, **care)


def test_a_webhook_that_decides_by_another_configuration_ends_the_run(api: Rolling) -> None:
    """At the first workload, before anything is changed; it names both."""
    api.install(WHOLE_CLUSTER)
    decides_by(api, {**WHOLE_CLUSTER, "defaults": {"min-ready": "5s"}})
    for name in "abc":
        api.place(deployment(), name)
    before = copy.deepcopy(api.everything())
    doing = agreeing(api)
    ended = doing.carry_out()
    assert len(ended) == 1
    (text,) = ended.values()
    assert text.startswith("failed: the webhook decides by configuration ")
    ours = digest(Configuration.model_validate(WHOLE_CLUSTER))
    assert f"this command by {ours} of version {VERSION}" in text
    assert api.everything() == before
    assert doing.run.not_begun == 2
    assert 10 <= doing.clock.passed < 15


def test_a_webhook_of_another_version_ends_the_run_too(api: Rolling) -> None:
    """The same configuration may mean something else there."""
    api.install(WHOLE_CLUSTER)
    api.place(deployment(), "web")
    wanted = decided_by(digest(Configuration.model_validate(WHOLE_CLUSTER))) + ".1"
    ended = backfill(api, decided_by=wanted, agree_seconds=0).carry_out()
    assert f"{VERSION}.1" in ended["web"]


def test_asked_to_stop_it_begins_nothing_though_it_waits_for_the_webhook(api: Rolling) -> None:
    """And has failed with nothing."""
    api.install(WHOLE_CLUSTER)
    decides_by(api, {"mode": "patch"})
    api.place(deployment(), "web")
    doing = agreeing(api, agree_seconds=3600)
    api.on_step.append(doing.stop.ask)
    assert doing.carry_out() == {}
    assert (doing.run.failed, doing.run.not_begun) == (False, 1)


@pytest.mark.parametrize("at_first", [True, False], ids=["another", "nobody"])
def test_it_waits_until_the_webhook_decides_by_its_own(api: Rolling, *, at_first: bool) -> None:
    """As it may be changed in this moment, or come up; and then goes on as if nothing were."""
    api.install(WHOLE_CLUSTER, calls=False)
    if at_first:
        decides_by(api, {"mode": "patch"})
    for name in "ab":
        api.place(deployment(), name)
    doing = agreeing(api, agree_seconds=60)
    steps = itertools.count()
    api.on_step.append(lambda: decides_by(api, WHOLE_CLUSTER) if next(steps) == 30 else None)
    ended = doing.carry_out()
    assert {text.partition(":")[0] for text in ended.values()} == {"done"}
    assert sum("webhook" in line for line in doing.heard.lines) == 1


def test_a_change_in_the_middle_of_a_run_ends_it(api: Rolling) -> None:
    """What was begun is awaited, and nothing more is begun."""
    api.install(WHOLE_CLUSTER)
    for name in "abcd":
        api.place(deployment(), name)
    doing = agreeing(api)
    other = {**WHOLE_CLUSTER, "defaults": {"pre-stop-sleep": "45s"}}
    api.before_patch.append(lambda name: decides_by(api, other) if name == "b" else None)
    ended = doing.carry_out()
    words = {name: text.partition(":")[0] for name, text in ended.items()}
    assert words == {"a": "done", "b": "done", "c": "failed"}
    assert doing.run.not_begun == 1


def test_asked_to_leave_it_stops_waiting_for_the_webhook(api: Rolling) -> None:
    """Nothing was sent, so nothing is left behind."""
    api.install(WHOLE_CLUSTER)
    decides_by(api, {"mode": "patch"})
    api.place(deployment(), "web")
    doing = agreeing(api, agree_seconds=3600)
    api.on_step.append(lambda: doing.stop.ask(leave=True))
    assert doing.carry_out() == {}
    assert doing.run.not_begun == 1
    assert api.patches == []


def test_a_conflict_while_it_is_asked_is_no_failure(api: Rolling) -> None:
    """The workload is read and decided anew."""
    api.install(WHOLE_CLUSTER)
    api.place(deployment(), "web")
    conflict = Fault(409, body=b'{"message": "modified"}')
    api.faults.append(once(conflict, times=1, watches=None))
    api.faults[:] = [
        lambda ask, inner=api.faults[-1]: inner(ask) if "dryRun" in ask.query else None
    ]
    assert agreeing(api).carry_out()["web"].startswith("done")
