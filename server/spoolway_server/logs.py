"""Logging: structlog for our own messages and the standard library's, one form and no secrets.

`setup_logging` is called once by the command line. Everything else only logs, with `structlog.get_logger()`
or `logging.getLogger()`: both go the same way.
"""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor

from spoolway_server.tracing import current_trace_id

__all__ = ["redact", "setup_logging"]

HIDDEN = "***"
_SECRET_KEYS = ("authorization", "login", "passphrase", "password", "secret", "spoolway_key", "token")
# What carries a secret within a text: a header's value, a database's address, key=value.
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[^\s,;'\"]+")
_ACCESS_TOKEN = re.compile(r"\bspw_[0-9a-f]+")
_URL_LOGIN = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@]+@")
_ASSIGNED = re.compile(
    rf"(?i)(\b\w*(?:{'|'.join(_SECRET_KEYS)})['\"]?\s*[=:]\s*)(?:'[^']*'|\"[^\"]*\"|[^\s,;&]+)"
)


def setup_logging(
    *,
    log_format: Literal["console", "json"] = "console",
    level: str = "info",
    stream: TextIO | None = None,
) -> None:
    """Send all log messages of this process to `stream` (default: stderr), secrets removed.

    `console` is for people, in colour on a terminal; `json` is one object a line, times in UTC.
    """
    stream = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # Tracebacks become text first, so that they are searched for secrets too.
                structlog.processors.format_exc_info,
                redact,
                _renderer(log_format, colors=stream.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    _quieten_libraries(root.level)


def _add_trace(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Processor: the trace that the message belongs to, if there is one."""
    if "trace_id" not in event and (trace_id := current_trace_id()):
        event["trace_id"] = trace_id
    return event


def redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Processor: hide what stands under the name of a secret, at any depth, and secrets within texts."""
    return {key: _redacted(key, value) for key, value in event.items()}


def _redacted(key: object, value: Any) -> Any:
    if isinstance(key, str) and key.lower().endswith(_SECRET_KEYS):
        return HIDDEN
    if isinstance(value, str):
        return _redacted_text(value)
    if isinstance(value, Mapping):
        return {inner: _redacted(inner, entry) for inner, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted_entry(entry) for entry in value]
    return value


def _redacted_entry(entry: Any) -> Any:
    # gRPC's metadata is pairs of key and value.
    if isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str):
        return (entry[0], _redacted(entry[0], entry[1]))
    return _redacted("", entry)


def _redacted_text(text: str) -> str:
    text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    text = _ACCESS_TOKEN.sub(HIDDEN, text)
    text = _URL_LOGIN.sub(rf"\1{HIDDEN}@", text)
    return _ASSIGNED.sub(rf"\1{HIDDEN}", text)


def _renderer(log_format: str, *, colors: bool) -> Processor:
    if log_format == "json":
        return structlog.processors.JSONRenderer(default=str)
    return structlog.dev.ConsoleRenderer(colors=colors)


def _quieten_libraries(level: int) -> None:
    """These tell each of their steps; whoever asks for debug asks for ours."""
    for name, least in (("asyncio", logging.INFO), ("grpc", logging.INFO), ("watchfiles", logging.WARNING)):
        logging.getLogger(name).setLevel(max(level, least))
    logging.captureWarnings(True)
