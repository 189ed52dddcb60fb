"""Paths of an account and ids of jobs: what lies where, and which job comes first by its name alone.

Paths ignore case on Dropbox, names keep theirs: folders are compared in lower case, ids as they are written.
"""

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256

import msgspec

from spoolway_providers.errors import Unsupported
from spoolway_providers.model import JobKey

__all__ = [
    "Found",
    "Kind",
    "Layout",
    "Numbering",
    "Place",
    "backends_of",
    "id_of",
    "is_after",
    "rank_of",
    "seq_of_id",
    "time_of",
    "user_folder",
    "user_of_id",
]

_ID = re.compile(r"(\d{8}_\d{6})-([a-z0-9]+)-(.+)-([0-9a-f]{5})")
_TIME_FORMAT = "%Y%m%d_%H%M%S"
_BACKEND = re.compile(r"[a-z0-9]{1,64}")
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,199}")
_SAFE_USER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@-]{0,62}[A-Za-z0-9_@-])?")
_EPOCH = datetime.fromtimestamp(0, UTC)

_DIGITS_BITS = 20
"""Of the five hex digits that end an id."""
_IDS_A_MS = 1048
"""Ids that fit a millisecond: its number within the second, times this, still has five hex digits."""
_IDS_A_SECOND = 1000 * _IDS_A_MS


class Place(StrEnum):
    """The folders between which a job's file moves."""

    QUEUED = "Queued_Jobs"
    RUNNING = "Running_Jobs"
    FINISHED = "Finished_Jobs"
    DELETED = "Deleted_Jobs"


class Kind(StrEnum):
    """What a file is."""

    JOB = "job"
    STATUS = "status"
    RESULT = "result"
    CONFIG = "config"


class Found(msgspec.Struct, frozen=True):
    """What the path of a file says."""

    kind: Kind
    backend: str
    id: str = ""
    place: Place | None = None
    user: str = ""

    @property
    def key(self) -> JobKey:
        """The job that it belongs to."""
        return JobKey(self.backend, self.id)


class Layout:
    """The paths below `base`, which is empty but in tests: `Backend_files` for all, `spoolway` for us."""

    def __init__(self, base: str = "") -> None:
        self.files = f"{base}/Backend_files"
        self.own = f"{base}/spoolway"
        self.owner = f"{self.own}/owner.json"
        self.snapshot = f"{self.own}/index.json.z"
        self.requests = f"{self.own}/requests"
        self.uploads = f"{self.own}/uploads"
        self.policies = f"{self.own}/policy"
        self.probes = f"{self.own}/probe"

    def job(self, key: JobKey, place: Place, user: str) -> str:
        """The path of a job's file in `place`."""
        match place:
            case Place.QUEUED:
                folder = f"/{key.backend}"
            case Place.FINISHED:
                folder = f"/{key.backend}/{user}"
            case _:
                folder = ""
        return f"{self.files}/{place}{folder}/job-{key.id}.json"

    def status(self, key: JobKey, user: str) -> str:
        """The path of a job's status."""
        return f"{self.files}/Status/{key.backend}/{user}/status-{key.id}.json"

    def status_of_nobody(self, key: JobKey) -> str:
        """The path of a status that a spooler of today's systems writes, which does not know the user."""
        return self.status(key, "None")

    def result(self, key: JobKey, user: str) -> str:
        """The path of a job's result."""
        return f"{self.files}/Result/{key.backend}/{user}/result-{key.id}.json"

    def config(self, backend: str) -> str:
        """The path of a backend's config."""
        return f"{self.files}/Config/{backend}/config.json"

    def public_key(self, kid: str) -> str:
        """The path of a public key. Raises Unsupported if its id can't be the name of a file."""
        if not _SAFE_USER.fullmatch(kid):
            raise Unsupported(f"{kid!r} can't be the name of a file")
        return f"{self.files}/public_keys/{kid}.json"

    def policy(self, backend: str) -> str:
        """The path of a backend's policy."""
        return f"{self.policies}/{backend}.json"

    def tombstone(self, at: datetime, digest: str) -> str:
        """The path of what is left of a deleted job's request; a folder a day, that goes in one call."""
        return f"{self.requests}/{at:%Y%m%d}/{digest}.json"

    def parse(self, path: str) -> Found | None:
        """What a file below `files` is; None: nothing that we know."""
        name = path.rsplit("/", 1)[-1]
        parts = path[len(self.files) + 1 :].split("/")
        if not path.lower().startswith(self.files.lower() + "/") or not name.endswith(".json"):
            return None
        stem = name.removesuffix(".json")
        match [parts[0].lower(), *parts[1:]]:
            case ["queued_jobs", backend, _]:
                return _job(stem, backend.lower(), Place.QUEUED)
            case ["finished_jobs", backend, user, _]:
                return _job(stem, backend.lower(), Place.FINISHED, user)
            case [("running_jobs" | "deleted_jobs") as folder, _]:
                place = Place.RUNNING if folder == "running_jobs" else Place.DELETED
                return _job(stem, _backend_of(stem.removeprefix("job-")), place)
            case [("status" | "result") as kind, backend, user, _]:
                return _document(Kind(kind), stem, backend.lower(), user)
            case ["config", backend, _] if name == "config.json" and _BACKEND.fullmatch(backend.lower()):
                return Found(Kind.CONFIG, backend.lower())
        return None


