"""`seamless serve` as a process: TLS, keep-alive, draining, workers, wrong use."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import PATIENCE_SECONDS, Server, ask
from webhook import cli
from webhook.tls.certificates import self_signed, utc_now


def test_it_serves_on_a_certificate_of_its_own_and_keeps_connections(
    serve: Callable[..., Server],
) -> None:
    """With no certificate given; the API server keeps its connections for 90 seconds."""
    server = serve("--drain-seconds=0")
    connection = server.connect()
    for _ in range(3):
        answer, content = ask(connection)
        assert answer.status == 200
        assert content["response"]["allowed"]
        assert answer.getheader("connection") is None
        assert connection.sock is not None
    connection.close()
    assert server.health("/livez") == (200, "ok\n")
    assert "seamless_build_info" in server.health("/metrics")[1]
    assert server.stop() == 0


def test_a_given_certificate_is_served(serve: Callable[..., Server], tmp_path: Path) -> None:
    """Clients that trust it are content."""
    pair = self_signed(["127.0.0.1"], utc_now())
    (tmp_path / "tls.crt").write_bytes(pair.certificate)
    (tmp_path / "tls.key").write_bytes(pair.key)
    server = serve(
        f"--tls-cert={tmp_path / 'tls.crt'}",
        f"--tls-key={tmp_path / 'tls.key'}",
        "--drain-seconds=0",
    )
    context = ssl.create_default_context(cadata=pair.certificate.decode())
    connection = server.connect(context)
    assert ask(connection)[0].status == 200
    connection.close()


def test_on_sigterm_it_drains_before_it_goes(serve: Callable[..., Server]) -> None:
    """Not ready at once, still serving with `Connection: close`, then gone with status 0."""
    server = serve("--drain-seconds=2")
    server.process.send_signal(signal.SIGTERM)
    server.until(lambda: server.health("/readyz") == (503, "not ready: shutting down\n"))
    connection = server.connect()
    answer, content = ask(connection)
    connection.close()
    assert content["response"]["allowed"]
    assert answer.getheader("connection") == "close"
    assert server.process.wait(PATIENCE_SECONDS) == 0


def test_workers_share_the_ports_and_their_metrics(serve: Callable[..., Server]) -> None:
    """A worker that dies is replaced; what all of them counted is added up."""
    server = serve("--workers=2", "--drain-seconds=0")
    for _ in range(8):
        connection = server.connect()
        assert ask(connection)[0].status == 200
        connection.close()
    counted = 'kind="Deployment",operation="CREATE",outcome="patched",reason=""} 8.0'
    server.until(lambda: counted in server.health("/metrics")[1])
    assert "seamless_certificate_expiry_timestamp_seconds" in server.health("/metrics")[1]
    assert "seamless_requests_in_flight" in server.health("/metrics")[1]
    before = server.workers()
    assert len(before) == 2
    assert server.metric("seamless_worker_restarts_total") == 0
    os.kill(before[0], signal.SIGKILL)
    server.until(lambda: set(server.workers()) != set(before))
    server.until(lambda: server.metric("seamless_worker_restarts_total") == 1)
    assert f"worker {before[0]} ended with -9: starting another" in server.log()
    connection = server.connect()
    assert ask(connection)[0].status == 200
    connection.close()
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tls-cert=x"], "--tls-cert and --tls-key go together"),
        (["--tls-cert=/none", "--tls-key=/none"], "/none: No such file"),
        (["--config=/none.yaml"], "/none.yaml: No such file"),
        (["--port=99999"], "from 0 to 65535"),
        (["--port=x"], "from 0 to 65535"),
        (["--workers=0"], "from 1 to 64"),
        (["--drain-seconds=-1"], "from 0 to 3600"),
        (["--drain-seconds=nan"], "from 0 to 3600"),
        (["--host=300.1.1.1"], "cannot listen on 300.1.1.1"),
        (["--pony"], "--pony"),
        (["--log-format=xml"], "xml"),
        (["--status-interval=59s"], "expected 0, or at least 1m, not '59s'"),
        (["--status-interval=often"], "--status-interval: 'often': "),
        (["--status-interval=1m"], "--status-interval needs a cluster in reach"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what was wrong, and never shows a traceback."""
    assert cli.main(["serve", "--port=0", "--health-port=0", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("seamless serve: ")
    assert error.count("\n") == 1


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """One line says which."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--host=127.0.0.1", f"--port={port}"]) == 2
    assert f"port {port}: Address already in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scop: cluster", "scop: unknown key; known are scope, mode,"),
        ("scope: all", "scope: 'all': Input should be 'opt-in' or 'cluster'"),
        ("precheck: {imag: x}", "precheck.imag: unknown key"),
        ("defaults: {min-ready: soon}", 'defaults.min-ready: "soon"'),
        ("defaults: {min-redy: 30}", "did you mean min-ready?"),
        ("excludedNamespaces: [A_b]", "expected a namespace's name"),
        ("[1", "not YAML"),
        ("- a", "expected a mapping"),
        ("kinds: [Pod]", "kinds.0"),
        ("precheck: {runAsUser: 0}", "precheck.runAsUser"),
    ],
)
def test_a_bad_configuration_is_named_with_what_would_be_right(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown keys are errors, as are values that mean nothing."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert cli.main(["serve", "--port=0", "--health-port=0", f"--config={path}"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
