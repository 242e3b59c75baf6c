"""What admission adds to a create through a real API server: ours, CEL in the process, and others.

Dry-run creates of a two-container Deployment in namespaces that differ only in what is called for
them: nothing, a MutatingAdmissionPolicy that does the simple half of the job (a preStop sleep, the
grace period, minReadySeconds), `seamless serve` as the chart registers it, the same with
matchConditions, and any other webhook that runs already. All are measured in turn, round after
round, so that ratios hold on a noisy machine. etcd and kube-apiserver come from KUBEBUILDER_ASSETS.

`python benchmarks/apiserver.py [--rounds N] [--seconds N] [--other NAME=URL,CAFILE]...`
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import random
import re
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
import uvloop

sys.path.insert(0, str(Path(__file__).parent))

from decide import Json, deployment

import webhook
from webhook.cluster.client import Api, connect
from webhook.tls import certificates

ROOT: Final = Path(__file__).parents[1]
SLICES: Final = 8
"""Of a round; in each, every case has its turn."""
REQUESTS: Final = 8
CLIENTS: Final = 8
PATIENCE_SECONDS: Final = 60.0
SIZE: Final = 6_600
"""Of a Deployment in the 14 kB reviews of the other benchmarks, what only the server writes too."""

NOTHING: Final = "nothing"
APPLIES: Final = "MAP, ApplyConfiguration"
PATCHES: Final = "MAP, JSONPatch"
OURS: Final = "seamless serve"
CONDITIONED: Final = "seamless serve, with matchConditions"

RULES: Final = [
    {
        "apiGroups": ["apps"],
        "apiVersions": ["v1"],
        "resources": ["deployments"],
        "operations": ["CREATE", "UPDATE"],
    }
]
_REGISTRATION: Final = "/apis/admissionregistration.k8s.io/v1"
_POD: Final = "object.spec.template.spec"
_BARE_CONTAINER: Final = "(!has(c.lifecycle) || !has(c.lifecycle.preStop))"
_GRACE: Final = f"""
    (has({_POD}.terminationGracePeriodSeconds) ? {_POD}.terminationGracePeriodSeconds : 30) +
    ({_POD}.containers.exists(c, {_BARE_CONTAINER}) ? 30 : 0)"""
_MIN_READY: Final = """
    has(object.spec.minReadySeconds) && object.spec.minReadySeconds > 30 ?
    object.spec.minReadySeconds : 30"""
_APPLY: Final = f"""
Object{{spec: Object.spec{{
  minReadySeconds: {_MIN_READY},
  template: Object.spec.template{{spec: Object.spec.template.spec{{
    terminationGracePeriodSeconds: {_GRACE},
    containers: {_POD}.containers.filter(c, {_BARE_CONTAINER}).map(c,
      Object.spec.template.spec.containers{{
        name: c.name,
        lifecycle: Object.spec.template.spec.containers.lifecycle{{
          preStop: Object.spec.template.spec.containers.lifecycle.preStop{{
            sleep: Object.spec.template.spec.containers.lifecycle.preStop.sleep{{seconds: 30}}
          }}
        }}
      }})
  }}}}
}}}}"""
# A patch needs the index of a container, and what is to be added depends on what is there.
_PATCH: Final = f"""
[
  JSONPatch{{op: "add", path: "/spec/minReadySeconds", value: {_MIN_READY}}},
  JSONPatch{{op: "add", path: "/spec/template/spec/terminationGracePeriodSeconds", value: {_GRACE}}}
] + lists.range(size({_POD}.containers)).filter(i,
  !has({_POD}.containers[i].lifecycle) || !has({_POD}.containers[i].lifecycle.preStop)
).map(i, has({_POD}.containers[i].lifecycle) ?
  JSONPatch{{op: "add", path: "/spec/template/spec/containers/" + string(i) + "/lifecycle/preStop",
    value: {{"sleep": {{"seconds": 30}}}}}} :
  JSONPatch{{op: "add", path: "/spec/template/spec/containers/" + string(i) + "/lifecycle",
    value: {{"preStop": {{"sleep": {{"seconds": 30}}}}}}}}
)"""


# --- what is called -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Other:
    """A webhook that runs already: a name, where it is called, and whom to trust for it."""

    name: str
    url: str
    bundle: bytes

    @classmethod
    def parse(cls, text: str) -> Other:
        """Read `NAME=URL,CAFILE`."""
        name, equals, rest = text.partition("=")
        url, comma, path = rest.rpartition(",")
        if not (name and equals and comma and url.startswith("https://")):
            message = f"expected NAME=URL,CAFILE with an https URL, not {text!r}"
            raise argparse.ArgumentTypeError(message)
        return cls(name, url, Path(path).read_bytes())


def policy(name: str, namespace: str, mutation: Json) -> Iterator[tuple[str, Json]]:
    """Build a MutatingAdmissionPolicy and its binding, each with the collection it belongs to."""
    kind = "MutatingAdmissionPolicy"
    version = "admissionregistration.k8s.io/v1"
    yield (
        f"{_REGISTRATION}/mutatingadmissionpolicies",
        {
            "apiVersion": version,
            "kind": kind,
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "reinvocationPolicy": "IfNeeded",
                "matchConstraints": {
                    "namespaceSelector": only(namespace),
                    "resourceRules": RULES,
                },
                "mutations": [mutation],
            },
        },
    )
    yield (
        f"{_REGISTRATION}/mutatingadmissionpolicybindings",
        {
            "apiVersion": version,
            "kind": f"{kind}Binding",
            "metadata": {"name": name},
            "spec": {"policyName": name},
        },
    )


def only(namespace: str) -> Json:
    """Select one namespace."""
    return {"matchLabels": {"kubernetes.io/metadata.name": namespace}}


def plain_entry(namespace: str, client: Json) -> Json:
    """Register a webhook for Deployments of one namespace, with nothing to be evaluated."""
    return {
        "name": f"{namespace}.example.com",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "reinvocationPolicy": "IfNeeded",
        "timeoutSeconds": 5,
        "namespaceSelector": only(namespace),
        "rules": RULES,
        "clientConfig": client,
    }


def configured(name: str, entries: Sequence[Json]) -> tuple[str, Json]:
    """Build a MutatingWebhookConfiguration, with the collection it belongs to."""
    return (
        f"{_REGISTRATION}/mutatingwebhookconfigurations",
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": list(entries),
        },
    )


def of_the_chart(
    name: str, excluded: Sequence[str], client: Json, version: str, conditions: str
) -> tuple[str, Json]:
    """Render the chart's entries with Helm; called by URL, and failing where calls fail.

    They fail so that nothing goes unnoticed. That is set afterwards: by the value of that name the
    chart would have the API server evaluate what it does not by default.
    """
    from tests.chart.rendering import only as only_one
    from tests.chart.rendering import render

    values = {
        "fullnameOverride": name,
        "excludedNamespaces": list(excluded),
        "webhook": {"matchConditions": conditions},
    }
    given = only_one(render(values, kubernetes=version), "MutatingWebhookConfiguration")
    for each in given["webhooks"]:
        each["clientConfig"] = client
        each["failurePolicy"] = "Fail"
    return f"{_REGISTRATION}/mutatingwebhookconfigurations", given


@contextmanager
def serving(folder: Path) -> Iterator[Json]:
    """Run `seamless serve`, one worker, and give what a configuration says to call it.

    It is the code that this program imports itself, compiled or not.
    """
    pair = certificates.self_signed(["localhost", "127.0.0.1"], certificates.utc_now())
    (folder / "tls.crt").write_bytes(pair.certificate)
    (folder / "tls.key").write_bytes(pair.key)
    log = folder / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [
                *(sys.executable, "-m", "webhook", "serve", "--host=127.0.0.1"),
                *("--port=0", "--health-port=0", "--drain-seconds=0"),
                *(f"--tls-cert={folder}/tls.crt", f"--tls-key={folder}/tls.key"),
            ],
            stdin=subprocess.DEVNULL,
            stderr=file,
            cwd=folder,
            env={"PYTHONPATH": str(Path(webhook.__file__).parents[1]), "PYTHONUNBUFFERED": "1"},
        )
    try:

        def address() -> str | None:
            assert process.poll() is None, log.read_text()
            found = re.search(r"https://127\.0\.0\.1:\d+/mutate", log.read_text())
            return found and found[0]

        url = until(address)
        yield {"url": url, "caBundle": base64.b64encode(pair.certificate).decode()}
    finally:
        process.terminate()
        process.wait()


def until(look: Callable[[], Any]) -> Any:
    """Wait until what is looked at is true, and give it."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not (found := look()):
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)
    return found


