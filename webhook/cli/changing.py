"""What `seamless backfill` and `seamless revert` share: options, a preview, a run, its report."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final
from zoneinfo import ZoneInfo

import orjson

from webhook.cli.common import (
    Parser,
    UsageError,
    configuration,
    fail,
    line,
    note,
    note_to_people,
    quoted,
    which_cluster,
    which_workloads,
    whole_number,
)
from webhook.cluster.backfill import (
    Clock,
    Outcome,
    Plan,
    Reporter,
    Result,
    RolloutOptions,
    Run,
    Selection,
    Stop,
    plan,
)
from webhook.cluster.client import Api, ApiError, ClusterError
from webhook.cluster.installed import Installed, current_namespace, installed, reach
from webhook.cluster.workloads import Namespaces, Workloads
from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration, decided_by
from webhook.decision.estimate import duration
from webhook.decision.printable import json_text, printable
from webhook.decision.settings import InvalidSettingError, is_label, is_subdomain
from webhook.decision.settings import duration as parse_duration
from webhook.rollout.order import Change, least_total
from webhook.rollout.planners import Planner
from webhook.rollout.progress import Progress
from webhook.rollout.window import Window, window

EXIT: Final = """\
exit status: 0 done, and what was deferred is listed; 1 a rollout failed, it was interrupted, or the
cluster refused; 2 wrong use or bad input"""
_BAD_REQUEST: Final = 400
_MOST_AT_ONCE: Final = 100

MakePlanner = Callable[[Admission | None, Any], Planner]


@dataclass(frozen=True, slots=True)
class Command:
    """One of the two commands.

    Args:
        program: its name, for messages.
        needs_webhook_patching: whether it makes sense only where the webhook patches.
        planner: makes what decides, of the webhook's decision (none where there is no webhook) and
            the options.
    """

    program: str
    needs_webhook_patching: bool
    planner: MakePlanner


def parser(program: str, description: str) -> Parser:
    """Make a parser of the options that both have."""
    found = Parser(prog=program, description=description, epilog=EXIT)
    found.add_argument(
        "--apply", action="store_true", help="do it; without, what would be done is shown"
    )
    which_workloads(found)
    found.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="NAMESPACE[/NAME]",
        help="pass a namespace by, or the workloads of one name in it; may be repeated",
    )
    found.add_argument(
        "--max-concurrent", default="1", metavar="N", help="how many rollouts at once (1)"
    )
    found.add_argument(
        "--pause-between",
        default="0",
        metavar="DURATION",
        help="how long to wait after a rollout before the next begins, such as 2m (0)",
    )
    found.add_argument(
        "--window",
        metavar="HH:MM-HH:MM",
        help="begin rollouts in these hours of the day alone, such as 22:00-06:00",
    )
    found.add_argument(
        "--time-zone", metavar="ZONE", help="whose hours, such as Europe/Berlin (this machine's)"
    )
    found.add_argument(
        "-o",
        "--output",
        choices=("text", "json"),
        default="text",
        help="text, or a JSON object a line, for machines",
    )
    which_cluster(found)
    return found


def run(
    command: Command,
    parsed: Parser,
    arguments: list[str],
    *,
    connect: Callable[[str | None], Api] = reach,
    clock: Clock | None = None,
) -> int:
    """Run one of the two commands; gives its exit status.

    Args:
        command: which.
        parsed: its parser.
        arguments: what the user said.
        connect: reaches for the cluster.
        clock: the time.
    """
    try:
        options = parsed.parse_args(arguments)
        return _run(command, options, connect, clock or Clock())
    except (UsageError, InvalidSettingError) as error:
        return fail(command.program, error)
    except ClusterError as error:
        fail(command.program, error)
        return 1 if isinstance(error, ApiError) and error.status != _BAD_REQUEST else 2


def _run(command: Command, options: Any, connect: Callable[[str | None], Api], clock: Clock) -> int:
    settings = None if options.config is None else configuration(options.config)
    selection = _selection(options)
    rollout_options = RolloutOptions(
        concurrent=_number(options.max_concurrent),
        pause=_pause(options.pause_between),
        window=_window(options),
    )
    stop = Stop(clock)
    workloads = Workloads(
        connect(options.kubeconfig), wait=stop.wait, tell=partial(note_to_people, command.program)
    )
    found = _installed(command, workloads, options, settings)
    namespaces = Namespaces(workloads)
    admission = _admission(command, workloads, found, namespaces, selection)
    planner = command.planner(admission, options)
    found_to_do = plan(workloads, planner, selection)
    for each in found_to_do.unmet:
        note(command.program, f"--exclude {each}: there is no such workload among those selected")
    output: _Output = (_Json if options.output == "json" else _Text)(
        command.program, rollout_options
    )
    output.plan(found_to_do, applied=options.apply)
    if not options.apply:
        return 0
    agrees = found.present and command.needs_webhook_patching
    rollout_options = replace(
        rollout_options,
        webhook=found.present,
        decided_by=decided_by(admission.digest) if admission is not None and agrees else None,
        agree_seconds=_agree_seconds(getattr(options, "webhook_timeout", "0")),
    )
    refresh = (lambda _name: None) if admission is None else namespaces.refresh
    with output.live(found_to_do) as reporter, _asked_by_signals(stop):
        doing = Run(
            workloads, planner, rollout_options, reporter, clock=clock, stop=stop, refresh=refresh
        )
        doing.carry_out(found_to_do.groups)
    output.end(found_to_do, doing)
    if doing.error is not None:
        raise doing.error
    return int(doing.failed or doing.not_begun > 0 or _left(doing.outcomes))


def _left(outcomes: Iterable[Outcome]) -> bool:
    return any(each.result is Result.LEFT for each in outcomes)


# --- what the user says --------------------------------------------------------------------------


def _selection(options: Any) -> Selection:
    namespace = None
    if not options.all_namespaces:
        namespace = options.namespace or current_namespace(options.kubeconfig)
        if not is_label(namespace):
            message = f"--namespace: {quoted(namespace)}: expected a namespace's name"
            raise UsageError(message)
    for each in options.exclude:
        space, slash, name = each.partition("/")
        if not is_label(space) or (slash and not is_subdomain(name)):
            message = f"--exclude: {quoted(each)}: expected NAMESPACE or NAMESPACE/NAME"
            raise UsageError(message)
    return Selection(namespace, options.selector, frozenset(options.exclude))


def _number(text: str) -> int:
    try:
        return whole_number(text, 1, _MOST_AT_ONCE)
    except UsageError as error:
        message = f"--max-concurrent: {error}"
        raise UsageError(message) from None


def _pause(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        message = f"--pause-between: {quoted(text)}: {error}"
        raise UsageError(message) from None


def _agree_seconds(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        message = f"--webhook-timeout: {text!r}: {error}"
        raise UsageError(message) from None


def _window(options: Any) -> Window | None:
    zone = None
    if options.time_zone is not None:
        if options.window is None:
            message = "--time-zone says whose hours --window means: expected both"
            raise UsageError(message)
        try:
            zone = ZoneInfo(options.time_zone)
        except (KeyError, ValueError, OSError):
            message = (
                f"--time-zone: {quoted(options.time_zone)}: expected one such as Europe/Berlin"
            )
            raise UsageError(message) from None
    if options.window is None:
        return None
    try:
        return window(options.window, zone)
    except ValueError as error:
        message = f"--window: {error}"
        raise UsageError(message) from None


# --- what the webhook says -----------------------------------------------------------------------


def _installed(
    command: Command, workloads: Workloads, options: Any, given: Configuration | None
) -> Installed:
    found = installed(workloads, options.webhook_configuration, given)
    if found.unread is not None:
        # Whether a webhook does its part decides what is sent: no guess will do.
        raise found.unread
    if found.present and found.configuration is None:
        message = "the webhook's configuration is not in the cluster: expected --config FILE"
        raise UsageError(message)
    if not found.present:
        by = "the built-in configuration" if found.configuration is None else "--config"
        if command.needs_webhook_patching or found.configuration is not None:
            note(command.program, f"no webhook is installed here: decided by {by}")
    audits = found.configuration is not None and found.configuration.mode == "audit"
    if audits and command.needs_webhook_patching and options.apply:
        message = "mode is audit, in which nothing is patched: expected mode: patch first"
        raise UsageError(message)
    return found


def _admission(
    command: Command,
    workloads: Workloads,
    found: Installed,
    namespaces: Namespaces,
    selection: Selection,
) -> Admission | None:
    """Make the webhook's decision; none where there is no webhook, and one is not needed."""
    settings = found.configuration
    if settings is None:
        if not command.needs_webhook_patching:
            return None
        settings = Configuration()
    cluster = workloads.cluster()
    admission = Admission(
        settings,
        namespaces=namespaces.known.get,
        cluster=lambda: cluster,
        own_namespace=found.namespace or os.environ.get("POD_NAMESPACE"),
    )
    namespaces.parse = admission.table.namespace
    namespaces.read(selection.namespace)
    return admission


