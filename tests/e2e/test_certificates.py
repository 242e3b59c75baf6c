"""Certificates that look after themselves, and such as are mounted, under real traffic."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.builders import NATIVE_30, Json, deployment, hooks
from tests.e2e.cluster import Cluster, KubectlError, until
from tests.e2e.release import CA_SECRET, CONFIGURATION, HASTY, SERVICE, VALUES, Release
from webhook.cluster.authority import CertificateAuthority, make_authority, sign
from webhook.cluster.client import JSON_PATCH, ApiError
from webhook.cluster.trust import read_certificates
from webhook.tls.certificates import Pair

WEB = deployment()
FAIL = {"webhook": {"failurePolicy": "Fail"}}
CONFIGURATIONS, _, NAME = CONFIGURATION.rpartition("/")


def empty_secret(cluster: Cluster) -> None:
    """Leave the Secret as the chart has it."""
    gone = [{"op": "remove", "path": "/data"}]
    cluster.api.request("PATCH", CA_SECRET, body=gone, content_type=JSON_PATCH)


def delete_secret(cluster: Cluster) -> None:
    """Take the Secret away."""
    cluster.api.request("DELETE", CA_SECRET)


def corrupt_secret(cluster: Cluster) -> None:
    """Write something else where the key was."""
    noise = base64.b64encode(b"noise").decode()
    bad = [{"op": "replace", "path": "/data/tls.key", "value": noise}]
    cluster.api.request("PATCH", CA_SECRET, body=bad, content_type=JSON_PATCH)


@pytest.mark.parametrize("spoil", [empty_secret, corrupt_secret])
def test_three_pods_that_race_for_the_ca_agree_and_are_trusted(
    fresh: Release, spoil: Callable[[Cluster], None]
) -> None:
    """One CA, one patch of the configuration, three leaves of it, and each serves."""
    fresh.ensure()
    fresh.stop()
    cluster = fresh.cluster
    spoil(cluster)
    bare = [
        {"op": "remove", "path": f"/webhooks/{number}/clientConfig/caBundle"}
        for number in range(len(fresh.bundles()))
    ]
    cluster.api.request("PATCH", CONFIGURATION, body=bare, content_type=JSON_PATCH)
    pods = fresh.launch(3)
    fresh.await_ready()
    assert fresh.count("seamless_ca_writes_total") == 2
    (bundle,) = set(fresh.bundles())  # one where the CA before it is lost, else both
    trusted, _ = read_certificates(bundle)
    leaves = {each.leaf(bundle) for each in pods}
    assert len(leaves) == 3
    assert {each.issuer for each in leaves} == {trusted[0].subject}
    for pod in pods:
        shop = cluster.shop()
        fresh.balancer.ports = (pod.port,)
        fresh.balancer.cut()
        until(lambda shop=shop: fresh.treats(shop))
        before = pod.metric("seamless_reviews_total")
        shop.create(WEB)
        assert hooks(shop.get()) == [NATIVE_30]
        assert pod.metric("seamless_reviews_total") - before == 1


class Traffic:
    """Creates Deployments, dry, as fast as it goes; under `Fail` each fault of ours is refused."""

    def __init__(self, release: Release) -> None:
        self.failures: list[str] = []
        self.done = 0
        self._release = release
        self._shop = release.cluster.shop()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                if not self._release.treats(self._shop):
                    self.failures.append("untreated")
            except ApiError as error:
                self.failures.append(str(error))
            self.done += 1

    def more(self, count: int = 20) -> None:
        """Wait for some more requests."""
        target = self.done + count
        until(lambda: self.done >= target or self.failures)

    def __enter__(self) -> Self:
        for each in self._threads:
            each.start()
        self.more()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for each in self._threads:
            each.join()


@pytest.mark.parametrize("spoil", [delete_secret, corrupt_secret])
def test_a_ca_is_replaced_under_traffic(fresh: Release, spoil: Callable[[Cluster], None]) -> None:
    """Old and new are trusted for as long as both are served: no request fails, in any order."""
    fresh.ensure(FAIL, replicas=2, program=HASTY)
    pods = fresh.replicas
    bundle = fresh.bundles()[0]
    before = [each.leaf(bundle) for each in pods]

    def renewed() -> bool:
        (trusted,) = set(fresh.bundles())
        # Whoever trusts what stands in the configuration trusts every pod, at any time.
        now = [each.leaf(trusted) for each in pods]
        return all(new.issuer != old.issuer for new, old in zip(now, before, strict=True))

    with Traffic(fresh) as traffic:
        spoil(fresh.cluster)
        until(renewed)
        fresh.balancer.ports = tuple(reversed(fresh.balancer.ports))
        traffic.more()
    assert not traffic.failures, traffic.failures[:3]
    (bundle,) = set(fresh.bundles())
    trusted, _ = read_certificates(bundle)
    assert {each.leaf(bundle).issuer for each in pods} == {trusted[0].subject}
    assert {each.issuer for each in before} <= {each.subject for each in trusted}
    fresh.balancer.cut()
    assert fresh.treats(fresh.cluster.shop())


def test_a_rolling_update_of_the_webhook_fails_no_request(installed: Release) -> None:
    """A pod that is told to stop serves on for the drain time, and sends callers to the others."""
    installed.ensure(FAIL | {"drainSeconds": 3}, replicas=2)
    with Traffic(installed) as traffic:
        for _ in range(2):
            old = installed.replicas.pop(0)
            (new,) = installed.launch(1)
            until(lambda new=new: new.ready)
            old.tell_to_stop()  # endpoints follow a moment later
            traffic.more(5)
            installed.lead()
            old.await_end()
            traffic.more()
    assert not traffic.failures, traffic.failures[:3]
    assert len(installed.replicas) == 2


def test_a_bundle_that_somebody_breaks_is_put_right_and_no_other_is_touched(
    installed: Release,
) -> None:
    """Emptied, or filled with something else; a configuration of somebody else's stays."""
    installed.ensure(program=HASTY)
    cluster = installed.cluster
    other = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "somebody-elses"},
        "webhooks": [
            {
                "name": "x.example.com",
                "clientConfig": {"url": "https://127.0.0.1:1/"},
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
            }
        ],
    }
    cluster.kubectl("apply", "--server-side", "-f", "-", given=other)
    there = cluster.get(f"{CONFIGURATIONS}/somebody-elses")
    good = installed.bundles()
    authority = make_authority(datetime.now(UTC), timedelta(days=1))
    foreign = authority.certificate.public_bytes(Encoding.PEM)
    path = "/webhooks/0/clientConfig/caBundle"
    for broken in ("", base64.b64encode(foreign).decode()):
        change = [{"op": "replace", "path": path, "value": broken}]
        cluster.api.request("PATCH", CONFIGURATION, body=change, content_type=JSON_PATCH)
        until(lambda: installed.bundles() == good)
    shop = cluster.shop()
    until(lambda: installed.treats(shop))
    assert cluster.get(f"{CONFIGURATIONS}/somebody-elses") == there
    cluster.kubectl("delete", "mutatingwebhookconfiguration", "somebody-elses")


