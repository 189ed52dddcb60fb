"""The server's configuration: one TOML file, and environment variables that win over it.

`load_config` reads both and reports every mistake at once, each with its dotted path. A variable's name is
`SPOOLWAY_` and the path in capitals, its parts joined by two underscores: `SPOOLWAY_SERVER__PORT=0`.

Errors: `ConfigError` (a `ValueError`) holds the list of `ConfigMistake`.
"""

import ipaddress
import math
import os
import socket
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

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
from pydantic_core import PydanticCustomError

from spoolway_providers.registry import ProviderTypeError
from spoolway_providers.registry import provider_types as installed_provider_types
from spoolway_server.logins import login_mistakes
from spoolway_server.mistakes import (
    ConfigMistake,
    Unit,
    did_you_mean,
    from_pydantic,
    listed,
    mistake,
    shown,
)

__all__ = [
    "AuthSettings",
    "CatalogSettings",
    "Config",
    "ConfigError",
    "ConfigMistake",
    "LeaseSettings",
    "LimitSettings",
    "MetricsSettings",
    "ServerSettings",
    "StorageSettings",
    "TlsSettings",
    "TracingSettings",
    "Unit",
    "is_loopback",
    "load_config",
]

ENV_PREFIX = "SPOOLWAY_"
_ENV_TOP_LEVEL = "default_storage"

KiB = 1024
MiB = 1024 * KiB
DAY_S = 86_400


class ConfigError(ValueError):
    """The configuration is wrong: every mistake, not only the first."""

    def __init__(self, mistakes: Iterable[ConfigMistake]) -> None:
        """Say all of them, one a line."""
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(map(str, self.mistakes)))


def _not_a_boolean(value: object) -> object:
    # To Python true is 1; in a configuration it is a mistake.
    if isinstance(value, bool):
        raise PydanticCustomError("not_a_number", "true and false are no numbers")
    return value


_Number = BeforeValidator(_not_a_boolean)
_Seconds = Annotated[float, _Number, Unit("seconds"), Field(allow_inf_nan=False)]
_Bytes = Annotated[int, _Number, Unit("bytes")]


def _for_whom(host: str, info: ValidationInfo) -> str:
    """Refuse addresses that others can reach where they could do anything, or listen in."""
    if is_loopback(host) or info.data.get("insecure") or _context(info).get("is_guarded"):
        return host
    raise mistake(
        f"{shown(host)} can be reached by others, so it needs TLS and access tokens: cert_file and key_file "
        'in [tls], and mode = "tokens" in [auth]',
        "loopback addresses: 127.0.0.1, ::1, localhost; or, where the network itself is safe, `serve "
        "--insecure`",
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_guarded(document: Mapping[str, Any]) -> bool:
    """Whether the tables, which need not be right, ask for TLS and for tokens."""
    tls, auth = document.get("tls"), document.get("auth")
    return (
        isinstance(tls, Mapping)
        and isinstance(auth, Mapping)
        and bool(tls.get("cert_file") and tls.get("key_file"))
        and auth.get("mode") == "tokens"
    )


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True
    )


