"""The chart, rendered by real Helm and applied, with `seamless serve` processes for its pods.

What a cluster would do for the pods is done here, and nothing else. The API server calls the name
that it would call, and checks the certificate for it: only the Service is of type ExternalName, and
the port is that of a small balancer on this machine, which stands for the endpoints. Arguments,
configuration, service account and rights are the chart's.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families

from tests.builders import Json, canonical, deployment
from tests.e2e.cluster import Cluster, Shop, until
from webhook.decision.aws import LABEL as AWS_LABEL

ROOT: Final = Path(__file__).resolve().parents[2]
NAME: Final = "seamless-rollouts"
NAMESPACE: Final = "seamless-system"
SERVICE: Final = f"{NAME}.{NAMESPACE}.svc"
EXCLUDED: Final = "e2e-excluded"
CONFIGURATION: Final = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{NAME}"
CA_SECRET: Final = f"/api/v1/namespaces/{NAMESPACE}/secrets/{NAME}-ca"
VALUES: Final[Json] = {
    "drainSeconds": 0,
    "lingerSeconds": 0,
    "logFormat": "text",
    "excludedNamespaces": [EXCLUDED],
}
DEPLOYMENT: Final = deployment()
SWITCHED_OFF: Final = tuple(
    deployment(metadata={"name": f"web-{number}"}, **{place: {"inject": "disabled"}})
    for number, place in enumerate(("says", "labels", "template_says", "template_labels"), 1)
)
"""Deployments that say so in each of the places, and are named `web-1` and so on."""
PLAIN: Final = "webhook"
HASTY: Final = "tests.e2e.hasty"
"""Modules that run the command: as it is, or with the waits between its rounds cut short."""
_END_SECONDS: Final = 30.0
_LOOPBACK: Final = "127.0.0.1"


class Balancer:
    """Leads each connection to one of the ready replicas, in turn, as a Service does."""

    def __init__(self, host: str) -> None:
        self.ports: tuple[int, ...] = ()
        self._turn = 0
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._lead, host, 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, name="balancer")
        self._thread.start()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            ports = self.ports
            if ports:
                self._turn += 1
                port = ports[self._turn % len(ports)]
                their_reader, their_writer = await asyncio.open_connection(_LOOPBACK, port)
                writers.append(their_writer)
                ways = (_pump(reader, their_writer), _pump(their_reader, writer))
                await asyncio.wait(
                    [asyncio.create_task(way) for way in ways],
                    return_when=asyncio.FIRST_COMPLETED,
                )
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in writers:
                each.close()

    def cut(self) -> None:
        """Close all connections, so that whoever calls next opens a new one."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(_END_SECONDS)

    def close(self) -> None:
        """End it, with all connections."""
        self._loop.call_soon_threadsafe(self._server.close)
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cut(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.05)  # the loop closes what was let go


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.CancelledError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


