"""From a job and its result to the measured curve, as numbers, as a table and as a plot for the terminal."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from examples.singlequdit import spin
from examples.singlequdit.circuit import Experiment, parse_job
from examples.singlequdit.gates import GATES
from examples.singlequdit.simulator import final_state

Statistic = Literal["mean", "variance"]


class Point(NamedTuple):
    """One experiment of a scan: the scanned parameter, the estimate, and its standard error.

    `mean` is in atoms or, for a curve of variances, in atoms squared. A single shot has no standard error:
    it is NaN.
    """

    angle: float
    mean: float
    standard_error: float


class Scan(NamedTuple):
    """The parameter a job varies: its name, such as `rlx omega`, and its value in each experiment."""

    label: str
    values: list[float]


def scan(job: Mapping[str, Any]) -> Scan:
    """Find the first parameter that is not the same in all experiments; failing that, count them."""
    experiments = parse_job(job)
    circuits = [[i.name for i in experiment.instructions] for experiment in experiments]
    if all(circuit == circuits[0] for circuit in circuits):
        for steps in zip(*(experiment.instructions for experiment in experiments), strict=True):
            names = GATES[steps[0].name].parameters
            for name, *values in zip(names, *(step.params for step in steps), strict=True):
                if len(set(values)) > 1:
                    return Scan(f"{steps[0].name} {name}", values)
    return Scan("experiment", [float(n) for n in range(len(experiments))])


def curve(job: Mapping[str, Any], result: Mapping[str, Any], statistic: Statistic = "mean") -> list[Point]:
    """Estimate `statistic` of the outcomes of each experiment against the scanned parameter.

    Experiments are matched by name, whatever their order in `result`.

    Raises:
        ValueError: the job is wrong, or `result` lacks one of its experiments.
    """
    memories = {entry["header"]["name"]: entry["data"]["memory"] for entry in result["results"]}
    experiments = parse_job(job)
    if missing := [e.name for e in experiments if e.name not in memories]:
        raise ValueError(f"the result has no {', '.join(missing)}")
    estimate = _ESTIMATES[statistic]
    return [
        Point(angle, *estimate(np.array(memories[experiment.name], dtype=np.float64)))
        for angle, experiment in zip(scan(job).values, experiments, strict=True)
    ]


def exact_curve(job: Mapping[str, Any], statistic: Statistic = "mean") -> list[Point]:
    """The curve that infinitely many shots would give, from the states themselves."""
    pairs = zip(scan(job).values, parse_job(job), strict=True)
    return [Point(angle, _expected(experiment, statistic), 0.0) for angle, experiment in pairs]


def table(points: Iterable[Point], exact: Iterable[Point] = ()) -> str:
    """Lines of angle, estimate and standard error, with the exact value if `exact` is given."""
    expected = list(exact)
    lines = [f"{'angle':>10} {'estimate':>12} {'std. error':>12}" + (f" {'exact':>12}" if expected else "")]
    for number, point in enumerate(points):
        line = f"{point.angle:10.4f} {point.mean:12.4f} {point.standard_error:12.4f}"
        lines.append(line + (f" {expected[number].mean:12.4f}" if expected else ""))
    return "\n".join(lines)


def plot(points: Sequence[Point], exact: Sequence[Point] = (), *, rows: int = 15, columns: int = 60) -> str:
    """Draw the points with their standard errors, and `exact` as a dotted line beneath, in unicode.

    The picture is `rows` + 2 lines of at most `columns` + 11 characters. Points are sorted by angle.

    Raises:
        ValueError: there is no point to draw.
    """
    if not points:
        raise ValueError("no point to draw")
    canvas = _Canvas(*_limits(points, exact), rows=rows, columns=columns)
    canvas.draw_line(sorted(exact))
    for point in points:
        canvas.draw_point(point)
    return canvas.render()


class _Canvas:
    """A grid of characters over a rectangle of the plane; row 0 is the top."""

    def __init__(
        self, x_range: tuple[float, float], y_range: tuple[float, float], *, rows: int, columns: int
    ) -> None:
        self._x_range, self._y_range = x_range, y_range
        self._rows, self._columns = rows, columns
        self._cells = [[" "] * columns for _ in range(rows)]

    def draw_line(self, points: Sequence[Point]) -> None:
        if not points:
            return
        angles = np.linspace(*self._x_range, self._columns)
        heights = np.interp(angles, [p.angle for p in points], [p.mean for p in points])
        for column, height in enumerate(heights):
            self._cells[self._row(float(height))][column] = "·"

    def draw_point(self, point: Point) -> None:
        column = self._column(point.angle)
        low, high = _error_bar(point)
        for row in range(self._row(high), self._row(low) + 1):
            if self._cells[row][column] != "●":
                self._cells[row][column] = "│"
        self._cells[self._row(point.mean)][column] = "●"

    def render(self) -> str:
        low, high = self._y_range
        labels = {0: high, self._rows // 2: self._height(self._rows // 2), self._rows - 1: low}
        lines = [
            f"{_number(labels[row]) if row in labels else '':>9} ┤{''.join(cells)}".rstrip()
            for row, cells in enumerate(self._cells)
        ]
        left, right = (_number(x) for x in self._x_range)
        axis = f"{'':>10}└{'─' * self._columns}"
        return "\n".join([*lines, axis, f"{'':>11}{left}{right:>{self._columns - len(left)}}"])

    def _column(self, x: float) -> int:
        low, high = self._x_range
        return round((x - low) / (high - low) * (self._columns - 1))

    def _row(self, y: float) -> int:
        low, high = self._y_range
        return round((high - y) / (high - low) * (self._rows - 1))

    def _height(self, row: int) -> float:
        low, high = self._y_range
        return high - row * (high - low) / (self._rows - 1)


def _limits(
    points: Sequence[Point], exact: Sequence[Point]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ranges of both axes that hold everything drawn."""
    angles = [point.angle for point in (*points, *exact)]
    heights = [end for point in (*points, *exact) for end in _error_bar(point)]
    return _widened(min(angles), max(angles)), _widened(min(heights), max(heights))


