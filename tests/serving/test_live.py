"""The configuration in force: another one is taken up whole, a broken one never."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.builders import deployment, review
from tests.cluster.fake_api import FakeApi, Fault, once, until
from tests.servers import JSON, Server
from tests.serving.test_metrics import KUBECONFIG
from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration, digest
from webhook.serving.live import LiveConfiguration

MAPS = "/api/v1/namespaces/seamless/configmaps"
REVIEW = orjson.dumps(review(deployment()))


def live() -> LiveConfiguration:
    """Give one that begins with the built-in configuration."""
    return LiveConfiguration(Configuration(), Admission, clock=lambda: 5.0)


def numbers(given: LiveConfiguration) -> dict[str, float]:
    """Give what is exported, the hash with it."""
    found = {}
    for family in given.collect():
        for sample in family.samples:
            found[sample.name + "".join(sample.labels.values())] = sample.value
    return found


def test_a_good_one_takes_the_place_of_the_one_before() -> None:
    """The next answer is by it, and the metric says so."""
    given = live()
    assert given.answer(REVIEW).outcome == "patched"
    given.take("mode: audit\n", "here")
    assert given.answer(REVIEW).outcome == "audited"
    name = digest(Configuration(mode="audit"))
    assert numbers(given) == {
        f"seamless_configuration_info{name}": 1,
        "seamless_configuration_refused": 0,
        "seamless_configuration_loaded_timestamp_seconds": 5.0,
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mode: [", "here: not YAML"),
        ("mood: audit", "here: mood: unknown key"),
        ("mode: off", "here: mode"),
        ("- a", "here: expected a mapping"),
        ("defaults: {pre-stop-sleep: soon}", "pre-stop-sleep"),
        ("defaults: {sleep: 5s}", "sleep"),
        ("[" * 5000, "here: "),
    ],
)
def test_a_broken_one_changes_nothing_and_is_told(
    text: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By readiness, metric and log, each time once; a good one ends that."""
    given = live()
    given.take("mode: audit", "here")
    before = given.admission
    given.take(text, "here")
    given.take(text, "here")
    assert given.admission is before
    (note,) = given.notes()
    assert reason in note
    assert before.digest in note
    assert numbers(given)["seamless_configuration_refused"] == 1
    (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert reason in record.getMessage()
    given.take("mode: audit", "here")
    assert given.notes() == []
    assert numbers(given)["seamless_configuration_refused"] == 0


def test_the_same_in_other_words_is_no_other() -> None:
    """Comments, order and what is built in make no difference, nor does the hash see any."""
    given = live()
    before = given.admission
    given.take(
        "# a comment\nscope: opt-in\nkinds: [Deployment, StatefulSet, DaemonSet, Rollout]\n", "x"
    )
    assert given.admission is before
    assert digest(Configuration(scope="opt-in")) == digest(Configuration())
    assert re.fullmatch("[0-9a-f]{16}", before.digest)
    assert digest(Configuration(defaults={"min-ready": "5s"})) != before.digest


def test_a_file_is_followed_and_a_missing_one_changes_nothing(tmp_path: Path) -> None:
    """Also through the symbolic links that a kubelet swaps."""
    given = live()
    path = tmp_path / "config.yaml"
    given.read(path)
    assert "config.yaml" in given.notes()[0]
    for number, mode in enumerate(("audit", "patch")):
        target = tmp_path / f"{number}.yaml"
        target.write_text(f"mode: {mode}\n")
        link = tmp_path / "new"
        link.symlink_to(target)
        link.replace(path)
        given.read(path)
        assert given.admission.configuration.mode == mode
        assert given.notes() == []
    path.unlink()
    path.write_bytes(b"\xff")
    given.read(path)
    assert given.admission.configuration.mode == "patch"
    assert "UTF-8" in given.notes()[0]


# --- as it is served -----------------------------------------------------------------------------


def mode(server: Server) -> str:
    """Tell by which mode a server answers: what became of one review."""
    connection = server.connect()
    try:
        connection.request("POST", "/mutate", REVIEW, JSON)
        answer = orjson.loads(connection.getresponse().read())["response"]
    finally:
        connection.close()
    return "patch" if "patch" in answer else "audit"


def put(api: FakeApi, text: str) -> None:
    """Store the ConfigMap."""
    api.put(MAPS, "ours", {"data": {"config.yaml": text}})


def serve(api: FakeApi, folder: Path, *arguments: str) -> Server:
    """Start a server with the ConfigMap and an older file."""
    api.namespace("shop", inject="enabled")
    (folder / "kubeconfig").write_text(KUBECONFIG.format(url=api.url))
    (folder / "config.yaml").write_text("mode: audit\n")
    return Server(
        f"--kubeconfig={folder / 'kubeconfig'}",
        f"--config={folder / 'config.yaml'}",
        "--config-map=ours",
        *arguments,
        environment={"POD_NAMESPACE": "seamless"},
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_a_changed_configmap_is_in_force_at_once_and_restarts_nothing(
    tmp_path: Path, workers: int
) -> None:
    """From the first answer on; the older file does not count; each worker takes it up."""
    api = FakeApi()
    put(api, "mode: patch\n")
    server = serve(api, tmp_path, f"--workers={workers}")
    try:
        assert {mode(server) for _ in range(20)} == {"patch"}
        put(api, "mode: audit\n")
        until(lambda: {mode(server) for _ in range(20)} == {"audit"}, 2.0)
        put(api, "mood: patch\n")
        server.until(lambda: "mood: unknown key" in server.health("/readyz")[1])
        assert server.health("/readyz")[0] == 200
        assert {mode(server) for _ in range(20)} == {"audit"}
        samples = text_string_to_metric_families(server.health("/metrics")[1])
        values = {each.name: each.samples[0] for each in samples if each.samples}
        assert values["seamless_configuration_refused"].value == 1
        wanted = digest(Configuration(mode="audit"))
        assert values["seamless_configuration_info"].labels == {"hash": wanted}
        api.delete(MAPS, "ours")
        put(api, "mode: patch\n")
        until(lambda: {mode(server) for _ in range(20)} == {"patch"}, 2.0)
    finally:
        server.close()
        api.close()


def test_a_watch_that_broke_off_hides_no_change(tmp_path: Path) -> None:
    """It is read anew whenever a watch begins."""
    api = FakeApi()
    put(api, "mode: patch\n")
    server = serve(api, tmp_path)
    try:
        server.until(lambda: mode(server) == "patch")
        path = f"{MAPS}/ours"
        for wanted in ("audit", "patch"):
            api.faults.append(once(Fault(503), watches=True))
            api.drop_streams()
            api.compact()
            put(api, f"mode: {wanted}\n")
            until(lambda wanted=wanted: mode(server) == wanted, 3.0)  # type: ignore[misc]
        assert api.asked("GET", path)
    finally:
        server.close()
        api.close()


@pytest.mark.parametrize("status", [403, 404])
def test_where_the_configmap_cannot_be_read_the_file_is_followed(
    tmp_path: Path, status: int
) -> None:
    """A right that is missing keeps nobody from being ready."""
    api = FakeApi()
    api.faults.append(lambda request: Fault(status) if request.path.startswith(MAPS) else None)
    server = serve(api, tmp_path)
    try:
        assert mode(server) == "audit"
        server.until(lambda: server.health("/readyz")[0] == 200)
        (tmp_path / "config.yaml").write_text("mode: patch\n")
        until(lambda: mode(server) == "patch", 3.0)
    finally:
        server.close()
        api.close()


def test_without_a_cluster_the_file_is_followed(tmp_path: Path) -> None:
    """Within two seconds; the process goes on."""
    path = tmp_path / "config.yaml"
    path.write_text("mode: audit\n")
    server = Server(f"--config={path}")
    try:
        assert mode(server) == "audit"
        path.write_text("mode: patch\n")
        until(lambda: mode(server) == "patch", 3.0)
        path.write_text("mode: [")
        server.until(lambda: "not YAML" in server.health("/readyz")[1])
        assert mode(server) == "patch"
    finally:
        server.close()
