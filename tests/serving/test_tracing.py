"""Traces: a span for each review, a child of the API server's, with nothing of the object."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests import builders
from webhook import cli
from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration
from webhook.decision.mutations.model import Mutation
from webhook.serving import tracing
from webhook.serving.tracing import Tracing

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Traced:
    """Tracing into memory."""

    def __init__(self) -> None:
        self._memory = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._memory))
        self.tracing = Tracing(provider)

    def review(
        self, body: bytes, *headers: tuple[bytes, bytes], by: Admission | None = None
    ) -> tuple[ReadableSpan, ...]:
        """Answer a body that took two milliseconds, and give the spans so far."""
        answer = (by or Admission(Configuration())).answer(body)
        self.tracing.observe(answer, 0.002, {"headers": list(headers)})
        return self._memory.get_finished_spans()


@pytest.fixture
def traced() -> Iterator[Traced]:
    """Give tracing into memory, and stop it."""
    found = Traced()
    yield found
    found.tracing.stop()


def body(given: Any = None, **more: Any) -> bytes:
    """Give a review."""
    given = builders.deployment() if given is None else given
    return orjson.dumps(builders.review(given, **more))


def test_a_review_is_a_span_of_its_own_length_that_names_what_was_done(traced: Traced) -> None:
    """Made after the answer, so that nobody waits for it."""
    (span,) = traced.review(body())
    assert (span.name, span.kind) == ("review", SpanKind.SERVER)
    assert span.parent is None
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time - span.start_time == 2_000_000
    assert span.attributes == {
        "k8s.namespace.name": builders.NAMESPACE,
        "seamless.uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "seamless.kind": "Deployment",
        "seamless.name": "web",
        "seamless.operation": "CREATE",
        "seamless.dry_run": False,
        "seamless.outcome": "patched",
        "seamless.reason": "",
        "seamless.applied": ("pre-stop-sleep", "min-ready"),
        "seamless.warnings": (),
    }


def test_a_review_is_a_child_of_the_api_servers_request(traced: Traced) -> None:
    """By the header that it sends where its tracing is on."""
    (span,) = traced.review(body(), (b"traceparent", PARENT), (b"user-agent", b"x"))
    assert span.parent is not None
    assert span.parent.is_remote
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize("parent", [b"", b"x", b"00-0-0-01", b"\xff\xff", PARENT.upper() * 50])
def test_a_parent_that_makes_no_sense_is_none(traced: Traced, parent: bytes) -> None:
    """The span stands alone."""
    (span,) = traced.review(body(), (b"traceparent", parent))
    assert span.parent is None


def test_what_is_no_review_is_no_span(traced: Traced) -> None:
    """Nothing is known of it."""
    assert traced.review(b"{}") == ()


def test_nothing_that_the_object_holds_is_in_a_span(traced: Traced) -> None:
    """Values of settings are not, and annotations are not."""
    given = builders.with_settings(builders.deployment(), min_ready="my secret")
    (span,) = traced.review(body(given))
    assert span.attributes is not None
    assert span.attributes["seamless.outcome"] == "refused"
    assert "secret" not in span.to_json()


def test_an_unexpected_error_is_the_spans_status(traced: Traced) -> None:
    """Whoever looks for failed spans finds it."""

    def fail(*_: object) -> None:
        raise RuntimeError

    sound = Admission(Configuration()).mutations
    broken = Mutation(apply=fail, fields=sound[-1].fields)
    admission = Admission(Configuration(), mutations=(*sound, broken))
    (span,) = traced.review(body(), by=admission)
    assert span.status.status_code is StatusCode.ERROR


def test_the_environment_says_where_spans_go_and_who_we_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it does not say, we do."""
    monkeypatch.setenv("POD_NAME", "webhook-0")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    found = tracing._from_environment()
    named = dict(found.resource.attributes)
    found.shutdown()
    assert named["service.name"] == "seamless-rollouts"
    assert named["k8s.pod.name"] == "webhook-0"
    assert named["deployment.environment"] == "test"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
    found = tracing._from_environment()
    named = dict(found.resource.attributes)
    found.shutdown()
    assert named["service.name"] == "ours"


def test_without_the_extra_tracing_is_wrong_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that says what to install; without the option nobody misses it."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    assert cli.main(["serve", "--port=0", "--health-port=0", "--tracing"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("seamless serve: --tracing: ")
    assert "pip install seamless-rollouts[tracing]" in error
    assert error.count("\n") == 1


def test_nothing_of_the_extra_is_imported_unless_it_is_asked_for() -> None:
    """It would take time and memory from everybody."""
    program = (
        "import sys, webhook.cli.serve, webhook.serving.app, webhook.serving.metrics;"
        "sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
