"""Writes the tables of the chart's README.md from the comments in its values.yaml.

    python scripts/chart_readme.py [--check]

Above a key, a comment that begins with `--` describes it; `## Title` begins a table.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

CHART: Final = Path(__file__).resolve().parents[1] / "charts" / "seamless-rollouts"
BEGIN: Final = "<!-- Values: written by scripts/chart_readme.py from values.yaml. -->"
END: Final = "<!-- End of values. -->"
_KEY: Final = re.compile(r"( *)([A-Za-z][A-Za-z0-9]*):")
_COMMENT: Final = re.compile(r" *# ?(.*)")


@dataclass(frozen=True, slots=True)
class Row:
    """One described key.

    Args:
        section: the title it stands under.
        path: the key with those above it, joined by dots.
        default: its value in values.yaml.
        text: what its comment says.
    """

    section: str
    path: str
    default: Any
    text: str


def rows(text: str) -> Iterator[Row]:
    """Read the described keys of a values file, in its order."""
    values = yaml.safe_load(text)
    section, comment = "", ""
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        if line.startswith("## "):
            section, comment = line.removeprefix("## "), ""
            continue
        note = _COMMENT.fullmatch(line)
        if note:
            begins = note[1].startswith("-- ")
            if begins or comment:
                comment = note[1].removeprefix("-- ") if begins else f"{comment} {note[1]}"
            continue
        key = _KEY.match(line)
        if key:
            above = [(depth, name) for depth, name in above if depth < len(key[1])]
            above.append((len(key[1]), key[2]))
            if comment:
                path = [name for _, name in above]
                yield Row(section, ".".join(path), _at(values, path), comment)
        comment = ""


def _at(values: Any, path: list[str]) -> Any:
    for name in path:
        values = values[name]
    return values


def tables(text: str) -> str:
    """Write the tables."""
    lines: list[str] = []
    section = ""
    for row in rows(text):
        if row.section != section:
            section = row.section
            lines += ["", f"### {section}", "", "| key | default | |", "| --- | --- | --- |"]
        default = json.dumps(row.default, ensure_ascii=False)
        text = row.text.replace("|", "\\|")
        lines.append(f"| `{row.path}` | `{default}` | {text} |")
    return "\n".join(lines).strip()


def readme(current: str, values: str) -> str:
    """Give the README with its tables written anew."""
    before, _, rest = current.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables(values)}\n\n{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    """Write the README, or with `--check` only tell whether it is up to date."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; 1 if it is out of date"
    )
    found = parser.parse_args(arguments)
    path = CHART / "README.md"
    current = path.read_text(encoding="utf-8")
    wanted = readme(current, (CHART / "values.yaml").read_text(encoding="utf-8"))
    if current == wanted:
        return 0
    if found.check:
        print(f"{path.name} is out of date: run scripts/chart_readme.py", file=sys.stderr)
        return 1
    path.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
