"""All of the bench, for some tenths of a second: that it runs, not what it finds."""

import json
import time
from pathlib import Path

import pytest

from bench.idle import watch_idle
from bench.payload import RESULT, job, sent_ns
from bench.plan import Plan
from bench.profiling import print_profile, run_profiled
from bench.report import make_report, table
from bench.rounds import Rounds
from bench.storages import chosen

TINY = Plan(
    rounds=1,
    floor_s=0.1,
    case_s=0.1,
    calls=3,
    long_queue=200,
    idle_s=0.1,
    budget_s=60,
    idle_streams=20,
    warm_up_s=0.05,
    batch_credit=60,
)


async def test_rounds_and_idle_server_make_a_report(tmp_path: Path) -> None:
    cases = chosen(["memory", "sqlite"])

    rounds = await Rounds(TINY, cases, tmp_path).run(time.monotonic())
    (tmp_path / "idle").mkdir()
    idle = await watch_idle(cases[1], tmp_path / "idle", streams=TINY.idle_streams, seconds=TINY.idle_s)
    report = make_report(rounds, idle, TINY)

    assert min(report["memory"]["single_per_s"], report["sqlite"]["single_per_s_100k"]) > 0
    assert 0 < report["sqlite"]["p50_ms"] <= report["sqlite"]["p99_ms"]
    assert report["idle_20_streams"]["rss_mb"] > 10
    assert "sqlite" in table(report)


async def test_a_profile_tells_where_the_servers_time_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = await run_profiled(chosen(["memory"])[0], tmp_path, TINY, batch=False, seconds=0.2)

    print_profile(tmp_path, measured)

    assert "thread loop" in capsys.readouterr().out


def test_a_job_is_a_document_of_about_1_kb_that_carries_its_moment() -> None:
    content = job(123_456_789)

    assert 900 < len(content) < 1100
    assert json.loads(content)["sent_ns"] == sent_ns(content) == 123_456_789
    assert 900 < len(RESULT) < 1100
    json.loads(RESULT)
