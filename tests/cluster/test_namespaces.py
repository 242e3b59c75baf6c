from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cluster.fake_api import NAMESPACES, FakeApi, Fault, once, until
from webhook.cluster.client import ApiError, Backoff
from webhook.cluster.namespaces import NamespaceWatch
from webhook.cluster.namespaces import lines as lines_of
from webhook.decision.mutations import MUTATIONS
from webhook.decision.settings import EMPTY, Namespace, Table

TABLE = Table(setting for each in MUTATIONS for setting in each.settings)

Watching = Callable[..., contextlib.AbstractContextManager[NamespaceWatch]]


@pytest.fixture
def watching(fake: FakeApi) -> Watching:
    """A running watch of the fake, with short waits."""

    @contextlib.contextmanager
    def run(*, synced: bool = True, **options: object) -> Iterator[NamespaceWatch]:
        options = {"backoff": Backoff(0.02, 0.1)} | options
        watch = NamespaceWatch(fake.api(), TABLE.namespace, **options)
        watch.start()
        try:
            if synced:
                until(lambda: watch.synced and fake.streams)
            yield watch
        finally:
            watch.stop()
            assert not watch._background._thread.is_alive()

    return run


def test_namespaces_are_listed_in_pages_and_then_watched(fake: FakeApi, watching: Watching) -> None:
    """Pages of 500, then one watch; what says nothing shares one empty layer."""
    for number in range(1201):
        fake.namespace(f"quiet-{number}")
    fake.namespace("loud", inject="enabled", min_ready="5s")
    with watching() as watch:
        assert len(watch) == 1202
        assert len(fake.asked("GET", NAMESPACES)) == 3
        loud, quiet = watch.lookup("loud"), watch.lookup("quiet-7")
        assert loud is not None
        assert loud.layer.inject is True
        assert dict(loud.layer.values) == {"min-ready": 5}
        assert quiet is not None
        assert quiet.layer is EMPTY
        assert watch.lookup("other") is None
        fake.namespace("new", inject="disabled")
        until(lambda: watch.lookup("new"))
        fake.namespace("loud", min_ready="7s")
        until(lambda: watch.lookup("loud").layer.values == {"min-ready": 7})
        fake.delete(NAMESPACES, "loud")
        until(lambda: watch.lookup("loud") is None)
        assert len(fake.asked("GET", NAMESPACES)) == 3
        asks = fake.asked("GET", NAMESPACES, watches=True)
        assert len(asks) == 1
        assert asks[0].query["allowWatchBookmarks"] == "true"
        assert "as=PartialObjectMetadata;" in asks[0].headers["Accept"]
        assert asks[0].headers["User-Agent"].startswith("seamless-rollouts/")


def test_a_watch_that_breaks_off_goes_on_from_the_last_version(
    fake: FakeApi, watching: Watching
) -> None:
    """A bookmark moves the version on, so nothing is told twice and nothing is listed anew."""
    with watching() as watch:
        fake.bookmark()
        version = str(fake._last)
        until(lambda: watch._version == version)
        fake.drop_streams()
        until(lambda: len(fake.asked("GET", NAMESPACES, watches=True)) == 2)
        assert fake.asked("GET", NAMESPACES, watches=True)[-1].query["resourceVersion"] == version
        fake.namespace("after", inject="enabled")
        until(lambda: watch.lookup("after"))
        assert len(fake.asked("GET", NAMESPACES)) == 1


def test_a_version_that_is_too_old_leads_to_a_new_list_that_replaces_all_at_once(
    fake: FakeApi, watching: Watching
) -> None:
    """What was deleted meanwhile leaves, though no event ever said so."""
    for number in range(600):
        fake.namespace(f"n{number}")
    with watching() as watch:
        blocked = threading.Event()

        def block(_request: object) -> Fault | None:
            return Fault(503) if not blocked.is_set() else None

        fake.faults.append(block)
        fake.drop_streams()
        fake.delete(NAMESPACES, "n1")
        fake.namespace("n2", min_ready="9s")
        fake.compact()
        assert watch.lookup("n1") is not None
        sizes = set()
        blocked.set()
        end = time.monotonic() + 10
        while watch.lookup("n1") is not None:
            assert time.monotonic() < end
            sizes.add(len(watch))
        assert sizes <= {600, 599}
        assert watch.lookup("n2").layer.values == {"min-ready": 9}


def test_pages_that_expire_are_replaced_by_one_list(fake: FakeApi, watching: Watching) -> None:
    """A 410 for a continued list asks for everything at once."""
    for number in range(700):
        fake.namespace(f"n{number}")

    def compact(request: object) -> None:
        if "continue" in request.query:
            fake.compact()

    fake.faults.append(compact)
    with watching() as watch:
        assert len(watch) == 700
        assert "limit" not in fake.asked("GET", NAMESPACES)[-1].query


