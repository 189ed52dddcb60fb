"""The committed job files: as generated, and with the physics their docstrings promise."""

import json
import subprocess
import sys
from math import cos, sin
from pathlib import Path

import pytest

from examples.jobs import make_jobs
from examples.singlequdit import run
from examples.singlequdit.analysis import curve, exact_curve


@pytest.mark.parametrize("name", make_jobs.JOBS)
def test_committed_file_is_what_the_generator_writes(name: str, example_jobs: Path) -> None:
    text = make_jobs.render(make_jobs.JOBS[name]())

    assert (example_jobs / name).read_text("utf-8") == text
    assert json.loads(text) == make_jobs.JOBS[name]()


def test_no_job_file_is_without_generator(example_jobs: Path) -> None:
    assert {path.name for path in example_jobs.glob("*.json")} == set(make_jobs.JOBS)


def test_generator_runs_as_a_script_from_anywhere(tmp_path: Path) -> None:
    script = tmp_path / "make_jobs.py"
    script.write_bytes(Path(make_jobs.__file__).read_bytes())

    subprocess.run([sys.executable, str(script)], cwd="/", check=True)

    assert {path.name for path in tmp_path.glob("*.json")} == set(make_jobs.JOBS)


def test_rabi_follows_its_closed_form() -> None:
    for point in exact_curve(make_jobs.rabi()):
        assert point.mean == pytest.approx(sin(point.angle / 2) ** 2, abs=1e-9)


def test_ramsey_follows_its_closed_form() -> None:
    for point in exact_curve(make_jobs.ramsey()):
        assert point.mean == pytest.approx(10 * (1 + cos(point.angle)), abs=1e-4)


def test_one_axis_twisting_follows_its_closed_form() -> None:
    for point in exact_curve(make_jobs.one_axis_twisting()):
        assert point.mean == pytest.approx(25 * (1 + cos(point.angle) ** 49), abs=1e-4)


def test_squeezing_goes_below_the_noise_of_uncorrelated_atoms() -> None:
    means = exact_curve(make_jobs.squeezing())
    variances = exact_curve(make_jobs.squeezing(), "variance")

    assert all(point.mean == pytest.approx(25, abs=1e-3) for point in means)
    assert variances[0].mean == pytest.approx(12.5)
    assert min(point.mean for point in variances) < 1


@pytest.mark.parametrize("name", make_jobs.JOBS)
def test_samples_scatter_about_the_exact_curve(name: str) -> None:
    job = make_jobs.JOBS[name]()

    measured = curve(job, run(job))

    for point, exact in zip(measured, exact_curve(job), strict=True):
        assert abs(point.mean - exact.mean) <= max(5 * point.standard_error, 1e-3)
