"""Manifests in and out: YAML and JSON as `kubectl` reads them, and YAML that it reads the same.

`kubectl` reads YAML 1.1 as go-yaml does, which is not quite as PyYAML does: `1e3` is a number,
`22:22` and `2026-01-01` are strings, `y` is true, and keys are made strings. A key that comes twice
is an error here, since one of the two values would be lost without a word.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from webhook.decision.printable import harmful, printable, yaml_text

try:
    from yaml import CSafeDumper as _BaseDumper
    from yaml import CSafeLoader as _BaseLoader
except ImportError:  # pragma: no cover - PyYAML built without libyaml
    from yaml import SafeDumper as _BaseDumper  # type: ignore[assignment]
    from yaml import SafeLoader as _BaseLoader  # type: ignore[assignment]

# What one file may hold. A cluster's whole inventory stays below; what nobody can have meant, and
# what would take gigabytes to read, does not.
MOST_BYTES: Final = 64 * 1024 * 1024
_MOST_DOCUMENTS: Final = 100_000
_MOST_VALUES: Final = 5_000_000
_MOST_BY_ALIASES: Final = 16 * 1024 * 1024  # bytes, about, that aliases may add when written out
_VALUE_BYTES: Final = 16  # of each value beside its text, in that count
_DEEPEST: Final = 200
_LONGEST_INTEGER: Final = 20  # characters: no 64-bit number has more
_LONGEST_BINARY: Final = 66  # the same in binary, with its prefix
_WIDTH: Final = 2**31 - 1  # of a written line: what is folded could begin a line with anything
_TAG: Final = "tag:yaml.org,2002:"
_MOST_SHOWN: Final = 100  # characters of a key or a number that a message names


class ManifestError(ValueError):
    """A text that is no manifest; says which document of which file, and why.

    Args:
        message: the whole of it, in one line.
        position: line and column in the file, both from 1, where they are known.
    """

    def __init__(self, message: str, position: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.position = position


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file: its place, its own text, and what it says (`None`: nothing)."""

    source: str
    number: int
    text: str
    content: Any

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.source}, document {self.number}"


def read(text: str, source: str) -> list[Document]:
    """Read all documents of a file.

    Args:
        text: YAML documents, or JSON ones, one after the other.
        source: the file's name, for messages.

    Raises:
        ManifestError: one of them cannot be read.
    """
    if len(text) > MOST_BYTES:
        message = f"{source}: longer than {MOST_BYTES} characters"
        raise ManifestError(message)
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    budget = _Budget()
    if text.lstrip().startswith("{"):
        with contextlib.suppress(json.JSONDecodeError):  # then it is YAML in flow style
            return list(_read_json(text, source))
    parts = _split(text)
    _few_documents(len(parts), source)
    return [
        Document(source, number, part, _parse(part, f"{source}, document {number}", budget, line))
        for number, (line, part) in enumerate(parts, 1)
    ]


def dump(content: Any) -> str:
    """Write one YAML document, without a `---`, and without anything that is harmful to show."""
    written = yaml.dump(
        content,
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=False,
        allow_unicode=True,
        width=_WIDTH,
    )
    return yaml_text(str(written))


# --- reading -------------------------------------------------------------------------------------

_SEPARATOR: Final = re.compile(r"^---(?:[ \t]+|$|(?=\r))", re.MULTILINE)


def _split(text: str) -> list[tuple[int, str]]:
    """Split at `---`, which by YAML's own rule is never content at the start of a line.

    Returns:
        each part, after the number of lines before it.
    """
    parts = []
    start = line = 0
    for separator in _SEPARATOR.finditer(text):
        parts.append((line, text[start : separator.start()]))
        end = separator.end()
        end += 2 if text.startswith("\r\n", end) else text.startswith("\n", end)
        line += text.count("\n", start, end)
        start = end
    parts.append((line, text[start:]))
    return parts[1:] if len(parts) > 1 and not parts[0][1].strip() else parts


