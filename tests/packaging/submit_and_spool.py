"""With nothing but the client wheel: start a server given by path, spool for it, submit to it."""

import asyncio
import os
import subprocess
import sys
import threading
import time

from spoolway import JobClient, Spooler

PORT = "50977"
ADDRESS = f"127.0.0.1:{PORT}"


async def submit() -> None:
    """Submit a job and check its result."""
    async with JobClient(ADDRESS) as client:
        job = await client.submit("adder", {"numbers": [1, 2, 3]})
        result = await job.result(timeout=30)
    if result != {"sum": 6}:
        sys.exit(f"wrong result: {result}")
    print(job.name, result)


def main() -> None:
    """Run the round trip."""
    environment = {**os.environ, "SPOOLWAY_SERVER__DRAIN_PAUSE_S": "0"}
    server = subprocess.Popen([sys.argv[1], "serve", "--port", PORT], env=environment)
    try:
        spooler = Spooler("lab-1", address=ADDRESS).add_backend(
            "adder",
            config={"version": "1.0.0", "display_name": "adder", "description": "adds"},
            run=lambda job: {"sum": sum(job.content["numbers"])},
        )
        thread = threading.Thread(target=lambda: asyncio.run(spooler.serve()), daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while True:
            try:
                asyncio.run(submit())
                break
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        spooler.drain()
        thread.join(20)
    finally:
        server.terminate()
        server.wait(30)


main()
