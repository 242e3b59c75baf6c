"""A gRPC server is up when its health service says SERVING; whatever else it says is a reason."""

from __future__ import annotations

import contextlib
import string
import time
from typing import TYPE_CHECKING, Any

import pytest
from hpack import Encoder
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.precheck.servers import Health, answer, answering, handling
from webhook.precheck import grpc_health
from webhook.precheck.grpc_health import MAX_ANSWER, HealthCheck
from webhook.precheck.targets import NotUpError, authority, parse_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.precheck.conftest import Outcome

    Run = Callable[..., Outcome]
    FirstReason = Callable[..., str]

SERVING, NOT_SERVING = 1, 2
deterministic = settings(deadline=None, derandomize=True, database=None, max_examples=400)


def frame(kind: int, flags: int = 0, stream: int = 1, payload: bytes = b"") -> bytes:
    """Write a frame."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


def block(*fields: tuple[str, str], huffman: bool = False) -> bytes:
    """Compress fields as an encoder does that may keep no table."""
    encoder = Encoder()
    encoder.header_table_size = 0
    encoded: bytes = encoder.encode(fields, huffman=huffman)
    return encoded


GREETING = frame(4, stream=0)
FIELDS = block((":status", "200"), ("content-type", "application/grpc"))
BEGIN = frame(1, 4, payload=FIELDS)
MESSAGE = b"\x08\x01"
BODY = frame(0, payload=b"\0\0\0\0\x02" + MESSAGE)
TRAILERS = frame(1, 5, payload=block(("grpc-status", "0")))


def judged(content: bytes) -> tuple[bool, bytes]:
    """Give whether an answer is one that says SERVING, and what was sent back."""
    check = HealthCheck("api:9000", "")
    sent = check.receive(content)
    return check.up, sent


def test_a_server_that_says_serving_is_up(run: Run) -> None:
    """Of the whole server, or of one service; each request is a call of the health protocol."""
    health = Health({"": SERVING, "shop.v1.Orders": SERVING})
    with handling(health.serve) as server:
        place = f"127.0.0.1:{server.port}"
        assert run(f"grpc://{place}", f"grpc://{place}/shop.v1.Orders").up
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/grpc.health.v1.Health/Check",
        ":authority": place,
        "content-type": "application/grpc",
        "te": "trailers",
        "user-agent": "seamless-precheck",
    }
    assert sorted(health.requests, key=lambda each: each[1]) == [
        (fields, b"\0\0\0\0\0"),
        (fields, b"\0\0\0\0\x10\x0a\x0eshop.v1.Orders"),
    ]


def test_a_long_name_of_a_service_arrives_whole(run: Run) -> None:
    """Its length takes two bytes."""
    name = "a" * 1500
    health = Health({name: SERVING})
    with handling(health.serve) as server:
        assert run(f"grpc://127.0.0.1:{server.port}/{name}").up


def test_a_server_is_waited_for_until_it_serves(run: Run, later: Callable[..., None]) -> None:
    """NOT_SERVING is asked again."""
    health = Health({"": NOT_SERVING})
    with handling(health.serve) as server:
        later(0.2, health.says.update, {"": SERVING})
        assert run(f"grpc://127.0.0.1:{server.port}").up
    assert len(health.requests) > 1


@pytest.mark.parametrize("chunk", [1, 2, 9, 10])
def test_an_answer_may_come_in_any_pieces(run: Run, chunk: int) -> None:
    """Even byte by byte."""
    health = Health({"": SERVING}, chunk=chunk)
    with handling(health.serve) as server:
        assert run(f"grpc://127.0.0.1:{server.port}").up


@pytest.mark.parametrize(
    ("says", "target", "more", "reason"),
    [
        ({"": 0}, "", {}, "says UNKNOWN"),
        ({"": NOT_SERVING}, "", {}, "says NOT_SERVING"),
        ({"x": 3}, "/x", {}, "says SERVICE_UNKNOWN"),
        ({"": 9}, "", {}, "says what is no health status"),
        ({}, "/x", {}, "knows no service of that name (NOT_FOUND)"),
        (
            {"": SERVING},
            "",
            {"trailers": [("grpc-status", "12"), ("grpc-message", "\x1b[2J")]},
            "has no health service (UNIMPLEMENTED)",
        ),
        ({"": SERVING}, "", {"trailers": [("grpc-status", "14")]}, "gRPC status UNAVAILABLE"),
        ({"": SERVING}, "", {"trailers": [("grpc-status", "99")]}, "gRPC status that is none"),
        ({"": SERVING}, "", {"trailers": [("grpc-status", "x\x1b")]}, "gRPC status that is none"),
        ({"": SERVING}, "", {"trailers": [("x", "y")]}, "answers without a gRPC status"),
        ({"": SERVING}, "", {"fields": [(":status", "503")]}, "status 503"),
        (
            {"": SERVING},
            "",
            {"fields": [(":status", "200"), ("content-type", "text/html")]},
            "answers, but not in gRPC",
        ),
    ],
)
def test_whatever_else_is_said_is_the_reason(
    first_reason: FirstReason, says: dict[str, int], target: str, more: Any, reason: str
) -> None:
    """In the words of gRPC, and in none of the server's own."""
    with handling(Health(says, **more).serve) as server:
        assert first_reason(f"grpc://127.0.0.1:{server.port}{target}") == reason


