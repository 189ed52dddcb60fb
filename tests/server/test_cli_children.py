import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spoolway_server.cli.children import Children

SLEEPER = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n"


@pytest.fixture
def modules(tmp_path) -> Path:
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    (tmp_path / "failing.py").write_text("import sys\nsys.exit('it is broken')\n")
    stubborn = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPER
    (tmp_path / "stubborn.py").write_text(stubborn)
    return tmp_path


def until(true, limit_s: float = 20):
    """Ask again until it is true: other processes have no events to wait for."""
    end = time.monotonic() + limit_s
    while not (answer := true()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return answer


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # One that has ended counts as gone, also where nobody collects it, as in many containers.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc").is_dir()


@pytest.mark.parametrize("module", ["sleeper", "stubborn"])
def test_children_never_outlive_the_block(modules, monkeypatch, module):
    """Whatever happens within the block, its processes are gone after it, also those that ignore SIGTERM."""
    monkeypatch.setattr("spoolway_server.cli.children.STOP_S", 0.2)
    pids = []

    def break_off() -> None:
        with Children(modules, os.environ) as children:
            child = children.start("sleeper", module, cwd=modules)
            pids.append(int(until(child.first_line)))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()

    assert not is_alive(pids[0])


def test_a_child_that_dies_is_noticed_and_its_log_is_kept(modules):
    """A process that ends by itself is named, with its exit code and the end of its log."""
    with Children(modules, os.environ) as children:
        children.start("lamp", "failing", cwd=modules)
        dead = until(children.dead)

        assert (dead.name, dead.exit_code) == ("lamp", 1)
        assert children.tails() == "--- end of the lamp's log\nit is broken"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL; the pipe works the same there")
def test_children_end_even_if_their_parent_is_killed(modules):
    """Nobody can clear up after kill -9, so the children notice by themselves that their parent is gone."""
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, pathlib, time\n"
            "from spoolway_server.cli.children import Children\n"
            "here = pathlib.Path.cwd()\n"
            "Children(here, os.environ).start('sleeper', 'sleeper', cwd=here)\n"
            "time.sleep(600)\n",
        ],
        cwd=modules,
    )
    output = modules / "sleeper.out"
    pid = int(until(lambda: output.exists() and output.read_text().strip()))

    parent.send_signal(signal.SIGKILL)
    parent.wait()

    until(lambda: not is_alive(pid))
