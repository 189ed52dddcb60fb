"""One trace of a job, from its submit over claim and run to the result; and log lines that name it."""

import asyncio
import io
import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from spoolway import JobClient, RunningJob, Spooler
from spoolway_server.app import SpoolwayServer
from spoolway_server.config import Config
from spoolway_server.logs import setup_logging
from spoolway_server.tracing import Tracing, TracingMissing, start_tracing
from tests.server.lab import Caller, Lab, eventually


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """Where all spans of this process go."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def log_lines() -> Iterator[io.StringIO]:
    """What is logged as JSON, at the finest level."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    setup_logging(log_format="json", level="debug", stream=stream)
    yield stream
    root.handlers[:], level = before
    root.setLevel(level)


def server_of(tracing: Tracing | None) -> SpoolwayServer:
    settings = {
        "server": {"port": 0, "drain_pause_s": 0},
        "storages": {"main": {"type": "memory"}},
        "catalog": {"path": ":memory:"},
    }
    return SpoolwayServer(Config.model_validate(settings), tracing=tracing)


async def run_one(server: SpoolwayServer, tracer: trace.Tracer) -> tuple[str, dict[str, str]]:
    """Submit a job within a span of the user's program and run it; returns its name and what the run saw."""
    seen: dict[str, str] = {}

    def run(job: RunningJob) -> dict[str, int]:
        seen[job.name] = f"{trace.get_current_span().get_span_context().trace_id:032x}"
        with tracer.start_as_current_span("measure"):
            return {}

    spooler = Spooler("sim-1", backend="sim", config={}, run=run, address=server.address, user="robot")
    serving = asyncio.create_task(spooler.serve())
    await eventually(lambda: bool(server.spoolers.sessions))
    async with JobClient(server.address, user="alice") as client:
        with tracer.start_as_current_span("experiment"):
            job = await client.submit("sim", {})
        await job.result()
    spooler.drain()
    await serving
    return job.name, seen


async def test_one_trace_of_a_job_is_whole(exporter: InMemorySpanExporter, log_lines: io.StringIO) -> None:
    """Program, submit, claim, run with what it does itself, result: one trace, each below the right one."""
    tracer = trace.get_tracer("test")
    server = server_of(Tracing(trace.get_tracer("spoolway")))
    await server.start()
    exporter.clear()

    name, seen = await run_one(server, tracer)
    await server.stop(1)

    spans = {span.name: span for span in exporter.get_finished_spans()}
    root = spans["experiment"]
    assert root.context is not None
    trace_id = f"{root.context.trace_id:032x}"
    tree = {
        name: _parent_name(span, spans)
        for name, span in spans.items()
        if span.context is not None and span.context.trace_id == root.context.trace_id
    }
    for span_name, parent in tree.items():
        print(f"{span_name}  below  {parent}")  # noqa: T201  # the trace, for who looks
    assert tree == {
        "experiment": None,
        "spoolway.v1.JobService/SubmitJob": "experiment",
        "claim": "spoolway.v1.JobService/SubmitJob",
        "run": "spoolway.v1.JobService/SubmitJob",
        "measure": "run",
        "result": "spoolway.v1.JobService/SubmitJob",
    }
    assert seen == {name: trace_id}
    assert spans["result"].attributes is not None
    assert spans["result"].attributes["spoolway.job"] == name
    assert spans["result"].attributes["spoolway.state"] == "DONE"
    for span in spans.values():
        assert (span.start_time or 0) <= (span.end_time or 0)
    lines = [json.loads(line) for line in log_lines.getvalue().splitlines()]
    [ended] = [line for line in lines if line["event"] == "job ended"]
    assert ended["job"] == name
    assert (ended["backend"], ended["storage"], ended["caller"]) == ("sim", "main", "alice")
    assert (ended["trace_id"], ended["spooler"], ended["state"]) == (trace_id, "sim-1", "DONE")


def _parent_name(span: ReadableSpan, spans: dict[str, ReadableSpan]) -> str | None:
    if span.parent is None:
        return None
    return next(
        name
        for name, other in spans.items()
        if other.context is not None and other.context.span_id == span.parent.span_id
    )


async def test_without_tracing_nothing_is_carried(exporter: InMemorySpanExporter) -> None:
    """By default the server stores no context, and a run is in no trace."""
    server = server_of(None)
    await server.start()

    _, seen = await run_one(server, trace.get_tracer("test"))
    stored = (await server.storages.default.provider.changes("")).cursor
    await server.stop(1)

    assert set(seen.values()) == {"0" * 32}
    assert stored


async def test_a_calls_log_lines_name_its_caller(lab: Lab, alice: Caller, log_lines: io.StringIO) -> None:
    """What is logged within a call has the caller; what the server does by itself has none."""
    await lab.caller("robot").register("other")
    job = await alice.submit()
    lab.faults().fail_once(RuntimeError("boom"), "get")
    with pytest.raises(grpc.aio.AioRpcError, match="INTERNAL"):
        await alice.job(job.name)

    lines = [json.loads(line) for line in log_lines.getvalue().splitlines()]
    [failed] = [line for line in lines if line["event"] == "call failed"]
    assert failed["caller"] == "alice"
    assert failed["method"] == "/spoolway.v1.JobService/GetJob"


def test_without_the_extra_tracing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is told to trace and can't ends at its start, with the way out."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)

    with pytest.raises(TracingMissing, match=r"spoolway-server\[otel\]"):
        start_tracing()


def test_times_of_spans_are_exact_to_the_microsecond() -> None:
    """Wall-clock times become the nanoseconds of OpenTelemetry."""
    from spoolway_server.tracing import _nanoseconds

    assert _nanoseconds(datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)) == 1767225600000001000
