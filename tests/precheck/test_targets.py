from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from webhook.precheck.program import (
    Target,
    main,
    parse_duration,
    parse_require,
    parse_target,
    required,
)

# The same examples in every run, however busy the machine.
deterministic = settings(deadline=None, derandomize=True, database=None, max_examples=400)

GOOD = [
    # text, kind, host, port, path
    ("mysql", "dns", "mysql", None, ""),
    ("MySQL.Default.svc", "dns", "mysql.default.svc", None, ""),
    ("db.example.com.", "dns", "db.example.com.", None, ""),
    ("_sip._tcp.example", "dns", "_sip._tcp.example", None, ""),
    ("dns://mysql", "dns", "mysql", None, ""),
    ("10.0.0.1", "dns", "10.0.0.1", None, ""),
    ("[::1]", "dns", "::1", None, ""),
    ("dns://[2001:DB8::0:1]", "dns", "2001:db8::1", None, ""),
    ("mysql:3306", "tcp", "mysql", 3306, ""),
    ("tcp://mysql:3306", "tcp", "mysql", 3306, ""),
    ("TCP://mysql:3306", "tcp", "mysql", 3306, ""),
    ("10.0.0.1:65535", "tcp", "10.0.0.1", 65535, ""),
    ("[::1]:5432", "tcp", "::1", 5432, ""),
    ("tcp://[::ffff:10.0.0.1]:1", "tcp", "::ffff:10.0.0.1", 1, ""),
    ("http://api", "http", "api", 80, "/"),
    ("http://api/healthz", "http", "api", 80, "/healthz"),
    ("http://api:8080?ready", "http", "api", 8080, "/?ready"),
    ("http://api/a//b/../c;d=1?x=/y:@z", "http", "api", 80, "/a//b/../c;d=1?x=/y:@z"),
    ("https://api", "https", "api", 443, "/"),
    ("https://[::1]:8443/%7Euser", "https", "::1", 8443, "/%7Euser"),
    ("https+insecure://api:6443/readyz", "https+insecure", "api", 6443, "/readyz"),
    ("grpc://api:9000", "grpc", "api", 9000, ""),
    ("GRPC://API:9000/shop.v1.Orders", "grpc", "api", 9000, "shop.v1.Orders"),
    ("grpc://[::1]:9000/a/b", "grpc", "::1", 9000, "a/b"),
]


@pytest.mark.parametrize(("text", "kind", "host", "port", "path"), GOOD)
def test_every_form_of_the_contract_is_taken_apart(
    text: str, kind: str, host: str, port: int | None, path: str
) -> None:
    """Each form gives its kind, host, port and path, and keeps its text."""
    target = parse_target(text)
    assert (target.text, target.kind, target.host) == (text, kind, host)
    assert (target.port, target.path, target.credentials) == (port, path, "")


BAD = [
    ("", "empty"),
    ("-h", "begins with '-'"),
    ("--require=any", "begins with '-'"),
    ("a" * 2049, "over 2048 characters"),
    ("mysql 3306", r"has ' ' as character 6"),
    ("mysql\n", r"has '\n' as character 6"),
    ("mysql\x00", r"has '\x00'"),
    ("a,b", "has ','"),
    ("http://api/$(HOME)", "has '$'"),
    ("http://api/#top", "has '#'"),
    ("http://api/\u00e9", r"has '\xe9'"),
    ("##vso[task.complete]", r"'\x23\x23vso[task.complete]' has '#'"),
    ("m\u00fcller:80", r"has '\xfc'"),
    ("\udcff", r"has '\udcff'"),
    ("http://api/\\", "has '\\\\'"),
    ("`id`", "has '`'"),
    ("a|b", "has '|'"),
    ("ftp://host", "unknown scheme"),
    ("mysql://db:3306", "unknown scheme"),
    ("://host", "unknown scheme"),
    ("https+insecure:host", "more than a host and a port"),
    ("api/healthz", "more than a host and a port"),
    ("user@host:80", "more than a host and a port"),
    ("tcp://host:80/", "more than a host and a port"),
    ("dns://host:80", "dns:// takes no port"),
    ("grpc://host", "has no port; write grpc://host:port"),
    ("grpc://host/x", "has no port"),
    ("grpc://host:9000/", "no valid service"),
    ("grpc://host:9000/a?b", "no valid service"),
    ("grpc://host:9000/a%20b", "no valid service"),
    ("grpc://user@host:9000", "more than a host and a port"),
    ("grpc://host:9000?x", "more than a host and a port"),
    ("grpc://:9000", "no valid host"),
    ("tcp://host", "tcp:// needs one"),
    ("host:", "no valid port"),
    ("host:0", "no valid port"),
    ("host:65536", "no valid port"),
    ("host:http", "no valid port"),
    ("host:+80", "more than a host and a port"),
    ("host:9999999999", "no valid port"),
    (":80", "no valid host"),
    ("http://", "no valid host"),
    ("http:///path", "no valid host"),
    ("http://host:/", "no valid port"),
    ("http://api/%", "a '%' without two"),
    ("http://api/%2", "a '%' without two"),
    ("http://api/%zz", "a '%' without two"),
    (".", "no valid host"),
    ("a..b", "no valid host"),
    (".a", "no valid host"),
    ("-a.b:80", "begins with '-'"),
    ("a.-b", "no valid host"),
    ("a-", "no valid host"),
    ("a" * 64, "no valid host"),
    (".".join(["a" * 63] * 4), "no valid host"),
    ("5432", "no valid host"),
    ("1.2.3", "no valid host"),
    ("256.1.1.1", "no valid host"),
    ("010.0.0.1", "no valid host"),
    ("10.0.0.1.", "no valid host"),
    ("0x7f000001", "no valid host"),
    ("::1", "no valid host"),
    ("::1:5432", "no valid host"),
    ("[::1", "no valid host"),
    ("[::1]5432", "no valid host"),
    ("[10.0.0.1]", "no valid host"),
    ("[fe80::1%25eth0]", "more than a host and a port"),
    ("[]", "no valid host"),
    ("a]:80", "no valid host"),
]


