"""What goes wrong around the webhook, and what becomes of deployments then.

`docs/runbook.md` has a row for each fault. Those of the cluster's own making (no API server later
on, a watch that goes silent) are in tests/cli/test_startup.py and tests/cluster/test_namespaces.py.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import resource
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.servers import JSON, REVIEW, Server, ask
from webhook import cli
from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration
from webhook.decision.mutations.model import Mutation
from webhook.serving.app import State, webhook_app
from webhook.serving.metrics import Metrics
from webhook.tls.certificates import FileCertificates, Pair, self_signed, utc_now

MEBIBYTE = 2**20
YEAR = timedelta(days=365)


def place(folder: Path, pair: Pair) -> list[str]:
    """Write a pair; gives the arguments that serve it."""
    (folder / "tls.crt").write_bytes(pair.certificate)
    (folder / "tls.key").write_bytes(pair.key)
    return [f"--tls-cert={folder / 'tls.crt'}", f"--tls-key={folder / 'tls.key'}"]


def answers(server: Server) -> bool:
    """Tell whether a review is answered with a patch."""
    connection = server.connect()
    try:
        answer, content = ask(connection)
    finally:
        connection.close()
    return answer.status == 200 and "patch" in content["response"]


# --- certificates and clocks ---------------------------------------------------------------------


def test_an_expired_certificate_is_served_on_and_said_to_be_expired(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    """The API server refuses it; who does not check is answered, and readiness tells why."""
    expired = self_signed(["127.0.0.1"], utc_now() - 2 * YEAR)
    given = place(tmp_path, expired)
    server = serve("--drain-seconds=0", *given, ready=False, module="tests.e2e.hasty")
    server.until(lambda: server.health("/readyz")[0] == 503)
    status, said = server.health("/readyz")
    assert "the certificate expired at" in said
    assert server.metric("seamless_ready") == 0
    assert 0 < server.metric("seamless_certificate_expiry_timestamp_seconds") < time.time()
    assert "the certificate expired at" in server.log() or "good until" in server.log()
    assert answers(server)
    place(tmp_path, self_signed(["127.0.0.1"], utc_now()))
    server.until(lambda: server.health("/readyz")[0] == 200)
    assert server.metric("seamless_ready") == 1
    assert status == 503


@pytest.mark.parametrize("fault", ["broken", "missing", "unreadable", "another key"])
def test_files_that_go_bad_change_nothing_of_what_is_served(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The pair that is served stays; the log and a metric tell, readiness need not."""
    good = self_signed(["localhost"], utc_now())
    place(tmp_path, good)
    source = FileCertificates(tmp_path / "tls.crt", tmp_path / "tls.key")
    source.step()
    assert (source.problem(), source.refused()) == (None, None)
    if fault == "broken":
        (tmp_path / "tls.crt").write_text("-----BEGIN CERT")
    elif fault == "missing":
        (tmp_path / "tls.key").unlink()
    elif fault == "unreadable":  # a folder: for root, whom tests may run as, no mode forbids
        (tmp_path / "tls.crt").unlink()
        (tmp_path / "tls.crt").mkdir()
    else:
        (tmp_path / "tls.key").write_bytes(self_signed(["localhost"], utc_now()).key)
    with caplog.at_level("WARNING"):
        source.step()
        source.step()
    assert source.problem() is None
    assert source.refused() is not None
    assert "not served: " in (caplog.text + source.refused())
    assert source.context.current is not None
    if fault == "unreadable":
        (tmp_path / "tls.crt").rmdir()
    place(tmp_path, good)
    source.step()
    assert source.refused() is None


