"""How documents from outside are read: as JSON is, and strictly."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolway_server.documents import parse_document
from spoolway_server.errors import ServiceError

TEXTS = st.text(st.characters(codec="utf-8"))
DOCUMENTS: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(TEXTS, parts, max_size=4),
    max_leaves=20,
)


def typed(document: Any) -> Any:
    """A document in which 1, 1.0 and true differ."""
    match document:
        case dict():
            return {key: typed(value) for key, value in document.items()}
        case list():
            return [typed(value) for value in document]
        case _:
            return type(document).__name__, repr(document)


@given(DOCUMENTS, st.booleans(), st.sampled_from([None, 2]))
def test_a_document_is_read_as_python_reads_it(document: Any, ascii_only: bool, indent: int | None) -> None:
    """Values and their types are those that JSON has in Python."""
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent)

    assert typed(parse_document(text.encode(), field="content")) == typed(json.loads(text))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": 1, "a": 1}', "DOCUMENT_DUPLICATE_KEY"),
        (b'[{"a": {"b": 1, "c": 2, "b": 3}}]', "DOCUMENT_DUPLICATE_KEY"),
        (b'{"a": 1, "\\u0061": 2}', "DOCUMENT_DUPLICATE_KEY"),
        (b'{"a:b": ":", "a:b": "::"}', "DOCUMENT_DUPLICATE_KEY"),
        (b"[1e400]", "DOCUMENT_NOT_FINITE"),
        (b"[" + b"9" * 400 + b".0]", "DOCUMENT_NOT_FINITE"),
        (b"[NaN]", "DOCUMENT_NOT_FINITE"),
        (b'["\\ud800"]', "DOCUMENT_LONE_SURROGATE"),
        (b"[" + b"1" * 5000 + b"]", "DOCUMENT_NUMBER_TOO_LONG"),
        (b'["\xff"]', "DOCUMENT_NOT_UTF8"),
        (b"[" * 101 + b"]" * 101, "DOCUMENT_TOO_DEEP"),
        (b"[" * 5000 + b"]" * 5000, "DOCUMENT_TOO_DEEP"),
        (b"[1,]", "DOCUMENT_NOT_JSON"),
        (b"[1] 2", "DOCUMENT_NOT_JSON"),
    ],
)
def test_each_mistake_is_told(content: bytes, reason: str) -> None:
    """Each mistake has its own reason."""
    with pytest.raises(ServiceError) as refused:
        parse_document(content, field="content")

    assert refused.value.reason == reason


@pytest.mark.parametrize("text", ["18446744073709551615", "18446744073709551616", "-9223372036854775809"])
def test_large_integers_stay_integers(text: str) -> None:
    """Around 64 bits nothing turns into a float."""
    read = parse_document(f"[{text}]".encode(), field="content")

    assert read == [int(text)]
    assert isinstance(read[0], int)


def test_small_floats_are_exact() -> None:
    """The nearest double, as Python has it."""
    assert parse_document(b"[0.1, 1e-7, 5e-324]", field="content") == [0.1, 1e-7, math.ulp(0.0)]
