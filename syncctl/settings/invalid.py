"""What pydantic found wrong, in our words."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from syncctl.core.spelling import suggest
from syncctl.settings.layers import Layers
from syncctl.settings.problems import Problem
from syncctl.settings.schema_paths import Path, find_keys

_START = (
    'is required: write start = "beginning" (every row there is), "now" (only rows from now on) '
    "or a cursor value; nobody posts five years of orders by accident"
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
    "finite_number": "must be a number that has an end",
    "greater_than": "must be greater than 0",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "tuple_type": 'must be a list: ["id", "line"]',
    "model_type": "must be a table with keys of its own, not a single value",
    "model_attributes_type": "must be a table with keys of its own, not a single value",
    "dict_type": "must hold tables by name, as in [streams.orders]",
}


def read_errors(error: ValidationError, model: type[BaseModel], layers: Layers) -> list[Problem]:
    """Return one problem for each error: with its key, its origin, and the fix."""
    return [_read_error(details, model, layers) for details in error.errors(include_url=False)]


def _read_error(details: ErrorDetails, model: type[BaseModel], layers: Layers) -> Problem:
    path = tuple(str(part) for part in details["loc"] if isinstance(part, str) and part != "[key]")
    key = name_key(details["loc"])
    origin = layers.find_nearest_origin(path)
    return Problem(key=key, origin=origin, text=_explain(details, path, find_keys(model, path[:-1])))


def name_key(location: Sequence[int | str]) -> str:
    """Return `streams.orders.key[0]` for the place that pydantic names."""
    key = ""
    for part in location:
        if isinstance(part, int):
            key += f"[{part}]"
        elif part != "[key]":
            key += f".{part}" if key else part
    return key


def _explain(details: ErrorDetails, path: Path, known: Sequence[str]) -> str:
    kind = details["type"]
    context: Mapping[str, Any] = details.get("ctx", {})
    if kind == "extra_forbidden":
        return f"is unknown; {suggest(path[-1], known)}"
    if kind == "missing" and path[-1] == "start":
        return _START
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"must be one of {context['expected']}".replace(" or ", ", ").replace("'", '"')
    return _TEXTS.get(kind, details["msg"])
