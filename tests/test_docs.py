"""The docs hold together: links lead somewhere, indexes are whole, examples are what tests run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts import docs
from scripts.docs import USAGES, command, parser_of
from tests.decision import by_the_book
from webhook import cli

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/*.md", "charts/*/README.md")
    for path in Path().glob(pattern)
)
LINK = re.compile(r"(?<!`)\[[^][]*\]\(([^()\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """Give a page without its blocks of code."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Name the headings of a page as GitHub does."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in titles}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_each_link_within_the_repository_leads_somewhere(page: Path) -> None:
    """To a file, and to a heading where one is named."""
    for link in LINK.findall(prose(page)):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def test_each_decision_stands_in_the_index() -> None:
    """Once, by its number."""
    index = Path("docs/decisions/README.md")
    listed = re.findall(r"^\| (\d+) \| \[[^]]+\]\(([^)]+)\)", prose(index), re.MULTILINE)
    files = sorted(path.name for path in index.parent.glob("0*.md"))
    assert [name for _, name in listed] == files
    for number, name in listed:
        title = (index.parent / name).read_text(encoding="utf-8").partition("\n")[0]
        assert title.startswith(f"# {number}. ")
        assert name.startswith(f"{int(number):04}-")


def test_each_room_stands_in_the_architecture_and_in_its_picture() -> None:
    """A folder of `webhook/` that is added is drawn, too."""
    rooms = {path.parent.name for path in Path("webhook").glob("*/__init__.py")}
    page, picture = Path("docs/architecture.md"), Path("docs/rooms.svg")
    assert set(re.findall(r"^\| `(\w+)/` \|", prose(page), re.MULTILINE)) == rooms
    drawn = re.findall(r'class="name"[^>]*>(\w+)/<', picture.read_text(encoding="utf-8"))
    assert set(drawn) == rooms


def test_the_architecture_names_what_is_not_compiled() -> None:
    """As `setup.py` has it."""
    setup = Path("setup.py").read_text(encoding="utf-8")
    found = re.search(r"_AS_IT_IS: Final = \{(.*?)\}", setup, re.DOTALL)
    assert found
    section = prose(Path("docs/architecture.md")).partition("## What is compiled")[2]
    for name in re.findall(r'"([\w.]+)"', found[1]):
        assert f"`{name}`" in section


def test_each_generated_part_stands_on_a_page() -> None:
    """Else it would be checked by nobody; and each page has one."""
    found = {name: docs.PART.findall(Path(name).read_text(encoding="utf-8")) for name in docs.PAGES}
    assert all(found.values())
    assert {part for parts in found.values() for _, part, _ in parts} == set(docs.PARTS)


def test_what_is_generated_is_as_the_code_has_it() -> None:
    """`make lint` checks it, too; here it is seen to notice a change."""
    for name in docs.PAGES:
        text = Path(name).read_text(encoding="utf-8")
        assert docs.generated(text) == text, f"{name}: run make docs"
        spoilt = docs.PART.sub(r"\1spoilt\n\3", text)
        assert docs.generated(spoilt) == text


def test_the_book_quotes_the_mutation_that_tests_run() -> None:
    """To the letter."""
    text = Path(by_the_book.__file__).read_text(encoding="utf-8")
    assert f"```python\n{text}```" in Path("CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_reference_has_each_subcommand_and_each_of_its_options() -> None:
    """A module of `webhook/cli` with a `main` is a subcommand; it cannot be left out of `USAGE`."""
    page = Path("docs/cli.md").read_text(encoding="utf-8")
    modules = {
        path.stem
        for path in Path("webhook/cli").glob("*.py")
        if path.stem != "__init__" and "\ndef main(" in path.read_text(encoding="utf-8")
    }
    described = set(re.findall(r"^## seamless (\S+)$", page, re.MULTILINE))
    assert described == {*modules, *USAGES, "demo-app"}
    for name in modules:
        section = page.partition(f"## seamless {name}\n")[2].partition("\n## ")[0]
        for action in parser_of(name)._actions:
            if action.dest != "help":
                assert all(f"`{each}`" in section for each in action.option_strings)


def test_the_reference_is_the_same_however_wide_the_terminal_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As argparse's own help is not."""
    usual = list(command(parser_of("plan")))
    monkeypatch.setenv("COLUMNS", "40")
    assert list(command(parser_of("plan"))) == usual


def test_asking_for_parsers_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Not even a line of help is printed."""
    for name in re.findall(r"^  ([a-z]+) {2,}", cli.USAGE, re.MULTILINE):
        if name not in USAGES:
            assert parser_of(name).prog == f"seamless {name}"
    assert capsys.readouterr().out == ""
