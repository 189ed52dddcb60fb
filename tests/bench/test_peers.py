"""The bench beside other queues: its figures, and what it says where they are not installed."""

from pathlib import Path

import pytest

from bench.bodies import Latency
from bench.peers import servers
from bench.peers.__main__ import main
from bench.peers.report import OURS, Measured, make_report, table


def measured(per_s: float, p50: float) -> Measured:
    return Measured(per_s, Latency(submit_p50=p50 / 2, submit_p99=p50, p50=p50, p99=p50 * 4))


ROUNDS = [
    {OURS: measured(1000, 2.0), "beanstalkd": measured(2000, 1.0)},
    # A round in which all was slow: its ratios count as much as any.
    {OURS: measured(100, 20.0), "beanstalkd": measured(150, 16.0)},
    {OURS: measured(1200, 1.0), "beanstalkd": measured(1200, 0.5)},
]


def test_a_ratio_to_ours_is_taken_within_each_round() -> None:
    """Figures are medians of the rounds, ratios medians of the rounds' ratios."""
    report = make_report(ROUNDS)

    assert (report[OURS]["per_s"], report[OURS]["per_s_to_ours"]) == (1000, 1)
    assert (report["beanstalkd"]["per_s_to_ours"], report["beanstalkd"]["p50_to_ours"]) == (1.5, 0.5)


def test_the_table_has_a_line_for_each_queue() -> None:
    """People see the same figures as programs."""
    lines = table(make_report(ROUNDS)).splitlines()

    assert [line.split()[0] for line in lines[1:]] == [OURS, "beanstalkd"]


def test_what_is_not_installed_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the peers' environment the bench says which command brings it."""
    monkeypatch.setattr(servers, "PYTHON", tmp_path / "missing")

    status = main(["--quick", "--peer", "celery", "--output", str(tmp_path / "report.json")])

    assert status == 1
    assert "make bench-peers" in capsys.readouterr().err
    assert not (tmp_path / "report.json").exists()


def test_an_unknown_peer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A peer that the bench does not know is refused with those that it does."""
    status = main(["--peer", "kafka", "--output", str(tmp_path / "report.json")])

    assert status == 1
    assert "beanstalkd, procrastinate, celery" in capsys.readouterr().err