def _few_documents(number: int, source: str) -> None:
    if number > _MOST_DOCUMENTS:
        message = f"{source}: more than {_MOST_DOCUMENTS} documents"
        raise ManifestError(message)


class _Budget:
    """What is left for one file: values, and bytes by aliases."""

    def __init__(self) -> None:
        self.values = _MOST_VALUES
        self.by_aliases = _MOST_BY_ALIASES


def _parse(text: str, place: str, budget: _Budget, first_line: int) -> Any:
    lines = (line.strip() for line in text.splitlines())
    if all(not line or line[0] in "#%" for line in lines):
        return None
    try:
        return _Composer(budget).document(yaml.parse(text, Loader=_BaseLoader))
    except yaml.YAMLError as error:
        message = f"{place}: {_in_one_line(error)}"
        mark = getattr(error, "problem_mark", None)
        position = (first_line + mark.line + 1, mark.column + 1) if mark else None
        raise ManifestError(message, position) from None


def _in_one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + str(getattr(error, "problem", None) or " ".join(str(error).split()))


def _wrong(problem: str, event: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, event.start_mark)


@dataclass(slots=True)
class _Value:
    """A value that is read, with what it takes when written out, and how deep it is."""

    content: Any
    bytes: int = _VALUE_BYTES
    height: int = 0
    merge: bool = False  # a plain `<<`


class _Open:
    """A collection that is being read."""

    def __init__(self, event: Any) -> None:
        self.event = event
        self.bytes = _VALUE_BYTES
        self.height = 1

    def add(self, value: _Value, event: Any) -> None:
        """Take the next value, which `event` began."""
        self.bytes += value.bytes
        self.height = max(self.height, value.height + 1)
        self.take(value, event)

    def take(self, value: _Value, event: Any) -> None:
        """Keep it."""
        raise NotImplementedError

    def content(self) -> Any:
        """Give all that was taken."""
        raise NotImplementedError


class _Sequence(_Open):
    def __init__(self, event: Any) -> None:
        super().__init__(event)
        self._items: list[Any] = []

    def take(self, value: _Value, event: Any) -> None:  # noqa: ARG002 - as in _Open
        self._items.append(value.content)

    def content(self) -> list[Any]:
        return self._items


class _Mapping(_Open):
    """Its keys are strings, each there once; what is merged in gives way to what is written."""

    def __init__(self, event: Any) -> None:
        super().__init__(event)
        self._own: dict[str, Any] = {}
        self._merged: dict[str, Any] = {}
        self._key: str | None = None
        self._merging = False

    def take(self, value: _Value, event: Any) -> None:
        if self._merging:
            self._merging = False
            for each in _merged(value.content, event):
                self._merged.update(each)
        elif self._key is not None:
            self._own[self._key] = value.content
            self._key = None
        elif value.merge:
            self._merging = True
        else:
            key = _key(value.content, event)
            if key in self._own:
                raise _wrong(_twice(key), event)
            self._own[key] = None
            self._key = key

    def content(self) -> dict[str, Any]:
        return {**self._merged, **self._own} if self._merged else self._own


def _merged(content: Any, event: Any) -> list[dict[str, Any]]:
    """Give what `<<` merges, that which others give way to last."""
    found = list(reversed(content)) if isinstance(content, list) else [content]
    if not all(isinstance(each, dict) for each in found):
        problem = "expected a mapping or a list of mappings for merging"
        raise _wrong(problem, event)
    return found


