"""The `singlequdit` backend: one collective spin of up to 500 atoms, simulated exactly."""

from examples.singlequdit.config import CONFIG
from examples.singlequdit.simulator import Cancelled, run

__all__ = ["CONFIG", "Cancelled", "run"]
