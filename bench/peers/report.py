"""From rounds to the peers' figures: the report for programs, and the table for people."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.bodies import Latency

__all__ = ["OURS", "Measured", "make_report", "table"]

OURS = "spoolway"


@dataclass(frozen=True)
class Measured:
    """One queue in one round."""

    per_s: float
    latency: Latency


def make_report(rounds: Sequence[Mapping[str, Measured]]) -> dict[str, Any]:
    """Medians over the rounds; a ratio to ours is the median of the rounds' ratios."""
    report: dict[str, Any] = {
        name: {
            "per_s": _rounded(median(one[name].per_s for one in rounds)),
            "submit_p50_ms": _rounded(median(one[name].latency.submit_p50 for one in rounds)),
            "p50_ms": _rounded(median(one[name].latency.p50 for one in rounds)),
            "p99_ms": _rounded(median(one[name].latency.p99 for one in rounds)),
            "per_s_to_ours": _rounded(median(one[name].per_s / one[OURS].per_s for one in rounds)),
            "p50_to_ours": _rounded(median(one[name].latency.p50 / one[OURS].latency.p50 for one in rounds)),
        }
        for name in rounds[0]
    }
    report["run"] = {"rounds": len(rounds), "cpus": len(os.sched_getaffinity(0))}
    return report


def table(report: Mapping[str, Any]) -> str:
    """The report for people."""
    return "\n".join(_lines(report))


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'':15}{'jobs/s':>9}{'to ours':>9}{'submit, ms':>12}{'to handler':>12}{'p99':>9}{'to ours':>9}"
    for name, one in report.items():
        if name != "run":
            yield (
                f"{name:15}{one['per_s']:>9,.0f}{one['per_s_to_ours']:>9.2f}{one['submit_p50_ms']:>12.2f}"
                f"{one['p50_ms']:>12.2f}{one['p99_ms']:>9.2f}{one['p50_to_ours']:>9.2f}"
            )


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
