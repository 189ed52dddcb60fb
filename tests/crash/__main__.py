"""`make crash`: play rounds of the crash harness, see docs/testing.md."""

import argparse
import asyncio
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.crash.processes import Zygote, zygote
from tests.crash.rounds import LIMIT_S, Outcome, RoundFailed, play_round
from tests.crash.storages import STORAGES


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the rounds asked for; 0 if all went well."""
    options = _parser().parse_args(arguments)
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    numbers = [options.round] if options.round is not None else range(options.rounds)
    failed = 0
    for provider in options.provider or ["sqlite", "local"]:
        print(f"{provider}: {len(numbers)} rounds of seed {seed}", flush=True)  # noqa: T201
        with zygote(provider) as started:
            failed += asyncio.run(_play(provider, seed, numbers, started, options))
    return min(failed, 1)


async def _play(
    provider: str, seed: int, numbers: Iterable[int], started: Zygote, options: argparse.Namespace
) -> int:
    parent = Path(tempfile.mkdtemp(prefix="spoolway-crash-"))
    lanes = asyncio.Semaphore(options.at_once)
    outcomes: list[Outcome] = []
    failures: list[str] = []
    began = time.monotonic()

    async def one(number: int) -> None:
        async with lanes:
            try:
                outcomes.append(
                    await play_round(seed, number, provider, started, parent, limit_s=options.limit)
                )
            except RoundFailed as error:
                failures.append(str(error))
                print(f"\n{error}\n", flush=True)  # noqa: T201

    await asyncio.gather(*(one(number) for number in numbers))
    _sum_up(outcomes, failures, time.monotonic() - began, is_detailed=options.points)
    return len(failures)


def _sum_up(
    outcomes: Sequence[Outcome], failures: Sequence[str], took_s: float, *, is_detailed: bool
) -> None:
    hits = Counter(hit for outcome in outcomes for hit in outcome.target_hits)
    longest = max((outcome.took_s for outcome in outcomes), default=0.0)
    print(  # noqa: T201
        f"{len(outcomes)} rounds well, {len(failures)} failed, in {took_s:.0f} s, "
        f"the longest round {longest:.1f} s: "
        f"{sum(o.jobs for o in outcomes)} jobs, {sum(o.kills for o in outcomes)} kills, "
        f"{hits.total()} of them at {len(hits)} different steps of transitions",
        flush=True,
    )
    for hit, times in sorted(hits.items()) if is_detailed else ():
        print(f"  {times:4} x {hit}")  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash", description="Play rounds of the crash harness."
    )
    parser.add_argument("--rounds", type=int, default=20, help="how many; 20 by default")
    parser.add_argument("--round", type=int, help="only this one, to see it again")
    parser.add_argument("--seed", type=int, help="of all of them; a new one by default")
    parser.add_argument(
        "--provider", action="append", choices=sorted(STORAGES), help="sqlite and local by default"
    )
    parser.add_argument("--at-once", type=int, default=2, help="rounds at a time")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds a round may take")
    parser.add_argument("--points", action="store_true", help="list the steps at which servers were killed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
