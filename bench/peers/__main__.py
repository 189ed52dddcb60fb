"""`python -m bench.peers [--quick] [--peer NAME]...`: print a table, write bench/peers-report.json."""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.bodies import Body, start_service
from bench.children import ROOT, BenchError
from bench.peers.report import OURS, Measured, make_report, table
from bench.peers.servers import PEERS, Peer, start_peer
from bench.rounds import say
from bench.storages import chosen
from bench.worker import StreamPlan

REPORT = ROOT / "bench" / "peers-report.json"
BACKEND = "free"


@dataclass(frozen=True)
class Plan:
    """The sizes of a run."""

    rounds: int
    case_s: float
    """How long jobs are submitted; the clock runs on until the last one is done."""
    calls: int
    """Jobs of one latency measurement."""
    warm_up_s: float
    in_flight: int = 64
    """Submits at once."""
    credit: int = 64
    """Jobs that our worker holds."""
    pause_s: float = 0.005
    """Between two jobs of a latency measurement."""


FULL = Plan(rounds=5, case_s=4, calls=200, warm_up_s=1)
QUICK = Plan(rounds=2, case_s=1, calls=40, warm_up_s=0.3)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    (ROOT / "build").mkdir(exist_ok=True)
    # Under the repository, not in /tmp: that may be memory, whose fsync costs nothing.
    folder = Path(tempfile.mkdtemp(prefix="peers-", dir=ROOT / "build"))
    # PostgreSQL runs as another user.
    folder.chmod(0o711)
    began = time.monotonic()
    try:
        rounds = asyncio.run(_measure(QUICK if options.quick else FULL, _chosen(options.peer), folder))
    except BenchError as error:
        say(f"the bench has failed: {error}")
        return 1
    finally:
        shutil.rmtree(folder)
    report = make_report(rounds)
    options.output.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(f"{table(report)}\n\n{options.output}, after {time.monotonic() - began:.0f} s")
    return 0


async def _measure(plan: Plan, peers: Sequence[Peer], folder: Path) -> list[dict[str, Measured]]:
    async with AsyncExitStack() as stack:
        ours = _subfolder(folder, OURS)
        stream = StreamPlan(BACKEND, plan.credit, gated=False)
        bodies = {OURS: await start_service(stack, chosen(["sqlite"])[0], [stream], ours)}
        for peer in peers:
            bodies[peer.name] = await start_peer(stack, peer, _subfolder(folder, peer.name))
        for body in bodies.values():
            await body.throughput("single", BACKEND, plan.warm_up_s, plan.in_flight, grants=False)
        rounds: list[dict[str, Measured]] = []
        for number in range(1, plan.rounds + 1):
            rounds.append({name: await _measured(body, plan) for name, body in bodies.items()})
            gist = "; ".join(f"{name} {one.per_s:,.0f}/s" for name, one in rounds[-1].items())
            say(f"round {number} of {plan.rounds}: {gist}")
        return rounds


async def _measured(body: Body, plan: Plan) -> Measured:
    load = await body.throughput("single", BACKEND, plan.case_s, plan.in_flight, grants=False)
    return Measured(load.per_s, await body.latency("single", BACKEND, plan.calls, plan.pause_s))


def _chosen(names: Sequence[str]) -> list[Peer]:
    known = {peer.name: peer for peer in PEERS}
    for name in names:
        if name not in known:
            raise BenchError(f"no peer is called {name!r}; there are {', '.join(known)}")
    return [known[name] for name in names] if names else list(PEERS)


def _subfolder(folder: Path, name: str) -> Path:
    sub = folder / name
    sub.mkdir()
    return sub


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description="Measure beside other queues.")
    parser.add_argument("--quick", action="store_true", help="less exact")
    parser.add_argument("--peer", action="append", default=[], help="only this one, may be repeated")
    parser.add_argument("--output", type=Path, default=REPORT, help="where the report goes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