class _Composer:
    """Makes content of libyaml's events, in one loop and within bounds.

    What is nested without end thus takes no stack, and what aliases would blow up is refused
    before it is.
    """

    def __init__(self, budget: _Budget) -> None:
        self._budget = budget
        self._open: list[_Open] = []
        self._anchors: dict[str, _Value | None] = {}  # none: it is being read
        self._found: _Value | None = None

    def document(self, events: Iterable[Any]) -> Any:
        """Read the one document that there is.

        Raises:
            yaml.YAMLError: with the place, where there is one.
        """
        for event in events:
            if isinstance(event, yaml.ScalarEvent):
                self._count(event)
                self._add(self._anchored(_scalar(event), event), event)
            elif isinstance(event, yaml.AliasEvent):
                self._add(self._alias(event), event)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._begin(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                ended = self._open.pop()
                value = _Value(ended.content(), ended.bytes, ended.height)
                self._add(self._anchored(value, ended.event), ended.event)
            elif isinstance(event, yaml.DocumentStartEvent) and self._found is not None:
                raise _wrong("expected one document, but found another", event)
        return None if self._found is None else self._found.content

    def _count(self, event: Any) -> None:
        self._budget.values -= 1
        if self._budget.values < 0:
            problem = f"more than {_MOST_VALUES} values"
            raise _wrong(problem, event)

    def _begin(self, event: Any) -> None:
        self._count(event)
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", _TAG + ("map" if mapping else "seq")):
            raise _no_tag(event)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._open.append(_Mapping(event) if mapping else _Sequence(event))
        self._shallow(0, event)

    def _shallow(self, height: int, event: Any) -> None:
        if len(self._open) + height > _DEEPEST:
            problem = f"nested more than {_DEEPEST} deep"
            raise _wrong(problem, event)

    def _anchored(self, value: _Value, event: Any) -> _Value:
        if event.anchor is not None:
            self._anchors[event.anchor] = value
        return value

    def _alias(self, event: Any) -> _Value:
        name = event.anchor
        if name not in self._anchors:
            problem = f"an alias of {printable(name, _MOST_SHOWN)}, which is nowhere before it"
            raise _wrong(problem, event)
        value = self._anchors[name]
        if value is None:
            raise _wrong("an alias holds itself", event)
        self._shallow(value.height, event)
        self._budget.by_aliases -= value.bytes
        if self._budget.by_aliases < 0:
            problem = f"its aliases stand for more than {_MOST_BY_ALIASES} bytes"
            raise _wrong(problem, event)
        return value

    def _add(self, value: _Value, event: Any) -> None:
        if self._open:
            self._open[-1].add(value, event)
        else:
            self._found = value


def _scalar(event: Any) -> _Value:
    """Read a scalar as go-yaml does."""
    text, tag = event.value, event.tag
    size = _VALUE_BYTES + len(text)
    if tag in (None, "!"):
        plain = event.implicit[0]
        if plain and text == "<<":
            return _Value(text, size, merge=True)
        tag = _resolved(text) if plain else "str"
    elif tag.startswith(_TAG):
        tag = tag.removeprefix(_TAG)
    construct = _CONSTRUCTORS.get(tag)
    if construct is None:
        raise _no_tag(event)
    try:
        return _Value(construct(text), size)
    except ValueError as error:
        raise _wrong(str(error), event) from None


def _resolved(text: str) -> str:
    first = text[:1]
    for tag, pattern, characters in _RESOLVERS:
        if first in characters and pattern.match(text):
            return tag
    return "str"


def _no_tag(event: Any) -> yaml.YAMLError:
    return _wrong(f"the tag {printable(event.tag, _MOST_SHOWN)} means nothing here", event)


def _twice(key: str) -> str:
    return f'the key "{printable(key, _MOST_SHOWN)}" comes twice'


def _key(key: Any, event: Any) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, int | float):
        return json.dumps(key)
    raise _wrong("a key is no string", event)