# --- the client -----------------------------------------------------------------------------------


class Client(asyncio.Protocol):
    """One connection to the API server, for one request after the other."""

    transport: asyncio.Transport
    answered: asyncio.Future[bytes]

    def connection_made(self, transport: Any) -> None:
        """Be ready."""
        self.transport = transport

    async def send(self, request: bytes) -> bytes:
        """Send a request; gives the whole answer, or fails where it is not 201."""
        self.answered = asyncio.get_running_loop().create_future()
        self.received = b""
        self.transport.write(request)
        return await self.answered

    def data_received(self, data: bytes) -> None:
        """Read one answer, of a known length or in chunks."""
        self.received += data
        head, blank, body = self.received.partition(b"\r\n\r\n")
        if not blank:
            return
        length = re.search(rb"(?i)content-length: (\d+)", head)
        whole = body.endswith(b"\r\n0\r\n\r\n") if length is None else len(body) >= int(length[1])
        if whole:
            assert head.startswith(b"HTTP/1.1 201"), self.received.decode()
            self.answered.set_result(body if length else unchunked(body))

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so to whoever waits."""
        if hasattr(self, "answered") and not self.answered.done():
            self.answered.set_exception(exc or ConnectionError("the API server closed it"))


def unchunked(body: bytes) -> bytes:
    """Put the chunks of a body together."""
    parts: list[bytes] = []
    while True:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return b"".join(parts)
        parts.append(rest[:length])
        body = rest[length + 2 :]


@dataclass(slots=True)
class Case:
    """What is called for one namespace, and what was found."""

    name: str
    namespace: str
    request: bytes
    medians: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


def creation(namespace: str) -> bytes:
    """Frame the dry-run create of a Deployment, as a user would send it."""
    given = deployment(SIZE, "1.28")
    for key in ("uid", "resourceVersion", "generation", "managedFields", "annotations"):
        del given["metadata"][key]
    del given["status"]
    given["metadata"]["namespace"] = namespace
    body = orjson.dumps(given)
    head = (
        f"POST /apis/apps/v1/namespaces/{namespace}/deployments?dryRun=All&fieldManager=bench "
        "HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Accept: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def is_treated(found: Json) -> bool:
    """Tell whether the simple half of the job was done."""
    pod = found["spec"]["template"]["spec"]
    hooks = [each.get("lifecycle", {}).get("preStop") for each in pod["containers"]]
    return (
        hooks == [{"sleep": {"seconds": 30}}] * 2
        and pod["terminationGracePeriodSeconds"] == 60
        and found["spec"].get("minReadySeconds") == 30
    )


async def measure(
    port: int, context: ssl.SSLContext, cases: Sequence[Case], rounds: int, seconds: float
) -> None:
    """Take turns, and note medians and rates."""
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(Client, "127.0.0.1", port, ssl=context))[1]
        for _ in range(CLIENTS)
    ]
    first = clients[0]
    for case in cases:  # the API server learns of all that was registered by and by
        end = time.monotonic() + PATIENCE_SECONDS
        while is_treated(orjson.loads(await first.send(case.request))) != (case.name != NOTHING):
            assert time.monotonic() < end, f"{case.name}: not as it should be"
            await asyncio.sleep(0.1)
    for case in (*cases, *cases):  # warm
        await many(clients, case, 0.5)
    # Whoever comes next inherits the garbage of the one before: an order of its own each time.
    chance = random.Random(7)  # noqa: S311
    for _ in range(rounds):
        times: dict[str, list[float]] = {case.name: [] for case in cases}
        counts, spent = dict.fromkeys(times, 0), dict.fromkeys(times, 0.0)
        for _ in range(SLICES):
            for case in chance.sample(cases, len(cases)):
                times[case.name] += await one_by_one(first, case)
        for _ in range(SLICES):
            for case in chance.sample(cases, len(cases)):
                start = time.perf_counter()
                counts[case.name] += await many(clients, case, seconds / SLICES)
                spent[case.name] += time.perf_counter() - start
        for case in cases:
            case.medians.append(statistics.median(times[case.name]) * 1e3)
            case.rates.append(counts[case.name] / spent[case.name])
    for client in clients:
        client.transport.close()


async def one_by_one(client: Client, case: Case) -> list[float]:
    """Give the seconds of a few requests by one client; the first meets cold caches."""
    times = []
    for _ in range(1 + REQUESTS):
        start = time.perf_counter()
        await client.send(case.request)
        times.append(time.perf_counter() - start)
    return times[1:]


async def many(clients: Sequence[Client], case: Case, seconds: float) -> int:
    """Give how many requests all clients together get answered in so many seconds."""
    end = time.perf_counter() + seconds

    async def go_on(client: Client) -> int:
        for number in itertools.count():
            if time.perf_counter() >= end:
                return number
            await client.send(case.request)
        raise AssertionError

    return sum(await asyncio.gather(*map(go_on, clients)))


# --- the table ------------------------------------------------------------------------------------


def register(api: Api, others: Sequence[Other], client: Json, version: str) -> list[Case]:
    """Make the namespaces, and register what is called for each."""
    names = [NOTHING, APPLIES, PATCHES, OURS, CONDITIONED, *(other.name for other in others)]
    spaces = [f"bench-{index}" for index in range(len(names))]
    for space in spaces:
        labels = {"seamless-rollouts.dev/inject": "enabled"} if space in spaces[3:5] else {}
        body = {"metadata": {"name": space, "labels": labels}}
        api.request("POST", "/api/v1/namespaces", body=body)
    mutations = [
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": _APPLY}},
        {"patchType": "JSONPatch", "jsonPatch": {"expression": _PATCH}},
    ]
    objects = [
        *policy("bench-apply", spaces[1], mutations[0]),
        *policy("bench-patch", spaces[2], mutations[1]),
        *(
            # The chart's own way to leave namespaces alone: nothing is evaluated for the others.
            of_the_chart(space, [each for each in spaces if each != space], client, version, value)
            for space, value in zip(spaces[3:5], ("auto", "always"), strict=True)
        ),
    ]
    for other, space in zip(others, spaces[5:], strict=True):
        to = {"url": other.url, "caBundle": base64.b64encode(other.bundle).decode()}
        objects.append(configured(space, [plain_entry(space, to)]))
    for path, body in objects:
        api.request("POST", path, body=body)
    return [Case(name, space, creation(space)) for name, space in zip(names, spaces, strict=True)]


def table(cases: Sequence[Case], rounds: int) -> None:
    """Print what was found: medians over the rounds of figures that were taken in turn."""
    nothing, *called = cases
    added = {
        case.name: [a - b for a, b in zip(case.medians, nothing.medians, strict=True)]
        for case in called
    }
    beside = [case.name for case in called if case.name not in (OURS, CONDITIONED)]
    shares = "".join(f" of {name}'s |" for name in beside)
    print(f"| in the path | median | added | least to most |{shares} creates a second |")
    print(f"| --- | ---: | ---: | ---: |{' ---: |' * (len(beside) + 1)}")
    middle = statistics.median
    blank = " |" * len(beside)
    print(f"| nothing | {middle(nothing.medians):.2f} ms | | |{blank} {rate(nothing)} |")
    for case in called:
        mine = added[case.name]
        ratios = [middle(a / b for a, b in zip(mine, added[name], strict=True)) for name in beside]
        print(
            f"| {case.name} | {middle(case.medians):.2f} ms | {middle(mine):.2f} ms "
            f"| {min(mine):.2f} to {max(mine):.2f} |"
            + "".join(f" {ratio:.2f} |" for ratio in ratios)
            + f" {rate(case)} |"
        )
    print(
        f"\n{rounds} rounds, in each {SLICES * REQUESTS} requests one by one, "
        f"and {CLIENTS} clients at once"
    )


def rate(case: Case) -> str:
    """Tell how many creates there were in a second."""
    return f"{statistics.median(case.rates):,.0f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What admission adds to a create.")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0, help="of eight clients, each time")
    parser.add_argument(
        "--other", type=Other.parse, action="append", default=[], metavar="NAME=URL,CAFILE"
    )
    given = parser.parse_args()
    sys.path.append(str(ROOT))
    from tests.realapi import RealApi, find_programs

    programs = find_programs()
    if programs is None:
        print("Skipped: no etcd and kube-apiserver in KUBEBUILDER_ASSETS to measure through.")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = RealApi(folder, programs)
        try:
            with serving(folder) as client:
                api = Api(connect(server.kubeconfig))
                about = api.request("GET", "/version")
                version = f"{about['major']}.{about['minor'].rstrip('+')}"
                cases = register(api, given.other, client, version)
                context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
                context.load_cert_chain(folder / "admin.crt", folder / "admin.key")
                port = int(server.url.rpartition(":")[2])
                print(
                    f"Kubernetes {version}, a dry-run create of {len(cases[0].request):,} bytes\n"
                )
                uvloop.run(measure(port, context, cases, given.rounds, given.seconds))
                table(cases, given.rounds)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
