import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from spoolway_providers.interface import LoginField
from spoolway_providers.registry import provider_class
from spoolway_server import logins
from spoolway_server.config import (
    Config,
    ConfigError,
    LeaseSettings,
    ServerSettings,
    StorageSettings,
    Unit,
    load_config,
)

TYPES = ("memory", "sqlite")
TLS = '[tls]\ncert_file = "c"\nkey_file = "k"\n'
TOKENS = '[auth]\nmode = "tokens"\n'
DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"


def load(tmp_path: Path, text: str, env: Mapping[str, str] | None = None) -> Config:
    path = tmp_path / "spoolway.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, env or {}, provider_types=TYPES)


def mistakes_of(tmp_path: Path, text: str, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Each mistake's line by its path."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, env)
    return {mistake.path: str(mistake) for mistake in caught.value.mistakes}


def fields_of(model: type[BaseModel], prefix: str = "") -> dict[str, object]:
    """All values of a configuration by dotted path, with their fields."""
    found: dict[str, object] = {}
    for name, field in model.model_fields.items():
        inner = field.annotation
        if get_origin(inner) is dict and (table := get_args(inner)[1]) is StorageSettings:
            found |= fields_of(table, f"{prefix}{name}.NAME.")
        elif isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= fields_of(inner, f"{prefix}{name}.")
        else:
            found[prefix + name] = field
    return found


FIELDS = fields_of(Config)


def test_nothing_at_all_is_a_good_configuration():
    """Without file and environment there is one storage, an SQLite file in the current folder."""
    config = load_config(None, {}, provider_types=TYPES)

    assert (config.server.host, config.server.port) == ("127.0.0.1", 50061)
    assert config.default_storage == "main"
    assert config.storages["main"].type == "sqlite"
    assert config.storages["main"].login == {"path": "spoolway.sqlite"}
    assert config.storages["main"].active


def test_the_file_sets_values_and_logins(tmp_path):
    """Keys of a storage that are not ours are its login, in a table `login` or beside `type`."""
    config = load(
        tmp_path,
        """
        [server]
        port = 0
        [leases]
        ttl_s = 60
        [storages.lab]
        type = "sqlite"
        description = "The lab"
        path = "/srv/lab.sqlite"
        [storages.lab.login]
        user = "atom"
        """,
    )

    assert config.server.port == 0
    assert config.leases.ttl_s == 60
    assert config.storages["lab"].description == "The lab"
    assert config.storages["lab"].login == {"path": "/srv/lab.sqlite", "user": "atom"}


def test_the_first_storage_is_the_default_one(tmp_path):
    """Where no default is named, the first storage of the file holds backends that name none."""
    config = load(tmp_path, '[storages.second]\ntype="memory"\n[storages.first]\ntype="memory"')

    assert config.default_storage == "second"


def test_the_environment_wins_over_the_file(tmp_path):
    """A variable replaces the file's value, adds storages, and may name the default one."""
    env = {
        "SPOOLWAY_SERVER__PORT": "1234",
        "SPOOLWAY_STORAGES__MAIN__TYPE": "memory",
        "SPOOLWAY_STORAGES__OTHER__TYPE": "sqlite",
        "SPOOLWAY_STORAGES__OTHER__PASSWORD": "0123",
        "SPOOLWAY_DEFAULT_STORAGE": "other",
    }
    config = load(tmp_path, '[server]\nport = 1\n[storages.main]\ntype = "sqlite"', env)

    assert config.server.port == 1234
    assert config.storages["main"].type == "memory"
    assert config.storages["other"].login == {"password": "0123"}
    assert config.default_storage == "other"


def test_variables_of_the_client_are_not_the_servers(tmp_path):
    """SPOOLWAY_ADDRESS and its like belong to the client and are no mistakes here."""
    config = load(tmp_path, "", {"SPOOLWAY_ADDRESS": "x:1", "SPOOLWAY_TOKEN": "t", "SPOOLWAY_CONFIG": "f"})

    assert config.server.port == 50061


def test_every_mistake_is_reported_at_once(tmp_path):
    """All mistakes of file and environment come together, each with path, problem and what is allowed."""
    mistakes = mistakes_of(
        tmp_path,
        """
        default_storage = "mian"
        sever = 1
        [server]
        prot = 3
        port = 99999
        log_format = "xml"
        name = ""
        drain_pause_s = true
        [limits]
        max_receive_bytes = 70000
        [leases]
        ttl_s = 5
        max_attempts = "many"
        [storages.main]
        type = "sqlit"
        active = "perhaps"
        [storages.Bad-Name]
        type = "memory"
        [storages.empty]
        """,
        {"SPOOLWAY_LEASES__MAX_CRASHES": "0", "SPOOLWAY_SERVR__PORT": "1"},
    )

    sections = "server, limits, leases, catalog, tls, auth, metrics, tracing, storages, default_storage"
    assert mistakes == {
        "server.prot": 'server.prot: unknown key, did you mean "port"?; allowed: insecure, host, port, name, '
        "drain_pause_s, drain_grace_s, max_connection_age_s, log_format, log_level",
        "server.port": "server.port: 99999 is too large; allowed: a whole number from 0 to 65535 (TCP port)",
        "server.log_format": 'server.log_format: "xml" is not right; allowed: console, json',
        "server.name": 'server.name: "" is too short; allowed: a text of 1 to 255 characters',
        "server.drain_pause_s": "server.drain_pause_s: true is not right; allowed: a number from 0 to 300 "
        "(seconds)",
        "limits.max_receive_bytes": "limits.max_receive_bytes: 70000 leaves no room for a job of "
        "max_inline_bytes; allowed: 2162688 or more, or a smaller max_inline_bytes",
        "leases.heartbeat_interval_s": "leases.heartbeat_interval_s: at 10 one lost heartbeat would end a "
        "lease, whose ttl_s is 5; allowed: up to 2.5, or a longer ttl_s",
        "leases.max_attempts": 'leases.max_attempts: "many" is not right; allowed: a whole number from 1 to '
        "100 (attempts)",
        "leases.max_crashes": 'leases.max_crashes: "0" is too small; allowed: a whole number from 1 to 100 '
        "(sessions) (from SPOOLWAY_LEASES__MAX_CRASHES)",
        "storages.main.type": 'storages.main.type: no provider is called "sqlit", did you mean "sqlite"?; '
        "allowed: memory, sqlite",
        "storages.main.active": 'storages.main.active: "perhaps" is not right; allowed: true or false',
        "storages.Bad-Name": "storages.Bad-Name: not a name for a storage; allowed: 1 to 64 of a-z and 0-9",
        "storages.empty.type": "storages.empty.type: missing; allowed: a text",
        "default_storage": 'default_storage: there is no storage "mian", did you mean "main"?; allowed: '
        "main, Bad-Name, empty",
        "sever": f'sever: unknown key, did you mean "server"?; allowed: {sections}',
        "servr": f'servr: unknown key, did you mean "server"?; allowed: {sections} '
        "(from SPOOLWAY_SERVR__PORT)",
    }


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_loopback_addresses_are_allowed(host):
    """The server may listen where only this machine can reach it."""
    assert ServerSettings(host=host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "lab.example", ""])  # noqa: S104  # refused
