"""Curves, tables and terminal plots."""

import json
from math import isnan, pi, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.singlequdit import run
from examples.singlequdit.__main__ import main
from examples.singlequdit.analysis import Point, curve, exact_curve, plot, scan, table
from tests.examples.jobs import measured, single


def result_of(*memories: list[str]) -> dict[str, Any]:
    entries = [{"header": {"name": f"experiment_{n}"}, "data": {"memory": m}} for n, m in enumerate(memories)]
    return {"results": entries[::-1]}


def test_scan_finds_the_parameter_that_varies() -> None:
    job = {f"experiment_{n}": measured(("rlx", 1), ("rlz", 0.5 * n)) for n in range(3)}

    assert scan(job) == ("rlz delta", [0, 0.5, 1])


def test_scan_takes_the_first_of_several() -> None:
    job = {f"experiment_{n}": measured(("sq_full", 0, n, 2 * n)) for n in range(3)}

    assert scan(job) == ("sq_full delta", [0, 1, 2])


def test_scan_counts_experiments_that_have_nothing_to_compare() -> None:
    same = {f"experiment_{n}": measured(("rlx", 1)) for n in range(2)}
    unlike = {"experiment_0": measured(("rlx", 1)), "experiment_1": measured(("rlz", 2))}

    assert scan(same) == scan(unlike) == ("experiment", [0, 1])


def test_curve_holds_mean_and_standard_error_in_the_order_of_the_job() -> None:
    job = {f"experiment_{n}": measured(("rlx", n)) for n in range(2)}

    points = curve(job, result_of(["0", "0"], ["0", "1", "1", "0"]))

    assert points == [(0, 0, 0), (1, 0.5, pytest.approx(sqrt(1 / 3) / 2))]


def test_single_shot_has_no_error() -> None:
    (mean,) = curve(single(measured()), result_of(["1"]))
    (variance,) = curve(single(measured()), result_of(["1"]), "variance")

    assert mean.mean == 1
    assert isnan(mean.standard_error)
    assert isnan(variance.standard_error)


def test_missing_experiment_is_named() -> None:
    job = {"experiment_0": measured(), "experiment_1": measured()}

    with pytest.raises(ValueError, match="the result has no experiment_1"):
        curve(job, result_of(["0"]))


@pytest.mark.parametrize("statistic", ["mean", "variance"])
def test_standard_errors_are_the_scatter_of_repetitions(statistic: Any) -> None:
    job = {f"experiment_{n}": measured(("rlx", 1.1), n_atoms=5, shots=100) for n in range(1000)}

    points = curve(job, run(job, entropy=1), statistic)

    scatter = np.std([point.mean for point in points])
    assert np.mean([point.standard_error for point in points]) == pytest.approx(scatter, rel=0.1)


def test_exact_curve_needs_no_shots() -> None:
    job = single(measured(("rlx", pi / 3), n_atoms=8, shots=1))

    (mean,), (variance,) = exact_curve(job), exact_curve(job, "variance")

    assert mean == pytest.approx((0, 2, 0))
    assert variance == pytest.approx((0, 1.5, 0))


def test_table_has_a_line_a_point() -> None:
    lines = table(
        [Point(0, 1, 0.1), Point(0.5, 2, 0.2)], [Point(0, 1.25, 0), Point(0.5, 2.25, 0)]
    ).splitlines()

    assert lines[0].split() == ["angle", "estimate", "std.", "error", "exact"]
    assert lines[2].split() == ["0.5000", "2.0000", "0.2000", "2.2500"]
    assert len(table([Point(0, 1, 0.1)]).splitlines()[1].split()) == 3


def test_plot_puts_points_where_they_belong() -> None:
    picture = plot([Point(0, 0, 0), Point(1, 1, 0), Point(2, 2, 0)], rows=3, columns=5)

    assert picture.splitlines() == [
        "        2 ┤    ●",
        "        1 ┤  ●",
        "        0 ┤●",
        "          └─────",
        "           0   2",
    ]


def test_plot_shows_errors_and_the_exact_line() -> None:
    picture = plot(
        [Point(0, 1, 1), Point(4, 1, float("nan"))], [Point(0, 0, 0), Point(4, 2, 0)], rows=3, columns=3
    )

    assert picture.splitlines()[:3] == [
        "        2 ┤│ ·",
        "        1 ┤●·●",
        "        0 ┤│",
    ]


@pytest.mark.parametrize("points", [[Point(1, 1, 0)], [Point(1, 3, 0), Point(1, 3, 0)]])
def test_plot_of_one_place_is_still_a_plot(points: list[Point]) -> None:
    assert "●" in plot(points)


def test_plot_keeps_to_its_size() -> None:
    lines = plot([Point(-1e-9, -12345.678, 3), Point(123456.789, 98765.4321, 7)]).splitlines()

    assert len(lines) == 17
    assert max(map(len, lines)) <= 71


def test_plot_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no point"):
        plot([])


def test_command_shows_table_and_plot(example_jobs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(example_jobs / "rabi.json")])

    shown = capsys.readouterr().out
    assert "mean against rlx omega" in shown
    assert shown.count("\n") == 1 + 25 + 3 + 17
    assert "●" in shown


def test_command_reads_a_result(
    example_jobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = example_jobs / "squeezing.json"
    result = tmp_path / "result.json"
    result.write_text(json.dumps(run(json.loads(job.read_text("utf-8")))), "utf-8")

    main([str(job), "--result", str(result), "--statistic", "variance"])
    from_result = capsys.readouterr().out
    main([str(job), "--statistic", "variance"])

    assert "variance against rlz2 chi" in from_result
    assert capsys.readouterr().out == from_result
