"""A lab's program as it is on sqooler: spoolers of sqooler's own class, its update_backends and its main.

    python lab.py ADDRESS BACKEND...            over the bridge
    python lab.py --folder FOLDER BACKEND...    with sqooler's own local provider
    python lab.py --dropbox TOKEN BACKEND...    with sqooler's own Dropbox provider, on the emulator's account
    python lab.py --native ADDRESS BACKEND      no sqooler at all: a Spooler, to compare with

A circuit's measurement gives the job's tag back; the instruction `boom` says how it fails.
"""

import builtins
import os
import sys
import time
from typing import Any, Literal

import dropbox.session
from pydantic import BaseModel, Field
from sqooler.schemes import DropboxLoginInformation, ExperimentDict, GateInstruction, LocalLoginInformation
from sqooler.spoolers import Spooler, create_memory_data
from sqooler.storage_providers.dropbox import DropboxProviderExtended
from sqooler.storage_providers.local import LocalProvider
from sqooler.utils import main, update_backends

from spoolway import RunningJob
from spoolway import Spooler as PlainSpooler
from spoolway.sqooler import SpoolwayStorageProvider

__all__ = ["KINDS", "make_spooler"]


class Hopeless(BaseException):
    """What no loop expects."""


class Mute(Exception):
    """Says nothing."""

    def __str__(self) -> str:
        return ""


def _takes_a_text(kind: Any) -> bool:
    try:
        kind("text")
    except TypeError:
        return False
    return True


_ORDINARY = [
    kind
    for _, kind in sorted(vars(builtins).items())
    if isinstance(kind, type) and issubclass(kind, Exception) and _takes_a_text(kind)
]
KINDS: list[type[BaseException]] = [*dict.fromkeys(_ORDINARY), Mute, SystemExit, KeyboardInterrupt, Hopeless]
"""Every kind of exception, those that end any program at the end."""


class Turn(GateInstruction):
    name: Literal["rlx"] = "rlx"
    wires: list[int] = Field(max_length=1)
    params: list[float] = Field(max_length=1)
    parameters: str = "omega"
    description: str = "Turns the spin"
    coupling_map: list[Any] = [[0], [1], [2]]  # noqa: RUF012 - as sqooler has it


class Boom(GateInstruction):
    name: Literal["boom"] = "boom"
    wires: list[int] = Field(max_length=1)
    params: list[float] = Field(max_length=2)
    parameters: str = "kind, seconds"
    description: str = "Raises"
    coupling_map: list[Any] = [[0]]  # noqa: RUF012


class Measure(BaseModel):
    name: Literal["measure"]
    wires: list[int]
    params: list[float]


class Experiment(BaseModel):
    wire_order: Literal["interleaved"]
    shots: int = Field(gt=0, le=100_000)
    num_wires: Literal[1]
    instructions: list[list[Any]]
    seed: int | None = None


def circuit(name: str, experiment: Any) -> ExperimentDict:
    """Measure the tag, which is the seed, once a shot; or fail, or take long, as `boom` says."""
    for instruction in experiment.instructions:
        if instruction.name == "boom":
            kind, seconds = instruction.params
            time.sleep(seconds)
            if kind >= 0:
                raise KINDS[int(kind)](f"tag {experiment.seed}")
    shots = [experiment.seed] * experiment.shots
    return create_memory_data(shots, name, experiment.shots, experiment.instructions)


def make_spooler(*, sign: bool = False) -> Spooler:
    """A spooler as any lab makes one."""
    spooler = Spooler(
        ins_schema_dict={"rlx": Turn, "boom": Boom, "measure": Measure},
        device_config=Experiment,
        n_wires=1,
        version="0.3.0",
        description="A spin",
        n_max_shots=100_000,
        sign=sign,
    )
    spooler.gen_circuit = circuit
    return spooler


def plain_spooler(address: str, backend: str) -> PlainSpooler:
    """What the bridge is compared with: one job at once, the same result."""
    spooler = make_spooler()

    def run(job: RunningJob) -> Any:
        result, _ = spooler.add_job(job.content, job.id)
        return result.model_dump()

    return PlainSpooler("plain-1", backend=backend, config={"version": "1.0.0"}, run=run, address=address)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[0] == "--folder":
        provider: Any = LocalProvider(LocalLoginInformation(base_path=arguments.pop(1)))
    elif arguments[0] == "--dropbox":
        # Of the emulator; the SDK of that time knows Dropbox's own only.
        dropbox.session._TRUSTED_CERT_FILE = os.environ["REQUESTS_CA_BUNDLE"]
        login = DropboxLoginInformation(app_key="key", app_secret="secret", refresh_token=arguments.pop(1))
        provider = DropboxProviderExtended(login, name="lab")
    elif arguments[0] == "--native":
        plain = plain_spooler(*arguments[1:])
        plain.run()
        sys.exit()
    else:
        provider = SpoolwayStorageProvider(arguments[0])
    is_signed = "--sign" in arguments
    backends = {name: make_spooler(sign=is_signed) for name in arguments[1:] if name != "--sign"}
    update_backends(storage_provider=provider, backends=backends)
    main(storage_provider=provider, backends=backends)