_TRUE: Final = ("y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE")
_FALSE: Final = ("n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE")
_INTEGER = re.compile(
    r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)\Z", re.ASCII
)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z", re.ASCII)
_INFINITE = re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")
_RESOLVERS: Final = (
    ("bool", re.compile(rf"(?:{'|'.join(_TRUE + _FALSE)})\Z"), tuple("yYnNtTfFoO")),
    ("null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ("~", "n", "N", "")),
    ("int", _INTEGER, tuple("-+0123456789")),
    ("float", _FLOAT, tuple("-+.0123456789")),
    ("float", _INFINITE, tuple("-+.")),
)


def _bool(text: str) -> bool:
    if text not in _TRUE + _FALSE:
        message = f"{printable(text, _MOST_SHOWN)} is neither true nor false"
        raise ValueError(message)
    return text in _TRUE


def _integer(text: str) -> int | float | str:
    """Read an integer of 64 bits; a longer one in decimal digits is a fraction, else it is text."""
    digits = text.replace("_", "")
    if not _INTEGER.match(digits):
        message = f"{printable(text, _MOST_SHOWN)} is no number"
        raise ValueError(message)
    if len(digits) <= _LONGEST_BINARY:
        bare = digits.lstrip("+-")
        number = int(bare, 8 if bare[0] == "0" and bare.isdecimal() else 0)
        number = -number if digits[0] == "-" else number
        if -(2**63) <= number < 2**64:
            return number
    return _finite(digits) if _FLOAT.match(digits) else text


def _finite(text: str) -> float:
    """Read a number that JSON has: neither infinity nor what is too large for anything else."""
    if not _FLOAT.match(text) or math.isinf(number := float(text)):
        message = f"{printable(text, _MOST_SHOWN)} is no number that JSON has"
        raise ValueError(message)
    return number


_CONSTRUCTORS: Final[Mapping[str, Callable[[str], Any]]] = {
    "str": str,
    "bool": _bool,
    "int": _integer,
    "float": _finite,
    "null": lambda _text: None,
}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(_twice(key))
            seen.add(key)
    return found


def _no_number(name: str) -> float:
    message = f"{name} is no number that JSON has"
    raise ValueError(message)


def _fraction(text: str) -> float:
    number = float(text)
    return _no_number(printable(text, _MOST_SHOWN)) if math.isinf(number) else number


def _whole(text: str) -> float:
    return int(text) if len(text) <= _LONGEST_INTEGER else _fraction(text)


_SPACE: Final = re.compile(r"\s*")
_JSON: Final = json.JSONDecoder(
    object_pairs_hook=_once, parse_constant=_no_number, parse_float=_fraction, parse_int=_whole
)


def _read_json(text: str, source: str) -> Iterator[Document]:
    at, number = 0, 0
    while (at := _SPACE.match(text, at).end()) < len(text):  # type: ignore[union-attr]
        number += 1
        _few_documents(number, source)
        try:
            content, end = _JSON.raw_decode(text, at)
            _check_depth(content)
            if text.find("\\u", at, end) >= 0:  # half a character can be read, never be written
                json.dumps(content, ensure_ascii=False).encode()
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else error
            message = f"{source}, document {number}: {why}"
            raise ManifestError(message) from None
        yield Document(source, number, text[at:end] + "\n", content)
        at = end


def _check_depth(content: Any) -> None:
    """Go down a level at a time: what is decoded in C may be deeper than this stack."""
    level = [content]
    for _ in range(_DEEPEST + 1):
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below.extend(value for value in each.values() if isinstance(value, dict | list))
            elif isinstance(each, list):
                below.extend(value for value in each if isinstance(value, dict | list))
        if not below:
            return
        level = below
    message = f"nested more than {_DEEPEST} deep"
    raise ValueError(message)


# --- writing -------------------------------------------------------------------------------------


class _Dumper(_BaseDumper):
    """Quotes every string that this reader, or a stricter or older one, would not read as one."""

    def ignore_aliases(self, _data: Any) -> bool:
        """Write everything out: anchors are no one's friends in a manifest."""
        return True


for _tag, _pattern, _first in (*_RESOLVERS, ("merge", re.compile(r"<<\Z"), ("<",))):
    _Dumper.add_implicit_resolver(_TAG + _tag, _pattern, list(_first))


def _text(dumper: Any, text: str) -> Any:
    style = "|" if "\n" in text.strip("\n") else None
    if "\r" in text or harmful(text):
        style = '"'  # where it can be escaped
    return dumper.represent_scalar(_TAG + "str", text, style=style)


_Dumper.add_representer(str, _text)
