"""The server's configuration: one TOML file, and environment variables that win over it.

`load_config` reads both and reports every mistake at once, each with its dotted path. A variable's name is
`SPOOLWAY_` and the path in capitals, its parts joined by two underscores: `SPOOLWAY_SERVER__PORT=0`.

Errors: `ConfigError` (a `ValueError`) holds the list of `ConfigMistake`.
"""

import difflib
import ipaddress
import json
import math
import socket
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

__all__ = [
    "Config",
    "ConfigError",
    "ConfigMistake",
    "LeaseSettings",
    "LimitSettings",
    "ServerSettings",
    "StorageSettings",
    "Unit",
    "load_config",
]

ENV_PREFIX = "SPOOLWAY_"
_ENV_TOP_LEVEL = "default_storage"

KiB = 1024
MiB = 1024 * KiB
DAY_S = 86_400


@dataclass(frozen=True)
class ConfigMistake:
    """One thing that is wrong."""

    path: str
    """Where: the dotted path, such as `storages.main.type`."""
    problem: str
    """What is wrong; never the value of a login."""
    allowed: str = ""
    """What may stand there; empty if the problem says it."""
    source: str = ""
    """The environment variable that it came from; empty for the file."""

    def __str__(self) -> str:
        text = f"{self.path}: {self.problem}"
        if self.allowed:
            text += f"; allowed: {self.allowed}"
        return f"{text} (from {self.source})" if self.source else text


class ConfigError(ValueError):
    """The configuration is wrong: every mistake, not only the first."""

    def __init__(self, mistakes: Iterable[ConfigMistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(map(str, self.mistakes)))


@dataclass(frozen=True)
class Unit:
    """What a number counts."""

    name: str


def _not_a_boolean(value: object) -> object:
    # To Python true is 1; in a configuration it is a mistake.
    if isinstance(value, bool):
        raise PydanticCustomError("not_a_number", "not a number")
    return value


_Number = BeforeValidator(_not_a_boolean)
_Seconds = Annotated[float, _Number, Unit("seconds"), Field(allow_inf_nan=False)]
_Bytes = Annotated[int, _Number, Unit("bytes")]


def _mistake(problem: str, allowed: str = "") -> PydanticCustomError:
    return PydanticCustomError("mistake", "{problem}", {"problem": problem, "allowed": allowed})


def _on_loopback(host: str) -> str:
    """Refuse addresses that others can reach, as long as anybody who can connect may do anything."""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if loopback:
        return host
    raise _mistake(
        f"{_shown(host)} can be reached by others, and neither TLS nor access tokens exist yet",
        "loopback addresses: 127.0.0.1, ::1, localhost",
    )


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True
    )


class ServerSettings(_Section):
    """`[server]`: the process."""

    host: Annotated[str, AfterValidator(_on_loopback)] = "127.0.0.1"
    """Address to listen on. Only loopback addresses, until TLS and access tokens exist."""
    port: Annotated[int, _Number, Field(ge=0, le=65_535), Unit("TCP port")] = 50061
    """Port to listen on; 0 takes any free one."""
    name: Annotated[str, Field(min_length=1, max_length=255)] = Field(default_factory=socket.gethostname)
    """Name of this server in logs and to operators; the host's name if not given."""
    drain_pause_s: Annotated[_Seconds, Field(ge=0, le=300)] = 5
    """From saying "not serving" to refusing calls, at a stop. Longer than a balancer's check interval."""
    drain_grace_s: Annotated[_Seconds, Field(ge=0, le=3600)] = 30
    """How long calls under way may take to end, at a stop."""
    log_format: Literal["console", "json"] = "console"
    """`console` for people, `json` for programs: one object a line."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = "info"
    """The least important messages that are logged."""


class LimitSettings(_Section):
    """`[limits]`: what one call may ask for."""

    max_inline_bytes: Annotated[_Bytes, Field(ge=KiB, le=64 * MiB)] = 2 * MiB
    """Largest job and largest result that travels within a message."""
    max_receive_bytes: Annotated[_Bytes, Field(ge=64 * KiB, le=256 * MiB, validate_default=True)] = 32 * MiB
    """Largest message that is read at all. At least max_inline_bytes and 64 KiB."""
    max_batch: Annotated[int, _Number, Field(ge=1, le=1000), Unit("jobs")] = 1000
    """Most jobs of one SubmitJobs."""
    max_json_depth: Annotated[int, _Number, Field(ge=1, le=100), Unit("levels")] = 100
    """Deepest nesting of a job's content."""
    max_config_bytes: Annotated[_Bytes, Field(ge=KiB, le=MiB)] = MiB
    """Largest config of a backend."""

    @field_validator("max_receive_bytes", mode="after")
    @classmethod
    def _receives_what_it_accepts(cls, size: int, info: ValidationInfo) -> int:
        # A field's validator, not the section's: that would not run beside another mistake.
        least = info.data.get("max_inline_bytes", 0) + 64 * KiB
        if size < least:
            raise _mistake(
                f"{size} leaves no room for a job of max_inline_bytes",
                f"{least} or more, or a smaller max_inline_bytes",
            )
        return size