def backends_of(field: str, text: str) -> frozenset[str]:
    """The backends that a login's field names, separated by commas. ValueError: one is no such name."""
    names = {name.strip() for name in text.split(",")} - {""}
    for name in sorted(names):
        if not _BACKEND.fullmatch(name):
            raise ValueError(f"{field}: {name!r} is no name of a backend")
    return frozenset(names)


def _job(stem: str, backend: str, place: Place, user: str = "") -> Found | None:
    job_id = stem.removeprefix("job-")
    if job_id == stem or not _JOB_ID.fullmatch(job_id) or not _BACKEND.fullmatch(backend):
        return None
    return Found(Kind.JOB, backend, job_id, place, user)


def _document(kind: Kind, stem: str, backend: str, user: str) -> Found | None:
    job_id = stem.removeprefix(f"{kind}-")
    if job_id == stem or not _JOB_ID.fullmatch(job_id) or not _BACKEND.fullmatch(backend):
        return None
    return Found(kind, backend, job_id, user=user)


def _backend_of(job_id: str) -> str:
    """The backend that an id names, where its folder doesn't; empty: it names none."""
    match = _ID.fullmatch(job_id)
    return match[2] if match else ""


def user_folder(owner: str) -> str:
    """The name of an owner's folders: the owner, or a name made of it where that is no safe path."""
    if _SAFE_USER.fullmatch(owner):
        return owner
    return "user-" + sha256(owner.encode("utf-8", "surrogatepass")).hexdigest()[:20]


def user_of_id(job_id: str) -> str:
    """The user that a dated id names; empty if it names none."""
    match = _ID.fullmatch(job_id)
    return match[3] if match else ""


def seq_of_id(job_id: str, otherwise: datetime) -> int:
    """The place in the order of submission that an id names; `otherwise` is the time of those that don't."""
    match = _ID.fullmatch(job_id)
    if match is None:
        return int(otherwise.timestamp()) << _DIGITS_BITS
    try:
        second = datetime.strptime(match[1], _TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return int(otherwise.timestamp()) << _DIGITS_BITS
    return int(second.timestamp()) << _DIGITS_BITS | int(match[4], 16)


def rank_of(seq: int) -> int:
    """The rank of a first submission, in ms, as `rules.admit` makes it."""
    number = seq & (1 << _DIGITS_BITS) - 1
    return (seq >> _DIGITS_BITS) * 1000 + min(999, number // _IDS_A_MS)


def time_of(seq: int) -> datetime:
    """The time for `rules.admit` to rank by: within the millisecond of `rank_of`."""
    return _EPOCH + timedelta(milliseconds=rank_of(seq), microseconds=500)


def is_after(seq: int, moment: datetime) -> bool:
    """Whether a place in the order was given after a moment, or about then."""
    return (seq >> _DIGITS_BITS) >= int(moment.timestamp()) - 1


class Numbering:
    """Gives places in the order of submission: ever higher, whatever the clock does."""

    def __init__(self, floor: int = 0) -> None:
        self.last = floor
        """The highest that was given."""

    def raise_to(self, seq: int) -> None:
        """Give only higher ones from now on."""
        self.last = max(self.last, seq)

    @staticmethod
    def highest_at(now: datetime) -> int:
        """The highest place that a name from before a moment can have."""
        return (int(now.timestamp()) + 1) << _DIGITS_BITS

    def next(self, now: datetime) -> int:
        """The next place."""
        ms = (now - _EPOCH) // timedelta(milliseconds=1)
        earliest = (ms // 1000) << _DIGITS_BITS | (ms % 1000) * _IDS_A_MS
        seq = max(self.last + 1, earliest)
        if seq & (1 << _DIGITS_BITS) - 1 >= _IDS_A_SECOND:
            seq = ((seq >> _DIGITS_BITS) + 1) << _DIGITS_BITS
        self.last = seq
        return seq


def id_of(seq: int, backend: str, user: str) -> str:
    """The dated id of a place in the order."""
    second = datetime.fromtimestamp(seq >> _DIGITS_BITS, UTC)
    return f"{second:{_TIME_FORMAT}}-{backend}-{user}-{seq & (1 << _DIGITS_BITS) - 1:05x}"
