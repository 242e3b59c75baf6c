"""A plan as one page: the same as in the terminal, with each rollout as a picture.

The page asks for nothing outside of itself and runs no script; its policy says so to the browser.
It follows the reader's choice of light or dark, can be printed, and tells in words and in a table
what the pictures show. Whatever strangers wrote is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from webhook.cli.plan_text import (
    applied,
    asked,
    diff,
    notes_of,
    pictures,
    shared_notes,
    summary,
)
from webhook.cli.planner import Plan, Planned, state_of
from webhook.cli.timeline import (
    PHASES,
    Row,
    at_risk,
    clock,
    reasons,
    rows,
    summarised,
    ticks,
    totals,
    waits,
)
from webhook.decision.configuration import Configuration
from webhook.decision.estimate import duration
from webhook.decision.printable import printable
from webhook.rollout.simulation import Pod, Rollout

MOST_ROWS: Final = 24
_MOST_PODS_IN_TABLE: Final = 50

_WIDTH: Final = 1000  # of a picture, in its own units
_MARGIN: Final = 84
_ROW: Final = 20
_BAR: Final = 12
_AXIS: Final = 22
_TICKS: Final = 10
_LEAST_BAR: Final = 0.05  # units: less is not seen
_LEAST_LOSS: Final = 4  # units: what must not be missed

_STYLE: Final = """
:root{color-scheme:light dark;--ground:#fff;--text:#1c2430;--soft:#5b6675;--line:#dfe4ea;
--card:#f7f9fb;--starting:#c3cbd6;--ready:#7cc4d8;--available:#2e9e6b;--sleeping:#5a7fd6;
--stopping:#e0a53a;--killed:#b0489f;--lost:#d3302f;--plus:#e4f5ea;--minus:#fbe7e6;--warn:#8a5a00}
@media(prefers-color-scheme:dark){:root{--ground:#12161c;--text:#e4e9f0;--soft:#9aa7b8;
--line:#2b333f;--card:#191f27;--starting:#4b5666;--ready:#3d8ba3;--available:#35b57b;
--sleeping:#7396ea;--stopping:#e3b054;--killed:#cf6fc0;--lost:#ff6b66;--plus:#143424;
--minus:#421d1d;--warn:#f0c060}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--text);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
header,main{max-width:72rem;margin:0 auto;padding:1.5rem 1rem}
h1{font-size:1.6rem;margin:0 0 .25rem}h2{font-size:1.2rem;margin:0;overflow-wrap:anywhere}
h3{font-size:1rem;margin:1.25rem 0 .25rem}
p{margin:.25rem 0}.soft{color:var(--soft)}
a{color:inherit}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:1rem 1.25rem;margin:0 0 1.25rem}
ul{margin:.5rem 0;padding-left:1.25rem}li{overflow-wrap:anywhere}
.warning{color:var(--warn)}.refused{color:var(--lost)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid var(--line);
vertical-align:top}
.overview{width:100%}.overview td{white-space:nowrap}.totals{font-weight:600}
td.number,th.number{text-align:right}
pre{margin:.5rem 0;padding:.5rem .75rem;border:1px solid var(--line);border-radius:8px;
overflow-x:auto;font:.8rem/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
background:var(--ground)}
pre code{display:inline-block;min-width:100%;font:inherit}
ins,del{display:block;text-decoration:none}ins{background:var(--plus)}del{background:var(--minus)}
summary{cursor:pointer;color:var(--soft);margin-top:.5rem}
figure{margin:.25rem 0}
svg{display:block;width:100%;height:auto;min-width:34rem}
svg text{fill:var(--soft);font:11px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
.grid{stroke:var(--line);stroke-width:1}
.starting{fill:var(--starting);background:var(--starting)}
.ready{fill:var(--ready);background:var(--ready)}
.available{fill:var(--available);background:var(--available)}
.sleeping{fill:var(--sleeping);background:var(--sleeping)}
.stopping{fill:var(--stopping);background:var(--stopping)}
.killed{fill:var(--killed);background:var(--killed)}
.lost{fill:var(--lost);background:var(--lost)}
.may{fill:none;stroke:var(--lost);stroke-width:1.5}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1rem;list-style:none;padding:0;font-size:.875rem}
.legend span{display:inline-block;width:.9rem;height:.75rem;border-radius:2px;margin-right:.375rem;
vertical-align:-1px}
.legend .may{background:none;border:1.5px solid var(--lost)}
@media print{:root{color-scheme:light}body{font-size:11pt}section{break-inside:auto;border:0;
padding:0}figure,tr{break-inside:avoid}h2,h3{break-after:avoid}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}svg{min-width:0}
.scroll,pre{overflow:visible}pre{white-space:pre-wrap}.overview td{white-space:normal}}
""".strip()

_POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'"
)


def page(plan: Plan, settings: Configuration, *, show_record: bool = False) -> str:
    """Write a plan as a page of HTML.

    Args:
        plan: what was planned.
        settings: the configuration that it was planned under.
        show_record: whether to show the record of what was injected in full.
    """
    return "\n".join(_page(plan, settings, show_record=show_record)) + "\n"


def _page(plan: Plan, settings: Configuration, *, show_record: bool) -> Iterator[str]:
    notes = [list(notes_of(each, settings)) for each in plan.workloads]
    shared = shared_notes(notes)
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield '<meta name="viewport" content="width=device-width,initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">'
    yield "<title>Rollout plan</title>"
    yield f"<style>{_STYLE}</style>\n</head>\n<body>"
    yield f"<header>\n<h1>Rollout plan</h1>\n<p>{_text(summary(plan))}</p>"
    if plan.what_if:
        yield f"<p>What if <code>{_text(asked(plan))}</code>: shown beside what is set.</p>"
    yield from _list(
        f"For {'all' if many == len(plan.workloads) else many} workloads: {text}"
        for text, many in shared.items()
    )
    yield "</header>\n<main>"
    if plan.workloads:
        yield from _overview(plan)
        yield from _legend()
    for number, (each, own) in enumerate(zip(plan.workloads, notes, strict=True), 1):
        texts = [text for _, text in own if text not in shared]
        yield from _workload(plan, each, number, texts, show_record=show_record)
    yield "</main>\n</body>\n</html>"


def _overview(plan: Plan) -> Iterator[str]:
    yield '<section aria-labelledby="overview">\n<h2 id="overview">Overview</h2>'
    yield '<div class="scroll" tabindex="0" role="region" aria-labelledby="overview">'
    yield '<table class="overview">\n<thead><tr><th scope="col">Workload</th>'
    yield '<th scope="col">What becomes of it</th>'
    yield '<th scope="col">Rolled out, before and after</th>'
    yield '<th scope="col">At risk, before and after</th></tr></thead>\n<tbody>'
    for number, each in enumerate(plan.workloads, 1):
        both = (each.written, each.admitted)
        took = " → ".join(_took(one) for one in both)
        risk = " → ".join("-" if one is None else _risk(one) for one in both)
        yield (
            f'<tr><th scope="row"><a href="#w{number}">{_text(each.title)}</a></th>'
            f"<td>{_text(each.state)}</td><td>{_text(took)}</td><td>{_text(risk)}</td></tr>"
        )
    yield "</tbody>\n</table>\n</div>\n</section>"


def _took(rollout: Rollout | None) -> str:
    if rollout is None:
        return "-"
    return "never" if rollout.rolled_out is None else clock(rollout.rolled_out)


def _risk(rollout: Rollout) -> str:
    low, high = rollout.at_risk
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


_MAY_BE_LOST: Final = "requests that may be lost"


def _legend() -> Iterator[str]:
    said: list[tuple[str, str]] = [(each, each) for each in PHASES]
    said += [("lost", "requests lost"), ("may", _MAY_BE_LOST)]
    yield '<ul class="legend" aria-label="Colours of the pictures">'
    for name, text in said:
        yield f'<li><span class="{name}"></span>{text}</li>'
    yield "</ul>"


def _workload(
    plan: Plan, each: Planned, number: int, notes: Iterable[str], *, show_record: bool
) -> Iterator[str]:
    yield f'<section aria-labelledby="w{number}">'
    yield f'<h2 id="w{number}">{_text(each.title)}: {_text(each.state)}</h2>'
    yield f'<p class="soft">from {_text(each.place)}</p>'
    yield from _list(
        (
            *((f"Note: {text}", "") for text in notes),
            *((f"Left alone: {text}", "") for text in each.left_alone),
            *((f"Warning: {text}", "warning") for text in each.warnings),
            *((f"Refused: {problem}", "refused") for problem in each.decision.refused),
        )
    )
    if each.patch:
        yield "<details open>\n<summary>What changes</summary>"
        yield from _diff(diff(each, show_record=show_record))
        yield "</details>"
    if each.what_if is not None:
        yield f"<h3>What if {_text(asked(plan))}: {_text(state_of(each.what_if))}</h3>"
        known = {*each.warnings, *(text for _, text in applied(each.outcome))}
        yield from _list(
            (
                *((text, "") for _, text in applied(each.what_if) if text not in known),
                *(
                    (f"Warning: {text}", "warning")
                    for text in each.what_if.warnings
                    if text not in known
                ),
                *((f"Refused: {one}", "refused") for one in each.what_if.decision.refused),
            )
        )
    found = pictures(each, asked(plan))
    end = max((rollout.end for _, rollout in found), default=0.0)
    for index, (what, rollout) in enumerate(found):
        yield from _rollout(f"w{number}r{index}", what, rollout, end)
    if each.not_simulated:
        yield f"<p>No rollout is shown: {_text(each.not_simulated)}.</p>"
    yield "</section>"


def _list(texts: Iterable[str | tuple[str, str]]) -> Iterator[str]:
    """Write a list of texts, each with its class if it has one; nothing where there is none."""
    items = []
    for each in texts:
        text, of_class = (each, "") if isinstance(each, str) else each
        mark = f' class="{of_class}"' if of_class else ""
        items.append(f"<li{mark}>{_text(text)}</li>")
    if items:
        yield "<ul>\n" + "\n".join(items) + "\n</ul>"


def _diff(lines: Iterable[str]) -> Iterator[str]:
    found = []
    for text in lines:
        shown = _text(text)
        if text.startswith("+") and not text.startswith("+++"):
            shown = f"<ins>{shown}</ins>"
        elif text.startswith("-") and not text.startswith("---"):
            shown = f"<del>{shown}</del>"
        else:
            shown += "\n"
        found.append(shown)
    yield '<pre tabindex="0" aria-label="The difference"><code>' + "".join(found) + "</code></pre>"


def _text(text: str) -> str:
    """Escape a text for HTML, also where it stands in an attribute; it becomes one line."""
    return html.escape(printable(str(text)))


# --- pictures ------------------------------------------------------------------------------------


def _rollout(anchor: str, what: str, rollout: Rollout, end: float) -> Iterator[str]:
    yield f"<h3>Rollout {_text(what)}</h3>"
    yield f'<p class="totals">{_text(totals(rollout))}</p>'
    texts = [waits(rollout), *reasons(rollout), summarised(rollout, MOST_ROWS)]
    texts += [f"assumed: {each}" for each in rollout.assumptions]
    yield from _list(each for each in texts if each)
    yield '<figure class="scroll" tabindex="0">'
    yield svg(rollout, anchor, f"Timeline of the rollout {what}", end)
    yield "</figure>"
    yield from _table(rollout)


def svg(rollout: Rollout, anchor: str, title: str, end: float | None = None) -> str:
    """Draw a rollout; the classes of the page's style give the colours.

    Args:
        rollout: what to draw.
        anchor: what the ids in it begin with: letters and digits.
        title: what it is of.
        end: the seconds at the right end; none: when nothing more happens.
    """
    end = max(end or rollout.end, 1.0)
    drawn = rows(rollout, MOST_ROWS)
    height = _AXIS + _ROW * len(drawn) + 4
    scale = (_WIDTH - _MARGIN) / end

    def at(seconds: float) -> float:
        return _MARGIN + min(max(seconds, 0.0), end) * scale

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"',
        f' role="img" aria-labelledby="{anchor}t {anchor}d">',
        f'<title id="{anchor}t">{_text(title)}</title>',
        f'<desc id="{anchor}d">{_text(totals(rollout))}</desc>',
    ]
    for tick in ticks(end, _TICKS):
        x = at(tick)
        anchored = "end" if x > _WIDTH - _ROW else "start" if x < _MARGIN + _ROW else "middle"
        parts.append(f'<path class="grid" d="M{x:.1f} {_AXIS - 4}V{height}"/>')
        parts.append(f'<text x="{x:.1f}" y="12" text-anchor="{anchored}">{duration(tick)}</text>')
    for index, row in enumerate(drawn):
        top = _AXIS + index * _ROW
        parts.append(f'<text x="0" y="{top + _BAR}">{_text(row.label)}</text>')
        parts += _bars(row, top, end, at)
    parts.append("</svg>")
    return "".join(parts)


def _bars(row: Row, top: int, end: float, at: Callable[[float], float]) -> Iterator[str]:
    for phase in row.phases:
        left, right = at(phase.start), at(end if phase.end is None else phase.end)
        if right - left > _LEAST_BAR:
            yield (
                f'<rect class="{phase.name}" x="{left:.1f}" y="{top + 2}" '
                f'width="{right - left:.1f}" height="{_BAR}"/>'
            )
    for loss in row.losses:
        left = at(loss.start)
        wide = max(_LEAST_LOSS, at(loss.end) - left)
        left = min(left, _WIDTH - wide)
        if loss.certain:
            shape = f'y="{top + 2}" width="{wide:.1f}" height="{_BAR}"'
        else:
            shape = f'y="{top + 1}" width="{wide:.1f}" height="{_BAR + 2}"'
        of_class = "lost" if loss.certain else "may"
        said = "requests lost" if loss.certain else _MAY_BE_LOST
        yield (
            f'<rect class="{of_class}" x="{left:.1f}" {shape}><title>{said}, '
            f"{loss.start:.1f} s to {loss.end:.1f} s</title></rect>"
        )


_COLUMNS: Final[tuple[tuple[str, Callable[[Pod], float | None]], ...]] = (
    ("created", lambda pod: pod.created),
    ("ready", lambda pod: pod.ready),
    ("available", lambda pod: pod.available),
    ("terminating", lambda pod: pod.terminating),
    ("stopped", lambda pod: pod.stopped),
    ("gone", lambda pod: pod.gone),
)


def _table(rollout: Rollout) -> Iterator[str]:
    """Tell the times of the pods, for who cannot see the picture or wants the numbers."""
    pods = rollout.pods[:_MOST_PODS_IN_TABLE]
    if not pods:
        return
    more = len(rollout.pods) - len(pods)
    said = (
        f"Times of the first {len(pods)} of {len(rollout.pods)} pods"
        if more
        else ("Times of the pods")
    )
    yield f"<details>\n<summary>{said}</summary>\n<div class='scroll' tabindex='0'>\n<table>"
    yield f"<caption class='soft'>Seconds after the change; {_text(at_risk(rollout))}</caption>"
    heads = "".join(f'<th scope="col" class="number">{name}</th>' for name, _ in _COLUMNS)
    yield f'<thead><tr><th scope="col">pod</th>{heads}</tr></thead>\n<tbody>'
    for pod in pods:
        cells = "".join(f'<td class="number">{_seconds(of(pod))}</td>' for _, of in _COLUMNS)
        name = f"{'old' if pod.old else 'new'} {pod.name}"
        yield f'<tr><th scope="row">{_text(name)}</th>{cells}</tr>'
    yield "</tbody>\n</table>\n</div>\n</details>"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
