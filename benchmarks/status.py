"""`seamless status -A` over thousands of workloads: time and memory, beside the bare list's time.

The bare list reads the same pages and throws the bytes away: that is the API server's own time. The
server is one of our own on loopback, which has every page ready; with a second number, also a real
API server with so many workloads, where etcd and kube-apiserver are found.
`python benchmarks/status.py [WORKLOADS [REAL]]`
"""

from __future__ import annotations

import multiprocessing
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import orjson
import urllib3
import yaml

sys.path.insert(0, str(__import__("pathlib").Path(__file__).parent))

from decide import admitted, deployment

from webhook.cluster.client import Api, ApiError, connect
from webhook.cluster.survey import PAGE
from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration

Json = dict[str, Any]

SIZE: Final = 14_000
NAMESPACES: Final = 200
ROUNDS: Final = 3
ROOT: Final = Path(__file__).parents[1]
# Of ten workloads eight are Deployments.
KINDS: Final = ("Deployment",) * 8 + ("StatefulSet", "DaemonSet")
COLLECTIONS: Final = {
    "Deployment": "/apis/apps/v1/deployments",
    "StatefulSet": "/apis/apps/v1/statefulsets",
    "DaemonSet": "/apis/apps/v1/daemonsets",
}
# The client imports kubernetes-validate where it finds it, which takes seconds: it is a dependency
# of the tests alone. The peak is asked of the process itself: what wait() tells of it counts what
# its parent had when it was begun.
_SEAMLESS: Final = """
import os, pathlib, re, sys
sys.modules["kubernetes_validate"] = None
from webhook.cli import main
status = main()
peak = re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]
pathlib.Path(os.environ["PEAK_FILE"]).write_text(peak)
sys.exit(status)
"""
_TOKEN: Final = re.compile(rb'"continue":"([^"]+)"')


def workloads(number: int) -> Iterator[Json]:
    """Make workloads of 14 kB, every other one patched, in the order of an API server's list."""
    admission = Admission(Configuration(scope="cluster"))
    plain = deployment(SIZE, "1.0")
    patched = admitted(admission, plain)
    each = -(-number // NAMESPACES)
    for index in range(number):
        given = orjson.loads(orjson.dumps(patched if index % 2 else plain))
        kind = KINDS[index % len(KINDS)]
        given["kind"] = kind
        given["metadata"] |= {
            "name": f"workload-{index % each:05}",
            "namespace": f"team-{index // each:03}",
        }
        if kind != "Deployment":
            given["spec"]["updateStrategy"] = {"type": "RollingUpdate"}
            for key in ("strategy", "progressDeadlineSeconds"):
                del given["spec"][key]
        if kind == "StatefulSet":
            given["spec"]["serviceName"] = "workload"
        if kind == "DaemonSet":
            del given["spec"]["replicas"]
        yield given


# --- the servers ---------------------------------------------------------------------------------


def serve(number: int, opened: socket.socket) -> None:
    """Serve lists in pages, each of which is made before the first is asked for."""
    things: dict[str, list[bytes]] = {path: [] for path in COLLECTIONS.values()}
    for each in workloads(number):
        things[COLLECTIONS[each["kind"]]].append(orjson.dumps(each))
    things["/api/v1/namespaces"] = [
        orjson.dumps({"metadata": {"name": f"team-{index:03}"}}) for index in range(NAMESPACES)
    ]
    pages: dict[tuple[str, int], bytes] = {}
    for path, items in things.items():
        for start in range(0, max(1, len(items)), PAGE):
            end = start + PAGE
            token = f',"continue":"{end}"' if end < len(items) else ""
            head = f'{{"metadata":{{"resourceVersion":"1"{token}}},"items":['.encode()
            pages[path, start] = head + b",".join(items[start:end]) + b"]}"
    del things

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            start = int(dict(parse_qsl(parts.query)).get("continue", 0))
            body = pages.get((parts.path, start))
            status = 200 if body is not None else 404
            if parts.path == "/version":
                status, body = 200, b'{"major":"1","minor":"36"}'
            self.send_response(status)
            self.send_header("Content-Length", str(len(body or b"{}")))
            self.end_headers()
            self.wfile.write(body or b"{}")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(opened.getsockname(), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = opened
    server.serve_forever()


def kubeconfig(folder: Path, url: str) -> Path:
    """Write a kubeconfig of a server that asks nobody who they are."""
    path = folder / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": url}}],
        "users": [{"name": "here", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "here"}}],
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def fill(api: Api, number: int) -> None:
    """Store workloads in a real API server."""
    for index in range(NAMESPACES):
        body = {"metadata": {"name": f"team-{index:03}"}}
        api.request("POST", "/api/v1/namespaces", body=body)

    def store(given: Json) -> None:
        for key in ("uid", "resourceVersion", "managedFields", "generation"):
            given["metadata"].pop(key, None)
        namespace = given["metadata"]["namespace"]
        resource = COLLECTIONS[given["kind"]].rpartition("/")[2]
        path = f"/apis/apps/v1/namespaces/{namespace}/{resource}"
        for attempt in range(5):
            try:
                api.request("POST", path, body=given)
            except ApiError:
                if attempt == 4:
                    raise
                time.sleep(1)
            else:
                return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(store, workloads(number)))


