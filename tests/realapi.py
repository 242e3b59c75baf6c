"""A real API server for tests: etcd and kube-apiserver from `KUBEBUILDER_ASSETS`.

    from tests.realapi import real_api  # noqa: F401

gives the fixture; it skips where the two programs are not found. No controllers and no kubelet run,
so no pods, and no service accounts but those that a test makes. Only loopback addresses are used,
and only processes that were started here are ended.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import os
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_PROGRAMS = ("etcd", "kube-apiserver")
_DEFAULT = "/usr/local/kubebuilder/bin"
_START_SECONDS = 60.0


def find_programs() -> Path | None:
    """Find the folder of etcd and kube-apiserver, if there is one."""
    folder = Path(os.environ.get("KUBEBUILDER_ASSETS", _DEFAULT))
    return folder if all((folder / name).is_file() for name in _PROGRAMS) else None


class RealApi:
    """One etcd and one kube-apiserver.

    Args:
        folder: where to keep data, keys and logs.
        programs: the folder of both programs.
        arguments: more arguments for kube-apiserver.
    """

    def __init__(self, folder: Path, programs: Path, arguments: Sequence[str] = ()) -> None:
        self._folder = folder
        self._programs = programs
        self._arguments = arguments
        self._etcd_port, self._peer_port, self._port = _free_ports(3)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.url = f"https://127.0.0.1:{self._port}"
        self._write_keys()
        self.kubeconfig = self.write_kubeconfig(
            "admin",
            {
                "client-certificate-data": self._encoded("admin.crt"),
                "client-key-data": self._encoded("admin.key"),
            },
        )
        try:
            self._start_etcd()
            self.start()
        except BaseException:
            self.stop()
            raise

    def start(self) -> None:
        """Start kube-apiserver, and wait until it is ready."""
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--tls-cert-file={self._folder}/server.crt",
            f"--tls-private-key-file={self._folder}/server.key",
            f"--client-ca-file={self._folder}/ca.crt",
            "--service-cluster-ip-range=10.0.0.0/24",
            f"--service-account-issuer={self.url}/",
            f"--service-account-key-file={self._folder}/accounts.key",
            f"--service-account-signing-key-file={self._folder}/accounts.key",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
            "--endpoint-reconciler-type=none",
            *self._arguments,
        )
        context = ssl.create_default_context(cafile=str(self._folder / "ca.crt"))
        context.load_cert_chain(self._folder / "admin.crt", self._folder / "admin.key")
        self._wait("kube-apiserver", f"{self.url}/readyz", context)

    def stop_server(self) -> None:
        """Stop kube-apiserver as a crash does, at once; what is stored stays."""
        self._running["kube-apiserver"].kill()
        self._end("kube-apiserver")

    def restart(self) -> None:
        """Stop kube-apiserver, and start it again on the same port with what is stored."""
        self.stop_server()
        self.start()

    def stop(self) -> None:
        """Stop both."""
        for name in reversed(_PROGRAMS):
            self._end(name)

    def write_kubeconfig(self, name: str, user: dict[str, str]) -> Path:
        """Write a kubeconfig for a user, with a token or whatever proves who it is."""
        path = self._folder / f"{name}.kubeconfig"
        cluster = {"server": self.url, "certificate-authority-data": self._encoded("ca.crt")}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        }
        path.write_text(json.dumps(content))
        return path

    def _start_etcd(self) -> None:
        client = f"http://127.0.0.1:{self._etcd_port}"
        peer = f"http://127.0.0.1:{self._peer_port}"
        self._run(
            "etcd",
            "--name=default",
            f"--data-dir={self._folder}/etcd",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync=true",
        )
        self._wait("etcd", f"{client}/health", None)

    def _run(self, name: str, *arguments: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [str(self._programs / name), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _end(self, name: str) -> None:
        process = self._running.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait(self, name: str, url: str, context: ssl.SSLContext | None) -> None:
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end and self._running[name].poll() is None:
            with contextlib.suppress(OSError), opener.open(url, timeout=2) as response:
                if response.status == 200:
                    return
            time.sleep(0.05)
        tail = (self._folder / f"{name}.log").read_text(errors="replace")[-2000:]
        message = f"{name} did not become ready:\n{tail}"
        raise RuntimeError(message)

    def _encoded(self, name: str) -> str:
        return base64.b64encode((self._folder / name).read_bytes()).decode()

    def _write_keys(self) -> None:
        ca = _Signer(self._folder, "ca", None)
        hosts = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
        names += [x509.IPAddress(ipaddress.ip_address(each)) for each in ("127.0.0.1", "10.0.0.1")]
        _Signer(self._folder, "server", ca, names=names)
        _Signer(self._folder, "admin", ca, organization="system:masters")
        _Signer(self._folder, "accounts", ca)


class _Signer:
    """A key and its certificate, written to a folder."""

    def __init__(
        self,
        folder: Path,
        name: str,
        issuer: _Signer | None,
        *,
        organization: str = "tests",
        names: Sequence[x509.GeneralName] = (),
    ) -> None:
        self.key = rsa.generate_private_key(65537, 2048)
        self.subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
        signer = issuer or self
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(signer.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=2))
            .add_extension(x509.BasicConstraints(issuer is None, None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()),
                critical=False,
            )
        )
        if issuer is None:
            usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)  # noqa: FBT003
            builder = builder.add_extension(usage, critical=True)
        else:
            both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(signer.key, hashes.SHA256())
        pem = serialization.Encoding.PEM
        (folder / f"{name}.crt").write_bytes(certificate.public_bytes(pem))
        path = folder / f"{name}.key"
        path.touch(mode=0o600)
        path.write_bytes(
            self.key.private_bytes(
                pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
        )


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="session")
def real_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealApi]:
    """A real API server; skips where there is none to start."""
    programs = find_programs()
    if programs is None:
        pytest.skip("no API server to test with: no etcd and kube-apiserver in KUBEBUILDER_ASSETS")
    server = RealApi(tmp_path_factory.mktemp("realapi"), programs)
    yield server
    server.stop()