class LeaseSettings(_Section):
    """`[leases]`: the defaults of every backend's policy, and the heartbeats."""

    ttl_s: Annotated[_Seconds, Field(ge=0.1, le=7 * DAY_S)] = 30
    """How long a lease lasts without a heartbeat. At least two heartbeat_interval_s."""
    resume_grace_s: Annotated[_Seconds, Field(ge=0, le=7 * DAY_S)] = 30
    """How much longer than ttl_s the server waits before it gives a job to another spooler."""
    accept_timeout_s: Annotated[_Seconds, Field(ge=0.02, le=60)] = 3
    """How soon a spooler must accept what it is handed."""
    heartbeat_interval_s: Annotated[_Seconds, Field(ge=0.02, le=3600, validate_default=True)] = 10
    """How often a spooler that holds a job sends a sign of life."""
    idle_heartbeat_s: Annotated[_Seconds, Field(ge=0.02, le=3600)] = 55
    """How often a spooler without a job does. Below 60, after which many proxies cut an idle stream."""
    max_attempts: Annotated[int, _Number, Field(ge=1, le=100), Unit("attempts")] = 3
    """Attempts that a job may have; 1 where nothing may run twice."""
    max_crashes: Annotated[int, _Number, Field(ge=1, le=100), Unit("sessions")] = 5
    """Sessions that may end with a job in hand, not yet accepted, before the job is an ERROR."""
    cancel_grace_s: Annotated[_Seconds, Field(ge=0, le=DAY_S)] = 30
    """How long a running job has to stop once it is cancelled."""

    @field_validator("heartbeat_interval_s", mode="after")
    @classmethod
    def _survives_a_lost_heartbeat(cls, interval_s: float, info: ValidationInfo) -> float:
        ttl_s = info.data.get("ttl_s", math.inf)
        if interval_s * 2 > ttl_s:
            raise _mistake(
                f"at {interval_s:g} one lost heartbeat would end a lease, whose ttl_s is {ttl_s:g}",
                f"up to {ttl_s / 2:g}, or a longer ttl_s",
            )
        return interval_s


def _context(info: ValidationInfo) -> Mapping[str, Any]:
    return info.context or {}


def _known_type(name: str, info: ValidationInfo) -> str:
    known = _context(info).get("provider_types")
    if known is None:
        # Only now: the discovery of plug-ins reads the metadata of every installed package.
        from spoolway_providers.registry import provider_types

        known = provider_types()
    if name in known:
        return name
    raise _mistake(
        f"no provider is called {_shown(name)}{_did_you_mean(name, known)}", _listed(sorted(known))
    )