# --- certificates that others look after ---------------------------------------------------------


def mount(folder: Path, pair: Pair) -> None:
    """Write a Secret's volume as the kubelet does: links into a folder that is swapped at once."""
    folder.mkdir(exist_ok=True)
    data = folder / f"..{len(list(folder.iterdir()))}"
    data.mkdir()
    (data / "tls.crt").write_bytes(pair.certificate)
    (data / "tls.key").write_bytes(pair.key)
    swap = folder / "..swap"
    swap.symlink_to(data.name)
    swap.replace(folder / "..data")
    for name in ("tls.crt", "tls.key"):
        with contextlib.suppress(FileExistsError):
            (folder / name).symlink_to(f"..data/{name}")


def provided(*authorities: CertificateAuthority) -> Json:
    """Give the values for certificates of these authorities."""
    pem = b"".join(each.certificate.public_bytes(Encoding.PEM) for each in authorities)
    mounted = {"secretName": "mine", "caBundle": pem.decode()}
    return FAIL | {"certificates": {"mode": "provided", "provided": mounted}}


@pytest.fixture
def authorities() -> tuple[CertificateAuthority, CertificateAuthority]:
    """Two authorities of a user's own."""
    now = datetime.now(UTC)
    return make_authority(now, timedelta(days=30)), make_authority(now, timedelta(days=30))


