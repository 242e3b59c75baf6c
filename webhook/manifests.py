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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

try:
    from yaml import CSafeDumper as _BaseDumper
    from yaml import CSafeLoader as _BaseLoader
except ImportError:  # pragma: no cover - PyYAML built without libyaml
    from yaml import SafeDumper as _BaseDumper  # type: ignore[assignment]
    from yaml import SafeLoader as _BaseLoader  # type: ignore[assignment]

_MOST_NODES: Final = 5_000_000
_DEEPEST: Final = 200
_LONGEST_INTEGER: Final = 20  # characters: no 64-bit number has more


class ManifestError(ValueError):
    """A text that is no manifest; says which document of which file, and why."""


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
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    if text.lstrip().startswith("{"):
        with contextlib.suppress(json.JSONDecodeError):  # then it is YAML in flow style
            return list(_read_json(text, source))
    return [
        Document(source, number, part, _parse(part, f"{source}, document {number}"))
        for number, part in enumerate(_split(text), 1)
    ]


def dump(content: Any) -> str:
    """Write one YAML document, without a `---`."""
    return str(
        yaml.dump(
            content,
            Dumper=_Dumper,
            sort_keys=False,
            default_flow_style=False,
            allow_unicode=True,
            width=10_000,
        )
    )


# --- reading -------------------------------------------------------------------------------------

_SEPARATOR: Final = re.compile(r"^---(?:[ \t]+|$|(?=\r))", re.MULTILINE)


def _split(text: str) -> list[str]:
    """Split at `---`, which by YAML's own rule is never content at the start of a line."""
    parts = []
    start = 0
    for separator in _SEPARATOR.finditer(text):
        parts.append(text[start : separator.start()])
        start = separator.end()
        start += 2 if text.startswith("\r\n", start) else text.startswith("\n", start)
    parts.append(text[start:])
    return parts[1:] if len(parts) > 1 and not parts[0].strip() else parts


def _parse(text: str, place: str) -> Any:
    lines = (line.strip() for line in text.splitlines())
    if all(not line or line[0] in "#%" for line in lines):
        return None
    loader = _Loader(text)
    try:
        _shallow(text, place)
        node = loader.get_single_node()
        _bounded(node, place)
        return None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        message = f"{place}: {_in_one_line(error)}"
        raise ManifestError(message) from None
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        message = f"{place}: {why}"
        raise ManifestError(message) from None
    finally:
        loader.dispose()


def _in_one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + str(getattr(error, "problem", None) or " ".join(str(error).split()))


def _shallow(text: str, place: str) -> None:
    """Refuse what is nested so deeply that libyaml's binding would run out of stack, and crash."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            message = f"{place}: nested more than {_DEEPEST} deep"
            raise ManifestError(message)


def _bounded(root: yaml.Node | None, place: str) -> None:
    """Refuse what its aliases would blow up, and what holds itself."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, depth: int) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1
        known = sizes.get(id(node))
        if known == 0:
            message = f"{place}: an alias holds itself"
            raise ManifestError(message)
        if known is not None:
            return known
        if depth > _DEEPEST:
            message = f"{place}: nested more than {_DEEPEST} deep"
            raise ManifestError(message)
        sizes[id(node)] = 0
        below: Any = node.value
        if isinstance(node, yaml.MappingNode):
            below = (each for pair in node.value for each in pair)
        total = 1 + sum(size(each, depth + 1) for each in below)
        if total > _MOST_NODES:
            message = f"{place}: its aliases stand for more than {_MOST_NODES} values"
            raise ManifestError(message)
        sizes[id(node)] = total
        return total

    if root is not None:
        size(root, 0)


