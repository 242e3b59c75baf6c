from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.precheck.servers import NameServer, accepting

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.precheck.conftest import Outcome
    from webhook.precheck.program import Address

    Run = Callable[..., Outcome]
    FirstReason = Callable[..., str]


@pytest.mark.parametrize("addresses", [["10.0.0.1"], ["fd00::1"], ["10.0.0.1", "fd00::1"]])
def test_a_name_with_an_address_of_either_kind_is_up(
    run: Run, name_server: NameServer, addresses: list[str]
) -> None:
    """A or AAAA is enough, and nothing is connected to."""
    name_server.zone.names["db.test"] = [addresses]
    assert run("db.test", "dns://db.test.", resolve=name_server.resolve).up


def test_a_name_that_does_not_exist_at_first_is_waited_for(
    run: Run, name_server: NameServer
) -> None:
    """NXDOMAIN, a failing server, a name without addresses, then an answer: that counts."""
    with accepting() as server:
        name_server.zone.names["db.test"] = ["NXDOMAIN", "SERVFAIL", [], ["127.0.0.1"]]
        outcome = run(f"db.test:{server.port}", resolve=name_server.resolve)
    assert outcome.up
    assert len(name_server.zone.asked) == 8


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("NXDOMAIN", "name does not resolve"),
        ([], "name does not resolve"),
        ("SERVFAIL", "no DNS server answers"),
    ],
)
def test_the_reason_tells_a_missing_name_from_a_failing_server(
    first_reason: FirstReason, name_server: NameServer, answer: list[str] | str, reason: str
) -> None:
    """Users can see whether the name or the DNS is at fault."""
    name_server.zone.names["db.test"] = [answer]
    assert first_reason("db.test", resolve=name_server.resolve) == reason


def test_a_dns_server_slower_than_an_attempt_still_gets_to_answer(
    run: Run, name_server: NameServer
) -> None:
    """A look-up outlives its attempt, and a later attempt takes the answer."""
    name_server.zone.names["db.test"] = [["127.0.0.1"]]
    name_server.zone.delay = 0.2
    outcome = run("db.test", resolve=name_server.resolve, attempt_timeout=0.05)
    assert outcome.up
    assert len(name_server.zone.asked) == 2


def test_a_dns_server_that_never_answers_does_not_hold_up_the_end(run: Run) -> None:
    """The look-up goes on in its thread; the wait ends in time, and says why it was in vain."""

    def hang(_name: str) -> list[Address]:
        time.sleep(3)
        return []

    with accepting() as server:
        outcome = run(
            "slow", f"127.0.0.1:{server.port}", resolve=hang, attempt_timeout=0.1, timeout=1
        )
    assert not outcome.up
    assert outcome.left.endswith("1 of 2 up, 2 needed; missing: slow (name look-up timed out)")


def test_targets_on_one_host_share_a_look_up(run: Run, name_server: NameServer) -> None:
    """A name is asked for once, however many of its ports are waited for."""
    name_server.zone.names["db.test"] = [["127.0.0.1"]]
    name_server.zone.delay = 0.1
    with accepting() as one, accepting() as other:
        outcome = run(
            f"db.test:{one.port}", f"db.test:{other.port}", "db.test", resolve=name_server.resolve
        )
    assert outcome.up
    assert name_server.zone.asked == ["db.test A", "db.test AAAA"]


def test_an_address_that_changes_is_looked_up_again(run: Run, name_server: NameServer) -> None:
    """No attempt goes by an old answer: a service that moves is found."""
    with accepting() as server:
        name_server.zone.names["db.test"] = [["127.0.0.2"], ["127.0.0.3"], ["127.0.0.1"]]
        outcome = run(f"db.test:{server.port}", resolve=name_server.resolve)
    assert outcome.up


def test_an_address_is_not_looked_up(run: Run) -> None:
    """A literal address needs no DNS, for any kind of target."""

    def never(_name: str) -> list[Address]:
        raise AssertionError

    with accepting() as server:
        assert run(f"127.0.0.1:{server.port}", "127.0.0.1", "[::1]", resolve=never).up
