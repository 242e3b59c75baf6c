"""`seamless status`: where workloads stand, decided by the same code as the webhook."""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from http.client import HTTPException
from typing import Any, Final

import orjson

from webhook.cli.common import (
    Parser,
    UsageError,
    configuration,
    fail,
    line,
    note,
    note_to_people,
    which_cluster,
    which_workloads,
)
from webhook.cli.manifests import dump
from webhook.cluster.client import ApiError, ClusterError
from webhook.cluster.installed import Installed, current_namespace, installed, reach
from webhook.cluster.survey import PAGE, Counted, Gauges, Row, Survey, survey
from webhook.cluster.workloads import MissingRightError, Workloads
from webhook.decision.configuration import Configuration
from webhook.decision.printable import json_text, printable
from webhook.decision.settings import InvalidSettingError, is_label
from webhook.rollout.state import STATES

PROGRAM: Final = "seamless status"
DESCRIPTION: Final = """\
Show where workloads stand: patched, stale, unpatched, opted-out, out-of-scope or refused, and why.
Changes nothing. Decided by the configuration of the installed webhook, unless --config names
another."""
EXIT: Final = """\
exit status: 0 done; 1 a workload is in a state of --fail-on, or the cluster could not be read;
2 wrong use or bad input"""
_BAD_REQUEST: Final = 400
_PUSH_JOB: Final = "seamless-status"


class _PushError(Exception):
    """The gauges could not be pushed."""


def main(arguments: list[str]) -> int:
    """Run the command; gives its exit status."""
    # Each page is some hundred thousand small objects that go all at once, by reference counts
    # alone: looking through them for cycles meanwhile would take a third of the time.
    gc.set_threshold(100_000, 20, 100)
    # What goes wrong inside is told in one line; a stack for each workload helps nobody here.
    logging.getLogger("webhook").addHandler(logging.NullHandler())
    logging.getLogger("webhook").propagate = False
    try:
        options = _parser().parse_args(arguments)
        failing = _states(options.fail_on)
        settings = None if options.config is None else configuration(options.config)
        namespace = None if options.all_namespaces else _namespace(options)
        began = time.monotonic()
        workloads = Workloads(
            reach(options.kubeconfig), page=PAGE, tell=partial(note_to_people, PROGRAM)
        )
        found = _installed(workloads, options.webhook_configuration, settings)
        effective = found.configuration or Configuration()
        result = survey(
            workloads,
            effective,
            own_namespace=found.namespace,
            namespace=namespace,
            selector=options.selector,
        )
        _tell(options, result, effective, namespace)
        _export(options, result, time.monotonic() - began)
    except (UsageError, InvalidSettingError) as error:
        return fail(PROGRAM, error)
    except _PushError as error:
        fail(PROGRAM, error)
        return 1
    except ClusterError as error:
        fail(PROGRAM, error)
        return 1 if isinstance(error, ApiError) and error.status != _BAD_REQUEST else 2
    totals = result.totals()
    return int(any(totals[state] for state in failing))


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description=DESCRIPTION, epilog=EXIT)
    which_workloads(parser)
    parser.add_argument(
        "-o",
        "--output",
        choices=tuple(_OUTPUTS),
        default="table",
        help="table (default), or json or yaml, for machines",
    )
    parser.add_argument(
        "--fail-on",
        default="",
        metavar="STATES",
        help="exit with 1 where a workload is in one of these, such as unpatched,stale",
    )
    which_cluster(parser)
    parser.add_argument(
        "--metrics-file",
        metavar="FILE",
        help="write gauges in the text format of Prometheus, too; with - print them instead",
    )
    parser.add_argument("--push-gateway", metavar="URL", help="push the gauges to a Pushgateway")
    parser.add_argument(
        "--metrics-by-namespace", action="store_true", help="with gauges of each namespace"
    )
    return parser


def _states(text: str) -> tuple[str, ...]:
    found = tuple(filter(None, text.replace(",", " ").split()))
    wrong = [each for each in found if each not in STATES]
    if wrong:
        message = f"--fail-on: {wrong[0]!r}: expected some of {', '.join(STATES)}"
        raise UsageError(message)
    return found


def _namespace(options: Any) -> str:
    name: str = options.namespace or current_namespace(options.kubeconfig)
    if not is_label(name):
        message = f"--namespace: {name!r}: expected a namespace's name"
        raise UsageError(message)
    return name


def _installed(workloads: Workloads, name: str | None, given: Configuration | None) -> Installed:
    """Find the webhook's configuration and namespace, and say where there is none."""
    own = os.environ.get("POD_NAMESPACE")
    if given is not None and own:
        return Installed(given, own)  # a pod of the chart: all is known
    try:
        found = installed(workloads, name, given)
    except MissingRightError as error:
        message = f"{error}; or the webhook's configuration in a file, by --config"
        raise ApiError(message, error.status) from None
    if not found.present:
        by = "the built-in configuration" if found.configuration is None else "--config"
        note(PROGRAM, f"no webhook is installed here, as far as can be read: decided by {by}")
    return found


