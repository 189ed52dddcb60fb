"""`python -m spoolway_server.cli.leash MODULE ARGUMENTS...`: run a module while somebody holds our stdin.

The demo starts its processes like this: however it ends, killed included, its end of the pipe closes with it.
"""

import os
import runpy
import signal
import sys
import threading
import time

GRACE_S = 5


def _end_with_stdin() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
