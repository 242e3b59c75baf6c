"""What a precheck waits for: the grammar of targets, quorums and durations, and their HTTP.

Pure, and of the standard library only: the webhook judges annotations with it, and the init
container (`precheck.py`) its arguments.
"""

from __future__ import annotations

import _socket  # not socket: see precheck.py

LONGEST_DURATION = 3600  # seconds
LONGEST_NUMBER = 9  # digits
LONGEST_TARGET = 2048
LONGEST_NAME = 253
LONGEST_LABEL = 63
LONGEST_ECHO = 200  # characters of a malformed value that an error shows
LAST_PORT = 65535

_PORTS = {"http": 80, "https": 443, "https+insecure": 443}
_REDIRECTS = frozenset({b"301", b"302", b"303", b"307", b"308"})
_DIGITS = frozenset("0123456789")
_HEXADECIMAL = frozenset("0123456789abcdefABCDEF")
_LABEL = _DIGITS | frozenset("abcdefghijklmnopqrstuvwxyz-_")
_HOST_AND_PORT = _LABEL | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ.:[]")
# What RFC 3986 lets a URL hold, less the comma, which separates targets, and the dollar sign: the
# kubelet expands $(NAME) in a container's arguments. A fragment is never sent: no '#' either.
_TARGET = _HOST_AND_PORT | frozenset("~/?@!&'()*+;=%")


class NotUpError(Exception):
    """A target is not up; its argument is the reason, as users read it."""


class Target:
    """One thing to wait for. Two that mean the same are equal, however they are spelt.

    `text` is what was given, credentials and all; `str()` and `repr()` mask those. `kind` is `dns`,
    `tcp`, `http`, `https` or `https+insecure`; `host` is in lower case, an IPv6 address without its
    brackets; `port` is None only for `dns`; `path` holds the query too.
    """

    __slots__ = ("credentials", "host", "kind", "path", "port", "text")

    def __init__(
        self,
        text: str,
        kind: str,
        host: str,
        port: int | None,
        *,
        path: str = "",
        credentials: str = "",
    ) -> None:
        self.text, self.kind, self.host, self.port = text, kind, host, port
        self.path, self.credentials = path, credentials

    def _meaning(self) -> tuple[object, ...]:
        return self.kind, self.host, self.port, self.path, self.credentials

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Target) and self._meaning() == other._meaning()

    def __hash__(self) -> int:
        return hash(self._meaning())

    def __str__(self) -> str:
        shown, query, _ = self.text.partition("?")
        if self.credentials:
            shown = shown.replace(self.credentials + "@", "***@", 1)
        return shown + "?***" if query else shown

    def __repr__(self) -> str:
        return f"Target({str(self)!r})"


def parse_target(text: str) -> Target:
    """Parse one target; a ValueError says in one line what was wrong, and what would be right."""
    try:
        return _parse_target(text)
    except ValueError as error:
        message = f"target {masked(text)} {error}"
        raise ValueError(message) from None


def parse_require(text: str) -> str | int:
    """Parse how many targets must be up: `all`, `any`, `majority`, or a number above zero."""
    if text in {"all", "any", "majority"}:
        return text
    if _is_number(text) and int(text) > 0:
        return int(text)
    message = f"quorum {masked(text)} is none of all, any, majority or a number from 1 to 999999999"
    raise ValueError(message)


