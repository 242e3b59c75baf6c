"""The harnesses, for a moment and always on the same inputs; `make fuzz` goes on from there."""

from __future__ import annotations

import copy
import dataclasses
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import Json, admission, changed
from tests.fuzz import harnesses, run
from tests.fuzz.choices import Choices, garbled, mutate
from tests.fuzz.harnesses import HARNESSES, OBJECTS
from tests.fuzz.oracles import check_line, check_places
from webhook.decision.draft import Draft
from webhook.decision.mutations import MUTATIONS, min_ready
from webhook.decision.mutations.model import Mutation, Situation

SLOW = {"configuration", "decision", "manifest", "plan", "record", "rollout"}


@pytest.mark.parametrize("name", sorted(HARNESSES))
def test_no_input_breaks_a_promise(name: str) -> None:
    """What each harness promises is in its own docstring."""

    @settings(max_examples=25 if name == "growth" else 200 if name in SLOW else 500)
    @given(st.binary(min_size=64, max_size=512))
    def search(data: bytes) -> None:
        HARNESSES[name](data)

    search()


# --- a harness that could not fail would prove nothing -------------------------------------------


def breaks(name: str) -> bool:
    """Tell whether a harness finds something within a few thousand inputs."""
    draw = random.Random(0)  # noqa: S311 - inputs, always the same
    for _ in range(3000):
        try:
            HARNESSES[name](draw.randbytes(200))
        except Exception:  # noqa: BLE001 - whatever it is, it was found
            return True
    return False


def with_mutation(apply: Callable[[Draft, Situation], None]) -> tuple[Any, ...]:
    """Give admissions with one mutation more, which is up to no good."""
    evil = Mutation(apply=apply, fields=(min_ready.MIN_READY,))
    return (admission({"scope": "cluster"}, mutations=[*MUTATIONS, evil]),)


def scales(draft: Draft, _situation: Situation) -> None:
    """Write a field that is nobody's."""
    draft.set(("spec", "replicas"), 7)


def adds_up(draft: Draft, _situation: Situation) -> None:
    """Write something else each time."""
    draft.set(("spec", "minReadySeconds"), (draft.get("spec", "minReadySeconds") or 0) + 1)


def fails(_draft: Draft, _situation: Situation) -> None:
    """Fail."""
    message = "a bug"
    raise KeyError(message)


def compares_pairwise(draft: Draft, _situation: Situation) -> None:
    """Look at each annotation for each annotation."""
    names = list(draft.get("metadata", "annotations") or ())
    assert all(sum(each == name for each in names) == 1 for name in names)


def hoards(draft: Draft, _situation: Situation) -> None:
    """Make a hundred copies of every annotation."""
    texts = [str(each) for each in (draft.get("metadata", "annotations") or {}).values()]
    assert len([text + str(number) for text in texts for number in range(100)]) >= 0


@pytest.mark.parametrize("evil", [compares_pairwise, hoards], ids=lambda each: each.__name__)
def test_what_does_not_grow_in_proportion_is_found(
    monkeypatch: pytest.MonkeyPatch, evil: Callable[[Draft, Situation], None]
) -> None:
    """In time, or in memory."""
    monkeypatch.setattr(harnesses, "ADMISSIONS", with_mutation(evil))
    assert breaks("growth")


@pytest.mark.parametrize("evil", [scales, adds_up, fails], ids=lambda each: each.__name__)
@pytest.mark.parametrize("name", ["decision", "record"])
def test_a_mutation_that_breaks_a_promise_is_found(
    monkeypatch: pytest.MonkeyPatch, name: str, evil: Callable[[Draft, Situation], None]
) -> None:
    """It writes elsewhere, or never comes to rest, or fails."""
    monkeypatch.setattr(harnesses, "ADMISSIONS", with_mutation(evil))
    assert breaks(name)