@contextlib.contextmanager
def _asked_by_signals(stop: Stop) -> Iterator[None]:
    """Have Ctrl-C begin nothing more, a second one leave everything, and SIGTERM too.

    A pod that is to end has no time to await a rollout.
    """
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: stop.ask()),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: stop.ask(leave=True)),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- reporting -----------------------------------------------------------------------------------


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _named(change: Change) -> str:
    return f"{change.kind.name.lower()}/{change.name}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Align columns as `kubectl get` does."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield printable("   ".join(cells).rstrip()) + "\n"


class _Output(Reporter):
    """What a run tells, and in which form."""

    def __init__(self, program: str, rollout_options: RolloutOptions) -> None:
        self.program = program
        self.options = rollout_options

    def plan(self, found: Plan, *, applied: bool) -> None:
        """Tell what there is to do."""

    def end(self, found: Plan, doing: Run) -> None:
        """Tell what became of it."""

    @contextlib.contextmanager
    def live(self, found: Plan) -> Iterator[Reporter]:
        """Give what reports the run while it lasts."""
        del found
        yield self

    def totals(self, found: Plan) -> tuple[int, int, int]:
        """Count changes and pods that restart, and tell the least seconds that it takes."""
        changes = found.changes
        restarts = sum(each.restarting for each in changes if not each.begun)
        seconds = least_total(found.groups, self.options.concurrent, self.options.pause)
        return sum(not each.begun for each in changes), restarts, seconds


