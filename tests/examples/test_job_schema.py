"""The published schema and the simulator's own checks: what they refuse, and that they agree."""

import json
from math import inf, nan, pi
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from examples.jobs.make_jobs import JOBS
from examples.singlequdit import CONFIG, run
from tests.examples.jobs import experiment, measured, single

VALIDATOR = jsonschema_rs.Draft202012Validator(CONFIG["job_schema"])
MEASURE = ["measure", [0], []]


def step(instruction: object) -> dict[str, Any]:
    """A job whose first instruction is `instruction`."""
    return single({**experiment(), "instructions": [instruction, MEASURE]})


def without(key: str) -> dict[str, Any]:
    return single({name: value for name, value in measured().items() if name != key})


GOOD: dict[str, Any] = {
    "shortest": single(experiment(MEASURE)),
    "no wires named": single(experiment(["load", [], [3]], ["rlx", [], [1]], ["measure", [], []])),
    "every gate at its limits": single(
        experiment(
            ["load", [0], [500]],
            ["rlx", [0], [2 * pi]],
            ["rlz", [0], [0]],
            ["rlz2", [0], [20 * pi]],
            ["sq_full", [0], [0, 5e6 * pi, 0.5]],
            ["barrier", [0], []],
            MEASURE,
            ["barrier", [], []],
            shots=1_000_000,
            seed=2**32 - 1,
        )
    ),
    "sequential, null seed": single(experiment(MEASURE, wire_order="sequential", seed=None)),
    "numbers with leading zeros and gaps": {"experiment_007": measured(), "experiment_12": measured()},
}

# What is wrong, and what the simulator says about it.
BAD: dict[str, tuple[Any, str]] = {
    "list for a job": ([], "must be an object"),
    "null": (None, "must be an object"),
    "no experiment": ({}, "0 experiments"),
    "too many experiments": ({f"experiment_{n}": measured() for n in range(1001)}, "1001 experiments"),
    "name without a number": ({"experiment_": measured()}, "'experiment_' must be"),
    "name with more behind": ({"experiment_0\n": measured()}, "must be 'experiment_' and a number"),
    "name in other digits": ({"experiment_\u0663": measured()}, "must be 'experiment_' and a number"),
    "foreign key": ({"experiment_0": measured(), "shots": 4}, "'shots' must be"),
    "number for an experiment": (single(5), "experiment_0 must be an object, not int"),
    "no instructions": (without("instructions"), "missing instructions"),
    "no shots": (without("shots"), "missing shots"),
    "no num_wires": (without("num_wires"), "missing num_wires"),
    "no wire_order": (without("wire_order"), "missing wire_order"),
    "unknown field": (single({**measured(), "color": 1}), "unknown key color"),
    "two wires": (single({**measured(), "num_wires": 2}), "num_wires is 2"),
    "true for a wire count": (single({**measured(), "num_wires": True}), "num_wires is True"),
    "unknown wire order": (single({**measured(), "wire_order": "linear"}), "wire_order is 'linear'"),
    "list for a wire order": (single({**measured(), "wire_order": []}), r"wire_order is \[\]"),
    "no shot": (single({**measured(), "shots": 0}), "shots is 0"),
    "a thousand million shots": (single({**measured(), "shots": 1e9}), "shots is 1000000000.0"),
    "half a shot": (single({**measured(), "shots": 1.5}), "shots is 1.5; it must be an integer"),
    "text for shots": (single({**measured(), "shots": "10"}), "shots is '10'; it must be an integer"),
    "negative seed": (single({**measured(), "seed": -1}), "seed is -1"),
    "seed beyond 32 bits": (single({**measured(), "seed": 2**32}), "seed is 4294967296"),
    "text for a seed": (single({**measured(), "seed": "a"}), "seed is 'a'"),
    "empty circuit": (single(experiment()), "at least one instruction"),
    "object for a circuit": (single({**measured(), "instructions": {}}), "must be a list"),
    "no measurement": (single(experiment(["rlx", [0], [1.0]])), "no measure"),
    "two measurements": (single(experiment(MEASURE, MEASURE)), "only a barrier may follow measure"),
    "load after a gate": (
        single(experiment(["rlx", [0], [1]], ["load", [0], [5]], MEASURE)),
        "load must be the first",
    ),
    "load twice": (
        single(experiment(["load", [0], [5]], ["load", [0], [5]], MEASURE)),
        "load must be the first",
    ),
    "two-element instruction": (step(["rlx", [0]]), r"instruction 0 must be a list \[name, wires, params\]"),
    "four-element instruction": (step(["rlx", [0], [1], 1]), "instruction 0 must be a list"),
    "empty instruction": (step([]), "instruction 0 must be a list"),
    "object for an instruction": (step({"name": "rlx"}), "instruction 0 must be a list"),
    "unknown gate": (step(["rx", [0], [1]]), "'rx' is not offered; there are rlx, rlz"),
    "list for a gate": (step([["rlx"], [0], [1]]), "is not offered"),
    "wire 1": (step(["rlx", [1], [1]]), r"instruction 0 \(rlx\): wire is 1"),
    "true for a wire": (step(["rlx", [True], [1]]), r"\(rlx\): wire is True"),
    "wire twice": (step(["rlx", [0, 0], [1]]), r"wires must be \[0\]"),
    "number for the wires": (step(["rlx", 0, [1]]), r"wires must be \[0\]"),
    "no parameter": (step(["rlx", [0], []]), r"params must be \[omega\]"),
    "too many parameters": (step(["rlz", [0], [1, 2]]), r"params must be \[delta\]"),
    "number for the parameters": (step(["rlz2", [0], 1]), r"params must be \[chi\]"),
    "two parameters of three": (step(["sq_full", [0], [1, 2]]), r"params must be \[omega, delta, chi\]"),
    "parameter to a barrier": (step(["barrier", [0], [1]]), r"params must be \[\]"),
    "negative angle": (step(["rlx", [0], [-0.1]]), r"\(rlx\): omega is -0.1; it must be from 0 to 6.28318"),
    "more than a turn": (step(["rlz", [0], [7]]), "delta is 7"),
    "too much twisting": (step(["rlz2", [0], [63]]), "chi is 63"),
    "sq_full too strong": (step(["sq_full", [0], [0, 0, 1e8]]), "chi is 100000000.0"),
    "text for an angle": (step(["rlx", [0], ["1"]]), "omega is '1'"),
    "true for an angle": (step(["rlx", [0], [True]]), "omega is True"),
    "no atom": (step(["load", [0], [0]]), r"\(load\): n_atoms is 0; it must be from 1 to 500"),
    "too many atoms": (step(["load", [0], [501]]), "n_atoms is 501"),
    "half an atom": (step(["load", [0], [1.5]]), "n_atoms is 1.5; it must be an integer"),
    "beyond any float": (step(["rlx", [0], [10**400]]), "omega is 1000000"),
}

