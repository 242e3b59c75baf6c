from __future__ import annotations

import ipaddress
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.precheck.servers import Authority, answer, answering, handling, hanging
from webhook.precheck import program
from webhook.precheck.targets import (
    NotUpError,
    http_location,
    http_request,
    link_local,
    parse_target,
    redirected,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from tests.precheck.conftest import Outcome

    Run = Callable[..., Outcome]
    FirstReason = Callable[..., str]


def test_a_server_that_answers_503_then_200_is_waited_for(run: Run) -> None:
    """A server that is not ready yet is asked again."""
    with answering(answer(503), answer(503), answer(200)) as server:
        outcome = run(f"http://127.0.0.1:{server.port}/ready")
    assert outcome.up
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [200, 204, 299, 300, 304, 399])
def test_a_status_below_400_is_up(run: Run, status: int) -> None:
    """Whatever it is, it is an answer."""
    with answering(answer(status)) as server:
        assert run(f"http://127.0.0.1:{server.port}").up


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503, 999])
def test_a_status_of_400_or_more_is_the_reason(first_reason: FirstReason, status: int) -> None:
    """The status is named."""
    with answering(answer(status)) as server:
        assert first_reason(f"http://127.0.0.1:{server.port}") == f"status {status}"


def test_the_request_is_a_plain_get(run: Run) -> None:
    """Method, path with query, host with port, and an agent that a server's log can name."""
    with answering(answer(200)) as server:
        run(f"http://127.0.0.1:{server.port}/a/b?c=d")
    assert server.requests == [
        b"GET /a/b?c=d HTTP/1.1\r\n"
        b"Host: 127.0.0.1:%d\r\n"
        b"User-Agent: seamless-precheck\r\n"
        b"Accept: */*\r\n"
        b"Connection: close\r\n"
        b"\r\n" % server.port
    ]


@pytest.mark.parametrize(
    ("credentials", "header"),
    [
        ("user:pass", b"Basic dXNlcjpwYXNz"),
        ("user", b"Basic dXNlcjo="),
        ("us%40er:p%3Ass%0D%0Ax", b"Basic dXNAZXI6cDpzcw0KeA=="),
    ],
)
def test_credentials_are_sent_decoded_and_cannot_break_out(credentials: str, header: bytes) -> None:
    """Escapes are decoded, and a line break among them stays inside the header."""
    request = http_request(parse_target(f"http://{credentials}@api"))
    assert b"\r\nAuthorization: " + header + b"\r\n\r\n" in request
    assert request.count(b"\r\n") == 7


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://api", b"api"),
        ("http://api:80", b"api"),
        ("https://api:443", b"api"),
        ("https://api:80", b"api:80"),
        ("http://api.", b"api"),
        ("http://[::1]:80", b"[::1]"),
    ],
)
def test_the_host_header_names_a_port_only_where_it_is_unusual(url: str, host: bytes) -> None:
    """As browsers write it; the dot of a full name is for the resolver only."""
    assert b"\r\nHost: " + host + b"\r\n" in http_request(parse_target(url))


ODD_ANSWERS = [
    (b"", "closes without an answer"),
    (b"HTTP/1.1 200", "closes without an answer"),
    (b"SSH-2.0-OpenSSH_9.6\r\n", "answers, but not in HTTP/1"),
    (b"J\x00\x00\x00\x0a8.4.0\x00", "answers, but not in HTTP/1"),
    (b"HTTP/2 200\r\n\r\n", "answers, but not in HTTP/1"),
    (b"HTTP/1.1 abc\r\n\r\n", "answers, but not in HTTP/1"),
    (b"HTTP/1.1 99 Low\r\n\r\n", "answers, but not in HTTP/1"),
    (b"HTTP/1.1 2000 High\r\n\r\n", "answers, but not in HTTP/1"),
    (b"HTTP/1.1 -20 Odd\r\n\r\n", "answers, but not in HTTP/1"),
    (b"HTTP/1.1  200 OK\r\n\r\n", "answers, but not in HTTP/1"),
    (b"HTTP/1.1 200\x00\r\n\r\n", "answers, but not in HTTP/1"),
    (b"HTTP/1.1 2\xb200 OK\r\n\r\n", "answers, but not in HTTP/1"),
    (b"\x15\x03\x01\x00\x02\x02", "answers, but not in HTTP/1"),
    (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20000, "answers with a head of over 16384 bytes"),
    (b"HTTP/1.1 100 Continue\r\n\r\n" * 2000, "answers with a head of over 16384 bytes"),
    (b"HTTP/1.1 100 Continue\r\n\r\n", "closes without an answer"),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\n\r\n", "status 503"),
    (b"HTTP/1.1 404 Not Found\n\n", "status 404"),
    (b"HTTP/1.0 500\r\n\r\n", "status 500"),
]


