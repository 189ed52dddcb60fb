"""From job to result document."""

from collections import Counter
from math import pi
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, chisquare

from examples.singlequdit import CONFIG, Cancelled, run
from examples.singlequdit.circuit import parse_job
from examples.singlequdit.simulator import final_state
from examples.singlequdit.spin import mean_spin
from tests.examples.jobs import experiment, measured, single


def memory(result: dict[str, Any], number: int = 0) -> list[str]:
    shots: list[str] = result["results"][number]["data"]["memory"]
    return shots


def test_result_has_the_form_of_todays_results() -> None:
    job = single(experiment(["rlx", [0], [pi]], ["measure", [0], []], shots=3, seed=7))

    result = run(job, job_id="abc")

    assert result == {
        "display_name": "singlequdit",
        "backend_version": CONFIG["version"],
        "job_id": "abc",
        "qobj_id": None,
        "success": True,
        "status": "DONE",
        "header": {},
        "results": [
            {
                "header": {"name": "experiment_0", "extra metadata": "seed 7"},
                "shots": 3,
                "success": True,
                "data": {
                    "memory": ["1", "1", "1"],
                    "instructions": [
                        {"name": "rlx", "wires": [0], "params": [pi]},
                        {"name": "measure", "wires": [0], "params": []},
                    ],
                },
            }
        ],
    }


def test_one_atom_is_loaded_if_the_job_loads_none() -> None:
    assert set(memory(run(single(experiment(["measure", [0], []]))))) == {"0"}


def test_outcomes_follow_the_exact_distribution() -> None:
    shots, chance = 100_000, np.sin(0.4) ** 2
    result = run(single(measured(("rlx", 0.8), n_atoms=4, shots=shots, seed=11)))

    counts = Counter(memory(result))

    expected = shots * binom.pmf(np.arange(5), 4, chance)
    assert chisquare([counts[str(k)] for k in range(5)], expected).pvalue > 1e-4


def test_barrier_changes_nothing() -> None:
    plain = single(experiment(["rlx", [0], [1.0]], ["measure", [0], []], seed=3))
    barred = single(
        experiment(
            ["barrier", [], []],
            ["rlx", [0], [1.0]],
            ["barrier", [0], []],
            ["measure", [0], []],
            ["barrier", [0], []],
            seed=3,
        )
    )

    assert memory(run(plain)) == memory(run(barred))


def test_same_seed_gives_same_shots_and_another_seed_others() -> None:
    def shots(seed: int) -> list[str]:
        return memory(run(single(measured(("rlx", 1.0), n_atoms=50, shots=100, seed=seed))))

    assert shots(1) == shots(1)
    assert shots(1) != shots(2)


def test_experiments_without_seed_get_different_ones_that_entropy_fixes() -> None:
    one = measured(("rlx", 1.0), n_atoms=50, shots=100)
    job = {"experiment_0": one, "experiment_1": {**one, "seed": None}}

    result = run(job, entropy=5)

    assert memory(result, 0) != memory(result, 1)
    assert run(job, entropy=5) == result
    assert run(job, entropy=6) != result


def test_drawn_seed_is_reported_and_repeats_the_experiment() -> None:
    one = measured(("rlx", 1.0), n_atoms=50, shots=100)
    result = run(single(one))
    seed = int(result["results"][0]["header"]["extra metadata"].removeprefix("seed "))

    again = run(single({**one, "seed": seed}))

    assert memory(again) == memory(result)


def test_experiments_come_in_the_order_of_their_numbers() -> None:
    one = measured()
    names = ["experiment_10", "experiment_2", "experiment_0"]

    result = run(dict.fromkeys(names, one))

    assert [entry["header"]["name"] for entry in result["results"]] == sorted(
        names, key=lambda n: int(n[11:])
    )


def test_whole_numbers_may_come_as_floats() -> None:
    """A job that went through a protobuf Struct or JavaScript has 50.0 for 50."""
    result = run(single(measured(("rlx", 1), n_atoms=50.0, shots=5.0, seed=1.0, num_wires=1.0)))  # type: ignore[arg-type]

    assert len(memory(result)) == result["results"][0]["shots"] == 5


def test_progress_is_told_after_each_experiment() -> None:
    told: list[tuple[int, int]] = []

    run(
        {"experiment_0": measured(), "experiment_1": measured()},
        on_experiment=lambda done, total: told.append((done, total)),
    )

    assert told == [(1, 2), (2, 2)]


def test_cancellation_stops_before_the_next_experiment() -> None:
    done: list[int] = []
    job = {f"experiment_{n}": measured() for n in range(5)}

    with pytest.raises(Cancelled, match="job j1 cancelled after 2 of 5"):
        run(job, "j1", on_experiment=lambda n, _: done.append(n), cancelled=lambda: len(done) == 2)

    assert done == [1, 2]


def test_job_is_left_as_it_was() -> None:
    job = single(measured(("rlx", 1.0)))
    before = repr(job)

    run(job)

    assert repr(job) == before


def test_final_state_is_the_one_measured() -> None:
    (parsed,) = parse_job(single(measured(("rlx", pi / 2), ("rlz", pi / 2), n_atoms=10)))

    assert mean_spin(final_state(parsed)) == pytest.approx([5, 0, 0], abs=1e-12)


def test_five_hundred_atoms_are_quick() -> None:
    """Takes 0.2 s on a 2-core machine; the limit only catches another order of magnitude."""
    gates = (("rlx", 1.5), ("rlz2", 0.1), ("rlz", 1.5), ("rlx", 1.2))
    job = {f"experiment_{n}": measured(*gates, n_atoms=500, shots=1000) for n in range(100)}

    started = perf_counter()
    run(job)

    assert perf_counter() - started < 10


def test_million_shots_are_quick() -> None:
    """Takes 0.15 s on a 2-core machine."""
    started = perf_counter()
    result = run(single(measured(("rlx", 1.5), n_atoms=500, shots=1_000_000)))

    assert perf_counter() - started < 10
    assert len(memory(result)) == 1_000_000
