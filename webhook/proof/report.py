"""How a proof is told: text for a terminal, a stable document for machines, a page for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape
from typing import Any, Final

from webhook.proof.failures import Cause, Explained
from webhook.proof.statistics import Latencies
from webhook.proof.timeline import LEGEND, draw
from webhook.proof.verdict import Answer, Comparison, Verdict

FORMAT_VERSION: Final = 1
_PAGE_COLUMNS: Final = 140
_MILLISECONDS: Final = 1000


# --- text ----------------------------------------------------------------------------------------


def text(verdict: Verdict, width: int = 100) -> Iterator[str]:
    """Give the lines of a verdict for a terminal: what others wrote cannot steer it."""
    for line in _lines(verdict, width):
        yield "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line)


def _lines(verdict: Verdict, width: int) -> Iterator[str]:
    yield f"{verdict.workload}: {_result(verdict)}"
    for reason in verdict.reasons:
        yield f"  no verdict: {reason}"
    yield from _told_durations(verdict)
    yield ""
    yield from draw(
        verdict.scene.pods,
        [each.failure.at for each in verdict.explained],
        _length(verdict),
        width,
    )
    yield LEGEND
    if verdict.explained:
        yield ""
        yield from _aligned(_cause_rows(verdict))
        for cause in verdict.causes:
            yield f"{cause.value}: {cause.remedy}"
    yield ""
    yield from _aligned(_latency_rows(verdict))


def comparison_text(found: Comparison, width: int = 100) -> Iterator[str]:
    """Give the lines of a comparison for a terminal: each part, then the table of both."""
    for verdict in (found.without, found.treated):
        yield from text(verdict, width)
        yield ""
    yield from _aligned(summary_rows([found.without, found.treated]))
    yield found.text


def summary_rows(verdicts: Sequence[Verdict]) -> list[tuple[str, ...]]:
    """Give the rows of a table of verdicts, the head among them."""
    rows: list[tuple[str, ...]] = [("WORKLOAD", "REQUESTS", "FAILED", "SHARE", "ROLLOUT", "WHY")]
    for each in verdicts:
        why = ", ".join(f"{cause.value} {count}" for cause, count in each.causes.items())
        if each.answer is Answer.NO_VERDICT:
            why = f"no verdict: {each.reasons[0]}"
        rows.append(
            (
                each.workload,
                str(each.requests),
                str(each.failed),
                _share(each),
                _seconds(_lasted(each)),
                why or "-",
            )
        )
    return rows


def summary(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Give the lines of a table of verdicts."""
    yield from _aligned(summary_rows(verdicts))


def _result(verdict: Verdict) -> str:
    counted = f"{verdict.failed} of {verdict.requests} requests failed"
    if verdict.bound is not None:
        counted += f" (with 95 % confidence, fewer than {_percent(verdict.bound)} do)"
    elif verdict.requests:
        counted += f" ({_share(verdict)})"
    return counted


def _told_durations(verdict: Verdict) -> Iterator[str]:
    rollout = verdict.rollout
    if rollout.began is None:
        return
    if rollout.done is not None:
        yield f"  rolled out in {_seconds(rollout.done - rollout.began)}"
    if rollout.gone is not None:
        yield f"  the last old pod was gone after {_seconds(rollout.gone - rollout.began)}"


def _cause_rows(verdict: Verdict) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("FAILED", "CAUSE", "WHAT", "SEEN AS", "FIRST", "LAST")]
    for cause, count in verdict.causes.items():
        those = [each for each in verdict.explained if each.cause is cause]
        kinds = sorted({_kind(each) for each in those})
        first, last = those[0].failure.at, those[-1].failure.at
        rows.append(
            (
                str(count),
                cause.value,
                cause.what,
                ", ".join(kinds[:4]),
                f"{first:.1f} s",
                f"{last:.1f} s",
            )
        )
    return rows


def _kind(explained: Explained) -> str:
    failure = explained.failure
    return str(failure.status) if failure.status else failure.kind.value


def _latency_rows(verdict: Verdict) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("ANSWERS", "COUNT", "P50", "P90", "P99", "MOST")]
    for name, found in _phases(verdict).items():
        if found is None:
            rows.append((name, "0", "-", "-", "-", "-"))
            continue
        times = (found.p50, found.p90, found.p99, found.most)
        cells = (f"{each * _MILLISECONDS:.0f} ms" for each in times)
        rows.append((name, str(found.count), *cells))
    return rows


def _phases(verdict: Verdict) -> dict[str, Latencies | None]:
    return {
        "before": verdict.before,
        "during": verdict.during,
        "after": verdict.after,
    }


def _length(verdict: Verdict) -> float:
    rollout = verdict.rollout
    moments = [each for each in (rollout.done, rollout.gone, rollout.began) if each is not None]
    moments += [each.failure.at for each in verdict.explained]
    return max(moments, default=0.0) + 1


