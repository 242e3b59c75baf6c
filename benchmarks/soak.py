"""One worker given very many reviews: memory and CPU over time, its start, and large objects.

`seamless serve` as a process of its own, over TLS on loopback, beside a server that plays the
Kubernetes API with 10,000 namespaces. Reviews differ in name, namespace and size; some are refused,
and some are no reviews at all. `python benchmarks/soak.py [REQUESTS]` (100,000)
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import multiprocessing
import os
import random
import re
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import orjson
import uvloop

sys.path.insert(0, str(Path(__file__).parent))

from decide import Json, admission_review, admitted, deployment, medians
from status import kubeconfig

import webhook
from webhook.cluster.client import Api, ApiError
from webhook.cluster.namespaces import NamespaceWatch
from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration

NAMESPACES: Final = 10_000
CONNECTIONS: Final = 4
MANY: Final = 24
STARTS: Final = 5
ROUNDS: Final = 5
NAME: Final = b"name-00000000"
SPACE: Final = b"team-00000"
TICKS: Final = os.sysconf("SC_CLK_TCK")
# The client imports kubernetes-validate where it finds it: it is a dependency of the tests alone.
_SERVE: Final = """
import sys
sys.modules["kubernetes_validate"] = None
from webhook.cli import main
sys.exit(main(["serve", *sys.argv[1:]]))
"""


# --- the process ----------------------------------------------------------------------------------


class Worker:
    """A `seamless serve` with the code that this program imports itself, compiled or not."""

    def __init__(
        self, *arguments: str, options: Sequence[str] = (), errors: int | None = None
    ) -> None:
        self.ports = free_ports(2)
        self.began = time.perf_counter()
        self.process = subprocess.Popen(  # noqa: S603 - our own program
            [
                *(sys.executable, "-P", *options, "-c", _SERVE, "--host=127.0.0.1"),
                *(f"--port={self.ports[0]}", f"--health-port={self.ports[1]}"),
                *("--drain-seconds=0", *arguments),
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if errors is None else errors,
            env={"PYTHONPATH": str(Path(webhook.__file__).parents[1])},
        )
        try:
            self.ready_after = self._await_ready()
        except BaseException:
            self.process.kill()
            raise

    def _await_ready(self) -> float:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.perf_counter() < self.began + 60:
            assert self.process.poll() is None, "it ended at once"
            with contextlib.suppress(OSError):
                opener.open(f"http://127.0.0.1:{self.ports[1]}/readyz", timeout=5).close()
                return time.perf_counter() - self.began
            time.sleep(0.005)
        raise TimeoutError

    def workers(self) -> list[int]:
        """List the processes that serve: itself, or its children where it has several."""
        pid = self.process.pid
        return [int(each) for each in _read(pid, f"task/{pid}/children").split()] or [pid]

    def memory(self, name: str = "VmRSS") -> float:
        """Give its resident memory in MB (2^20 bytes), or another line of its status."""
        text = _read(self.process.pid, "status")
        return int(re.findall(rf"{name}:\s+(\d+) kB", text)[0]) / 1024

    def forget_peak(self) -> None:
        """Have `VmHWM` count from now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def busy(self, pid: int | None = None) -> float:
        """Give the seconds of CPU that it, or one of its workers, has used, to a hundredth."""
        numbers = _read(pid or self.process.pid, "stat").rpartition(")")[2].split()
        return (int(numbers[11]) + int(numbers[12])) / TICKS

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        assert self.process.wait() == 0


def _read(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


@contextmanager
def running(*arguments: str, **options: Any) -> Iterator[Worker]:
    """Run one for a while."""
    worker = Worker(*arguments, **options)
    try:
        yield worker
        worker.stop()
    finally:
        worker.process.kill()


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in opened]


