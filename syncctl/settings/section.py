"""What every section of the settings is made of."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def setting(default: Any, text: str, *, sample: Any = None, secret: bool = False, written_as: str | None = None) -> Any:
    """Declare a setting: its default, what it is for, a sample where the default is none.

    Args:
        written_as: Its key, where that is a word that Python keeps for itself.
    """
    examples = None if sample is None else [sample]
    return Field(default, description=text, examples=examples, repr=not secret, alias=written_as)


class Section(BaseModel):
    """A table of settings: unknown keys are errors, values never change, errors show no input."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)


def read_table(value: object, told: str) -> dict[Any, Any]:
    """Return a table, also from JSON text of one (the form for environment variables).

    Args:
        told: What the error says.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else {}
        except ValueError:
            value = None
    if not isinstance(value, dict):
        raise ValueError(told)  # noqa: TRY004 - pydantic takes this one for a wrong value
    return value
