"""procrastinate: its client and worker, `python -m bench.peers.procrastinate_ends client|worker PORT LINK`.

It stores no results: the task writes its own into a table, as its users do.
"""

import asyncio
import logging
import sys
import time
from typing import Any

from procrastinate import App, JobContext, PsycopgConnector

from bench import payload
from bench.peers.ends import Counter, serve_client

BACKEND = "free"
CONNECTIONS = 16
CONCURRENCY = 64
TABLE = "CREATE TABLE results (job bigint PRIMARY KEY, result jsonb NOT NULL)"
STORE = "INSERT INTO results (job, result) VALUES (%(job)s, %(result)s::jsonb)"
TASK = "run"


def _app(port: int) -> App:
    connector = PsycopgConnector(
        conninfo=f"host=127.0.0.1 port={port} user=bench dbname=postgres",
        min_size=CONNECTIONS,
        max_size=CONNECTIONS,
    )
    return App(connector=connector)


async def client(port: int, link_fd: int) -> None:
    async with _app(port).open_async() as app:
        deferrer = app.configure_task(TASK)

        async def submit(_backend: str) -> int:
            await deferrer.defer_async(content=payload.job(time.monotonic_ns()).decode())
            return 1

        await serve_client(link_fd, submit)


async def worker(port: int, link_fd: int) -> None:
    # At its end it warns of each job that it leaves.
    logging.getLogger("procrastinate").setLevel(logging.ERROR)
    counter = Counter(link_fd)
    app = _app(port)
    result = payload.RESULT.decode()

    @app.task(name=TASK, pass_context=True)  # type: ignore[untyped-decorator,unused-ignore]
    async def run(context: JobContext, content: str) -> None:
        counter.tally.arrived(BACKEND, [content.encode()], time.monotonic_ns())
        await app.connector.execute_query_async(STORE, job=context.job.id, result=result)

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await app.connector.execute_query_async(TABLE)
        _count_the_finished(app, counter)
        working = asyncio.create_task(
            app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False)
        )
        await counter.serve()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


def _count_the_finished(app: App, counter: Counter) -> None:
    """A job is done once the database has its end, which only the worker knows of."""
    finish = app.job_manager.finish_job

    async def finish_and_count(*arguments: Any, **named: Any) -> None:
        await finish(*arguments, **named)
        counter.tally.finished(BACKEND, 1)

    app.job_manager.finish_job = finish_and_count  # type: ignore[method-assign,unused-ignore]


if __name__ == "__main__":
    asyncio.run({"client": client, "worker": worker}[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3])))
