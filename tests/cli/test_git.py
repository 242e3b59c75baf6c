"""What `plan` and the docs tell users to write into Git is a fixed point of the decision."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import Json, after, deployment, workload
from webhook import cli

GRACE = "terminationGracePeriodSeconds"
DEADLINE = "progressDeadlineSeconds"
MIN_READY = "minReadySeconds"
SHUTDOWN_TIME = "seamless-rollouts.dev/shutdown-time"
_ADVICE = re.compile(r"(\w+) in Git: (leave it out|keep (\d+)), or write (\d+) and (.+); .*")
_ANNOTATION = re.compile(r"the annotation (\S+): (\S+)")


def written(grace: int | None = None, deadline: int | None = None, **says: str) -> Json:
    """Write a Deployment as Git holds it."""
    found = deployment(says={name.replace("_", "-"): value for name, value in says.items()})
    pod = found["spec"]["template"]["spec"]
    pod.pop(GRACE, None)
    found["spec"].pop(DEADLINE, None)
    if grace is not None:
        pod[GRACE] = grace
    if deadline is not None:
        found["spec"][DEADLINE] = deadline
    return found


def raised(of: Json) -> tuple[Any, Any]:
    """Give the two fields that can be raised once more."""
    return of["spec"]["template"]["spec"].get(GRACE), of["spec"].get(DEADLINE)


def advice(of: Json, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Give what the command advises."""
    path = folder / "given.json"
    path.write_text(json.dumps(of))
    assert cli.main(["plan", "-ojson", str(path)]) == 0
    (found,) = json.loads(capsys.readouterr().out)["workloads"]
    in_git: list[str] = found["inGit"]
    assert cli.main(["plan", str(path)]) == 0
    out = capsys.readouterr().out
    assert all(f"  note: {each}\n" in out for each in in_git)
    return in_git


def follow(texts: list[str], given: Json) -> tuple[Json, Json]:
    """Write what is advised: as it is told, and the values alone."""
    as_told, alone = copy.deepcopy(given), copy.deepcopy(given)
    for text in texts:
        match = _ADVICE.fullmatch(text)
        assert match, text
        name, value, beside = match[1], int(match[4]), match[5]
        for each in (as_told, alone):
            owner = each["spec"]["template"]["spec"] if name == GRACE else each["spec"]
            owner[name] = value
        if annotation := _ANNOTATION.fullmatch(beside):
            as_told["metadata"].setdefault("annotations", {})[annotation[1]] = annotation[2]
        else:
            as_told["spec"][MIN_READY] = int(beside.removeprefix(f"{MIN_READY}: "))
    return as_told, alone


CASES = [
    written(),
    written(60),
    written(45, pre_stop_sleep="20s"),
    written(1),
    written(0, pre_stop_sleep="20s"),
    written(deadline=50),
    written(30, 40, min_ready="25s"),
    workload("StatefulSet"),
    workload("Rollout"),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_what_plan_advises_stays_as_it_is_written(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a fresh cluster, over what is there, and however often; the value alone does not."""
    given = CASES[number]
    first = after(copy.deepcopy(given))
    texts = advice(given, tmp_path, capsys)
    assert texts
    as_told, alone = follow(texts, given)
    assert raised(as_told) == raised(first)
    for stored in (None, first, after(copy.deepcopy(as_told))):
        assert raised(after(copy.deepcopy(as_told), stored)) == raised(as_told)
    assert not advice(as_told, tmp_path, capsys)
    assert raised(after(copy.deepcopy(alone))) != raised(alone)


@settings(deadline=None, max_examples=200)
@given(
    grace=st.none() | st.integers(1, 3600),
    deadline=st.none() | st.integers(31, 2000),
    sleep=st.integers(1, 3600),
    min_ready=st.integers(0, 3600),
)
def test_written_as_the_docs_say_every_value_is_stable(
    grace: int | None, deadline: int | None, sleep: int, min_ready: int
) -> None:
    """The grace period beside `shutdown-time`, the deadline beside `minReadySeconds`."""
    says = {"pre_stop_sleep": f"{sleep}s", "min_ready": f"{min_ready}s"}
    first = after(written(grace, deadline, **says))
    as_told = written(*raised(first), **says)
    needs = 30 if grace is None else grace
    as_told["metadata"]["annotations"][SHUTDOWN_TIME] = f"{needs}s"
    if (found := first["spec"].get(MIN_READY)) is not None:
        as_told["spec"][MIN_READY] = found
    assert raised(after(copy.deepcopy(as_told))) == raised(first)


def test_where_nothing_is_raised_nothing_is_advised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor where the namespace or the workload says the time that it needs."""
    assert not advice(written(60, shutdown_time="30s"), tmp_path, capsys)
    assert not advice(written(inject="disabled"), tmp_path, capsys)
    assert not advice(written(pre_stop_sleep="none", min_ready="none"), tmp_path, capsys)