@pytest.mark.parametrize(("raw", "reason"), ODD_ANSWERS)
def test_an_odd_answer_is_a_reason_and_never_an_error(
    first_reason: FirstReason, raw: bytes, reason: str
) -> None:
    """Whatever a server sends, the wait goes on and says in plain words what came."""

    def handle(connection: Any, _number: int) -> None:
        connection.recv(4096)
        connection.sendall(raw)

    with handling(handle) as server:
        assert first_reason(f"http://127.0.0.1:{server.port}") == reason


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.0 200\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 200 OK\r\nServer: it closes before its head ends\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_a_sloppy_answer_below_400_is_up(run: Run, raw: bytes) -> None:
    """Bare line feeds, interim answers, a missing end, a redirect to nowhere: all answer."""
    with answering(raw) as server:
        assert run(f"http://127.0.0.1:{server.port}").up


def test_an_answer_that_trickles_ends_with_the_attempt(first_reason: FirstReason) -> None:
    """Bytes that keep coming do not buy more time."""

    def trickle(connection: Any, _number: int) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.sendall(b"X")
            time.sleep(0.01)

    with handling(trickle) as server:
        reason = first_reason(f"http://127.0.0.1:{server.port}", attempt_timeout=0.3)
    assert reason == "connected, no answer in time"


@settings(deadline=None, derandomize=True, database=None, max_examples=400)
@given(st.binary() | st.binary().map(lambda raw: b"HTTP/1.1 302 Found\nLocation:" + raw))
def test_any_head_is_judged(head: bytes) -> None:
    """No bytes make anything but an answer, or a reason; a redirect leads to a URL or nowhere."""
    target = parse_target("http://user:s3cr3t@api/")
    try:
        location = http_location(head)
        hop = redirected(target, target, location)
    except NotUpError as error:
        reason = str(error)
        assert reason.isprintable()
    else:
        assert str(hop).isprintable()
        assert hop.host == "api" or not hop.credentials
        assert b"\n" not in location


LOCATIONS = [
    # where it was, what it said, where that leads
    ("http://api/a/b?c", b"/d", "http://api/d"),
    ("http://api/a/b?c", b"d?e", "http://api/a/d?e"),
    ("http://api/a/b/c", b"../d", "http://api/a/d"),
    ("http://api/a", b"?x=1", "http://api/a?x=1"),
    ("http://api/a", b"//other:81/x", "http://other:81/x"),
    ("http://api/a", b"http://OTHER/x#top", "http://other/x"),
    ("http://api/a", b"HTTPS://other", "https://other/"),
    ("http://api/a", b"/x,y$z w\xc3\xa9", "http://api/x,y$z%20w%C3%A9"),
    ("http://api:8080/a", b"b", "http://api:8080/b"),
    ("http://[::1]:8080/a", b"b", "http://[::1]:8080/b"),
    ("https://api/a", b"https://other/", "https://other/"),
    ("https+insecure://api/a", b"/b", "https+insecure://api/b"),
    ("https+insecure://api/a", b"https://other/", "https+insecure://other/"),
]