def test_a_boundary_that_is_needed_is_found_by_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the request is answered."""
    monkeypatch.setattr(harnesses, "ADMISSIONS", with_mutation(fails))
    assert breaks("decoder")


def test_a_ledger_that_believes_everything_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put back is then whatever a record says was there."""
    fields = [each for mutation in MUTATIONS for each in mutation.fields]
    believed = {
        each: dataclasses.replace(each, plausible=lambda _value, _was: True) for each in fields
    }
    trusting = admission()
    for key, place in trusting.ledger._fields.items():
        trusting.ledger._fields[key] = believed[place]
    monkeypatch.setattr(harnesses, "ADMISSIONS", (trusting,))
    assert breaks("record")


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("target", "parse_target"),
        ("setting", "check_line"),
        ("version", "parse_version"),
        ("http", "_APP"),
        ("rollout", "simulate"),
    ],
)
def test_a_part_that_fails_is_found(
    monkeypatch: pytest.MonkeyPatch, name: str, broken: str
) -> None:
    """By each of the harnesses that go through it."""

    def fail(*_: Any, **__: Any) -> Any:
        message = "a bug"
        raise RuntimeError(message)

    monkeypatch.setattr(harnesses, broken, fail)
    assert breaks(name)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "replicas"), 7),
        (("metadata", "name"), "other"),
        (("metadata", "annotations", "note"), "x"),
        (("metadata", "annotations", "seamless-rollouts.dev/inject"), "enabled"),
        (("spec", "template", "spec", "containers", 0, "image"), "other"),
        (("spec", "template", "spec", "containers", 0, "lifecycle", "postStart"), {}),
        (("spec", "template", "spec", "containers", 0, "livenessProbe"), {}),
        (("spec", "template", "spec", "initContainers", 0, "image"), "other"),
        (("spec", "template", "spec", "initContainers", 0, "lifecycle"), {"preStop": {}}),
        (("spec", "template", "spec", "readinessGates", 0, "conditionType"), 5),
        (("spec", "template", "spec", "serviceAccountName"), "root"),
        (("spec", "template", "spec", "hostNetwork"), True),
        (("spec", "template", "spec", "volumes"), None),
    ],
)
def test_what_is_written_anywhere_else_is_seen(path: tuple[str | int, ...], value: Any) -> None:
    """A list of places is worth what it leaves out."""
    given_object: Json = orjson.loads(OBJECTS[0])
    check_places(given_object, copy.deepcopy(given_object), kept=False)
    with pytest.raises((AssertionError, TypeError)):
        check_places(given_object, changed(given_object, *path, to=value), kept=False)


@pytest.mark.parametrize("text", ["", "two\nlines", "\x1b[2J", "x" * 11])
def test_a_message_that_is_no_short_line_is_seen(text: str) -> None:
    """Empty, or more than one, or with what moves a cursor, or long."""
    with pytest.raises(AssertionError):
        check_line(text, 10)


# --- what bytes become ---------------------------------------------------------------------------


def test_most_mutated_reviews_are_still_reviews() -> None:
    """Else the decoder alone would be tried."""
    draw = random.Random(0)  # noqa: S311 - inputs, always the same
    answered = 0
    for _ in range(500):
        content = harnesses.mutated_review(Choices(draw.randbytes(200)))
        answered += harnesses.DEFAULT.answer(orjson.dumps(content)).status == 200
    assert answered > 300


def test_the_same_bytes_are_the_same_choices() -> None:
    """So what was found can be found again."""

    def make(data: bytes) -> tuple[Any, ...]:
        choices = Choices(data)
        given_object = mutate(choices, orjson.loads(OBJECTS[0]))
        return choices.text(), choices.json(), given_object, garbled(choices, b"abc" * 20)

    data = random.Random(1).randbytes(400)  # noqa: S311 - the same
    assert make(data) == make(data)
    assert not Choices(b"")
    make(b"")  # where the bytes end, every choice is the first


@pytest.fixture
def fuzz(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str]]]:
    """Run the program blindly; its exit status and the lines that it printed."""
    monkeypatch.setattr(run, "GUIDED", False)
    monkeypatch.setattr(run, "FOUND", tmp_path)

    def start(*arguments: str) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        return run.main(), capsys.readouterr().out.splitlines()

    return start


def test_a_search_says_how_many_inputs_were_tried(fuzz: Any) -> None:
    """And how it was searched."""
    status, (first, second) = fuzz("--seconds=1", "version")
    assert status == 0
    assert first.startswith("targets: 1, 1 s each; blind, by seed ")
    name, tried, inputs = second.split()
    assert (name, inputs) == ("version", "inputs")
    assert int(tried.replace(",", "")) > 10


def test_what_is_found_is_kept_and_can_be_run_again(
    fuzz: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its exit status tells, too."""

    def fail(_data: bytes) -> None:
        message = "a promise"
        raise AssertionError(message)

    monkeypatch.setitem(HARNESSES, "version", fail)
    status, (_, told) = fuzz("--seconds=1", "--seed=3", "version")
    assert status == 1
    assert "AssertionError: a promise" in told
    (found,) = tmp_path.iterdir()
    assert found.name == "version-3-1"
    with pytest.raises(AssertionError, match="a promise"):
        fuzz("--again", str(found), "version")
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", ["run.py", "--again", str(found), "version"])
    assert run.main() == 0
