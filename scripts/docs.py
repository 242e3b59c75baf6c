"""Write the parts of the docs that the code knows best, or with --check say where they differ.

A generated part stands between two comments: `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from unittest import mock

from webhook import cli
from webhook.cli.common import Parser
from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration
from webhook.decision.outcomes import SkipReason, WarningCode
from webhook.decision.settings import Table
from webhook.demo import app as demo_app
from webhook.precheck import program as precheck
from webhook.proof import load

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "docs/cli.md", "docs/metrics.md", "docs/settings.md")
EXAMPLE = ROOT / "tests" / "decision" / "by_the_book.py"


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


# They run without `webhook.cli.common`: their usage is their text.
USAGES: Final = {"precheck": precheck.USAGE, "load": load.USAGE}


def commands() -> Iterator[str]:
    """Describe each subcommand, by its parser."""
    for name, does in re.findall(r"^  ([a-z-]+) {2,}(\S.*)$", cli.USAGE, re.MULTILINE):
        yield f"## seamless {name}"
        yield ""
        if name in USAGES:
            yield from paragraph(f"{does}.")
            yield "```text"
            yield USAGES[name].rstrip("\n")
            yield "```"
            yield ""
        elif name == "demo-app":
            yield from command(demo_app._parser())  # noqa: SLF001
        else:
            yield from command(parser_of(name))


class _FoundError(BaseException):
    """The parser that was to print its help; no `Exception`, for the command catches those."""

    def __init__(self, parser: Parser) -> None:
        self.parser = parser


def parser_of(name: str) -> Parser:
    """Ask a subcommand for its help, and give the parser that would have printed it."""

    def found(parser: Parser, _file: Any = None) -> None:
        raise _FoundError(parser)

    with mock.patch.object(Parser, "print_help", found):
        try:
            cli.main([name, "--help"])
        except _FoundError as error:
            return error.parser
    message = f"webhook/cli: {name} --help was answered by no Parser of webhook.cli.common"
    raise LookupError(message)


def command(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Describe one subcommand: what it does, how it is called, its options and exit statuses."""
    # Its own words, not argparse's lay-out of them, which differs from Python to Python.
    actions = [each for each in parser._actions if each.help != argparse.SUPPRESS]  # noqa: SLF001
    operands = [each for each in actions if not each.option_strings]
    yield from paragraph(parser.description)
    yield "```text"
    yield " ".join([parser.prog, "[OPTION...]", *map(operand, operands)])
    yield "```"
    yield ""
    yield "| option | what it does |"
    yield "| --- | --- |"
    for each in actions:
        if each.dest != "help":
            yield f"| {called(each)} | {cell(each.help or '')} |"
    yield ""
    yield from paragraph(parser.epilog)


def paragraph(text: str | None) -> Iterator[str]:
    """Give a text as Markdown, if there is one."""
    if text:
        line = " ".join(text.split())
        yield cell(f"{line[0].upper()}{line[1:]}")
        yield ""


def operand(action: argparse.Action) -> str:
    """Write what is no option as usage lines do."""
    name = str(action.metavar or action.dest.upper())
    return {"+": f"{name}...", "*": f"[{name}...]", "?": f"[{name}]"}.get(str(action.nargs), name)


def called(action: argparse.Action) -> str:
    """Write an option as it is called, with the values that it takes."""
    words = [f"`{each}`" for each in action.option_strings]
    if not words:
        return f"`{operand(action)}`"
    takes = ""
    if action.choices is not None:
        takes = " " + " ".join(f"`{each}`" for each in action.choices)
    elif action.nargs != 0:
        takes = f" `{action.metavar or action.dest.upper()}`"
    return ", ".join(words) + takes


def cell(text: str) -> str:
    """Write options in a text as code, and nothing that Markdown would take for its own."""
    safe = re.sub(r"[|<>*_]", lambda found: f"\\{found[0]}", text)
    return re.sub(r"(?<![\w`-])(--[a-z][a-z-]*[a-z])", r"`\1`", safe)


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


def mutation() -> Iterator[str]:
    """Quote the example of a mutation, which tests run as it is."""
    yield "```python"
    yield from EXAMPLE.read_text(encoding="utf-8").splitlines()
    yield "```"


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "commands": commands,
    "mutation": mutation,
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