class _Text(_Output):
    """Plain lines; in a terminal, how far it is below them."""

    def __init__(self, program: str, rollout_options: RolloutOptions) -> None:
        super().__init__(program, rollout_options)
        self._line: Callable[[str], None] = _plain

    def plan(self, found: Plan, *, applied: bool) -> None:
        """Show a table of what would change, and of what is deferred; with `applied` a line."""
        changes, restarts, seconds = self.totals(found)
        if not applied:
            self._preview(found)
        many = _many(changes, "workload")
        self._line(
            f"{many} {'to change' if applied else 'would change'} of {found.looked_at} looked at, "
            f"{_many(restarts, 'pod')} {'to restart' if applied else 'would restart'}, "
            f"{len(found.deferred)} deferred; at least {duration(seconds)}, "
            f"{_many(self.options.concurrent, 'rollout')} at a time"
        )
        if not applied and changes:
            self._line("nothing has been changed: --apply does it")

    def _preview(self, found: Plan) -> None:
        rows = [("ORDER", "NAMESPACE", "NAME", "RESTARTS", "MIN. DURATION", "WHY")]
        for order, each in enumerate(found.changes, 1):
            pods = _many(each.restarting, "pod") if each.restarts else "-"
            least = duration(each.seconds) if each.restarts else "-"
            why = "patched and rolling: awaited first" if each.begun else each.reason
            rows.append((str(order), each.namespace, _named(each), pods, least, why))
        self._table(rows)
        self._table([("NAMESPACE", "NAME", "DEFERRED"), *map(_deferred_row, found.deferred)])

    def _table(self, rows: Sequence[Sequence[str]]) -> None:
        if len(rows) > 1:
            for text in [*_aligned(rows), "\n"]:
                sys.stdout.write(text)

    @contextlib.contextmanager
    def live(self, found: Plan) -> Iterator[Reporter]:
        """Show how far it is, if somebody looks on."""
        if not sys.stdout.isatty():
            yield self
            return
        from webhook.cli.screen import Screen

        with Screen(len(found.changes)) as screen:
            self._line = screen.line
            try:
                yield _Both(self, screen)
            finally:
                self._line = _plain

    def begun(self, change: Change, number: int, total: int) -> None:
        """One line."""
        what = "awaited" if change.begun else "begun"
        more = f", {_many(change.restarting, 'pod')} to restart" if change.restarting else ""
        least = f", at least {duration(change.seconds)}" if change.seconds else ""
        self._line(f"{change.place}: {what} ({number} of {total}){more}{least}")

    def moved(self, change: Change, found: Progress) -> None:
        """One line."""
        self._line(f"{change.place}: {found.text}")

    def ended(self, outcome: Outcome) -> None:
        """One line."""
        took = f" after {duration(outcome.seconds)}" if outcome.seconds else ""
        self._line(f"{outcome.change.place}: {outcome.result}{took}: {outcome.text}")

    def noted(self, text: str, change: Change | None = None) -> None:
        """One line."""
        self._line(f"{change.place}: {text}" if change else text)

    def end(self, found: Plan, doing: Run) -> None:
        """Show a table of what became of everything, and say how to go on."""
        rows = [("NAMESPACE", "NAME", "OUTCOME", "TIME", "WHY")]
        for each in [*doing.outcomes, *found.deferred]:
            took = duration(each.seconds) if each.seconds else "-"
            change = each.change
            rows.append((change.namespace, _named(change), str(each.result), took, each.text))
        sys.stdout.write("\n")
        self._table(rows)
        counts = Counter(each.result for each in [*doing.outcomes, *found.deferred])
        parts = [f"{counts[result]} {result}" for result in Result if counts[result]]
        if doing.not_begun:
            parts.append(f"{doing.not_begun} not begun")
        self._line(", ".join(parts) or "there was nothing to do")
        for text in _how_to_go_on(self.program, doing):
            self._line(text)


