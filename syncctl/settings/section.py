"""What every section of the settings is made of."""

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
