"""One call of `grpc.health.v1.Health/Check` over plain HTTP/2: bytes in, bytes out.

Pure, and of the standard library only, for the init container (`precheck.py`). It is a client of
one call on a connection of its own, which knows in advance that HTTP/2 is spoken, so most of the
protocol (RFC 9113) is not needed: no priorities, no pushes, no windows, since an answer is bounded
below the first one. Header compression (RFC 7541) is told to keep no table, and its Huffman code is
read as far as printable ASCII goes: what else a field may hold says nothing here.
"""

from __future__ import annotations

from webhook.precheck.targets import NotUpError

MAX_ANSWER = 32 * 1024  # bytes, below the 65,535 that may come without a word of ours
_MAX_FRAME = 16 * 1024
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_PATH = "/grpc.health.v1.Health/Check"

# Types of frames, and flags.
_DATA, _HEADERS, _RST_STREAM, _SETTINGS = 0x0, 0x1, 0x3, 0x4
_PUSH_PROMISE, _PING, _GOAWAY, _CONTINUATION = 0x5, 0x6, 0x7, 0x9
_ACK = _END_STREAM = 0x1
_END_HEADERS, _PADDED, _PRIORITY = 0x4, 0x8, 0x20
_CALL = 1  # the stream of the one call

# The encoder may keep no fields, nothing is to be pushed, and a list of fields is to be short.
_OUR_SETTINGS = {0x1: 0, 0x2: 0, 0x6: MAX_ANSWER}

_SERVING = 1
_HEALTH = {0: "UNKNOWN", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_STATUS = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND"),
    *("ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION"),
    *("ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"),
    "UNAUTHENTICATED",
)
_HINTS = {
    "NOT_FOUND": "knows no service of that name (NOT_FOUND)",
    "UNIMPLEMENTED": "has no health service (UNIMPLEMENTED)",
}
_ERRORS = (
    *("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT"),
    *("STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR"),
    *("CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"),
)

# The fields of HPACK's static table that are asked for here, by their index.
_STATIC = dict(enumerate(("200", "204", "206", "304", "400", "404", "500"), start=8))
_STATUS_NAMES = range(8, 15)
_CONTENT_TYPE = 31
_LAST_STATIC = 61
# HPACK's Huffman code is canonical: characters by the length of their code give it whole. Those of
# more than 15 bits are no printable ASCII, but for the backslash.
_LENGTHS = {
    5: "012aceiost",
    6: " %-./3456789=A_bdfghlmnpru",
    7: ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: "&*,;XZ",
    10: '!"()?',
    11: "'+|",
    12: "#>",
    13: "\0$@[]~",
    14: "^}",
    15: "<`{",
}
_LONGEST_CODE = 15


