"""A span for each review, for those who trace their API server; an optional extra.

    pip install seamless-rollouts[tracing]
    seamless serve --tracing

Where the spans go, and how many of them, is said by the environment variables that OpenTelemetry
defines (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER`, …). The API server sends its own
trace along where its tracing is on: a review is a child of it. A span names what the log names, and
holds nothing of the object.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

from webhook import VERSION
from webhook.decision.admission import Answer
from webhook.decision.outcomes import SkipReason

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from starlette.types import Scope

SERVICE: Final = "seamless-rollouts"
_HEADERS: Final = (b"traceparent", b"tracestate")
_NANOSECONDS: Final = 1_000_000_000


class TracingError(Exception):
    """There can be no traces; the text says why."""


def check() -> None:
    """Make sure that what traces need is here.

    Raises:
        TracingError: it is not.
    """
    try:
        import opentelemetry.exporter.otlp.proto.http
        import opentelemetry.sdk.trace  # noqa: F401 - only looked for
    except ImportError as error:
        message = f"--tracing: {error}: expected `pip install seamless-rollouts[tracing]`"
        raise TracingError(message) from None


class Tracing:
    """Makes a span of each review, after it was answered.

    Args:
        provider: where the spans go; by default what the environment says.

    Raises:
        TracingError: the environment makes no sense.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider or _from_environment()
        self._extract = TraceContextTextMapPropagator().extract
        self._server, self._failed = SpanKind.SERVER, StatusCode.ERROR
        self._tracer = self._provider.get_tracer("webhook", VERSION)

    def stop(self) -> None:
        """Send what is left, within the bounds that the environment sets."""
        self._provider.shutdown()

    def observe(self, answer: Answer, seconds: float, scope: Scope) -> None:
        """Make the span of a review that has just been answered."""
        request, decision = answer.request, answer.decision
        if request is None or decision is None:
            return
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in _HEADERS
        }
        ended = time.time_ns()
        attributes: dict[str, Any] = {
            "k8s.namespace.name": request.namespace or "",
            "seamless.uid": request.uid,
            "seamless.kind": request.kind.kind,
            "seamless.name": request.name or "",
            "seamless.operation": request.operation,
            "seamless.dry_run": request.dry_run is True,
            "seamless.outcome": answer.outcome,
            "seamless.reason": decision.skipped or "",
            "seamless.applied": decision.applied,
            "seamless.warnings": tuple(alert.code for alert in decision.alerts),
        }
        span = self._tracer.start_span(
            "review",
            context=self._extract(carrier),
            kind=self._server,
            attributes=attributes,
            start_time=ended - int(seconds * _NANOSECONDS),
        )
        if decision.skipped == SkipReason.ERROR:
            span.set_status(self._failed, "unexpected error")
        span.end(ended)


def _from_environment() -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    own = {"service.name": SERVICE, "service.version": VERSION}
    pod, namespace = os.environ.get("POD_NAME"), os.environ.get("POD_NAMESPACE")
    if pod:
        own["k8s.pod.name"] = pod
    if namespace:
        own["service.namespace"] = namespace
    try:
        # What the environment says of the resource wins over what we say.
        resource = Resource(own).merge(Resource.create())
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": SERVICE}))
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except ValueError as error:
        message = f"--tracing: {error}"
        raise TracingError(message) from None
    return provider
