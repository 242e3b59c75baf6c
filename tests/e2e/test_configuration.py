"""A changed configuration on a real API server: who answers by which, and who goes on by it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.builders import Json, deployment
from tests.e2e.cluster import Shop, until
from tests.e2e.release import DEPLOYMENT, NAME, NAMESPACE, VALUES, Release
from tests.e2e.test_backfill import Controllers, run
from webhook.cli import backfill

IN_FORCE_SECONDS = 2.0
"""How long a change may take (contract §6)."""
CALLERS = 6
LINGERING = {"drainSeconds": 3, "lingerSeconds": 12}
CONFIG_MAP = f"/api/v1/namespaces/{NAMESPACE}/configmaps/{NAME}"


class Seen(NamedTuple):
    """An answer: when it was asked for, and the `min-ready` by which it was given."""

    asked: float
    min_ready: int | None


def ask(release: Release, shop: Shop, given: Json = DEPLOYMENT) -> Seen:
    """Create a Deployment in a dry run, and see what comes back."""
    asked = time.monotonic()
    path = f"/apis/apps/v1/namespaces/{shop.name}/deployments"
    body = shop.own(given)
    made = release.cluster.api.request("POST", path, query={"dryRun": "All"}, body=body)
    return Seen(asked, made["spec"].get("minReadySeconds"))


@contextmanager
def load(release: Release, shop: Shop) -> Iterator[list[Seen]]:
    """Ask over several connections at a time, again and again, as long as the block lasts.

    In bursts with a pause between them, so that the API server has idle connections to each pod.
    """
    seen: list[Seen] = []
    ended = threading.Event()

    def burst() -> None:
        with ThreadPoolExecutor(CALLERS) as callers:
            while not ended.is_set():
                futures = [callers.submit(ask, release, shop) for _ in range(CALLERS)]
                seen.extend(each.result() for each in futures)
                ended.wait(0.05)

    thread = threading.Thread(target=burst)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def values(seconds: int, **more: object) -> Json:
    """Give values with a `min-ready` that tells one configuration from the others."""
    return {**VALUES, **LINGERING, "defaults": {"min-ready": f"{seconds}s"}, **more}


def test_no_answer_is_by_an_old_configuration_over_upgrades_under_load(release: Release) -> None:
    """Nor those of pods on their way out, over connections that were idle; and no pod is rolled."""
    shop = release.cluster.shop()
    release.ensure(values(10), replicas=2)
    stale: list[tuple[int, float, int | None]] = []
    with load(release, shop) as seen:
        until(lambda: len(seen) > 4 * CALLERS)
        for seconds in (11, 12, 13):
            before = release.manifest("Deployment")["spec"]["template"]
            if seconds == 12:  # one of them goes, and lingers for its idle connections
                leaving = release.replicas[0]
                leaving.tell_to_stop()
                release.replicas = release.replicas[1:]
                release.launch(1)
                release.await_ready()
            release.install(values(seconds))
            changed = time.monotonic()
            assert release.manifest("Deployment")["spec"]["template"] == before
            time.sleep(IN_FORCE_SECONDS + 1.5)
            late = [each for each in list(seen) if each.asked > changed + IN_FORCE_SECONDS]
            assert len(late) > CALLERS
            stale += [
                (seconds, each.asked - changed, each.min_ready)
                for each in late
                if each.min_ready != seconds
            ]
    assert stale == []
    leaving.await_end()
    assert {each.min_ready for each in seen} == {10, 11, 12, 13}


def test_a_broken_configuration_changes_nothing_and_is_told(release: Release) -> None:
    """A good one after it does."""
    shop = release.cluster.shop()
    release.ensure(values(20))
    (replica,) = release.replicas

    def write(text: str) -> None:
        release.cluster.api.request(
            "PATCH",
            CONFIG_MAP,
            body={"data": {"config.yaml": text}},
            content_type="application/merge-patch+json",
        )

    until(lambda: ask(release, shop).min_ready == 20)
    write("scope: everything\n")
    until(lambda: "scope" in replica.health("/readyz")[1], 5)
    assert replica.ready
    assert replica.metric("seamless_configuration_refused") == 1
    assert "the configuration is not in force" in replica.said
    assert ask(release, shop).min_ready == 20
    write("defaults: {min-ready: 25s}\n")
    until(lambda: ask(release, shop).min_ready == 25, 5)
    assert replica.metric("seamless_configuration_refused") == 0
    release.install(values(20), "--force-conflicts")
    until(lambda: ask(release, shop).min_ready == 20, 5)


def test_a_backfill_by_another_configuration_stops_before_it_changes_anything(
    release: Release, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It names both. With the same one it does its work, in the moment of a change too."""
    shop = release.cluster.shop(labels={})
    shop.create(deployment(), deployment(metadata={"name": "quit"}))
    controllers = Controllers(shop)
    controllers.settle()
    shop.label_namespace(inject="enabled")
    release.ensure(values(30))
    before = {name: shop.get(f"deployment/{name}")["spec"] for name in ("web", "quit")}
    other = tmp_path / "config.yaml"
    other.write_text("defaults: {min-ready: 31s}\n", encoding="utf-8")
    apply = ("--apply", "--webhook-timeout", "1s")
    assert run(backfill, shop, controllers, *apply, "--config", str(other)) == 1
    said = capsys.readouterr().out
    assert "the webhook decides by configuration " in said
    assert "1 failed, 1 not begun" in said
    assert {name: shop.get(f"deployment/{name}")["spec"] for name in before} == before

    release.install(values(32))  # and at once, as the chart's Job would
    assert run(backfill, shop, controllers, "--apply") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 done"
    assert {shop.get(f"deployment/{name}")["spec"]["minReadySeconds"] for name in before} == {32}
