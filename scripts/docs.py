"""Write the parts of the docs that the code knows best, or with --check say where they differ.

A generated part stands between two comments: `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration
from webhook.decision.outcomes import SkipReason, WarningCode
from webhook.decision.settings import Table

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/settings.md", "docs/metrics.md")


def settings_table() -> Iterator[str]:
    """Give a row for each setting."""
    table: Table = Admission(Configuration()).table
    yield "| annotation | value | built in | what it does |"
    yield "| --- | --- | --- | --- |"
    for setting in table.values():
        default = "none" if setting.default == "none" else f"`{setting.default}`"
        yield f"| `{setting.name}` | {setting.takes} | {default} | {setting.help} |"


def modifiers() -> Iterator[str]:
    """Name the settings that follow another."""
    table: Table = Admission(Configuration()).table
    for name in dict.fromkeys(each.modifies for each in table.values() if each.modifies):
        followers = ", ".join(f"`{each.name}`" for each in table.values() if each.modifies == name)
        yield f"- {followers} follow `{name}`"


def reasons() -> Iterator[str]:
    """Give a row for each reason why nothing is injected."""
    yield "| reason | why nothing is injected |"
    yield "| --- | --- |"
    for each in sorted(SkipReason):
        yield f"| `{each}` | {each.sentence} |"


def warnings() -> Iterator[str]:
    """Give a row for each warning."""
    yield "| code | what the user is told |"
    yield "| --- | --- |"
    for each in sorted(WarningCode):
        yield f"| `{each}` | {each.sentence} |"


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "settings": settings_table,
    "modifiers": modifiers,
    "reasons": reasons,
    "warnings": warnings,
}
PART = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def generated(text: str) -> str:
    """Fill in every generated part of a page."""

    def part(found: re.Match[str]) -> str:
        return found[1] + "".join(f"{line}\n" for line in PARTS[found[2]]()) + found[3]

    return PART.sub(part, text)


def main() -> int:
    """Write the pages, or check them; gives the exit status."""
    check = sys.argv[1:] == ["--check"]
    stale = []
    for name in PAGES:
        page = ROOT / name
        text = page.read_text(encoding="utf-8")
        wanted = generated(text)
        if text != wanted:
            stale.append(name)
            if not check:
                page.write_text(wanted, encoding="utf-8")
    for name in stale:
        print(f"{name}: {'stale: run make docs' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