class StorageSettings(_Section):
    """`[storages.NAME]`: one place that holds backends and jobs."""

    type: Annotated[str, AfterValidator(_known_type)]
    """Name of its provider, such as `sqlite`."""
    description: Annotated[str, Field(max_length=1000)] = ""
    """For people."""
    active: bool = True
    """False: takes no new jobs and hands none out."""
    login: dict[str, Any] = Field(default_factory=dict)
    """Every other key of the table, as the provider wants them, such as `path`. Never shown."""

    @model_validator(mode="before")
    @classmethod
    def _collect_login(cls, table: Any) -> Any:
        if not isinstance(table, Mapping):
            return table
        own = {key: value for key, value in table.items() if key in cls.model_fields}
        rest = {key: value for key, value in table.items() if key not in cls.model_fields}
        login = own.get("login", {})
        return own | {"login": {**login, **rest}} if isinstance(login, Mapping) else own

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, dict.fromkeys(value, "***") if name == "login" else value


StorageName = Annotated[str, Field(pattern=r"^[a-z0-9]{1,64}$")]


def _default_storages() -> dict[str, StorageSettings]:
    # model_construct: the embedded default needs no look into the registry.
    main = StorageSettings.model_construct(
        type="sqlite", description="", active=True, login={"path": "spoolway.sqlite"}
    )
    return {"main": main}


class Config(_Section):
    """All of it. Built by `load_config`, or directly: `Config(server=ServerSettings(port=0))`."""

    server: ServerSettings = Field(default_factory=ServerSettings)
    """The process."""
    limits: LimitSettings = Field(default_factory=LimitSettings)
    """What one call may ask for."""
    leases: LeaseSettings = Field(default_factory=LeaseSettings)
    """Defaults of every backend's policy."""
    storages: dict[StorageName, StorageSettings] = Field(default_factory=_default_storages)
    """The storages by name; none at all: `main`, the SQLite file `spoolway.sqlite` in the current folder."""
    # After the storages: a validator sees the fields before its own.
    default_storage: str = Field(default="", validate_default=True)
    """The storage of backends that name none; the first one if not given."""

    @field_validator("storages", mode="after")
    @classmethod
    def _at_least_one(cls, storages: dict[str, StorageSettings]) -> dict[str, StorageSettings]:
        return storages or _default_storages()

    @field_validator("default_storage", mode="after")
    @classmethod
    def _is_a_storage(cls, name: str, info: ValidationInfo) -> str:
        # The names as written: a storage that is wrong itself is missing in `data`.
        storages: list[str] = _context(info).get("storage_names") or list(info.data.get("storages", ()))
        if not name and storages:
            return storages[0]
        if name in storages or not storages:
            return name
        raise _mistake(
            f"there is no storage {_shown(name)}{_did_you_mean(name, storages)}", _listed(storages)
        )


