"""The log: one line a review, nothing of the object, no flood, nothing that can be forged."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests import builders
from webhook.decision.admission import Admission, Answer
from webhook.decision.configuration import Configuration
from webhook.decision.mutations.model import Mutation
from webhook.serving import logs
from webhook.serving.logs import Bounded

UID = "705ab4f5-6393-11e8-b7cc-42010a800002"
DOCUMENT = Path("docs/metrics.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    """Leave the loggers as they were: other tests look at what is logged."""
    names = ("webhook", "uvicorn", "asyncio", "opentelemetry")
    loggers = [logging.getLogger(name) for name in names]
    before = [(each, each.handlers, each.level, each.propagate) for each in loggers]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def answered(given: Any = None, **more: Any) -> Answer:
    """Answer a review of a workload."""
    given = builders.deployment() if given is None else given
    return Admission(Configuration()).answer(orjson.dumps(builders.review(given, **more)))


def line(capsys: pytest.CaptureFixture[str]) -> str:
    """Give the one line that was logged."""
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_review_that_was_patched_is_one_line_with_what_was_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In JSON, for machines."""
    logs.set_up("json")
    logs.review(answered(), 0.0012345)
    found = json.loads(line(capsys))
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("time"))
    assert found == {
        "level": "info",
        "message": "review",
        "uid": UID,
        "operation": "CREATE",
        "kind": "Deployment",
        "namespace": builders.NAMESPACE,
        "name": "web",
        "dryRun": False,
        "outcome": "patched",
        "reason": "",
        "applied": ["pre-stop-sleep", "min-ready"],
        "warnings": [],
        "refused": [],
        "milliseconds": 1.234,
    }