@pytest.mark.parametrize(("text", "why"), BAD)
def test_a_malformed_target_says_what_is_wrong(text: str, why: str) -> None:
    """Each slip has an error of one line that shows the target and the slip."""
    with pytest.raises(ValueError, match=r"^target '") as caught:
        parse_target(text)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


# Pieces that make near misses likely; plain text alone would seldom get past the first check.
_PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            ["http://", "https://", "https+insecure://", "tcp://", "dns://", "[", "]", "::1", "@"]
        ),
        st.sampled_from([":", "80", "65536", "/", "?", "%", "%2", "-", "--", ".", "host", "10.0"]),
        st.text(max_size=6),
    ),
    max_size=8,
).map("".join)


@deterministic
@given(_PIECES | st.text() | st.text(alphabet=st.characters()))
@example("[[[[")
@example("http://[::1]]")
def test_any_text_is_a_target_or_a_clear_error(text: str) -> None:
    """No text makes anything but a target that reads the same again, or an error of one line."""
    try:
        target = parse_target(text)
    except ValueError as error:
        message = str(error)
        assert message.startswith(("target '", 'target "'))
        assert message.isprintable()
        assert message.isascii()
        assert len(message) < 400
    else:
        assert parse_target(target.text) == target
        assert target.text == text
        assert text[0] != "-"
        assert not set(text) & set(' \t\r\n,$"`\\\x00')
        assert target.port is None or 0 < target.port < 65536


@deterministic
@given(st.lists(_PIECES, min_size=1, max_size=4), _PIECES)
def test_a_command_line_with_a_malformed_target_ends_with_2(
    others: list[str], malformed: str
) -> None:
    """Whatever stands beside it, one malformed target ends the command before it waits."""
    try:
        parse_target(malformed)
    except ValueError:
        assert main(["--termination-log=/nowhere", "--", *others, malformed]) == 2


def test_targets_that_mean_the_same_are_equal() -> None:
    """Spelling does not count, so a set holds each target once."""
    assert parse_target("db:5432") == parse_target("tcp://DB:5432")
    assert parse_target("db") == parse_target("dns://db")
    assert parse_target("http://db") == parse_target("HTTP://db:80/")
    assert len({parse_target("db:5432"), parse_target("tcp://db:5432")}) == 1


def test_targets_that_differ_in_one_part_are_not_equal() -> None:
    """Kind, host, port, path and credentials all count."""
    texts = ["db", "db:1", "db:2", "http://db", "https://db", "https+insecure://db", "http://db/a"]
    texts += ["http://u@db", "http://u:p@db", "http://db?a"]
    assert len({parse_target(text) for text in texts}) == len(texts)
    assert parse_target("db") != "db"


_SECRET = st.text(alphabet="abcXYZ0189._~!&'()*+;=:-@/? ,%$#\u00e9\n", max_size=12).map(
    lambda text: "s3cr3t" + text + "s3cr3t"
)


