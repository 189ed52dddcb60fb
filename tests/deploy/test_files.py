"""The other files of deploy/: linters and schemas accept them, and the image's commands make a server."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from spoolway_server.config import load_config
from tests.balancers.fleet import free_port

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TOOLS = Path(sys.executable).parent


def run(*command: object, cwd: Path = DEPLOY, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment or None,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Each instruction of a Dockerfile with its arguments."""
    text = re.sub(r"\\\n\s*", " ", (DEPLOY / dockerfile).read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def settings_in(text: str) -> set[str]:
    """The variables of the server that a file sets."""
    return set(re.findall(r"\bSPOOLWAY_[A-Z]+(?:__[A-Z_0-9]+)+", text))


@pytest.mark.parametrize("name", ["compose.yaml", "kubernetes/spoolway.yaml", "Dockerfile"])
def test_the_settings_are_ones_that_the_server_knows(name: str) -> None:
    """A misspelt variable would end the server at its start."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    values = {"PORT": "9464", "ENABLED": "true", "LOG_FORMAT": "json", "HOST": "127.0.0.1", "TYPE": "mongodb"}
    environment = {
        variable: values.get(variable.rpartition("__")[2], "mongodb://mongo:27017")
        for variable in settings_in(text)
    }
    for variable in environment:
        if variable.endswith("__DATABASE"):
            environment[variable] = "spoolway"

    assert environment
    load_config(None, environment)


def test_the_systemd_configuration_is_good() -> None:
    """The file that the unit starts with is one that the server takes."""
    config = load_config(DEPLOY / "systemd" / "spoolway.toml", {})

    assert config.storages["main"].type == "sqlite"
    assert config.server.drain_pause_s + config.server.drain_grace_s < 45


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("compose.yaml", r"stop_grace_period: (\d+)s"),
        ("kubernetes/spoolway.yaml", r"terminationGracePeriodSeconds: (\d+)"),
        ("systemd/spoolway.service", r"TimeoutStopSec=(\d+)"),
    ],
)
def test_a_server_gets_the_time_that_it_takes_to_drain(name: str, pattern: str) -> None:
    """Who stops it waits longer than drain_pause_s and drain_grace_s together."""
    server = load_config(None, {}).server
    found = re.search(pattern, (DEPLOY / name).read_text(encoding="utf-8"))

    assert found is not None
    assert int(found[1]) > server.drain_pause_s + server.drain_grace_s


@pytest.mark.tools
@pytest.mark.parametrize(
    "command",
    [
        ["hadolint", "Dockerfile"],
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"],
        ["kubernetes-validate", "--strict", "kubernetes/spoolway.yaml"],
        ["yamllint", "--strict", "-c", ".yamllint", "."],
        ["envoy", "--mode", "validate", "-c", "envoy.yaml"],
    ],
    ids=lambda command: command[0],
)
def test_linters_and_schemas_accept_them(command: list[str]) -> None:
    """Each file is what its program takes."""
    done = run(TOOLS / command[0], *command[1:])

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.tools
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="a machine without systemd has no units")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """Every key of the unit is known; the program stands in a place that exists here."""
    unit = (DEPLOY / "systemd" / "spoolway.service").read_text(encoding="utf-8")
    checked = tmp_path / "spoolway.service"
    checked.write_text(unit.replace("/opt/spoolway/bin/spoolway", str(TOOLS / "spoolway")), encoding="utf-8")

    done = run("systemd-analyze", "verify", checked)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """What the Dockerfile's commands make, below a folder of the test; built from what is committed."""
    source = tmp_path / "src"
    run("git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", source)
    for kind, arguments in instructions("Dockerfile"):
        if kind == "RUN":
            command = arguments.replace("/opt/", f"{tmp_path}/opt/").replace("/var/lib/", f"{tmp_path}/var/")
            command = command.replace("-o 10001 -g 10001", f"-o {os.getuid()} -g {os.getgid()}")
            (tmp_path / "opt").mkdir(exist_ok=True)
            done = run("sh", "-ec", command, cwd=source, PATH=f"{_python_folder()}:/usr/bin:/bin", **_index())
            assert done.returncode == 0, done.stdout + done.stderr
    return tmp_path


def _python_folder() -> Path:
    """Where `python` is the one that this environment was made from."""
    return Path(sys.base_prefix) / "bin"


def _index() -> dict[str, str]:
    """How pip finds its index here, which may be told to it by the environment."""
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name == "HOME"}


@pytest.mark.tools
@pytest.mark.timeout(300)
def test_the_images_commands_make_a_server_that_its_probe_finds_well(image: Path) -> None:
    """In a bare environment: install, start as the image does, probe, stop."""
    told = dict(instructions("Dockerfile"))
    probe = json.loads(told["HEALTHCHECK"].partition(" CMD ")[2])
    start = json.loads(told["ENTRYPOINT"]) + json.loads(told["CMD"])
    port = str(free_port())
    environment = {
        "PATH": f"{image}/opt/spoolway/bin:/usr/bin:/bin",
        "SPOOLWAY_SERVER__PORT": port,
        "SPOOLWAY_SERVER__DRAIN_PAUSE_S": "0",
        "SPOOLWAY_ADDRESS": f"127.0.0.1:{port}",
    }
    folder = image / "var" / "spoolway"
    before = run(*probe, cwd=folder, **environment)
    with subprocess.Popen(start, cwd=folder, env=environment, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().decode().strip()
            during = run(*probe, cwd=folder, **environment)
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(60)

    assert address == f"127.0.0.1:{port}"
    assert before.returncode == 5
    assert during.returncode == 0, during.stderr
    assert code == 0
