"""The load generator's report, as it comes: in order, twice, with gaps, or broken."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhook.proof.failures import Kind
from webhook.proof.reading import Reading, ReportError


def line(n: int = 0, now: float = 1.0, **given: Any) -> str:
    """A line of the report."""
    usual: dict[str, Any] = {
        "n": n,
        "now": now,
        "upTo": now,
        "due": 1,
        "sent": 1,
        "late": 0,
        "mostLate": 0.0,
        "ok": [[now - 0.2, 0.1]],
        "failed": [],
        "answered": {},
    }
    return json.dumps(usual | given)


FAILED = {
    "at": 0.5,
    "took": 0.1,
    "kind": "refused",
    "kept": False,
    "reused": False,
    "connected": False,
    "status": None,
    "pod": None,
    "text": "",
}


def test_lines_add_up() -> None:
    """Answers, failures, and who answered when."""
    reading = Reading(10)
    reading.take(line(0, 1.0, failed=[FAILED], answered={"web": [0.1, 0.9]}), 101.0)
    reading.take(line(1, 2.0, answered={"web": [1.1, 1.9]}, due=3, sent=2), 102.0)
    assert reading.load.requests == 3
    assert reading.load.failures[0].kind is Kind.REFUSED
    assert reading.load.answered == {"web": (0.1, 1.9)}
    assert (reading.load.due, reading.load.sent, reading.up_to) == (3, 2, 2.0)


def test_the_fastest_line_tells_when_the_load_began() -> None:
    """By this process's clock: delays only make it seem later."""
    reading = Reading(10)
    for number, delay in enumerate((0.5, 0.01, 2.0)):
        reading.take(line(number, float(number)), 100 + number + delay)
    assert reading.began == pytest.approx(100.01)


def test_a_line_that_comes_twice_counts_once() -> None:
    """A log is read again from a little before it broke off."""
    reading = Reading(10)
    for number in (0, 1, 0, 1, 2):
        reading.take(line(number), 100.0)
    assert reading.load.requests == 3
    assert not reading.load.faults()


def test_a_line_that_is_missing_is_a_reason_for_no_verdict() -> None:
    """What was in it is not known."""
    reading = Reading(10)
    reading.take(line(0), 100.0)
    reading.take(line(3), 101.0)
    assert reading.load.faults() == ["2 lines of the load generator's report were lost"]


def test_until_a_moment_is_what_was_due_by_then() -> None:
    """Failures, too."""
    reading = Reading(10)
    reading.take(line(0, ok=[[0.1, 1.0], [0.6, 0.1]], failed=[FAILED]), 100.0)
    assert reading.until(0.55).requests == 2
    assert reading.until(0.2).requests == 1


@given(st.text() | st.binary() | st.sampled_from(["{}", "[]", "null", "1", "[" * 5000]))
def test_what_is_no_report_is_refused(given_line: str | bytes) -> None:
    """With one error, whatever it is."""
    with pytest.raises(ReportError):
        Reading(10).take(given_line, 1.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ok": 1},
        {"ok": [[1]]},
        {"failed": [{}]},
        {"failed": [FAILED | {"kind": "strange"}]},
        {"answered": [1]},
        {"due": None},
    ],
)
def test_a_line_of_another_shape_is_refused(wrong: dict[str, Any]) -> None:
    """Whatever part of it is wrong."""
    with pytest.raises(ReportError):
        Reading(10).take(line(**wrong), 1.0)