@deterministic
@given(
    st.sampled_from(["http", "https", "https+insecure", "HTTP", "tcp", "ftp"]),
    _SECRET,
    st.sampled_from(["host", "host:80/x", "host:99999", "", "[::1", "a b", "host?token=s3cr3t"]),
)
def test_what_stands_before_an_at_sign_is_never_shown(scheme: str, secret: str, host: str) -> None:
    """Neither an error nor a target's own text shows credentials, well-formed or not."""
    try:
        target = parse_target(f"{scheme}://user:{secret}@{host}")
    except ValueError as error:
        shown = str(error)
    else:
        shown = f"{target} {target!r}" if target.credentials else ""
    assert "s3cr3t" not in shown


def test_a_password_that_lost_its_host_is_not_shown() -> None:
    """A comma or a space in a password cuts the target in two: the first half is masked too."""
    with pytest.raises(ValueError, match="no valid port") as caught:
        parse_target("http://user:s3cr3t")
    assert "s3cr3t" not in str(caught.value)


def test_credentials_and_query_are_masked_and_nothing_else() -> None:
    """What is printed still says which target it is."""
    target = parse_target("http://user:s3cr3t@api:8080/@scope/ready?token=s3cr3t")
    assert str(target) == "http://***@api:8080/@scope/ready?***"
    assert repr(target) == "Target('http://***@api:8080/@scope/ready?***')"
    assert target.credentials == "user:s3cr3t"
    assert str(parse_target("http://api/@scope")) == "http://api/@scope"


@pytest.mark.parametrize(
    ("text", "value"),
    [("all", "all"), ("any", "any"), ("majority", "majority"), ("1", 1), ("02", 2), ("200", 200)],
)
def test_a_quorum_is_a_word_or_a_number(text: str, value: str | int) -> None:
    """The four forms of the contract are taken."""
    assert parse_require(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "0", "00", "-1", "+1", "1.5", "ALL", "most", " 1", "1 ", "\u0661", "\u00b2", "9" * 5000],
)
def test_a_malformed_quorum_says_what_would_be_right(text: str) -> None:
    """Anything else is refused in one short line."""
    with pytest.raises(ValueError, match="is none of all, any, majority or a number") as caught:
        parse_require(text)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("require", "count", "needed"),
    [
        ("all", 1, 1),
        ("all", 3, 3),
        ("any", 1, 1),
        ("any", 3, 1),
        ("majority", 1, 1),
        ("majority", 2, 2),
        ("majority", 3, 2),
        ("majority", 4, 3),
        ("majority", 5, 3),
        (1, 3, 1),
        (3, 3, 3),
        (7, 3, 3),
    ],
)
def test_a_quorum_tells_how_many_are_needed(require: str | int, count: int, needed: int) -> None:
    """A majority is more than half, and a number above the count acts as all."""
    assert required(require, count) == needed


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("30", 30),
        ("30s", 30),
        ("2m", 120),
        ("1m30s", 90),
        ("1h", 3600),
        ("0h1m", 60),
        ("60m", 3600),
        ("3600", 3600),
        ("1m90s", 150),
    ],
)
def test_a_duration_is_whole_seconds(text: str, seconds: int) -> None:
    """The forms of the contract are taken."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", "s", "m", "-1", "+1", "1.5", "1.5m", "1m30", "30s1m", "1s1s", "1d", "1 m", " 30"),
        *("30 ", "3601", "61m", "1h1s", "2h", "30S", "1M", "\u0663\u0660", "1_0", "1e3", "inf"),
        "9" * 5000,
    ],
)
def test_a_malformed_duration_says_what_would_be_right(text: str) -> None:
    """Anything else is refused in one short line."""
    with pytest.raises(ValueError, match="whole seconds such as 30, 30s, 2m or 1m30s") as caught:
        parse_duration(text)
    assert len(str(caught.value)) < 400


@deterministic
@given(st.text(alphabet="0123456789hms. -\u0663", max_size=8) | st.text())
def test_any_text_is_a_duration_and_a_quorum_or_a_clear_error(text: str) -> None:
    """No text makes anything but a value in bounds, or an error of one line."""
    for parse in (parse_duration, parse_require):
        try:
            value = parse(text)
        except ValueError as error:
            message = str(error)
            assert message.isprintable()
            assert len(message) < 400
        else:
            assert value in {"all", "any", "majority"} or isinstance(value, int)


def test_a_target_is_made_of_its_parts() -> None:
    """The webhook reads text, kind, host and port of a target."""
    target = parse_target("tcp://db:5432")
    assert isinstance(target, Target)
    assert (target.text, target.kind, target.host, target.port) == (
        "tcp://db:5432",
        "tcp",
        "db",
        5432,
    )