def play_kubernetes(opened: socket.socket) -> None:
    """List namespaces in pages, and have watches wait; a namespace by its name is not there."""
    names = [f"team-{index:05}" for index in range(NAMESPACES)]
    enabled = {"seamless-rollouts.dev/inject": "enabled"}
    items = [{"metadata": {"name": name, "labels": enabled}} for name in names]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = dict(parse_qsl(parts.query))
            if "watch" in query:
                self.send_response(200)
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.flush()
                time.sleep(float(query["timeoutSeconds"]))
                self.close_connection = True
                return
            status, found = 404, Json()
            if parts.path == "/version":
                status, found = 200, {"major": "1", "minor": "36"}
            if parts.path == "/api/v1/namespaces":
                start = int(query.get("continue", 0))
                end = start + int(query["limit"])
                more = {"continue": str(end)} if end < len(items) else {}
                metadata = {"resourceVersion": "1", **more}
                status, found = 200, {"metadata": metadata, "items": items[start:end]}
            body = orjson.dumps(found)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(opened.getsockname(), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = opened
    server.daemon_threads = True
    server.serve_forever()


# --- the reviews ----------------------------------------------------------------------------------


def named(given: Json) -> Json:
    """Give it a name and a namespace that `Load` replaces in each request."""
    metadata = given["metadata"] | {"name": NAME.decode(), "namespace": SPACE.decode()}
    return given | {"metadata": metadata}


def review(new: Json, old: Json | None) -> bytes:
    """Frame it with a name to be replaced."""
    framed = orjson.loads(admission_review(new, old))
    framed["request"] |= {"name": NAME.decode(), "namespace": SPACE.decode()}
    return orjson.dumps(framed)


def kinds_of_reviews() -> dict[str, tuple[int, list[bytes]]]:
    """Make what is sent: how often of a thousand, and bodies to choose from."""
    admission = Admission(Configuration())

    def update(size: int) -> bytes:
        plain, newer = deployment(size, "1.28"), deployment(size, "1.29")
        stored, changed = admitted(admission, plain), admitted(admission, newer)
        return review(named(changed), named(stored))

    def create(size: int) -> bytes:
        return review(named(deployment(size, "1.28")), None)

    bad = named(deployment(3_000, "1.28"))
    bad["metadata"]["annotations"] = {"seamless-rollouts.dev/pre-stop-sleep": "for a while"}
    wrong = named(deployment(3_000, "1.28"))
    wrong["spec"]["template"]["spec"]["containers"] = [None, 7, {"name": [], "ports": "x"}]
    many = named(deployment(0, "1.28"))
    container = {"image": "registry.example.com/app:1"}
    many["spec"]["template"]["spec"]["containers"] = [
        {"name": f"c{index}", **container} for index in range(2_000)
    ]
    deep = b'{"apiVersion":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    return {
        "2 to 8 kB": (560, [create(2_000), create(4_000), create(7_000), update(3_500)]),
        "14 kB": (320, [update(6_600)]),
        "50 kB": (60, [update(24_500)]),
        "200 kB": (20, [update(99_500)]),
        "refused": (20, [review(bad, None)]),
        "hostile": (20, [b"{", b"\xff" * 1_000, create(3_000)[:-9], review(wrong, None), deep]),
        "2,000 containers": (2, [review(many, None)]),
    }


class Load:
    """Makes one request after the other, no two of them alike."""

    def __init__(self, seed: int = 7) -> None:
        kinds = kinds_of_reviews()
        self._chance = random.Random(seed)  # noqa: S311 - the same requests each time
        self._bodies = [bodies for _, bodies in kinds.values()]
        self._weights = list(itertools.accumulate(weight for weight, _ in kinds.values()))
        self._count = 0
        total = self._weights[-1]
        sizes = [sum(map(len, bodies)) / len(bodies) for bodies in self._bodies]
        weights = [weight for weight, _ in kinds.values()]
        self.mean_bytes = sum(a * b for a, b in zip(sizes, weights, strict=True)) / total
        self.shares = {name: weight / total for name, (weight, _) in kinds.items()}

    def next(self) -> bytes:
        """Frame the next request; of a thousand one comes from a namespace that is not known."""
        self._count += 1
        (bodies,) = self._chance.choices(self._bodies, cum_weights=self._weights)
        space = f"team-{self._chance.randrange(NAMESPACES):05}"
        if not self._count % 1_000:
            space = f"gone-{self._count // 1_000 % 100_000:05}"
        body = self._chance.choice(bodies)
        return framed(body.replace(NAME, b"name-%08d" % self._count).replace(SPACE, space.encode()))


