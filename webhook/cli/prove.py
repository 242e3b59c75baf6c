"""`seamless prove`: rolls a workload under load, and tells what failed, and why."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from webhook import VERSION
from webhook.cli.common import Parser, UsageError, fail, note, note_to_people, read_text
from webhook.cluster.client import NOT_FOUND, Api, ApiError, ClusterError, Json
from webhook.cluster.installed import current_namespace, installed, reach
from webhook.cluster.proof import (
    Made,
    PodSender,
    Workload,
    ask,
    clean,
    collection,
    core,
)
from webhook.cluster.workloads import Workloads
from webhook.proof.copying import (
    RECORD,
    CopyError,
    copied,
    copied_name,
    copied_service,
)
from webhook.proof.failures import Scene
from webhook.proof.load import CONNECTIONS, MOST_RATE, Job
from webhook.proof.report import comparison_text, document, page, text
from webhook.proof.run import Plan, Ran, run
from webhook.proof.sender import LocalSender, Sender, SenderError
from webhook.proof.verdict import Answer, Comparison, Verdict
from webhook.rollouts import hindrance, patience, pods, progress
from webhook.settings import InvalidSettingError, duration, is_label
from webhook.workload import KINDS, Kind, mapping, template

PROGRAM: Final = "seamless prove"
DESCRIPTION: Final = """\
Roll a workload as `kubectl rollout restart` does, under a constant load, and tell how many requests
failed, and why. Nothing is touched before you have agreed, or without --yes. Ctrl-C leaves the
workload alone and reports what was seen so far."""
EXIT: Final = """\
exit status: 0 no request was lost; 1 some were, or there is no verdict; 2 wrong use or bad input"""
DEFAULT_IMAGE: Final = f"ghcr.io/seamless-rollouts/seamless-rollouts:{VERSION}"
_ALIASES: Final = {
    "deployment": "Deployment",
    "deployments": "Deployment",
    "deploy": "Deployment",
    "statefulset": "StatefulSet",
    "statefulsets": "StatefulSet",
    "sts": "StatefulSet",
    "daemonset": "DaemonSet",
    "daemonsets": "DaemonSet",
    "ds": "DaemonSet",
    "rollout": "Rollout",
    "rollouts": "Rollout",
    "ro": "Rollout",
}
_METHODS: Final = ("POST", "GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_MOST_SECONDS: Final = 3600
_HTTPS: Final = 443
_MOST_PORT: Final = 65535
_SECONDS_TO_SPARE: Final = 600
_SUFFIX: Final = "prove-copy"
_POLL_SECONDS: Final = 0.5


def main(arguments: list[str]) -> int:
    """Run the command; gives its exit status."""
    try:
        options = _parser().parse_args(arguments)
        if options.clean:
            return _clean(options)
        return _prove(options)
    except (UsageError, InvalidSettingError, CopyError) as error:
        return fail(PROGRAM, error)
    except SenderError as error:
        fail(PROGRAM, error)
        return 1
    except ClusterError as error:
        fail(PROGRAM, error)
        return 1 if isinstance(error, ApiError) and error.status != NOT_FOUND else 2


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description=DESCRIPTION, epilog=EXIT)
    add = parser.add_argument
    add("workload", nargs="?", metavar="KIND/NAME", help="such as deployment/web")
    add("-n", "--namespace", metavar="NAMESPACE", help="its namespace (the kubeconfig's)")
    add("--kubeconfig", metavar="FILE", help="the cluster")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url", help="send the load from here to this URL")
    where.add_argument(
        "--service",
        metavar="NAME[:PORT]",
        help="send the load to this Service, from a pod that is made for it and removed again",
    )
    add("--path", default="/", help="with --service: the path, and query (/)")
    add("--scheme", choices=("http", "https"), help="with --service (https on port 443)")
    add("--image", help="with --service: what the pod runs (the installed webhook's image)")
    add("--method", default="POST", choices=_METHODS, help="proxies retry others (POST)")
    add("--rate", type=float, default=100.0, metavar="N", help="requests a second (100)")
    add("--timeout", default="10s", metavar="D", help="for a whole answer (10s)")
    add("--header", action="append", default=[], metavar="'NAME: VALUE'", help="may be repeated")
    add("--body", default="", metavar="TEXT", help="the body, or @FILE")
    add("--connections", choices=CONNECTIONS, default="both", help="fresh ones, kept ones (both)")
    add("--insecure", action="store_true", help="do not verify the server's certificate")
    add("--warm", default="5s", metavar="D", help="load before the rollout (5s)")
    add("--tail", default="10s", metavar="D", help="load after the last old pod is gone (10s)")
    add(
        "--compare",
        action="store_true",
        help="roll a copy without the webhook's changes first (with --service)",
    )
    add("-y", "--yes", action="store_true", help="do not ask")
    add("-o", "--output", choices=("text", "json"), default="text", help="(text)")
    add("--report", metavar="FILE", help="write an HTML page, too")
    add("--clean", action="store_true", help="remove what an earlier run has left; no workload")
    add("-A", "--all-namespaces", action="store_true", help="with --clean: everywhere")
    return parser


# --- what is asked for ---------------------------------------------------------------------------


def _kind_and_name(given: str | None) -> tuple[Kind, str]:
    if given is None:
        raise UsageError("KIND/NAME is missing, such as deployment/web")
    kind, _, name = given.partition("/")
    found = _ALIASES.get(kind.lower().partition(".")[0])
    if found is None or not name or "/" in name:
        message = (
            f"{given!r}: expected KIND/NAME, of a deployment, statefulset, daemonset or rollout"
        )
        raise UsageError(message)
    return KINDS[found], name


def _namespace(options: Any) -> str:
    name: str = options.namespace or current_namespace(options.kubeconfig)
    if not is_label(name):
        message = f"--namespace: {name!r}: expected a namespace's name"
        raise UsageError(message)
    return name


def _duration(options: Any, name: str) -> float:
    given: str = getattr(options, name)
    try:
        found = duration(given)
    except (InvalidSettingError, ValueError) as error:
        message = f"--{name}: {given!r}: {error}"
        raise UsageError(message) from None
    return float(found)


def _headers(given: list[str]) -> dict[str, str]:
    found = {}
    for each in given:
        name, colon, value = each.partition(":")
        name, value = name.strip(), value.strip()
        token = name.replace("-", "").replace("_", "")
        if not colon or not token.isalnum() or not name.isascii():
            # What stands there may be a secret: it is not repeated.
            raise UsageError("--header: expected NAME: VALUE, with a name of letters, digits and -")
        if any(ord(character) < ord(" ") for character in value):
            message = f"--header: {name}: a value of one line is expected"
            raise UsageError(message)
        found[name] = value
    return found


def _job(options: Any, url: str, headers: dict[str, str], seconds: float) -> Job:
    if not 0 < options.rate <= MOST_RATE:
        message = f"--rate: {options.rate:g}: expected above 0, and at most {MOST_RATE:g}"
        raise UsageError(message)
    body: str = options.body
    if body.startswith("@"):
        body = read_text(body[1:], stdin=True)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        message = f"--url: expected http:// or https://, a host and no user: {parts.scheme!r}"
        raise UsageError(message)
    timeout = _duration(options, "timeout")
    if not timeout:
        raise UsageError("--timeout: 0: expected at least a second")
    return Job(
        url=url,
        rate=options.rate,
        method=options.method,
        headers=headers,
        body=body,
        timeout=timeout,
        connections=options.connections,
        seconds=seconds,
        verify=not options.insecure,
    )


# --- the run -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Case:
    """A workload to be proven, and how it is reached.

    Args:
        label: its name, to be shown.
        kind: its kind.
        workload: as it is stored.
        url: to where the load goes.
        headers: with which headers.
    """

    label: str
    kind: Kind
    workload: Json
    url: str
    headers: dict[str, str]


def _prove(options: Any) -> int:
    kind, name = _kind_and_name(options.workload)
    if options.all_namespaces:
        raise UsageError("-A goes with --clean")
    if not (options.url or options.service):
        raise UsageError("where to send the load is missing: expected --url or --service")
    if options.compare and not options.service:
        raise UsageError("--compare needs --service: the copy gets a Service of its own")
    headers = _headers(options.header)
    warm, tail = _duration(options, "warm"), _duration(options, "tail")
    _job(options, options.url or "http://service", headers, 1)  # what is wrong is told at once
    namespace = _namespace(options)
    api = reach(options.kubeconfig)
    workload = Workloads(api).get(kind, namespace, name)
    blocker = hindrance(kind, workload, restarts=True)
    if blocker is not None:
        message = f"{kind.name} {namespace}/{name} is not rolled: {blocker}"
        raise UsageError(message)
    service = _service(api, namespace, options.service) if options.service else None
    image = options.image or (_image(api) if service else "")
    url, extra = _reached(options, service)
    case = _Case(f"{kind.name.lower()}/{name}", kind, workload, url, {**extra, **headers})
    copy = _copy(api, kind, workload, namespace) if options.compare else None
    _agree(options, kind, workload, image, copy)
    made = Made(api, [])
    with _removing(made):
        verdicts = []
        if copy is not None and service is not None:
            other = _made_copy(made, kind, copy, service)
            url, extra = _reached(options, other[1])
            label = f"{kind.name.lower()}/{other[0]['metadata']['name']} (without)"
            without = _Case(label, kind, other[0], url, {**extra, **headers})
            ran = _run(options, api, made, without, image, warm, tail)
            verdicts.append(ran.verdict)
            if ran.interrupted:
                return _report(options, verdicts)
        verdicts.append(_run(options, api, made, case, image, warm, tail).verdict)
    return _report(options, verdicts)


def _run(
    options: Any, api: Api, made: Made, case: _Case, image: str, warm: float, tail: float
) -> Ran:
    longest = warm + tail + 2 * patience(case.kind, case.workload) + _SECONDS_TO_SPARE
    job = _job(options, case.url, case.headers, longest)
    namespace = str(mapping(case.workload.get("metadata")).get("namespace"))
    sender: Sender = LocalSender(job)
    if options.service:
        sender = PodSender(api, namespace, image, job, made)
    scene = Scene((), direct=bool(options.service))
    plan = Plan(case.label, warm, tail, job.timeout, scene)
    target = Workload(api, case.kind, case.workload)
    target.watch()
    try:
        return run(sender, target, plan, tell=partial(note_to_people, PROGRAM))
    finally:
        target.stop()


@contextmanager
def _removing(made: Made) -> Iterator[None]:
    """Remove what was made, whatever ends the run: SIGTERM, too, ends it in order."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        try:
            left = made.remove()
        except KeyboardInterrupt:
            left = ["interrupted while removing what was made"]
        for each in left:
            note(PROGRAM, f"{each}; remove what is left by: {PROGRAM} --clean")