def _error_bar(point: Point) -> tuple[float, float]:
    error = 0.0 if np.isnan(point.standard_error) else point.standard_error
    return point.mean - error, point.mean + error


def _widened(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _number(value: float) -> str:
    return f"{value:.4g}"


def _mean(outcomes: NDArray[np.float64]) -> tuple[float, float]:
    if len(outcomes) < 2:
        return float(outcomes.mean()), float("nan")
    return float(outcomes.mean()), float(outcomes.std(ddof=1) / np.sqrt(len(outcomes)))


def _variance(outcomes: NDArray[np.float64]) -> tuple[float, float]:
    """Unbiased variance and its standard error, sqrt((m4 - s^4 (n - 3)/(n - 1))/n).

    The error is the textbook one for any distribution (Mood, Graybill and Boes, Introduction to the Theory
    of Statistics, chapter VI), with the fourth moment taken from the sample.
    """
    shots = len(outcomes)
    if shots < 2:
        return 0.0, float("nan")
    variance = float(outcomes.var(ddof=1))
    fourth = float(((outcomes - outcomes.mean()) ** 4).mean())
    spread = fourth - variance**2 * (shots - 3) / (shots - 1)
    return variance, float(np.sqrt(max(spread, 0.0) / shots))


_ESTIMATES: dict[Statistic, Callable[[NDArray[np.float64]], tuple[float, float]]] = {
    "mean": _mean,
    "variance": _variance,
}


def _expected(experiment: Experiment, statistic: Statistic) -> float:
    weights = spin.probabilities(final_state(experiment))
    outcomes = np.arange(len(weights))
    mean = float(weights @ outcomes)
    return mean if statistic == "mean" else float(weights @ (outcomes - mean) ** 2)
