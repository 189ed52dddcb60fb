import io
import json
import logging
import warnings

import pytest
import structlog

from spoolway_server.logs import redact, setup_logging


@pytest.fixture(autouse=True)
def _logging_as_before():
    """Put the process's logging back, which belongs to pytest."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)
    structlog.reset_defaults()


def lines_of(log_format: str, level: str = "info"):
    stream = io.StringIO()
    setup_logging(log_format=log_format, level=level, stream=stream)
    return lambda: stream.getvalue().splitlines()


def test_json_is_one_object_a_line():
    """Each message is one JSON object with its event, level, logger, time in UTC and facts."""
    lines = lines_of("json")

    structlog.get_logger("spoolway").info("job done", job="backends/b/jobs/1", size=3)

    (entry,) = map(json.loads, lines())
    assert entry["timestamp"].endswith("Z")
    assert {**entry, "timestamp": ""} == {
        "event": "job done",
        "job": "backends/b/jobs/1",
        "size": 3,
        "level": "info",
        "logger": "spoolway",
        "timestamp": "",
    }


def test_console_has_no_colours_without_a_terminal():
    """Where nobody looks at a terminal there are no escape sequences."""
    lines = lines_of("console")

    structlog.get_logger("spoolway").warning("careful", job="1")

    assert "careful" in lines()[0]
    assert "\x1b" not in lines()[0]


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_secret_is_logged(log_format):
    """Secrets are hidden under their names at any depth, in texts, in addresses and in tracebacks."""
    lines = lines_of(log_format)
    log = structlog.get_logger("spoolway")

    log.info("a", token="hunter2", login={"path": "hunter2"}, outer={"app_secret": "hunter2"})
    log.info("b", metadata=[("authorization", "Bearer hunter2"), ("user", "me")])
    log.info("c", address="mongodb://atom:hunter2@host/db", said="password=hunter2 token: hunter2")
    log.info("d", text='{"refresh_token": "hunter2"} Bearer hunter2')
    log.info("f", said=f"he pasted spw_{'0123abcd' * 8} into the chat")
    logging.getLogger("grpc").warning("connect with %s", {"password": "hunter2"})
    try:
        raise ValueError("bad login: hunter2")
    except ValueError:
        log.exception("e")

    text = "\n".join(lines())
    assert "hunter2" not in text
    assert "0123abcd" not in text
    assert text.count("***") >= 10
    assert "mongodb://***@host/db" in text


def test_what_is_no_secret_stays():
    """Other facts pass the redaction unchanged, whatever their type."""
    event = {"event": "tokens are fine", "job": "backends/b/jobs/1", "sizes": (1, 2), "none": None}

    assert redact(None, "info", dict(event)) == event | {"sizes": [1, 2]}


def test_messages_of_the_standard_library_go_the_same_way():
    """grpc's own messages come in the same form as ours, with their logger's name."""
    lines = lines_of("json")

    logging.getLogger("grpc.aio").error("stream %d broke", 3)

    (entry,) = map(json.loads, lines())
    assert (entry["event"], entry["logger"], entry["level"]) == ("stream 3 broke", "grpc.aio", "error")


def test_warnings_are_logged():
    """A Python warning is a message like any other."""
    lines = lines_of("json")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        setup_logging(log_format="json", stream=io.StringIO())
        lines = lines_of("json")
        warnings.warn("old", stacklevel=1)

    (entry,) = map(json.loads, lines())
    assert (entry["level"], entry["logger"]) == ("warning", "py.warnings")


def test_the_level_counts_for_all_and_debug_keeps_the_libraries_quiet():
    """Messages below the level are dropped; at debug only ours are added, not each step of grpc."""
    quiet = lines_of("json", "warning")
    structlog.get_logger("spoolway").info("no")
    assert quiet() == []

    lines = lines_of("json", "debug")
    structlog.get_logger("spoolway").debug("yes")
    logging.getLogger("grpc._channel").debug("no")
    logging.getLogger("watchfiles.main").info("1 change detected")

    assert [json.loads(line)["event"] for line in lines()] == ["yes"]
