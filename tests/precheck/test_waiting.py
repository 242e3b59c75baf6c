from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.precheck.servers import accepting, answer, answering, dead, handling, hanging, refusing
from webhook.precheck import program
from webhook.precheck.program import Options, Precheck, parse_target, pause

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.precheck.conftest import Outcome
    from webhook.precheck.program import Address

    Run = Callable[..., Outcome]
    FirstReason = Callable[..., str]
    Later = Callable[..., None]


def at(*hosts: str) -> Callable[[str], list[Address]]:
    """Resolve every name to these addresses, in this order."""
    family = socket.AF_INET
    return lambda _name: [(family, (host, 0)) for host in hosts]


def test_a_target_that_is_up_ends_the_wait_at_once(run: Run) -> None:
    """The first attempt counts, and one line says so."""
    with accepting() as server:
        outcome = run(f"127.0.0.1:{server.port}")
    assert outcome.up
    assert outcome.out == (
        f"seamless-precheck: 127.0.0.1:{server.port} is up after 0.0 s (1 of 1 up, 1 needed)\n"
    )
    assert outcome.err == outcome.left == ""


def test_a_target_that_comes_up_late_is_waited_for(run: Run, later: Later) -> None:
    """A port that refuses at first counts once it listens."""
    with refusing() as bound:
        later(0.3, bound.listen)
        outcome = run(f"127.0.0.1:{bound.getsockname()[1]}")
    assert outcome.up
    assert outcome.out.count("is up after") == 1


def test_a_target_that_was_up_stays_counted(run: Run) -> None:
    """One target goes down as the other comes up: both have been up, so the wait ends."""
    with refusing() as second, refusing() as first:
        first.listen()

        def watch() -> None:
            first.accept()[0].close()
            first.close()
            second.listen()

        watcher = threading.Thread(target=watch)
        ports = [bound.getsockname()[1] for bound in (first, second)]
        watcher.start()
        outcome = run(*[f"127.0.0.1:{port}" for port in ports])
        watcher.join()
    assert outcome.up


def test_a_target_that_was_up_is_not_asked_again(run: Run, later: Later) -> None:
    """A latched target costs its server nothing more, even where it would now fail."""
    with answering(answer(200), answer(503)) as server, refusing() as bound:
        later(0.3, bound.listen)
        outcome = run(f"http://127.0.0.1:{server.port}", f"127.0.0.1:{bound.getsockname()[1]}")
    assert outcome.up
    assert len(server.requests) == 1


def test_a_target_that_never_comes_up_is_named_with_its_reason(run: Run) -> None:
    """At the time limit, the log and the termination message say what is missing, and why."""
    with refusing() as bound:
        target = f"127.0.0.1:{bound.getsockname()[1]}"
        outcome = run(target, "no-such-name", once=True)
    assert not outcome.up
    expected = (
        "timed out: 0 of 2 up, 2 needed; missing: "
        f"{target} (refused), no-such-name (name does not resolve)"
    )
    assert outcome.left == expected
    assert outcome.err == f"seamless-precheck: {expected}\n"
    assert outcome.out == ""


def test_a_dead_address_does_not_use_up_the_attempt(run: Run) -> None:
    """Of two addresses, the first swallows connections: the second answers in the same attempt."""
    with accepting() as server, dead("127.0.0.2", server.port):
        # One attempt only: there is no time for another.
        outcome = run(f"db:{server.port}", resolve=at("127.0.0.2", "127.0.0.1"), attempt_timeout=19)
    assert outcome.up


def test_many_dead_addresses_are_all_tried_within_one_attempt(run: Run) -> None:
    """The pause between addresses shrinks with their number."""
    with accepting() as server, ExitStack() as stack:
        graves = [f"127.0.0.{number}" for number in range(2, 22)]
        for host in graves:
            stack.enter_context(dead(host, server.port))
        outcome = run(
            f"db:{server.port}", resolve=at(*graves, "127.0.0.1"), attempt_timeout=2, interval=30
        )
    assert outcome.up


def test_an_address_that_refuses_is_passed_over_at_once(run: Run) -> None:
    """A refusal starts the next address without a pause."""
    with accepting() as server:
        outcome = run(f"db:{server.port}", resolve=at("127.0.0.2", "127.0.0.3", "127.0.0.1"))
    assert outcome.up


