"""The webhook away, slow or refused, and the API server away."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from tests.builders import (
    EXEC_QUIT,
    NATIVE_30,
    RECORD,
    canonical,
    deployment,
    grace,
    hooked,
    hooks,
    template_changed,
    template_of,
    with_settings,
)
from tests.e2e.cluster import ENABLED, KubectlError, Shop, until
from tests.e2e.release import EXCLUDED, SWITCHED_OFF, Release
from webhook.cluster.client import ApiError

WEB = deployment()
WEB_2 = template_changed(WEB, "containers", 0, "image", to="registry.example/app:2")


@pytest.fixture
def away(release: Release) -> Iterator[Release]:
    """The release, whose pods a test takes away and brings back: by the end they are back."""
    yield release
    release.ensure()


def test_what_comes_while_the_webhook_is_away_is_admitted_untreated(away: Release) -> None:
    """Back again, it changes no template until that changes by itself."""
    shop = away.cluster.shop()
    away.stop()
    shop.create(WEB)
    found = shop.get()
    assert hooks(found) == [None]
    assert "minReadySeconds" not in found["spec"]
    assert found["metadata"]["generation"] == 1
    away.ensure()
    with shop.watch() as change:
        shop.touch()
    assert change.generations == 1
    assert not change.restarts
    assert change.now["spec"]["minReadySeconds"] == 30
    with shop.watch() as change:
        shop.replace(WEB_2)
    assert change.generations == 1
    assert hooks(change.now) == [NATIVE_30]
    assert grace(change.now) == 60


def test_what_is_treated_outlives_an_outage(away: Release) -> None:
    """Updates keep hook and record; afterwards all is still known as ours."""
    shop = away.cluster.shop()
    plain = away.cluster.shop({})
    for each in (shop, plain):
        each.apply(WEB)
    away.stop()
    with shop.watch() as change:
        shop.apply(WEB_2)
    assert change.generations == 1
    assert hooks(change.now) == [NATIVE_30]
    with pytest.raises(KubectlError, match="may not specify more than 1 handler type"):
        shop.apply(deployment(hooked(EXEC_QUIT)))
    away.ensure()
    with shop.watch() as change:
        shop.touch()
    assert not change.generations
    shop.apply(deployment(hooked(EXEC_QUIT)))
    assert hooks(shop.get()) == [EXEC_QUIT]
    shop.apply(with_settings(WEB, inject="disabled"))
    plain.apply(with_settings(WEB, inject="disabled"))
    assert canonical(shop.get()["spec"]) == canonical(plain.get()["spec"])


def test_a_put_during_an_outage_takes_the_treatment_and_nothing_breaks(away: Release) -> None:
    """The record goes with it, so nothing is taken for ours that is not there."""
    shop = away.cluster.shop()
    shop.create(WEB)
    away.stop()
    with shop.watch() as change:
        shop.replace(WEB)
    assert change.restarts
    assert hooks(change.now) == [None]
    away.ensure()
    with shop.watch() as change:
        shop.touch()
    assert not change.restarts
    assert change.now["spec"]["minReadySeconds"] == 30
    with shop.watch() as change:
        shop.kubectl("rollout", "restart", "deployment/web")
    assert hooks(change.now) == [NATIVE_30]
    shop.annotate("deployment/web", inject="disabled")
    found = shop.get()
    assert hooks(found) == [None]
    assert "minReadySeconds" not in found["spec"]
    assert RECORD not in template_of(found)["metadata"]["annotations"]


def test_a_webhook_that_hangs_delays_a_request_by_its_timeout_alone(away: Release) -> None:
    """Three seconds, and the request is admitted untreated."""
    shop = away.cluster.shop()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        away.balancer.ports = (silent.getsockname()[1],)
        away.balancer.cut()
        begun = time.monotonic()
        shop.create(WEB)
        took = time.monotonic() - begun
    assert hooks(shop.get()) == [None]
    assert 2.5 < took < 20
    away.balancer.cut()
    away.lead()


def test_under_fail_nothing_in_scope_passes_while_the_webhook_is_away(installed: Release) -> None:
    """What is out of scope does, and what goes through subresources."""
    installed.ensure({"webhook": {"failurePolicy": "Fail"}})
    cluster = installed.cluster
    shop = cluster.shop()
    shop.create(WEB)
    installed.stop()

    def refused() -> bool:
        try:
            shop.touched()
        except ApiError as error:
            return "failed calling webhook" in str(error)
        return False

    until(refused)
    with shop.watch() as change:
        with pytest.raises(KubectlError, match=r'in-scope\.seamless-rollouts\.dev"'):
            shop.replace(WEB_2)
        shop.kubectl("scale", "deployment/web", "--replicas=4")
    assert change.generations == 1
    assert not change.restarts
    outside = cluster.shop({})
    outside.create(WEB)
    assert hooks(cluster.shop(ENABLED, name=EXCLUDED).try_out(WEB)) == [None]
    with pytest.raises(KubectlError, match=r'elsewhere\.seamless-rollouts\.dev"'):
        outside.annotate("deployment/web", inject="enabled")
    installed.ensure({"webhook": {"failurePolicy": "Fail"}})
    with shop.watch() as change:
        shop.replace(WEB_2)
    assert hooks(change.now) == [NATIVE_30]


@pytest.mark.parametrize("policy", ["Ignore", "Fail"])
def test_what_is_switched_off_passes_while_the_webhook_is_away(
    installed: Release, policy: str
) -> None:
    """Under Ignore like everything else; under Fail because the API server never asks."""
    values = {"webhook": {"failurePolicy": policy}}
    installed.ensure(values)
    shop = installed.cluster.shop()
    installed.stop()
    with pytest.raises(KubectlError) if policy == "Fail" else contextlib.nullcontext():
        shop.create(WEB)
    for given in SWITCHED_OFF:
        reference = f"deployment/{given['metadata']['name']}"
        shop.create(given)
        shop.touch(reference)
        assert hooks(shop.get(reference)) == [None]
    installed.ensure(values)


def test_an_api_server_that_restarts_finds_the_webhook_where_it_was(release: Release) -> None:
    """It stays ready meanwhile, and learns of namespaces again afterwards."""
    server = release.cluster.server
    if server is None:
        pytest.skip("only with an API server of our own: it is restarted")
    shop, later = release.cluster.shop(), release.cluster.shop({})
    shop.create(WEB)
    (pod,) = release.replicas
    errors = pod.metric("seamless_namespace_errors_total")
    watches = pod.metric("seamless_namespace_watches_total")
    server.stop_server()
    until(lambda: pod.metric("seamless_namespace_errors_total") > errors)
    assert pod.ready
    server.start()
    with shop.watch() as change:
        shop.replace(WEB_2)
    assert change.generations == 1
    assert hooks(change.now) == [NATIVE_30]
    later.annotate_namespace(pre_stop_sleep="3s")
    later.label_namespace(inject="enabled")
    until(lambda: pod.metric("seamless_namespace_watches_total") > watches)
    until(lambda: release.treats(later))
    later.create(WEB)
    assert hooks(later.get()) == [{"sleep": {"seconds": 3}}]
    assert pod.ready


def test_a_lost_pod_is_replaced_by_one_that_goes_on(away: Release, shop: Shop) -> None:
    """Nothing is kept in a pod: another one reads the CA, and is trusted at once."""
    bundles = away.bundles()
    (pod,) = away.replicas
    pod.kill()
    away.replicas.clear()
    away.start()
    until(lambda: away.treats(shop))
    shop.create(WEB)
    assert hooks(shop.get()) == [NATIVE_30]
    assert away.bundles() == bundles
