"""Where the settings come from."""

from pathlib import Path

import pytest

from spoolway import SettingsError
from spoolway.settings import DEFAULT_ADDRESS, NAME_PATTERN, Settings, profiles_file, resolve_settings


def resolve(**given: object) -> Settings:
    return resolve_settings(**{"env": {}, "login": lambda: "ada", **given})  # type: ignore[arg-type]


@pytest.fixture
def profiles(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "profiles.toml"
    path.write_text(
        '[default]\naddress = "default:1"\nuser = "default-user"\n[lab]\naddress = "lab:1"\nca = "lab.pem"\n'
    )
    (tmp_path / "lab.pem").write_text("certificate")
    return {"SPOOLWAY_PROFILES_FILE": str(path)}


def test_defaults_are_the_local_server_and_the_login_name() -> None:
    """Without any setting the client talks to this machine, as the operating system's user, without TLS."""
    assert resolve() == Settings(address=DEFAULT_ADDRESS, user="ada", token=None, ca=None)


def test_an_argument_wins_over_environment_and_profile(profiles: dict[str, str]) -> None:
    """What is written in the program counts first."""
    env = profiles | {"SPOOLWAY_ADDRESS": "env:1"}

    assert resolve(address="arg:1", env=env).address == "arg:1"


def test_the_environment_wins_over_the_profile(profiles: dict[str, str]) -> None:
    """What is set for the process counts before what is set for the user."""
    settings = resolve(env=profiles | {"SPOOLWAY_ADDRESS": "env:1"})

    assert (settings.address, settings.user) == ("env:1", "default-user")


def test_an_empty_variable_counts_as_unset(profiles: dict[str, str]) -> None:
    """A variable that a script cleared hides nothing."""
    assert resolve(env=profiles | {"SPOOLWAY_ADDRESS": ""}).address == "default:1"


def test_a_profile_is_chosen_by_argument_or_environment(profiles: dict[str, str]) -> None:
    """One file holds the settings of several servers."""
    assert resolve(env=profiles, profile="lab").address == "lab:1"
    assert resolve(env=profiles | {"SPOOLWAY_PROFILE": "lab"}).address == "lab:1"


def test_a_ca_in_a_profile_is_found_beside_the_file(profiles: dict[str, str], tmp_path: Path) -> None:
    """A relative path in a file is meant from where the file lies."""
    assert resolve(env=profiles, profile="lab").ca == str(tmp_path / "lab.pem")


def test_an_unknown_profile_names_the_known_ones(profiles: dict[str, str]) -> None:
    """A misspelt profile is an error that shows the right spelling."""
    with pytest.raises(SettingsError, match=r"no profile 'lob'.*default, lab"):
        resolve(env=profiles, profile="lob")


def test_a_profile_without_a_file_is_an_error(tmp_path: Path) -> None:
    """Who asks for a profile must not silently get the defaults."""
    with pytest.raises(SettingsError, match=r"there is no file"):
        resolve(env={"SPOOLWAY_PROFILES_FILE": str(tmp_path / "none.toml")}, profile="lab")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[default]\nadress = "x"', "unknown key 'adress'"),
        ("[default]\naddress = 5", "address must be a text"),
        ("[default", "can't read the profiles"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    """A profile file that is wrong is not half used."""
    path = tmp_path / "profiles.toml"
    path.write_text(text)

    with pytest.raises(SettingsError, match=says):
        resolve(env={"SPOOLWAY_PROFILES_FILE": str(path)})


@pytest.mark.parametrize(
    ("login", "user"),
    [
        ("ada", "ada"),
        ("Ada Lovelace", "Ada-Lovelace"),
        ("_x", "x"),
        ("ü", "-"),
        ("", "anonymous"),
        ("a" * 99, "a" * 64),
    ],
)
def test_the_login_name_is_made_to_fit(login: str, user: str) -> None:
    """Any operating system user can submit without naming themselves."""
    found = resolve(login=lambda: login).user

    assert NAME_PATTERN.fullmatch(found)
    assert found == (user if user != "-" else "anonymous")


def test_a_login_without_a_name_is_anonymous() -> None:
    """A container that runs under a bare number can submit."""

    def unknown() -> str:
        raise KeyError("uid not found: 4711")

    assert resolve(login=unknown).user == "anonymous"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"user": "a b"}, "user 'a b' must match"),
        ({"address": "http://host:1"}, "without a scheme"),
        ({"ca": "/nowhere.pem"}, "there is no file"),
        ({"token": "geheim ü"}, "the token has characters"),
    ],
)
def test_a_wrong_value_is_refused(given: dict[str, str], says: str) -> None:
    """A setting that can't work is refused before anything is sent."""
    with pytest.raises(SettingsError, match=says):
        resolve(**given)


def test_the_token_is_not_shown() -> None:
    """Settings may be printed without giving the token away."""
    settings = resolve(token=" secret \n")

    assert settings.token == "secret"
    assert "secret" not in repr(settings)


def test_a_bad_token_is_not_shown_in_the_error() -> None:
    """An error about a token does not give it away."""
    with pytest.raises(SettingsError) as caught:
        resolve(token="geheimé")

    assert "geheim" not in str(caught.value)


def test_the_profile_file_lies_where_the_system_keeps_such_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows it is found under APPDATA, elsewhere under the configuration folder."""
    monkeypatch.setattr("sys.platform", "win32")
    assert profiles_file({"APPDATA": "/roaming"}) == Path("/roaming/spoolway/profiles.toml")

    monkeypatch.setattr("sys.platform", "linux")
    assert profiles_file({"XDG_CONFIG_HOME": "/conf"}) == Path("/conf/spoolway/profiles.toml")
    assert profiles_file({}) == Path.home() / ".config/spoolway/profiles.toml"
