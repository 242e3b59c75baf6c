from __future__ import annotations

import base64
import pickle
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cluster.fake_api import CONFIGURATIONS, NAMESPACES, FakeApi, Fault, once, until
from webhook.cli import serve
from webhook.cli.common import UsageError
from webhook.cli.startup import Parts, StartError, read
from webhook.cluster.authority import service_names
from webhook.tls.certificates import FixedCertificate, Pair, self_signed

HOST = "webhook.seamless.svc"
SELF_MANAGED = ("--ca-secret=ca", "--webhook-configuration=ours", "--service=webhook")


@pytest.fixture
def fake() -> Iterator[FakeApi]:
    """An API server that fails on command."""
    server = FakeApi()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _in_a_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have our namespace known."""
    monkeypatch.setenv("POD_NAMESPACE", "seamless")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


def parts(fake: FakeApi | None, *arguments: str) -> Parts:
    """Make the parts of a process, with the fake or without a cluster."""
    reach = ("--kubeconfig=fake",) if fake else ()
    options = read(serve._parser().parse_args([*arguments, *reach]))
    return Parts(options, lambda _given: fake.api())


def files(folder: Path, pair: Pair) -> tuple[str, str]:
    """Write a pair, as options."""
    (folder / "tls.crt").write_bytes(pair.certificate)
    (folder / "tls.key").write_bytes(pair.key)
    return f"--tls-cert={folder / 'tls.crt'}", f"--tls-key={folder / 'tls.key'}"


def install(fake: FakeApi, bundle: bytes | None = None) -> None:
    """Store our configuration."""
    client = {"service": {"name": "webhook", "namespace": "seamless"}}
    if bundle:
        client |= {"caBundle": base64.b64encode(bundle).decode()}
    fake.put(CONFIGURATIONS, "ours", {"webhooks": [{"name": "a", "clientConfig": client}]})


def test_self_managed_certificates_are_ready_with_namespaces_and_trust(fake: FakeApi) -> None:
    """What is missing is said until it is there."""
    fake.namespace("a", inject="enabled")
    found = parts(fake, *SELF_MANAGED)
    assert len(found.problems()) == 2
    found.start()
    try:
        until(lambda: found.problems() == ["there is no MutatingWebhookConfiguration ours"])
        install(fake)
        until(lambda: not found.problems())
        until(found.known.cluster)
        assert found.known.lookup("a") is not None
        fake.namespace("b")
        until(lambda: found.known.fetch("b", 1.0))
    finally:
        found.stop()
    numbers = {name: value for name, (_, value) in found.metrics().items()}
    assert numbers["seamless_namespaces"] == 2
    assert numbers["seamless_namespace_watches_total"] == 1
    assert numbers["seamless_namespace_errors_total"] == 0
    assert numbers["seamless_ca_writes_total"] == 2
    now = datetime.now(UTC).timestamp()
    assert 6 < (numbers["seamless_certificate_expiry_timestamp_seconds"] - now) / 86400 < 8
    assert 360 < (numbers["seamless_ca_expiry_timestamp_seconds"] - now) / 86400 < 370


def test_a_certificate_in_files_is_ready_when_the_api_server_trusts_it(
    fake: FakeApi, tmp_path: Path
) -> None:
    """Whoever looks after the bundle; nothing is written by us."""
    pair = self_signed([HOST], datetime.now(UTC))
    install(fake)
    found = parts(fake, "--webhook-configuration=ours", *files(tmp_path, pair))
    found.start()
    try:
        until(lambda: any("holds no valid certificate" in each for each in found.problems()))
        install(fake, pair.certificate)
        until(lambda: not found.problems())
        other = self_signed([HOST], datetime.now(UTC))
        files(tmp_path, other)
        found.source.step()
        until(lambda: any("does not trust" in each for each in found.problems()))
    finally:
        found.stop()
    assert {each.method for each in fake.requests} == {"GET"}


def test_without_a_cluster_only_files_are_looked_after(tmp_path: Path) -> None:
    """Nothing is known, and nothing is missed."""
    found = parts(None, *files(tmp_path, self_signed([HOST], datetime.now(UTC))))
    found.start()
    assert found.problems() == []
    assert found.known.lookup("a") is None
    assert found.known.fetch("a", 1.0) is None
    assert found.known.cluster() == (None, None, None)
    assert set(found.metrics()) == {
        "seamless_certificate_expiry_timestamp_seconds",
        "seamless_certificate_files_refused",
    }
    found.stop()


def test_without_a_certificate_it_has_one_of_its_own(fake: FakeApi) -> None:
    """The cluster then looks after none."""
    assert isinstance(parts(fake).source, FixedCertificate)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--tls-cert=a"], "one of them is missing"),
        (["--tls-key=a"], "one of them is missing"),
        (["--tls-cert=a", "--tls-key=b", "--ca-secret=c"], "one of them, or none"),
        (["--ca-secret=c"], "needs a cluster in reach"),
        (["--config-map=c"], "needs a cluster in reach"),
        (["--events"], "needs a cluster in reach"),
        (["--status-interval=1m"], "needs a cluster in reach"),
        (["--client-ca=a"], "needs --tls-cert and --tls-key, or --ca-secret"),
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments: list[str], reason: str) -> None:
    """Before anything is started."""
    with pytest.raises(UsageError, match=reason):
        parts(None, *arguments)


@pytest.mark.parametrize("option", ["--ca-secret=c", "--config-map=c"])
def test_what_is_in_our_namespace_needs_it_to_be_known(
    option: str, monkeypatch: pytest.MonkeyPatch, fake: FakeApi
) -> None:
    """A cluster in reach is not enough."""
    monkeypatch.delenv("POD_NAMESPACE")
    with pytest.raises(UsageError, match="our namespace in POD_NAMESPACE"):
        parts(fake, option)


def test_a_cluster_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    """As a broken kubeconfig is."""
    path = tmp_path / "kubeconfig"
    path.write_text("[]", encoding="utf-8")
    options = read(serve._parser().parse_args([f"--kubeconfig={path}"]))
    with pytest.raises(StartError, match="cannot reach the cluster by "):
        Parts(options)


def test_parts_stop_in_the_reverse_of_the_order_in_which_they_start() -> None:
    """What was added last may need what was there before."""
    seen: list[str] = []

    class Part:
        def __init__(self, name: str) -> None:
            self.name = name

        def start(self) -> None:
            seen.append(f"{self.name} starts")

        def stop(self) -> None:
            seen.append(f"{self.name} stops")

    found = parts(None)
    for name in ("one", "other"):
        found.add(Part(name))
    found.start()
    found.stop()
    assert seen == ["one starts", "other starts", "other stops", "one stops"]


def test_a_client_ca_that_is_missing_is_not_ready(fake: FakeApi, tmp_path: Path) -> None:
    """Nobody could be let in; once it is there all is well."""
    install(fake)
    path = tmp_path / "clients.crt"
    found = parts(fake, *SELF_MANAGED, f"--client-ca={path}")
    source = found.source
    assert source is not None
    source.step()
    assert "clients.crt" in (source.problem() or "")
    path.write_bytes(self_signed(["client"], datetime.now(UTC)).certificate)
    source.step()
    assert source.problem() is None


def test_an_api_server_that_is_away_ends_nothing(fake: FakeApi) -> None:
    """Started without it, a session is not ready, and becomes so by itself."""
    install(fake)
    fake.faults.append(once(Fault(0), times=6))
    found = parts(fake, *SELF_MANAGED)
    found.start()
    try:
        until(lambda: not found.problems(), 20)
    finally:
        found.stop()
    assert len(fake.asked("GET", NAMESPACES, watches=True)) >= 1


def test_options_can_be_sent_to_a_worker() -> None:
    """They are plain values."""
    options = read(serve._parser().parse_args([]))
    assert pickle.loads(pickle.dumps(options)) == options  # noqa: S301 - our own


def test_the_api_server_calls_a_service_by_its_namespace() -> None:
    """And people by less."""
    assert service_names("webhook", "seamless")[-1] == HOST
    assert service_names(None, "seamless") == []


def test_the_package_brings_no_client_until_it_is_used() -> None:
    """`seamless plan` starts without it."""
    program = (
        "import sys, webhook.cluster, webhook.tls.certificates;"
        "assert 'kubernetes' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
