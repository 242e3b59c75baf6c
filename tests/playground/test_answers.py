"""What the playground's server answers: previews, limits, and to whom."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from fastapi.testclient import TestClient

from webhook.cli import playground
from webhook.cli.playground import MOST_BODY, MOST_DRAWN, MOST_TEXT, Playground, app
from webhook.decision.configuration import Configuration, parse
from webhook.rollout.timings import parse as parse_timings

FOLDERS = sorted(path.parent for path in Path("examples").glob("*/given.yaml"))
URL = "http://127.0.0.1:8088"
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 3
  template:
    spec:
      containers:
      - name: web
        image: nginx
        ports: [{containerPort: 80}]
        readinessProbe: {httpGet: {path: /, port: 80}}
"""
SETTING = "seamless-rollouts.dev/pre-stop-sleep"


def client(settings: str = "", timings: str = "") -> TestClient:
    """Make a client of the app, as a browser on this machine is one."""
    made = Playground(parse(settings, "configuration"), parse_timings(timings, "timings"))
    return TestClient(app(made, frozenset({"localhost"})), base_url=URL)


def preview(text: str = DEPLOYMENT, **sent: Any) -> Any:
    """Send a text, and give the answer."""
    found = client(sent.pop("configuration", "")).post("/api/preview", json={"text": text, **sent})
    assert found.status_code == 200
    return found.json()


def workload(text: str = DEPLOYMENT, **sent: Any) -> Any:
    """Send a text with one workload, and give what becomes of that."""
    (found,) = preview(text, **sent)["workloads"]
    return found


def added(found: Any) -> list[str]:
    """Give the lines that a diff adds."""
    return [text.strip() for sign, text in found["diff"] if sign == "+"]


# --- previews ------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_each_example_becomes_what_the_webhook_makes_of_it(folder: Path) -> None:
    """The YAML to copy is what `seamless plan -o yaml` prints; and the warnings are its own."""
    found = preview((folder / "given.yaml").read_text())
    assert found["yaml"] == (folder / "expected.yaml").read_text()
    warnings = [
        f"seamless-rollouts: {each['text']}"
        for of_one in found["workloads"]
        for each in of_one["warnings"]
    ]
    assert warnings == (folder / "warnings.txt").read_text().splitlines()


def test_the_examples_are_those_of_the_list_in_its_order() -> None:
    """Each is offered, with what it shows."""
    offered = client().get("/api/options").json()["examples"]
    assert sorted(each["name"] for each in offered) == [folder.name for folder in FOLDERS]
    assert offered[0]["name"] == "nginx"
    assert all(each["title"] and "`" not in each["title"] for each in offered)


def test_every_setting_has_a_control() -> None:
    """Those that take a few words alone offer them."""
    offered = {each["name"]: each for each in client().get("/api/options").json()["settings"]}
    assert set(offered) == set(playground.Admission(Configuration()).table)
    assert offered["strategy"]["choices"] == ["keep", "surge"]
    assert offered["pre-stop-sleep"]["choices"] == []
    assert offered["readiness-probe"]["choices"] == []


def test_the_rollout_is_simulated_before_and_after() -> None:
    """A sleep takes the risk away, and time is its price."""
    rollout = workload()["rollout"]
    assert rollout["written"]["requestsAtRisk"][1] > 0
    assert rollout["written"]["windows"]
    assert rollout["admitted"]["requestsAtRisk"] == [0, 0]
    assert rollout["admitted"]["windows"] == []
    assert rollout["admitted"]["rolledOutSeconds"] > rollout["written"]["rolledOutSeconds"]
    assert [each["old"] for each in rollout["admitted"]["pods"]] == [True] * 3 + [False] * 3


def test_a_setting_that_is_turned_is_written_on_each_workload() -> None:
    """In the diff, in the YAML, and beside the control."""
    found = preview(f"{DEPLOYMENT}---\n{DEPLOYMENT}", settings={"pre-stop-sleep": "7s"})
    for each in found["workloads"]:
        assert f"{SETTING}: 7s" in added(each)
        assert "seconds: 7" in added(each)
        assert each["settings"]["pre-stop-sleep"] == {"value": "7s", "source": "workload"}
    assert found["yaml"].count(f"{SETTING}: 7s") == 2


