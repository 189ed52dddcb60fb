"""`python -m bench [--quick] [--storage NAME]...`: measure, print a table, write bench/report.json."""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.children import ROOT, BenchError
from bench.idle import Idle, watch_idle
from bench.plan import FULL, QUICK, Plan
from bench.profiling import print_profile, run_profiled
from bench.report import Report, make_report, table
from bench.rounds import Rounds, say
from bench.storages import StorageCase, chosen

REPORT = ROOT / "bench" / "report.json"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    plan = QUICK if options.quick else FULL
    # Under the repository, not in /tmp: that may be memory, whose fsync costs nothing.
    (ROOT / "build").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / "build"))
    try:
        cases = chosen(options.storage)
        if options.profile:
            batch = options.profile == "batch"
            print_profile(folder, asyncio.run(run_profiled(cases[0], folder, plan, batch=batch)))
        else:
            began = time.monotonic()
            report = asyncio.run(_measure(plan, cases, folder, with_idle=not options.no_idle))
            options.output.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
            print(f"{table(report)}\n\n{options.output}, after {time.monotonic() - began:.0f} s")
    except BenchError as error:
        say(f"the bench has failed: {error}")
        return 1
    finally:
        shutil.rmtree(folder)
    return 0


async def _measure(plan: Plan, cases: Sequence[StorageCase], folder: Path, *, with_idle: bool) -> Report:
    rounds = await Rounds(plan, cases, folder).run(time.monotonic())
    idle = await _idle(plan, cases[0], folder) if with_idle else None
    return make_report(rounds, idle, plan)


async def _idle(plan: Plan, case: StorageCase, folder: Path) -> Idle:
    say(f"{plan.idle_streams:,} idle streams, {plan.idle_s:.0f} s")
    (folder / "idle").mkdir()
    return await watch_idle(case, folder / "idle", streams=plan.idle_streams, seconds=plan.idle_s)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure the service against two floors."
    )
    parser.add_argument("--quick", action="store_true", help="within 50 s, and less exact")
    parser.add_argument(
        "--storage",
        action="append",
        default=[],
        help="only this one, may be repeated; else all that are installed",
    )
    parser.add_argument("--no-idle", action="store_true", help="without the idle server")
    parser.add_argument("--output", type=Path, default=REPORT, help="where the report goes")
    parser.add_argument(
        "--profile",
        nargs="?",
        const="single",
        choices=["single", "batch"],
        help="instead: where the time of a storage's server goes, submitted singly or in batches",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