@pytest.mark.parametrize(("url", "location", "leads_to"), LOCATIONS)
def test_a_location_is_followed_as_a_browser_would(
    url: str, location: bytes, leads_to: str
) -> None:
    """Relative, absolute, of another scheme, badly escaped: each leads somewhere."""
    target = parse_target(url)
    hop = redirected(target, target, location)
    assert str(hop).replace("?***", "?" + hop.path.partition("?")[2]) == leads_to


@pytest.mark.parametrize(
    ("url", "location", "reason"),
    [
        ("https://api/", b"http://api/", "redirects from https to http"),
        ("https+insecure://api/", b"http://api/", "redirects from https to http"),
        ("http://api/", b"ftp://api/", "redirects to what is no valid http or https URL"),
        ("http://api/", b"mailto:a@b", "redirects to what is no valid http or https URL"),
        ("http://api/", b"http://[::1", "redirects to what is no valid http or https URL"),
        ("http://api/", b"http://a:b", "redirects to what is no valid http or https URL"),
        ("http://api/", b"dns://api", "redirects to what is no valid http or https URL"),
        ("http://api/", b"ftp://api:21/", "redirects to what is no valid http or https URL"),
        ("http://api/", b"x://api:1", "redirects to what is no valid http or https URL"),
        ("http://api/", b"grpc://api:1", "redirects to what is no valid http or https URL"),
        ("http://api/", b"tcp://api:1", "redirects to what is no valid http or https URL"),
        ("https://api/", b"https+insecure://a", "redirects to what is no valid http or https URL"),
        ("https://api/", b"HTTPS+INSECURE://a:1", "redirects to what is no valid http or https"),
        ("https+insecure://a/", b"https+insecure://b/", "redirects to what is no valid http or"),
    ],
)
def test_a_location_that_leads_nowhere_good_is_a_reason(
    url: str, location: bytes, reason: str
) -> None:
    """Encryption is not given up on the way, and other schemes are not followed."""
    target = parse_target(url)
    with pytest.raises(NotUpError, match=reason):
        redirected(target, target, location)


def test_credentials_stay_with_their_origin() -> None:
    """They go along to another path, and never to another host, port or scheme."""
    target = parse_target("http://user:pass@api:8080/")
    for location, kept in [
        (b"/login", "user:pass"),
        (b"http://api:8080/login", "user:pass"),
        (b"http://api/login", ""),
        (b"http://other:8080/login", ""),
        (b"https://api:8080/login", ""),
        (b"http://user:pass@other/", ""),
    ]:
        assert redirected(target, target, location).credentials == kept


def test_a_redirect_is_followed(run: Run) -> None:
    """Two hops on, the answer counts, and names are looked up on the way."""
    redirect = answer(302, "Location: /next")
    with answering(redirect, answer(307, "location:  last "), answer(200)) as server:
        assert run(f"http://127.0.0.1:{server.port}/first").up
    assert [request.split()[1] for request in server.requests] == [b"/first", b"/next", b"/last"]


def test_a_redirect_to_a_server_that_is_down_is_not_up(first_reason: FirstReason) -> None:
    """What counts is where it leads."""
    with answering(answer(301, "Location: http://no-such-name/")) as server:
        assert first_reason(f"http://127.0.0.1:{server.port}") == "name does not resolve"