def test_a_mounted_certificate_is_renewed_under_traffic(
    installed: Release, authorities: tuple[CertificateAuthority, CertificateAuthority]
) -> None:
    """The swapped files are served without a restart; a broken pair never replaces a good one."""
    installed.stop()
    now, day = datetime.now(UTC), timedelta(days=1)
    first, second, third = (
        sign(each, [SERVICE], now, day) for each in (authorities[0], *authorities)
    )
    mount(installed.tls, first)
    installed.ensure(provided(*authorities), program=HASTY)
    (pod,) = installed.replicas
    (bundle,) = set(installed.bundles())
    assert pod.leaf(bundle) == first.leaf
    with Traffic(installed) as traffic:
        mount(installed.tls, second)
        until(lambda: pod.leaf(bundle) == second.leaf)
        traffic.more()
        mount(installed.tls, Pair(third.certificate, first.key))
        until(lambda: "the one that is served stays" in pod.said)
        assert pod.leaf(bundle) == second.leaf
        mount(installed.tls, third)
        until(lambda: pod.leaf(bundle) == third.leaf)
        traffic.more()
    assert not traffic.failures, traffic.failures[:3]
    assert pod.ready
    installed.balancer.cut()
    assert installed.treats(installed.cluster.shop())


def test_an_upgrade_to_a_certificate_of_ones_own_takes_the_bundle_by_force_once(
    installed: Release, authorities: tuple[CertificateAuthority, CertificateAuthority]
) -> None:
    """The pods own that field until then. Later upgrades need no force, nor does the way back."""
    installed.ensure()
    with pytest.raises(KubectlError, match='conflicts with "seamless-certificates"'):
        installed.install(VALUES | provided(*authorities))
    installed.install(VALUES | provided(*authorities), "--force-conflicts")
    installed.install(VALUES | provided(*authorities) | {"commonLabels": {"upgraded": "yes"}})
    (bundle,) = set(installed.bundles())
    trusted, _ = read_certificates(bundle)
    assert trusted == [each.certificate for each in authorities]
    installed.stop()
    installed.install(VALUES)
    assert set(installed.bundles()) == {b""}
    installed.start()
    assert all(installed.bundles())
    shop = installed.cluster.shop()
    until(lambda: installed.treats(shop))


def test_a_mounted_certificate_that_the_api_server_does_not_trust_is_not_ready(
    installed: Release, authorities: tuple[CertificateAuthority, CertificateAuthority]
) -> None:
    """It says why; ready again with one that is trusted."""
    trusted, other = authorities
    installed.stop()
    now, day = datetime.now(UTC), timedelta(days=1)
    mount(installed.tls, sign(trusted, [SERVICE], now, day))
    installed.ensure(provided(trusted), program=HASTY)
    (pod,) = installed.replicas
    mount(installed.tls, sign(other, [SERVICE], now, day))
    until(lambda: not pod.ready)
    assert "does not trust" in pod.health("/readyz")[1]
    mount(installed.tls, sign(trusted, ["elsewhere.svc"], now, day))
    until(lambda: SERVICE in pod.health("/readyz")[1] and "mismatch" in pod.health("/readyz")[1])
    mount(installed.tls, sign(trusted, [SERVICE], now, day))
    until(lambda: pod.ready)
