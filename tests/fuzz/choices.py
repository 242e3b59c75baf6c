"""Bytes read as choices: numbers, texts, and changes to JSON.

A fuzzer gives bytes, whether it is guided by coverage or not. Read as choices they make input that
is nearly right, which reaches further than noise; where the bytes end, every choice is the first.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import orjson

T = TypeVar("T")

FRAGMENTS: Final = (
    *("", "30", "s", "1", "m", "h", "none", ",", " ", "0", "all", "any", "majority", "auto"),
    *("sleep", "exec", "keep", "chain", "surge", "enabled", "disabled", "-", ".", "/", ":"),
    *("://", "http", "https", "tcp", "dns", "grpc", "https+insecure", "@", "[", "]", "::1", "%"),
    *("%2", "%41", "?", "#", "$(HOME)", "5432", "65536", "db", "app", "web", "example.com/ready"),
    *(
        "\t",
        "\n",
        "\r\n",
        "\x00",
        "\x1b[2J",
        "\x7f",
        "\u0661",
        "\xb2",
        "\u2028",
        "\u202e",
        "\ufeff",
    ),
    *("\U0001f642", "\xfc", "\u0130", "a" * 64, "9" * 30, "x" * 300, "+1", "1e3", "0x7f", "127.1"),
    *("::error::", "##vso[", "##[", "\n::", "0x" + "f" * 400, "0" + "7" * 400, "9" * 5000),
    *("'", '"', "\\", "`", "{}", "%s", "{0}", "~0", "~1", "_", "--", "=", "*", "<<", "&a", "!!str"),
)
NUMBERS: Final = (
    *(0, 1, -1, 2, 29, 30, 31, 60, 600, 3600, 3601, 2**31 - 1, 2**31, -(2**31), 2**53, 2**63 - 1),
    *(2**63, 2**64 - 1, -(2**63), 0.5, -0.0, 1e300, 1.0, 30.0),
)
KEYS: Final = (
    *("metadata", "spec", "template", "annotations", "labels", "containers", "initContainers"),
    *("lifecycle", "preStop", "sleep", "seconds", "exec", "command", "httpGet", "readinessProbe"),
    *("readinessGates", "conditionType", "terminationGracePeriodSeconds", "minReadySeconds"),
    *("progressDeadlineSeconds", "strategy", "updateStrategy", "rollingUpdate", "maxSurge"),
    *("maxUnavailable", "ports", "containerPort", "hostPort", "name", "restartPolicy", "os"),
    *("nodeSelector", "volumes", "replicas", "deletionTimestamp", "workloadRef", "resources"),
    *("fields", "v", "is", "was", "made", "null", "", "a/b", "c~d", "\xfc"),
)
_DEEPEST: Final = 200


class Choices:
    """Reads bytes as choices."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self, below: int) -> int:
        """Choose a number from 0 to `below`, which is left out."""
        size = 1 if below <= 2**8 else 2 if below <= 2**16 else 4
        piece = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(piece, "little") % below

    def pick(self, values: Sequence[T]) -> T:
        """Choose one of a few."""
        return values[self.number(len(values))]

    def rest(self) -> bytes:
        """Take all that is left."""
        left = self._data[self._at :]
        self._at = len(self._data)
        return left

    def text(self) -> str:
        """Make a text of fragments that mean something somewhere, now and then of raw bytes."""
        parts = [self.pick(FRAGMENTS) for _ in range(self.number(6))]
        if self.number(8) == 7:
            raw = self._data[self._at : self._at + 8]
            self._at += 8
            parts.append(raw.decode("utf-8", "replace"))
        return "".join(parts)

    def json(self, depth: int = 0) -> Any:
        """Make a JSON value."""
        kind = self.number(8 if depth < 3 else 5)
        if kind == 0:
            return None
        if kind == 1:
            return self.pick((True, False))
        if kind == 2:
            return self.pick(NUMBERS)
        if kind in {3, 4}:
            return self.text()
        if kind == 5:
            return [self.json(depth + 1) for _ in range(self.number(4))]
        if kind == 6:
            return {self.key(): self.json(depth + 1) for _ in range(self.number(4))}
        return self.nested()

    def key(self) -> str:
        """Choose a key: mostly one that is read somewhere."""
        return self.pick(KEYS) if self.number(4) else self.text()

    def nested(self) -> Any:
        """Make something deep."""
        value: Any = self.pick(NUMBERS)
        key = self.pick(KEYS)
        lists = self.number(2)
        for _ in range(self.number(_DEEPEST)):
            value = [value] if lists else {key: value}
        return value