def test_a_setting_is_written_on_no_other_document() -> None:
    """What is no workload keeps its text, comments and all."""
    service = "# mine\napiVersion: v1\nkind: Service\nmetadata: {name:   odd}\n"
    text = f"{service}---\n{DEPLOYMENT}"
    assert preview(text, settings={"min-ready": "5s"})["yaml"].startswith(service)


def test_a_setting_is_written_on_the_items_of_a_list() -> None:
    """As `kubectl get -o yaml` prints them."""
    item = "\n".join(f"  {line}" for line in DEPLOYMENT.splitlines())
    text = f"apiVersion: v1\nkind: List\nitems:\n-{item[1:]}\n"
    assert f"{SETTING}: 7s" in added(workload(text, settings={"pre-stop-sleep": "7s"}))


def test_what_aliases_share_is_changed_once_each() -> None:
    """A setting on one workload is none on what has the same metadata by an alias."""
    text = DEPLOYMENT.replace("metadata:\n  name: web", "metadata: &shared\n  name: web")
    text += "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\n"
    found = preview(text, settings={"pre-stop-sleep": "7s"})
    assert found["yaml"].count(f"{SETTING}: 7s") == 1


def test_a_bad_setting_is_refused_and_told_at_its_control() -> None:
    """The page has the setting's name, and that it is its own."""
    found = workload(settings={"min-ready": "soon"})
    (refused,) = found["refused"]
    assert refused["setting"] == "min-ready"
    assert refused["own"]
    assert "soon" in refused["text"]
    assert found["rollout"]["admitted"] is None
    assert found["rollout"]["written"]


def test_timings_count() -> None:
    """A slower start makes a longer rollout, a faster rate more requests at risk."""

    def rollout(**timings: Any) -> Any:
        return workload(timings=timings)["rollout"]["written"]

    base = rollout()
    slow = rollout(application={"start": 60})
    busy = rollout(rate=1000)
    assert slow["rolledOutSeconds"] > base["rolledOutSeconds"] + 50
    assert busy["requestsAtRisk"][1] > 5 * base["requestsAtRisk"][1]


def test_the_page_begins_with_the_timings_of_the_file_and_changes_single_ones() -> None:
    """What it does not turn stays as the file says."""
    server = client(timings="{application: {start: 20, stop: 9}, balancer: {remove: 40}}")
    offered = server.get("/api/options").json()["timings"]
    assert (offered["start"], offered["stop"], offered["balanced"]) == (20, 9, True)
    assert offered["balancer"] == 40
    sent = {"text": DEPLOYMENT, "timings": {"application": {"stop": 1}}}
    (found,) = server.post("/api/preview", json=sent).json()["workloads"]
    assert found["rollout"]["written"]["rolledOutSeconds"] > 20


def test_of_many_pods_some_are_drawn_and_all_counted() -> None:
    """The answer is small however many replicas there are."""
    drawn = workload(DEPLOYMENT.replace("3", "1000"))["rollout"]["admitted"]
    assert len(drawn["pods"]) == MOST_DRAWN
    assert drawn["allPods"] == 2000
    assert drawn["pods"][0]["old"]
    assert not drawn["pods"][-1]["old"]
    assert drawn["leastServing"] >= 750


def test_the_record_is_folded_in_the_diff_and_whole_in_the_yaml() -> None:
    """What is applied must have it; who reads knows it from the other lines."""
    found = preview()
    lines = [text for text in added(found["workloads"][0]) if "/injected:" in text]
    assert lines
    assert not any("{" in text for text in lines)
    assert '{"' in found["yaml"]


def test_what_is_left_alone_says_why() -> None:
    """Of a workload without ports."""
    found = workload(DEPLOYMENT.partition("        ports:")[0])
    assert not found["changed"]
    assert "serves no traffic" in found["leftAlone"][0]


def test_audit_mode_changes_nothing() -> None:
    """The page begins with the configuration that it is given."""
    server = client("mode: audit")
    assert server.get("/api/options").json()["mode"] == "audit"
    assert not workload(configuration="mode: audit")["changed"]


@pytest.mark.parametrize(
    "text", ["", "\n", "# nothing\n", "---\n---\n", "apiVersion: v1\nkind: Secret\n"]
)
def test_a_text_without_a_workload_is_no_error(text: str) -> None:
    """An empty editor is nothing to complain of."""
    assert preview(text)["workloads"] == []


