"""The page in a real Chromium: typing, dragging, keys, narrow screens, links; nobody else asked.

Without Chromium, or without playwright, these are skipped.
"""

from __future__ import annotations

import base64
import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.playground.conftest import Running

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((path for path in map(shutil.which, NAMES) if path), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop
spec:
  replicas: 2
  template:
    spec:
      containers:
      - name: shop
        image: shop
        ports: [{containerPort: 80}]
        readinessProbe: {httpGet: {path: /, port: 80}}
"""
HOSTILE = DEPLOYMENT.replace(
    "name: shop\nspec",
    'name: "<img src=http://192.0.2.1/x onerror=alert(1)>"\n'
    '  annotations: {"seamless-rollouts.dev/min-ready": "</script><b>soon"}\nspec',
).replace("- name: shop", '- name: "<svg onload=alert(2)>"')


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for all."""
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def visit(browser: Any, running: Running) -> Iterator[Callable[..., Any]]:
    """Open the page in a profile of its own; no request may go elsewhere, and nothing may fail."""
    contexts = []
    asked: list[str] = []
    failed: list[str] = []

    def open_page(fragment: str = "", **given: Any) -> Any:
        context = browser.new_context(viewport=given.pop("viewport", WIDE), **given)
        contexts.append(context)
        context.set_default_timeout(15_000)
        context.on("request", lambda request: asked.append(request.url))
        page = context.new_page()
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.on("console", lambda said: failed.append(said.text) if said.type == "error" else None)
        page.on("dialog", lambda dialog: failed.append(f"dialog: {dialog.message}"))
        page.goto(running.url + fragment)
        page.wait_for_selector("#headline:not(:empty)")
        return page

    yield open_page
    for each in contexts:
        each.close()
    assert [url for url in asked if not url.startswith((running.url, "data:", "blob:"))] == []
    assert failed == []


WIDE = {"width": 1280, "height": 900}
NARROW = {"width": 360, "height": 740}


def headline(page: Any, *words: str) -> None:
    """Wait until the headline says something."""
    for word in words:
        api.expect(page.locator("#headline")).to_contain_text(word)


def paste(page: Any, text: str) -> None:
    """Put a text into the editor as a paste does: at once."""
    page.locator("#text").focus()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.insert_text(text)


def diff(page: Any) -> Any:
    """Give the place of the diff."""
    return page.locator("#diff")


def test_it_opens_with_an_example_and_its_rollout(visit: Callable[..., Any]) -> None:
    """Before anybody has done anything, it shows what this is about."""
    page = visit()
    headline(page, "309 requests at risk", "none with Seamless Rollouts", "instead of 36 s")
    assert page.locator("#charts svg").count() == 2
    assert page.locator("#charts .phase").count() > 12
    assert page.locator("#charts .chart").first.locator(".loss").count() == 3
    assert page.locator("#charts .chart").last.locator(".loss").count() == 0
    api.expect(diff(page)).to_contain_text("+   minReadySeconds: 30")


def test_what_is_pasted_is_shown_at_once(visit: Callable[..., Any]) -> None:
    """Its pods in the timeline; and the choice of examples says that it is one's own."""
    page = visit()
    paste(page, DEPLOYMENT)
    api.expect(
        page.locator("#charts .chart").last.locator("text", has_text="new 2")
    ).to_be_visible()
    api.expect(page.locator("#charts text", has_text="new 3")).to_have_count(0)
    assert page.locator("#example").input_value() == ""
    paste(page, DEPLOYMENT.replace("replicas: 2", "replicas: 4"))
    api.expect(page.locator("#charts text", has_text="new 4")).to_have_count(2)


def test_an_example_is_chosen_and_what_was_typed_comes_back(visit: Callable[..., Any]) -> None:
    """Looking at an example costs nobody their manifest."""
    page = visit()
    paste(page, DEPLOYMENT)
    page.select_option("#example", "worker")
    api.expect(page.locator("#workloads button")).to_have_count(2)
    page.select_option("#example", "")
    assert page.locator("#text").input_value() == DEPLOYMENT


def test_dragging_a_control_changes_diff_timeline_and_headline(visit: Callable[..., Any]) -> None:
    """And it can be undone."""
    page = visit()
    slider = page.get_by_role("slider", name="preStop sleep")
    box = slider.bounding_box()
    before = page.locator("#charts .chart").last.locator(".sleeping").first.get_attribute("width")
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] / 2, steps=8)
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2, steps=8)
    page.mouse.up()
    value = int(slider.input_value())
    assert 90 <= value <= 102
    api.expect(diff(page)).to_contain_text(f"seamless-rollouts.dev/pre-stop-sleep: {value}s")
    api.expect(diff(page)).to_contain_text(f"seconds: {value}")
    after = page.locator("#charts .chart").last.locator(".sleeping").first.get_attribute("width")
    assert float(after) > float(before)
    slider.fill("0")
    headline(page, "up to")
    page.get_by_role("button", name="Undo: preStop sleep").click()
    headline(page, "none with Seamless Rollouts")
    api.expect(diff(page)).not_to_contain_text("pre-stop-sleep")
    assert slider.input_value() == "30"


