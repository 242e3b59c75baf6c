"""The server's answers to what is no review, to too much, and to what goes wrong."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fastapi.testclient import TestClient

from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration
from webhook.decision.mutations.model import Mutation
from webhook.decision.review import Request
from webhook.decision.settings import Namespace
from webhook.serving.app import State, health_app, webhook_app
from webhook.serving.load import Limits
from webhook.serving.metrics import Metrics

REVIEW = Path("examples/review.json").read_bytes()
JSON = {"content-type": "application/json"}


def client(limits: Limits | None = None, state: State | None = None) -> TestClient:
    """Build a client of the webhook's app; errors in it come out as they would over HTTP."""
    app = webhook_app(
        Admission(Configuration()).answer, Metrics(), state or State(), limits=limits or Limits()
    )
    return TestClient(app, raise_server_exceptions=False)


def test_a_review_is_answered_with_a_patch() -> None:
    """The quick start of the README."""
    answer = client().post("/mutate?timeout=3s", content=REVIEW, headers=JSON)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body["apiVersion"] == "admission.k8s.io/v1"
    assert body["kind"] == "AdmissionReview"
    assert body["response"]["uid"] == json.loads(REVIEW)["request"]["uid"]
    assert body["response"]["patchType"] == "JSONPatch"
    paths = [each["path"] for each in json.loads(base64.b64decode(body["response"]["patch"]))]
    assert "/spec/minReadySeconds" in paths


@pytest.mark.parametrize(
    "content_type", ["text/plain", "", "application/yaml", "application/jsonx", "multipart/json"]
)
def test_another_content_type_is_415(content_type: str) -> None:
    """Only JSON is read."""
    answer = client().post("/mutate", content=REVIEW, headers={"content-type": content_type})
    assert answer.status_code == 415
    assert answer.text == "expected the content type application/json\n"


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", " application/json "]
)
def test_parameters_and_case_of_the_content_type_do_not_matter(content_type: str) -> None:
    """What HTTP calls equal is equal."""
    answer = client().post("/mutate", content=REVIEW, headers={"content-type": content_type})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"a": NaN}', "not JSON"),
        (b"[" * 100_000, "not an AdmissionReview"),
        (b"[]", "not an AdmissionReview"),
        (b"null", "not an AdmissionReview"),
        (b"{}", "apiVersion"),
        (REVIEW.replace(b"admission.k8s.io/v1", b"admission.k8s.io/v1beta1"), "apiVersion"),
        (REVIEW.replace(b'"AdmissionReview"', b'"Review"'), "kind"),
        (REVIEW.replace(b'"uid"', b'"uuid"'), "`uid` - at `$.request`"),
        (json.dumps({**json.loads(REVIEW), "request": None}).encode(), "request"),
    ],
)
def test_a_body_that_is_no_review_is_400_and_says_why(body: bytes, said: str) -> None:
    """One line, no stack."""
    answer = client().post("/mutate", content=body, headers=JSON)
    assert answer.status_code == 400
    assert said in answer.text
    assert "Traceback" not in answer.text
    assert len(answer.text) < 300


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_413(declared: bool) -> None:  # noqa: FBT001 - a case
    """Whether it says so beforehand or not."""
    body = b" " * 2000

    def chunks() -> Any:
        yield body[:1000]
        yield body[1000:]

    answer = client(Limits(body_bytes=1500)).post(
        "/mutate", content=body if declared else chunks(), headers=JSON
    )
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"


def test_seven_mebibytes_is_the_limit() -> None:
    """A review of two objects of the greatest size that etcd takes fits; one byte more does not."""
    limit = 7 * 2**20
    padded = REVIEW + b" " * (limit - len(REVIEW))
    assert client().post("/mutate", content=padded, headers=JSON).status_code == 200
    assert client().post("/mutate", content=padded + b" ", headers=JSON).status_code == 413


def test_only_post_to_mutate_is_known() -> None:
    """No documentation pages, no other method, no other path."""
    assert client().get("/mutate").status_code == 405
    for path in ("/", "/docs", "/openapi.json", "/redoc", "/metrics", "/livez"):
        assert client().get(path).status_code == 404