def test_another_protocol_is_told(first_reason: FirstReason) -> None:
    """HTTP/1, a greeting, TLS."""
    with answering(answer(400)) as server:
        url = f"grpc://127.0.0.1:{server.port}"
        assert first_reason(url) in {"answers, but not in HTTP/2", "connection reset by peer"}
    for raw in (
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"220 mail ready\r\n",
        b"\x15\3\3\0\2\2\x28xx",
    ):

        def handle(connection: Any, _number: int, raw: bytes = raw) -> None:
            connection.recv(4096)
            connection.sendall(raw)
            connection.recv(1)

        with handling(handle) as server:
            url = f"grpc://127.0.0.1:{server.port}"
            assert first_reason(url) == "answers, but not in HTTP/2"


GOOD = [
    GREETING + BEGIN + BODY + TRAILERS,
    # Padding, priority, continuation, frames of kinds that nobody knows, interim answers.
    GREETING + frame(1, 0x2C, payload=b"\2" + bytes(5) + FIELDS + bytes(2)) + BODY + TRAILERS,
    GREETING + frame(1, 0, payload=FIELDS[:3]) + frame(9, 4, payload=FIELDS[3:]) + BODY + TRAILERS,
    GREETING + frame(0x77, 0xFF, 5, b"x") + frame(8, payload=bytes(4)) + BEGIN + BODY + TRAILERS,
    GREETING + frame(1, 4, payload=block((":status", "103"))) + BEGIN + BODY + TRAILERS,
    GREETING + BEGIN + BODY[:9] + BODY[9:] + frame(0) + TRAILERS,
    # A farewell for calls after ours.
    GREETING + frame(7, 0, 0, bytes(3) + b"\1" + bytes(4)) + BEGIN + BODY + TRAILERS,
    # Values that are compressed, and a table that is set to nothing.
    GREETING
    + frame(
        1,
        4,
        payload=b"\x20"
        + block((":status", "200"), ("content-type", "application/grpc+proto"), huffman=True),
    )
    + BODY
    + frame(
        1, 5, payload=block(("grpc-status", "0"), ("grpc-message", "fine: 100 %"), huffman=True)
    ),
    # What is beyond printable ASCII is not read, and no reason.
    GREETING
    + BEGIN
    + BODY
    + frame(1, 5, payload=block(("x", "\\\xff\u20ac"), ("grpc-status", "0"), huffman=True)),
]


@pytest.mark.parametrize("number", range(len(GOOD)))
def test_an_answer_is_read_in_any_form_that_the_protocol_has(number: int) -> None:
    """And in any pieces."""
    content = GOOD[number]
    assert judged(content)[0]
    for size in (1, 7):
        check = HealthCheck("api:9000", "")
        for start in range(0, len(content), size):
            assert not check.up
            check.receive(content[start : start + size])
        assert check.up


def test_settings_and_pings_are_answered() -> None:
    """As the protocol demands; what answers ours is not."""
    ping = frame(6, 0, 0, b"abcdefgh")
    acknowledged = frame(4, 1, 0) + frame(6, 1, 0, b"87654321")
    up, sent = judged(GREETING + ping + acknowledged + BEGIN)
    assert not up
    assert sent == frame(4, 1, 0) + frame(6, 1, 0, b"abcdefgh")