class HealthCheck:
    """A call: send `request`, then what `receive` gives for what comes, until it is `up`.

    Args:
        authority: the server's host and port.
        service: whose health is asked for; the server's own where empty.
    """

    def __init__(self, authority: str, service: str) -> None:
        name = service.encode()
        # HealthCheckRequest: the field 1, a string; in gRPC's frame, which is not compressed.
        message = b"\x0a" + _varint(len(name)) + name if name else b""
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": _PATH,
            ":authority": authority,
            "content-type": "application/grpc",
            "te": "trailers",
            "user-agent": "seamless-precheck",
        }
        settings = b"".join(
            identifier.to_bytes(2, "big") + value.to_bytes(4, "big")
            for identifier, value in _OUR_SETTINGS.items()
        )
        self.request = (
            _PREFACE
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_HEADERS, _END_HEADERS, _CALL, b"".join(map(_literal, fields.items())))
            + _frame(_DATA, _END_STREAM, _CALL, b"\0" + len(message).to_bytes(4, "big") + message)
        )
        self.up = False
        self._buffer = b""
        self._received = 0
        self._greeted = False
        self._answered = False  # the final fields before the answer's body have come
        self._block: bytes | None = None  # fields whose end is still to come
        self._ends = False  # with that block
        self._status: str | None = None
        self._data = b""

    def receive(self, chunk: bytes) -> bytes:
        """Take what came, nothing at its end; give what to send back.

        Raises:
            NotUpError: the server is not up, or speaks something else.
        """
        if not chunk:
            raise NotUpError("closes without an answer")
        self._received += len(chunk)
        if self._received > MAX_ANSWER:
            message = f"answers with over {MAX_ANSWER} bytes"
            raise NotUpError(message)
        self._buffer += chunk
        answer = b""
        head = 9
        while len(self._buffer) >= head and not self.up:
            length = int.from_bytes(self._buffer[:3], "big")
            kind, flags = self._buffer[3:5]
            stream = int.from_bytes(self._buffer[5:head], "big") & 0x7FFFFFFF
            greets = kind == _SETTINGS and not flags & _ACK and not stream
            if length > _MAX_FRAME or not (self._greeted or greets):
                raise _no_http2()
            if len(self._buffer) < head + length:
                break
            payload = self._buffer[head : head + length]
            self._buffer = self._buffer[head + length :]
            self._greeted = True
            answer += self._take(kind, flags, stream, payload)
        return answer

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        """Take a frame; give what to send back."""
        if (self._block is not None) != (kind == _CONTINUATION):
            raise _no_http2()
        if kind in (_DATA, _HEADERS, _CONTINUATION, _RST_STREAM):
            if stream != _CALL:
                raise _no_http2()
            self._of_call(kind, flags, payload)
        elif kind == _PUSH_PROMISE:
            raise _no_http2()
        elif kind == _SETTINGS and not flags & _ACK:
            return _frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            return _frame(_PING, _ACK, 0, payload)
        elif kind == _GOAWAY and int.from_bytes(payload[:4], "big") & 0x7FFFFFFF < _CALL:
            message = f"sends us away ({_name(_ERRORS, payload[4:8])})"
            raise NotUpError(message)
        return b""

    def _of_call(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _RST_STREAM:
            message = f"resets the call ({_name(_ERRORS, payload)})"
            raise NotUpError(message)
        if kind != _CONTINUATION:
            payload = _unpadded(kind, flags, payload)
            self._ends = bool(flags & _END_STREAM)
        if kind == _DATA:
            if not self._answered:
                raise _no_http2()
            self._data += payload
        else:
            self._block = (self._block or b"") + payload
            if not flags & _END_HEADERS:
                return
            block, self._block = self._block, None
            self._fields(_decode(block))
        if self._ends:
            self._end()

    def _fields(self, fields: dict[str, str]) -> None:
        """Judge fields: those before the answer's body, interim ones, or those after it."""
        if not self._answered:
            status = fields.get(":status", "")
            if len(status) != len("200") or not status.isdecimal() or not status.isascii():
                raise _no_http2()
            if status[0] == "1":
                return
            if status != "200":
                message = f"status {status}"
                raise NotUpError(message)
            if not fields.get("content-type", "").startswith("application/grpc"):
                raise NotUpError("answers, but not in gRPC")
            self._answered = True
        self._status = fields.get("grpc-status", self._status)

    def _end(self) -> None:
        """Judge the whole answer."""
        if self._status is None:
            raise NotUpError("answers without a gRPC status")
        if self._status != "0":
            name = _status_name(self._status)
            raise NotUpError(_HINTS.get(name, f"gRPC status {name}"))
        length = int.from_bytes(self._data[1:5], "big")
        if self._data[:1] != b"\0" or length != len(self._data) - 5:
            raise NotUpError("answers without a health status")
        found = _health(self._data[5:])
        if found != _SERVING:
            message = f"says {_HEALTH.get(found, 'what is no health status')}"
            raise NotUpError(message)
        self.up = True


def _no_http2() -> NotUpError:
    return NotUpError("answers, but not in HTTP/2")


def _name(names: tuple[str, ...], code: bytes) -> str:
    number = int.from_bytes(code[:4], "big")
    return names[number] if number < len(names) else f"error {number}"


def _status_name(text: str) -> str:
    known = text.isascii() and text.isdecimal() and len(text) <= len("16")
    return _STATUS[int(text)] if known and int(text) < len(_STATUS) else "that is none"


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    )