LINK_LOCAL = [
    "169.254.169.254",
    "169.254.0.0",
    "169.254.255.255",
    "fe80::1",
    "febf:ffff::1",
    "fe80::1%eth0",
    "::ffff:169.254.169.254",
    "::169.254.169.254",
    "64:ff9b::169.254.169.254",
    "2002:a9fe:a9fe::1",
    "fd00:ec2::254",
    "fd20:ce::254",
]
ELSEWHERE = [
    "127.0.0.1",
    "169.253.255.255",
    "169.255.0.0",
    "10.169.254.1",
    "::1",
    "::",
    "fec0::1",
    "fd00::1",
    "fd12:3456:789a::169.254.1.1",
    "2001:db8:a9fe::a9fe",
    "::ffff:10.0.0.1",
    "64:ff9b::8.8.8.8",
    "2002:808:808::a9fe",
]


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@pytest.mark.parametrize("address", LINK_LOCAL)
def test_a_redirect_to_a_link_local_address_is_never_followed(
    first_reason: FirstReason, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the address itself nor by a name of it: what is there gives out credentials."""
    connected: list[object] = []
    connect = program._connect

    def note(connection: Any, peer: Any) -> Any:
        connected.append(peer[0])
        return connect(connection, peer)

    monkeypatch.setattr(program, "_connect", note)
    literal = f"[{address}]" if ":" in address else address
    hosts = ["metadata.test"] if "%" in address else [literal, "metadata.test"]
    for host in hosts:
        with answering(answer(302, f"Location: http://{host}/latest/meta-data/")) as server:
            reason = first_reason(
                f"http://127.0.0.1:{server.port}",
                lambda _name: [(_family(address), (address, 0))],
            )
        assert reason == "redirects to a link-local address"
    assert set(connected) == {"127.0.0.1"}


def test_of_the_addresses_of_a_name_only_the_link_local_ones_are_passed_over(run: Run) -> None:
    """A redirect leads to the others."""
    with answering(answer(200)) as there:
        addresses = [(socket.AF_INET, (each, 0)) for each in ("169.254.169.254", "127.0.0.1")]
        with answering(answer(302, f"Location: http://both.test:{there.port}/")) as server:
            assert run(f"http://127.0.0.1:{server.port}", resolve=lambda _name: addresses).up
        assert len(there.requests) == 1


def test_a_link_local_target_that_the_user_names_is_asked(
    first_reason: FirstReason, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node's own DNS listens there, and no stranger asks for it."""

    def refuse(_connection: Any, peer: Any) -> Any:
        assert peer == ("169.254.20.10", 8080)
        raise ConnectionRefusedError

    monkeypatch.setattr(program, "_connect", refuse)
    assert first_reason("http://169.254.20.10:8080/health") == "refused"


@pytest.mark.parametrize("address", ELSEWHERE)
def test_other_addresses_are_not_link_local(address: str) -> None:
    """Close as they may look."""
    assert not link_local(_family(address), address)


@settings(deadline=None, derandomize=True, database=None, max_examples=400)
@given(st.ip_addresses())
def test_link_local_is_what_the_standard_library_says(address: Any) -> None:
    """But for addresses that carry one of IPv4, and those of clouds."""
    wanted = address.is_link_local
    if address.version == 6:
        low = ipaddress.ip_address(int(address) & 0xFFFFFFFF)
        carried = address.ipv4_mapped or address.sixtofour or (int(address) < 2**32 and low)
        translated = int(address) >> 32 == 0x64FF9B << 64 and low
        wanted |= any(each.is_link_local for each in (carried, translated) if each)
        wanted |= int(address) >> 96 in {0xFD000EC2, 0xFD2000CE}
    assert link_local(_family(str(address)), str(address)) is wanted


def test_redirects_in_a_circle_are_told(first_reason: FirstReason) -> None:
    """The circle is seen when it closes, and its query is masked."""
    away, back = answer(302, "Location: /b?t=s3cr3t"), answer(302, "Location: /a?t=s3cr3t")
    with answering(away, back) as server:
        url = f"http://127.0.0.1:{server.port}/a"
        assert first_reason(f"{url}?t=s3cr3t") == f"redirects in a circle, to {url}?***"
    assert len(server.requests) == 2


def test_redirects_are_bounded(first_reason: FirstReason) -> None:
    """A chain that never ends is left after five."""
    hops = [answer(302, f"Location: /{number}") for number in range(9)]
    with answering(*hops) as server:
        assert first_reason(f"http://127.0.0.1:{server.port}") == "redirects more than 5 times"
    assert len(server.requests) == 6


def test_a_trusted_certificate_is_up(run: Run, authority: Authority, monkeypatch: Any) -> None:
    """TLS with a certificate that the system trusts, redirect from HTTP included."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
    with answering(answer(200), tls=authority.context()) as server:
        assert run(f"https://127.0.0.1:{server.port}").up
        location = f"Location: https://127.0.0.1:{server.port}/"
        with answering(answer(301, location)) as plain:
            assert run(f"http://127.0.0.1:{plain.port}").up


def test_a_certificate_of_an_unknown_authority_is_not_trusted(
    first_reason: FirstReason, authority: Authority
) -> None:
    """Nothing is sent to a server that cannot show who it is."""
    with answering(answer(200), tls=authority.context()) as server:
        reason = first_reason(f"https://127.0.0.1:{server.port}")
    assert reason == "certificate not trusted: unable to get local issuer certificate"
    assert server.requests == []


def test_an_expired_certificate_is_not_trusted(
    first_reason: FirstReason, authority: Authority, monkeypatch: Any
) -> None:
    """The reason says that it has expired."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
    with answering(answer(200), tls=authority.context(expired=True)) as server:
        reason = first_reason(f"https://127.0.0.1:{server.port}")
    assert reason == "certificate not trusted: certificate has expired"


def test_a_certificate_for_another_address_is_not_trusted(
    first_reason: FirstReason, authority: Authority, monkeypatch: Any
) -> None:
    """The reason says that the address does not match."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
    with answering(answer(200), tls=authority.context("127.0.0.9")) as server:
        reason = first_reason(f"https://127.0.0.1:{server.port}")
    assert reason.startswith("certificate not trusted: IP address mismatch")


def test_https_insecure_takes_any_certificate(run: Run, authority: Authority) -> None:
    """Expired, unknown, of another name: it is up, and so is what it redirects to."""
    tls = authority.context("127.0.0.9", expired=True)
    with answering(answer(302, "Location: https://127.0.0.1:{port}/b"), answer(200), tls=tls) as s:
        assert run(f"https+insecure://127.0.0.1:{s.port}/a").up
    assert len(s.requests) == 2


def test_a_server_that_does_not_speak_tls_is_told(first_reason: FirstReason) -> None:
    """What comes back is no TLS: the reason says so."""

    def greet(connection: Any, _number: int) -> None:
        connection.sendall(b"220 mail.test ready\r\n")
        while connection.recv(4096):
            pass

    with handling(greet) as server:
        reason = first_reason(f"https://127.0.0.1:{server.port}")
    assert reason.startswith("TLS failed: ")


def test_a_server_that_hangs_up_on_tls_is_told(first_reason: FirstReason) -> None:
    """An end in the middle of the handshake is no system error."""
    with handling(lambda connection, _: connection.recv(4096)) as server:
        reason = first_reason(f"https://127.0.0.1:{server.port}")
    assert reason == "TLS failed: unexpected eof while reading"


def test_a_handshake_that_hangs_ends_with_the_attempt(first_reason: FirstReason) -> None:
    """A server that accepts and never speaks TLS is told from one that never answers."""
    with hanging() as server:
        reason = first_reason(f"https://127.0.0.1:{server.port}", attempt_timeout=0.3)
    assert reason == "TLS handshake timed out"


def test_an_answer_over_tls_may_come_in_pieces(run: Run, authority: Authority) -> None:
    """What TLS has read ahead is not waited for twice."""

    def slowly(connection: ssl.SSLSocket, _number: int) -> None:
        with authority.context().wrap_socket(connection, server_side=True) as secured:
            secured.recv(4096)
            for piece in (b"HTTP/1.1 100 C\r\n\r\nHTT", b"P/1.1 2", b"00 OK\r\nX: y\r\n", b"\r\n"):
                secured.sendall(piece)

    with handling(slowly) as server:
        assert run(f"https+insecure://127.0.0.1:{server.port}").up
