"""`seamless plan`: what the webhook would make of manifests, decided by the webhook itself."""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections.abc import Callable
from typing import Any, Final

import orjson

from webhook.cli.common import (
    Parser,
    UsageError,
    configuration,
    fail,
    note,
    quoted,
    read_text,
    whole_number,
)
from webhook.cli.manifests import Document, ManifestError, dump, read
from webhook.cli.plan_text import write_text
from webhook.cli.planner import Options, Plan, Planner, admitted, to_json
from webhook.decision.configuration import Configuration
from webhook.decision.mutations.model import Cluster, ServerVersion
from webhook.decision.printable import harmful, json_text, printable
from webhook.decision.settings import InvalidSettingError
from webhook.rollout.shape import MOST_PODS
from webhook.rollout.timings import Timings, TimingsError
from webhook.rollout.timings import parse as parse_timings

PROGRAM: Final = "seamless plan"
DESCRIPTION: Final = """\
Show what the webhook would make of manifests, offline, and how their rollouts would go before and
after. Reads YAML or JSON, several documents a file, and List objects. A namespace that is neither
among them nor in --namespace-file counts as selected."""
EXIT: Final = """\
exit status: 0 done; 1 a manifest would be refused, or with --exit-code one would be changed;
2 wrong use or bad input"""


def main(arguments: list[str]) -> int:
    """Run the command; gives its exit status."""
    # What goes wrong inside is told in one line; a stack helps nobody here.
    logging.getLogger("webhook").addHandler(logging.NullHandler())
    logging.getLogger("webhook").propagate = False
    try:
        options = _parser().parse_args(arguments)
        settings = configuration(options.config)
        plan = _plan(options, settings)
        if options.report:
            _report(options, plan, settings)
    except (UsageError, ManifestError, InvalidSettingError, TimingsError) as error:
        return fail(PROGRAM, error)
    _OUTPUTS[options.output](plan, settings, options)
    if any(each.decision.refused for each in plan.workloads):
        return 1
    return int(options.exit_code and any(each.patch for each in plan.workloads))


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description=DESCRIPTION, epilog=EXIT)
    parser.add_argument("files", nargs="+", metavar="FILE", help="a manifest; - is standard input")
    parser.add_argument(
        "-o",
        "--output",
        choices=tuple(_OUTPUTS),
        default="text",
        help="text: a diff, notes and the rollouts; yaml: the manifests as they would be; "
        "patch: one JSON Patch a line and workload; json: everything, for machines",
    )
    parser.add_argument("--config", metavar="FILE", help="the webhook's configuration")
    parser.add_argument(
        "--namespace-file", metavar="FILE", help="Namespace manifests: what they say holds"
    )
    parser.add_argument(
        "-n",
        "--namespace",
        default="default",
        help="the namespace of manifests that name none (default)",
    )
    parser.add_argument(
        "--kube-version", type=_version, metavar="1.N", help="the API server's version"
    )
    parser.add_argument(
        "--oldest-node", type=_version, metavar="1.N", help="the version of the oldest kubelet"
    )
    parser.add_argument(
        "--rollout-sleep",
        choices=("yes", "no"),
        help="whether the CRD of Argo Rollouts has preStop.sleep",
    )
    parser.add_argument(
        "--nodes",
        type=_nodes,
        metavar="N",
        help="on how many nodes a DaemonSet runs; else by its status, or one",
    )
    parser.add_argument(
        "--timings",
        metavar="FILE",
        help="what the cluster and the applications take, for the rollouts (docs/timings.md)",
    )
    parser.add_argument(
        "--what-if",
        action="append",
        default=[],
        type=_setting,
        metavar="SETTING=VALUE",
        help="show beside what is set what this setting would do; may be given several times",
    )
    parser.add_argument(
        "--report",
        metavar="FILE.html",
        help="write all of it as one page, with the rollouts as pictures",
    )
    parser.add_argument(
        "--show-record",
        action="store_true",
        help="show the record of what was injected in full; else it is folded",
    )
    parser.add_argument(
        "--exit-code", action="store_true", help="exit with 1 where a manifest would be changed"
    )
    return parser


