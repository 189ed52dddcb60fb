from dataclasses import replace

import pytest

from bench.bodies import Latency, Throughput, quantile
from bench.idle import Idle
from bench.plan import QUICK
from bench.report import make_report, table
from bench.rounds import FloorRound, Round, StorageRound


def throughput(per_s: float) -> Throughput:
    return Throughput(1000, per_s, {"server": 100.0, "client": 50.0, "worker": 25.0})


def latency(p50: float, p99: float) -> Latency:
    return Latency(submit_p50=p50 / 2, submit_p99=p99 / 2, p50=p50, p99=p99)


def one_round(*, relay_per_s: float, sqlite_per_s: float, local_per_s: float) -> Round:
    floor = FloorRound(
        echo_per_s=4000,
        echo_p50_ms=0.5,
        single_relay=throughput(relay_per_s),
        batch_relay=throughput(relay_per_s),
        relay_latency=latency(1.0, 3.0),
    )
    return Round(
        floor,
        {
            name: StorageRound(
                single=throughput(per_s),
                long=throughput(per_s * 0.9),
                batch=throughput(per_s * 4),
                latency=latency(1.2, 6.0),
            )
            for name, per_s in (("sqlite", sqlite_per_s), ("local", local_per_s))
        },
    )


ROUNDS = [
    one_round(relay_per_s=1000, sqlite_per_s=900, local_per_s=540),
    # All that this round did was slow, the floor as well: its ratios are as good as any.
    one_round(relay_per_s=100, sqlite_per_s=80, local_per_s=40),
    one_round(relay_per_s=2000, sqlite_per_s=2000, local_per_s=1200),
]
IDLE = Idle(streams=1000, cpu_percent=1.5, rss_mb=105.25)


def test_the_report_has_the_figures_that_other_programs_read() -> None:
    report = make_report(ROUNDS, IDLE, QUICK)

    assert {"echo_per_s", "relay_per_s", "relay_p50_ms"} <= set(report["floors"])
    for storage in ("sqlite", "local"):
        assert {"single_per_s", "batch_per_s", "p50_ms", "p99_ms", "single_per_s_100k"} <= set(
            report[storage]
        )
    assert report["idle_1000_streams"] == {"cpu_percent": 1.5, "rss_mb": 105.2}


def test_a_figure_is_the_median_of_the_rounds() -> None:
    report = make_report(ROUNDS, IDLE, QUICK)

    assert report["floors"]["relay_per_s"] == 1000
    assert report["sqlite"]["single_per_s"] == 900


def test_a_ratio_is_taken_within_each_round_and_only_then_the_median() -> None:
    ratios = make_report(ROUNDS, IDLE, QUICK)["sqlite"]["ratios"]

    assert ratios == {
        "single_to_relay": 0.9,
        "batch_to_relay": 3.6,
        "p50_to_relay": 1.2,
        "p99_to_p50": 5,
        "long_queue_to_short": 0.9,
    }


def test_other_storages_are_compared_with_sqlite() -> None:
    report = make_report(ROUNDS, IDLE, QUICK)

    assert report["local"]["ratios"]["single_to_sqlite"] == 0.6


def test_the_table_tells_which_wishes_were_missed() -> None:
    slow = [replace(one, storages={"sqlite": one.storages["local"]}) for one in ROUNDS]

    assert "missed" not in table(make_report(ROUNDS, IDLE, QUICK))
    assert [line for line in table(make_report(slow, None, QUICK)).splitlines() if "missed" in line]


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100)])
def test_a_quantile_is_a_value_that_was_measured(share: float, value: int) -> None:
    assert quantile(range(1, 101), share) == value
