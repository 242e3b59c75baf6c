"""From workloads that nobody has touched, through every state, and back to what they were."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.builders import (
    EXEC_QUIT,
    HTTP_HOOK,
    KINDS,
    WINDOWS,
    Json,
    container,
    hooked,
    rolling,
    sidecar,
    worker,
    workload,
)
from tests.cluster.fake_api import NAMESPACES
from tests.cluster.rolling import Rolling, Ticks, bare
from tests.cluster.test_backfill import Heard
from webhook.cluster.backfill import RolloutOptions, Run, Selection, Stop, plan
from webhook.cluster.survey import Survey, survey
from webhook.cluster.workloads import Workloads
from webhook.decision.configuration import Configuration
from webhook.rollout.planners import Backfill, Planner, Revert

SPACES = ("bank", "post", "shop", "zoo")

SHAPES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("plain", {}),
    ("exec-hook", {"containers": [hooked(EXEC_QUIT)]}),
    ("chained", {"containers": [hooked(EXEC_QUIT)], "says": {"pre-stop-existing": "chain"}}),
    ("http-hook", {"containers": [hooked(HTTP_HOOK)]}),
    ("sidecar", {"pod": {"initContainers": [sidecar(), worker("prepare")]}}),
    ("precheck", {"says": {"precheck": "tcp://db:5432"}, "pod": {"initContainers": [worker("x")]}}),
    ("taken-name", {"pod": {"initContainers": [worker("seamless-precheck")]}}),
    ("two", {"containers": [container("a"), container("b", ports=[{"containerPort": 9000}])]}),
    ("long-grace", {"pod": {"terminationGracePeriodSeconds": 300}}),
    ("ready-long", {"minReadySeconds": 90}),
    ("windows", {"pod": WINDOWS}),
    ("gates", {"template_says": {"readiness-gates": "example.com/up", "min-ready": "5s"}}),
    (
        "probe",
        {
            "containers": [container(readinessProbe=None)],
            "says": {"readiness-probe": "tcp://:8080"},
        },
    ),
    ("noted", {"metadata": {"annotations": {"team": "a", "why": "\N{SNOWMAN}"}}}),
    ("worker", {"containers": [worker()]}),
    ("its-own", {"says": {"pre-stop-sleep": "3s", "shutdown-time": "40s"}}),
    ("host-port", {"containers": [container(ports=[{"containerPort": 80, "hostPort": 80}])]}),
    ("many", {"containers": [container(f"c{index}") for index in range(12)]}),
    ("surge", {"says": {"strategy": "surge"}}),
    ("deadline", {"says": {"min-ready": "10m"}}),
    ("hooked-later", {"containers": [container(lifecycle={"postStart": EXEC_QUIT})]}),
    ("gated", {"pod": {"readinessGates": [{"conditionType": "example.com/other"}]}}),
    ("none", {"says": {"pre-stop-sleep": "none"}}),
    ("big", {"metadata": {"annotations": {"text": "x" * 20_000}}}),
    ("recreate", {"strategy": {"type": "Recreate"}}),
)


def fill(api: Rolling, of_each: int) -> None:
    """Place so many workloads of every kind and shape."""
    spaces = itertools.cycle(SPACES)
    for (name, given), kind, index in itertools.product(SHAPES, KINDS, range(of_each)):
        fields = copy.deepcopy(given)
        if name == "recreate" and kind != "Deployment":
            fields = rolling(kind) if kind != "Rollout" else {"strategy": {"canary": {}}}
        if name == "ready-long" and kind == "Deployment":
            fields["progressDeadlineSeconds"] = 100
        made = workload(kind, *fields.pop("containers", ()), **fields)
        api.place(made, f"{name}-{kind.lower()}-{index}", next(spaces))


class Sequence:
    """The cluster, and what is done to it."""

    def __init__(self, api: Rolling) -> None:
        self.api = api
        self.configuration: Json = {}

    def workloads(self, clock: Ticks, stop: Stop) -> Workloads:
        """Reach it."""
        del clock
        return Workloads(self.api.api(), page=33, wait=stop.wait)

    def run(self, planner: Planner, *, webhook: bool = True) -> Counter[str]:
        """Carry out whatever there is to do; gives how much of it ended how."""
        clock = Ticks(self.api.step)
        stop = Stop(clock)
        workloads = self.workloads(clock, stop)
        found = plan(workloads, planner, Selection())
        assert not found.deferred
        rollout_options = RolloutOptions(concurrent=8, webhook=webhook)
        heard = Heard()
        doing = Run(
            workloads,
            planner,
            rollout_options,
            heard,
            clock=clock,
            stop=stop,
            refresh=lambda _name: None,
        )
        doing.carry_out(found.groups)
        assert not [line for line in heard.lines if line.startswith("note")]
        return Counter(str(each.result) for each in doing.outcomes)

    def backfill(self) -> Counter[str]:
        """Bring everything in."""
        return self.run(Backfill(self.api.decider(self.configuration)))

    def status(self) -> Survey:
        """Look where everything stands."""
        clock = Ticks()
        return survey(
            self.workloads(clock, Stop(clock)), Configuration.model_validate(self.configuration)
        )

    def label(self, word: str | None) -> None:
        """Label all namespaces, or take the label away."""
        labels = {} if word is None else {"seamless-rollouts.dev/inject": word}
        for name in SPACES:
            self.api.put(NAMESPACES, name, {"metadata": {"labels": labels}})

    def configure(self, **configuration: Any) -> None:
        """Install the webhook anew."""
        self.configuration = configuration
        self.api.install(configuration)


@pytest.fixture
def sequence() -> Iterator[Sequence]:
    """An empty cluster, whose rollouts are quick."""
    server = Rolling()
    server.pods_a_step = 20
    yield Sequence(server)
    server.close()


def objects(api: Rolling) -> dict[tuple[str, str, str], Json]:
    """Give everything without what the API server counts."""
    return {key: bare(copy.deepcopy(thing)) for key, thing in api.everything().items()}


def test_what_was_brought_in_and_up_to_date_and_taken_out_is_what_it_was(
    sequence: Sequence,
) -> None:
    """Every kind and oddity, through the webhook: not one byte of a user's words is lost."""
    fill(sequence.api, 2)
    before = objects(sequence.api)
    assert len(before) == 200
    sequence.configure()
    sequence.label("enabled")
    in_scope = sequence.status().totals()
    assert in_scope["unpatched"] > 170
    assert in_scope["unpatched"] + in_scope["out-of-scope"] == 200

    assert set(sequence.backfill()) == {"done"}
    assert sequence.status().totals()["patched"] == in_scope["unpatched"]

    sequence.configure(defaults={"min-ready": "45s", "pre-stop-sleep": "20s"})
    stale = sequence.status().totals()
    assert stale["stale"] > 140
    assert stale["unpatched"] == 0
    assert sequence.backfill()["done"] == stale["stale"]
    assert sequence.status().totals()["patched"] == in_scope["unpatched"]
    assert not sequence.backfill()

    sequence.label(None)
    planner = Revert(sequence.api.decider(sequence.configuration))
    assert sequence.run(planner)["done"] == in_scope["unpatched"]
    assert not sequence.run(planner)
    after = objects(sequence.api)
    assert [key for key in before if before[key] != after[key]] == []


def test_without_a_webhook_it_is_the_same(sequence: Sequence) -> None:
    """Everything is sent then: what is stored is what a webhook would have made of it."""
    fill(sequence.api, 1)
    before = objects(sequence.api)
    sequence.label("enabled")
    alone = sequence.api.decider()
    done = sequence.run(Backfill(alone), webhook=False)["done"]
    assert sequence.status().totals()["patched"] == done > 80
    by_hand = objects(sequence.api)

    assert sequence.run(Revert(None), webhook=False)["done"] == done
    assert objects(sequence.api) == before

    sequence.configure()
    assert sequence.backfill()["done"] == done
    assert objects(sequence.api) == by_hand
