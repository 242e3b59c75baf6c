"""What must hold of an answer, whatever was asked."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any, Final

import orjson

from tests.builders import Json, apply, canonical, operations_of, plain, review, written
from webhook.decision.admission import Admission, Answer, Decision
from webhook.decision.mutations.precheck import NAME

_LONGEST_COMPLAINT: Final = 2_000
_LONGEST_REFUSAL: Final = 20_000

# Where §2 and §3 of the contract let the webhook write, and no other place.
_CONTAINER: Final = r"/spec/template/spec/containers/\d+"
ALLOWED: Final = re.compile(
    r"/spec/(minReadySeconds|progressDeadlineSeconds)"
    r"|/spec/(strategy|updateStrategy)(/rollingUpdate(/(maxSurge|maxUnavailable))?)?"
    r"|(/spec/template)?/metadata(/annotations(/seamless-rollouts\.dev~1injected(/.*)?)?)?"
    r"|/spec/template/spec/(terminationGracePeriodSeconds|readinessGates|initContainers)"
    rf"|{_CONTAINER}/lifecycle(/preStop(/.*)?)?|{_CONTAINER}/readinessProbe(/.*)?",
    re.DOTALL,
)
_LISTS: Final = tuple(f"/spec/template/spec/{key}" for key in ("initContainers", "readinessGates"))
"""Items come and go in these: `check_places` looks at them one by one."""
_NAMESPACE_LABEL: Final = "/metadata/labels/elbv2.k8s.aws~1pod-readiness-gate-inject"


def check_answer(found: Answer) -> None:
    """Hold an answer to §5: an AdmissionReview or 400, and never the boundary."""
    assert found.status in {200, 400}, found.status
    if found.status == 400:
        check_line(found.body.decode(), _LONGEST_COMPLAINT)
        return
    assert found.request is not None
    assert found.decision is not None
    assert found.decision.skipped != "error", "the boundary was needed"
    answered = orjson.loads(found.body)
    assert answered["apiVersion"] == "admission.k8s.io/v1"
    assert answered["kind"] == "AdmissionReview"
    response = answered["response"]
    assert response["uid"] == found.request.uid
    assert isinstance(response["allowed"], bool)
    assert len(response.get("warnings", [])) <= 20
    for warning in response.get("warnings", []):
        check_line(warning, 120)
    for key, value in response.get("auditAnnotations", {}).items():
        assert key in {"applied", "skipped"}
        assert isinstance(value, str)
    if not response["allowed"]:
        assert response["status"]["code"] == 422
        assert len(response["status"]["message"]) <= _LONGEST_REFUSAL
        assert "patch" not in response
    operations = operations_of(response)
    if operations:
        check_patch(found.request.object, operations, found.decision)


def check_line(text: str, longest: int) -> None:
    """A message is one line that a terminal and a log can bear."""
    assert text
    assert len(text) <= longest, f"{len(text)} characters"
    assert text.isprintable(), ascii(text)


def check_patch(given: Json, operations: list[Json], decision: Decision) -> None:
    """The patch applies, gives what was decided, and touches nothing but what is ours."""
    given = plain(given)
    result = apply(copy.deepcopy(given), operations)
    if given.get("kind") == "Namespace" or decision.result is None:
        assert list(touched(given, result)) == [_NAMESPACE_LABEL]
        return
    assert canonical(result) == canonical(decision.result), "the patch gives another object"
    check_places(given, result, kept=decision.kept)


def check_places(given: Json, result: Json, *, kept: bool) -> None:
    """Nothing differs beyond the fields of the settings and the records."""
    for path in touched(given, result):
        if kept and path.startswith("/spec/template"):
            continue  # the cluster's own template: compared with that one
        assert ALLOWED.fullmatch(path), f"written: {path}"
    for key in () if kept else ("initContainers", "readinessGates"):
        before, after = _items(given, key), _items(result, key)
        if key == "initContainers":
            assert before == after, "another init container was touched"
        else:
            known = list(map(canonical, before))
            for item in after:
                ours = set(item) == {"conditionType"} and isinstance(item["conditionType"], str)
                assert canonical(item) in known or ours, f"written: a gate {item}"


def _items(workload: Json, key: str) -> list[Any]:
    spec = ((workload.get("spec") or {}).get("template") or {}).get("spec") or {}
    return [each for each in spec.get(key) or [] if each.get("name") != NAME]


def touched(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Name the places that differ; what holds nothing is no place."""
    if canonical(before) == canonical(after):
        return
    if path in _LISTS:
        yield path
        return
    empty = (..., None)
    if isinstance(before, dict) or isinstance(after, dict):
        one, other = ({} if each in empty else each for each in (before, after))
        if isinstance(one, dict) and isinstance(other, dict) and (one or other):
            for key in {**one, **other}:
                step = key.replace("~", "~0").replace("/", "~1")
                yield from touched(one.get(key, ...), other.get(key, ...), f"{path}/{step}")
            return
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from touched(one, other, f"{path}/{index}")
        return
    yield path


def check_settled(decided: Decision, by: Admission) -> None:
    """Deciding about what was decided changes nothing: as a new object, and as an update."""
    if decided.result is None or decided.refused:
        return
    # A template that was kept would have been decided otherwise as a new one.
    for old in (decided.result,) if decided.kept else (None, decided.result):
        again = by.decide(by.decode(written(review(decided.result, old))))
        assert again.skipped != "malformed"
        assert not again.operations, again.operations
        assert not again.restarts