# --- errors and limits ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("a: [\n", 2, 1, "did not find"),
        ("a: 1\n---\nb: 1\n---\nc: 1\nd: {\n", 7, 1, "did not find"),
        ("\n---\na: 1\n--- # comment\nb: 1\nb: 2\n", 6, 1, '"b" comes twice'),
        ("a: 1\r\n---\r\nb: 1\r\nb: 2\r\n", 4, 1, '"b" comes twice'),
        ("--- {a: 1, a: 2}\n", 1, 8, '"a" comes twice'),
        ("x: *nobody\n", 1, 4, "an alias of nobody"),
    ],
)
def test_an_error_of_the_yaml_has_its_place_in_the_whole_text(
    text: str, line: int, column: int, says: str
) -> None:
    """In whichever document it is: the page goes to that line."""
    error = preview(text)["error"]
    assert error["line"] == line
    assert (error["line"], error["column"]) == (line, column)
    assert says in error["text"]


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        ([], "no text"),
        ({}, "no text"),
        ({"text": 5}, "no text"),
        ({"text": "- 1"}, "expected an object with apiVersion and kind"),
        ({"text": "x" * (MOST_TEXT + 1)}, "expected at most 262,144"),
        ({"text": "---\n".join([DEPLOYMENT] * 51)}, "51 workloads: expected at most 50"),
        ({"text": DEPLOYMENT.replace("3", "5001")}, "5,001 pods: expected at most 5,000"),
        ({"text": "a: [" * 300}, "nested more than 200 deep"),
        ({"text": "", "settings": []}, None),
        ({"text": "", "settings": [1]}, "settings: expected a mapping"),
        ({"text": "", "settings": {"sleep": "5s"}}, "settings: sleep: expected a known setting"),
        ({"text": "", "settings": {"min-ready": 5}}, "settings: min-ready: expected"),
        ({"text": "", "settings": {"min-ready": "5" * 5000}}, "settings: min-ready: expected"),
        ({"text": "", "timings": 5}, "timings: 5: expected a mapping of application"),
        ({"text": "", "timings": {"rate": -1}}, "rate: -1: expected requests a second"),
        ({"text": "", "timings": {"speed": 1}}, "unknown key"),
        ({"text": "", "timings": {"workloads": {}}}, "workloads: unknown key"),
    ],
)
def test_what_cannot_be_shown_is_told(sent: Any, says: str | None) -> None:
    """One line that says what would be right, and never a stack."""
    found = client().post("/api/preview", json=sent)
    assert found.status_code == 200
    error = found.json().get("error", {}).get("text")
    assert (says is None and error is None) or (says is not None and says in error), error


def test_what_aliases_stand_for_counts() -> None:
    """A short text that would take megabytes to write is refused."""
    anchors = ["a0: &a0 " + "x" * 1000]
    anchors += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 12)]
    text = "\n".join(anchors)
    assert "stand for more than 1,048,576 bytes" in preview(text)["error"]["text"]


def test_more_pods_than_are_simulated_are_no_error() -> None:
    """The rest of the answer is there."""
    found = workload(DEPLOYMENT.replace("3", "99999"))
    assert found["changed"]
    assert "at most 10000 are simulated" in found["rollout"]["notSimulated"]


@pytest.mark.parametrize(
    "text",
    [
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: [1]\n",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {annotations: 5}\nspec: 5\n",
        "apiVersion: apps/v1\nkind: Deployment\nspec: {replicas: x}\n",
        "apiVersion: apps/v1\nkind: Deployment\n",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {annotations: {a: 1.5}}\n",
        'apiVersion: apps/v1\nkind: Deployment\nmetadata: {"name": "\\0\\r\\n"}\nspec: {}\n',
    ],
)
def test_malformed_workloads_are_shown_as_they_are(text: str) -> None:
    """Whoever types is in the middle of it most of the time."""
    found = workload(text, settings={"min-ready": "5s"})
    assert found["rollout"]["admitted"] is None
    assert found["rollout"]["notSimulated"]


