"""`spoolway` that soon takes over what a killed server did, and may kill itself amid a copy."""

import os
import signal
from typing import Any

from spoolway_server import copying, importing, operations
from spoolway_server.cli import main

KILL_AT = int(os.environ.get("TEST_KILL_AT", "0"))
"""Once so many jobs are copied."""


def hurry() -> None:
    copying.PAGE = importing.PAGE = 20
    save = operations.Operation.save
    defaults: dict[str, Any] = operations.Operations.__init__.__kwdefaults__
    defaults["lost_after_s"] = 3.0

    async def save_or_die(operation: operations.Operation, **changes: Any) -> None:
        await save(operation, **changes)
        if KILL_AT and changes.get("done", 0) >= KILL_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    operations.Operation.save = save_or_die  # type: ignore[method-assign]  # in this process only


if __name__ == "__main__":
    hurry()
    main()