def test_an_address_that_accepts_and_hangs_does_not_hide_one_that_answers(run: Run) -> None:
    """For HTTP too, every address gets its turn: a connection alone proves nothing."""
    with answering(answer(200)) as server, hanging("127.0.0.2", server.port) as mute:
        outcome = run(
            f"http://db:{server.port}", resolve=at("127.0.0.2", "127.0.0.1"), attempt_timeout=19
        )
        assert mute.accepted == 1
    assert outcome.up


def test_addresses_that_fail_differently_give_both_reasons(first_reason: FirstReason) -> None:
    """Each reason is named once."""
    with answering(answer(503)) as server:
        hosts = at("127.0.0.2", "127.0.0.3", "127.0.0.1")
        reason = first_reason(f"http://db:{server.port}", resolve=hosts)
    assert reason == "refused, status 503"


def test_a_server_that_accepts_and_hangs_is_up_for_tcp_only(
    run: Run, first_reason: FirstReason
) -> None:
    """A connection is all that `host:port` asks for; HTTP wants an answer."""
    with hanging() as server:
        assert run(f"127.0.0.1:{server.port}").up
        reason = first_reason(f"http://127.0.0.1:{server.port}", attempt_timeout=0.3)
    assert reason == "connected, no answer in time"


def test_an_address_that_swallows_connections_times_out(first_reason: FirstReason) -> None:
    """The reason tells a silent network from a refusal."""
    with accepting() as server, dead("127.0.0.2", server.port):
        reason = first_reason(f"127.0.0.2:{server.port}", attempt_timeout=0.3)
    assert reason == "connection timed out"


def test_an_attempt_that_the_end_cuts_short_keeps_the_reason_of_the_one_before(run: Run) -> None:
    """What was refused for long is not said to have timed out."""
    with refusing() as bound:
        port = bound.getsockname()[1]
        looked_up = threading.Event()

        def resolve(_name: str) -> list[Address]:
            if looked_up.is_set():
                time.sleep(2)
            looked_up.set()
            return [(socket.AF_INET, ("127.0.0.1", 0))]

        outcome = run(f"db:{port}", resolve=resolve, timeout=1)
    assert "(refused)" in outcome.left


def test_a_mysql_primary_and_its_read_replica_must_both_be_up(run: Run, later: Later) -> None:
    """The default, `all`: the replica joins late, and the workload starts only then."""
    with refusing() as primary, refusing() as replica:
        ports = [bound.getsockname()[1] for bound in (primary, replica)]
        targets = [f"mysql-{number}.mysql:{port}" for number, port in enumerate(ports)]
        primary.listen()
        outcome = run(*targets, resolve=at("127.0.0.1"), once=True)
        assert not outcome.up
        assert f"1 of 2 up, 2 needed; missing: {targets[1]} (refused)" in outcome.left
        later(0.3, replica.listen)
        outcome = run(*targets, resolve=at("127.0.0.1"))
    assert outcome.up
    assert "(2 of 2 up, 2 needed)" in outcome.out


@pytest.mark.parametrize("require", ["majority", 2])
def test_two_of_three_zookeeper_servers_are_enough(run: Run, later: Later, require: Any) -> None:
    """A quorum starts the workload while the third server is still down; one alone does not."""
    with ExitStack() as stack:
        bound = [stack.enter_context(refusing()) for _ in range(3)]
        targets = [f"zk-{n}.zk:{b.getsockname()[1]}" for n, b in enumerate(bound)]
        bound[2].listen()
        outcome = run(*targets, resolve=at("127.0.0.1"), require=require, once=True)
        assert not outcome.up
        assert "1 of 3 up, 2 needed" in outcome.left
        assert f"{targets[0]} (refused), {targets[1]} (refused)" in outcome.left
        later(0.3, bound[0].listen)
        outcome = run(*targets, resolve=at("127.0.0.1"), require=require)
    assert outcome.up
    assert "(2 of 3 up, 2 needed)" in outcome.out


def test_any_ends_with_the_first_that_is_up(run: Run) -> None:
    """One of three is enough for `any`, though the others hang."""
    with accepting() as server, hanging() as mute, dead("127.0.0.2", server.port):
        outcome = run(
            f"http://127.0.0.1:{mute.port}",
            f"127.0.0.2:{server.port}",
            f"127.0.0.1:{server.port}",
            require="any",
        )
    assert outcome.up


def test_a_quorum_above_the_number_of_targets_acts_as_all(run: Run) -> None:
    """A number that cannot be reached does not wait for ever."""
    with accepting() as server:
        outcome = run(f"127.0.0.1:{server.port}", require=9)
    assert outcome.up
    assert "1 of 1 up, 1 needed" in outcome.out


