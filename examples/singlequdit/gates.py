"""The instructions of the backend and their limits: the one table that schema, checks and config share.

Names, parameter names and ranges are those of the `singlequdit` simulators in use (sqooler 0.3 and
later), so that a job which runs there runs here. Angles are in radians.
"""

from dataclasses import dataclass
from math import pi

MAX_ATOMS = 500
MAX_EXPERIMENTS = 1000
MAX_SHOTS = 1_000_000
MAX_JOB_SHOTS = 10_000_000
"""Most shots of all experiments of a job together; keeps a result below about 100 MB."""

MAX_SEED = 2**32 - 1
WIRE_ORDERS = ("interleaved", "sequential")


@dataclass(frozen=True)
class Gate:
    """One instruction: its parameters all lie in 0 (for `load` 1) to `maximum`, ends included.

    `evolves` is true for what changes the state and is announced as a gate; `load`, `measure` and `barrier`
    do not. `integer` asks for whole numbers.
    """

    name: str
    description: str
    parameters: tuple[str, ...] = ()
    minimum: float = 0
    maximum: float = 0
    integer: bool = False
    evolves: bool = False


_ALL = (
    Gate("rlx", "Rotation about x: exp(-i omega Lx)", ("omega",), maximum=2 * pi, evolves=True),
    Gate("rlz", "Rotation about z: exp(-i delta Lz)", ("delta",), maximum=2 * pi, evolves=True),
    Gate("rlz2", "One-axis twisting: exp(-i chi Lz^2)", ("chi",), maximum=20 * pi, evolves=True),
    Gate(
        "sq_full",
        "Evolution under all three terms: exp(-i (omega Lx + delta Lz + chi Lz^2))",
        ("omega", "delta", "chi"),
        maximum=5e6 * pi,
        evolves=True,
    ),
    Gate("barrier", "Changes nothing"),
    Gate("measure", "Counts the atoms that have left the initial state"),
    Gate("load", "Sets the number of atoms", ("n_atoms",), minimum=1, maximum=MAX_ATOMS, integer=True),
)

GATES = {gate.name: gate for gate in _ALL}
