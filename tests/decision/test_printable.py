"""Text of others is shown as one line that neither moves a cursor nor commands a CI system."""

from __future__ import annotations

import json
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhook.cli.manifests import dump, read
from webhook.decision.printable import harmful, json_text, printable, summarise, yaml_text

CI_COMMANDS = (
    "::error file=app.py,line=1::forged",
    "  ::add-mask::x",
    "\t::stop-commands::x",
    "##[error]forged",
    "##vso[task.setvariable variable=x]y",
    "###vso[task.complete]",
    "##teamcity[buildStatus text='x']",
)
HARMFUL = (
    *CI_COMMANDS,
    "\x1b[2J\x1b]52;c;eA==\x07",
    "\x9b31m",
    "\x7f\x08\x08",
    "a\rb",
    "a\r\nb",
    "a\x85b",
    "a\u2028b",
    "\u202e\u2066forged\u2069",
    "\u200f\u061c",
    "\ufeff\u00ad",
    "\U000e0041",
    "\0",
)
HARMLESS = (
    "",
    "web",
    "a::b",
    "std::string",
    "# a comment",
    "## a heading",
    "a [list]",
    "\N{LATIN SMALL LETTER U WITH DIAERESIS}\N{CJK UNIFIED IDEOGRAPH-4E2D}\N{WAVING HAND SIGN}",
)
# Text as strangers write it: of whatever there is, and of what does harm.
texts = st.lists(st.text(max_size=5) | st.sampled_from(HARMFUL), max_size=4).map("".join)
storable = texts.map(lambda text: text.encode("utf-8", "replace").decode())

JOINERS = ("\N{ZERO WIDTH JOINER}", "\N{ZERO WIDTH NON-JOINER}")
_ANYWHERE = re.compile(r"##[A-Za-z]*\[")


def assert_safe(output: str) -> None:
    """Check what is shown: lines of printable characters, none of which a CI system obeys."""
    for line in re.split(r"\r?\n", output):
        odd = {
            each for each in line if unicodedata.category(each) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
        }
        assert odd <= {"\t", *JOINERS, *STILL_FORMAT}, line
        assert not line.lstrip().startswith("::"), line
        assert not _ANYWHERE.search(line), line


# Format characters that neither hide nor reorder anything: a visible sign of some script's own.
STILL_FORMAT = {
    chr(code)
    for code in range(0x110000)
    if unicodedata.category(chr(code)) == "Cf" and not harmful(chr(code))
} - {chr(code) for code in (*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


@given(texts)
def test_any_text_becomes_one_printable_line_without_a_command(text: str) -> None:
    """And stays as it is when it is made so again."""
    shown = printable(text)
    assert shown.isprintable()
    assert_safe(shown)
    assert printable(shown) == shown


@pytest.mark.parametrize("text", HARMLESS)
def test_a_harmless_text_stays_as_it_is(text: str) -> None:
    """Whatever its script."""
    assert printable(text) == text
    assert not harmful(text)
    assert yaml_text(text) == text


@pytest.mark.parametrize("text", HARMFUL)
def test_a_harmful_text_is_told_and_escaped(text: str) -> None:
    """Nothing of it is lost: the escape says what it was."""
    assert harmful(text) or "\r\n" in text  # a line end of Windows is none in a file
    shown = printable(text)
    assert shown != text
    assert shown.encode().decode("unicode_escape").encode("latin-1", "replace") == (
        text.encode("latin-1", "replace")
    )


def test_a_long_text_is_cut() -> None:
    """With a sign that it was."""
    assert printable("x" * 100, 10) == "x" * 9 + "\N{HORIZONTAL ELLIPSIS}"
    assert printable("x" * 10, 10) == "x" * 10


@given(st.recursive(texts, lambda below: st.lists(below) | st.dictionaries(texts, below)))
def test_json_stays_the_same_data(content: object) -> None:
    """However it was written."""
    for ascii_only in (True, False):
        for indent in (None, 2):
            text = json_text(json.dumps(content, ensure_ascii=ascii_only, indent=indent))
            assert json.loads(text) == content
            assert_safe(text)


@given(st.dictionaries(storable, st.recursive(storable, st.lists), min_size=1))
def test_yaml_stays_the_same_data(content: dict[str, object]) -> None:
    """Keys and values, in whatever style they are written."""
    text = dump(content)
    assert_safe(text)
    (document,) = read(text, "x")
    assert document.content == content


@pytest.mark.parametrize(
    ("texts", "summary"),
    [([], ""), (["a"], "a"), (["a", "b"], "a; b"), (["a", "b", "c"], "a; b; and 1 more")],
)
def test_a_summary_names_the_first_and_counts_the_rest(texts: list[str], summary: str) -> None:
    """However many there are."""
    assert summarise(texts, 2) == summary
