"""Paths in the settings model: which keys exist, where, and which of them are secret."""

import functools
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from syncctl.settings.field_types import Kind, find_kind

Path = tuple[str, ...]

FILLED_IN = {
    ("sources", "default", "url"): "source_url",
    ("partners", "default", "url"): "partner_url",
    ("partners", "default", "auth", "token"): "partner_token",
}
"""Settings of the source and the partner `default` that take the value of another one if they are not set."""

_SECRET_HEADERS = ("auth", "token", "secret", "key", "password", "cookie", "signature", "credential", "session")


@functools.cache
def list_fields(model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    """Return the fields of a model by the keys that they are written under."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


@functools.cache
def _list_names(model: type[BaseModel]) -> Mapping[str, str]:
    """Return the names of the fields that are written under another key, by that key."""
    return {field.alias: name for name, field in model.model_fields.items() if field.alias}


def read_key(section: BaseModel, key: str) -> Any:
    """Return the value that is written under a key."""
    return getattr(section, _list_names(type(section)).get(key, key))


def read_value(section: BaseModel, path: Path) -> Any:
    """Return the value at a path."""
    value: Any = section
    for key in path:
        value = value[key] if isinstance(value, dict) else read_key(value, key)
    return value


def find_section(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section that a field holds, once or by name; None if it holds a single value."""
    annotation = field.annotation
    if typing.get_origin(annotation) is dict:
        annotation = typing.get_args(annotation)[1]
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def is_named(field: FieldInfo) -> bool:
    """Tell whether a field holds sections by name, as `streams` does."""
    return typing.get_origin(field.annotation) is dict and find_section(field) is not None


def find_keys(model: type[BaseModel], path: Path) -> tuple[str, ...]:
    """Return the keys that may stand directly under a path; empty if any name may, or if nothing can."""
    if not path:
        return tuple(list_fields(model))
    field = list_fields(model).get(path[0])
    section = find_section(field) if field else None
    if field is None or section is None:
        return ()
    rest = path[2:] if is_named(field) else path[1:]
    return () if is_named(field) and len(path) == 1 else find_keys(section, rest)


def find_field(model: type[BaseModel], path: Path) -> FieldInfo | None:
    """Return the field at a path; None if the model has none (`streams.orders` is a name, not a field)."""
    field = list_fields(model).get(path[0]) if path else None
    if field is None or len(path) == 1:
        return field
    section = find_section(field)
    rest = path[2:] if is_named(field) else path[1:]
    return find_field(section, rest) if section and rest else None


def is_value(model: type[BaseModel], path: Path) -> bool:
    """Tell whether a single value stands at a path."""
    field = find_field(model, path)
    return field is not None and find_section(field) is None


def is_table(model: type[BaseModel], path: Path) -> bool:
    """Tell whether a table of keys stands at a path, a named one included."""
    field = list_fields(model).get(path[0]) if path else None
    section = find_section(field) if field else None
    if field is None or section is None:
        return False
    rest = path[2:] if is_named(field) else path[1:]
    return is_table(section, rest) if rest else True


def is_credential(model: type[BaseModel], path: Path) -> bool:
    """Tell whether a secret stands at a path: it is never shown, and never written out in syncctl.toml.

    A partner's header holds a secret if its name says so.
    """
    match path:
        case ("partners", _, "headers"):
            return False
        case ("partners", _, "headers", name):
            return any(word in name.lower() for word in _SECRET_HEADERS)
    field = find_field(model, path)
    return field is not None and find_kind(field) is Kind.CREDENTIAL


def list_values(
    model: type[BaseModel], named: Mapping[str, Sequence[str]], above: str = ""
) -> Iterator[tuple[Path, FieldInfo]]:
    """Yield every single value of a model with its path.

    Args:
        named: The names of the sections in each table that holds sections by name, by its path: `streams`,
            `streams.orders.children`.
        above: The path of the model, with a dot at its end.
    """
    for name, field in list_fields(model).items():
        section = find_section(field)
        if section is None:
            yield (name,), field
        elif is_named(field):
            for inner_name in named.get(f"{above}{name}", ()):
                inner_values = list_values(section, named, f"{above}{name}.{inner_name}.")
                yield from (((name, inner_name, *path), inner) for path, inner in inner_values)
        else:
            inner_values = list_values(section, named, f"{above}{name}.")
            yield from (((name, *path), inner) for path, inner in inner_values)