@pytest.mark.parametrize(
    "fault",
    [
        Fault(0),
        Fault(500, body=b"{"),
        Fault(503, body=b'{"message": "etcd is away"}'),
        Fault(401),
        Fault(403, body=b"[]"),
        Fault(200, body=b"<html>"),
        Fault(200, body=b'{"items": [{"metadata": {}}]}'),
        Fault(200, body=b'{"items": [[]], "metadata": {}}'),
    ],
    ids=["dropped", "500", "503", "401", "403", "html", "no name", "no object"],
)
def test_an_answer_that_is_no_list_is_asked_for_again(
    fake: FakeApi, watching: Watching, fault: Fault
) -> None:
    """Nothing is known until the first good list; then all is."""
    fake.namespace("a", inject="enabled")
    fake.faults.append(once(fault, times=3))
    with watching() as watch:
        assert watch.lookup("a")
        assert watch.errors == 3


@pytest.mark.parametrize(
    "line",
    [
        b"}{\n",
        b"[]\n",
        b'{"type": "ADDED"}\n',
        b'{"type": "ADDED", "object": {"metadata": {"name": "x"}}\n',
        b'{"type": "MODIFIED", "object": {"metadata": {}}}\n',
        b'{"type": "BOOKMARK", "object": {}}\n',
        b'{"type": "ERROR", "object": {"code": 500, "message": "lost"}}\n',
        b'{"type": "ERROR"}\n',
    ],
)
def test_an_unreadable_event_leads_to_a_new_list(
    fake: FakeApi, watching: Watching, line: bytes
) -> None:
    """An event that was missed may have been any: what is there counts."""
    fake.namespace("a")
    with watching() as watch:
        fake.send(line)
        until(lambda: len(fake.asked("GET", NAMESPACES)) >= 2)
        fake.compact()
        until(lambda: watch.synced and fake.streams)
        fake.namespace("b")
        until(lambda: watch.lookup("b"))