@pytest.mark.parametrize("guard", ["", TLS, TOKENS])
def test_other_addresses_need_tls_and_tokens(tmp_path, host, guard):
    """An address that others can reach is a mistake that says what it takes; either alone is not enough."""
    mistakes = mistakes_of(tmp_path, f'{guard}\n[server]\nhost = "{host}"')

    assert "needs TLS and access tokens" in mistakes["server.host"]
    assert "127.0.0.1, ::1, localhost" in mistakes["server.host"]


@pytest.mark.parametrize("guard", [TLS + TOKENS, "[server]\ninsecure = true"])
def test_a_guarded_server_may_be_reached(tmp_path, guard):
    """With TLS and tokens, or told in so many words, it listens where others can reach it."""
    host = "192.168.1.2"

    config = load(tmp_path, guard, {"SPOOLWAY_SERVER__HOST": host})

    assert config.server.host == host


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ({"cert_file": "c"}, "tls.key_file"),
        ({"key_file": "k"}, "tls.key_file"),
        ({"client_ca_file": "a"}, "tls.client_ca_file"),
    ],
)
def test_half_of_tls_is_a_mistake(tmp_path, table, path):
    """Certificate and key go together, and certificates of clients need both."""
    lines = "\n".join(f'{key} = "{value}"' for key, value in table.items())

    assert path in mistakes_of(tmp_path, f"[tls]\n{lines}")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("server = 3", "server"),
        ("storages = 3", "storages"),
        ('storages.main = "mongodb://atom:hunter2@host"', "storages.main"),
        ('[storages.main]\ntype = "memory"\nlogin = "hunter2"', "storages.main.login"),
    ],
)
def test_what_is_no_table_is_a_mistake_without_its_value(tmp_path, text, path):
    """A value in the place of a table is reported, but not shown: it may be a login in the wrong place."""
    mistakes = mistakes_of(tmp_path, text, {"SPOOLWAY_SERVER__PORT": "1"} if path == "server" else {})

    assert mistakes == {path: f"{path}: not a table; allowed: [{path}]"}


def test_a_type_that_is_no_text_is_a_mistake(tmp_path):
    """A list in the place of a type is a mistake like any other, also where logins are looked at."""
    path = tmp_path / "spoolway.toml"
    path.write_text("[storages.main]\ntype = [1]", encoding="utf-8")

    with pytest.raises(ConfigError, match=r"storages\.main\.type: \[1\] is not right"):
        load_config(path, {})


def test_a_file_that_is_missing_or_no_toml_is_a_mistake(tmp_path):
    """An unreadable file is reported by its name, a broken one with the line."""
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load_config(tmp_path / "none.toml", {})
    with pytest.raises(ConfigError, match=r"spoolway\.toml: is not TOML: .*line 1"):
        load(tmp_path, "port 3\n")


def test_a_file_that_is_not_utf8_is_a_mistake(tmp_path):
    """Bytes that are no UTF-8 are reported, not raised."""
    path = tmp_path / "latin.toml"
    path.write_bytes(b'description = "caf\xe9"')

    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_config(path, {})


