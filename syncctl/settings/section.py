"""A section of the settings: its keys, the rules between them, and the value that it builds for the pipeline."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
Broken = Iterator[tuple[str, str]]
"""Keys that break a rule, each with the text of its error; a key in a table within the section has dots."""


def setting(
    default: Any = ..., text: str = "", *, sample: Any = None, secret: bool = False, written_as: str | None = None
) -> Any:
    """Declare a setting.

    Args:
        default: The default; if it is omitted, the setting is required.
        text: The purpose of the setting, which the examples and the documentation show.
        sample: The value that the examples show if the default is empty.
        written_as: Its key, if that is a reserved word of Python.
    """
    examples = None if sample is None else [sample]
    return Field(default, description=text, examples=examples, repr=not secret, alias=written_as)


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule between keys of a section."""

    keys: frozenset[str]
    check: Callable[[Any], Broken]


def rule(*keys: str) -> Callable[[Callable[[Any], Broken]], Rule]:
    """Make a method of a section a rule between these keys.

    The rule is skipped if one of the keys is wrong itself, so that one wrong value gives one error.
    """
    return lambda check: Rule(keys=frozenset(keys), check=check)


class Section(BaseModel):
    """A table of settings: unknown keys are errors, values never change, errors show no input."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True, ignored_types=(Rule,)
    )

    @model_validator(mode="wrap")
    @classmethod
    def _check_rules(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Check the rules between the keys even if a key is wrong itself, so that all errors are reported at once."""
        errors: list[ErrorDetails] = []
        try:
            section: Self | None = handler(data)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_input=False)
            section = None
        wrong = {str(error["loc"][0]) for error in errors if error["loc"]}
        if section is None and isinstance(data, Mapping):
            section = cls._read_without(wrong, data, handler)
        lines = [_copy_error(error) for error in errors]
        for value in vars(cls).values():
            if isinstance(value, Rule) and section is not None and not value.keys & wrong:
                lines += [_make_error(key, text) for key, text in value.check(section)]
        if section is None or lines:
            raise ValidationError.from_exception_data(cls.__name__, lines, hide_input=True)
        return section

    @classmethod
    def _read_without(
        cls, wrong: set[str], data: Mapping[str, Any], handler: ModelWrapValidatorHandler[Self]
    ) -> Self | None:
        """Return the section without the wrong keys, to check the rules between the others; None if it is invalid."""
        rest = {key: value for key, value in data.items() if key not in wrong}
        for key, field in cls.model_fields.items():
            if field.is_required() and field.examples:
                rest.setdefault(key, field.examples[0])
        try:
            return handler(rest)
        except ValidationError:
            return None

    def build(self, kind: type[T], /, **derived: Any) -> T:
        """Return a value for the pipeline: each of its fields is one of `derived`, or the setting of the same name.

        `lease_seconds` is the setting `lease`. A setting that is not set leaves the field at its default.
        """
        values = dict(derived)
        for field in dataclasses.fields(kind):
            if field.name not in values:
                key = field.name if hasattr(self, field.name) else field.name.removesuffix("_seconds")
                if (value := getattr(self, key)) is not None:
                    values[field.name] = value
        return kind(**values)


def _copy_error(error: ErrorDetails) -> InitErrorDetails:
    return InitErrorDetails(type=error["type"], loc=error["loc"], input=None, ctx=error.get("ctx", {}))


def _make_error(key: str, text: str) -> InitErrorDetails:
    return InitErrorDetails(type="value_error", loc=tuple(key.split(".")), input=None, ctx={"error": ValueError(text)})