class ServerSettings(_Section):
    """`[server]`: the process."""

    insecure: bool = False
    """Listen where others can reach it without TLS or access tokens. They may read all, or do anything."""
    # After `insecure`: a validator sees the fields before its own.
    host: Annotated[str, AfterValidator(_for_whom)] = "127.0.0.1"
    """Address to listen on. One that others can reach needs TLS and access tokens."""
    port: Annotated[int, _Number, Field(ge=0, le=65_535), Unit("TCP port")] = 50061
    """Port to listen on; 0 takes any free one."""
    name: Annotated[str, Field(min_length=1, max_length=255)] = Field(default_factory=socket.gethostname)
    """Name of this server in logs and to operators; the host's name if not given."""
    drain_pause_s: Annotated[_Seconds, Field(ge=0, le=300)] = 5
    """From saying "not serving" to refusing calls, at a stop. Longer than a balancer's check interval."""
    drain_grace_s: Annotated[_Seconds, Field(ge=0, le=3600)] = 30
    """How long calls under way may take to end, at a stop."""
    max_connection_age_s: Annotated[_Seconds, Field(ge=0, le=DAY_S)] = 3600
    """How old a connection gets before its clients are asked for a new one, maybe elsewhere; 0: any age."""
    log_format: Literal["console", "json"] = "console"
    """`console` for people, `json` for programs: one object a line."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = "info"
    """The least important messages that are logged."""


class LimitSettings(_Section):
    """`[limits]`: what one call may ask for."""

    max_inline_bytes: Annotated[_Bytes, Field(ge=KiB, le=64 * MiB)] = 2 * MiB
    """Largest job and largest result that travels within a message."""
    max_content_bytes: Annotated[_Bytes, Field(ge=KiB, le=256 * MiB)] = 32 * MiB
    """Largest uploaded job. It is held in memory while it is checked."""
    max_result_bytes: Annotated[_Bytes, Field(ge=KiB, le=1024 * 1024 * MiB)] = 1024 * MiB
    """Largest uploaded result. It never is in memory as a whole."""
    max_receive_bytes: Annotated[_Bytes, Field(ge=64 * KiB, le=256 * MiB, validate_default=True)] = 32 * MiB
    """Largest message that is read at all. At least max_inline_bytes and 64 KiB."""
    max_batch: Annotated[int, _Number, Field(ge=1, le=1000), Unit("jobs")] = 1000
    """Most jobs of one SubmitJobs."""
    max_json_depth: Annotated[int, _Number, Field(ge=1, le=100), Unit("levels")] = 100
    """Deepest nesting of a job's content."""
    max_config_bytes: Annotated[_Bytes, Field(ge=KiB, le=MiB)] = MiB
    """Largest config of a backend."""

    max_header_bytes: Annotated[_Bytes, Field(ge=4 * KiB, le=MiB)] = 16 * KiB
    """Largest metadata of a call, token included."""
    max_streams: Annotated[int, _Number, Field(ge=1, le=1_000_000), Unit("calls")] = 10_000
    """Most calls under way on one connection; a balancer may have many clients on one. More wait."""
    max_messages_per_s: Annotated[int, _Number, Field(ge=1, le=1_000_000), Unit("messages")] = 10_000
    """Most messages a second that are read of one stream; more wait."""

    @field_validator("max_receive_bytes", mode="after")
    @classmethod
    def _receives_what_it_accepts(cls, size: int, info: ValidationInfo) -> int:
        # A field's validator, not the section's: that would not run beside another mistake.
        least = info.data.get("max_inline_bytes", 0) + 64 * KiB
        if size < least:
            raise mistake(
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
            raise mistake(
                f"at {interval_s:g} one lost heartbeat would end a lease, whose ttl_s is {ttl_s:g}",
                f"up to {ttl_s / 2:g}, or a longer ttl_s",
            )
        return interval_s


class TracingSettings(_Section):
    """`[tracing]`: spans for OpenTelemetry."""

    enabled: bool = False
    """Whether to record spans. Needs the extra `otel`; its own variables say where to send them."""


class MetricsSettings(_Section):
    """`[metrics]`: the port that Prometheus reads."""

    enabled: bool = False
    """Whether to serve GET /metrics."""
    host: Annotated[str, Field(min_length=1, max_length=255)] = "127.0.0.1"
    """Address to listen on. Whoever reaches it sees names of storages and backends, and no more."""
    port: Annotated[int, _Number, Field(ge=0, le=65_535), Unit("TCP port")] = 9464
    """Port to listen on; 0 takes any free one."""


def _context(info: ValidationInfo) -> Mapping[str, Any]:
    return info.context or {}


def _known_type(name: str, info: ValidationInfo) -> str:
    known = _context(info).get("provider_types") or installed_provider_types()
    if name in known:
        return name
    raise mistake(f"no provider is called {shown(name)}{did_you_mean(name, known)}", listed(sorted(known)))


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
    def _gather(cls, table: Any) -> Any:
        if not isinstance(table, Mapping):
            return table
        own = {key: value for key, value in table.items() if key in cls.model_fields}
        return own | {"login": cls.login_of(table)} if isinstance(own.get("login", {}), Mapping) else own

    @classmethod
    def login_of(cls, table: Mapping[str, Any]) -> dict[str, Any]:
        """The login's keys of a table: all that are not our own, and those of a table `login`."""
        login = table.get("login", {})
        nested = login if isinstance(login, Mapping) else {}
        return {**nested, **{key: value for key, value in table.items() if key not in cls.model_fields}}

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Which fields the login has, not what is in them."""
        for name, value in super().__repr_args__():
            yield name, dict.fromkeys(value, "***") if name == "login" else value


class AuthSettings(_Section):
    """`[auth]`: who gets in."""

    mode: Literal["loopback", "tokens"] = "loopback"
    """`tokens`: who shows an access token; `loopback`: whoever can connect, by the name that he gives."""


def _both_or_none(key_file: str, info: ValidationInfo) -> str:
    if bool(key_file) != bool(info.data.get("cert_file", key_file)):
        raise mistake("certificate and key go together", "both of cert_file and key_file, or none")
    return key_file


def _with_tls(client_ca_file: str, info: ValidationInfo) -> str:
    if client_ca_file and not info.data.get("key_file", True):
        raise mistake("there are no certificates of clients without TLS", "cert_file and key_file too")
    return client_ca_file


class TlsSettings(_Section):
    """`[tls]`: encryption. Files in PEM; a change of them counts from the next connection on."""

    cert_file: str = ""
    """The server's certificate, those of intermediate authorities behind it; none: no TLS."""
    key_file: Annotated[str, AfterValidator(_both_or_none)] = Field(default="", validate_default=True)
    """Its private key, without a passphrase."""
    client_ca_file: Annotated[str, AfterValidator(_with_tls)] = ""
    """Mutual TLS: only who has a certificate by one of these authorities can connect; none: anybody."""

    @property
    def enabled(self) -> bool:
        """Whether there is a certificate."""
        return bool(self.cert_file)


class CatalogSettings(_Section):
    """`[catalog]`: what the server itself must know: added storages, access tokens, the audit trail."""

    path: str = ""
    """Its SQLite file, `:memory:` for none; beside the default storage if not given."""
    uri: Annotated[str, Field(repr=False)] = ""
    """For several machines: a MongoDB connection string, instead of a file. Never shown."""
    database: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,63}$")] = "spoolway"
    """The database at `uri`; may be the one of a storage."""
    key_file: str = ""
    """File with the key that encrypts logins; the variable SPOOLWAY_KEY wins over it."""


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
    catalog: CatalogSettings = Field(default_factory=CatalogSettings)
    """What the server itself must know."""
    tls: TlsSettings = Field(default_factory=TlsSettings)
    """Encryption."""
    auth: AuthSettings = Field(default_factory=AuthSettings)
    """Who gets in."""
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
    """The port that Prometheus reads."""
    tracing: TracingSettings = Field(default_factory=TracingSettings)
    """Spans for OpenTelemetry."""
    storages: dict[StorageName, StorageSettings] = Field(default_factory=_default_storages)
    """The storages by name; none at all: `main`, the SQLite file `spoolway.sqlite` in the current folder."""
    # After the storages: a validator sees the fields before its own.
    default_storage: str = Field(default="", validate_default=True)
    """The storage of backends that name none; the first one if not given."""

    @property
    def catalog_path(self) -> str:
        """Where the catalog is: as given, else beside the default storage, else in the current folder."""
        if self.catalog.path:
            return self.catalog.path
        storage = self.storages[self.default_storage]
        file, folder = storage.login.get("path"), storage.login.get("base_path")
        if isinstance(file, str) and file:
            return str(Path(file).expanduser().with_suffix(".catalog.sqlite"))
        if isinstance(folder, str) and folder:
            return str(Path(folder).expanduser() / "spoolway" / "catalog.sqlite")
        # Who keeps jobs in memory wants nothing to be left.
        return ":memory:" if storage.type == "memory" else "spoolway.catalog.sqlite"

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
        raise mistake(f"there is no storage {shown(name)}{did_you_mean(name, storages)}", listed(storages))


