"""Starts a round's processes by fork, with everything imported: one costs 20 ms instead of half a second.

One command a line: a role, who it is, its arguments, the journal and the log. The answer is its process id.
The processes end with this one, which ends with whoever started it.

    python -m tests.crash.zygote PROVIDER
"""

import ctypes
import json
import os
import secrets
import signal
import sys
import traceback
from typing import Any

from spoolway_providers import model
from tests.crash.client import run_client
from tests.crash.journal import Journal
from tests.crash.server import run_server
from tests.crash.spooler import run_spooler
from tests.crash.storages import storage_case

ROLES = {"server": run_server, "spooler": run_spooler, "client": run_client}
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def main() -> None:
    """Obey until the end of the input."""
    storage_case(sys.argv[1]).maker(lambda _: None)  # its driver is imported once for all
    # The kernel sees to those that have ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)  # noqa: T201 - what is imported until here takes no round's time
    for line in sys.stdin:
        command = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _be(command)
        print(pid, flush=True)  # noqa: T201 - the answer


def _be(command: dict[str, Any]) -> None:
    """Be one of the round's processes; never returns."""
    code = 1
    try:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for old, new in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(old, new)
        # Processes that are no forks of each other have ids of their own.
        model._PROCESS = secrets.token_hex(5)
        journal = Journal(command["journal"], command["who"])
        journal.note("starts", pid=os.getpid())
        ROLES[command["role"]](command["who"], journal, command["arguments"])
        code = 0
    except BaseException:  # noqa: BLE001 - whatever it was, the log has it
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
