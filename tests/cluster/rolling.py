"""An API server with a webhook and with controllers, and a clock of its own that moves them.

A patch takes the way that it takes through the real one: the precondition is tested, defaults are
filled in, the webhook is asked with the old object, its patch is applied, the generation grows
where the spec has changed. The controllers work whenever somebody waits: `Ticks.wait` moves the
clock at once, and has each of them make one step.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

from tests.builders import Json, apply, canonical, decide, template_of
from tests.cluster.fake_api import NAMESPACES, Request
from tests.cluster.served import SERVED, Served
from tests.decision.apiserver import fill_in
from webhook.cluster.backfill import Clock
from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration, decided_by
from webhook.decision.review import SPEAKER
from webhook.decision.settings import Namespace
from webhook.decision.workload import KINDS, ROLLOUT, STATEFUL_SET, Kind, mapping

PREFIX = "seamless-rollouts.dev/"


class Ticks(Clock):
    """A clock that moves only where somebody waits; `work` is done meanwhile."""

    def __init__(self, work: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.work = work
        self.passed = 0.0
        self.start = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)

    def seconds(self) -> float:
        """Count."""
        return self.passed

    def now(self) -> datetime:
        """Tell the time of day."""
        return self.start + timedelta(seconds=self.passed)

    def wait(self, seconds: float) -> None:
        """Let time pass, and others work."""
        self.passed += seconds
        self.work()


class Rolling(Served):
    """The server; Argo Rollouts are served, too, and nothing fails unless told to.

    `stuck`, `failing` and `held` name workloads whose rollouts never end, are given up, or wait for
    somebody; `events_written` and `patches` are what was written.
    """

    def __init__(self) -> None:
        super().__init__((*SERVED, "rollouts"))
        self.admission: Admission | None = None
        self.stuck: set[str] = set()
        self.failing: set[str] = set()
        self.held: set[str] = set()
        self.events_written: list[Json] = []
        self.patches: list[tuple[str, str, list[Json]]] = []
        self.budgets: dict[str, list[Json]] = {}
        self.before_patch: list[Callable[[str], object]] = []
        self.most_rolling = 0
        self.pods_a_step = 1
        self.answers_to_lose = 0
        self.on_step: list[Callable[[], object]] = []
        self._rolled: dict[str, bytes] = {}
        self._quiet: dict[str, str] = {}
        self._uid = 0

    # --- what tests do to it ---------------------------------------------------------------------

    def install(self, configuration: Json | None = None, *, calls: bool = True) -> None:
        """Install the webhook; with `calls` false the API server never reaches it."""
        content = configuration or {}
        self.webhook(content)
        self.admission = self.decider(content) if calls else None

    def decider(self, configuration: Json | None = None) -> Admission:
        """Give the webhook's decision over the namespaces as they are at each moment."""
        made = Admission(
            Configuration.model_validate(configuration or {}), own_namespace="seamless"
        )

        def look_up(name: str) -> Namespace | None:
            found = self.objects.get(NAMESPACES, {}).get(name)
            if found is None:
                return None
            metadata = found["metadata"]
            return made.table.namespace(name, metadata.get("labels"), metadata.get("annotations"))

        made.namespaces = look_up
        return made

    def place(self, given: Json, name: str, namespace: str = "shop") -> Json:
        """Store a workload, with defaults, settled."""
        made = fill_in(given)
        self._uid += 1
        made["metadata"] |= {
            "name": name,
            "namespace": namespace,
            "generation": 1,
            "uid": f"uid-{self._uid}",
        }
        self.workload(made)
        kind = KINDS[made["kind"]]
        self._settle(kind, self.stored(kind, name, namespace))
        return self.stored(kind, name, namespace)

    def collection(self, kind: Kind, namespace: str = "shop") -> str:
        """Give the path of a collection."""
        return f"/apis/{kind.api_version}/namespaces/{namespace}/{kind.resource}"

    def stored(self, kind: Kind, name: str, namespace: str = "shop") -> Json:
        """Give a workload as it is stored."""
        return self.objects[self.collection(kind, namespace)][name]

    def everything(self) -> dict[tuple[str, str, str], Json]:
        """Give all workloads by kind, namespace and name."""
        return {
            (kind.name, thing["metadata"]["namespace"], name): thing
            for kind in KINDS.values()
            for path, things in self.objects.items()
            if path.startswith("/apis/") and "?" not in path and path.endswith("/" + kind.resource)
            for name, thing in things.items()
        }

    def budget(self, name: str, allowed: int, namespace: str = "shop", **selector: Any) -> None:
        """Store a PodDisruptionBudget."""
        self.budgets.setdefault(namespace, []).append(
            {
                "metadata": {"name": name},
                "spec": {"selector": selector or {}},
                "status": {"disruptionsAllowed": allowed},
            }
        )

    # --- its controllers -------------------------------------------------------------------------

    def step(self) -> None:
        """Have each controller make a step."""
        for each in list(self.on_step):
            each()
        rolling = 0
        for (name, _, _), thing in self.everything().items():
            rolling += self._move(KINDS[name], thing)
        self.most_rolling = max(self.most_rolling, rolling)

    def _move(self, kind: Kind, thing: Json) -> bool:
        status = thing.setdefault("status", {})
        key = thing["metadata"]["uid"]
        if self._quiet.get(key) == thing["metadata"]["resourceVersion"]:
            return False
        if self._rolled[key] == canonical(template_of(thing)):
            self._settle(kind, thing)
            self._quiet[key] = thing["metadata"]["resourceVersion"]
            return False
        name = thing["metadata"]["name"]
        wanted = self._wanted(kind, thing)
        fresh = int(status.get("observedGeneration") or 0) != thing["metadata"]["generation"]
        updated = 0 if fresh else min(wanted, status.get("updated", 0) + self.pods_a_step)
        if name in self.failing:
            self._write(kind, thing, 0, wanted, failed=True)
        elif name in self.stuck:
            self._write(kind, thing, 0, wanted - 1)
        elif updated >= wanted and not fresh:
            self._rolled[key] = canonical(template_of(thing))
            self._settle(kind, thing)
            return False
        else:
            self._write(kind, thing, updated, max(0, wanted - 1))
        return True

    def _settle(self, kind: Kind, thing: Json) -> None:
        self._rolled.setdefault(thing["metadata"]["uid"], canonical(template_of(thing)))
        self._write(kind, thing, self._wanted(kind, thing), self._wanted(kind, thing))

    @staticmethod
    def _wanted(kind: Kind, thing: Json) -> int:
        return 2 if kind.name == "DaemonSet" else int(thing["spec"].get("replicas", 1))

    def _write(
        self, kind: Kind, thing: Json, updated: int, available: int, *, failed: bool = False
    ) -> None:
        """Write the status as the controller of the kind does; it has no part in the generation."""
        generation = thing["metadata"]["generation"]
        wanted = self._wanted(kind, thing)
        rolled = updated == available == wanted
        status: Json = {"observedGeneration": generation, "updated": updated}
        if kind is ROLLOUT:
            waits = "Paused" if thing["metadata"]["name"] in self.held else "Progressing"
            phase = "Healthy" if rolled else "Degraded" if failed else waits
            status |= {
                "observedGeneration": str(generation),
                "phase": phase,
                "updatedReplicas": updated,
                "availableReplicas": available,
            }
        elif kind.name == "DaemonSet":
            status |= {
                "desiredNumberScheduled": wanted,
                "updatedNumberScheduled": updated,
                "numberAvailable": available,
            }
        else:
            status |= {
                "replicas": wanted,
                "updatedReplicas": updated,
                "availableReplicas": available,
                "readyReplicas": available,
            }
            if kind is STATEFUL_SET:
                status |= {"currentRevision": "b" if rolled else "a", "updateRevision": "b"}
            elif failed:
                condition = {"type": "Progressing", "reason": "ProgressDeadlineExceeded"}
                status["conditions"] = [{**condition, "status": "False", "message": "too late"}]
        if thing.get("status") != status:
            thing["status"] = status
            self._last += 1
            thing["metadata"]["resourceVersion"] = str(self._last)

    # --- what it answers -------------------------------------------------------------------------

    def answer(self, request: Request, body: bytes) -> tuple[int, Json]:
        """Answer a request that is no watch."""
        parts = unquote(request.path).split("/")
        if parts[-1] == "poddisruptionbudgets":
            return 200, {"items": self.budgets.get(parts[-2], [])}
        if parts[-1] == "events":
            event = json.loads(body)
            self.events_written.append(event)
            return 201, event
        return super().answer(request, body)

    def heads(self, request: Request) -> dict[str, str]:
        """Pass on what the webhook tells in a dry run."""
        if "dryRun" not in request.query or self.admission is None:
            return {}
        told = SPEAKER + decided_by(self.admission.digest)
        return {"Warning": f'299 - "another \\"one\\", of others", 299 - "{told}"'}

    def _change(
        self, request: Request, collection: str, name: str, stored: Json, body: bytes
    ) -> tuple[int, Json]:
        kinds = {kind.resource: kind for kind in KINDS.values()}
        resource = collection.rpartition("/")[2]
        if resource not in kinds:
            return super()._change(request, collection, name, stored, body)
        if "dryRun" in request.query:
            return 200, stored
        for each in list(self.before_patch):
            each(name)
        stored = self.objects[collection].get(name)  # type: ignore[assignment]
        if stored is None:
            return 404, {"message": "not found"}
        operations = json.loads(body)
        test = operations[0]
        assert test["path"] == "/metadata/resourceVersion", "no precondition"
        if test["value"] != stored["metadata"]["resourceVersion"]:
            return 422, {"message": "the server rejected our request due to an error in it"}
        manager = request.query["fieldManager"]
        self.patches.append((name, manager, operations[1:]))
        sent = fill_in({**apply(copy.deepcopy(stored), operations), "status": {}})
        if self.admission is not None:
            before = {**stored, "status": {}}
            options = {"options": {"fieldManager": manager}}
            decision = decide(sent, before, self.admission, **options)
            sent = fill_in(apply(sent, decision.operations))
        sent["status"] = copy.deepcopy(stored.get("status"))
        if canonical(sent) == canonical(stored):
            return 200, stored
        if canonical(sent["spec"]) != canonical(stored["spec"]):
            sent["metadata"]["generation"] += 1
        done = 200, self.put(collection, name, sent)
        if self.answers_to_lose:
            self.answers_to_lose -= 1
            raise ConnectionAbortedError
        return done


def bare(thing: Json) -> Json:
    """Give an object without what the API server counts and controllers write."""
    metadata = {
        key: value
        for key, value in mapping(thing.get("metadata")).items()
        if key not in ("resourceVersion", "generation", "managedFields")
    }
    return {**{key: thing[key] for key in thing if key != "status"}, "metadata": metadata}
