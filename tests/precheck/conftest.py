"""What the precheck's tests share: a run with short waits, a DNS server, certificates."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.precheck.servers import Authority, NameServer
from webhook.precheck.program import Options, Precheck, parse_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from webhook.precheck.program import Address


class Outcome(NamedTuple):
    """How a run ended: whether the quorum was up, what it wrote, and the message that it left."""

    up: bool
    out: str
    err: str
    left: str


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Outcome]:
    """Wait for targets as the command does, with waits of milliseconds and a given resolver.

    With `once`, the time is over as soon as each target is up or has failed.
    """

    def start(
        *targets: str, resolve: Any = no_name, once: bool = False, **settings: Any
    ) -> Outcome:
        options = Options()
        log = tmp_path / "termination-log"
        log.write_text("")
        given = {"interval": 0.02, "attempt_timeout": 1, "timeout": 20, "termination_log": log}
        for name, value in {**given, **settings}.items():
            setattr(options, name, value)
        kind = _Once if once else Precheck
        precheck = kind([parse_target(target) for target in targets], options, resolve)
        try:
            up = precheck.wait()
        except _AllFailedError:
            up = False
        if not up:
            precheck.give_up("timed out")
        return Outcome(up, *capfd.readouterr(), log.read_text())

    return start


@pytest.fixture
def first_reason() -> Callable[..., str]:
    """Probe one target until an attempt fails, and give the reason."""

    def probe(target: str, resolve: Any = no_name, **settings: Any) -> str:
        options = Options()
        for name, value in {"attempt_timeout": 20, **settings}.items():
            setattr(options, name, value)
        with pytest.raises(_AllFailedError) as caught:
            assert not _Once([parse_target(target)], options, resolve).wait(), "it is up"
        return str(caught.value)

    return probe


class _AllFailedError(Exception):
    """Whatever is not up has failed at least once."""


class _Once(Precheck):
    """Ends once each target is up or has failed."""

    def _failed(self, watch: Any, reason: str) -> None:
        super()._failed(watch, reason)
        if all(missing.reason for missing in self._missing):
            raise _AllFailedError(reason)


def no_name(_host: str) -> list[Address]:
    """Know no name: no test of these asks the machine's own DNS."""
    raise socket.gaierror(socket.EAI_NONAME, "name or service not known")


@pytest.fixture
def later() -> Iterator[Callable[..., None]]:
    """Call something a little later, while the test's thread waits."""
    timers: list[threading.Timer] = []

    def call(seconds: float, function: Callable[..., object], *arguments: object) -> None:
        timers.append(threading.Timer(seconds, function, arguments))
        timers[-1].start()

    yield call
    for timer in timers:
        timer.join()


@pytest.fixture(scope="session")
def _name_server() -> Iterator[NameServer]:
    server = NameServer()
    yield server
    server.close()


@pytest.fixture
def name_server(_name_server: NameServer) -> NameServer:
    """Serve DNS on loopback, of names that the test lists."""
    _name_server.zone.clear()
    return _name_server


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make a certificate authority that nothing trusts by itself."""
    return Authority(tmp_path_factory.mktemp("authority"))
