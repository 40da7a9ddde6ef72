"""Wrong settings as lines for people: the key, where its value stands, and the fix."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from syncctl.core.redaction import Redact
from syncctl.core.spelling import suggest
from syncctl.errors import ConfigurationError
from syncctl.settings.field_types import show_toml
from syncctl.settings.schema_paths import Path, find_field, find_keys, is_named

if TYPE_CHECKING:
    from syncctl.settings.layers import Layers

FILE_AT_MOST_BYTES = 4 * 1024 * 1024
"""The largest size of `.env` and of `syncctl.toml`."""
DEEPEST = 50
"""How deep tables and lists may be nested: the functions that read settings recurse into each level."""
HINT = "correct these settings, then run: syncctl config"
_START = (
    'is required: write start = "beginning" (all existing rows), "now" (only rows from now on) or a cursor value; '
    "it has no default, so that old rows are never sent by accident"
)
_TEXTS = {
    "missing": "is required",
    "string_type": "must be text in quotes",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than 0",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "tuple_type": 'must be a list: ["id", "line"]',
    "model_type": "must be a table with keys of its own, not a single value",
    "model_attributes_type": "must be a table with keys of its own, not a single value",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One wrong setting."""

    #: The key with the tables above it, as in `streams.orders.start`.
    key: str
    #: Where its value stands: `syncctl.toml line 12`, `.env line 3`, `environment`.
    origin: str
    #: The error and its fix. Never holds a secret.
    text: str

    def __str__(self) -> str:
        return f"{self.key} ({self.origin}): {self.text}" if self.origin else f"{self.key}: {self.text}"


def make_error(problems: Iterable[Problem], *, secrets: Iterable[str] = ()) -> ConfigurationError:
    """Return one error with a line for each problem, with every known secret masked."""
    redact = Redact(secrets)
    lines = list(dict.fromkeys(str(replace(problem, text=redact(problem.text))) for problem in problems))
    count = "a setting is wrong" if len(lines) == 1 else f"{len(lines)} settings are wrong"
    return ConfigurationError(count, why="\n".join(lines), hint=HINT)


def make_depth_error() -> ConfigurationError:
    """Return the error of settings that are nested deeper than they may be."""
    why = f"syncctl.toml, .env or a variable has tables or lists more than {DEEPEST} deep"
    return ConfigurationError("the settings are nested too deeply", why=why, hint=HINT)


def read_errors(error: ValidationError, model: type[BaseModel], layers: "Layers") -> list[Problem]:
    """Return a problem for each error that pydantic found."""
    return [_read_error(details, model, layers) for details in error.errors(include_url=False)]


def _read_error(details: ErrorDetails, model: type[BaseModel], layers: "Layers") -> Problem:
    path = tuple(str(part) for part in details["loc"] if isinstance(part, str) and part != "[key]")
    return Problem(
        key=_name_key(details["loc"]), origin=layers.find_nearest_origin(path), text=_explain(details, path, model)
    )


def _name_key(location: Sequence[int | str]) -> str:
    """Return `streams.orders.key[0]` for a location of pydantic."""
    key = ""
    for part in location:
        if isinstance(part, int):
            key += f"[{part}]"
        elif part != "[key]":
            key += f".{part}" if key else part
    return key


def _explain(details: ErrorDetails, path: Path, model: type[BaseModel]) -> str:
    kind = details["type"]
    context: Mapping[str, Any] = details.get("ctx", {})
    match kind:
        case "extra_forbidden":
            return f"is unknown; {suggest(path[-1], find_keys(model, path[:-1]))}"
        case "missing" if path[-1] == "start":
            return _START
        case "value_error":
            return str(context["error"])
        case "literal_error":
            return f"must be one of {context['expected']}".replace(" or ", ", ").replace("'", '"')
        case "dict_type":
            return _explain_table(path, model)
    return _TEXTS.get(kind, details["msg"])


def _explain_table(path: Path, model: type[BaseModel]) -> str:
    field = find_field(model, path)
    if field is None or is_named(field):
        return f"must hold tables by name, as in [{path[0]}.NAME]"
    sample = (field.examples or [{}])[0]
    return f"must be a table, as in {show_toml(sample)}; as a variable in JSON: {json.dumps(sample)}"