class _Loader(_BaseLoader):
    """Reads scalars as go-yaml does."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002
        """Make a mapping whose keys are strings, each there once."""
        self.flatten_mapping(node)
        mapping: dict[str, Any] = {}
        own: set[str] = set()
        merged = len(node.value) - getattr(node, "own_keys", len(node.value))
        for index, (key_node, value_node) in enumerate(node.value):
            key = _key(self.construct_object(key_node, deep=True), key_node)
            if key in own:
                message = f'the key "{key}" comes twice'
                raise yaml.constructor.ConstructorError(None, None, message, key_node.start_mark)
            if index >= merged:
                own.add(key)
            mapping[key] = self.construct_object(value_node, deep=deep)
        return mapping

    def flatten_mapping(self, node: Any) -> None:
        """Merge `<<`, remembering how many keys the mapping wrote itself: those may not repeat."""
        merges = sum(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value)
        if merges:
            node.own_keys = len(node.value) - merges
        super().flatten_mapping(node)


def _key(key: Any, node: Any) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, int | float):
        return json.dumps(key)
    message = "a key is no string"
    raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)


_TRUE: Final = ("y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE")
_FALSE: Final = ("n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE")
_INTEGER = re.compile(
    r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)\Z", re.ASCII
)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z", re.ASCII)
_INFINITE = re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")
_RESOLVERS: Final = (
    ("bool", re.compile(rf"(?:{'|'.join(_TRUE + _FALSE)})\Z"), "yYnNtTfFoO"),
    ("null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]),
    ("int", _INTEGER, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("float", _INFINITE, "-+."),
    ("merge", re.compile(r"<<\Z"), "<"),
)


def _bool(_loader: Any, node: Any) -> bool:
    return node.value in _TRUE


def _int(_loader: Any, node: Any) -> int | float:
    text = node.value.replace("_", "")
    sign, digits = (text[0], text[1:]) if text[0] in "-+" else ("", text)
    if digits[:2] in ("0b", "0o", "0x"):
        number = int(digits, 0)
    elif len(digits) > 1 and digits[0] == "0":
        number = int(digits, 8)
    elif len(digits) > _LONGEST_INTEGER:
        return _finite(text, node)
    else:
        number = int(digits)
    number = -number if sign == "-" else number
    return number if -(2**63) <= number < 2**64 else float(number)


def _float(_loader: Any, node: Any) -> float:
    return _finite(node.value, node)


def _finite(text: str, node: Any) -> float:
    """Read a number that JSON has: neither infinity nor what is too large for anything else."""
    if _INFINITE.match(text) or math.isinf(number := float(text)):
        message = f"{text} is no number that JSON has"
        raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
    return number


def _other(_loader: Any, node: Any) -> Any:
    message = f"the tag {node.tag} means nothing here"
    raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)


_Loader.yaml_implicit_resolvers = {}  # none of PyYAML's own
for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, list(_first))
_Loader.add_constructor("tag:yaml.org,2002:bool", _bool)
_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)
for _tag in ("binary", "timestamp", "omap", "pairs", "set"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _other)
_Loader.add_constructor(None, _other)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        message = f'the key "{twice}" comes twice'
        raise ValueError(message)
    return found


def _no_number(name: str) -> float:
    message = f"{name} is no number that JSON has"
    raise ValueError(message)


def _fraction(text: str) -> float:
    number = float(text)
    return _no_number(text) if math.isinf(number) else number


def _whole(text: str) -> float:
    return int(text) if len(text) <= _LONGEST_INTEGER else _fraction(text)


_JSON: Final = json.JSONDecoder(
    object_pairs_hook=_once, parse_constant=_no_number, parse_float=_fraction, parse_int=_whole
)


def _read_json(text: str, source: str) -> Iterator[Document]:
    at, number = 0, 0
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if at == len(text):
            return
        number += 1
        try:
            content, end = _JSON.raw_decode(text, at)
            if "\\u" in text[at:end]:  # half a character can be read, but never be written
                json.dumps(content, ensure_ascii=False).encode()
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else error
            message = f"{source}, document {number}: {why}"
            raise ManifestError(message) from None
        yield Document(source, number, text[at:end] + "\n", content)
        at = end


# --- writing -------------------------------------------------------------------------------------


class _Dumper(_BaseDumper):
    """Quotes every string that this reader, or a stricter or older one, would not read as one."""

    def ignore_aliases(self, _data: Any) -> bool:
        """Write everything out: anchors are no one's friends in a manifest."""
        return True


for _tag, _pattern, _first in _RESOLVERS:
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, list(_first))


def _text(dumper: Any, text: str) -> Any:
    style = "|" if "\n" in text.strip("\n") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
