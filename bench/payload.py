"""What travels: jobs and results of about 1 KB, like those of a simulator."""

import json

__all__ = ["RESULT", "job", "sent_ns"]

JOB_BYTES = 1024
_HEAD = b'{"sent_ns": '


def _experiment() -> bytes:
    instructions: list[object] = []
    experiment = {"instructions": instructions, "num_wires": 1, "shots": 500, "wire_order": "interleaved"}
    while len(json.dumps(experiment)) < JOB_BYTES - 64:
        instructions.append(["rlx", [0], [round(0.7 + 0.1 * len(instructions), 1)]])
    return json.dumps(experiment).encode()


def _result() -> bytes:
    memory: list[str] = []
    result = {"success": True, "status": "finished", "data": {"memory": memory}}
    while len(json.dumps(result)) < JOB_BYTES - 8:
        memory.append(f"{len(memory) * 7 % 500}")
    return json.dumps(result).encode()


_TAIL = b', "experiment_0": ' + _experiment() + b"}"

RESULT = _result()
"""One result, the same for every job: the service must not gain by it, and does not look."""


def job(sent_ns: int) -> bytes:
    """A job's content; it carries the moment of its submit, by CLOCK_MONOTONIC, which all processes share."""
    return b"%s%d%s" % (_HEAD, sent_ns, _TAIL)


def sent_ns(content: bytes) -> int:
    """The moment that a job carries."""
    return int(content[len(_HEAD) : content.index(b",")])
