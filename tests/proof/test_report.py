"""What is told: text, the document for machines, the page; and the drawing of pods."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from tests.proof.scenes import fresh, load, new, old, scene
from webhook.proof.failures import Kind, Pod
from webhook.proof.report import comparison_text, document, page, summary, text
from webhook.proof.timeline import LEAVING, SERVING, STARTING, STOPPED, draw, state
from webhook.proof.verdict import Comparison, Load, Rollout, Verdict, judge

HOSTILE = "<script>alert(1)</script>"


def verdict(given: Load | None = None, name: str = "deployment/web", *pods: Pod) -> Verdict:
    """A verdict on two pods, or others."""
    return judge(name, given or load(), scene(*pods), Rollout(5.0, 20.0, 21.0))


LOST = load(30, 10, fresh(12.2, Kind.REFUSED), fresh(12.4, Kind.TIMEOUT, 5.0))


def test_none_lost_is_told_with_its_bound() -> None:
    """And how long it took."""
    told = "\n".join(text(verdict()))
    assert "0 of 300 requests failed (with 95 % confidence, fewer than 1 % do)" in told
    assert "rolled out in 15.0 s" in told
    assert "the last old pod was gone after 16.0 s" in told
    assert "CAUSE" not in told


def test_what_was_lost_is_told_with_cause_and_remedy() -> None:
    """Once a cause."""
    told = "\n".join(text(verdict(LOST)))
    assert "2 of 300 requests failed (0.67 %)" in told
    assert re.search(
        r"^2 +stale-endpoint +.*refused, timeout +12\.2 s +12\.4 s$", told, re.MULTILINE
    )
    assert told.count("pre-stop-sleep: longer than") == 1


def test_nothing_that_others_wrote_steers_the_terminal() -> None:
    """A server's words, or a controller's, may hold anything."""
    hostile = "\x1b[2J\x07\rnone lost"
    lost = load(30, 10, fresh(1.0, Kind.PROTOCOL, text=hostile), gaps=[hostile])
    found = verdict(lost, f"web{hostile}", old(name=hostile), new())
    assert all(line.isprintable() for line in text(found))


def test_a_comparison_tells_both_and_the_chance() -> None:
    """The copy first."""
    told = list(comparison_text(Comparison(verdict(LOST, "copy"), verdict())))
    rows = [each for each in told if re.match(r"(copy|deployment/web) +300 ", each)]
    assert [each.split()[2] for each in rows] == ["2", "0"]
    assert "Fisher's exact test" in told[-1]


def test_a_summary_says_why_there_is_no_verdict() -> None:
    """In place of causes."""
    (_, row) = summary([verdict(load(sent=1))])
    assert "no verdict: the load generator sent 1 of 300" in row


def test_the_document_is_stable_and_complete() -> None:
    """These keys are what machines rely on."""
    found = json.loads(json.dumps(document(verdict(LOST))))
    assert found["formatVersion"] == 1
    (run,) = found["runs"]
    assert sorted(run) == [
        "boundAt95",
        "causes",
        "failed",
        "failures",
        "latencies",
        "oldPodsGoneSeconds",
        "pods",
        "reasons",
        "requests",
        "rolledOutSeconds",
        "rolloutBegan",
        "verdict",
        "workload",
    ]
    assert (run["verdict"], run["failed"], run["rolledOutSeconds"]) == ("lost", 2, 15.0)
    assert run["failures"][0]["cause"] == "stale-endpoint"
    assert run["failures"][0]["connection"] == "fresh"
    assert run["latencies"]["before"]["p50"] == 0.1
    assert {each["name"] for each in run["pods"]} == {"old", "new"}


def test_the_document_of_a_comparison_has_both_runs_and_the_probability() -> None:
    """Without first."""
    found = document(Comparison(verdict(LOST, "copy"), verdict()))
    assert [each["workload"] for each in found["runs"]] == ["copy", "deployment/web"]
    assert 0 < found["comparison"]["p"] <= 1


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [str(value) for name, value in attributes if name in ("src", "href")]


@pytest.mark.parametrize("compared", [False, True])
def test_the_page_loads_nothing_and_runs_nothing(compared: bool) -> None:  # noqa: FBT001
    """Whatever names and errors hold."""
    lost = load(30, 10, fresh(12.2, Kind.REFUSED, text=HOSTILE), gaps=[HOSTILE])
    found = verdict(lost, HOSTILE, old(name=HOSTILE), new())
    told = page(Comparison(found, verdict()) if compared else found)
    read = _Page()
    read.feed(told)
    assert HOSTILE not in told
    assert "script" not in read.tags
    assert not read.links
    assert "default-src 'none'" in told
    assert SERVING in told


@pytest.mark.parametrize(
    ("at", "wanted"), [(1, SERVING), (11, LEAVING), (12.2, STOPPED), (13, " ")]
)
def test_an_old_pod_serves_leaves_stops_and_is_gone(at: float, wanted: str) -> None:
    """By its own times."""
    assert state(old(), at) == wanted


@pytest.mark.parametrize(("at", "wanted"), [(1, " "), (6, STARTING), (9.5, SERVING)])
def test_a_new_pod_is_not_there_starts_and_serves(at: float, wanted: str) -> None:
    """And is not drawn before it was made."""
    assert state(new(), at) == wanted


@pytest.mark.parametrize("width", [20, 80, 200])
def test_a_drawing_fits_its_width_and_marks_failures_in_their_column(width: int) -> None:
    """Old pods first."""
    lines = draw([new(), old()], [12.2, 12.3], 20.0, width)
    assert [each.split()[0] for each in lines[:2]] == ["old", "new"]
    assert all(len(each) <= max(width, 30) + 2 for each in lines)
    failed = lines[2]
    assert failed.startswith("failed")
    margin = len("failed") + 2
    columns = max(20, width - margin)
    assert failed.index("█") - margin == int(12.2 / (20.0 / columns))


def test_a_drawing_of_nothing_is_an_axis() -> None:
    """No pods, no time."""
    assert len(draw([], [], 0.0)) == 1