def load_config(
    path: Path | None,
    env: Mapping[str, str] | None = None,
    *,
    overrides: Mapping[str, object] | None = None,
    provider_types: Iterable[str] | None = None,
) -> Config:
    """Read and check the configuration.

    Args:
        path: the TOML file; None: defaults and environment alone.
        env: the environment variables, which win over the file; None: this process's own.
        overrides: values by dotted path, from the command line's options, which win over both.
        provider_types: the types that storages may have, whose logins are then not looked at; None: those
            installed.

    Raises:
        ConfigError: with every mistake in file and environment.
    """
    document = _read_toml(path) if path is not None else {}
    sources = _overlay(document, _from_env(os.environ if env is None else env))
    sources |= _overlay(document, _from_options(overrides or {}))
    known = _installed_types() if provider_types is None else frozenset(provider_types)
    context = {
        "provider_types": known,
        "storage_names": list(_storage_tables(document)),
        "is_guarded": _is_guarded(document),
    }
    mistakes = []
    try:
        config = Config.model_validate(document, context=context)
    except ValidationError as error:
        mistakes = from_pydantic(error.errors(include_url=False), Config, sources)
    if provider_types is None:
        mistakes += _login_mistakes(document, known)
    # Outside the except block: pydantic's error holds the input, logins included.
    if mistakes:
        raise ConfigError(mistakes)
    return config


