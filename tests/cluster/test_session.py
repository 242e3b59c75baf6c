from __future__ import annotations

import base64
import pickle
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cluster.fake_api import CONFIGURATIONS, NAMESPACES, FakeApi, Fault, once, until
from webhook.cluster.client import ClusterError
from webhook.cluster.session import ClusterSession, Options, service_names
from webhook.decision.mutations import MUTATIONS
from webhook.decision.settings import Table
from webhook.tls.certificates import Pair, self_signed

TABLE = Table(setting for each in MUTATIONS for setting in each.settings)
HOST = "webhook.seamless.svc"


def session(fake: FakeApi | None, **options: object) -> ClusterSession:
    """Make a session with the fake, or without a cluster."""
    found = Options(**options)
    client = fake.api()._client if fake else None
    return ClusterSession(found, TABLE.namespace, reach=lambda _path: client)


def files(folder: Path, pair: Pair) -> dict[str, Path]:
    """Write a pair, as options."""
    (folder / "tls.crt").write_bytes(pair.certificate)
    (folder / "tls.key").write_bytes(pair.key)
    return {"certificate": folder / "tls.crt", "key": folder / "tls.key"}


def install(fake: FakeApi, bundle: bytes | None = None) -> None:
    """Store our configuration."""
    client = {"service": {"name": "webhook", "namespace": "seamless"}}
    if bundle:
        client |= {"caBundle": base64.b64encode(bundle).decode()}
    fake.put(CONFIGURATIONS, "ours", {"webhooks": [{"name": "a", "clientConfig": client}]})


def test_self_managed_certificates_are_ready_with_namespaces_and_trust(fake: FakeApi) -> None:
    """What is missing is said until it is there."""
    fake.namespace("a", inject="enabled")
    found = session(
        fake,
        namespace="seamless",
        ca_secret="ca",  # noqa: S106 - a name
        webhook_configuration="ours",
        service="webhook",
    )
    assert len(found.problems()) == 2
    found.start()
    try:
        until(lambda: found.problems() == ["there is no MutatingWebhookConfiguration ours"])
        install(fake)
        until(lambda: not found.problems())
        until(found.cluster)
        assert found.lookup("a") is not None
        fake.namespace("b")
        until(lambda: found.fetch("b", 1.0))
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
    found = session(fake, webhook_configuration="ours", **files(tmp_path, pair))
    found.start()
    try:
        until(lambda: any("holds no valid certificate" in each for each in found.problems()))
        install(fake, pair.certificate)
        until(lambda: not found.problems())
        other = self_signed([HOST], datetime.now(UTC))
        files(tmp_path, other)
        found.certificates.step()
        until(lambda: any("does not trust" in each for each in found.problems()))
    finally:
        found.stop()
    assert {each.method for each in fake.requests} == {"GET"}


def test_without_a_cluster_only_files_are_looked_after(tmp_path: Path) -> None:
    """Nothing is known, and nothing is missed."""
    found = session(None, **files(tmp_path, self_signed([HOST], datetime.now(UTC))))
    found.start()
    assert found.problems() == []
    assert found.lookup("a") is None
    assert found.fetch("a", 1.0) is None
    assert found.cluster() == (None, None, None)
    assert set(found.metrics()) == {"seamless_certificate_expiry_timestamp_seconds"}
    found.stop()


def test_without_a_certificate_there_is_none_to_look_after(fake: FakeApi) -> None:
    """The server then has one of its own."""
    assert session(fake).certificates is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"certificate": Path("a")}, "one of them is missing"),
        ({"key": Path("a")}, "one of them is missing"),
        ({"certificate": Path("a"), "key": Path("b"), "ca_secret": "c"}, "expected one"),
        ({"ca_secret": "c"}, "need a cluster"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: dict[str, object], reason: str
) -> None:
    """Before anything is started."""
    with pytest.raises(ClusterError, match=reason):
        session(None, **options)


def test_a_client_ca_that_is_missing_is_not_ready(fake: FakeApi, tmp_path: Path) -> None:
    """Nobody could be let in; once it is there all is well."""
    install(fake)
    path = tmp_path / "clients.crt"
    found = session(
        fake,
        namespace="seamless",
        ca_secret="ca",  # noqa: S106 - a name
        webhook_configuration="ours",
        service="webhook",
        client_ca=path,
    )
    source = found.certificates
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
    found = session(
        fake,
        namespace="seamless",
        ca_secret="ca",  # noqa: S106 - a name
        webhook_configuration="ours",
        service="webhook",
    )
    found.start()
    try:
        until(lambda: not found.problems(), 20)
    finally:
        found.stop()
    assert len(fake.asked("GET", NAMESPACES, watches=True)) >= 1


def test_options_can_be_sent_to_a_worker() -> None:
    """They are plain values."""
    options = Options(kubeconfig=Path("a"), client_ca=Path("b"))
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
