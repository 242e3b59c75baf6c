"""Manifests are read as kubectl reads them, and written so that it reads them the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from webhook.cli.manifests import dump, read

SCALARS: list[tuple[str, Any]] = [
    ("y", True),
    ("Yes", True),
    ("on", True),
    ("TRUE", True),
    ("n", False),
    ("off", False),
    ("~", None),
    ("null", None),
    ("", None),
    ("1e3", 1000.0),
    ("1.5", 1.5),
    (".5", 0.5),
    ("0644", 420),
    ("0o644", 420),
    ("0x1F", 31),
    ("0b101", 5),
    ("-7", -7),
    ("+7", 7),
    ("1_000", 1000),
    ("08", 8.0),
    ("9223372036854775807", 2**63 - 1),
    ("22:22", "22:22"),
    ("1:30:00", "1:30:00"),
    ("2026-01-01", "2026-01-01"),
    ("=", "="),
    ("1.2.3", "1.2.3"),
    ("0x", "0x"),
    ("tRUE", "tRUE"),
    ("'30'", "30"),
    ('"yes"', "yes"),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalars_mean_what_they_mean_to_kubectl(text: str, value: Any) -> None:
    """YAML 1.1 as go-yaml reads it."""
    (document,) = read(f"a: {text}\n", "x")
    assert document.content == {"a": value}
    assert type(document.content["a"]) is type(value)


def test_keys_become_strings() -> None:
    """As in the JSON that goes to the API server."""
    (document,) = read("1: a\nyes: b\n1.5: c\n", "x")
    assert document.content == {"1": "a", "true": "b", "1.5": "c"}


def test_merge_keys_and_aliases_are_written_out() -> None:
    """What is merged in gives way to what is written."""
    text = "base: &base {a: 1, b: 2}\nmerged: {<<: *base, b: 3}\nagain: *base\n"
    (document,) = read(text, "x")
    assert document.content["merged"] == {"a": 1, "b": 3}
    assert "&" not in dump(document.content)


def test_documents_are_split_where_yaml_splits_them() -> None:
    """Not inside a block of text, where the dashes are indented."""
    text = "--- # first\na: |\n  ---\n  b\n---\r\nc: 1\n--- {d: 2}\n"
    assert [each.content for each in read(text, "x")] == [{"a": "---\nb\n"}, {"c": 1}, {"d": 2}]


def test_a_stream_of_json_documents_is_read() -> None:
    """As `kubectl get -o json` prints them, one after the other."""
    assert [each.content for each in read('{"a": 1}\n{"b": [null]}', "x")] == [
        {"a": 1},
        {"b": [None]},
    ]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(blacklist_categories=["Cs"]))
    | st.sampled_from([text for text, _ in SCALARS]),
    lambda below: (
        st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=8), below, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5))
def test_what_is_written_is_read_the_same(content: dict[str, Any]) -> None:
    """By this reader, and by one that knows only YAML's own rules."""
    text = dump(content)
    (document,) = read(text, "x") or [None]
    expected = content or {}
    assert json.dumps(document.content, sort_keys=True) == json.dumps(expected, sort_keys=True)
    strings = {key: value for key, value in content.items() if isinstance(value, str)}
    assert {key: value for key, value in yaml.safe_load(text).items() if key in strings} == strings