def load_config(
    path: Path | None,
    env: Mapping[str, str] | None = None,
    *,
    provider_types: Iterable[str] | None = None,
) -> Config:
    """Read and check the configuration.

    Args:
        path: the TOML file; None: defaults and environment alone.
        env: the environment variables; None: none. They win over the file.
        provider_types: the types that storages may have; None: those installed.

    Raises:
        ConfigError: with every mistake in file and environment.
    """
    document = _read_toml(path) if path is not None else {}
    sources = _overlay(document, env or {})
    storages = document.get("storages")
    context = {
        "provider_types": None if provider_types is None else frozenset(provider_types),
        "storage_names": list(storages) if isinstance(storages, Mapping) else None,
    }
    try:
        return Config.model_validate(document, context=context)
    except ValidationError as error:
        details = error.errors(include_url=False)
    # Outside the except block: pydantic's error holds the input, logins included.
    raise ConfigError(_as_mistake(detail, sources) for detail in details)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([ConfigMistake(str(path), f"cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError:
        raise ConfigError([ConfigMistake(str(path), "is not UTF-8 text")]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([ConfigMistake(str(path), f"is not TOML: {error}")]) from None


def _overlay(document: dict[str, Any], env: Mapping[str, str]) -> dict[str, str]:
    """Put the variables into the document.

    Returns:
        The variable's name for each dotted path that one has set.
    """
    sources = {}
    for variable, value in sorted(env.items()):
        keys = _keys_of(variable)
        if keys and _put(document, keys, value):
            sources[".".join(keys)] = variable
    return sources


def _keys_of(variable: str) -> list[str]:
    """The path that a variable sets; empty for others, the client's `SPOOLWAY_ADDRESS` among them."""
    if not variable.upper().startswith(ENV_PREFIX):
        return []
    keys = variable[len(ENV_PREFIX) :].lower().split("__")
    return keys if len(keys) > 1 or keys == [_ENV_TOP_LEVEL] else []


def _put(document: dict[str, Any], keys: list[str], value: str) -> bool:
    for key in keys[:-1]:
        document = document.setdefault(key, {})
        if not isinstance(document, dict):  # the file is wrong here, and will be told so
            return False
    document[keys[-1]] = value
    return True


# From pydantic's errors to ours


def _as_mistake(detail: ErrorDetails, sources: Mapping[str, str]) -> ConfigMistake:
    loc = [str(part) for part in detail["loc"]]
    is_key = loc[-1:] == ["[key]"]
    if is_key:
        loc.pop()
    path = ".".join(loc)
    problem, allowed = _bad_name() if is_key else _explain(detail, loc)
    return ConfigMistake(path, problem, allowed, _source_of(path, sources))


def _source_of(path: str, sources: Mapping[str, str]) -> str:
    within = (variable for set_path, variable in sources.items() if f"{set_path}.".startswith(f"{path}."))
    return ", ".join(within)


def _bad_name() -> tuple[str, str]:
    return "not a name for a storage", "1 to 64 of a-z and 0-9"


def _explain(detail: ErrorDetails, loc: list[str]) -> tuple[str, str]:
    """What is wrong, and what is allowed."""
    kind = detail["type"]
    if kind == "mistake":
        return detail["ctx"]["problem"], detail["ctx"]["allowed"]
    if kind == "extra_forbidden":
        return _unknown_key(loc)
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        # Without its value, which may be a login in the wrong place.
        return "not a table", f"[{'.'.join(loc)}]"
    field = _field_at(loc)
    allowed = _allowed(field) if field else detail["msg"]
    return ("missing", allowed) if kind == "missing" else (_what_is_wrong(kind, detail["input"]), allowed)


def _what_is_wrong(kind: str, value: object) -> str:
    words = {"greater_than_equal": "too small", "less_than_equal": "too large"}
    words |= {"string_too_short": "too short", "string_too_long": "too long"}
    return f"{_shown(value)} is {words.get(kind, 'not right')}"


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unknown_key(loc: list[str]) -> tuple[str, str]:
    *parents, key = loc
    section = _section_at(parents)
    known = list(section.model_fields) if section else []
    return f"unknown key{_did_you_mean(key, known)}", _listed(known)


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {_shown(close[0])}?" if close else ""


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)


def _section_at(loc: list[str]) -> type[_Section] | None:
    if loc[:1] == ["storages"] and len(loc) == 2:
        return StorageSettings
    if not loc:
        return Config
    field = Config.model_fields.get(loc[0])
    section = field.annotation if field else None
    return section if len(loc) == 1 and isinstance(section, type) and issubclass(section, _Section) else None


def _field_at(loc: list[str]) -> FieldInfo | None:
    section = _section_at(loc[:-1])
    return section.model_fields.get(loc[-1]) if section else None


_KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _allowed(field: FieldInfo) -> str:
    """What a field takes, from its own type and limits."""
    if get_origin(field.annotation) is Literal:
        return _listed(get_args(field.annotation))
    kind = _KINDS.get(field.annotation, "a value")  # type: ignore[arg-type]  # any annotation may be asked for
    low, high = _limit(field, "ge", "min_length"), _limit(field, "le", "max_length")
    unit = next((entry.name for entry in field.metadata if isinstance(entry, Unit)), "")
    if field.annotation is str and high is not None:
        return f"{kind} of {low or 0} to {high} characters"
    text = f"{kind} from {low} to {high}" if high is not None else kind
    return f"{text} ({unit})" if unit else text


def _limit(field: FieldInfo, *names: str) -> float | None:
    found = (getattr(entry, name, None) for entry in field.metadata for name in names)
    return next((limit for limit in found if limit is not None), None)