# --- measuring -----------------------------------------------------------------------------------


def bare_list(path: Path) -> tuple[float, int]:
    """Read all pages and throw them away; gives the seconds and the bytes."""
    client = connect(path)
    assert client is not None
    pool, host = client.rest_client.pool_manager, client.configuration.host
    began, size = time.perf_counter(), 0
    for collection in COLLECTIONS.values():
        query: Json = {"limit": PAGE}
        while True:
            url = f"{host}{collection}?{urlencode(query)}"
            response: urllib3.BaseHTTPResponse = pool.request("GET", url)
            assert response.status == 200
            size += len(response.data)
            token = _TOKEN.search(response.data[:2000])
            if token is None:
                break
            query["continue"] = token[1].decode()
    return time.perf_counter() - began, size


def run_status(path: Path, config: Path, output: Path) -> tuple[float, float, float]:
    """Run the command as a process of its own; gives its seconds, CPU seconds and peak MB."""
    arguments = [sys.executable, "-c", _SEAMLESS, "status", "-A", "-o", "json"]
    arguments += [f"--kubeconfig={path}", f"--config={config}"]
    peak = output.with_suffix(".peak")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PEAK_FILE": str(peak)}
    environment["POD_NAMESPACE"] = "seamless-system"
    began = time.perf_counter()
    written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    actions = [(os.POSIX_SPAWN_DUP2, written, 1)]
    pid = os.posix_spawn(sys.executable, arguments, environment, file_actions=actions)
    os.close(written)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - began
    assert status == 0, f"seamless status ended with {status}"
    return seconds, usage.ru_utime + usage.ru_stime, int(peak.read_text()) / 1024


def measure(title: str, path: Path, folder: Path, number: int) -> None:
    """Take turns, and print the median of each, and the greatest memory."""
    config, output = folder / "config.yaml", folder / "status.json"
    config.write_text("scope: cluster\n", encoding="utf-8")
    bare: list[float] = []
    runs: list[tuple[float, float, float]] = []
    for _ in range(ROUNDS):
        seconds, size = bare_list(path)
        bare.append(seconds)
        runs.append(run_status(path, config, output))
    totals = orjson.loads(output.read_bytes())["totals"]
    assert totals["patched"] + totals["unpatched"] == number, totals
    told, busy, peaks = zip(*runs, strict=True)
    middle, whole, cpu = (sorted(each)[ROUNDS // 2] for each in (bare, told, busy))
    print(f"{title}: {number} workloads, {size / 1e6:.0f} MB, pages of {PAGE}")
    print(f"  bare list          {middle:8.2f} s")
    print(f"  seamless status    {whole:8.2f} s  {whole / middle:6.1f} x")
    print(f"    of which CPU     {cpu:8.2f} s;  peak {max(peaks):.0f} MB")


def synthetic(number: int, folder: Path) -> None:
    """Measure against the server of our own."""
    opened = socket.create_server(("127.0.0.1", 0), backlog=64)
    process = multiprocessing.get_context("fork").Process(target=serve, args=(number, opened))
    process.start()
    try:
        path = kubeconfig(folder, f"http://127.0.0.1:{opened.getsockname()[1]}")
        bare_list(path)  # waits until its pages are made
        measure("A server of our own", path, folder, number)
    finally:
        process.terminate()
        process.join()


def real(number: int, folder: Path) -> None:
    """Measure against a real API server, where there is one."""
    sys.path.insert(0, str(ROOT))
    from tests.realapi import RealApi, find_programs

    programs = find_programs()
    if programs is None:
        print("No etcd and kube-apiserver in KUBEBUILDER_ASSETS: not measured against a real one.")
        return
    server = RealApi(folder, programs)
    try:
        client = connect(server.kubeconfig)
        fill(Api(client), number)
        measure("A real API server", server.kubeconfig, folder, number)
    finally:
        server.stop()


def main() -> None:
    """Print the table."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        synthetic(number, Path(folder))
        if len(sys.argv) > 2:
            real(int(sys.argv[2]), Path(folder))


if __name__ == "__main__":
    main()