def test_an_unexpected_error_lets_the_request_pass_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All or nothing: the stack is in the log, and nowhere else."""

    def fail(*_: object) -> None:
        message = "a secret of the inside"
        raise RuntimeError(message)

    sound = Admission(Configuration()).mutations
    broken = Mutation(apply=fail, fields=sound[-1].fields)
    admission = Admission(Configuration(), mutations=(*sound, broken))
    logging.getLogger("webhook").propagate = True
    metrics = Metrics()
    app = TestClient(webhook_app(admission.answer, metrics, State()))
    with caplog.at_level(logging.ERROR, "webhook"):
        answer = app.post("/mutate", content=REVIEW, headers=JSON)
    response = answer.json()["response"]
    assert response["allowed"]
    assert "patch" not in response
    assert response["warnings"] == [
        "seamless-rollouts: an unexpected error: allowed, nothing is patched"
    ]
    assert "a secret of the inside" not in answer.text
    assert "a secret of the inside" in caplog.text
    assert b"seamless_errors_total 1.0" in metrics.text()


def test_beyond_the_bound_of_requests_in_flight_the_answer_is_503_at_once() -> None:
    """A refusal that failurePolicy Ignore turns into `unpatched`, not a queue."""

    async def body() -> None:
        entered, leave = asyncio.Event(), asyncio.Event()

        async def learn() -> None:
            entered.set()
            await leave.wait()

        app = webhook_app(
            Admission(Configuration()).answer,
            Metrics(),
            State(),
            limits=Limits(in_flight=1),
            learn=lambda _: None if leave.is_set() else learn,
        )
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="https://webhook") as http:
            first = asyncio.create_task(http.post("/mutate", content=REVIEW, headers=JSON))
            await entered.wait()
            second = await http.post("/mutate", content=REVIEW, headers=JSON)
            leave.set()
            assert second.status_code == 503
            assert (await first).status_code == 200
            assert (await http.post("/mutate", content=REVIEW, headers=JSON)).status_code == 200

    asyncio.run(body())


def test_a_body_that_does_not_arrive_in_time_is_408() -> None:
    """A half-sent request does not hold its place for long."""

    async def body() -> None:
        app = webhook_app(
            Admission(Configuration()).answer,
            Metrics(),
            State(),
            limits=Limits(body_seconds=0.05),
        )

        transport = httpx.ASGITransport(app)
        messages: list[Any] = []

        async def receive() -> Any:
            if not messages:
                messages.append(None)
                return {"type": "http.request", "body": REVIEW[:100], "more_body": True}
            return await asyncio.sleep(60)

        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/mutate",
            "headers": [(b"content-type", b"application/json")],
            "query_string": b"",
            "root_path": "",
        }
        await transport.app(scope, receive, send)
        assert sent[0]["status"] == 408

    asyncio.run(body())


def test_while_draining_each_answer_asks_to_connect_anew() -> None:
    """The API server then takes its next request elsewhere."""
    state = State()
    app = client(state=state)
    assert "connection" not in app.post("/mutate", content=REVIEW, headers=JSON).headers
    state.draining = True
    answer = app.post("/mutate", content=REVIEW, headers=JSON)
    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"


def test_health_says_what_is_missing() -> None:
    """Alive always, ready only when nothing is missing and nobody is leaving."""
    problems: list[str] = ["namespaces are not known yet", "no certificate"]
    state = State()
    app = TestClient(health_app(Metrics(), state, lambda: problems))
    assert app.get("/livez").status_code == 200
    unready = app.get("/readyz")
    assert unready.status_code == 503
    assert unready.text == "not ready: namespaces are not known yet; no certificate\n"
    problems.clear()
    assert app.get("/readyz").status_code == 200
    state.draining = True
    assert app.get("/readyz").text == "not ready: shutting down\n"
    assert app.get("/livez").status_code == 200


def test_metrics_count_what_happened_with_bounded_labels() -> None:
    """A stranger's kind or operation is counted as `other`."""
    metrics = Metrics()
    app = TestClient(webhook_app(Admission(Configuration()).answer, metrics, State()))
    app.post("/mutate", content=REVIEW, headers=JSON)
    app.post("/mutate", content=REVIEW.replace(b'"Deployment"', b'"Pony"'), headers=JSON)
    app.post("/mutate", content=b"{}", headers=JSON)
    app.post("/mutate", content=b"{}")
    text = metrics.text().decode()
    reviews = 'seamless_reviews_total{kind="%s",operation="CREATE",outcome="%s",reason="%s"} 1.0'
    for line in (
        reviews % ("Deployment", "patched", ""),
        reviews % ("other", "skipped", "kind"),
        'seamless_settings_applied_total{setting="pre-stop-sleep"} 1.0',
        'seamless_requests_refused_total{status="400"} 1.0',
        'seamless_requests_refused_total{status="415"} 1.0',
        "seamless_requests_in_flight 0.0",
        "seamless_errors_total 0.0",
    ):
        assert line in text


def test_what_is_not_known_yet_is_learned_before_the_answer() -> None:
    """A namespace that came with the same `kubectl apply` counts with what it says."""
    known: dict[str, Namespace] = {}
    admission = Admission(Configuration(), namespaces=known.get)

    async def fetch(name: str) -> None:
        annotations = {"seamless-rollouts.dev/min-ready": "45s"}
        labels = {"seamless-rollouts.dev/inject": "enabled"}
        known[name] = admission.table.namespace(name, labels, annotations)

    def learn(request: Request) -> Callable[[], Awaitable[None]] | None:
        name = request.namespace or ""
        return None if name in known else partial(fetch, name)

    app = TestClient(webhook_app(admission.answer, Metrics(), State(), learn=learn))
    response = app.post("/mutate", content=REVIEW, headers=JSON).json()["response"]
    patch = json.loads(base64.b64decode(response["patch"]))
    assert {"op": "add", "path": "/spec/minReadySeconds", "value": 45} in patch