def _unpadded(kind: int, flags: int, payload: bytes) -> bytes:
    start = end = 0
    if flags & _PADDED:
        start, end = 1, payload[0] if payload else 1
    if kind == _HEADERS and flags & _PRIORITY:
        start += 5
    if start + end > len(payload):
        raise _no_http2()
    return payload[start : len(payload) - end]


# --- protocol buffers ----------------------------------------------------------------------------


def _varint(number: int) -> bytes:
    found = b""
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        found += bytes((number & 0x7F | 0x80,))
        number >>= 7
    return found + bytes((number,))


def _read_varint(text: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(text) and shift < 70:  # noqa: PLR2004 - ten bytes at most
        number |= (text[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if text[at - 1] < 0x80:  # noqa: PLR2004 - the last one
            return number, at
    raise NotUpError("answers without a health status")


def _health(message: bytes) -> int:
    """Read a HealthCheckResponse: the field 1, a number; 0 where it is not there."""
    at = found = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        field, wire = key >> 3, key & 7
        if wire == 0:
            number, at = _read_varint(message, at)
            if field == 1:
                found = number
        elif wire == 2:  # noqa: PLR2004 - bytes of a length
            length, at = _read_varint(message, at)
            at += length
        else:
            at += {1: 8, 5: 4}.get(wire, len(message) + 1)
    if at > len(message):
        raise NotUpError("answers without a health status")
    return found


# --- header compression --------------------------------------------------------------------------


def _literal(field: tuple[str, str]) -> bytes:
    """Write a field that is in no table, and that nobody is to keep."""
    return b"\0" + b"".join(_length(len(each)) + each.encode() for each in field)


def _length(number: int) -> bytes:
    limit = 0x7F
    return bytes((number,)) if number < limit else bytes((limit,)) + _varint(number - limit)


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    limit = (1 << bits) - 1
    number = block[at] & limit
    at += 1
    if number < limit:
        return number, at
    for shift in (0, 7, 14, 21):
        if at >= len(block):
            break
        number += (block[at] & 0x7F) << shift
        at += 1
        if block[at - 1] < 0x80:  # noqa: PLR2004 - the last one
            return number, at
    raise _no_http2()


def _string(block: bytes, at: int) -> tuple[str, int]:
    if at >= len(block):
        raise _no_http2()
    compressed = block[at] & 0x80
    length, at = _integer(block, at, 7)
    raw = block[at : at + length]
    if len(raw) < length:
        raise _no_http2()
    return _huffman(raw) if compressed else raw.decode("latin-1"), at + length


def _decode(block: bytes) -> dict[str, str]:
    """Read the fields that matter here, by their names; of those that come twice, the last."""
    fields: dict[str, str] = {}
    at = 0
    while at < len(block):
        first = block[at]
        if first & 0x80:
            index, at = _integer(block, at, 7)
            if not index:
                raise _no_http2()
            if index in _STATIC:
                fields[":status"] = _STATIC[index]
        elif first & 0xE0 == 0x20:  # noqa: PLR2004 - the size of a table that there is not
            _, at = _integer(block, at, 5)
        else:
            index, at = _integer(block, at, 6 if first & 0x40 else 4)
            if index:
                name = ":status" if index in _STATUS_NAMES else ""
                name = "content-type" if index == _CONTENT_TYPE else name
            else:
                name, at = _string(block, at)
            value, at = _string(block, at)
            fields[name] = value
    return fields


def _huffman(raw: bytes) -> str:
    """Read Huffman-coded text; nothing where it is none, or holds more than printable ASCII."""
    codes = _codes()
    found: list[str] = []
    code = length = 0
    for byte in raw:
        for shift in range(7, -1, -1):
            code, length = code << 1 | byte >> shift & 1, length + 1
            character = codes.get((length, code))
            if character is not None:
                found.append(character)
                code = length = 0
            elif length > _LONGEST_CODE:
                return ""
    padding = (1 << length) - 1
    return "".join(found) if length < 8 and code == padding else ""  # noqa: PLR2004 - RFC 7541, 5.2


def _codes() -> dict[tuple[int, int], str]:
    found: dict[tuple[int, int], str] = {}
    code = before = 0
    for length, characters in _LENGTHS.items():
        code <<= length - before
        before = length
        for character in characters:
            found[length, code] = character
            code += 1
    return found
