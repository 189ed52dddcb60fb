"""What goes wrong on demand: chosen calls fail, are slow, or are done while their answer is lost."""

import threading
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What happens to a call."""

    RESET = "reset"
    """The connection breaks before anything was done."""
    ANSWER_LOST = "answer_lost"
    """All is done, then the connection breaks."""
    ANSWER_TORN = "answer_torn"
    """All is done, then the connection breaks in the middle of the answer."""
    SERVER_ERROR = "server_error"
    """500, and nothing was done."""
    DONE_SERVER_ERROR = "done_server_error"
    """500, though all was done."""
    TOO_MANY_REQUESTS = "too_many_requests"
    """429 with Retry-After."""
    TOO_MANY_REQUESTS_TEXT = "too_many_requests_text"
    """The same as plain text, as the data ingress guide says may happen."""
    TOO_MANY_WRITES = "too_many_writes"
    """429 with the other reason."""
    TOO_MANY_WRITES_409 = "too_many_writes_409"
    """409 with the route's own error."""
    EXPIRED = "expired"
    """401 expired_access_token."""
    SLOW = "slow"
    """Waits for `seconds`, then goes on."""


@dataclass
class Rule:
    """One planned fault."""

    fault: Fault
    route: str = "*"
    skip: int = 0
    """Calls that pass before the first that fails."""
    times: int = 1
    """Calls that fail; -1: all."""
    seconds: float = 1.0
    """Of Retry-After, or of waiting."""


class FaultPlan:
    """The rules of one account; the first that fits is used up."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._lock = threading.Lock()

    def add(self, rule: Rule) -> None:
        with self._lock:
            self._rules.append(rule)

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def next_for(self, route: str) -> Rule | None:
        with self._lock:
            for rule in self._rules:
                if rule.route not in {"*", route} or rule.times == 0:
                    continue
                if rule.skip:
                    rule.skip -= 1
                    continue
                rule.times -= 1
                return rule
        return None