def test_secrets_are_shown_neither_by_the_configuration_nor_by_its_mistakes(tmp_path):
    """The repr of a configuration names a login's fields only, and no mistake shows a login's value."""
    text = '[storages.main]\ntype = "sqlit"\npassword = "hunter2"\n[server]\nport = -1'
    good = StorageSettings.model_validate(
        {"type": "memory", "password": "hunter2"}, context={"provider_types": TYPES}
    )

    assert "hunter2" not in "\n".join(mistakes_of(tmp_path, text).values())
    assert "hunter2" not in f"{good!r} {good}"
    assert "password" in repr(good)
    with pytest.raises(ValidationError) as caught:
        StorageSettings.model_validate({"type": 3, "password": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_a_configuration_can_be_built_in_code():
    """Sections can be given as objects or as dictionaries, and are frozen."""
    config = Config(
        server=ServerSettings(port=0), leases=LeaseSettings(ttl_s=1, heartbeat_interval_s=0.2), storages={}
    )

    assert config.server.port == 0
    assert config.default_storage == "main"
    with pytest.raises(ValidationError):
        config.server.port = 1


class _Lamp:
    """Stands for a provider."""

    login_fields = (
        LoginField("path", "Where it is."),
        LoginField("key", "Opens it.", required=False, secret=True),
    )

    @classmethod
    def from_login(cls, login: Mapping[str, object]) -> "_Lamp":
        if login["path"] == "nowhere":
            raise ValueError("path: there is no such place")
        return cls()


@pytest.mark.parametrize(
    ("login", "lines"),
    [
        ({"path": "here", "key": "1"}, []),
        (
            {"paht": "here"},
            [
                'storages.a.paht: unknown key, did you mean "path"?; allowed: type, path, key',
                "storages.a.path: missing; allowed: Where it is.",
            ],
        ),
        ({"path": "nowhere"}, ["storages.a: path: there is no such place"]),
    ],
)
def test_the_provider_has_its_say_about_the_login(monkeypatch, login, lines):
    """Unknown and missing keys of a login are mistakes, and so is what the provider itself refuses."""
    monkeypatch.setattr(logins, "provider_class", lambda _name: _Lamp)

    found = logins.login_mistakes("storages.a", "lamp", login, ["type"])

    assert [str(mistake) for mistake in found] == lines


def test_the_installed_providers_check_the_logins(tmp_path):
    """A misspelt key of a SQLite storage is found before anything is opened."""
    path = tmp_path / "spoolway.toml"
    path.write_text('[storages.main]\ntype = "sqlite"\npaht = "x.sqlite"', encoding="utf-8")

    with pytest.raises(ConfigError, match=r'storages\.main\.paht: unknown key, did you mean "path"\?'):
        load_config(path, {})


@pytest.mark.parametrize("path", FIELDS)
def test_each_field_has_a_description(path):
    """Every key says what it is for."""
    assert FIELDS[path].description


@pytest.mark.parametrize("path", [p for p, f in FIELDS.items() if f.annotation in (int, float)])
def test_each_number_has_a_unit_and_limits(path):
    """Every number says what it counts, and has a least and a greatest value."""
    metadata = FIELDS[path].metadata

    assert any(isinstance(entry, Unit) for entry in metadata)
    assert any(hasattr(entry, "ge") for entry in metadata)
    assert any(hasattr(entry, "le") for entry in metadata)


@pytest.mark.parametrize("path", [p for p in FIELDS if not p.endswith(".login")])
def test_each_field_stands_in_the_documentation(path):
    """docs/configuration.md has a row for every key, with the unit and the default."""
    section, _, key = path.rpartition(".")
    field = FIELDS[path]
    text = DOCS.read_text(encoding="utf-8")
    chapter = text.split(f"## `[{section}]`" if section else "## Top level", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in chapter.splitlines() if line.startswith(f"| `{key}` |")]

    assert len(rows) == 1, path
    unit = next((entry.name for entry in field.metadata if isinstance(entry, Unit)), "")
    assert unit in rows[0]
    if field.default_factory is None and not field.is_required() and field.default != "":
        assert f"`{json.dumps(field.default)}`" in rows[0]


def test_the_documentations_example_is_a_good_configuration(tmp_path):
    """The file shown in docs/configuration.md can be used as it stands."""
    example = re.search(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)

    assert example is not None
    load(tmp_path, example[1])


@pytest.mark.parametrize("type_name", ["sqlite", "local", "mongodb", "dropbox"])
def test_each_login_field_stands_in_the_documentation(type_name):
    """docs/configuration.md has a row for every field of a login, and says which are secret."""
    text = DOCS.read_text(encoding="utf-8")
    table = re.search(rf"^\| `{type_name}` \|.*\n(\| \| .*\n)*", text, re.MULTILINE)
    assert table is not None
    rows = table[0].splitlines()

    for field in provider_class(type_name).login_fields:
        [row] = [row for row in rows if re.match(rf"\| (`\w+` )?\| `{field.name}` \|", row)]
        assert ("secret" in row) == field.secret
        assert ("required" in row) == field.required
