"""Text of others, made safe to show: in a terminal, in a log, and in the log of a CI system.

Names, keys, values and file names come from strangers. Raw, an escape sequence moves the cursor or
sets the clipboard, a new line forges a line of ours, a bidirectional control shows another order
than there is, and a CI system carries out what looks like one of its commands: a line that begins
with `::` (GitHub Actions), or `##[`, `##vso[` and `##teamcity[` anywhere in it (the older form of
GitHub Actions, Azure Pipelines, TeamCity).

Everything that is shown goes through `printable`, JSON and YAML through `json_text` and
`yaml_text`: there the data stays the same, and what is harmful is escaped.
"""

from __future__ import annotations

import json
import re
from typing import Final

_ELLIPSIS: Final = "\N{HORIZONTAL ELLIPSIS}"
_COMMAND: Final = re.compile(r"#(?=#[A-Za-z]*\[)")
_COMMAND_LINE: Final = re.compile(r"^(\s*):(?=:)")
_COMMAND_LINES: Final = re.compile(r"^\s*::", re.MULTILINE)
_NOT_PLAIN: Final = re.compile(r"[^\n\x20-\x7e]")
# Control characters but tab and new line, line and paragraph separators, bidirectional and other
# invisible controls, halves of characters. Not the joiners that Persian and emoji are written with.
_HARMFUL: Final = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e"
    r"\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
    r"|\r(?!\n)"
)


def printable(text: str, most: int | None = None) -> str:
    r"""Make one line of any text: what is not printable is escaped as in `\x1b` or `\u202e`.

    Args:
        text: whatever a stranger wrote.
        most: how many characters of it to keep; the rest becomes an ellipsis.
    """
    if most is not None and len(text) > most:
        text = text[: most - 1] + _ELLIPSIS
    if not text.isprintable():
        text = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
    if "::" in text:
        text = _COMMAND_LINE.sub(r"\1\\x3a", text)
    return _COMMAND.sub(r"\\x23", text) if "##" in text else text


def harmful(text: str) -> bool:
    """Tell whether a text of several lines holds what must not be shown as it is."""
    return bool(
        _HARMFUL.search(text)
        or ("##" in text and _COMMAND.search(text))
        or ("::" in text and _COMMAND_LINES.search(text))
    )


def json_text(text: str) -> str:
    """Escape what is harmful in JSON, compact or not: the data stays the same."""
    if not text.isascii() or "\x7f" in text:
        text = _NOT_PLAIN.sub(_json_escape, text)
    return _COMMAND.sub(r"\\u0023", text) if "##" in text else text


def yaml_text(text: str) -> str:
    """Escape what is harmful in YAML whose harmful scalars are all in double quotes."""
    if not text.isascii() or "\x7f" in text:
        text = _HARMFUL.sub(lambda found: _yaml_escape(found[0]), text)
    return _COMMAND.sub(r"\\x23", text) if "##" in text else text


def _json_escape(found: re.Match[str]) -> str:
    character = found[0]
    if character.isprintable():
        return character
    code = ord(character)
    return json.dumps(character)[1:-1] if code > 0xFFFF else f"\\u{code:04x}"  # noqa: PLR2004


def _yaml_escape(character: str) -> str:
    code = ord(character)
    if code <= 0xFF:  # noqa: PLR2004 - the three lengths that YAML has
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004