# --- the Service, the copy -----------------------------------------------------------------------


def _service(api: Api, namespace: str, given: str) -> Json:
    name, colon, port = given.partition(":")
    if not is_label(name) or (colon and not port):
        message = f"--service: {given!r}: expected NAME or NAME:PORT"
        raise UsageError(message)
    found = ask(api, "GET", f"{core(namespace, 'services')}/{name}")
    ports = [mapping(each) for each in mapping(found.get("spec")).get("ports") or ()]
    wanted = [each for each in ports if port in (str(each.get("port")), each.get("name"))]
    if not colon and len(ports) == 1:
        wanted = ports
    if len(wanted) != 1:
        names = ", ".join(str(each.get("port")) for each in ports) or "none"
        message = f"--service: {given!r}: expected NAME:PORT with one of its ports: {names}"
        raise UsageError(message)
    return {**found, "chosen": wanted[0]}


def _reached(options: Any, service: Json | None) -> tuple[str, dict[str, str]]:
    """Give the URL of a Service, by its address if it has one, and the Host that goes with it."""
    if service is None:
        return options.url, {}
    metadata, spec, port = service["metadata"], service["spec"], service["chosen"]
    number = port.get("port")
    secure = number == _HTTPS or "https" in (port.get("name"), port.get("appProtocol"))
    scheme = options.scheme or ("https" if secure else "http")
    if not options.path.startswith("/"):
        message = f"--path: {options.path!r}: expected one that begins with /"
        raise UsageError(message)
    name = f"{metadata['name']}.{metadata['namespace']}.svc"
    address = str(spec.get("clusterIP") or "None")
    if address == "None" or scheme == "https":
        return f"{scheme}://{name}:{number}{options.path}", {}
    # Without a name no DNS server is asked, whose faults would look like the workload's.
    host = f"[{address}]" if ":" in address else address
    return f"{scheme}://{host}:{number}{options.path}", {"Host": name}


