"""OpenTelemetry, where the program uses it: calls carry its context, and runs continue the job's trace.

Nothing is imported: who traces has imported OpenTelemetry already, and who does not pays nothing.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["current_context", "run_span"]


def current_context() -> list[tuple[str, str]]:
    """What a call's metadata carries of the trace under way."""
    propagate: Any = sys.modules.get("opentelemetry.propagate")
    if propagate is None:
        return []
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return list(carrier.items())


@contextmanager
def run_span(job: str, trace_context: str) -> Iterator[None]:
    """The span of a run, in the trace of its job."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    propagate: Any = sys.modules.get("opentelemetry.propagate")
    if not trace_context or trace is None or propagate is None:
        yield
        return
    parent = propagate.extract({"traceparent": trace_context})
    tracer = trace.get_tracer("spoolway")
    with tracer.start_as_current_span("run", context=parent, attributes={"spoolway.job": job}):
        yield
