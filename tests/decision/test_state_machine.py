"""Any sequence of what users, settings and outages do, beside an API server without a webhook.

The plain server gets the same requests, and so holds what the user has asked for. What must hold
after every step is said in the invariants; at the end of each run the user opts out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import settings as profile
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.builders import (
    EXEC_QUIT,
    HTTP_HOOK,
    KINDS,
    OLD_SERVER,
    PREFIX,
    RECORD,
    Json,
    admission,
    canonical,
    codes,
    container,
    decide,
    differences,
    namespaces,
    pod_of,
    template_of,
    worker,
    workload,
)
from tests.decision.apiserver import ApiServer, RefusedError, Revision
from tests.decision.strategies import SETTINGS
from webhook.decision.admission import Admission

INJECT = PREFIX + "inject"
USERS_HOOKS = [None, EXEC_QUIT, HTTP_HOOK, {"sleep": {"seconds": 3}}, {"sleep": {"seconds": 0}}]
TEMPLATE_SETTINGS = [name for name in SETTINGS if name not in {"min-ready", "strategy"}]


def some_settings(names: list[str]) -> st.SearchStrategy[dict[str, str]]:
    """Draw one or two settings."""
    one = st.sampled_from(names).flatmap(
        lambda name: st.tuples(st.just(name), st.sampled_from(SETTINGS[name]))
    )
    return st.lists(one, max_size=2).map(dict)


CONTAINERS = st.builds(
    lambda name, serves, hook, tag: (container if serves else worker)(
        name, image=f"{name}:{tag}", lifecycle=hook and {"preStop": hook}
    ),
    st.sampled_from(["app", "db", "renamed"]),
    st.booleans(),
    st.sampled_from(USERS_HOOKS),
    st.integers(1, 2),
)
MANIFESTS = st.fixed_dictionaries(
    {
        "containers": st.lists(
            CONTAINERS, min_size=1, max_size=2, unique_by=lambda each: each["name"]
        ),
        "says": some_settings(list(SETTINGS)),
        "template_says": some_settings(list(SETTINGS)),
        "inject": st.sampled_from([None, None, "enabled", "disabled"]),
        # Without it the template's annotations may go whole in a client-side apply.
        "note": st.sampled_from(["x", "x", None]),
    },
    optional={
        "grace": st.sampled_from([30, 37, 41]),
        "ready": st.sampled_from([0, 5, 13]),
        "deadline": st.sampled_from([20, 47, 600]),
        "unavailable": st.sampled_from([1, "10%"]),
        "gates": st.just([{"conditionType": "example.com/mine"}]),
    },
)


def manifest(kind: str, drawn: Json) -> Json:
    """Make the manifest that a user keeps in a repository."""
    spec: Json = {}
    if "ready" in drawn:
        spec["minReadySeconds"] = drawn["ready"]
    if "deadline" in drawn and kind in {"Deployment", "Rollout"}:
        spec["progressDeadlineSeconds"] = drawn["deadline"]
    if "unavailable" in drawn and kind in {"Deployment", "DaemonSet"}:
        key = "strategy" if kind == "Deployment" else "updateStrategy"
        spec[key] = {"rollingUpdate": {"maxUnavailable": drawn["unavailable"]}}
    pod: Json = {}
    if "grace" in drawn:
        pod["terminationGracePeriodSeconds"] = drawn["grace"]
    if "gates" in drawn:
        pod["readinessGates"] = drawn["gates"]
    says = {**drawn["says"], **({"inject": drawn["inject"]} if drawn["inject"] else {})}
    made = workload(
        kind, *drawn["containers"], says=says, template_says=drawn["template_says"], pod=pod, **spec
    )
    if drawn["note"]:
        template_of(made)["metadata"].setdefault("annotations", {})["note"] = drawn["note"]
    return made


CONFIGURATIONS = st.builds(
    lambda defaults, labels, said, old: admission(
        {"defaults": defaults, "invalidSettings": "warn"},
        namespace=namespaces(labels, **said),
        server=OLD_SERVER if old else None,
    ),
    some_settings(list(SETTINGS)),
    st.sampled_from([{"inject": "enabled"}, {"inject": "enabled"}, {}, {"inject": "disabled"}]),
    some_settings(list(SETTINGS)),
    st.booleans(),
)


class Life(RuleBasedStateMachine):
    """One workload's life."""

    def __init__(self) -> None:
        super().__init__()
        self.real = ApiServer()
        self.plain = ApiServer()
        self.kind = ""
        self.current: Admission = admission()
        self.up = True
        self.settled = False
        self.outside_known = True
        self.names = 0
        self.of_plain: list[int] = []

    # What happens.

    @initialize(
        kind=st.sampled_from(KINDS),
        drawn=MANIFESTS,
        by=CONFIGURATIONS,
        up=st.booleans(),
        prunes=st.booleans(),
    )
    def create(
        self,
        kind: str,
        drawn: Json,
        by: Admission,
        up: bool,  # noqa: FBT001
        prunes: bool,  # noqa: FBT001
    ) -> None:
        """The first apply, with or without the webhook; a schema of Rollouts may have no sleep."""
        self.kind, self.current, self.up = kind, by, up
        self.real.prunes = self.plain.prunes = prunes and kind == "Rollout"
        self.step(lambda server: server.apply(manifest(kind, drawn)))

    @rule(drawn=MANIFESTS, way=st.sampled_from(["apply", "apply", "put"]))
    def send(self, drawn: Json, way: str) -> None:
        """Apply another manifest, or replace the object by it."""
        if not self.up and not drawn["note"]:  # the record would be lost with what goes whole
            drawn = {**drawn, "note": "x"}
        self.step(lambda server: getattr(server, way)(manifest(self.kind, drawn)))

    @rule(way=st.sampled_from(["apply", "put"]), data=st.data())
    def send_again(self, way: str, data: st.DataObject) -> None:
        """Send what the plain server holds: an export, applied; no pod may restart."""
        del data
        export = self.plain.now
        before = template_of(self.real.now)
        self.step(lambda server: getattr(server, way)(export))
        if self.up and way == "put" and RECORD in str(before):
            assert canonical(template_of(self.real.now)) == canonical(before)

    @rule(replicas=st.integers(0, 3))
    def scale(self, replicas: int) -> None:
        """Scale by an update of the object."""
        before = template_of(self.real.now)
        self.step(lambda server: server.scale(replicas))
        assert canonical(template_of(self.real.now)) == canonical(before)

    @rule(at=st.integers(1, 99))
    def restart(self, at: int) -> None:
        """`kubectl rollout restart`."""
        self.step(lambda server: server.restart(str(at)))

    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        """`kubectl rollout undo` to any revision."""
        index = data.draw(st.integers(0, len(self.real.revisions) - 1))
        if not self.up:
            self.outside_known = False
        revision = self.real.revisions[index]
        annotations = {k: v for k, v in revision.annotations.items() if k != RECORD}
        same = Revision(self.plain.revisions[self.of_plain[index]].template, annotations)
        self.step(lambda server: server.undo_to(revision if server is self.real else same))

    @rule(name=st.sampled_from(list(SETTINGS)), data=st.data())
    def annotate(self, name: str, data: st.DataObject) -> None:
        """`kubectl annotate` on the workload, or take it off."""
        value = data.draw(st.sampled_from([None, *SETTINGS[name]]))
        before = template_of(self.real.now)

        def note(sent: Json) -> None:
            annotations = sent["metadata"].setdefault("annotations", {})
            if value is None:
                annotations.pop(PREFIX + name, None)
            else:
                annotations[PREFIX + name] = value

        self.step(lambda server: server.edit(note))
        if name not in TEMPLATE_SETTINGS:
            assert canonical(template_of(self.real.now)) == canonical(before)

    @rule(word=st.sampled_from([None, "enabled", "disabled"]))
    def choose(self, word: str | None) -> None:
        """Opt in or out by an annotation."""

        def note(sent: Json) -> None:
            annotations = sent["metadata"].setdefault("annotations", {})
            annotations.pop(INJECT, None)
            if word:
                annotations[INJECT] = word

        self.step(lambda server: server.edit(note))

    @rule(
        change=st.sampled_from(
            [
                ("terminationGracePeriodSeconds", 47),
                ("terminationGracePeriodSeconds", 79),
                ("dnsPolicy", "Default"),
            ]
        )
    )
    def edit_pod(self, change: tuple[str, Any]) -> None:
        """`kubectl edit` of the template."""
        key, value = change
        self.step(lambda server: server.edit(lambda sent: pod_of(sent).update({key: value})))

    @precondition(lambda self: self.up)
    @rule(index=st.integers(0, 3), way=st.sampled_from(["rename", "copy", "copy and change"]))
    def edit_containers(self, index: int, way: str) -> None:
        """`kubectl edit`: a container is renamed or copied, and what was injected moves with it."""
        self.names += 1
        name = f"name-{self.names}"

        def change(sent: Json) -> None:
            found = pod_of(sent)["containers"]
            each = found[index % len(found)]
            if way == "rename":
                each["name"] = name
            elif len(found) < 4:
                image = f"{name}:1" if way == "copy and change" else each["image"]
                found.append({**copy.deepcopy(each), "name": name, "image": image})

        self.step(lambda server: server.edit(change))

    @rule(
        seconds=st.sampled_from([None, 43, 20]),
        others=st.booleans(),
    )
    def drop_annotations(self, seconds: int | None, others: bool) -> None:  # noqa: FBT001
        """The template's annotations go whole, and in the same request something is edited."""
        if not self.up:
            return

        def change(sent: Json) -> None:
            template_of(sent)["metadata"].pop("annotations", None)
            if seconds:
                pod_of(sent)["terminationGracePeriodSeconds"] = seconds
            if others:
                pod_of(sent)["containers"][0]["image"] += "1"

        self.step(lambda server: server.edit(change))

    @rule()
    def remove_hook(self) -> None:
        """`kubectl edit` takes an injected hook out by hand; the template stays, and it is told."""
        if "lifecycle" in pod_of(self.plain.now)["containers"][0]:
            return
        before = template_of(self.real.now)
        had = "lifecycle" in pod_of(self.real.now)["containers"][0]
        self.step(
            lambda server: server.edit(
                lambda sent: pod_of(sent)["containers"][0].pop("lifecycle", None)
            )
        )
        if self.up:
            assert canonical(template_of(self.real.now)) == canonical(before)
            assert self.real.decision is not None
            assert ("edit-undone" in codes(self.real.decision)) == had

    @rule(ready=st.sampled_from([7, 19, 901]))
    def edit_min_ready(self, ready: int) -> None:
        """`kubectl edit` outside the template: no pod restarts."""
        before = template_of(self.real.now)
        self.step(
            lambda server: server.edit(lambda sent: sent["spec"].update(minReadySeconds=ready))
        )
        assert canonical(template_of(self.real.now)) == canonical(before)

    @rule(by=CONFIGURATIONS)
    def configure(self, by: Admission) -> None:
        """New defaults, a namespace that opts in or out, an upgraded API server."""
        self.current, self.settled = by, False

    @rule(up=st.booleans())
    def outage(self, up: bool) -> None:  # noqa: FBT001
        """The webhook goes, or comes back."""
        self.up, self.settled = up, False

    @precondition(lambda self: self.up)
    @rule(manager=st.sampled_from(["seamless-backfill", "seamless-revert"]))
    def backfill(self, manager: str) -> None:
        """Everything is decided afresh, template included; twice changes nothing more."""
        self.step(lambda server: server.edit(lambda _: None, manager))
        settled = canonical(self.real.now)
        self.step(lambda server: server.edit(lambda _: None, manager))
        assert canonical(self.real.now) == settled

    # How it happens, and what must hold.

    def step(self, act: Callable[[ApiServer], Any]) -> None:
        """Do it on both servers, or, where the first refuses, on none."""
        self.real.webhook = self.current if self.up else None
        self.settled = False
        trial = copy.copy(self.real)
        trial.revisions = copy.deepcopy(self.real.revisions)
        spare = copy.deepcopy(self.plain)
        try:
            act(spare)
            act(self.real)
        except RefusedError:
            self.real = trial
            return
        self.plain = spare
        self.settled = self.real.decision is not None
        self.of_plain = self.of_plain[: len(self.real.revisions)]
        while len(self.of_plain) < len(self.real.revisions):
            self.of_plain.append(len(self.plain.revisions) - 1)

    @invariant()
    def deciding_again_changes_nothing(self) -> None:
        """What is stored is settled, once it was decided."""
        if self.settled:
            again = decide(self.real.now, self.real.now, self.current)
            assert not again.operations
            assert not again.restarts

    @invariant()
    def the_user_s_words_can_be_recovered(self) -> None:
        """Opting out now would give exactly what the user last asked for."""
        if self.real.stored is None:
            return
        real, plain = copy.deepcopy(self.real), copy.deepcopy(self.plain)
        real.webhook = self.current

        def opt_out(sent: Json) -> None:
            sent["metadata"].setdefault("annotations", {})[INJECT] = "disabled"

        plain.edit(opt_out)
        real.edit(opt_out, "seamless-revert")
        annotations = template_of(real.now)["metadata"].get("annotations") or {}
        assert RECORD not in annotations
        found = differences(template_of(real.now), template_of(plain.now))
        assert not found, found
        if self.outside_known:
            found = differences(real.now["spec"], plain.now["spec"])
            assert not found, found


TestLife = Life.TestCase
TestLife.settings = profile(max_examples=profile.default.max_examples)