def _image(api: Api) -> str:
    """Find the installed webhook's image; the release's own where that cannot be read."""
    try:
        found = installed(Workloads(api), given=None)
        if found.namespace is None:
            return DEFAULT_IMAGE
        reader = Workloads(api)
        selector = "app.kubernetes.io/part-of=seamless-rollouts"
        for items in reader.pages(KINDS["Deployment"], found.namespace, selector):
            for each in items:
                containers = mapping(template(each).get("spec")).get("containers") or [{}]
                image = mapping(containers[0]).get("image")
                if image:
                    return str(image)
    except ClusterError:
        pass
    return DEFAULT_IMAGE


def _copy(api: Api, kind: Kind, workload: Json, namespace: str) -> Json:
    reader = Workloads(api)
    listed = reader.listed(core(namespace, "services"), "", "services")
    services = [each for items in listed for each in items]
    name = copied_name(str(workload["metadata"]["name"]), _SUFFIX)
    return copied(kind, workload, services, name)


def _made_copy(made: Made, kind: Kind, copy: Json, service: Json) -> tuple[Json, Json]:
    """Make the copy and its Service, and wait until its pods are available."""
    namespace, name = copy["metadata"]["namespace"], copy["metadata"]["name"]
    stored = made.create(collection(kind, namespace), copy)
    if RECORD in mapping(mapping(template(stored).get("metadata")).get("annotations")):
        message = (
            "the copy still has what was injected, so there is nothing to compare with: is the "
            "webhook running?"
        )
        raise ClusterError(message)
    own = made.create(core(namespace, "services"), copied_service(service, name))
    reader = Workloads(made.api)
    end = time.monotonic() + patience(kind, copy)
    note_to_people(PROGRAM, f"waiting for the pods of the copy {name}")
    while not (found := progress(kind, stored)).done:
        if found.failed or time.monotonic() > end:
            message = f"the copy {name} did not become available: {found.text}"
            raise SenderError(message)
        time.sleep(_POLL_SECONDS)
        stored = reader.get(kind, namespace, name)
    return stored, {**own, "chosen": service["chosen"]}