def test_two_hundred_targets_are_probed_side_by_side(run: Run) -> None:
    """Names, connections and HTTP at once, over a bounded number of threads and descriptors."""
    busy = threading.Semaphore(program.MAX_LOOKUPS)

    def resolve(_name: str) -> list[Address]:
        assert busy.acquire(blocking=False), "more look-ups at once than the bound allows"
        time.sleep(0.05)
        busy.release()
        return [(socket.AF_INET, ("127.0.0.1", 0))]

    with accepting() as tcp, answering(answer(204)) as http:
        targets = [f"name-{number}" for number in range(50)]
        targets += [f"tcp-{number}:{tcp.port}" for number in range(100)]
        targets += [f"http://127.0.0.1:{http.port}/{number}" for number in range(50)]
        outcome = run(*targets, resolve=resolve)
    assert outcome.up
    assert outcome.out.count("is up after") == 200
    assert len(http.requests) == 50


def test_targets_beyond_the_bound_get_their_turn(run: Run, monkeypatch: Any) -> None:
    """With more targets than places, those that fail do not starve the others."""
    monkeypatch.setattr(program, "MAX_ATTEMPTS", 2)
    with accepting() as server, hanging() as mute:
        targets = [f"http://127.0.0.1:{mute.port}/{number}" for number in range(6)]
        targets.append(f"127.0.0.1:{server.port}")
        outcome = run(*targets, require=1, attempt_timeout=0.05)
    assert outcome.up


def test_waiting_sleeps(run: Run) -> None:
    """A second of waiting takes little of the processor, and asks the server a few times only."""
    with answering(answer(503)) as server:
        before = time.thread_time()
        outcome = run(f"http://127.0.0.1:{server.port}", interval=0.1, timeout=1)
        spent = time.thread_time() - before
    assert not outcome.up
    assert spent < 0.3
    assert 2 <= len(server.requests) <= 10


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.99999])
def test_pauses_grow_to_a_bound(fraction: float) -> None:
    """The first pause is the interval, no pause is over five of them, a quarter is jitter."""
    pauses = [pause(2, attempts, fraction) for attempts in range(1, 2000)]
    assert pauses == sorted(pauses)
    assert 1.5 <= pauses[0] <= 2
    assert 7.5 <= pauses[-1] <= 10
    assert max(pauses) <= 10


def test_pauses_differ_between_pods() -> None:
    """Another random fraction gives another pause."""
    assert pause(1, 5, 0.1) != pause(1, 5, 0.9)


def test_a_summary_names_what_is_missing_and_why(run: Run, monkeypatch: Any) -> None:
    """Now and then one line says what the wait is for; what is up is not in it."""
    monkeypatch.setattr(program, "SUMMARY_INTERVAL", 0.6)
    with accepting() as up, answering(answer(503)) as broken, hanging() as mute:
        outcome = run(
            f"127.0.0.1:{up.port}",
            f"http://127.0.0.1:{broken.port}/ready",
            f"http://127.0.0.1:{mute.port}",
            "no-such-name",
            timeout=2,
            attempt_timeout=30,
        )
    assert f"http://127.0.0.1:{mute.port} (connected, no answer in time)" in outcome.left
    lines = outcome.out.splitlines()
    assert 3 <= len(lines) <= 5
    assert lines[1] == (
        "seamless-precheck: waiting: 1 of 4 up, 4 needed; missing: "
        f"http://127.0.0.1:{broken.port}/ready (status 503), "
        f"http://127.0.0.1:{mute.port} (no answer yet), "
        "no-such-name (name does not resolve)"
    )


def test_a_summary_comes_every_ten_seconds() -> None:
    """The interval is the one that the issue and the docs name."""
    assert program.SUMMARY_INTERVAL == 10


def test_json_lines_say_the_same_in_fields(run: Run, monkeypatch: Any) -> None:
    """With `--log-format json` every line is an object with a time, an event and its fields."""
    monkeypatch.setattr(program, "SUMMARY_INTERVAL", 0.4)
    with accepting() as server:
        outcome = run(f"127.0.0.1:{server.port}", "no-such-name", timeout=1, log_format="json")
    up, waiting, *_ = [json.loads(line) for line in outcome.out.splitlines()]
    (gave_up,) = [json.loads(line) for line in outcome.err.splitlines()]
    missing = [{"target": "no-such-name", "reason": "name does not resolve"}]
    assert (up["event"], up["target"], up["up"]) == ("up", f"127.0.0.1:{server.port}", 1)
    assert (waiting["event"], waiting["missing"], waiting["needed"]) == ("waiting", missing, 2)
    assert (gave_up["event"], gave_up["missing"]) == ("gave up", missing)
    assert gave_up["message"] == outcome.left
    assert up["time"].endswith("Z")


