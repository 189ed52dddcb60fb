"""What the backend says about itself: its config document with the JSON Schema of a valid job."""

from typing import Any

from examples.singlequdit.gates import (
    GATES,
    MAX_EXPERIMENTS,
    MAX_SEED,
    MAX_SHOTS,
    WIRE_ORDERS,
    Gate,
)

VERSION = "0.1.0"
DISPLAY_NAME = "singlequdit"

_Schema = dict[str, Any]


def _params_schema(gate: Gate) -> _Schema:
    number = {
        "type": "integer" if gate.integer else "number",
        "minimum": gate.minimum,
        "maximum": gate.maximum,
    }
    count = len(gate.parameters)
    if count == 0:
        return {"type": "array", "maxItems": 0}
    return {"type": "array", "minItems": count, "maxItems": count, "items": number}


def _params_rule(gate: Gate) -> _Schema:
    return {
        "if": {"prefixItems": [{"const": gate.name}]},
        "then": {"prefixItems": [True, True, _params_schema(gate)]},
    }


def _instruction_schema(*allowed: Gate) -> _Schema:
    """Schema of `[name, wires, params]`.

    One if/then a gate rather than `oneOf`: the validator then names the parameter that is wrong.
    """
    wires = {"type": "array", "maxItems": 1, "items": {"const": 0}}
    return {
        "type": "array",
        "minItems": 3,
        "maxItems": 3,
        "prefixItems": [{"enum": [gate.name for gate in allowed]}, wires, {"type": "array"}],
        "allOf": [_params_rule(gate) for gate in allowed],
    }


def _circuit_schema() -> _Schema:
    """Schema of a circuit: `load` only in first place, exactly one `measure`.

    That only barriers may follow the measurement is beyond JSON Schema; `circuit.parse_job` checks it.
    """
    after_load = [gate for gate in GATES.values() if gate.name != "load"]
    return {
        "type": "array",
        "minItems": 1,
        "prefixItems": [_instruction_schema(*GATES.values())],
        "items": _instruction_schema(*after_load),
        "contains": {"type": "array", "prefixItems": [{"const": "measure"}], "minItems": 1},
        "minContains": 1,
        "maxContains": 1,
    }


def _experiment_schema() -> _Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["instructions", "num_wires", "shots", "wire_order"],
        "properties": {
            "instructions": _circuit_schema(),
            "num_wires": {"const": 1},
            "shots": {"type": "integer", "minimum": 1, "maximum": MAX_SHOTS},
            "wire_order": {"enum": list(WIRE_ORDERS)},
            "seed": {"type": ["integer", "null"], "minimum": 0, "maximum": MAX_SEED},
        },
    }


def _job_schema() -> _Schema:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A job for singlequdit",
        "type": "object",
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": MAX_EXPERIMENTS,
        "patternProperties": {"^experiment_[0-9]+$": _experiment_schema()},
    }


def _gate_entry(gate: Gate) -> dict[str, Any]:
    return {
        "coupling_map": [[0]],
        "description": gate.description,
        "name": gate.name,
        "parameters": list(gate.parameters),
        "qasm_def": f"gate {gate.name}({', '.join(gate.parameters)}) {{}}",
    }


CONFIG: dict[str, Any] = {
    "description": "Exact simulator of one collective spin of up to 500 two-level atoms.",
    "version": VERSION,
    "display_name": DISPLAY_NAME,
    "cold_atom_type": "spin",
    "gates": [_gate_entry(gate) for gate in GATES.values() if gate.evolves],
    "max_experiments": MAX_EXPERIMENTS,
    "max_shots": MAX_SHOTS,
    "simulator": True,
    "supported_instructions": list(GATES),
    "num_wires": 1,
    "wire_order": "interleaved",
    "num_species": 1,
    "job_schema": _job_schema(),
}
"""The backend's config document, in the form of today's installations, plus `job_schema` (draft 2020-12)."""