def _lasted(verdict: Verdict) -> float | None:
    rollout = verdict.rollout
    return None if rollout.began is None or rollout.done is None else rollout.done - rollout.began


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _share(verdict: Verdict) -> str:
    if verdict.bound is not None:
        return f"< {_percent(verdict.bound)}"
    return _percent(verdict.failed / verdict.requests) if verdict.requests else "-"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield "   ".join(cells).rstrip()


# --- for machines --------------------------------------------------------------------------------


def document(found: Verdict | Comparison) -> dict[str, Any]:
    """Give a proof as a JSON document, `formatVersion` 1."""
    if isinstance(found, Verdict):
        return {"formatVersion": FORMAT_VERSION, "runs": [_run(found)], "comparison": None}
    comparison = {"p": found.p, "test": "fisher-exact-two-sided", "text": found.text}
    return {
        "formatVersion": FORMAT_VERSION,
        "runs": [_run(found.without), _run(found.treated)],
        "comparison": comparison,
    }


def _run(verdict: Verdict) -> dict[str, Any]:
    rollout = verdict.rollout
    began = rollout.began
    gone = None if rollout.gone is None or began is None else rollout.gone - began
    return {
        "workload": verdict.workload,
        "verdict": verdict.answer.value,
        "reasons": list(verdict.reasons),
        "requests": verdict.requests,
        "failed": verdict.failed,
        "boundAt95": verdict.bound,
        "rolloutBegan": _rounded(began),
        "rolledOutSeconds": _rounded(_lasted(verdict)),
        "oldPodsGoneSeconds": _rounded(gone),
        "causes": [
            {"cause": cause.value, "failed": count, "title": cause.what, "remedy": cause.remedy}
            for cause, count in verdict.causes.items()
        ],
        "latencies": {
            name: None
            if each is None
            else {key: _rounded(value, 6) for key, value in asdict(each).items()}
            for name, each in _phases(verdict).items()
        },
        "failures": [_failure(each) for each in verdict.explained],
        "pods": [
            {
                "name": pod.name,
                "old": pod.old,
                "created": _rounded(pod.created),
                "ready": _rounded(pod.ready),
                "available": _rounded(pod.available),
                "terminating": _rounded(pod.terminating),
                "stopped": _rounded(pod.stopped),
                "gone": _rounded(pod.gone),
                "exitCode": pod.exit_code,
                "restarts": pod.restarts,
            }
            for pod in verdict.scene.pods
        ],
    }


def _failure(each: Explained) -> dict[str, Any]:
    failure = each.failure
    return {
        "at": _rounded(failure.at),
        "took": _rounded(failure.took),
        "seen": failure.kind.value,
        "status": failure.status,
        "connection": "kept" if failure.kept else "fresh",
        "reused": failure.reused,
        "connected": failure.connected,
        "cause": each.cause.value,
        "pod": each.pod,
        "text": failure.text,
    }


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)


# --- a page --------------------------------------------------------------------------------------

_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
pre { font: 12px/1.25 ui-monospace, monospace; overflow-x: auto; padding: .5rem 0; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { border-bottom: 1px solid #8886; padding: .25rem .75rem .25rem 0; text-align: left;
  vertical-align: top; }
.lost { color: #c62828; } .none-lost { color: #2e7d32; } .no-verdict { color: #b26a00; }
"""


_POLICY: Final = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
)


def page(found: Verdict | Comparison) -> str:
    """Give a proof as one HTML page that loads nothing: no script, no font, no image."""
    verdicts = [found] if isinstance(found, Verdict) else [found.without, found.treated]
    title = "Requests lost in a rollout"
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        _POLICY,
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>",
        _table(summary_rows(verdicts)),
    ]
    if isinstance(found, Comparison):
        parts.append(f"<p>{escape(found.text)}</p>")
    parts += [part for verdict in verdicts for part in _section(verdict)]
    return "\n".join([*parts, "</body></html>\n"])


def _section(verdict: Verdict) -> Iterator[str]:
    yield f"<h2>{escape(verdict.workload)}</h2>"
    yield f'<p class="{verdict.answer.value}">{escape(_result(verdict))}</p>'
    for line in (*(f"no verdict: {each}" for each in verdict.reasons), *_told_durations(verdict)):
        yield f"<p>{escape(line)}</p>"
    moments = [each.failure.at for each in verdict.explained]
    drawn = draw(verdict.scene.pods, moments, _length(verdict), _PAGE_COLUMNS)
    yield f"<pre>{escape(chr(10).join([*drawn, LEGEND]))}</pre>"
    if verdict.explained:
        yield _table(_cause_rows(verdict))
        yield _remedies(verdict.causes)
    yield _table(_latency_rows(verdict))


def _remedies(causes: Mapping[Cause, int]) -> str:
    items = (f"<li><b>{escape(cause.value)}</b>: {escape(cause.remedy)}</li>" for cause in causes)
    return f"<ul>{''.join(items)}</ul>"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    head, *body = rows
    cells = "".join(f"<th>{escape(each)}</th>" for each in head)
    lines = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in body)
    return f"<table><tr>{cells}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
