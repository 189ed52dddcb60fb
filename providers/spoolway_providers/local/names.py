"""What may become a part of a path, and how today's ids name their backend and user."""

import re
from datetime import datetime
from hashlib import sha256

__all__ = [
    "backend_of_id",
    "dated_id",
    "is_backend",
    "is_job_id",
    "is_user_folder",
    "user_folder",
    "user_of_id",
]

_BACKEND = re.compile(r"[a-z0-9]{1,64}")
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,199}")
_SAFE_USER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@-]{0,62}[A-Za-z0-9_@-])?")
_DATED = re.compile(r"\d{8}_\d{6}-([a-z0-9]{1,64})-(.+)-[0-9a-f]{5}")
"""A user may contain dashes, but a backend can't, and both ends have a fixed length: it fits one way only."""

_DIGITS = 0xFFFFF
"""Of the five hex digits that end a dated id."""


def is_backend(name: str) -> bool:
    """Whether a backend of this name can have folders."""
    return _BACKEND.fullmatch(name) is not None


def is_job_id(name: str) -> bool:
    """Whether a job of this id can have files."""
    return _JOB_ID.fullmatch(name) is not None


def is_user_folder(name: str) -> bool:
    """Whether a folder of this name can be a user's."""
    return _SAFE_USER.fullmatch(name) is not None


def user_folder(owner: str) -> str:
    """The name of an owner's folders: the owner, or a name made of it where that is no safe path."""
    if is_user_folder(owner):
        return owner
    return "user-" + sha256(owner.encode("utf-8", "surrogatepass")).hexdigest()[:20]


def backend_of_id(job_id: str) -> str:
    """The backend that a dated id names; empty if it names none."""
    match = _DATED.fullmatch(job_id)
    return match[1] if match else ""


def user_of_id(job_id: str) -> str:
    """The user that a dated id names; empty if it names none, or one that can't be."""
    match = _DATED.fullmatch(job_id)
    return match[2] if match and is_user_folder(match[2]) else ""


def dated_id(now: datetime, backend: str, user: str, number: int) -> str:
    """An id in today's form; no two numbers within a million of each other have the same five digits."""
    return f"{now:%Y%m%d_%H%M%S}-{backend}-{user}-{number & _DIGITS:05x}"
