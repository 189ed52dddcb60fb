import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spoolway_server import config as server_config
from spoolway_server.cli import app
from spoolway_server.cli.exits import ExitCode

DOCS = Path(__file__).parents[2] / "docs" / "command-line.md"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """A folder without a configuration, and no variables of the server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPOOLWAY_CONFIG", raising=False)


def check(*arguments: str):
    return CliRunner().invoke(app, ["config", "check", *arguments])


def test_a_good_configuration_is_shown(monkeypatch):
    """All settings are shown by path, environment included, and the message goes to stderr."""
    monkeypatch.setenv("SPOOLWAY_SERVER__PORT", "1234")

    result = check()

    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert (result.exit_code, result.stderr) == (0, "The configuration is good.\n")
    assert lines["server.port"] == "1234"
    assert lines["storages.main.type"] == '"sqlite"'


def test_logins_are_hidden(tmp_path, monkeypatch):
    """Neither people nor programs see what is in a login."""
    monkeypatch.setattr(server_config, "login_mistakes", lambda *_: [])
    (tmp_path / "spoolway.toml").write_text('[storages.a]\ntype = "memory"\npassword = "hunter2"')

    people, programs = check(), check("--json")

    assert people.exit_code == programs.exit_code == 0
    assert json.loads(programs.stdout)["storages"]["a"]["password"] == "***"
    assert "hunter2" not in people.output + programs.output


def test_every_mistake_is_a_line(tmp_path):
    """A wrong configuration ends with exit code 4 and a line for each mistake."""
    file = tmp_path / "wrong.toml"
    file.write_text("[server]\nprot = 1\nport = -1")

    result = check(str(file))

    assert (result.exit_code, result.stdout) == (ExitCode.REFUSED, "")
    assert result.stderr.splitlines()[0].endswith(f"2 mistakes in the configuration ({file}):")
    assert '  server.prot: unknown key, did you mean "port"?' in result.stderr
    assert "  server.port: -1 is too small" in result.stderr


def test_the_file_is_found_where_it_is_expected(tmp_path, monkeypatch):
    """Without an argument it is the file of SPOOLWAY_CONFIG, else spoolway.toml in the current folder."""
    (tmp_path / "spoolway.toml").write_text("[server]\nport = 1")
    (tmp_path / "other.toml").write_text("[server]\nport = 2")

    here = json.loads(check("--json").stdout)
    monkeypatch.setenv("SPOOLWAY_CONFIG", "other.toml")
    there = json.loads(check("--json").stdout)

    assert (here["server"]["port"], there["server"]["port"]) == (1, 2)


def test_serve_starts_nothing_with_a_wrong_configuration(tmp_path):
    """The server does not start unless all is right; its options are checked like the file's values."""
    (tmp_path / "spoolway.toml").write_text("[limits]\nmax_batch = 0")

    result = CliRunner().invoke(app, ["serve", "--port", "70000", "--host", "0.0.0.0"])  # noqa: S104  # refused

    assert result.exit_code == ExitCode.REFUSED
    assert "limits.max_batch: 0 is too small" in result.stderr
    assert "server.port: 70000 is too large" in result.stderr
    assert "(from --port)" in result.stderr
    assert "(from --host)" in result.stderr


def test_every_command_and_exit_code_stands_in_the_documentation():
    """docs/command-line.md knows every command, and every exit code."""
    text = DOCS.read_text(encoding="utf-8")
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    names += [
        f"{name} {command.name}" for name, group in groups.items() for command in group.registered_commands
    ]

    assert [name for name in names if f"| `spoolway {name}" not in text] == []
    assert [code.name for code in ExitCode if f"\n| {code.value} |" not in text] == []
