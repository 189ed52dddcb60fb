"""The commands against a real server and a real spooler, each a process of its own."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from spoolway_server.cli.children import Children
from spoolway_server.cli.exits import ExitCode
from tests.server.test_cli_children import is_alive, until

EXAMPLES = Path(__file__).parents[2] / "examples"

LAMP = """
import sys, time
from spoolway import JobError, Spooler

def run(job):
    order = job.content
    if "fail" in order:
        raise JobError(order["fail"])
    while order.get("glow") and not job.cancelled:
        job.report(stage="glowing", fraction=0.5)
        time.sleep(0.01)
    return None if job.cancelled else {"light": order.get("light", 1.0)}

Spooler("lamp-1", address=sys.argv[1], backend="lamp", config={"description": "A lamp"}, run=run).run()
"""


@dataclass
class Ran:
    """What a command left behind."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def document(self):
        return json.loads(self.stdout)


def clean_environment(**more: str) -> dict[str, str]:
    """Nothing of the user's own settings."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("SPOOLWAY_")}
    return {**own, "SPOOLWAY_PROFILES_FILE": os.devnull, **more}


def spoolway(*arguments: object, env: dict[str, str], cwd: Path, stdin: str = "") -> Ran:
    """Run one command line, without a terminal."""
    command = [sys.executable, "-m", "spoolway_server.cli", *map(str, arguments)]
    ran = subprocess.run(
        command, env=env, cwd=cwd, input=stdin, capture_output=True, encoding="utf-8", check=False, timeout=90
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


@dataclass(frozen=True)
class Lab:
    """A server with the backend `lamp`; called with arguments it runs a command as ada."""

    address: str
    folder: Path

    def __call__(self, *arguments: object, stdin: str = "", user: str = "ada") -> Ran:
        env = clean_environment(SPOOLWAY_ADDRESS=self.address, SPOOLWAY_USER=user)
        return spoolway(*arguments, env=env, cwd=self.folder, stdin=stdin)

    def is_operational(self) -> bool:
        return any(
            entry["status"]["operational"] for entry in self("backends", "--json").document["backends"]
        )


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "lamp.py").write_text(LAMP)
    env = clean_environment(SPOOLWAY_SERVER__DRAIN_PAUSE_S="0")
    with Children(folder, env) as children:
        server = children.start("server", "spoolway_server.cli", "serve", "--port", "0", cwd=folder)
        lab = Lab(until(server.first_line), folder)
        children.start("lamp", "lamp", lab.address, cwd=folder)
        until(lab.is_operational)
        yield lab


def test_submit_wait_and_result(lab):
    """A job goes through the real server and spooler, and its result comes back as it was sent."""
    submitted = lab("submit", "-", "-b", "lamp", "--wait", "--timeout", "60", stdin='{"light": 0.5}')
    name = submitted.stdout.strip()

    assert (submitted.exit_code, submitted.stderr) == (0, f"{name} ended DONE\n")
    assert re.fullmatch(r"backends/lamp/jobs/\w+", name)
    assert lab("result", name).document == {"light": 0.5}
    assert lab("status", name.rpartition("/")[2], "--json").document["state"] == "DONE"


def test_a_job_that_fails_is_explained(lab):
    """A job that its spooler refuses ends the wait with 1 and the spooler's words."""
    submitted = lab("submit", "-", "-b", "lamp", "--wait", stdin='{"fail": "the bulb is broken"}')

    assert submitted.exit_code == ExitCode.ENDED_BADLY
    assert "the bulb is broken" in submitted.stderr
    result = lab("result", submitted.stdout.strip())
    assert (result.exit_code, result.stdout) == (ExitCode.ENDED_BADLY, "")
    assert "the bulb is broken" in result.stderr