def framed(body: bytes) -> bytes:
    """Frame a body as a request."""
    head = b"POST /mutate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Connection(asyncio.Protocol):
    """A connection that lasts, for one request after the other."""

    def connection_made(self, transport: Any) -> None:
        """Be ready."""
        self.transport: asyncio.Transport = transport
        self.closed = False
        self.answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def send(self, request: bytes) -> asyncio.Future[int]:
        """Send a request; the future gives the status of the answer."""
        self.answered = asyncio.get_running_loop().create_future()
        self._received = b""
        self.transport.write(request)
        return self.answered

    def data_received(self, data: bytes) -> None:
        """Read an answer."""
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank or self.answered.done():
            return
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if length is not None and len(body) >= int(length[1]):
            self.closed |= b"connection: close" in head.lower()
            self.answered.set_result(int(head.split()[1]))

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so to whoever waits."""
        self.closed = True
        if not self.answered.done():
            self.answered.set_exception(exc or ConnectionError("closed without an answer"))


@dataclass(slots=True)
class Caller:
    """Calls one port, over connections that it opens anew only where they were closed."""

    port: int
    statuses: Counter[int] = field(default_factory=Counter)
    connections: int = 0

    async def connect(self) -> Connection:
        """Open a connection."""
        self.connections += 1
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(Connection, "127.0.0.1", self.port, ssl=context))[1]

    async def call(self, requests: Iterator[bytes]) -> None:
        """Send one request after the other."""
        connection = await self.connect()
        for request in requests:
            if connection.closed:
                connection = await self.connect()
            self.statuses[await connection.send(request)] += 1
        connection.transport.close()

    async def share(self, requests: Iterator[bytes], count: int = CONNECTIONS) -> None:
        """Send them over several connections."""
        await asyncio.gather(*(self.call(requests) for _ in range(count)))


# --- the tables -----------------------------------------------------------------------------------


def start(arguments: Sequence[str], folder: Path) -> None:
    """Print how long it takes from exec to ready, and what is imported meanwhile."""
    bare: list[float] = []
    alone: list[float] = []
    inside: list[float] = []
    none: Sequence[str] = ()
    for _ in range(STARTS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        bare.append(time.perf_counter() - began)
        for found, given in ((alone, none), (inside, arguments)):
            with running(*given) as worker:
                found.append(worker.ready_after)
    path = folder / "imports"
    with (
        path.open("wb") as file,
        running(*arguments, options=["-X", "importtime"], errors=file.fileno()),
    ):
        pass
    times: Counter[str] = Counter()
    for micros, module in re.findall(r"import time:\s+(\d+) \|\s+\d+ \| +(\S+)", path.read_text()):
        times[module.partition(".")[0]] += int(micros)
    ms = [statistics.median(each) * 1e3 for each in (bare, alone, inside)]
    print("| from exec to ready | median |")
    print("| --- | ---: |")
    print(f"| `python -c pass` | {ms[0]:,.0f} ms |")
    print(f"| `seamless serve`, no cluster | {ms[1]:,.0f} ms |")
    print(f"| `seamless serve`, {NAMESPACES:,} namespaces to list | {ms[2]:,.0f} ms |")
    total = sum(times.values())
    most = ", ".join(f"{name} {micros / total:.0%}" for name, micros in times.most_common(9))
    print(f"\nOf {total / 1e3:,.0f} ms of importing, as -X importtime counts: {most}\n", flush=True)


def endure(worker: Worker, total: int) -> None:
    """Print memory and CPU at each tenth."""
    load, caller = Load(), Caller(worker.ports[0])
    shares = ", ".join(f"{name} {share:.1%}" for name, share in load.shares.items())
    print(f"{total:,} reviews of {load.mean_bytes / 1e3:.1f} kB on average: {shares}\n")
    print("| reviews | resident | of which anonymous | CPU a review | a second |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    print(f"| 0 | {worker.memory():.1f} MB | {worker.memory('RssAnon'):.1f} MB | | |", flush=True)
    for tenth in range(1, 11):
        count = total * tenth // 10 - total * (tenth - 1) // 10
        busy, began = worker.busy(), time.perf_counter()
        uvloop.run(caller.share(load.next() for _ in range(count)))
        micros = (worker.busy() - busy) / count * 1e6
        rate = count / (time.perf_counter() - began)
        print(
            f"| {total * tenth // 10:,} | {worker.memory():.1f} MB "
            f"| {worker.memory('RssAnon'):.1f} MB | {micros:,.0f} µs | {rate:,.0f} |",
            flush=True,
        )
    print(f"\nanswers by status: {dict(caller.statuses)}; {caller.connections} connections")
    print(f"peak {worker.memory('VmHWM'):.1f} MB\n", flush=True)


def sizes(worker: Worker) -> None:
    """Print time and peak memory by size."""
    admission = Admission(Configuration())
    print("| review | size | CPU a review | a kB | peak | after |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, size, count in (
        ("14 kB", 6_600, 1_000),
        ("200 kB", 99_500, 200),
        ("3 MB", 1_490_000, 30),
        ("6 MB", 2_990_000, 15),
    ):
        plain, newer = deployment(size, "1.28"), deployment(size, "1.29")
        stored, changed = admitted(admission, plain), admitted(admission, newer)
        body = review(named(changed), named(stored))  # of a namespace that is known
        request, caller = framed(body), Caller(worker.ports[0])
        worker.forget_peak()
        busy = worker.busy()
        uvloop.run(caller.share(itertools.repeat(request, count), 1))
        micros = (worker.busy() - busy) / count * 1e6
        assert set(caller.statuses) == {200}, caller.statuses
        print(
            f"| {name} | {len(body) / 1e3:,.0f} kB | {micros / 1e3:,.2f} ms "
            f"| {micros / len(body) * 1e3:.1f} µs | {worker.memory('VmHWM'):.1f} MB "
            f"| {worker.memory():.1f} MB |",
            flush=True,
        )
    print()


def workers(total: int) -> None:
    """Print what several workers cost, and how evenly they share connections.

    Their joint throughput is not measured: the client would need a core of its own beside theirs.
    """
    counts = (1, 2, 4)
    load = Load()
    found: dict[int, list[list[float]]] = {count: [] for count in counts}
    with contextlib.ExitStack() as stack:
        groups = {count: stack.enter_context(running(f"--workers={count}")) for count in counts}
        for number in range(1 + ROUNDS):  # the first warms
            for count, worker in groups.items():
                pids = worker.workers()
                assert len(pids) == count
                before = [worker.busy(pid) for pid in pids]
                requests = (load.next() for _ in range(total))
                uvloop.run(Caller(worker.ports[0]).share(requests, MANY))
                busy = [worker.busy(pid) - at for pid, at in zip(pids, before, strict=True)]
                if number:
                    found[count].append(busy)
    print(f"| workers | CPU a review | of one's | busiest, of {MANY} connections |")
    print("| ---: | ---: | ---: | ---: |")
    sums = {count: [sum(each) for each in found[count]] for count in counts}
    for count in counts:
        micros = statistics.median(sums[count]) / total * 1e6
        ratio = statistics.median(a / b for a, b in zip(sums[count], sums[1], strict=True))
        busiest = statistics.median(max(each) / sum(each) for each in found[count])
        print(f"| {count} | {micros:,.0f} µs | {ratio:.2f} x | {busiest:.0%} |", flush=True)
    print()


class Listed(Api):
    """A Kubernetes API that has so many namespaces, and no watch of them."""

    def __init__(self, count: int) -> None:
        enabled = {"seamless-rollouts.dev/inject": "enabled"}
        self._items = [
            {"metadata": {"name": f"team-{index:05}", "labels": enabled}} for index in range(count)
        ]

    def request(self, *_: Any, **__: Any) -> Json:
        """Give them all."""
        return {"metadata": {"resourceVersion": "1"}, "items": self._items}

    def stream(self, *_: Any, **__: Any) -> Any:
        """Have nothing to add."""
        raise ApiError("there is no watch here")


def namespaces() -> None:
    """Print what a decision costs by how many namespaces are known."""
    logging.disable(logging.WARNING)  # of the watch that is not there
    body = review(*(named(deployment(6_600, tag)) for tag in ("1.29", "1.28")))
    cases: dict[str, Callable[[], object]] = {}
    for count in (1, 100, NAMESPACES, 10 * NAMESPACES):
        watch = NamespaceWatch(Listed(count), Admission(Configuration()).table.namespace)
        watch.step()
        assert len(watch) == count
        admission = Admission(Configuration(), namespaces=watch.lookup)
        chance = random.Random(7)  # noqa: S311 - the same requests each time
        spaces = [b"team-%05d" % chance.randrange(count) for _ in range(50)]
        bodies = itertools.cycle([body.replace(SPACE, space) for space in spaces])
        cases[f"{count:,}"] = lambda admission=admission, bodies=bodies: admission.answer(  # type: ignore[misc]
            next(bodies)
        )
    found = medians(cases, 40, 50)
    print("| namespaces known | a decision, 14 kB | of one namespace's |")
    print("| ---: | ---: | ---: |")
    for name, microseconds in found.items():
        print(f"| {name} | {microseconds:,.0f} µs | {microseconds / found['1']:.2f} x |")


def main() -> None:
    """Print the tables."""
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    opened = socket.create_server(("127.0.0.1", 0), backlog=64)
    cluster = multiprocessing.get_context("fork").Process(target=play_kubernetes, args=(opened,))
    cluster.start()
    try:
        with tempfile.TemporaryDirectory() as name:
            url = f"http://127.0.0.1:{opened.getsockname()[1]}"
            arguments = [f"--kubeconfig={kubeconfig(Path(name), url)}"]
            start(arguments, Path(name))
            with running(*arguments) as worker:
                endure(worker, total)
                sizes(worker)
    finally:
        cluster.terminate()
        cluster.join()
    workers(min(total // 5, 3_000))
    namespaces()


if __name__ == "__main__":
    main()
