"""From a job document to checked experiments; what is wrong is a `ValueError` that says what and where."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from reprlib import repr as shortened
from typing import Any

from examples.singlequdit.gates import (
    GATES,
    MAX_EXPERIMENTS,
    MAX_JOB_SHOTS,
    MAX_SEED,
    MAX_SHOTS,
    WIRE_ORDERS,
    Gate,
)

_NAME = re.compile(r"experiment_0*([0-9]+)")
_REQUIRED = frozenset({"instructions", "num_wires", "shots", "wire_order"})
_KNOWN = _REQUIRED | {"seed"}


@dataclass(frozen=True)
class Instruction:
    """One step of a circuit, checked."""

    name: str
    wires: tuple[int, ...]
    params: tuple[float, ...]

    def as_document(self) -> dict[str, Any]:
        """The form that results carry."""
        return {"name": self.name, "wires": list(self.wires), "params": list(self.params)}


@dataclass(frozen=True)
class Experiment:
    """One circuit, checked, and how often to run it; `seed` is None if the job gives none."""

    name: str
    instructions: tuple[Instruction, ...]
    shots: int
    seed: int | None

    @property
    def n_atoms(self) -> int:
        """Number of atoms; one if the circuit loads none."""
        first = self.instructions[0]
        return int(first.params[0]) if first.name == "load" else 1


def parse_job(job: Mapping[str, Any]) -> list[Experiment]:
    """Check a whole job.

    Returns:
        Its experiments in the order of their numbers: stores do not all keep the order of keys.

    Raises:
        ValueError: names the experiment, the instruction, the value and its limits.
    """
    if not isinstance(job, Mapping):
        raise ValueError(f"the job must be an object of experiments, not {_kind(job)}")
    if not 1 <= len(job) <= MAX_EXPERIMENTS:
        raise ValueError(f"the job has {len(job)} experiments; allowed are 1 to {MAX_EXPERIMENTS}")
    experiments = [_parse_experiment(name, job[name]) for name in sorted(job, key=_number_order)]
    _check_total_shots(experiments)
    return experiments


def _number_order(name: str) -> tuple[int, str]:
    """Sort key: numeric without turning any number of digits into an integer."""
    match = _NAME.fullmatch(str(name))
    if match is None:
        raise ValueError(f"experiment name {shortened(name)} must be 'experiment_' and a number")
    return len(match[1]), match[1]


def _check_total_shots(experiments: list[Experiment]) -> None:
    total = sum(experiment.shots for experiment in experiments)
    if total > MAX_JOB_SHOTS:
        raise ValueError(f"the job asks for {total} shots in all; allowed are {MAX_JOB_SHOTS}: split it")


def _parse_experiment(name: str, document: object) -> Experiment:
    fields = _experiment_fields(name, document)
    _integer(fields["num_wires"], f"{name}: num_wires", 1, 1)
    _check_wire_order(name, fields["wire_order"])
    seed = fields.get("seed")
    return Experiment(
        name=name,
        instructions=_parse_circuit(name, fields["instructions"]),
        shots=_integer(fields["shots"], f"{name}: shots", 1, MAX_SHOTS),
        seed=None if seed is None else _integer(seed, f"{name}: seed", 0, MAX_SEED),
    )


def _check_wire_order(name: str, wire_order: object) -> None:
    if wire_order not in WIRE_ORDERS:
        raise ValueError(f"{name}: wire_order is {shortened(wire_order)}; allowed are {_listed(WIRE_ORDERS)}")


def _experiment_fields(name: str, document: object) -> Mapping[str, Any]:
    if not isinstance(document, Mapping):
        raise ValueError(f"{name} must be an object, not {_kind(document)}")
    if missing := _REQUIRED - document.keys():
        raise ValueError(f"{name}: missing {_listed(sorted(missing))}")
    if unknown := document.keys() - _KNOWN:
        raise ValueError(f"{name}: unknown key {_listed(sorted(map(str, unknown)))}")
    return document


def _parse_circuit(name: str, document: object) -> tuple[Instruction, ...]:
    if not isinstance(document, list | tuple) or not document:
        raise ValueError(f"{name}: instructions must be a list of at least one instruction")
    circuit = tuple(_parse_instruction(f"{name}, instruction {i}", item) for i, item in enumerate(document))
    _check_order(name, [instruction.name for instruction in circuit])
    return circuit


def _check_order(name: str, steps: list[str]) -> None:
    """`load` only first, one `measure`, and after it nothing that it would have to project for."""
    if "load" in steps[1:]:
        raise ValueError(f"{name}: load must be the first instruction and appear once")
    if "measure" not in steps:
        raise ValueError(f"{name}: no measure, so there is nothing to report")
    after = set(steps[steps.index("measure") + 1 :]) - {"barrier"}
    if after:
        raise ValueError(f"{name}: only a barrier may follow measure, not {_listed(sorted(after))}")


def _parse_instruction(where: str, document: object) -> Instruction:
    if not isinstance(document, list | tuple) or len(document) != 3:
        raise ValueError(f"{where} must be a list [name, wires, params]")
    name, wires, params = document
    gate = GATES.get(name) if isinstance(name, str) else None
    if gate is None:
        raise ValueError(f"{where}: {shortened(name)} is not offered; there are {_listed(GATES)}")
    where = f"{where} ({gate.name})"
    return Instruction(gate.name, _parse_wires(where, wires), _parse_params(where, gate, params))


def _parse_wires(where: str, wires: object) -> tuple[int, ...]:
    if not isinstance(wires, list | tuple) or len(wires) > 1:
        raise ValueError(f"{where}: wires must be [0] or []")
    return tuple(_integer(wire, f"{where}: wire", 0, 0) for wire in wires)


def _parse_params(where: str, gate: Gate, params: object) -> tuple[float, ...]:
    if not isinstance(params, list | tuple) or len(params) != len(gate.parameters):
        raise ValueError(f"{where}: params must be [{', '.join(gate.parameters)}]")
    check = _integer if gate.integer else _real
    return tuple(
        check(value, f"{where}: {name}", gate.minimum, gate.maximum)
        for name, value in zip(gate.parameters, params, strict=True)
    )


def _real(value: object, what: str, minimum: float, maximum: float) -> float:
    # bool is an int to Python, not to JSON; NaN fails the comparison.
    if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value <= maximum:
        raise ValueError(f"{what} is {shortened(value)}; it must be from {minimum:g} to {maximum:.10g}")
    return value


def _integer(value: object, what: str, minimum: float, maximum: float) -> int:
    """An integer within limits; 5.0 counts as one, as in JSON Schema."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole:
        raise ValueError(f"{what} is {shortened(value)}; it must be an integer")
    return int(_real(value, what, minimum, maximum))


def _kind(value: object) -> str:
    return type(value).__name__


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