def required(require: str | int, count: int) -> int:
    """Tell how many of `count` targets must be up; a number above `count` acts as all."""
    if isinstance(require, int):
        return min(require, count)
    return min({"all": count, "any": 1, "majority": count // 2 + 1}[require], count)


def parse_duration(text: str, longest: int = LONGEST_DURATION) -> int:
    """Parse a duration (`30`, `30s`, `2m`, `1m30s`) into whole seconds, at most `longest`.

    That is a whole number of hours.
    """
    seconds, rest = 0, text + "s" if _is_number(text) else text
    for unit, size in (("h", 3600), ("m", 60), ("s", 1)):
        number, found, tail = rest.partition(unit)
        if found and _is_number(number):
            seconds, rest = seconds + int(number) * size, tail
    if not text or rest or seconds > longest:
        form = f"whole seconds such as 30, 30s, 2m or 1m30s, at most {longest // 3600}h"
        message = f"duration {masked(text)} is not of the form expected: {form}"
        raise ValueError(message)
    return seconds


def masked(text: str) -> str:
    """Quote a malformed value: ASCII, of bounded length, without what may be a secret."""
    scheme, separator, rest = text.partition("://")
    prefix = scheme + separator if scheme.lower() in {*_PORTS, "dns", "tcp"} else ""
    shown = text[len(prefix) :]
    _, at, host = shown.rpartition("@")
    user, colon, port = rest.partition(":")
    if at:
        shown = "***@" + host
    elif prefix and colon and not _DIGITS.issuperset(port.partition("/")[0]):
        shown = user + ":***"  # a password that lost its host, at a comma or a space in it
    shown, query, _ = shown.partition("?")
    shown = ascii(prefix + shown + ("?***" if query else ""))
    return shown if len(shown) <= LONGEST_ECHO else shown[:LONGEST_ECHO] + "...'"


def _is_number(text: str) -> bool:
    return 0 < len(text) <= LONGEST_NUMBER and _DIGITS.issuperset(text)


def _parse_target(text: str) -> Target:
    if not 0 < len(text) <= LONGEST_TARGET or text[0] == "-":
        message = f"is empty, begins with '-' or is over {LONGEST_TARGET} characters; name a host"
        raise ValueError(message)
    for position, character in enumerate(text, start=1):
        if character not in _TARGET:
            message = f"has {character!a} as character {position}; percent-encode it in a URL"
            raise ValueError(message)
    scheme, separator, rest = text.partition("://")
    scheme, rest = (scheme.lower(), rest) if separator else ("", text)
    if scheme in _PORTS:
        return _parse_url(text, scheme, rest)
    if separator and scheme not in {"dns", "tcp"}:
        raise ValueError("has an unknown scheme; use dns, tcp, http, https or https+insecure")
    if not _HOST_AND_PORT.issuperset(rest):
        raise ValueError("is more than a host and a port; a URL begins with http:// or https://")
    host, port = _split_port(rest)
    if (scheme == "dns" and port) or (scheme == "tcp" and not port):
        raise ValueError("has the wrong scheme; dns:// takes no port, tcp:// needs one")
    return Target(text, "tcp" if port else "dns", host, port)


def _parse_url(text: str, scheme: str, rest: str) -> Target:
    for escaped in (after[:2] for after in rest.split("%")[1:]):
        if len(escaped) < len("20") or not _HEXADECIMAL.issuperset(escaped):
            raise ValueError(
                "has a '%' without two hexadecimal digits; write %25 for the sign itself"
            )
    authority = rest.partition("?")[0].partition("/")[0]
    path = rest[len(authority) :]
    credentials, _, host_and_port = authority.rpartition("@")
    host, port = _split_port(host_and_port)
    path = path if path.startswith("/") else "/" + path
    return Target(text, scheme, host, port or _PORTS[scheme], path=path, credentials=credentials)


def _split_port(text: str) -> tuple[str, int | None]:
    if text.startswith("["):
        inner, _, rest = text[1:].partition("]")
        between, colon, port = rest.partition(":")
        well_formed = "]" in text and not between
        host = numeric_host(_socket.AF_INET6, inner) if well_formed else ""
    else:
        name, colon, port = text.partition(":")
        host = "" if ":" in port else _checked_name(name.lower())
    if not host:
        raise ValueError(
            "has no valid host; use a DNS name, IPv4 address or IPv6 address in brackets"
        )
    if colon and not (_is_number(port) and 0 < int(port) <= LAST_PORT):
        message = f"has no valid port; use a number from 1 to {LAST_PORT}"
        raise ValueError(message)
    return host, int(port) if colon else None


def _checked_name(name: str) -> str:
    """Give the name, or nothing if it is no DNS name or IPv4 address."""
    labels = name.removesuffix(".").split(".")
    for label in labels:
        if not 0 < len(label) <= LONGEST_LABEL or "-" in label[0] + label[-1]:
            return ""
    if len(name.removesuffix(".")) > LONGEST_NAME or not _LABEL.issuperset("".join(labels)):
        return ""
    # The resolver takes 5432 or 0x7f for an address: a slip, and never a name.
    if _DIGITS.issuperset(labels[-1]) or labels[-1].startswith("0x"):
        return numeric_host(_socket.AF_INET, name)
    return name


def numeric_host(family: int, text: str) -> str:
    """Give the address in its usual form, or nothing if it is none of this family."""
    try:
        return _socket.inet_ntop(family, _socket.inet_pton(family, text))
    except OSError:
        return ""


def http_request(hop: Target) -> bytes:
    """Give the GET request for a URL."""
    login = ""
    if hop.credentials:
        from base64 import b64encode  # seldom needed
        from urllib.parse import unquote_to_bytes  # slow to import

        user, _, password = hop.credentials.partition(":")
        pair = unquote_to_bytes(user) + b":" + unquote_to_bytes(password)
        login = f"Authorization: Basic {b64encode(pair).decode()}\r\n"
    return (
        f"GET {hop.path} HTTP/1.1\r\nHost: {_authority(hop)}\r\nUser-Agent: seamless-precheck\r\n"
        f"Accept: */*\r\nConnection: close\r\n{login}\r\n"
    ).encode()


def _authority(hop: Target) -> str:
    host = f"[{hop.host}]" if ":" in hop.host else hop.host.removesuffix(".")
    return host if hop.port == _PORTS[hop.kind] else f"{host}:{hop.port}"


def http_location(head: bytes) -> bytes:
    """Judge an answer by its head, its lines ended by LF: where it redirects to, b"" if it is up.

    Raises NotUpError for a status of 400 or more, or what is no answer.
    """
    status_line, *fields = head.split(b"\n")
    code = status_line[9:12]
    framed = status_line[8:9] == b" " and status_line[12:13] in {b"", b" "}
    if not (framed and code.isdigit() and b"100" <= code <= b"999"):
        raise NotUpError("answers, but not in HTTP/1")
    if code >= b"400":
        message = f"status {code.decode()}"
        raise NotUpError(message)
    for field in fields:
        name, _, value = field.partition(b":")
        if code in _REDIRECTS and name.lower() == b"location":
            return value.strip()
    return b""


def redirected(target: Target, hop: Target, location: bytes) -> Target:
    """Give the URL that `hop` redirects to, on the way to `target`; NotUpError for a bad one.

    Credentials stay with the origin that they were given for, and https does not lead to http:
    the answer would no longer come from whom the certificate names.
    """
    from urllib.parse import urljoin  # slow to import, seldom needed

    sent = location.partition(b"#")[0].decode("latin-1")
    escaped = "".join(c if c in _TARGET or c in ",$" else f"%{ord(c):02X}" for c in sent)
    origin = f"{hop.kind.partition('+')[0]}://{_authority(hop)}"
    try:
        scheme, _, rest = urljoin(origin + hop.path, escaped).partition("://")
        scheme = scheme.lower()
        if scheme == "https" and target.kind == "https+insecure":
            scheme = target.kind
        found = _parse_url("", scheme, rest)
    except (KeyError, ValueError):
        raise NotUpError("redirects to what is no valid http or https URL") from None
    if scheme == "http" and hop.kind != "http":
        raise NotUpError("redirects from https to http")
    same = (found.kind, found.host, found.port) == (target.kind, target.host, target.port)
    return Target(
        f"{scheme}://{_authority(found)}{found.path}",
        scheme,
        found.host,
        found.port,
        path=found.path,
        credentials=target.credentials if same else "",
    )
