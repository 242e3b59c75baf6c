"""How a plan is told in a terminal: what changes, why, and the rollout before and after.

Colour comes only where a terminal is, and not where `NO_COLOR` is set (https://no-color.org).
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from webhook.cli.manifests import dump
from webhook.cli.planner import Outcome, Plan, Planned, state_of
from webhook.cli.timeline import (
    LEGEND,
    STYLES,
    Segment,
    draw,
    reasons,
    summarised,
    totals,
    waits,
)
from webhook.decision import aws
from webhook.decision.configuration import Configuration
from webhook.decision.estimate import HELM_WAIT_SECONDS, duration
from webhook.decision.printable import printable
from webhook.decision.settings import BUILT_IN, RECORD
from webhook.decision.workload import mapping
from webhook.rollout.simulation import Rollout

Json = dict[str, Any]
Note = tuple[str, str]
"""What a note is about, and its text."""

_MOST_COMPARED: Final = 20_000  # lines
_FALLBACK_WIDTH: Final = (100, 24)  # where no terminal is
_INDENT: Final = "  "
_DIFF_STYLES: Final = {"+": "green", "-": "red", "@": "cyan"}


class _Printer:
    """Prints lines that are safe to show, in colour where a terminal is."""

    def __init__(self) -> None:
        self.width = shutil.get_terminal_size(_FALLBACK_WIDTH).columns
        self._paint = _painter() if sys.stdout.isatty() else None

    def line(self, text: str = "", style: str = "") -> None:
        """Print one line, whatever strangers wrote into it."""
        self.segments([(printable(text), style)])

    def segments(self, segments: Iterable[Segment]) -> None:
        """Print one line of texts that are safe already."""
        paint = self._paint
        parts = [paint(*each) if paint and each[1] else each[0] for each in segments]
        sys.stdout.write("".join(parts).rstrip() + "\n")


def _painter() -> Callable[[str, str], str] | None:
    """Give what writes a text in a style; none where nothing shall be painted."""
    if os.environ.get("NO_COLOR"):
        return None
    from rich.console import COLOR_SYSTEMS, Console
    from rich.style import Style

    name = Console(file=sys.stdout).color_system
    if name is None:  # a terminal that says it is dumb
        return None
    system = COLOR_SYSTEMS[name]
    styles = {key: Style.parse(STYLES.get(key, key)) for key in (*STYLES, *_NAMED) if key}
    return lambda text, style: styles[style].render(text, color_system=system)


_NAMED: Final = ("bold", "red", "green", "cyan", "yellow", "dim")


def write_text(plan: Plan, settings: Configuration, *, show_record: bool = False) -> None:
    """Print a plan.

    Args:
        plan: what was planned.
        settings: the configuration that it was planned under.
        show_record: whether to show the record of what was injected in full.
    """
    out = _Printer()
    notes = [list(notes_of(each, settings)) for each in plan.workloads]
    shared = shared_notes(notes)
    if shared:
        for text, many in shared.items():
            who = "all" if many == len(plan.workloads) else f"{many} of {len(plan.workloads)}"
            out.line(f"note for {who} workloads: {text}", "dim")
        out.line()
    told_legend = False
    for each, own in zip(plan.workloads, notes, strict=True):
        _head(out, each, [text for _, text in own if text not in shared])
        if each.patch:
            out.line()
            for text in diff(each, show_record=show_record):
                out.line(text, _diff_style(text))
        if each.what_if is not None:
            out.line()
            _what_if(out, each, each.what_if, asked(plan))
        if each.written is not None:
            out.line()
            if not told_legend:
                _legend(out)
                told_legend = True
            _rollouts(out, each, asked(plan))
        elif each.not_simulated and each.kind is not aws.NAMESPACE_KIND:
            out.line(f"  rollout: not simulated: {each.not_simulated}")
        out.line()
    out.line(summary(plan), "bold")


def summary(plan: Plan) -> str:
    """Say in one line what a plan comes to."""
    workloads = plan.workloads
    refused = sum(bool(each.decision.refused) for each in workloads)
    patched = sum(bool(each.patch) for each in workloads)
    many = f"{_many(len(workloads), 'workload')} in {_many(len(plan.documents), 'document')}"
    return f"{many}: {patched} changed, {refused} refused"


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _head(out: _Printer, each: Planned, notes: Iterable[str]) -> None:
    out.line(f"{each.title}: {each.state}", "bold")
    out.line(f"  from {each.place}", "dim")
    for text in notes:
        out.line(f"  note: {text}")
    for text in each.left_alone:
        out.line(f"  left alone: {text}")
    for text in each.warnings:
        out.line(f"  warning: {text}", "yellow")
    for problem in each.decision.refused:
        out.line(f"  refused: {problem}", "red")


# --- notes ---------------------------------------------------------------------------------------


def notes_of(each: Planned, settings: Configuration) -> Iterator[Note]:
    """Tell what there is to know of a workload besides what changes."""
    if settings.mode == "audit":
        yield "mode", "audit mode: nothing would be patched"
        if each.decision.applied:
            yield "audit", f"patch mode would apply {', '.join(each.decision.applied)}"
    if not each.known:
        yield (
            f"namespace {each.namespace}",
            f"namespace {each.namespace} is not known here: taken as selected",
        )
    for name, text in applied(each.outcome):
        yield f"setting {name}", text
    for text in each.in_git:
        yield f"Git {text.partition(' ')[0]}", text
    if each.outlives_helm and each.admitted is not None and not each.admitted.unfinished:
        wait = duration(HELM_WAIT_SECONDS)
        yield "helm", f"rollout: helm --wait gives up after {wait} unless told otherwise"


def applied(outcome: Outcome) -> Iterator[tuple[str, str]]:
    """Give the settings that were applied, each with its value and where that comes from."""
    situation = outcome.decision.situation
    if situation is None:
        return
    for name in outcome.decision.applied:
        found = situation[name]
        source = found.source if found.source == BUILT_IN else f"from the {found.source}"
        yield name, f"{name}: {_shown(found.value)}, {source}"


def _shown(value: Any) -> str:
    """Write a value as it would be set; the only numbers among them are durations."""
    if isinstance(value, int):
        return duration(value)
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def shared_notes(notes: Iterable[Iterable[Note]]) -> dict[str, int]:
    """Find the notes that come once: of one matter, the same for all, and for several.

    Returns:
        each text, and for how many workloads it is.
    """
    texts: dict[str, list[str]] = {}
    for of_one in notes:
        for topic, text in of_one:
            texts.setdefault(topic, []).append(text)
    return {
        found[0]: len(found) for found in texts.values() if len(found) > 1 and len(set(found)) == 1
    }


# --- the diff ------------------------------------------------------------------------------------


def diff(each: Planned, *, show_record: bool = False) -> Iterator[str]:
    """Compare an object as it is written and as it would be admitted, as unified diffs do."""
    before, after = each.before, each.after
    if not show_record:
        before, after = _folded(before, after)
    first, second = dump(before).split("\n")[:-1], dump(after).split("\n")[:-1]
    if len(first) > _MOST_COMPARED:
        # What repeats its lines often enough would take hours to compare.
        yield f"(the {len(first)} lines of it are not compared: the patch is)"
        yield from (json.dumps(operation) for operation in each.patch)
        return
    name = printable(each.name)  # one line
    yield from difflib.unified_diff(
        first, second, f"{name} as written", f"{name} as admitted", lineterm=""
    )


_RECORDS: Final = (("metadata",), ("spec", "template", "metadata"))


def _folded(before: Json, after: Json) -> tuple[Json, Json]:
    """Put a few words in the place of the records: they repeat what the diff shows."""
    for path in _RECORDS:
        old, new = (_annotations(each, path).get(RECORD) for each in (before, after))
        changed = old is not None and new is not None and old != new
        before = _with_record(before, path, "folded, as it was" if changed else "folded")
        after = _with_record(after, path, "folded")
    return before, after


def _annotations(workload: Json, path: tuple[str, ...]) -> Json:
    found: Any = workload
    for key in path:
        found = mapping(found).get(key)
    return mapping(mapping(found).get("annotations"))


def _with_record(workload: Json, path: tuple[str, ...], text: str) -> Json:
    """Give a copy with these words for its record; the same object where it has none."""
    annotations = _annotations(workload, path)
    record = annotations.get(RECORD)
    if not isinstance(record, str):
        return workload
    words = f"({text}: {len(record)} characters; see --show-record)"
    result: Json = {**annotations, RECORD: words}
    for end in range(len(path), -1, -1):
        parent: Any = workload
        for key in path[:end]:
            parent = parent[key]
        below = "annotations" if end == len(path) else path[end]
        result = {**parent, below: result}
    return result


def _diff_style(text: str) -> str:
    if text.startswith(("+++", "---")):
        return "bold"
    return _DIFF_STYLES.get(text[:1], "")


# --- rollouts ------------------------------------------------------------------------------------


def asked(plan: Plan) -> str:
    """Write the settings of `--what-if` as they were asked for."""
    return " ".join(f"{name}={text}" for name, text in plan.what_if.items())


def pictures(each: Planned, what_if: str) -> list[tuple[str, Rollout]]:
    """Give the rollouts that differ, each with what it is of."""
    found: list[tuple[str, Rollout]] = []
    for what, rollout in (
        ("as written", each.written),
        ("as admitted", each.admitted),
        (f"with {what_if}", each.what_if_rollout),
    ):
        if rollout is None:
            continue
        last = found[-1] if found else None
        if last is not None and _same(last[1], rollout):
            found[-1] = (f"{last[0]} and {what}", last[1])
        else:
            found.append((what, rollout))
    return found


def _same(one: Rollout, other: Rollout) -> bool:
    """Tell whether two rollouts go alike, whatever their workloads are called by."""
    return one is other or (
        (one.rolled_out, one.unfinished, one.at_risk, one.path)
        == (other.rolled_out, other.unfinished, other.at_risk, other.path)
        and one.pods == other.pods
        and one.losses == other.losses
    )


def _legend(out: _Printer) -> None:
    segments: list[Segment] = [(_INDENT, "")]
    width = len(_INDENT)
    for text, style in LEGEND:
        if width + len(text) > out.width and len(segments) > 1:
            out.segments(segments)
            segments, width = [(_INDENT, "")], len(_INDENT)
        segments += [(text[:1], style), (text[1:] + _INDENT, "")]
        width += len(text) + len(_INDENT)
    out.segments(segments)


def _rollouts(out: _Printer, each: Planned, what_if: str) -> None:
    found = pictures(each, what_if)
    end = max(rollout.end for _, rollout in found)
    assumed: set[str] = set()
    for what, rollout in found:
        out.line(f"  rollout {what}: {totals(rollout)}", "bold")
        for text in (waits(rollout), *reasons(rollout), summarised(rollout)):
            if text:
                out.line(f"    {text}")
        for text in rollout.assumptions:
            if text not in assumed:
                out.line(f"    assumed: {text}")
                assumed.add(text)
        for segments in draw(rollout, out.width - len(_INDENT), end):
            out.segments([(_INDENT, ""), *segments])


def _what_if(out: _Printer, each: Planned, outcome: Outcome, what_if: str) -> None:
    out.line(f"  what if {what_if}: {state_of(outcome)}", "bold")
    known = {*each.warnings, *(text for _, text in applied(each.outcome))}
    for _, text in applied(outcome):
        if text not in known:
            out.line(f"    {text}")
    for text in outcome.warnings:
        if text not in known:
            out.line(f"    warning: {text}", "yellow")
    for problem in outcome.decision.refused:
        out.line(f"    refused: {problem}", "red")