def _installed_types() -> frozenset[str]:
    try:
        return frozenset(installed_provider_types())
    except ProviderTypeError as error:
        raise ConfigError([ConfigMistake("storages", str(error))]) from error


def _storage_tables(document: Mapping[str, Any]) -> Mapping[str, Any]:
    storages = document.get("storages")
    return storages if isinstance(storages, Mapping) else {}


def _login_mistakes(document: Mapping[str, Any], known: frozenset[str]) -> list[ConfigMistake]:
    own_keys = [name for name in StorageSettings.model_fields if name != "login"]
    mistakes = []
    for name, table in _storage_tables(document).items():
        type_name = table.get("type") if isinstance(table, Mapping) else None
        if isinstance(type_name, str) and type_name in known:  # else reported already
            login = StorageSettings.login_of(table)
            mistakes += login_mistakes(f"storages.{name}", type_name, login, own_keys)
    return mistakes


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([ConfigMistake(str(path), f"cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError:
        raise ConfigError([ConfigMistake(str(path), "is not UTF-8 text")]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([ConfigMistake(str(path), f"is not TOML: {error}")]) from None


class _Setting(NamedTuple):
    """A value from outside the file."""

    keys: list[str]
    value: object
    source: str


def _from_env(env: Mapping[str, str]) -> Iterator[_Setting]:
    for variable, value in sorted(env.items()):
        if keys := _keys_of(variable):
            yield _Setting(keys, value, variable)


def _keys_of(variable: str) -> list[str]:
    """The path that a variable sets; empty for others, the client's `SPOOLWAY_ADDRESS` among them."""
    if not variable.upper().startswith(ENV_PREFIX):
        return []
    keys = variable[len(ENV_PREFIX) :].lower().split("__")
    return keys if len(keys) > 1 or keys == [_ENV_TOP_LEVEL] else []


def _from_options(overrides: Mapping[str, object]) -> Iterator[_Setting]:
    for path, value in overrides.items():
        keys = path.split(".")
        yield _Setting(keys, value, f"--{keys[-1]}")


def _overlay(document: dict[str, Any], settings: Iterable[_Setting]) -> dict[str, str]:
    """Put settings into the document.

    Returns:
        The source of each dotted path that was set.
    """
    return {
        ".".join(setting.keys): setting.source
        for setting in settings
        if _put(document, setting.keys, setting.value)
    }


def _put(document: dict[str, Any], keys: list[str], value: object) -> bool:
    for key in keys[:-1]:
        document = document.setdefault(key, {})
        if not isinstance(document, dict):  # the file is wrong here, and will be told so
            return False
    document[keys[-1]] = value
    return True
