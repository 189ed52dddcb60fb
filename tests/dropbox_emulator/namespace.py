"""The files of one account, as Dropbox keeps them: paths that ignore case, revisions, a journal for cursors.

Nothing here knows HTTP. `Refused` carries what the route answers with status 409.
"""

import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from time import monotonic
from typing import Any

Json = dict[str, Any]
HASH_BLOCK = 4 << 20


class Refused(Exception):
    """A route's own error, in the JSON form of its union."""

    def __init__(self, *tags: str, **members: Any) -> None:
        self.error: Json = {".tag": tags[-1], **members}
        for tag in reversed(tags[:-1]):
            self.error = {".tag": tag, tag: self.error}
        self.summary = "/".join(tags) + "/..."
        super().__init__(self.summary)


class TooManyWrites(Exception):
    """Somebody else writes to the namespace, and has done so for too long."""


@dataclass(frozen=True)
class Node:
    """A file or, without content, a folder."""

    path: str
    id: str
    content: bytes | None = None
    rev: str = ""
    client_modified: str = ""
    server_modified: str = ""
    content_hash: str = ""

    def metadata(self) -> Json:
        name = self.path.rsplit("/", 1)[1]
        common = {"name": name, "path_lower": self.path.lower(), "path_display": self.path, "id": self.id}
        if self.content is None:
            return {".tag": "folder", **common}
        return {
            ".tag": "file",
            **common,
            "client_modified": self.client_modified,
            "server_modified": self.server_modified,
            "rev": self.rev,
            "size": len(self.content),
            "is_downloadable": True,
            "content_hash": self.content_hash,
        }


@dataclass
class Upload:
    """An upload session."""

    data: bytearray = field(default_factory=bytearray)
    is_closed: bool = False
    is_spent: bool = False


def content_hash(data: bytes) -> str:
    blocks = (data[at : at + HASH_BLOCK] for at in range(0, len(data), HASH_BLOCK))
    return hashlib.sha256(b"".join(hashlib.sha256(block).digest() for block in blocks)).hexdigest()


