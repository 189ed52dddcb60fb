"""Job documents for these tests."""

from typing import Any


def experiment(*instructions: list[Any], shots: int = 10, **more: Any) -> dict[str, Any]:
    return {
        "instructions": list(instructions),
        "num_wires": 1,
        "shots": shots,
        "wire_order": "interleaved",
        **more,
    }


def measured(*gates: tuple[Any, ...], n_atoms: int = 1, **more: Any) -> dict[str, Any]:
    """An experiment that loads, applies `gates` given as (name, *params), and measures."""
    steps = [[name, [0], list(params)] for name, *params in gates]
    return experiment(["load", [0], [n_atoms]], *steps, ["measure", [0], []], **more)


def single(one: object) -> dict[str, Any]:
    return {"experiment_0": one}