BAD = [
    (b"\0", None),
    (GREETING, None),
    (GREETING + BEGIN + BODY, None),
    (BEGIN, "not in HTTP/2"),
    (frame(4, 1, 0), "not in HTTP/2"),
    (frame(4, 0, 1), "not in HTTP/2"),
    (b"\x00\x40\x01" + bytes(6), "not in HTTP/2"),
    (GREETING + b"\xff\xff\xff\0\0\0\0\0\1", "not in HTTP/2"),
    (GREETING + BODY, "not in HTTP/2"),
    (GREETING + frame(5, 4, 1, bytes(4)), "not in HTTP/2"),
    (GREETING + frame(1, 4, 3, FIELDS), "not in HTTP/2"),
    (GREETING + frame(9, 4, 1, FIELDS), "not in HTTP/2"),
    (GREETING + frame(1, 0, 1, FIELDS) + BODY, "not in HTTP/2"),
    (GREETING + frame(1, 0xC, 1, b"\xff" + FIELDS), "not in HTTP/2"),
    (GREETING + frame(1, 0xC, 1), "not in HTTP/2"),
    (GREETING + frame(1, 0x24, 1, b"\0"), "not in HTTP/2"),
    (GREETING + frame(1, 4, 1, b"\x80"), "not in HTTP/2"),
    (GREETING + frame(1, 4, 1, b"\0"), "not in HTTP/2"),
    (GREETING + frame(1, 4, 1, b"\0\x7f\xff\xff\xff\xff\xff"), "not in HTTP/2"),
    (GREETING + frame(1, 4, 1, b"\0\5ab"), "not in HTTP/2"),
    (GREETING + frame(1, 4, 1, block(("a", "b"))), "not in HTTP/2"),
    (GREETING + frame(1, 4, 1, block((":status", "\u0662\u0660\u0660"))), "not in HTTP/2"),
    (GREETING + frame(1, 4, 1, block((":status", "404"))), "status 404"),
    (GREETING + frame(3, 0, 1, b"\0\0\0\7"), "resets the call (REFUSED_STREAM)"),
    (GREETING + frame(3, 0, 1, b"\xff\xff\xff\xff"), "resets the call (error 4294967295)"),
    (GREETING + frame(3, 0, 1), "resets the call (NO_ERROR)"),
    (GREETING + frame(7, 0, 0, bytes(4) + b"\0\0\0\x0b"), "away (ENHANCE_YOUR_CALM)"),
    (GREETING + BEGIN + frame(0, 1), "without a gRPC status"),
    (GREETING + BEGIN + TRAILERS, "without a health status"),
    (GREETING + BEGIN + frame(0, 0, 1, b"\1\0\0\0\2\x08\1") + TRAILERS, "without a health status"),
    (GREETING + BEGIN + frame(0, 0, 1, b"\0\0\0\0\3\x08\1") + TRAILERS, "without a health status"),
    (GREETING + BEGIN + BODY + BODY + TRAILERS, "without a health status"),
    (GREETING + BEGIN + frame(0, 0, 1, b"\0\0\0\0\2\x08\xff") + TRAILERS, "without a health"),
    (GREETING + BEGIN + frame(0, 0, 1, b"\0\0\0\0\2\x12\x09") + TRAILERS, "without a health"),
    (GREETING + BEGIN + frame(0, 0, 1, b"\0\0\0\0\2\x0b\1") + TRAILERS, "without a health"),
    (GREETING + BEGIN + frame(0, 0, 1, b"\0\0\0\0\2\x0d\1") + TRAILERS, "without a health"),
    (GREETING + BEGIN + frame(0, 0, 1, b"\0\0\0\0\0") + TRAILERS, "says UNKNOWN"),
    (GREETING + frame(6, 0, 0, bytes(8)) * 2000, "answers with over 32768 bytes"),
    (GREETING + frame(1, 0, 1) + frame(9, 0, 1) * 4000, "answers with over 32768 bytes"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_an_answer_that_is_none_is_a_reason_and_never_an_error(number: int) -> None:
    """Or it is waited on, where more may come."""
    content, reason = BAD[number]
    if reason is None:
        assert not judged(content)[0]
        return
    with pytest.raises(NotUpError) as caught:
        judged(content)
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


frames = st.builds(
    frame,
    st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x20]),
    st.sampled_from([0, 1, 4, 5, 8, 0xC, 0xD, 0x2D, 0xFF]),
    st.sampled_from([0, 1, 1, 1, 2, 2**31 + 1]),
    st.binary(max_size=40)
    | st.sampled_from([FIELDS, MESSAGE, block(("grpc-status", "0")), b"\0\0\0\0\2" + MESSAGE]),
)