def _agree(options: Any, kind: Kind, workload: Json, image: str, copy: Json | None) -> None:
    """Say what will be done, and ask.

    Raises:
        UsageError: nobody agrees.
    """
    metadata = workload["metadata"]
    lines = [
        (
            f"{PROGRAM} will restart every pod of {kind.name} {metadata['namespace']}/"
            f"{metadata['name']} ({pods(kind, workload)} pods), and send it {options.rate:g} "
            f"{options.method} requests a second meanwhile"
        )
    ]
    if options.service:
        lines.append(f"it will make a pod that sends them, of the image {image}, and remove it")
    if copy is not None:
        lines.append(
            f"it will first make a copy, {copy['metadata']['name']}, with its own Service, restart "
            "its pods under the same load, and remove it: the copy does whatever the workload "
            "does, such as taking jobs from a queue"
        )
    for line in lines:
        sys.stderr.write(f"{line}\n")
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nothing is done without --yes, where nobody can be asked")
    sys.stderr.write("go on? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was done")


# --- the report ----------------------------------------------------------------------------------


def _report(options: Any, verdicts: list[Verdict]) -> int:
    pair = len(verdicts) == 2  # noqa: PLR2004 - without and with
    found: Verdict | Comparison = Comparison(*verdicts) if pair else verdicts[-1]
    if options.output == "json":
        sys.stdout.write(orjson.dumps(document(found), option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        width = shutil.get_terminal_size((100, 24)).columns
        told = text(found, width) if isinstance(found, Verdict) else comparison_text(found, width)
        for line in told:
            sys.stdout.write(line + "\n")
    if options.report:
        try:
            Path(options.report).write_text(page(found), encoding="utf-8")
        except OSError as error:
            message = f"--report: {options.report}: {error.strerror}"
            raise UsageError(message) from None
    if options.compare and not pair:
        return 1
    return int(verdicts[-1].answer is not Answer.NONE_LOST)


def _clean(options: Any) -> int:
    if options.workload:
        raise UsageError("--clean takes no workload: it removes what earlier runs have made")
    namespace = None if options.all_namespaces else _namespace(options)
    removed = clean(reach(options.kubeconfig), namespace)
    for each in removed:
        sys.stdout.write(f"removed {each}\n")
    if not removed:
        note(PROGRAM, "nothing was left to remove")
    return 0
