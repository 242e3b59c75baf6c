"""`seamless playground` as a command: where it listens, how it ends, what it refuses."""

from __future__ import annotations

import http.client
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.playground.conftest import Running
from webhook import cli


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    """Start any number of them; what a test leaves running is ended."""
    started: list[Running] = []

    def start(*arguments: str) -> Running:
        started.append(Running(*arguments))
        return started[-1]

    yield start
    for each in started:
        each.close()


def get(url: str, path: str = "/", **headers: str) -> tuple[int, bytes]:
    """Get a path, by whatever headers."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_this_machine_alone_and_ends_when_told(
    run: Callable[..., Running], number: signal.Signals
) -> None:
    """The line it prints has the address; Ctrl-C is no error."""
    started = run()
    assert urlsplit(started.url).hostname == "127.0.0.1"
    assert started.line.endswith(" (Ctrl-C ends it)\n")
    status, body = get(started.url)
    assert status == 200
    assert b"<title>Seamless Rollouts" in body
    assert get(started.url, Host="evil.example")[0] == 403
    assert started.end(number) == (0, "")


def test_another_address_is_warned_of_and_its_name_is_taken(run: Callable[..., Running]) -> None:
    """Whoever reaches it can use it."""
    started = run("--host", "0.0.0.0")  # noqa: S104 - what the warning is about
    port = urlsplit(started.url).port
    address = f"http://127.0.0.1:{port}/"
    assert get(address)[0] == 200
    assert get(address, Host="evil.example")[0] == 403
    status, errors = started.end(signal.SIGTERM)
    assert status == 0
    assert "warning: 0.0.0.0 is no loopback address" in errors
    assert errors.count("\n") == 1


def test_it_begins_with_the_files_that_it_is_given(
    run: Callable[..., Running], tmp_path: Path
) -> None:
    """A configuration, and timings."""
    settings, timings = tmp_path / "config.yaml", tmp_path / "timings.yaml"
    settings.write_text("mode: audit\n")
    timings.write_text("application: {start: 33}\n")
    started = run("--config", str(settings), "--timings", str(timings))
    body = get(started.url, "/api/options")[1]
    assert b'"mode":"audit"' in body
    assert b'"start":33.0' in body


def test_a_port_in_use_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """One line, which says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["playground", "--port", str(port)]) == 2
    errors = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "x"], "--port: expected a whole number from 0 to 65535"),
        (["--port", "65536"], "--port: expected a whole number from 0 to 65535"),
        (["--host", "no such host"], "cannot listen on no such host"),
        (["--host", "a" * 70], "cannot listen on"),
        (["--host", "\0"], "cannot listen on"),
        (["--config", "no-such-file"], "no-such-file: No such file"),
        (["--timings", "no-such-file"], "no-such-file: No such file"),
        (["manifest.yaml"], "unrecognized arguments: manifest.yaml"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And exit status 2."""
    assert cli.main(["playground", *arguments]) == 2
    errors = capsys.readouterr().err
    assert says in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "text", "says"),
    [
        ("--config", "defaults: {min-ready: soon}", "min-ready"),
        ("--config", "nope: 1", "unknown key"),
        ("--timings", "rate: -1", "rate: -1: expected requests a second"),
        ("--timings", "[", "not YAML"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(
    option: str, text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the file, and what would be right."""
    path = tmp_path / "given.yaml"
    path.write_text(text)
    assert cli.main(["playground", option, str(path)]) == 2
    errors = capsys.readouterr().err
    assert says in errors
    assert errors.count("\n") == 1


def test_an_empty_timings_file_has_the_defaults(
    run: Callable[..., Running], tmp_path: Path
) -> None:
    """As everywhere."""
    path = tmp_path / "timings.yaml"
    path.write_text("# none yet\n")
    assert get(run("--timings", str(path)).url, "/api/options")[0] == 200
