"""Runs jobs: `run` is a pure function from a job document to a result document."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from examples.singlequdit import spin
from examples.singlequdit.circuit import Experiment, parse_job
from examples.singlequdit.config import CONFIG
from examples.singlequdit.gates import MAX_SEED

__all__ = ["CONFIG", "Cancelled", "final_state", "run"]

_EVOLUTIONS: dict[str, Callable[..., spin.State]] = {
    "rlx": spin.rotate_x,
    "rlz": spin.rotate_z,
    "rlz2": spin.twist,
    "sq_full": spin.evolve,
}


class Cancelled(Exception):
    """The job was cancelled between two of its experiments; there is no result."""


def run(
    job: Mapping[str, Any],
    job_id: str = "",
    *,
    entropy: int | None = None,
    on_experiment: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Simulate every experiment of `job`.

    Args:
        job: the job document, see `CONFIG["job_schema"]`.
        job_id: copied into the result.
        entropy: where the seeds of experiments without one come from; None takes the system's.
        on_experiment: called after each experiment with how many are done and how many there are.
        cancelled: asked before each experiment.

    Returns:
        The result document, experiments in the order of their numbers. The seed used stands in each
        experiment's "extra metadata", so any of them can be run again with the same outcome.

    Raises:
        ValueError: the job is wrong; the message is for its owner.
        Cancelled: `cancelled` said so.
    """
    experiments = parse_job(job)
    results = []
    for done, (experiment, seed) in enumerate(zip(experiments, _seeds(experiments, entropy), strict=True)):
        if cancelled is not None and cancelled():
            raise Cancelled(f"job {job_id} cancelled after {done} of {len(experiments)} experiments")
        results.append(_run_experiment(experiment, seed))
        if on_experiment is not None:
            on_experiment(done + 1, len(experiments))
    return _result_document(job_id, results)


def final_state(experiment: Experiment) -> spin.State:
    """The state just before the measurement."""
    state = spin.polarized(experiment.n_atoms)
    for instruction in experiment.instructions:
        if evolution := _EVOLUTIONS.get(instruction.name):
            state = evolution(state, *instruction.params)
    return state


def _seeds(experiments: list[Experiment], entropy: int | None) -> list[int]:
    """Each experiment's own seed, or else consecutive ones from a first one drawn: all different."""
    first = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    return [
        (first + n) % (MAX_SEED + 1) if experiment.seed is None else experiment.seed
        for n, experiment in enumerate(experiments)
    ]


def _run_experiment(experiment: Experiment, seed: int) -> dict[str, Any]:
    weights = spin.probabilities(final_state(experiment))
    outcomes = np.random.default_rng(seed).choice(len(weights), size=experiment.shots, p=weights)
    # One string object an outcome, not one a shot: a million shots stay small.
    names = np.array([str(k) for k in range(len(weights))], dtype=object)
    return {
        "header": {"name": experiment.name, "extra metadata": f"seed {seed}"},
        "shots": experiment.shots,
        "success": True,
        "data": {
            "memory": names[outcomes].tolist(),
            "instructions": [instruction.as_document() for instruction in experiment.instructions],
        },
    }


def _result_document(job_id: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "display_name": CONFIG["display_name"],
        "backend_version": CONFIG["version"],
        "job_id": job_id,
        "qobj_id": None,
        "success": True,
        "status": "DONE",
        "header": {},
        "results": results,
    }
