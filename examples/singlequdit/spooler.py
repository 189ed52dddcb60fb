"""Runs the jobs of `singlequdit`: `python -m examples.singlequdit.spooler`, from the repository's root.

A real device's spooler looks the same; only `run_job` differs.
"""

import argparse
from typing import Any

from examples.singlequdit.simulator import CONFIG, run
from spoolway import JobError, RunningJob, Spooler


def run_job(job: RunningJob) -> dict[str, Any]:
    """Run one job and return its result, telling after each experiment how far it is."""

    def report(done: int, total: int) -> None:
        job.report(stage=f"experiment {done} of {total}", fraction=done / total)

    try:
        return run(job.content, job.id, on_experiment=report, cancelled=lambda: job.cancelled)
    except ValueError as wrong:
        raise JobError(str(wrong)) from wrong


def main() -> None:
    """Take jobs until stopped by Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m examples.singlequdit.spooler", description=main.__doc__)
    parser.add_argument("--address", help="HOST:PORT of the server (default: SPOOLWAY_ADDRESS, profile)")
    parser.add_argument("--name", default="singlequdit-1", help="of this spooler, the same at each start")
    options = parser.parse_args()
    Spooler(options.name, address=options.address, backend="singlequdit", config=CONFIG, run=run_job).run()


if __name__ == "__main__":
    main()