def test_every_key_of_a_line_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    """And every documented key is one that there is."""
    logs.set_up("json")
    logs.review(answered(), 0.001)
    found = set(json.loads(line(capsys)))
    rows = DOCUMENT.partition("## Logs")[2].partition("## Traces")[0]
    listed = {
        key
        for row in rows.splitlines()
        if row.startswith("| `")
        for key in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert listed == found | {"stack", "dropped"}


def test_in_text_empty_keys_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """For people."""
    logs.set_up("text")
    logs.review(answered(dryRun=True), 0.001)
    assert line(capsys).partition("INFO ")[2] == (
        f"review uid={UID} operation=CREATE kind=Deployment namespace={builders.NAMESPACE} "
        "name=web dryRun=true outcome=patched applied=pre-stop-sleep,min-ready milliseconds=1.0\n"
    )


REFUSED = builders.with_settings(builders.deployment(), min_ready="my secret")
DISABLED = builders.with_settings(builders.deployment(), inject="disabled")


@pytest.mark.parametrize(
    ("given", "outcome", "level"),
    [
        (builders.deployment(), "patched", "info"),
        (REFUSED, "refused", "info"),
        (DISABLED, "skipped", "debug"),
    ],
)
def test_a_review_that_nothing_came_of_is_logged_at_debug_alone(
    given: Any, outcome: str, level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """At info it is no line; at warning no review is."""
    for least in logs.LEVELS:
        logs.set_up("json", least)
        logs.review(answered(given), 0.001)
        error = capsys.readouterr().err
        if logs.LEVELS.index(least) <= logs.LEVELS.index(level):
            found = json.loads(error)
            assert (found["outcome"], found["level"]) == (outcome, level)
        else:
            assert error == ""


def test_nothing_that_the_object_holds_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """Names of settings, not their values; no environment, no annotation."""
    given = builders.with_settings(REFUSED, pre_stop_sleep="5s")
    given["metadata"]["annotations"]["example.com/token"] = "my secret"
    container = given["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": "PASSWORD", "value": "my secret"}]
    for style in logs.FORMATS:
        logs.set_up(style, "debug")
        logs.review(answered(given), 0.001)
        error = line(capsys)
        assert "min-ready" in error
        assert "secret" not in error
        assert "PASSWORD" not in error


def test_a_line_that_nobody_wants_is_not_even_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs a look at the level."""
    logs.set_up("json", "warning")
    monkeypatch.setattr(logs, "_said", lambda *_: pytest.fail("it was made"))
    logs.review(answered(), 0.001)
    logs.set_up("json")
    logs.review(answered(DISABLED), 0.001)


def test_an_unexpected_error_is_one_line_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The stack is one of its keys; there is no second line for the review."""

    def fail(*_: object) -> None:
        message = "a\nb"
        raise RuntimeError(message)

    logs.set_up("json", "debug")
    sound = Admission(Configuration()).mutations
    broken = Mutation(apply=fail, fields=sound[-1].fields)
    admission = Admission(Configuration(), mutations=(*sound, broken))
    given = orjson.dumps(builders.review(builders.deployment()))
    logs.review(admission.answer(given), 0.001)
    found = json.loads(line(capsys))
    assert UID in found["message"]
    assert found["level"] == "error"
    assert found["stack"].startswith("Traceback")


HOSTILE = (
    'x\n2026-11-22 11:00:00,000 INFO review outcome=patched\x1b[2J" uid=1 '
    "\N{RIGHT-TO-LEFT OVERRIDE}"
)


@pytest.mark.parametrize("style", logs.FORMATS)
def test_a_strangers_words_cannot_forge_a_line_or_a_key(
    style: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They stay one value on one line, and short."""
    logs.set_up(style, "debug")
    logs.review(answered(uid=HOSTILE[:200], name=HOSTILE * 100), 0.001)
    error = line(capsys)
    assert error[:-1].isprintable() or style == "json"
    assert "\x1b" not in error
    assert len(error) < 4000
    if style == "json":
        assert json.loads(error)["uid"] == HOSTILE[:200]
    else:
        bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', error)
        assert bare.count("uid=") == bare.count("outcome=") == 1


def test_the_lines_of_a_stack_are_indented_in_text(capsys: pytest.CaptureFixture[str]) -> None:
    """The message of an exception may hold a stranger's words: none begins a line."""
    logs.set_up("text")
    try:
        int(HOSTILE)
    except ValueError:
        logs.log.exception("request %s", "a\nb")
    first, *rest = capsys.readouterr().err.splitlines()
    assert r"request a\nb" in first
    assert rest
    assert all(each.startswith("    ") and each.isprintable() for each in rest)


def test_half_a_character_is_logged_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A file's name need not be UTF-8."""
    for style in logs.FORMATS:
        logs.set_up(style)
        logs.log.info("not served: %s", "\udcff")
        assert r"\udcff" in line(capsys)


# --- floods --------------------------------------------------------------------------------------


def record(text: str = "it failed", level: int = logging.ERROR) -> logging.LogRecord:
    """Make a record."""
    return logging.LogRecord("webhook", level, "", 0, text, (), None)


def test_of_a_flood_the_first_lines_of_each_minute_pass_and_the_rest_is_told_by_number() -> None:
    """The next line of the kind bears it."""
    now = [0.0]
    bounded = Bounded(3, lambda: now[0])
    assert [bounded.filter(record()) for _ in range(5)] == [True, True, True, False, False]
    assert bounded.filter(record("another kind"))
    assert bounded.dropped == 2
    now[0] = 59.9
    assert not bounded.filter(record())
    now[0] = 60.0
    after = record()
    assert bounded.filter(after)
    assert after.__dict__["dropped"] == 3
    following = record()
    assert bounded.filter(following)
    assert "dropped" not in following.__dict__


def test_what_is_no_error_is_never_held_back() -> None:
    """A line for each review is what was asked for."""
    bounded = Bounded(1, lambda: 0.0)
    assert all(bounded.filter(record(level=logging.INFO)) for _ in range(100))
    assert bounded.dropped == 0


def test_kinds_of_lines_do_not_fill_the_memory() -> None:
    """A library may put values into the text itself."""
    bounded = Bounded(1, lambda: 0.0)
    for number in range(5000):
        assert bounded.filter(record(f"failed {number}"))
    assert len(bounded._kinds) <= 1001


@pytest.mark.parametrize("style", logs.FORMATS)
def test_a_flood_of_errors_is_short_in_the_log(
    style: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the logger itself, whatever the values are."""
    now = [0.0]
    monkeypatch.setattr(logs, "Bounded", lambda: Bounded(clock=lambda: now[0]))
    bounded = logs.set_up(style)
    for number in range(1000):
        logs.log.error("request %d failed", number)
    now[0] = 61.0
    logs.log.error("request %d failed", 1000)
    *_, last = lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert bounded.dropped == 980
    if style == "json":
        assert json.loads(last)["dropped"] == 980
    else:
        assert last.endswith("request 1000 failed (980 lines like this one were dropped before it)")