class Namespace:
    """All files of one account."""

    def __init__(self, seed: str) -> None:
        self.nodes: dict[str, Node] = {}
        self.uploads: dict[str, Upload] = {}
        self.journal: list[tuple[str, str]] = []
        """(path_lower, path as displayed), oldest first: something happened at this path."""
        self.page_size = 2000
        self.write_hold_s = 0.0
        """How long a write keeps the namespace locked."""
        self.write_patience_s = 10.0
        """How long a write waits for the lock."""
        self.is_full = False
        """No space is left."""
        self.most_writers = 0
        """Writes that wanted the lock at once, at most."""
        self._writers = 0
        self._lock = threading.RLock()
        self._writing = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._known: set[str] = set()
        self._listings: dict[str, tuple[Json, list[Json], int]] = {}
        self._numbers = count(1)
        self._random = random.Random(seed)

    # Reading

    def owns(self, cursor: str) -> bool:
        return cursor in self._listings

    def find(self, path: str) -> Node:
        with self._lock:
            if path.startswith("id:"):
                node = next((n for n in self.nodes.values() if n.id == path), None)
            else:
                check_path(path, "path")
                node = self.nodes.get(path.lower())
        if node is None:
            raise Refused("path", "not_found")
        return node

    def download(self, path: str) -> Node:
        node = self.find(path)
        if node.content is None:
            raise Refused("path", "not_file")
        return node

    def list_folder(self, path: str, *, recursive: bool, limit: int | None) -> Json:
        with self._lock:
            if path:
                folder = self.find(path)
                if folder.content is not None:
                    raise Refused("path", "not_folder")
            arg = {"path": path.lower(), "recursive": recursive, "limit": limit}
            entries = [node.metadata() for low, node in self.nodes.items() if self._within(low, arg)]
            return self._page(arg, self._shuffled(entries), len(self.journal))

    def list_continue(self, cursor: str) -> Json:
        with self._lock:
            arg, rest, position = self._cursor(cursor)
            if rest:
                return self._page(arg, rest, position)
            news = self.journal[position:]
            changed = {low: display for low, display in news if self._within(low, arg)}
            entries = [self._news(low, display) for low, display in changed.items()]
            return self._page(arg, self._shuffled(entries), len(self.journal))

    def longpoll(self, cursor: str, timeout_s: float) -> bool:
        """Wait for a change that the cursor has not seen."""
        until = monotonic() + timeout_s
        with self._changed:
            while True:
                arg, rest, position = self._cursor(cursor)
                news = self.journal[position:]
                if rest or any(self._within(low, arg) for low, _ in news):
                    return True
                left = until - monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return False

    def reset_cursors(self) -> None:
        with self._changed:
            self._listings.clear()
            self._changed.notify_all()

    def _cursor(self, cursor: str) -> tuple[Json, list[Json], int]:
        try:
            return self._listings[cursor]
        except KeyError:
            raise Refused("reset") from None

    def _page(self, arg: Json, entries: list[Json], position: int) -> Json:
        size = min(arg["limit"] or self.page_size, self.page_size)
        cursor = f"cursor-{next(self._numbers)}-{self._random.getrandbits(64):016x}"
        self._listings[cursor] = (arg, entries[size:], position)
        return {"entries": entries[:size], "cursor": cursor, "has_more": len(entries) > size}

    def _news(self, low: str, display: str) -> Json:
        if low in self.nodes:
            return self.nodes[low].metadata()
        name = display.rsplit("/", 1)[1]
        return {".tag": "deleted", "name": name, "path_lower": low, "path_display": display}

    def _shuffled(self, entries: list[Json]) -> list[Json]:
        self._random.shuffle(entries)
        return entries

    @staticmethod
    def _within(low: str, arg: Json) -> bool:
        if not low.startswith(arg["path"] + "/"):
            return False
        return arg["recursive"] or "/" not in low[len(arg["path"]) + 1 :]

    # Writing

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the namespace's write lock."""
        with self._lock:
            self._writers += 1
            self.most_writers = max(self.most_writers, self._writers)
        try:
            with self._locked():
                yield
        finally:
            with self._lock:
                self._writers -= 1

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not self._writing.acquire(timeout=self.write_patience_s):
            raise TooManyWrites
        try:
            if self.write_hold_s:
                threading.Event().wait(self.write_hold_s)
            with self._changed:
                yield
                self._changed.notify_all()
        finally:
            self._writing.release()

    def put(self, commit: Json, data: bytes, *wrap: str) -> Node:
        """Store a file as the commit says; the caller holds `writing`."""
        path, mode = commit["path"], commit.get("mode") or "add"
        check_path(path, *wrap)
        if path.endswith("/"):
            raise Refused(*wrap, "malformed_path")
        old = self.nodes.get(path.lower())
        strict, digest = commit.get("strict_conflict", False), content_hash(data)
        same = old is not None and old.content is not None and old.content_hash == digest
        conflict = self._conflict(old, mode, strict=strict, same=same, is_known=self._was_there(path.lower()))
        if conflict is None:
            conflict = self._file_above(path)
        if conflict and commit.get("autorename") and conflict != "file_ancestor":
            path, old, same = self._free_name(path, mode), None, False
        elif conflict:
            raise Refused(*wrap, "conflict", conflict)
        if same and old is not None:
            return old
        if self.is_full:
            raise Refused(*wrap, "insufficient_space")
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        node = Node(
            path=old.path if old else path,
            id=old.id if old else f"id:{self._random.getrandbits(96):024x}",
            content=data,
            rev=self._next_rev(),
            client_modified=commit.get("client_modified") or now,
            server_modified=now,
            content_hash=digest,
        )
        self._make_parents(node.path)
        self._set(node)
        return node

    @staticmethod
    def _conflict(old: Node | None, mode: Any, *, strict: bool, same: bool, is_known: bool) -> str | None:
        tag = mode if isinstance(mode, str) else mode[".tag"]
        if old is not None and old.content is None:
            return "folder"
        if tag == "update":
            if old is None:
                return "file" if strict and is_known else None
            if old.rev == mode["update"]:
                return None
            return None if same and not strict else "file"
        if old is None or tag == "overwrite":
            return None
        return None if same and not strict else "file"

    def _was_there(self, low: str) -> bool:
        return low in self._known

    def _file_above(self, path: str) -> str | None:
        above = path.lower()
        while above := above.rsplit("/", 1)[0]:
            node = self.nodes.get(above)
            if node is not None and node.content is not None:
                return "file_ancestor"
        return None

    def _free_name(self, path: str, mode: Any) -> str:
        stem, dot, suffix = path.rpartition(".")
        update = isinstance(mode, dict) and mode[".tag"] == "update"
        for n in count(1):
            addition = " (conflicted copy)" if update and n == 1 else f" ({n})"
            candidate = f"{stem}{addition}{dot}{suffix}" if dot else f"{path}{addition}"
            if candidate.lower() not in self.nodes:
                return candidate
        raise AssertionError

    def move(self, arg: Json) -> Node:
        """Move a file; the caller holds `writing`."""
        source, target = arg["from_path"], arg["to_path"]
        check_path(target, "to")
        node = self.nodes.get(source.lower())
        if node is None:
            raise Refused("from_lookup", "not_found")
        if node.content is None:
            raise Refused("from_lookup", "unsupported_content_type")
        other = self.nodes.get(target.lower())
        if other is not None:
            raise Refused("to", "conflict", "folder" if other.content is None else "file")
        if self._file_above(target):
            raise Refused("to", "conflict", "file_ancestor")
        moved = replace(node, path=target, rev=self._next_rev())
        self._make_parents(target)
        self._forget(node)
        self._set(moved)
        return moved

    def make_folder(self, path: str) -> Node:
        """Make a folder; the caller holds `writing`."""
        check_path(path, "path")
        old = self.nodes.get(path.lower())
        if old is not None:
            raise Refused("path", "conflict", "folder" if old.content is None else "file")
        self._make_parents(path + "/")
        return self.nodes[path.lower()]

    def delete(self, path: str, parent_rev: str | None) -> Node:
        """Remove a file, or a folder with all in it; the caller holds `writing`."""
        check_path(path, "path_lookup")
        low = path.lower()
        node = self.nodes.get(low)
        if node is None:
            raise Refused("path_lookup", "not_found")
        if parent_rev is not None and node.rev != parent_rev:
            raise Refused("path_write", "conflict", "file")
        for below in [known for known in self.nodes if known.startswith(low + "/")]:
            del self.nodes[below]
        self._forget(node)
        return node

    def _make_parents(self, path: str) -> None:
        parts = path.split("/")[1:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/" + "/".join(parts[:depth])
            if folder.lower() not in self.nodes:
                self._set(Node(folder, f"id:{self._random.getrandbits(96):024x}"))

    def _next_rev(self) -> str:
        return f"{0x5F0000000000 + next(self._numbers):015x}"

    def _set(self, node: Node) -> None:
        self.nodes[node.path.lower()] = node
        self._known.add(node.path.lower())
        self.journal.append((node.path.lower(), node.path))

    def _forget(self, node: Node) -> None:
        del self.nodes[node.path.lower()]
        self.journal.append((node.path.lower(), node.path))

    # Upload sessions

    def start_upload(self, data: bytes = b"", *, close: bool = False) -> str:
        session = f"pid_upload_session:{self._random.getrandbits(400):0100x}"
        with self._lock:
            self.uploads[session] = Upload(bytearray(data), close)
        return session

    def append(self, cursor: Json, data: bytes, *, close: bool) -> None:
        with self._lock:
            upload = self._upload(cursor["session_id"])
            if upload.is_closed:
                raise Refused("closed")
            if cursor["offset"] != len(upload.data):
                raise Refused("incorrect_offset", correct_offset=len(upload.data))
            upload.data += data
            upload.is_closed = close

    def finish(self, arg: Json, *, batch: bool, data: bytes = b"") -> Node:
        """Commit a session; the caller holds `writing`."""
        cursor = arg["cursor"]
        try:
            upload = self._upload(cursor["session_id"])
            if batch and not upload.is_closed:
                raise Refused("not_closed")
            if cursor["offset"] != len(upload.data):
                raise Refused("incorrect_offset", correct_offset=len(upload.data))
        except Refused as refused:
            tag = refused.error[".tag"]
            raise Refused("lookup_failed", tag, **_members(refused)) from None
        node = self.put(arg["commit"], bytes(upload.data) + data, "path")
        upload.is_spent = True
        return node

    def _upload(self, session: str) -> Upload:
        upload = self.uploads.get(session)
        if upload is None or upload.is_spent:
            raise Refused("not_found")
        return upload


def check_path(path: str, *wrap: str) -> None:
    if not path.startswith("/") or "//" in path or any(part in {".", ".."} for part in path.split("/")):
        raise Refused(*wrap, "malformed_path")


def _members(refused: Refused) -> Json:
    return {name: value for name, value in refused.error.items() if name != ".tag"}
