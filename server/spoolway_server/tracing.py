"""OpenTelemetry, as an extra: one trace a job, from its submit over claim and run to its end.

The context of the submit is stored with the job and travels in its assignment (W3C `traceparent`), so that
whichever server claims it and whichever spooler runs it add their spans to the same trace. Where tracing is
off, nothing of OpenTelemetry is imported and no call pays for it.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from spoolway_providers.model import Job

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

__all__ = ["Tracing", "TracingMissing", "current_trace_id", "start_tracing"]

NAME = "spoolway"


class TracingMissing(Exception):
    """OpenTelemetry is not installed; the message says how to."""


class Tracing:
    """Spans of one server. Without a tracer it does nothing."""

    def __init__(self, tracer: "Tracer | None" = None) -> None:
        """Record with `tracer`; None: off."""
        self._tracer = tracer

    @property
    def on(self) -> bool:
        """Whether spans are recorded."""
        return self._tracer is not None

    @contextmanager
    def call(self, method: str, metadata: Mapping[str, Any]) -> Iterator[None]:
        """The span of a call, below its caller's where that sent one."""
        if self._tracer is None:
            yield
            return
        from opentelemetry import propagate
        from opentelemetry.trace import SpanKind

        parent = propagate.extract(metadata)
        attributes = {"rpc.system": "grpc", "rpc.method": method}
        with self._tracer.start_as_current_span(
            method, context=parent, kind=SpanKind.SERVER, attributes=attributes
        ):
            yield

    def context(self) -> str:
        """The `traceparent` of the span that is under way; empty if there is none."""
        if self._tracer is None:
            return ""
        from opentelemetry import propagate

        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return carrier.get("traceparent", "")

    def claimed(self, job: Job) -> None:
        """A job has gone to a spooler: the span of its wait."""
        if self._tracer is not None and job.trace:
            self._span("claim", job, job.times[-2].at if len(job.times) > 1 else job.created_at)

    def changed(self, before: Job, after: Job) -> None:
        """This process has committed a change of a job: the span of its end, if it is one."""
        if self._tracer is not None and after.trace and after.is_terminal and not before.is_terminal:
            self._span("result", after, before.updated_at)

    def _span(self, name: str, job: Job, since: datetime) -> None:
        from opentelemetry import propagate

        if self._tracer is None:
            return
        span = self._tracer.start_span(
            name,
            context=propagate.extract({"traceparent": job.trace}),
            start_time=_nanoseconds(since),
            attributes=_attributes(job),
        )
        span.end(_nanoseconds(job.updated_at))


def start_tracing() -> Tracing:
    """Tracing that sends its spans where OpenTelemetry's variables say, such as OTEL_EXPORTER_OTLP_ENDPOINT.

    Raises:
        TracingMissing: the extra is not installed.
    """
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        message = (
            "tracing needs the extra: pip install 'spoolway-server[otel]', or set tracing.enabled = false"
        )
        raise TracingMissing(message) from error
    # Variables win over what is set here: OTEL_SERVICE_NAME among them.
    provider = TracerProvider(resource=Resource.create({"service.name": NAME}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return Tracing(provider.get_tracer(NAME))


def current_trace_id() -> str:
    """The id of the trace that is under way, for logs; empty without one. Never imports OpenTelemetry."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return ""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


def _attributes(job: Job) -> dict[str, str]:
    attempt = job.attempts[-1] if job.attempts else None
    return {
        "spoolway.job": str(job.key),
        "spoolway.backend": job.key.backend,
        "spoolway.state": job.state.value,
        "spoolway.spooler": attempt.spooler if attempt else "",
    }


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1000