def mutate(choices: Choices, root: Any) -> Any:
    """Change a JSON value in one place, in place; gives it, or what has come instead."""
    found = _descend(choices, root)
    if found is None:
        return choices.json()
    node, step = found
    way = choices.number(9)
    if way == 0:
        node[step] = choices.json()
    elif way == 1:
        del node[step]
    elif way == 2:
        node[step] = _tweaked(choices, node[step])
    elif way == 3:
        other = _descend(choices, root)
        node[step] = copy.deepcopy(other[0][other[1]]) if other else None
    elif way == 4 and isinstance(node, list):
        node.insert(choices.number(len(node) + 1), copy.deepcopy(node[step]))
    elif way == 5 and isinstance(node, list):
        node.reverse()
    elif way == 6:
        node[step] = None
    elif isinstance(node, dict):
        node[choices.key()] = choices.json()
    else:
        node.append(choices.json())
    return root


def _descend(choices: Choices, root: Any) -> tuple[Any, Any] | None:
    """Find a place: the mapping or list, and the key or index in it."""
    found = None
    node = root
    while isinstance(node, dict | list) and node:
        if found is not None and choices.number(8) == 7:
            break
        step = choices.pick(list(node)) if isinstance(node, dict) else choices.number(len(node))
        found = node, step
        node = node[step]
    return found


def _tweaked(choices: Choices, value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return choices.pick((True, False, 0, "", "null"))
    if isinstance(value, int | float):
        return choices.pick((value + 1, value - 1, -value, value * 2, float(value), str(value)))
    if isinstance(value, str):
        at = choices.number(len(value) + 1)
        return value[:at] + choices.text() + value[at + choices.number(3) :]
    if isinstance(value, list):
        return value[choices.number(len(value) + 1) :]
    return list(value.values()) if choices.number(2) else {"x": value}


def garbled(choices: Choices, body: bytes) -> bytes:
    """Change the bytes of a text: cut it, put something in, double a part of it."""
    for _ in range(1 + choices.number(3)):
        at, length = choices.number(len(body) + 1), choices.number(64)
        piece = choices.pick(_PIECES)
        way = choices.number(4)
        if way == 0:
            body = body[:at] + piece + body[at:]
        elif way == 1:
            body = body[:at] + piece + body[at + length :]
        elif way == 2:
            body = body[: at + length] + body[at:]
        else:
            body = body[:at]
    return body


_PIECES: Final = (
    *(b"", b"[", b"{", b"]", b"}", b'"', b",", b":", b"null", b"-", b"9" * 400, b"1e999", b"\x00"),
    *(b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b"NaN", b"[" * 2000, b'{"a":' * 2000),
    *(b'"uid":"x",', b'"metadata":null,', b"\xef\xbb\xbf", b"\n", b"\r\n", b"\t", b"---\n", b"- "),
    *(b"&a ", b"*a", b"<<: ", b"!!python/object:os.system ", b"? ", b"| ", b"#", b"'", b"%", b"@"),
    *(b"\n  ::error::", b"##vso[", b"0x" + b"f" * 400, b"\xe2\x80\xae", b"\xc2\x85", b"\x7f"),
    *(b"&a " + b"x" * 9999, b"[" + b"*a," * 9999 + b"*a]"),
)


def dumps(value: Any) -> bytes:
    """Write JSON, as deep as it may be read."""
    return orjson.dumps(value)