def _version(text: str) -> ServerVersion:
    found = re.match(r"v?(\d{1,4})\.(\d{1,4})(?:[.+-].*)?\Z", text, re.ASCII)
    if not found:
        message = f"{quoted(text)}: expected a version such as 1.30"
        raise argparse.ArgumentTypeError(message)
    return ServerVersion(int(found[1]), int(found[2]))


def _nodes(text: str) -> int:
    try:
        return whole_number(text, 0, MOST_PODS)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        message = f"{quoted(text)}: expected SETTING=VALUE, such as pre-stop-sleep=5s"
        raise argparse.ArgumentTypeError(message)
    return name.strip(), value


def _plan(options: Any, settings: Configuration) -> Plan:
    sleep = None if options.rollout_sleep is None else options.rollout_sleep == "yes"
    timings = Timings()
    if options.timings:
        timings = parse_timings(read_text(options.timings), options.timings)
    planner = Planner(
        settings,
        Options(
            namespace=options.namespace,
            cluster=Cluster(options.kube_version, options.oldest_node, sleep),
            timings=timings,
            nodes=options.nodes,
            what_if=dict(options.what_if),
        ),
    )
    documents: list[Document] = []
    for path in options.files:
        source = "standard input" if path == "-" else path
        documents += read(read_text(path, stdin=True), source)
    said: list[Document] = []
    if options.namespace_file:  # it has the last word
        said = read(read_text(options.namespace_file), options.namespace_file)
    return planner.plan(documents, said)


def _report(options: Any, plan: Plan, settings: Configuration) -> None:
    """Write the page.

    Raises:
        UsageError: it cannot be written.
    """
    from webhook.cli.report import page

    path = options.report
    try:
        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 - a NUL in it is told below
            file.write(page(plan, settings, show_record=options.show_record))
    except OSError as error:
        message = f"{path}: {error.strerror}"
        raise UsageError(message) from None
    except ValueError as error:
        message = f"{path!r}: {error}"
        raise UsageError(message) from None


# --- output --------------------------------------------------------------------------------------


def _text(plan: Plan, settings: Configuration, options: Any) -> None:
    write_text(plan, settings, show_record=options.show_record)


def _yaml(plan: Plan, _settings: Configuration, _options: Any) -> None:
    """Print every document; those without a change by their own text, comments and all."""
    for index, (document, content) in enumerate(admitted(plan)):
        text = _as_written(document) if content is document.content else dump(content)
        separator = "---\n" if index else ""
        sys.stdout.write(separator + text + ("" if text.endswith("\n") or not text else "\n"))
    _refusals_to_stderr(plan)


def _as_written(document: Document) -> str:
    """Give the document's own text, unless it would do harm in a terminal or to a CI system."""
    if not harmful(document.text):
        return document.text
    if document.content is None:
        return "".join(f"{printable(each)}\n" for each in document.text.splitlines())
    note(PROGRAM, f"{document.place}: written anew: it has control characters or CI commands")
    return dump(document.content)


def _patch(plan: Plan, _settings: Configuration, _options: Any) -> None:
    for each in plan.workloads:
        sys.stdout.write(json_text(orjson.dumps(each.patch).decode()) + "\n")
    _refusals_to_stderr(plan)


def _refusals_to_stderr(plan: Plan) -> None:
    for each in plan.workloads:
        for problem in each.decision.refused:
            note(PROGRAM, f"{each.name}: refused: {problem}")


def _json(plan: Plan, settings: Configuration, _options: Any) -> None:
    text = json.dumps(to_json(plan, settings.mode), indent=2, ensure_ascii=False)
    sys.stdout.write(json_text(text) + "\n")


_OUTPUTS: Final[dict[str, Callable[[Plan, Configuration, Any], None]]] = {
    "text": _text,
    "json": _json,
    "yaml": _yaml,
    "patch": _patch,
}