def test_timings_change_the_rollout_and_all_can_be_undone(visit: Callable[..., Any]) -> None:
    """A slow balancer puts requests at risk that a short sleep does not cover."""
    page = visit()
    page.get_by_role("checkbox", name="A load balancer outside").check()
    page.get_by_role("slider", name="Load balancer learns").fill("90")
    api.expect(page.locator("#headline")).not_to_contain_text("none with")
    page.get_by_role("slider", name="Requests").fill("0")
    headline(page, "No request at risk")
    page.get_by_role("button", name="Undo all changes here").click()
    headline(page, "309 requests")
    assert not page.get_by_role("checkbox", name="A load balancer outside").is_checked()


def test_a_bad_setting_is_told_at_its_control(visit: Callable[..., Any]) -> None:
    """And by the headline, for it would be refused."""
    page = visit()
    page.get_by_text("More settings").click()
    field = page.get_by_role("textbox", name="max-grace")
    field.fill("soon")
    headline(page, "It would be refused")
    api.expect(field).to_have_attribute("aria-invalid", "true")
    api.expect(page.locator("#setting-max-grace-wrong")).to_contain_text("soon")
    api.expect(page.locator("#timeline-card")).to_be_hidden()
    field.fill("50s")
    api.expect(field).to_have_attribute("aria-invalid", "false")
    api.expect(page.locator("#timeline-card")).to_be_visible()
    api.expect(diff(page)).to_contain_text("terminationGracePeriodSeconds: 50")


def test_an_error_in_the_yaml_is_told_with_its_line(visit: Callable[..., Any]) -> None:
    """What was there before stays, dimmed; the button goes to the line; the mend takes it away."""
    page = visit()
    paste(page, DEPLOYMENT.replace("  replicas: 2", "  replicas: 2\n  replicas: 3"))
    alert = page.get_by_role("alert")
    api.expect(alert).to_contain_text('Line 7, column 3: the key "replicas" comes twice')
    api.expect(page.locator("#lines b")).to_have_text("▸7")
    api.expect(page.locator("#result")).to_have_class("result stale")
    page.get_by_role("button", name="Go to line 7").click()
    selected = page.evaluate(
        "() => { const e = document.activeElement;"
        " return e.value.slice(e.selectionStart, e.selectionEnd); }"
    )
    assert selected == "  replicas: 3"
    page.keyboard.press("Delete")
    api.expect(alert).to_be_hidden()
    api.expect(page.locator("#result")).to_have_class("result")


FOCUSED = "() => { const e = document.activeElement; return e.id || e.className || e.tagName; }"


def test_the_keyboard_reaches_and_works_everything(visit: Callable[..., Any]) -> None:
    """In the order of the page, with no trap: Tab leaves the editor."""
    page = visit()
    seen = []
    for _ in range(60):  # more than there are: what holds the focus would come again and again
        page.keyboard.press("Tab")
        name = page.evaluate(FOCUSED)
        if seen and name in ("BODY", seen[0]):
            break
        seen.append(name)
    wanted = ["skip", "example", "share", "open", "text", "setting-pre-stop-sleep"]
    wanted += ["timing-start", "timing-balanced", "reset", "copy", "diff"]
    assert [each for each in seen if each in wanted] == wanted
    slider = page.locator("#setting-pre-stop-sleep")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    api.expect(diff(page)).to_contain_text("seconds: 32")
    api.expect(slider).to_be_focused()
    page.locator("#example").focus()
    page.keyboard.press("ArrowDown")
    api.expect(page.locator("#text")).not_to_have_value("")
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "result"


def test_a_narrow_screen_shows_everything_without_scrolling_sideways(
    visit: Callable[..., Any],
) -> None:
    """With the result a touch away, wherever one is."""
    page = visit(viewport=NARROW, has_touch=True)
    assert page.evaluate("() => document.documentElement.scrollWidth") == NARROW["width"]
    brief = page.locator("#brief")
    api.expect(brief).to_contain_text("No request at risk, 2 min 3 s")
    page.get_by_role("slider", name="preStop sleep").fill("0")
    api.expect(brief).to_contain_text("0 to 233 requests at risk")
    brief.tap()
    api.expect(page.locator("#headline")).to_be_in_viewport()
    for chart in page.locator("#charts svg").all():
        box = chart.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= NARROW["width"]


