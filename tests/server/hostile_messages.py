"""Requests as nobody sends them in good faith, made of the messages' own descriptors."""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

__all__ = ["requests"]

MAX_DEPTH = 4
NEVER_SET = {"StorageLogin": {"mongodb", "dropbox"}}
"""Logins that would have the server call somebody far away."""
REQUIRED = {"name", "job", "backend", "lease_token", "session", "spooler_id", "instance_id", "user"}
"""Fields without which a request gets nowhere."""
KINDS = {
    "backend",
    "backends",
    "base_path",
    "instance_id",
    "job",
    "lease_token",
    "path",
    "paths",
    "session",
    "spooler_id",
    "storage",
    "token",
    "type",
    "upload",
    "user",
}
"""Of texts that mean something to the server; by the name of a field, or what stands behind it."""
PLACES = {"path", "base_path"}
"""Where an admin may have the server make files: only where the known ones say."""
NAMED_BY = {"Storage": "storage", "Backend": "backend", "Token": "token"}
"""What `name` means in messages whose own name has this word; else a job's."""
TEXTS = [
    "",
    " ",
    "\0",
    "a" * 64,
    "a" * 65,
    "x" * 20_000,
    "../../etc/passwd",
    "/etc/shadow",
    "C:\\windows",
    "$ne",
    "'; DROP TABLE jobs; --",
    "%s%n{0}",
    "ä\u202e\U0001f4a9",
    "\ufeff",
    "0" * 32,
    "f" * 16,
    "storages/main",
    "backends/sim",
    "main_sim_simulator",
    "backends/../jobs/..",
    "backends/sim/jobs/" + "0" * 24,
    "e30=",
    "W10=",
    "eyJhIjoiMSJ9",
    "*",
    "login.path",
    "NaN",
    "-1",
]
DOCUMENTS = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"a": 1}',
    b'{"a": 1, "a": 2}',
    b'{"a": NaN}',
    b'{"a": 1e999}',
    b'{"a": "\\ud800"}',
    b"[" * 5_000,
    b'{"experiment_0": 5}',
    b'{"job_schema": {"$ref": "file:///etc/passwd"}}',
    b'{"job_schema": {"pattern": "(a+)+$"}}',
    b'{"header": {}, "payload": {"kid": 7}, "signature": 3}',
    b"9" * 5_000,
    b"{" + b'"k": 1, ' * 3_000 + b'"z": 1}',
]
_WHOLE = {
    FieldDescriptor.TYPE_INT32: 32,
    FieldDescriptor.TYPE_INT64: 64,
    FieldDescriptor.TYPE_UINT64: -64,
    FieldDescriptor.TYPE_UINT32: -32,
}


class _Values:
    """Strategies for the fields of messages; `known` are texts that mean something to the server."""

    def __init__(self, known: Mapping[str, Sequence[str]], one_in: int) -> None:
        self._known = known
        self._one_in = one_in
        """How many values are hostile; with few of them a call gets far."""

    def _mostly(self, good: st.SearchStrategy[Any], hostile: st.SearchStrategy[Any]) -> Any:
        return st.integers(1, self._one_in).flatmap(lambda one: hostile if one == 1 else good)

    def message(self, descriptor: Descriptor, depth: int = 0) -> st.SearchStrategy[Message]:
        never = NEVER_SET.get(descriptor.name, set())
        fields = [field for field in descriptor.fields if field.name not in never]
        if depth >= MAX_DEPTH:
            fields = [field for field in fields if field.message_type is None]
        made = {field.name: self._field(field, depth) for field in fields}
        given = {name: made.pop(name) for name in list(made) if name in REQUIRED and self._one_in > 10}
        return st.builds(
            lambda values: _filled(descriptor, values), st.fixed_dictionaries(given, optional=made)
        )

    def _field(self, field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name
            keys = self._one(entry["key"], depth + 1)
            return st.dictionaries(keys, self._one(entry["value"], depth + 1), max_size=3)
        one = st.deferred(lambda: self._one(field, depth + 1))
        if field.is_repeated:
            return st.lists(one, max_size=3)
        return one

    def _one(self, field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
        if field.message_type is not None:
            return self.message(field.message_type, depth)
        if field.type in _WHOLE:
            return self._mostly(st.sampled_from([0, 1, 2]), _whole(_WHOLE[field.type]))
        if field.type == FieldDescriptor.TYPE_STRING:
            own = self._known[_kind_of(field)]
            # Looked up when it is drawn: jobs come and go.
            good = st.integers(0, 1000).map(lambda number: own[number % len(own)])
            if field.name in PLACES:
                return good
            return self._mostly(good, st.sampled_from(TEXTS) | st.text(max_size=20))
        if field.type == FieldDescriptor.TYPE_BYTES:
            documents = st.sampled_from([b"{}", b'{"a": 1}'])
            return self._mostly(documents, st.sampled_from(DOCUMENTS) | st.binary(max_size=100))
        if field.enum_type is not None:
            numbers = [value.number for value in field.enum_type.values]
            return self._mostly(st.sampled_from(numbers), st.sampled_from([77, -1]))
        if field.type == FieldDescriptor.TYPE_BOOL:
            return st.booleans()
        return st.floats() | st.sampled_from([0.5, 1.0, -1.0])


def requests(descriptor: Descriptor, known: Mapping[str, Sequence[str]]) -> st.SearchStrategy[bytes]:
    """Messages of a type in bytes; one in six is broken."""
    values = _Values(known, 4).message(descriptor) | _Values(known, 40).message(descriptor)
    good = values.map(lambda message: message.SerializeToString())
    broken = st.binary(max_size=200) | st.builds(_damaged, good, st.integers(0, 10_000), st.integers(0, 255))
    return st.integers(0, 5).flatmap(lambda one: good if one else broken)


def _kind_of(field: FieldDescriptor) -> str:
    """Which of the known texts would be right."""
    name = "job" if field.name == "names" else field.name
    if name == "name":
        words = (kind for word, kind in NAMED_BY.items() if word in field.containing_type.name)
        name = next(words, "job")
    return name if name in KINDS else "nothing"


def _whole(bits: int) -> st.SearchStrategy[int]:
    least, most = (0, 2**-bits - 1) if bits < 0 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    edges = [edge for edge in (0, 1, 2, 60, 1000, 1001, -1, least, most, most // 2) if edge >= least]
    return st.sampled_from(edges) | st.integers(least, most)


def _filled(descriptor: Descriptor, values: Mapping[str, Any]) -> Message:
    """A message with these values; of a oneof the last one stays."""
    message: Message = GetMessageClass(descriptor)()
    for name, value in values.items():
        target = getattr(message, name)
        if isinstance(value, Message):
            target.CopyFrom(value)
        elif isinstance(value, list):
            target.extend(value)
        elif isinstance(value, dict):
            for key, one in value.items():
                if isinstance(one, Message):
                    target[key].CopyFrom(one)
                else:
                    target[key] = one
        else:
            setattr(message, name, value)
    return message


def _damaged(good: bytes, place: int, byte: int) -> bytes:
    if not good:
        return bytes([byte])
    at = place % len(good)
    return good[:at] if byte % 2 else good[:at] + bytes([byte]) + good[at + 1 :]
