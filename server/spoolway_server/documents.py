"""JSON documents from outside: read strictly, with a bound on everything."""

import asyncio
import json
import re
from typing import Any, Never

import grpc
import msgspec

from spoolway_server.errors import ServiceError

__all__ = ["MAX_DEPTH", "check_document", "check_result", "parse_document"]

MAX_DEPTH = 100
"""Levels of nesting."""
LARGE_BYTES = 64 * 1024
"""Longer documents are parsed in a thread, so that the event loop goes on."""


async def check_document(content: bytes, *, field: str, max_bytes: int, max_depth: int = MAX_DEPTH) -> Any:
    """The parsed document, or the ServiceError that says what is wrong with it."""
    if not content:
        raise _invalid("DOCUMENT_EMPTY", field, f"{field} is empty; send one JSON document")
    if len(content) > max_bytes:
        raise ServiceError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "CONTENT_TOO_LARGE",
            f"{field} has {len(content)} bytes; the limit is {max_bytes}: send less at once",
            metadata={"limit": max_bytes, "size": len(content)},
            field=field,
        )
    if len(content) > LARGE_BYTES:
        return await asyncio.to_thread(parse_document, content, field=field, max_depth=max_depth)
    return parse_document(content, field=field, max_depth=max_depth)


async def check_result(content: bytes, *, field: str, max_bytes: int) -> None:
    """Let a spooler's result pass if it is one UTF-8 JSON document, or raise ServiceError.

    Nobody here looks into a result: it is scanned, not parsed, and what a strict reader might mind, such as
    a key that comes twice, is between the spooler and its clients.
    """
    if 0 < len(content) <= min(max_bytes, LARGE_BYTES) and _is_json(content):
        return
    await check_document(content, field=field, max_bytes=max_bytes)


def _is_json(content: bytes) -> bool:
    try:
        content.decode("utf-8")
        msgspec.json.decode(content, type=msgspec.Raw)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return False
    # Few brackets, be they within strings, can't be nested deep.
    return content.count(b"[") + content.count(b"{") <= MAX_DEPTH or not _is_deeper(
        _outside_strings(content), MAX_DEPTH
    )


def parse_document(content: bytes, *, field: str, max_depth: int = MAX_DEPTH) -> Any:
    """One UTF-8 JSON document: no duplicate keys, no NaN or Infinity, at most `max_depth` levels.

    Half a character (a lone surrogate) and integers of thousands of digits are refused too: JSON can write
    them, but hardly any reader takes them.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"{field} is not UTF-8 at byte {error.start}"
        raise _invalid("DOCUMENT_NOT_UTF8", field, message) from error
    try:
        document = _DECODER.decode(text)
    except _DuplicateKeyError as error:
        message = f"{field} has the key {str(error)[:80]!r} twice in one object"
        raise _invalid("DOCUMENT_DUPLICATE_KEY", field, message) from error
    except _NotFiniteError as error:
        raise _not_finite(field, error) from error
    except RecursionError:
        # The cause would be a traceback of a thousand frames.
        raise _too_deep(field, max_depth) from None
    except json.JSONDecodeError as error:
        raise _invalid("DOCUMENT_NOT_JSON", field, f"{field} is not JSON: {error}") from error
    except ValueError as error:
        message = f"{field} has an integer of thousands of digits; send it as a string"
        raise _invalid("DOCUMENT_NUMBER_TOO_LONG", field, message) from error
    outline = _outside_strings(content)
    if _is_deeper(outline, max_depth):
        raise _too_deep(field, max_depth)
    if _may_overflow(outline):
        _check_floats(text, field)
    if _SURROGATE_ESCAPE.search(text) and _has_lone_surrogate(document):
        message = f"{field} has a \\u escape that is half a character; send characters whole"
        raise _invalid("DOCUMENT_LONE_SURROGATE", field, message)
    return document


class _DuplicateKeyError(Exception):
    pass


class _NotFiniteError(Exception):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        raise _DuplicateKeyError(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return made


def _refuse_constant(name: str) -> Never:
    raise _NotFiniteError(name)


def _finite_float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _NotFiniteError(f"the number {text[:40]}")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)
_FLOAT_CHECKER = json.JSONDecoder(parse_float=_finite_float)
"""A call a number: used only where a number may be too large."""


_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def _has_lone_surrogate(document: Any) -> bool:
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


# What follows looks at documents that are JSON for sure, with a few passes in C instead of a step a value.

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_OVERFLOWING_DIGITS = b"0" * 308


def _outside_strings(content: bytes) -> bytes:
    if b"\\" in content:
        return _STRING.sub(b"", content)
    return b"".join(content.split(b'"')[::2])


def _is_deeper(outline: bytes, limit: int) -> bool:
    """Each pass takes away the innermost brackets."""
    brackets = outline.translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(limit):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _may_overflow(outline: bytes) -> bool:
    """Whether a number has an exponent, or very many digits."""
    numbers = outline.replace(b"true", b"").replace(b"false", b"")
    return b"e" in numbers or b"E" in numbers or _OVERFLOWING_DIGITS in numbers.translate(_DIGITS)


def _check_floats(text: str, field: str) -> None:
    try:
        _FLOAT_CHECKER.decode(text)
    except _NotFiniteError as error:
        raise _not_finite(field, error) from error


def _not_finite(field: str, error: _NotFiniteError) -> ServiceError:
    message = f"{field} has {error}, which is not JSON; send null or a number"
    return _invalid("DOCUMENT_NOT_FINITE", field, message)


def _too_deep(field: str, max_depth: int) -> ServiceError:
    message = f"{field} is nested deeper than {max_depth} levels"
    return ServiceError(
        grpc.StatusCode.INVALID_ARGUMENT,
        "DOCUMENT_TOO_DEEP",
        message,
        metadata={"limit": max_depth},
        field=field,
    )


def _invalid(reason: str, field: str, message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, message, field=field)