class Replica:
    """One `seamless serve`, on ports of its own."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=ROOT,
                env=dict(environment),
            )
        self._ports: dict[str, int] = {}

    @property
    def said(self) -> str:
        """Everything that it has logged."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def runs(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    @property
    def port(self) -> int:
        """Where the webhook is served."""
        return self._port(r"https://127\.0\.0\.1:(\d+)/mutate")

    def _port(self, pattern: str) -> int:
        if pattern not in self._ports:
            found = until(lambda: re.search(pattern, self.said) or not self.runs)
            assert isinstance(found, re.Match), self.said
            self._ports[pattern] = int(found[1])
        return self._ports[pattern]

    def health(self, path: str) -> tuple[int, str]:
        """Ask the plain port: the status, 0 where there is no answer, and the text."""
        port = self._port(r"http://127\.0\.0\.1:(\d+)")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{_LOOPBACK}:{port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    @property
    def ready(self) -> bool:
        """Whether the kubelet would say so."""
        assert self.runs, self.said
        return self.health("/readyz")[0] == 200

    def metric(self, name: str, **labels: str) -> float:
        """Add up the samples of a metric that have these labels."""
        status, text = self.health("/metrics")
        assert status == 200
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def leaf(self, bundle: bytes) -> x509.Certificate:
        """Give the certificate that it serves, verified as the API server does.

        Raises:
            ssl.SSLCertVerificationError: whoever trusts this bundle does not trust it.
        """
        context = ssl.create_default_context(cadata=bundle.decode())
        with (
            socket.create_connection((_LOOPBACK, self.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=SERVICE) as wrapped,
        ):
            found = wrapped.getpeercert(binary_form=True)
        assert found is not None
        return x509.load_der_x509_certificate(found)

    def ask_anonymously(self, bundle: bytes) -> bytes:
        """Send a request as somebody without a certificate: the answer, empty where none comes."""
        context = ssl.create_default_context(cadata=bundle.decode())
        with (
            contextlib.suppress(ssl.SSLError, ConnectionError),
            socket.create_connection((_LOOPBACK, self.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=SERVICE) as wrapped,
        ):
            wrapped.sendall(b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            return wrapped.recv(1024)
        return b""

    def tell_to_stop(self) -> None:
        """Send SIGTERM as the kubelet does, and do not wait; it has met no error until then."""
        assert not self.metric("seamless_errors_total"), self.said
        self._process.send_signal(signal.SIGTERM)

    def await_end(self) -> None:
        """Wait until it has ended, and see that it did so in good order."""
        try:
            self._process.wait(_END_SECONDS)
        finally:
            self.kill()
        assert self._process.returncode == 0, self.said
        assert "Traceback" not in self.said, self.said

    def kill(self) -> None:
        """End it as a lost node does."""
        self._process.kill()
        self._process.wait()


class Release:
    """What `helm install` puts into the cluster, and the pods of it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.balancer = Balancer(cluster.host)
        self.replicas: list[Replica] = []
        self.said_at_install = ""
        self._values: Json | None = None
        self._manifests: list[Json] = []
        self._program: tuple[str, bytes] = ("", b"")
        self._number = 0
        self._files = cluster.folder / "pod"
        self._files.mkdir()
        self.tls = self._files / "tls"
        """Where the volume of the Secret with the certificate would be mounted."""
        self.client_ca = self._files / "client-ca"
        """Where the CA for clients would be mounted."""
        self.client_ca.mkdir()
        cluster.shop({"pod-security.kubernetes.io/warn": "restricted"}, name=NAMESPACE)
        self._inside = cluster.shop()
        self._outside = cluster.shop({})

    def ensure(
        self, values: Json | None = None, *, replicas: int = 1, program: str = PLAIN
    ) -> None:
        """Have the release be so, and the API server know: at once where it is so already."""
        values = VALUES | (values or {})
        if values != self._values:
            if self._values and values.get("certificates") != self._values.get("certificates"):
                self.stop()
                self.uninstall()
            self.install(values)
        wanted = (program, self._pod_template())
        if self._program != wanted or [each.runs for each in self.replicas] != [True] * replicas:
            self.stop()
            self.start(replicas, program)
            until(self._as_told)

    # --- the chart -------------------------------------------------------------------------------

    def install(self, values: Json, *arguments: str) -> None:
        """Install, or upgrade: apply what Helm renders, and delete what it renders no more."""
        from tests.chart.rendering import render

        found = render(values, kubernetes=self.cluster.version, name=NAME, namespace=NAMESPACE)
        manifests = [self._led_here(each) for each in found if not _is_hook(each)]
        said = self.cluster.kubectl(
            "apply",
            "--server-side",
            "--field-manager=helm",
            *arguments,
            "-f",
            "-",
            given=manifests,
        )
        self.said_at_install = said.errors
        stay = {_reference(each) for each in manifests}
        gone = [each for each in self._manifests if _reference(each) not in stay]
        if gone:
            self.cluster.kubectl("delete", "--ignore-not-found", "-f", "-", given=gone)
        self._manifests, self._values = manifests, values

    def uninstall(self) -> None:
        """Delete everything that Helm has rendered."""
        self.cluster.kubectl(
            "delete", "--ignore-not-found", "--wait=false", "-f", "-", given=self._manifests
        )
        self._manifests, self._values = [], None

    def _led_here(self, given: Json) -> Json:
        given = copy.deepcopy(given)
        if given["kind"] == "Service":
            given["spec"] = {"type": "ExternalName", "externalName": self.cluster.host}
        if given["kind"] == "Deployment":
            given["spec"]["replicas"] = 0  # its pods run here
        for each in given.get("webhooks", ()):
            each["clientConfig"]["service"]["port"] = self.balancer.port
        return given

    def manifest(self, kind: str) -> Json:
        """Give the only object of a kind, as it was rendered."""
        (found,) = (each for each in self._manifests if each["kind"] == kind)
        return found

    def bundles(self) -> list[bytes]:
        """Give the `caBundle` of each entry, as it is stored."""
        found = self.cluster.get(CONFIGURATION) or {}
        return [
            base64.b64decode(each["clientConfig"].get("caBundle", ""))
            for each in found.get("webhooks", ())
        ]

    def _pod_template(self) -> bytes:
        return canonical(self.manifest("Deployment")["spec"]["template"])

    # --- the pods --------------------------------------------------------------------------------

    def launch(self, count: int, program: str = PLAIN) -> list[Replica]:
        """Start pods of the Deployment as it is stored, all at once, and wait for none."""
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}"
        found = self.cluster.api.request("GET", path)
        account = found["spec"]["template"]["spec"]["serviceAccountName"]
        (container,) = found["spec"]["template"]["spec"]["containers"]
        self._write_configuration()
        kubectl = self.cluster.kubectl
        token = kubectl("--namespace", NAMESPACE, "create", "token", account).output.strip()
        kubeconfig = self.cluster.user(token, "pod")
        arguments = ["-m", program, *self._arguments(container["args"])]
        arguments += [f"--kubeconfig={kubeconfig}"]
        begun = []
        for _ in range(count):
            self._number += 1
            name = f"{NAME}-{self._number}"
            environment = {"POD_NAMESPACE": NAMESPACE, "POD_NAME": name, "PYTHONUNBUFFERED": "1"}
            begun.append(Replica(arguments, environment, self._files / f"{name}.log"))
        self._program = (program, self._pod_template())
        self.replicas += begun
        return begun

    def _arguments(self, given: Sequence[str]) -> Iterator[str]:
        here = {
            "--host": _LOOPBACK,
            "--port": "0",
            "--health-port": "0",
            "--config": str(self._files / "config.yaml"),
            "--tls-cert": str(self.tls / "tls.crt"),
            "--tls-key": str(self.tls / "tls.key"),
            "--client-ca": str(self.client_ca / "ca.crt"),
        }
        for each in given:
            name, equals, value = each.partition("=")
            yield f"{name}{equals}{here.get(name, value)}"

    def _write_configuration(self) -> None:
        path = f"/api/v1/namespaces/{NAMESPACE}/configmaps/{NAME}"
        content = self.cluster.api.request("GET", path)["data"]
        for name, text in content.items():
            (self._files / name).write_text(text, encoding="utf-8")

    def await_ready(self) -> None:
        """Wait until every pod is ready, and have the Service lead to them."""
        for each in self.replicas:
            until(lambda each=each: each.ready)
        self.lead()

    def lead(self) -> None:
        """Have the Service lead to the pods that are ready now."""
        self.balancer.ports = tuple(each.port for each in self.replicas if each.runs and each.ready)

    def start(self, count: int = 1, program: str = PLAIN) -> None:
        """Start pods, and wait until they are ready."""
        self.launch(count, program)
        self.await_ready()

    def stop(self) -> None:
        """Stop all pods."""
        self.balancer.ports = ()
        stopped, self.replicas = self.replicas, []
        try:
            for each in stopped:
                each.tell_to_stop()
            for each in stopped:
                each.await_end()
        finally:
            for each in stopped:
                each.kill()

    def kill(self) -> None:
        """End all processes, however they are: when the tests are over."""
        for each in self.replicas:
            each.kill()
        self.balancer.close()

    # --- what it does ----------------------------------------------------------------------------

    def count(self, name: str = "seamless_reviews_total", **labels: str) -> float:
        """Add up a metric over all pods: the reviews that were answered, unless told otherwise."""
        return sum(each.metric(name, **labels) for each in self.replicas)

    def treats(self, shop: Shop, given: Json = DEPLOYMENT) -> bool:
        """Tell whether a new workload would be patched: a dry run."""
        path = f"/apis/apps/v1/namespaces/{shop.name}/deployments"
        body = shop.own(given)
        made = self.cluster.api.request("POST", path, query={"dryRun": "All"}, body=body)
        return "minReadySeconds" in made["spec"]

    def _as_told(self) -> bool:
        """Tell whether the API server goes by the values, which it learns of by and by."""
        values = self._values or {}
        told = values.get("webhook", {})
        on = bool(self.replicas) and told.get("enabled", True)
        everywhere = on and values.get("scope") == "cluster"
        patches = values.get("mode") != "audit"
        looks = told.get("failurePolicy") == "Fail" or told.get("matchConditions") == "always"
        before = self.count()
        treated = (
            self.treats(self._inside),
            self.treats(self._outside),
            self.treats(self._inside, SWITCHED_OFF[0]),
        )
        if treated != (patches and on, patches and everywhere, False):
            return False
        if self.count() - before != on + everywhere + (on and not looks):
            return False
        body = {"metadata": {"name": "e2e-probe", "labels": self._inside.labels}}
        made = self.cluster.api.request(
            "POST", "/api/v1/namespaces", query={"dryRun": "All"}, body=body
        )
        gates = on and bool(values.get("awsReadinessGates"))
        return (AWS_LABEL in made["metadata"]["labels"]) == gates


def _is_hook(given: Json) -> bool:
    return "helm.sh/hook" in (given["metadata"].get("annotations") or {})


def _reference(given: Json) -> tuple[str, str]:
    return given["kind"], given["metadata"]["name"]