def test_files_that_go_bad_are_told_by_a_metric(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    """And the running process serves on."""
    given = place(tmp_path, self_signed(["127.0.0.1"], utc_now()))
    server = serve("--drain-seconds=0", *given, module="tests.e2e.hasty")
    assert server.metric("seamless_certificate_files_refused") == 0
    (tmp_path / "tls.key").unlink()
    server.until(lambda: server.metric("seamless_certificate_files_refused") == 1)
    assert re.search(r"not served: .*tls\.key.*; the one that is served stays", server.log())
    assert server.health("/readyz")[0] == 200
    assert answers(server)


def test_a_clock_that_jumps_changes_what_is_said_and_not_what_is_served(tmp_path: Path) -> None:
    """Ten years ahead, then back: not ready for so long, and the same pair is served all along."""
    now = [datetime(2026, 6, 1, tzinfo=UTC)]
    place(tmp_path, self_signed(["localhost"], now[0]))
    source = FileCertificates(tmp_path / "tls.crt", tmp_path / "tls.key", clock=lambda: now[0])
    source.step()
    served = source.context.current
    now[0] += 10 * YEAR
    source.step()
    assert "expired" in (source.problem() or "")
    now[0] -= 11 * YEAR
    source.step()
    assert "valid from" in (source.problem() or "")
    now[0] += YEAR
    source.step()
    assert source.problem() is None
    assert source.context.current is served


def test_only_certificates_and_what_is_shown_depend_on_the_clock_on_the_wall() -> None:
    """Everything that waits or counts seconds uses a clock that cannot jump."""
    shown = {
        "webhook/tls/certificates.py",  # are they valid now?
        "webhook/cluster/authority.py",  # the same
        "webhook/cluster/client.py",  # the same, by the API server's clock
        "webhook/cluster/events.py",  # the time of an Event
        "webhook/cluster/survey.py",  # when it was counted last
        "webhook/cluster/proof.py",  # what a pod's own times are held against
    }
    wall = re.compile(r"\btime\.time\(|\bdatetime\.(?:now|utcnow|today)\(")
    found = {
        str(path)
        for path in Path("webhook").rglob("*.py")
        if wall.search(path.read_text()) and "cluster/backfill" not in str(path)
    }
    serving = {path for path in found if not path.startswith("webhook/cli/")}
    assert serving <= shown


# --- disks and logs ------------------------------------------------------------------------------


def test_a_full_disk_behind_the_log_stops_nothing(serve: Callable[..., Server]) -> None:
    """Lines that cannot be written are dropped and counted; reviews are answered."""
    ports = free_ports()
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        server = serve("--drain-seconds=0", stderr=full.fileno(), ports=ports)
        assert all(answers(server) for _ in range(5))
        assert server.metric("seamless_log_lines_dropped_total") >= 5
        assert server.stop() == 0


@pytest.mark.parametrize("reader", ["gone", "stuck"])
def test_a_log_that_nobody_reads_stops_nothing(serve: Callable[..., Server], reader: str) -> None:
    """Neither a closed pipe nor a full one."""
    ports = free_ports()
    ours, theirs = os.pipe()
    if reader == "stuck":
        os.set_blocking(theirs, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(theirs, b"x" * 4096)
        os.set_blocking(theirs, True)
    else:
        os.close(ours)
    server = serve("--drain-seconds=0", stderr=theirs, ports=ports)
    os.close(theirs)
    assert all(answers(server) for _ in range(5))
    assert server.metric("seamless_log_lines_dropped_total") >= 5
    assert server.stop() == 0
    if reader == "stuck":
        os.close(ours)


def free_ports() -> tuple[int, int]:
    """Find two ports, for a server that cannot say which it has."""
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        return one.getsockname()[1], other.getsockname()[1]


def test_one_worker_needs_no_disk(serve: Callable[..., Server]) -> None:
    """No file may grow, but those in memory that hold its certificate; nothing is missing."""
    ours, theirs = os.pipe()  # not a file, as in a cluster
    server = serve(
        "--drain-seconds=0",
        stderr=theirs,
        ports=free_ports(),
        preexec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        environment={"TMPDIR": "/nowhere"},
    )
    os.close(theirs)
    assert answers(server)
    assert server.stop() == 0
    os.close(ours)


def test_several_workers_say_where_they_find_no_disk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, and the status of wrong use: nothing is served that would not work."""

    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    monkeypatch.setattr(
        "webhook.serving.logs.set_up", lambda *_: None
    )  # which is for a whole process
    blocked = []
    monkeypatch.setattr("signal.pthread_sigmask", lambda *given: blocked.append(given))
    arguments = ["serve", "--host=127.0.0.1", "--port=0", "--health-port=0", "--workers=2"]
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        "seamless serve: no folder for the metrics of several workers: No space left on device"
    )


# --- memory and file descriptors -----------------------------------------------------------------


def test_no_memory_for_a_decision_lets_the_request_pass_unpatched() -> None:
    """All or nothing, and counted."""

    def starve(*_: object) -> None:
        raise MemoryError

    sound = Admission(Configuration()).mutations
    starved = Mutation(apply=starve, fields=sound[-1].fields)
    admission = Admission(Configuration(), mutations=(*sound, starved))
    metrics = Metrics()
    app = TestClient(webhook_app(admission.answer, metrics, State()))
    response = app.post("/mutate", content=REVIEW, headers=JSON).json()["response"]
    assert response["allowed"]
    assert "patch" not in response
    assert b"seamless_errors_total 1.0" in metrics.text()


def test_no_memory_for_a_body_is_503_and_counted() -> None:
    """It never comes to a decision."""

    def starve(_body: bytes) -> None:
        raise MemoryError

    metrics = Metrics()
    app = TestClient(webhook_app(starve, metrics, State()))  # type: ignore[arg-type]
    answer = app.post("/mutate", content=REVIEW, headers=JSON)
    assert (answer.status_code, answer.text) == (503, "out of memory\n")
    assert b'seamless_requests_refused_total{status="503"} 1.0' in metrics.text()


def test_without_file_descriptors_it_waits_and_then_goes_on(serve: Callable[..., Server]) -> None:
    """Accepting fails, is counted, is not tried in a loop, and works again when there are some."""
    server = serve("--drain-seconds=0")
    assert answers(server)
    used = len(os.listdir(f"/proc/{server.process.pid}/fd"))  # noqa: PTH208 - names are enough
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used, 4096))
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        server.until(lambda: "cannot accept connections: Too many open files" in server.log())
        time.sleep(0.5)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (4096, 4096))
    server.until(lambda: answers(server))
    assert 1 <= server.metric("seamless_connections_cut_total", reason="accept") < 50


def test_connections_never_use_up_the_file_descriptors(serve: Callable[..., Server]) -> None:
    """Where there are few, few connections are kept; new ones take the place of old ones."""
    server = serve(
        "--drain-seconds=0",
        preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (90, 90)),
    )
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        assert answers(server)
        assert server.metric("seamless_connections") <= 26
        assert server.metric("seamless_connections_cut_total", reason="accept") == 0
        assert server.metric("seamless_connections_cut_total", reason="room") >= 30


# --- the API server ------------------------------------------------------------------------------


def test_without_an_api_server_at_the_start_it_is_not_ready_and_answers(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    """Nothing that can be decided waits for it."""
    path = tmp_path / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                "clusters": [{"name": "x", "cluster": {"server": "https://127.0.0.1:1"}}],
                "users": [{"name": "x", "user": {}}],
            }
        )
    )
    server = serve(f"--kubeconfig={path}", "--drain-seconds=0", ready=False)
    server.until(lambda: server.metric("seamless_namespace_errors_total") > 0)
    assert server.health("/readyz") == (503, "not ready: namespaces are not known yet\n")
    assert server.metric("seamless_ready") == 0
    assert "the watch of namespaces was interrupted" in server.log()
    connection = server.connect()
    answer, content = ask(connection)
    connection.close()
    assert answer.status == 200
    assert json.loads(base64.b64decode(content["response"]["patch"]))


# --- the table -----------------------------------------------------------------------------------


def rows() -> list[list[str]]:
    """Give the rows of the runbook's table of faults, without its head."""
    text = Path("docs/runbook.md").read_text()
    section = text.partition("## Faults and what they do\n")[2].partition("\n##")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_each_fault_has_a_consequence_a_metric_a_log_line_and_a_cure() -> None:
    """No cell is empty, and what the table names exists."""
    found = rows()
    assert len(found) >= 12
    metrics = Path("docs/metrics.md").read_text()
    code = "".join(path.read_text() for path in Path("webhook").rglob("*.py"))
    for row in found:
        assert len(row) == 5, row
        assert all(row), row
        named = re.findall(r"`((?:seamless|process|apiserver)_\w+)", row[2])
        assert named or row[2] == "none: the process is gone", row
        for name in named:
            assert f"`{name}`" in metrics or name.startswith("apiserver_"), name
        for line in re.findall(r"`([^`]+)`", row[3]):
            for part in line.split("…"):
                assert part.strip() in code, (row[0], part)