def test_a_wide_screen_does_not_scroll_as_a_whole(visit: Callable[..., Any]) -> None:
    """So what a control does stays in view."""
    page = visit()
    sizes = page.evaluate(
        "() => [document.documentElement.scrollHeight, document.documentElement.scrollWidth]"
    )
    assert sizes == [WIDE["height"], WIDE["width"]]
    page.locator("#timing-rate").scroll_into_view_if_needed()
    api.expect(page.locator("#headline")).to_be_in_viewport()


LUMINANCE = """
(selectors) => {
  const parse = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = (color) => {
    const [r, g, b] = parse(color).map((each) => {
      const part = each / 255;
      return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let each = node; each; each = each.parentElement) {
      const color = getComputedStyle(each).backgroundColor;
      if (!color.startsWith("rgba(0, 0, 0, 0")) return color;
    }
    return "rgb(255, 255, 255)";
  };
  return selectors.map((selector) => {
    const node = document.querySelector(selector);
    const pair = [light(getComputedStyle(node).color), light(behind(node))];
    const [high, low] = pair.sort((a, b) => b - a);
    return [selector, (high + 0.05) / (low + 0.05)];
  });
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_can_be_read(visit: Callable[..., Any], scheme: str) -> None:
    """WCAG's contrast for text (4.5) in both."""
    page = visit(color_scheme=scheme)
    back = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(14, 20, 24)") == (scheme == "dark")
    page.select_option("#example", "statefulset")
    page.wait_for_selector(".findings .warning")
    places = ["h1", "h1 span", ".headline", ".headline .bad", ".headline .good", "#text", ".hint"]
    places += [".control .hint", ".totals dt", ".totals dd small", ".diff .add", ".diff .gap"]
    places += [".findings b", "footer p", ".legend li", ".chart h4 span", "summary"]
    for selector, ratio in page.evaluate(LUMINANCE, places):
        assert ratio >= 4.5, (selector, ratio)


def test_a_screen_reader_has_landmarks_names_and_the_timeline_in_words(
    visit: Callable[..., Any],
) -> None:
    """Every control has a name, every picture a text, and the bars a table."""
    page = visit()
    for role in ("banner", "main", "contentinfo"):
        assert page.get_by_role(role).count() == 1
    page.get_by_text("More settings").click()
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "slider", "combobox", "textbox", "checkbox", "image")
    named = [
        (each["role"]["value"], each.get("name", {}).get("value"))
        for each in tree
        if not each.get("ignored") and each["role"]["value"] in roles
    ]
    assert len(named) > 20
    assert [each for each in named if not each[1]] == []
    pictures = [name for role, name in named if role == "image"]
    assert any("With Seamless Rollouts: rolled out after 2 min 3 s" in each for each in pictures)
    page.get_by_text("As a table").click()
    table = page.get_by_role("table", name="With Seamless Rollouts")
    api.expect(table.get_by_role("row")).to_have_count(7)
    assert page.locator("#headline").get_attribute("aria-live") == "polite"


def test_a_link_holds_the_input_and_the_server_never_sees_it(
    visit: Callable[..., Any], running: Running
) -> None:
    """Text, settings and timings; with the next change it goes, as it is no longer true."""
    page = visit()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    paste(page, DEPLOYMENT + "# héllo ✓\n")
    page.get_by_role("slider", name="minReadySeconds").fill("77")
    page.get_by_role("slider", name="Application stop").fill("9")
    page.get_by_role("button", name="Copy link").click()
    api.expect(page.locator("#share")).to_have_text("Copied")
    link = page.evaluate("() => navigator.clipboard.readText()")
    assert link == page.url
    assert link.startswith(running.url + "#1.")
    other = visit(link.removeprefix(running.url))
    assert other.locator("#text").input_value() == DEPLOYMENT + "# héllo ✓\n"
    api.expect(diff(other)).to_contain_text("minReadySeconds: 77")
    assert other.get_by_role("slider", name="Application stop").input_value() == "9"
    other.get_by_role("slider", name="minReadySeconds").fill("5")
    api.expect(diff(other)).to_contain_text("minReadySeconds: 5")
    assert other.url == running.url