def test_a_namespace_that_cannot_be_parsed_keeps_no_other_from_being_known(
    fake: FakeApi, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake of ours, for one of them: it says nothing, and the watch goes on."""
    fake.namespace("bad", min_ready="1s")

    def parse(name: str, *_: object) -> Namespace:
        return Namespace(name, 1 / 0) if name == "bad" else Namespace(name)

    monkeypatch.setattr("tests.cluster.test_namespaces.TABLE.namespace", parse)
    with watching() as watch:
        assert watch.lookup("bad") == Namespace("bad")
        fake.namespace("good")
        until(lambda: watch.lookup("good"))


def test_a_server_that_says_when_to_come_back_is_left_alone_until_then(
    fake: FakeApi, watching: Watching
) -> None:
    """Retry-After counts for more than our own wait."""
    fake.faults.append(once(Fault(429, {"Retry-After": "1"}), watches=True))
    with watching(synced=False, backoff=Backoff(0.001, 10.0)) as watch:
        until(lambda: watch.errors == 1)
        began = time.monotonic()
        until(lambda: fake.streams)
        assert time.monotonic() - began > 0.9
        assert len(fake.asked("GET", NAMESPACES, watches=True)) == 2


def test_a_silent_watch_is_given_up(
    fake: FakeApi, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an event nor an end: a little after its time the connection counts as lost."""
    monkeypatch.setattr("webhook.cluster.namespaces._SILENCE_SECONDS", 0.2)
    fake.watches_end = False
    with watching(watch_seconds=0.5) as watch:
        until(lambda: len(fake.asked("GET", NAMESPACES, watches=True)) >= 2)
        assert watch.errors >= 1


def test_watches_that_end_at_once_are_not_asked_for_in_a_loop(
    fake: FakeApi, watching: Watching
) -> None:
    """Something between us and the server that ends each watch costs a few requests a minute."""
    fake.faults.append(once(Fault(200), watches=True, times=10**6))
    with watching(synced=False, backoff=Backoff(0.1, 30.0)):
        time.sleep(1.0)
    assert len(fake.asked("GET", NAMESPACES, watches=True)) <= 5


def test_a_new_token_is_used_for_the_next_try(fake: FakeApi, watching: Watching) -> None:
    """A token that is refused does not end the watch; the token is read for each request."""
    fake.token = "second"  # noqa: S105 - the fake's
    with watching(synced=False) as watch:
        until(lambda: watch.errors)
        configuration = watch._api._client.configuration
        configuration.api_key["BearerToken"] = "Bearer second"
        configuration.api_key["authorization"] = "Bearer second"
        until(lambda: watch.synced)


def test_the_age_tells_of_the_last_sign_of_life(fake: FakeApi) -> None:
    """None before the first list; lists, events and bookmarks make it zero."""
    now = [100.0]
    watch = NamespaceWatch(fake.api(), TABLE.namespace, clock=lambda: now[0])
    assert watch.age_seconds() is None
    watch._list()
    now[0] += 7
    assert watch.age_seconds() == 7
    watch._take(b'{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}}')
    assert watch.age_seconds() == 0


# --- namespaces that are not known yet -----------------------------------------------------------


def test_a_namespace_that_is_not_known_is_asked_for_and_then_looked_up(fake: FakeApi) -> None:
    """Seconds old, it is found by name; the next look-up finds it too, for a while."""
    now = [0.0]
    watch = NamespaceWatch(fake.api(), TABLE.namespace, clock=lambda: now[0])
    fake.namespace("fresh", min_ready="3s")
    found = watch.fetch("fresh", 1.0)
    assert found is not None
    assert found.layer.values == {"min-ready": 3}
    assert watch.lookup("fresh") is found
    assert watch.fetch("fresh", 1.0) is found
    assert len(fake.requests) == 1
    now[0] += 31
    assert watch.lookup("fresh") is None


def test_a_flood_for_missing_namespaces_costs_nothing(fake: FakeApi) -> None:
    """One question for a name in two seconds, and a bound on what is remembered."""
    now = [0.0]
    watch = NamespaceWatch(fake.api(), TABLE.namespace, clock=lambda: now[0])
    for _ in range(100):
        assert watch.fetch("missing", 1.0) is None
    assert len(fake.requests) == 1
    now[0] += 3
    fake.namespace("missing")
    assert watch.fetch("missing", 1.0) is not None
    for number in range(600):
        watch.fetch(f"missing-{number}", 1.0)
    assert len(watch._fetched) <= 512


def test_an_api_server_that_is_away_holds_up_one_request_in_a_second(fake: FakeApi) -> None:
    """After an error nothing is asked for a second."""
    now = [0.0]
    watch = NamespaceWatch(fake.api(), TABLE.namespace, clock=lambda: now[0])
    fake.faults.append(once(Fault(503), times=10**6))
    for number in range(50):
        assert watch.fetch(f"n{number}", 1.0) is None
    assert len(fake.requests) == 1
    now[0] += 1.5
    assert watch.fetch("again", 1.0) is None
    assert len(fake.requests) == 2


def test_requests_for_one_name_share_one_question_and_few_are_asked_at_once(
    fake: FakeApi,
) -> None:
    """Twenty threads for one name ask once; of twenty names eight are asked at a time."""
    go = threading.Event()
    fake.namespace("a")
    fake.faults.append(lambda _request: go.wait(5) and None)
    watch = NamespaceWatch(fake.api(), TABLE.namespace)
    found: list[object] = []
    names = ["a"] * 20 + [f"n{number}" for number in range(19)]
    threads = [
        threading.Thread(target=lambda name=name: found.append((name, watch.fetch(name, 5.0))))
        for name in names
    ]
    for each in threads:
        each.start()
    until(lambda: len(found) == 12 and len(fake.requests) >= 8)
    go.set()
    for each in threads:
        each.join()
    assert len(fake.requests) == 8
    assert sum(answer is not None for _, answer in found) == 20


def test_a_slow_server_is_not_waited_for_beyond_the_bound(fake: FakeApi) -> None:
    """The time-out is the caller's."""
    go = threading.Event()
    fake.faults.append(lambda _request: go.wait(5) and None)
    watch = NamespaceWatch(fake.api(), TABLE.namespace)
    began = time.monotonic()
    assert watch.fetch("a", 0.2) is None
    assert time.monotonic() - began < 4.0
    go.set()


# --- pure parts ----------------------------------------------------------------------------------


class _Pieces:
    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def stream(self, _amount: int, *, decode_content: bool) -> list[bytes]:  # noqa: ARG002
        return self.pieces


@given(
    st.lists(st.binary(min_size=1).filter(lambda line: b"\n" not in line and line.strip())),
    st.lists(st.integers(0, 400)),
)
def test_lines_are_the_same_wherever_a_stream_is_cut(lines: list[bytes], cuts: list[int]) -> None:
    """Pieces are of any size; what follows the last line end is no line."""
    whole = b"".join(line + b"\n" for line in lines) + b"rest"
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    pieces = [whole[a:b] for a, b in itertools.pairwise(edges)]
    assert list(lines_of(_Pieces(pieces), "namespaces")) == lines


def test_a_line_without_end_is_not_collected_for_ever() -> None:
    """Eight megabytes are more than any namespace takes."""
    with pytest.raises(ApiError, match="more than"):
        list(lines_of(_Pieces([b"x" * 2**20] * 9), "namespaces"))


@given(st.lists(st.booleans(), max_size=60), st.floats(0, 1))
def test_waits_grow_to_a_bound_and_never_vanish(failures: list[bool], spread: float) -> None:
    """Each is at least half of what is due, and at most 30 s."""
    backoff = Backoff(0.5, 30.0, lambda: spread)
    for failed in failures:
        if failed:
            assert 0.25 <= backoff.failed() <= 30.0
        else:
            backoff.succeeded()
    assert Backoff().failed(ApiError("busy", 429, retry_after=7)) >= 7
    assert Backoff().failed(ApiError("busy", 429, retry_after=1e9)) <= 60
