"""Write the example jobs beside this file: `python examples/jobs/make_jobs.py`.

The files are the same on every run and machine: seeds are fixed and angles rounded to 1e-6 radians.
"""

import json
from collections.abc import Callable, Sequence
from math import atan2, cos, pi, sin
from pathlib import Path
from typing import Any

Job = dict[str, Any]
Circuit = list[list[Any]]


def rabi() -> Job:
    """One atom turned about x by 0 to 2 pi. Expected: the mean is sin^2(omega/2)."""
    return _job([_circuit(1, ("rlx", angle)) for angle in _angles(25, 2 * pi)], shots=500, seed=1000)


def ramsey() -> Job:
    """Twenty atoms, two pi/2 pulses around a phase of 0 to 2 pi. Expected: the mean is 10 (1 + cos delta)."""
    circuits = [
        _circuit(20, ("rlx", pi / 2), ("rlz", phase), ("rlx", pi / 2)) for phase in _angles(25, 2 * pi)
    ]
    return _job(circuits, shots=200, seed=2000)


def one_axis_twisting() -> Job:
    """Fifty atoms: the spin, laid into the equator, is twisted by chi, and what is left of it is read out.

    Expected: the mean is 25 (1 + cos^49 chi): a collapse within about 1/sqrt(50), then the mean
    stays at 25 until the revival, with the opposite sign, at chi = pi.
    """
    circuits = [_circuit(50, ("rlx", pi / 2), ("rlz2", chi), ("rlx", pi / 2)) for chi in _angles(61, pi)]
    return _job(circuits, shots=300, seed=3000)


def squeezing() -> Job:
    """Fifty atoms twisted by chi, then turned about their mean spin to read out the narrowest direction.

    Expected: the mean stays 25, the variance falls from 12.5 (uncorrelated atoms) to below 1.
    """
    return _job([_squeezing_circuit(50, chi) for chi in _angles(25, 0.24)], shots=500, seed=4000)


JOBS: dict[str, Callable[[], Job]] = {
    "rabi.json": rabi,
    "ramsey.json": ramsey,
    "one_axis_twisting.json": one_axis_twisting,
    "squeezing.json": squeezing,
}


def narrowest_angle(n_atoms: int, chi: float) -> float:
    """Rotation about the mean spin that brings the least uncertain direction to z, 0 to pi.

    Kitagawa and Ueda, Phys. Rev. A 47, 5138 (1993), their A and B, with mu = 2 chi.
    """
    a = 1 - cos(2 * chi) ** (n_atoms - 2)
    b = 4 * sin(chi) * cos(chi) ** (n_atoms - 2)
    return (-atan2(b, a) / 2) % pi


def render(job: Job) -> str:
    """The file's text: one experiment a line."""
    lines = [f"  {json.dumps(name)}: {json.dumps(experiment)}" for name, experiment in job.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    """Write all job files."""
    for name, make in JOBS.items():
        Path(__file__).with_name(name).write_text(render(make()), encoding="utf-8")


def _squeezing_circuit(n_atoms: int, chi: float) -> Circuit:
    # The quarter turn about z brings the mean spin from -y to x, where rlx turns about it.
    turn = ("rlx", narrowest_angle(n_atoms, chi))
    return _circuit(n_atoms, ("rlx", pi / 2), ("rlz2", chi), ("rlz", pi / 2), turn)


def _circuit(n_atoms: int, *gates: tuple[str, float]) -> Circuit:
    steps: Circuit = [[name, [0], [round(angle, 6)]] for name, angle in gates]
    return [["load", [0], [n_atoms]], *steps, ["measure", [0], []]]


def _job(circuits: Sequence[Circuit], *, shots: int, seed: int) -> Job:
    return {
        f"experiment_{n}": {
            "instructions": circuit,
            "num_wires": 1,
            "shots": shots,
            "wire_order": "interleaved",
            "seed": seed + n,
        }
        for n, circuit in enumerate(circuits)
    }


def _angles(count: int, last: float) -> list[float]:
    return [last * n / (count - 1) for n in range(count)]


if __name__ == "__main__":
    main()