def packed(content: bytes) -> str:
    """Write a fragment as the page does."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    text = base64.urlsafe_b64encode(packer.compress(content) + packer.flush()).decode()
    return f"#1.{text.rstrip('=')}"


@pytest.mark.parametrize(
    "fragment",
    [
        "#1.",
        "#1.!!!",
        "#1.AAAA",
        packed(b"{"),
        packed(b"[]"),
        packed(b'{"text": 5}'),
        packed(b"null"),
        packed(b'"' + b"a" * 50_000_000 + b'"'),
    ],
    ids=["empty", "no-base64", "no-deflate", "no-json", "list", "no-text", "null", "bomb"],
)
def test_a_damaged_link_is_told_and_the_page_works(
    visit: Callable[..., Any], fragment: str
) -> None:
    """What unfolds to megabytes is not read to its end."""
    page = visit(fragment)
    alert = page.get_by_role("alert")
    api.expect(alert).to_contain_text("This link is damaged")
    paste(page, DEPLOYMENT)
    headline(page, "none with Seamless Rollouts")
    api.expect(alert).to_be_hidden()


def test_a_link_of_a_stranger_sets_nothing_but_what_is_known(visit: Callable[..., Any]) -> None:
    """Unknown settings and timings, and values of another type, are left out."""
    content = {
        "text": DEPLOYMENT,
        "settings": {"min-ready": "66s", "evil": "x", "strategy": 5},
        "timings": {"rate": "x", "evil": 1, "start": 7, "balanced": 1},
    }
    page = visit(packed(json.dumps(content).encode()))
    api.expect(diff(page)).to_contain_text("minReadySeconds: 66")
    api.expect(page.get_by_role("alert")).to_be_hidden()


def test_the_yaml_that_is_copied_is_what_the_webhook_makes(visit: Callable[..., Any]) -> None:
    """To the last byte."""
    page = visit()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy YAML").click()
    api.expect(page.locator("#copy")).to_have_text("Copied")
    api.expect(page.locator("#told")).to_have_text("YAML copied")
    copied = page.evaluate("() => navigator.clipboard.readText()")
    assert copied == Path("examples/nginx/expected.yaml").read_text()


def test_several_workloads_are_chosen_from(visit: Callable[..., Any]) -> None:
    """Each with its own diff, findings and rollout."""
    page = visit()
    paste(page, DEPLOYMENT + "---\n" + DEPLOYMENT.replace("shop", "cart"))
    buttons = page.locator("#workloads button")
    api.expect(buttons).to_have_text(["deployment/shop", "deployment/cart"])
    buttons.nth(1).click()
    api.expect(buttons.nth(1)).to_have_attribute("aria-pressed", "true")
    api.expect(buttons.nth(1)).to_be_focused()
    api.expect(diff(page)).to_contain_text("name: cart")


DROP = """
(texts) => {
  const data = new DataTransfer();
  texts.forEach((text, index) => data.items.add(new File([text], `${index}.yaml`)));
  for (const name of ["dragover", "drop"]) {
    document.body.dispatchEvent(
      new DragEvent(name, { bubbles: true, cancelable: true, dataTransfer: data }));
  }
}
"""


def test_files_are_dropped_or_opened(visit: Callable[..., Any]) -> None:
    """Several become one text; what is too large is told."""
    page = visit()
    page.evaluate(DROP, [DEPLOYMENT, DEPLOYMENT.replace("shop", "cart").rstrip()])
    api.expect(page.locator("#workloads button")).to_have_count(2)
    files = [{"name": "a.yaml", "mimeType": "text/yaml", "buffer": DEPLOYMENT.encode()}]
    page.locator("#file").set_input_files(files)
    api.expect(page.locator("#workloads")).to_be_hidden()
    page.evaluate(DROP, ["x" * 300_000])
    api.expect(page.get_by_role("alert")).to_contain_text("0.yaml: more than 262,144 bytes")


def test_what_strangers_write_stays_text(visit: Callable[..., Any]) -> None:
    """Names with markup neither run nor load anything, and make no elements."""
    page = visit()
    paste(page, HOSTILE)
    headline(page, "It would be refused")
    api.expect(page.locator("#findings")).to_contain_text("</script><b>soon")
    paste(page, HOSTILE.replace("</script><b>soon", "5s"))
    headline(page, "none with Seamless Rollouts")
    api.expect(diff(page)).to_contain_text("<img src=http://192.0.2.1/x onerror=alert(1)>")
    assert page.locator("main img, main script, main b b").count() == 0


def test_a_server_that_is_gone_is_told(browser: Any) -> None:
    """Not with a page that no longer answers in silence."""
    own = Running()
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(own.url)
        page.wait_for_selector("#headline:not(:empty)")
        own.close()
        paste(page, DEPLOYMENT)
        api.expect(page.get_by_role("alert")).to_contain_text("does its command still run?")
    finally:
        context.close()
        own.close()