def test_a_running_job_can_be_watched_and_cancelled(lab):
    """A wait can time out, a running job has no result yet, and a cancel ends it."""
    name = lab("submit", "-", "-b", "lamp", "-l", "kind=slow", stdin='{"glow": true}').stdout.strip()

    watched = lab("watch", name, "--timeout", "1")
    early = lab("result", name)
    cancelled = lab("cancel", name)
    ended = lab("watch", name, "--json")

    assert watched.exit_code == ExitCode.TIMED_OUT
    assert early.exit_code == ExitCode.REFUSED
    assert cancelled.exit_code == 0
    assert cancelled.stdout.split()[0] == name
    assert ended.exit_code == ExitCode.ENDED_BADLY
    assert json.loads(ended.stdout.splitlines()[-1])["state"] == "CANCELLED"
    assert [job["name"] for job in lab("jobs", "-l", "kind=slow", "--json").document["jobs"]] == [name]


def test_the_same_request_id_is_the_same_job(lab):
    """A repeat with the same request id makes no second job; with another content it is refused."""
    first = lab("submit", "-", "-b", "lamp", "--request-id", "once", stdin="{}")
    again = lab("submit", "-", "-b", "lamp", "--request-id", "once", stdin="{}")
    other = lab("submit", "-", "-b", "lamp", "--request-id", "once", stdin='{"light": 2}')

    assert first.stdout == again.stdout != ""
    assert other.exit_code == ExitCode.REFUSED
    assert "REQUEST_ID_REUSED" in other.stderr


def test_jobs_are_ones_own(lab):
    """Nobody sees another's jobs, neither in the list nor by name."""
    name = lab("submit", "-", "-b", "lamp", stdin="{}").stdout.strip()

    mine = lab("jobs", "--json", "--limit", "1000").document["jobs"]
    others = lab("jobs", "--json", user="bob").document["jobs"]

    assert name in {job["name"] for job in mine}
    assert others == []
    assert lab("status", name, user="bob").exit_code == ExitCode.NOT_FOUND


