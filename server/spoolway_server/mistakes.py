"""What is wrong in a configuration, in words for whoever wrote it: where, what, and what is allowed."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

__all__ = ["ConfigMistake", "Unit", "did_you_mean", "from_pydantic", "listed", "mistake", "shown"]


@dataclass(frozen=True)
class ConfigMistake:
    """One thing that is wrong."""

    path: str
    """Where: the dotted path, such as `storages.main.type`, or a file."""
    problem: str
    """What is wrong; never the value of a login."""
    allowed: str = ""
    """What may stand there; empty if the problem says it."""
    source: str = ""
    """The environment variable that it came from; empty for the file."""

    def __str__(self) -> str:
        """All of it on one line."""
        text = f"{self.path}: {self.problem}"
        if self.allowed:
            text += f"; allowed: {self.allowed}"
        return f"{text} (from {self.source})" if self.source else text


@dataclass(frozen=True)
class Unit:
    """What a number counts; stands in the annotation of its field."""

    name: str


def mistake(problem: str, allowed: str = "") -> PydanticCustomError:
    """For validators to raise: pydantic adds where it was."""
    return PydanticCustomError("mistake", "{problem}", {"problem": problem, "allowed": allowed})


def from_pydantic(
    details: Iterable[ErrorDetails], model: type[BaseModel], sources: Mapping[str, str]
) -> list[ConfigMistake]:
    """Say pydantic's findings in our words.

    Args:
        details: what pydantic found.
        model: what it validated; knows what each field allows.
        sources: the environment variable behind a dotted path, where there is one.
    """
    return [_from_detail(detail, model, sources) for detail in details]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`, did you mean "port"?` if one of the known words is close, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {shown(close[0])}?" if close else ""


def listed(words: Iterable[str]) -> str:
    """The words, for `allowed`."""
    return ", ".join(words)


def shown(value: object) -> str:
    """A value as TOML has it, cut to a readable length."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _from_detail(detail: ErrorDetails, model: type[BaseModel], sources: Mapping[str, str]) -> ConfigMistake:
    loc = [str(part) for part in detail["loc"]]
    is_name = loc[-1:] == ["[key]"]
    if is_name:
        loc.pop()
    path = ".".join(loc)
    problem, allowed = _bad_name() if is_name else _explain(detail, model, loc)
    return ConfigMistake(path, problem, allowed, _source_of(path, sources))


def _source_of(path: str, sources: Mapping[str, str]) -> str:
    return listed(variable for key, variable in sources.items() if f"{key}.".startswith(f"{path}."))


def _bad_name() -> tuple[str, str]:
    return "not a name for a storage", "1 to 64 of a-z and 0-9"


def _explain(detail: ErrorDetails, model: type[BaseModel], loc: Sequence[str]) -> tuple[str, str]:
    """What is wrong, and what is allowed."""
    kind = detail["type"]
    if kind == "mistake":
        return detail["ctx"]["problem"], detail["ctx"]["allowed"]
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        # Without its value, which may be a login in the wrong place.
        return "not a table", f"[{'.'.join(loc)}]"
    fields = _fields_at(model, loc[:-1])
    if kind == "extra_forbidden":
        return f"unknown key{did_you_mean(loc[-1], fields)}", listed(fields)
    field = fields.get(loc[-1])
    allowed = _allowed(field) if field else detail["msg"]
    return ("missing", allowed) if kind == "missing" else (_what_is_wrong(kind, detail["input"]), allowed)


def _fields_at(model: type[BaseModel], loc: Sequence[str]) -> Mapping[str, FieldInfo]:
    """The fields of the table at `loc`; none if there is no such table."""
    if not loc:
        return model.model_fields
    field = model.model_fields.get(loc[0])
    inner = field.annotation if field else None
    rest = loc[1:]
    if get_origin(inner) is dict:  # a table of tables: the next part is a name
        inner, rest = get_args(inner)[1], loc[2:]
    return _fields_at(inner, rest) if isinstance(inner, type) and issubclass(inner, BaseModel) else {}


def _what_is_wrong(kind: str, value: object) -> str:
    words = {"greater_than_equal": "too small", "less_than_equal": "too large"}
    words |= {"string_too_short": "too short", "string_too_long": "too long"}
    return f"{shown(value)} is {words.get(kind, 'not right')}"


_KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _allowed(field: FieldInfo) -> str:
    """What a field takes, from its own type and limits."""
    if get_origin(field.annotation) is Literal:
        return listed(get_args(field.annotation))
    kind = _KINDS.get(field.annotation, "a value")  # type: ignore[arg-type]  # any annotation may be asked for
    low, high = _limit(field, "ge", "min_length"), _limit(field, "le", "max_length")
    if high is None:
        return kind
    if field.annotation is str:
        return f"{kind} of {low or 0} to {high} characters"
    unit = next((f" ({entry.name})" for entry in field.metadata if isinstance(entry, Unit)), "")
    return f"{kind} from {low} to {high}{unit}"


def _limit(field: FieldInfo, *names: str) -> float | None:
    found = (getattr(entry, name, None) for entry in field.metadata for name in names)
    return next((limit for limit in found if limit is not None), None)
