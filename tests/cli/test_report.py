"""The page of a plan: whole, safe, and the same as what is told in the terminal."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.builders import Json, deployment, workload
from tests.cli.test_hostile import manifests
from webhook import cli
from webhook.cli.manifests import Document
from webhook.cli.planner import Options, Planner
from webhook.cli.report import page
from webhook.decision.configuration import Configuration

VOID = {"meta", "br"}


class Parsed(HTMLParser):
    """Holds the tags and texts of a page, and whether they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag that opens."""
        self.tags.append(tag)
        self.attributes += [(key, value or "") for key, value in attrs]
        # Those of SVG are written with an end, too.
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag without content."""
        self.tags.append(tag)
        self.attributes += [(key, value or "") for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        """Hold that what closes was the last to open."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.texts.append(data)

    @property
    def text(self) -> str:
        """What is read of it."""
        return "".join(self.texts)


def of(*objects: Json, **what_if: str) -> str:
    """Give the page of a plan."""
    documents = [Document("file", index, "", each) for index, each in enumerate(objects, 1)]
    what_if = {name.replace("_", "-"): text for name, text in what_if.items()}
    settings = Configuration()
    return page(Planner(settings, Options(what_if=what_if)).plan(documents), settings)


def test_a_page_tells_what_the_terminal_tells() -> None:
    """What changes, why, and the rollout before and after."""
    parsed = Parsed(of(deployment(), pre_stop_sleep="5s"))
    assert not parsed.open
    for said in (
        "deployment/web in namespace",
        "1 workload in 1 document: 1 changed, 0 refused",
        "+  minReadySeconds: 30",
        "pre-stop-sleep: 30s, built in",
        "Rollout as written",
        "Rollout as admitted",
        "Rollout with pre-stop-sleep=5s",
        "of 123 s is minReadySeconds: three steps",
    ):
        assert said in parsed.text, said


def test_a_page_asks_for_nothing_and_runs_nothing() -> None:
    """Its policy allows its own style and nothing else; the hash is that of the style."""
    text = of(deployment(), workload("StatefulSet"))
    parsed = Parsed(text)
    assert not {"script", "img", "link", "iframe", "object", "base"}.intersection(parsed.tags)
    for key, value in parsed.attributes:
        assert not key.startswith("on")
        assert key not in {"src", "style", "srcset"}
        if key == "href":
            assert value.startswith("#")
    policy = dict(re.findall(r"([a-z-]+) ('[^']+')", text.partition('content="')[2].split('"')[0]))
    style = text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy["default-src"] == "'none'"
    assert policy["style-src"] == f"'sha256-{digest}'"
    assert "@import" not in style
    assert "url(" not in style


def test_a_page_can_be_read_without_seeing_it() -> None:
    """Each picture has a name and says in words what it shows; ids are there, and once."""
    parsed = Parsed(of(deployment(), workload("StatefulSet")))
    ids = [value for key, value in parsed.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    for key, value in parsed.attributes:
        if key == "aria-labelledby":
            assert set(value.split()) <= set(ids)
        if key == "href":
            assert value[1:] in ids
    pictures = parsed.tags.count("svg")
    assert pictures == 4
    assert [key for key, value in parsed.attributes if value == "img"] == ["role"] * pictures
    assert parsed.tags.count("desc") == pictures
    assert ("lang", "en") in parsed.attributes


def test_a_page_is_light_dark_and_printable() -> None:
    """By the reader's own choice."""
    text = of(deployment())
    assert "prefers-color-scheme:dark" in text
    assert "@media print" in text


@given(hostile=manifests())
@settings(deadline=None, max_examples=40)
def test_a_page_holds_no_strangers_markup(hostile: Json) -> None:
    """Whatever a manifest holds, wherever."""
    tags = set(Parsed(of(deployment())).tags) | {"li", "ul", "p"}
    parsed = Parsed(of(hostile))
    assert not parsed.open
    assert set(parsed.tags) <= tags


def test_markup_of_strangers_is_text() -> None:
    """In names, values, container names and settings."""
    given = deployment(says={"pre-stop-sleep": '<script>"'})
    given["metadata"]["name"] = "<img src=x onerror=y>"
    text = of(given)
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;img src=x onerror=y&gt;" in text


def test_a_report_is_written_beside_the_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output stays what it is; the page is UTF-8."""
    path = tmp_path / "plan.html"
    given = "examples/nginx/given.yaml"
    assert cli.main(["plan", "-o", "patch", "--report", str(path), given]) == 0
    assert capsys.readouterr().out.startswith("[{")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize("path", ["/none/plan.html", ".", "a\0b"])
def test_a_report_that_cannot_be_written_is_one_line_and_status_2(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is printed."""
    assert cli.main(["plan", "--report", path, "examples/nginx/given.yaml"]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.count("\n") == 1
