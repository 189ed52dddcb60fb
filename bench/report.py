"""From rounds to figures: the report for programs, and the table for people."""

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.idle import Idle
from bench.plan import Plan
from bench.rounds import FloorRound, Round, StorageRound

__all__ = ["Report", "make_report", "table"]

Report = dict[str, Any]

_FLOORS: dict[str, Callable[[FloorRound], float]] = {
    "echo_per_s": lambda floor: floor.echo_per_s,
    "echo_p50_ms": lambda floor: floor.echo_p50_ms,
    "relay_per_s": lambda floor: (floor.single_relay.per_s + floor.batch_relay.per_s) / 2,
    "relay_p50_ms": lambda floor: floor.relay_latency.p50,
    "relay_p99_ms": lambda floor: floor.relay_latency.p99,
}
_FIGURES: dict[str, Callable[[StorageRound], float]] = {
    "single_per_s": lambda storage: storage.single.per_s,
    "batch_per_s": lambda storage: storage.batch.per_s,
    "p50_ms": lambda storage: storage.latency.p50,
    "p99_ms": lambda storage: storage.latency.p99,
    "single_per_s_100k": lambda storage: storage.long.per_s,
    "submit_p50_ms": lambda storage: storage.latency.submit_p50,
    "submit_p99_ms": lambda storage: storage.latency.submit_p99,
}
_RATIOS: dict[str, Callable[[FloorRound, StorageRound], float]] = {
    "single_to_relay": lambda floor, storage: storage.single.per_s / floor.single_relay.per_s,
    "batch_to_relay": lambda floor, storage: storage.batch.per_s / floor.batch_relay.per_s,
    "p50_to_relay": lambda floor, storage: storage.latency.p50 / floor.relay_latency.p50,
    "p99_to_p50": lambda _floor, storage: storage.latency.p99 / storage.latency.p50,
    "long_queue_to_short": lambda _floor, storage: storage.long.per_s / storage.single.per_s,
}


@dataclass(frozen=True)
class Wish:
    """What a ratio is to be."""

    words: str
    at_least: float | None = None
    at_most: float | None = None

    def is_met(self, value: float) -> bool:
        return value >= (self.at_least or 0) if self.at_most is None else value <= self.at_most

    def __str__(self) -> str:
        return f">= {self.at_least:g}" if self.at_most is None else f"<= {self.at_most:g}"


_LONG_QUEUE = Wish("life cycles, long queue to short", at_least=0.8)
_TAIL = Wish("submit to assignment, p99 to median", at_most=10)
_WISHES: dict[str, dict[str, Wish]] = {
    "sqlite": {
        "single_to_relay": Wish("life cycles, singly, to relay", at_least=0.8),
        "batch_to_relay": Wish("life cycles, batches of 50, to relay", at_least=3),
        "p50_to_relay": Wish("submit to assignment, median, to relay", at_most=1.4),
        "p99_to_p50": _TAIL,
        "long_queue_to_short": _LONG_QUEUE,
    },
    "local": {
        "single_to_sqlite": Wish("life cycles, singly, to sqlite", at_least=0.5),
        "long_queue_to_short": _LONG_QUEUE,
    },
}
_IDLE_WISHES = {
    "cpu_percent": Wish("CPU, % of a core", at_most=3),
    "rss_mb": Wish("memory, MB", at_most=140),
}


def make_report(rounds: Sequence[Round], idle: Idle | None, plan: Plan) -> Report:
    """Medians over the rounds; a ratio is the median of the rounds' ratios."""
    report: Report = {
        "floors": {
            name: _rounded(median(figure(one.floor) for one in rounds)) for name, figure in _FLOORS.items()
        }
    }
    for name in rounds[0].storages:
        report[name] = _storage(name, rounds)
    if idle is not None:
        report[f"idle_{idle.streams}_streams"] = {
            "cpu_percent": _rounded(idle.cpu_percent),
            "rss_mb": _rounded(idle.rss_mb),
        }
    report["run"] = {
        "rounds": len(rounds),
        "case_s": plan.case_s,
        "long_queue": plan.long_queue,
        "idle_s": plan.idle_s,
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
    return report


def table(report: Report) -> str:
    """The report for people."""
    return "\n".join(_lines(report))


def _storage(name: str, rounds: Sequence[Round]) -> dict[str, Any]:
    mine = [(one.floor, one.storages[name]) for one in rounds]
    ratios = {key: _rounded(median(ratio(*pair) for pair in mine)) for key, ratio in _RATIOS.items()}
    if name != "sqlite" and "sqlite" in rounds[0].storages:
        ratios["single_to_sqlite"] = _rounded(
            median(one.storages[name].single.per_s / one.storages["sqlite"].single.per_s for one in rounds)
        )
    figures = {key: _rounded(median(figure(one) for _, one in mine)) for key, figure in _FIGURES.items()}
    cpu_us = {case: _cpu([getattr(one, case).cpu_us for _, one in mine]) for case in ("single", "batch")}
    return figures | {"ratios": ratios, "cpu_us_a_job": cpu_us}


def _cpu(rounds: Sequence[Mapping[str, float]]) -> dict[str, int]:
    return {process: round(median(one[process] for one in rounds)) for process in rounds[0]}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _lines(report: Report) -> Iterator[str]:
    floors = report["floors"]
    yield f"{'':12}{'life cycles/s':>15}{'batches of 50':>15}{'long queue':>12}{'to assignment, ms':>21}"
    yield f"{'':12}{'singly':>15}{'':>15}{'singly':>12}{'median':>11}{'p99':>10}"
    yield f"{'echo':12}{floors['echo_per_s']:>15,.0f}{'':27}{floors['echo_p50_ms']:>11.2f}  (its answer)"
    yield (
        f"{'relay':12}{floors['relay_per_s']:>15,.0f}{'':27}"
        f"{floors['relay_p50_ms']:>11.2f}{floors['relay_p99_ms']:>10.2f}"
    )
    for name, storage in _storages(report).items():
        yield (
            f"{name:12}{storage['single_per_s']:>15,.0f}{storage['batch_per_s']:>15,.0f}"
            f"{storage['single_per_s_100k']:>12,.0f}{storage['p50_ms']:>11.2f}{storage['p99_ms']:>10.2f}"
        )
    yield ""
    yield f"{'ratios, medians of the rounds':52}{'is':>8}{'wanted':>9}"
    for name, storage in _storages(report).items():
        for key, wish in _WISHES.get(name, {}).items():
            if key in storage["ratios"]:
                yield _wish_line(name, wish, storage["ratios"][key])
    for name, idle in report.items():
        if name.startswith("idle_"):
            for key, wish in _IDLE_WISHES.items():
                yield _wish_line(name.replace("_", " "), wish, idle[key])
    yield ""
    yield "CPU time of one job, microseconds"
    for name, storage in _storages(report).items():
        for case, processes in storage["cpu_us_a_job"].items():
            shares = ", ".join(f"{process} {used:,}" for process, used in processes.items())
            yield f"{name:12}{case:8}{shares}"


def _storages(report: Report) -> dict[str, Any]:
    return {name: part for name, part in report.items() if "single_per_s" in part}


def _wish_line(name: str, wish: Wish, value: float) -> str:
    verdict = "" if wish.is_met(value) else "  missed"
    return f"{name:19} {wish.words:32}{value:>8.3g}{wish!s:>9}{verdict}"