# Right by the schema, which cannot say these things; refused by the simulator.
BEYOND_SCHEMA: dict[str, tuple[Any, str]] = {
    "gate after measure": (
        single(experiment(MEASURE, ["rlx", [0], [1]])),
        "experiment_0: only a barrier may follow measure, not rlx",
    ),
    "too many shots in all": (
        {f"experiment_{n}": measured(shots=1_000_000) for n in range(11)},
        "11000000 shots in all",
    ),
}


@pytest.mark.parametrize("job", GOOD.values(), ids=GOOD.keys())
def test_good_jobs_pass_the_schema_and_run(job: Any) -> None:
    VALIDATOR.validate(job)

    assert run(job)["success"]


@pytest.mark.parametrize("job", [job for job, _ in BAD.values()], ids=BAD.keys())
def test_bad_jobs_fail_the_schema(job: Any) -> None:
    assert not VALIDATOR.is_valid(job)


@pytest.mark.parametrize(
    ("job", "message"), [*BAD.values(), *BEYOND_SCHEMA.values()], ids=[*BAD, *BEYOND_SCHEMA]
)
def test_bad_jobs_are_refused_with_a_reason(job: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(job)


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_numbers_json_does_not_have_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="omega is"):
        run(step(["rlx", [0], [value]]))


def test_reasons_stay_short_however_long_the_value() -> None:
    with pytest.raises(ValueError, match="is not offered") as caught:
        run(step(["x" * 100_000, [0], []]))

    assert len(str(caught.value)) < 200


def test_schema_names_the_parameter_that_is_wrong() -> None:
    (error,) = VALIDATOR.iter_errors(step(["rlx", [0], [7]]))

    assert list(error.instance_path) == ["experiment_0", "instructions", 0, 2, 0]
    assert error.message.startswith("7 is greater than the maximum of 6.28")


def test_schema_is_a_valid_draft_2020_12_schema() -> None:
    assert CONFIG["job_schema"]["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema_rs.meta.validate(CONFIG["job_schema"])


def test_config_is_plain_json() -> None:
    assert json.loads(json.dumps(CONFIG)) == CONFIG


def test_config_has_the_fields_of_todays_configs() -> None:
    assert set(CONFIG) == {
        "description",
        "version",
        "display_name",
        "cold_atom_type",
        "gates",
        "max_experiments",
        "max_shots",
        "simulator",
        "supported_instructions",
        "num_wires",
        "wire_order",
        "num_species",
        "job_schema",
    }
    assert [gate["name"] for gate in CONFIG["gates"]] == ["rlx", "rlz", "rlz2", "sq_full"]
    assert all(
        set(gate) == {"coupling_map", "description", "name", "parameters", "qasm_def"}
        for gate in CONFIG["gates"]
    )
    assert {"load", "measure", "barrier"} < set(CONFIG["supported_instructions"])


@pytest.mark.parametrize("name", JOBS)
def test_example_jobs_pass_the_schema(name: str, example_jobs: Path) -> None:
    VALIDATOR.validate(json.loads((example_jobs / name).read_text("utf-8")))