# --- telling -------------------------------------------------------------------------------------


def _tell(options: Any, result: Survey, settings: Configuration, namespace: str | None) -> None:
    for name in result.unknown:
        note(PROGRAM, f"namespace {name} may not be read: it counts as selected, without settings")
    if options.metrics_file != "-":
        # Where only one namespace is asked for, it goes without saying, as in `kubectl get`.
        for text in _OUTPUTS[options.output](result, settings, namespace):
            sys.stdout.write(text)
    if not result.rows:
        where = "" if namespace is None else f" in namespace {namespace}"
        note(PROGRAM, f"no workloads found{where}")


def _table(result: Survey, _settings: Configuration, namespace: str | None) -> Iterator[str]:
    if not result.rows:
        return
    skip = 0 if namespace is None else 1
    yield from _aligned(
        ("NAMESPACE", "NAME", "STATE", "REASON")[skip:],
        lambda: (
            (row.namespace, f"{row.kind.lower()}/{row.name}", row.state, row.reason)[skip:]
            for row in result.rows
        ),
    )
    totals = [(name, *counts.values()) for name, counts in result.by_namespace().items()]
    if namespace is None:
        totals.append(("(all)", *result.totals().values()))
    yield "\n"
    headers = ("NAMESPACE", *(state.upper() for state in STATES))
    yield from _aligned(headers, lambda: (tuple(map(str, each)) for each in totals))


def _aligned(
    headers: Sequence[str], rows: Callable[[], Iterable[tuple[str, ...]]]
) -> Iterator[str]:
    """Align columns as `kubectl get` does; the rows are walked twice, and never all held."""
    widths = [len(header) for header in headers]
    for row in rows():
        widths = [max(width, len(cell)) for width, cell in zip(widths, row, strict=True)]
    yield _line(tuple(headers), widths)
    for row in rows():
        yield _line(row, widths)


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
    return printable("   ".join([*cells, row[-1]])) + "\n"


def _json(result: Survey, settings: Configuration, _namespace: str | None) -> Iterator[str]:
    """One document, a workload a line."""
    yield f'{{\n"mode": {_text(settings.mode)},\n"workloads": ['
    for index, row in enumerate(result.rows):
        yield ",\n" if index else "\n"
        yield _text(_content(row))
    yield f'\n],\n"namespaces": {_text(result.by_namespace())},\n'
    yield f'"totals": {_text(result.totals())}\n}}\n'


def _text(value: Any) -> str:
    return json_text(orjson.dumps(value).decode())


def _yaml(result: Survey, settings: Configuration, _namespace: str | None) -> Iterator[str]:
    yield dump({"mode": settings.mode})
    yield "workloads:\n" if result.rows else "workloads: []\n"
    for row in result.rows:
        yield dump([_content(row)])
    yield dump({"namespaces": result.by_namespace(), "totals": result.totals()})


def _content(row: Row) -> dict[str, Any]:
    return {
        "namespace": row.namespace,
        "kind": row.kind,
        "name": row.name,
        "state": row.state,
        "reason": row.reason,
        "injected": row.injected,
        "applied": list(row.applied),
        "changes": list(row.changes),
        "restarts": row.restarts,
    }


_OUTPUTS: Final[dict[str, Callable[[Survey, Configuration, str | None], Iterator[str]]]] = {
    "table": _table,
    "json": _json,
    "yaml": _yaml,
}


# --- gauges --------------------------------------------------------------------------------------


def _export(options: Any, result: Survey, seconds: float) -> None:
    if not (options.metrics_file or options.push_gateway):
        return
    from prometheus_client import (
        CollectorRegistry,
        generate_latest,
        push_to_gateway,
        write_to_textfile,
    )

    by_namespace = result.by_namespace() if options.metrics_by_namespace else {}
    registry = CollectorRegistry()
    registry.register(Gauges(Counted(result.totals(), by_namespace, time.time(), seconds)))
    if options.metrics_file == "-":
        for text in generate_latest(registry).decode().splitlines():
            line(text)
    elif options.metrics_file:
        try:
            # By way of a file beside it: whoever reads it finds it whole.
            write_to_textfile(options.metrics_file, registry)
        except OSError as error:
            message = f"--metrics-file: {options.metrics_file}: {error.strerror}"
            raise UsageError(message) from None
    if options.push_gateway:
        try:
            push_to_gateway(options.push_gateway, job=_PUSH_JOB, registry=registry)
        except (OSError, HTTPException, ValueError) as error:
            message = f"--push-gateway: {options.push_gateway}: {error}"
            raise _PushError(message) from None