@settings(deadline=None, derandomize=True, database=None, max_examples=50)
@given(
    st.recursive(
        st.integers() | st.text(alphabet=st.characters(max_codepoint=127)),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='ab"\\\n'), inner),
    )
)
def test_what_is_written_as_json_reads_the_same(value: Any) -> None:
    """Quotes, backslashes and control characters are escaped."""
    assert json.loads(program._json(value)) == value


def test_a_long_list_of_missing_targets_fits_a_termination_message(run: Run) -> None:
    """The kubelet keeps 4,096 bytes: the message names what fits, and counts the rest."""
    outcome = run(*[f"{'x' * 50}-{number}" for number in range(200)], once=True)
    assert len(outcome.left) < 4096
    named = outcome.left.count("(name does not resolve)")
    assert named > 20
    assert outcome.left.endswith(f", and {200 - named} more")


def test_a_termination_message_goes_only_where_the_kubelet_made_a_file(
    run: Run, tmp_path: Path
) -> None:
    """No file is made, and what is no file is no reason to fail."""
    for path in (tmp_path / "absent", tmp_path, tmp_path / "absent" / "file"):
        assert not run("no-such-name", timeout=0.1, termination_log=path).up
    assert [path.name for path in tmp_path.iterdir()] == ["termination-log"]


def test_an_unexpected_error_in_one_probe_does_not_end_the_wait(run: Run) -> None:
    """A fault of ours in one target is a reason like any other; the rest goes on."""

    def resolve(_name: str) -> list[Address]:
        raise ZeroDivisionError

    with accepting() as server:
        outcome = run("odd", f"127.0.0.1:{server.port}", resolve=resolve, once=True)
    assert "1 of 2 up" in outcome.left
    assert "odd (unexpected ZeroDivisionError)" in outcome.left


def test_a_pod_that_may_start_no_thread_says_so(
    first_reason: FirstReason, monkeypatch: Any
) -> None:
    """A limit of processes makes a look-up time out, and not the precheck fail."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("webhook.precheck.program._thread.start_new_thread", refuse)
    assert first_reason("db", attempt_timeout=0.1) == "name look-up timed out"


def test_a_connection_to_itself_does_not_count() -> None:
    """On loopback TCP can connect a port to itself: nobody listens there, so it is refused."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with socket.socket() as itself:
        itself.bind(("127.0.0.1", port))
        itself.connect(("127.0.0.1", port))
        steps = program._connect(_Connected(itself), ("127.0.0.1", port))  # type: ignore[arg-type]
        with pytest.raises(ConnectionRefusedError):
            next(steps)


class _Connected:
    """A connection that is there already."""

    def __init__(self, connection: socket.socket) -> None:
        self.getsockname = connection.getsockname

    def setblocking(self, flag: Any) -> None:
        """Stay as it is."""

    def connect_ex(self, _peer: object) -> int:
        """Say that it is connected."""
        return 0


def test_nothing_is_left_open_when_the_wait_ends(run: Run) -> None:
    """Connections of attempts that are under way end with the wait."""
    gone = threading.Event()

    def handle(connection: Any, _number: int) -> None:
        while connection.recv(4096):
            pass
        gone.set()

    with handling(handle) as mute, accepting() as server:
        outcome = run(f"http://127.0.0.1:{mute.port}", f"127.0.0.1:{server.port}", timeout=0.3)
        assert gone.wait(10)
    assert not outcome.up


def test_ipv6_addresses_are_probed(run: Run) -> None:
    """An address in brackets is connected to, asked over HTTP, and resolves to itself."""
    try:
        with accepting("::1") as tcp, answering(answer(200), host="::1") as http:
            outcome = run(f"[::1]:{tcp.port}", f"http://[::1]:{http.port}", "[::1]")
    except OSError:
        pytest.skip("this machine has no IPv6 on loopback")
    assert outcome.up
    assert f"Host: [::1]:{http.port}\r\n".encode() in http.requests[0]


def test_the_defaults_are_those_of_the_contract() -> None:
    """All targets, ten minutes, text."""
    options = Options()
    assert (options.require, options.timeout, options.log_format) == ("all", 600, "text")
    assert options.termination_log == "/dev/termination-log"
    Precheck([parse_target("127.0.0.1")], options).wait()