def test_a_fault_of_ours_is_one_line_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next request is answered."""

    def fails(*_: Any) -> Any:
        raise RuntimeError("a secret")

    with monkeypatch.context() as broken:
        broken.setattr(playground, "read", fails)
        error = preview()["error"]["text"]
    assert error == "unexpected RuntimeError: a fault of this program, please report it"
    assert preview()["workloads"]


def test_a_body_that_is_no_json_is_told() -> None:
    """Not as a fault of the server."""
    found = client().post(
        "/api/preview", content=b"{", headers={"Content-Type": "application/json"}
    )
    assert found.json() == {"error": {"text": "the request is no JSON"}}


def test_a_body_that_is_too_long_is_not_read_to_its_end() -> None:
    """413, however it is sent."""
    found = client().post(
        "/api/preview",
        content=b"x" * (MOST_BODY + 1),
        headers={"Content-Type": "application/json"},
    )
    assert found.status_code == 413


def test_another_content_type_is_refused() -> None:
    """A form of another page can send text/plain without being asked for."""
    found = client().post("/api/preview", content=b"{}", headers={"Content-Type": "text/plain"})
    assert found.status_code == 415


def test_what_takes_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is answered, though a thread still works."""
    monkeypatch.setattr(playground, "_ANSWER_SECONDS", 0.0)
    assert "take longer" in preview()["error"]["text"]


# --- to whom -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8088", 200),
        ("localhost:8088", 200),
        ("LOCALHOST", 200),
        ("[::1]:8088", 200),
        ("192.0.2.7", 200),
        ("evil.example", 403),
        ("evil.example:8088", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("localhost@evil.example", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_a_name_that_is_not_its_own_is_refused(host: str, status: int) -> None:
    """So no stranger's name that resolves to this machine reads anything here (DNS rebinding)."""
    for path in ("/", "/api/options"):
        assert client().get(path, headers={"Host": host}).status_code == status


def test_two_hosts_or_none_are_refused() -> None:
    """What does not say whom it means, means nobody."""

    async def status(headers: list[tuple[bytes, bytes]]) -> int:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        served = app(Playground(Configuration()), frozenset({"localhost"}))
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b""}
        await served({**scope, "headers": headers}, receive, send)
        found: int = sent[0]["status"]
        return found

    assert asyncio.run(status([(b"host", b"localhost")])) == 200
    assert asyncio.run(status([(b"host", b"localhost"), (b"host", b"localhost")])) == 403
    assert asyncio.run(status([])) == 403


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        (URL, 200),
        ("http://evil.example", 403),
        ("http://127.0.0.1:9999", 403),
        ("https://127.0.0.1:8088", 403),
        ("null", 403),
    ],
)
def test_another_page_is_refused(origin: str | None, status: int) -> None:
    """It could make this machine work, though it could not read the answer."""
    headers = {} if origin is None else {"Origin": origin}
    found = client().post("/api/preview", json={"text": ""}, headers=headers)
    assert found.status_code == status


@pytest.mark.parametrize(
    "path", ["/", "/playground.js", "/playground.css", "/icon.svg", "/api/options", "/nowhere"]
)
@pytest.mark.parametrize("host", ["localhost", "evil.example"])
def test_every_answer_tells_the_browser_to_load_nothing_else(path: str, host: str) -> None:
    """No inline code, no other server, no frame; and nothing is kept."""
    found = client().get(path, headers={"Host": host})
    policy = dict(
        each.strip().split(" ", 1) for each in found.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert {policy[f"{each}-src"] for each in ("script", "style", "img", "connect")} == {"'self'"}
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert found.headers["cache-control"] == "no-store"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["referrer-policy"] == "no-referrer"


def test_the_page_has_no_inline_code_and_no_address_of_another_server() -> None:
    """What the policy would block is not there in the first place."""
    page = client().get("/").text
    assert "<style" not in page
    assert " style=" not in page
    assert " on" not in page.split("<body>")[0]
    assert page.count("<script") == page.count('<script type="module" src="/playground.js">') == 1
    script = client().get("/playground.js").text
    for text in (page, script, client().get("/playground.css").text):
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    for word in ("innerHTML", "insertAdjacentHTML", "eval(", "localStorage", "document.write"):
        assert word not in script


def test_only_what_is_named_is_served() -> None:
    """No path leads to another file; no generated API pages."""
    for path in ("/../cli/plan.py", "/examples/README.md", "/docs", "/openapi.json", "/index.html"):
        assert client().get(path).status_code == 404
    assert client().post("/", content=b"").status_code == 405


def test_the_answers_are_json() -> None:
    """A browser that guesses takes them for nothing else."""
    found = client().post("/api/preview", json={"text": "<script>alert(1)</script>: 1"})
    assert found.headers["content-type"] == "application/json"
    assert orjson.loads(found.content)["workloads"] == []