@deterministic
@given(
    st.lists(frames | st.sampled_from([BEGIN, BODY, TRAILERS]) | st.binary(max_size=20)).map(
        b"".join
    ),
    st.integers(1, 50),
)
def test_no_bytes_are_anything_but_an_answer_or_a_reason(content: bytes, size: int) -> None:
    """However they come, and never is more sent back than came."""
    check = HealthCheck("api:9000", "x")
    content = GREETING + content
    sent, reason = 0, ""
    try:
        for start in range(0, len(content), size):
            sent += len(check.receive(content[start : start + size]))
            if check.up:
                break
    except NotUpError as error:
        reason = str(error)
    assert reason.isprintable()
    assert len(reason) < 100
    assert sent <= len(content)
    if check.up:
        assert b"\x08\x01" in content


def test_the_code_of_every_printable_character_is_that_of_the_standard() -> None:
    """As another implementation lists them; the backslash alone is longer, and not read."""
    found = {char: (length, code) for (length, code), char in grpc_health._codes().items()}
    for char in set(string.printable) - set(string.whitespace) - {"\\"} | {" "}:
        number = ord(char)
        assert found[char] == (REQUEST_CODES_LENGTH[number], REQUEST_CODES[number])


@deterministic
@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="\\")))
def test_compressed_text_is_read(text: str) -> None:
    """As another implementation compresses it."""
    raw = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(text.encode())
    assert grpc_health._huffman(raw) == text


@deterministic
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["grpc-status", "grpc-message", "content-type", ":status", "server"]),
            st.text("abcXYZ019 -/.:", min_size=1, max_size=200),
        )
    ),
    st.booleans(),
)
def test_fields_are_read_as_another_implementation_writes_them(
    fields: list[tuple[str, str]],
    huffman: bool,  # noqa: FBT001 - hypothesis gives it
) -> None:
    """Those that matter, the last of each name."""
    found = grpc_health._decode(block(*fields, huffman=huffman))
    wanted = {name: value for name, value in fields if name != "server"}
    assert {name: found.get(name) for name in wanted} == wanted


@pytest.mark.parametrize(
    "drip",
    [b"", GREETING, frame(4, 1, 0), frame(6, 0, 0, bytes(8)), frame(8, 0, 0, bytes(4))],
)
def test_a_server_that_never_comes_to_an_end_ends_with_the_attempt(
    first_reason: FirstReason, drip: bytes
) -> None:
    """Bytes that keep coming do not buy more time."""

    def trickle(connection: Any, _number: int) -> None:
        connection.sendall(GREETING)
        while drip:
            connection.sendall(drip)
            time.sleep(0.01)
        connection.recv(1)
        while connection.recv(4096):
            pass

    with handling(trickle) as server:
        reason = first_reason(f"grpc://127.0.0.1:{server.port}", attempt_timeout=0.3)
    assert reason == "connected, no answer in time"


def test_a_server_that_floods_is_left(first_reason: FirstReason) -> None:
    """What is taken is bounded."""

    def flood(connection: Any, _number: int) -> None:
        with contextlib.suppress(OSError):  # the client goes in the middle of it
            connection.sendall(GREETING + frame(0x50, 0, 0, bytes(16000)) * 100)
            while connection.recv(4096):  # closed unread, it would be reset: another reason
                pass

    with handling(flood) as server:
        reason = first_reason(f"grpc://127.0.0.1:{server.port}")
    assert reason == f"answers with over {MAX_ANSWER} bytes"


def test_a_server_that_hangs_up_is_told(first_reason: FirstReason) -> None:
    """In the middle of an answer, too."""

    def leave(connection: Any, _number: int) -> None:
        connection.recv(4096)
        connection.sendall(GREETING + BEGIN)

    with handling(leave) as server:
        assert first_reason(f"grpc://127.0.0.1:{server.port}") == "closes without an answer"


def test_the_authority_names_an_address_as_urls_do() -> None:
    """An IPv6 address in brackets, and always the port."""
    for text, named in (
        ("grpc://api:9000", "api:9000"),
        ("grpc://[::1]:443/x", "[::1]:443"),
        ("grpc://api:80", "api:80"),
    ):
        assert authority(parse_target(text)) == named