def _plain(text: str) -> None:
    line(text)
    sys.stdout.flush()


def _deferred_row(outcome: Outcome) -> tuple[str, str, str]:
    return outcome.change.namespace, _named(outcome.change), outcome.text


def _how_to_go_on(program: str, doing: Run) -> Iterator[str]:
    for each in doing.outcomes:
        change = each.change
        where = f"-n {change.namespace} {change.kind.resource}.{change.kind.group}/{change.name}"
        if each.result is Result.FAILED:
            yield (
                f"stopped, as {change.place} failed: see kubectl describe {where}; "
                f"--exclude {change.namespace}/{change.name} skips it"
            )
        elif each.result is Result.LEFT:
            yield f"left on its way: {change.place}: see kubectl get {where}"
    if doing.not_begun or doing.failed or _left(doing.outcomes):
        yield f"{program} --apply goes on where it stands: what is done stays done"


class _Both(Reporter):
    """Prints lines, and shows on a screen what moves meanwhile, which needs no lines then."""

    def __init__(self, lines: Reporter, screen: Reporter) -> None:
        self._lines = lines
        self._screen = screen

    def begun(self, change: Change, number: int, total: int) -> None:
        """Tell both."""
        self._lines.begun(change, number, total)
        self._screen.begun(change, number, total)

    def moved(self, change: Change, found: Progress) -> None:
        """Show it."""
        self._screen.moved(change, found)

    def ended(self, outcome: Outcome) -> None:
        """Tell both."""
        self._lines.ended(outcome)
        self._screen.ended(outcome)

    def noted(self, text: str, change: Change | None = None) -> None:
        """Print it."""
        self._lines.noted(text, change)


class _Json(_Output):
    """A JSON object a line; `event` tells what it is."""

    def _write(self, event: str, change: Change | None = None, **fields: Any) -> None:
        about = {}
        if change is not None:
            about = {
                "apiVersion": change.kind.api_version,
                "kind": change.kind.name,
                "namespace": change.namespace,
                "name": change.name,
            }
        said = orjson.dumps({"event": event, **about, **fields}).decode()
        sys.stdout.write(json_text(said) + "\n")
        sys.stdout.flush()

    def plan(self, found: Plan, *, applied: bool) -> None:
        """Tell each change in order, then what is deferred, then the whole."""
        for order, each in enumerate(found.changes, 1):
            self._write(
                "change",
                each,
                order=order,
                reason=each.reason,
                settings=list(each.settings),
                restarts=each.restarts,
                pods=each.pods,
                podsOutAtOnce=each.out,
                leastSeconds=each.seconds,
                begun=each.begun,
                patch=list(each.operations),
            )
        for outcome in found.deferred:
            self._write("put-off", outcome.change, reason=outcome.text)
        changes, restarts, seconds = self.totals(found)
        self._write(
            "plan",
            apply=applied,
            workloads=found.looked_at,
            changes=changes,
            podsToRestart=restarts,
            putOff=len(found.deferred),
            leastSeconds=seconds,
        )

    def begun(self, change: Change, number: int, total: int) -> None:
        """One object."""
        self._write("begun", change, number=number, total=total)

    def moved(self, change: Change, found: Progress) -> None:
        """One object."""
        self._write("moved", change, text=found.text, podsReady=found.pods, pods=change.pods)

    def ended(self, outcome: Outcome) -> None:
        """One object."""
        result = _json_name(outcome.result)
        self._write(
            "ended", outcome.change, outcome=result, reason=outcome.text, seconds=outcome.seconds
        )

    def noted(self, text: str, change: Change | None = None) -> None:
        """One object."""
        self._write("note", change, text=text)

    def end(self, found: Plan, doing: Run) -> None:
        """One object."""
        counts = Counter(each.result for each in [*doing.outcomes, *found.deferred])
        outcomes = {_json_name(result): counts[result] for result in Result}
        error = None if doing.error is None else str(doing.error)
        self._write("summary", outcomes=outcomes, notBegun=doing.not_begun, error=error)


def _json_name(result: Result) -> str:
    """Name a result for machines, which go on reading what they always have."""
    return "put-off" if result is Result.DEFERRED else str(result)