@pytest.mark.parametrize(
    ("arguments", "stdin", "code"),
    [
        (["submit", "-", "-b", "nolamp"], "{}", ExitCode.NOT_FOUND),
        (["submit", "-", "-b", "lamp"], "{nonsense", ExitCode.REFUSED),
        (["submit", "-", "-b", "lamp"], "[" * 200 + "]" * 200, ExitCode.REFUSED),
        (["status", "backends/lamp/jobs/000000000000000000000000"], "", ExitCode.NOT_FOUND),
        (["storage", "test", "attic"], "", ExitCode.NOT_FOUND),
        (["status", "x", "--ca", "no-such-file"], "", ExitCode.USAGE),
        (["backends", "--address", "127.0.0.1:1"], "", ExitCode.UNAVAILABLE),
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(lab, arguments, stdin, code):
    """Errors of the real server are one line on stderr, without a traceback, and nothing on stdout."""
    ran = lab(*arguments, stdin=stdin)

    assert (ran.exit_code, ran.stdout) == (code, "")
    assert ran.stderr.startswith("spoolway: ")
    assert "Traceback" not in ran.stderr


def test_backends_and_storages_are_listed(lab):
    """People and programs see the backend and its storage."""
    storages = lab("storages", "--json").document["storages"]

    assert "lamp" in lab("backends").stdout
    assert lab("backends", "--json").document["backends"][0]["config"]["description"] == "A lamp"
    assert [(s["name"], s["type"], s["serving"], s["is_default"]) for s in storages] == [
        ("main", "sqlite", True, True)
    ]
    assert "main" in lab("storages").stdout


def test_the_storage_passes_its_own_test(lab):
    """The embedded default can do all that a storage must."""
    people, programs = lab("storage", "test", "main"), lab("storage", "test", "main", "--json")

    assert people.exit_code == programs.exit_code == 0, people.stdout
    assert programs.document["passed"]
    assert len(programs.document["steps"]) > 3


def test_a_port_in_use_is_one_line(lab):
    """A server whose port is taken says so and does not start."""
    ran = lab("serve", "--port", lab.address.rpartition(":")[2])

    assert (ran.exit_code, ran.stdout) == (ExitCode.UNAVAILABLE, "")
    assert "in use" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_serve_says_its_address_first_and_stops_when_told_to(tmp_path):
    """The first line on stdout is the address, and SIGTERM ends the server with 0 after its drain."""
    env = clean_environment(SPOOLWAY_SERVER__DRAIN_PAUSE_S="0", SPOOLWAY_SERVER__LOG_FORMAT="json")
    server = subprocess.Popen(
        [sys.executable, "-m", "spoolway_server.cli", "serve", "--port", "0"],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert server.stdout is not None
    address = server.stdout.readline().strip()

    server.send_signal(signal.SIGTERM)
    stdout, stderr = server.communicate(timeout=60)

    assert re.fullmatch(r"127\.0\.0\.1:\d+", address)
    assert (server.returncode, stdout) == (0, "")
    events = [json.loads(line)["event"] for line in stderr.splitlines()]
    assert "listening" in events
    assert "draining" in events


@pytest.fixture
def demo(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts the demo in a folder of its own, without a terminal."""

    def start(*arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "spoolway_server.cli", "demo", *map(str, arguments)],
            cwd=tmp_path,
            # The user's own settings must not reach the demo's server.
            env=clean_environment(SPOOLWAY_ADDRESS="127.0.0.1:1", SPOOLWAY_SERVER__PORT="-1"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    return start


def test_the_demo_runs_a_scan_and_draws_it(demo, tmp_path):
    """The demo prints a line for each job and then the curve, leaves nothing behind, and uses no colours."""
    process = demo("--examples", EXAMPLES)
    stdout, stderr = process.communicate(timeout=100)

    jobs = re.findall(r"^rabi  theta=(\d\.\d\d)  [0-9a-z]+  (\w+)$", stdout, re.MULTILINE)
    assert process.returncode == 0, stderr
    assert [float(angle) for angle, _ in jobs] == sorted(float(angle) for angle, _ in jobs)
    assert {state for _, state in jobs} == {"DONE"}
    assert len(jobs) == 25
    assert "exact" in stdout
    assert "●" in stdout
    assert "\x1b" not in stdout + stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_the_demos_lines_and_bar_share_a_terminal(tmp_path):
    """On a terminal a bar is drawn, and each job's line stands above it, unbroken."""
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "spoolway_server.cli", "demo", "--examples", str(EXAMPLES)],
        cwd=tmp_path,
        env=clean_environment(TERM="xterm"),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    screen = _read_to_end(ours).decode()

    assert process.wait(60) == 0, screen
    assert "25 jobs \x1b" in screen
    jobs = [line for line in screen.splitlines() if "theta=" in line]
    assert len(jobs) == 25
    assert all(re.fullmatch(r"(.*\x1b\[2K)?rabi  theta=\S+  \S+  DONE", line) for line in jobs), jobs


def _read_to_end(descriptor: int) -> bytes:
    read = b""
    with contextlib.suppress(OSError):  # how a terminal ends on Linux
        while block := os.read(descriptor, 65536):
            read += block
    os.close(descriptor)
    return read


def test_the_demo_shows_the_logs_of_what_failed(demo, tmp_path):
    """A simulator that breaks ends the demo with 1 and the end of its log."""
    broken = tmp_path / "elsewhere" / "examples"
    shutil.copytree(EXAMPLES, broken)
    (broken / "singlequdit" / "spooler.py").write_text("raise SystemExit('no lasers today')")

    process = demo("--examples", broken)
    _stdout, stderr = process.communicate(timeout=100)

    assert process.returncode == ExitCode.ENDED_BADLY
    assert "no lasers today" in stderr
    assert "the simulator ended by itself" in stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_the_demo_takes_its_processes_along(demo):
    """A demo that is stopped halfway stops its server and simulator too."""
    process = demo("--examples", EXAMPLES)
    children = until(lambda: _children_of(process.pid))

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)

    assert process.returncode == ExitCode.INTERRUPTED
    assert [pid for pid in children if is_alive(pid)] == []


def test_the_demo_needs_the_examples(demo):
    """Where there are no examples the demo says how to name them."""
    process = demo()
    _stdout, stderr = process.communicate(timeout=60)

    assert process.returncode == ExitCode.USAGE
    assert "--examples DIR" in stderr


def _children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        time.sleep(1)
        return []
