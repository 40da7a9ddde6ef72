"""The check of a body against a JSON Schema, before anything is sent."""

import decimal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import simplejson
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from jsonschema_specifications import REGISTRY

from syncctl.errors import ConfigurationError
from syncctl.partner.call import Unsendable
from syncctl.partner.request.json_text import read_exact
from syncctl.partner.request.references import find_dead_references
from syncctl.partner.request.sandbox import exact

_LONGEST = 80


class BodySchema:
    """A JSON Schema of one stream. What it refers to elsewhere is never fetched.

    Args:
        path: The file; `key` is what errors call its setting.

    Raises:
        ConfigurationError: It cannot be read, is no JSON Schema, or refers to what is not in it.
    """

    def __init__(self, path: Path, *, key: str) -> None:
        schema = _read_schema(path, key)
        dialect = validator_for(schema, default=jsonschema.Draft202012Validator)
        numbers = dialect.TYPE_CHECKER.redefine("integer", lambda _, value: _is_integer(value))
        checked = extend(dialect, type_checker=numbers)  # type: ignore[no-untyped-call]
        # Decimals on both sides, so that multipleOf = 0.01 is exact; a registry of its own, which fetches nothing.
        self._validator: Validator = checked(schema, registry=REGISTRY)
        try:
            dialect.check_schema(schema)
            for reference, why in find_dead_references(schema, dialect):
                raise _wrong(path, key, f"it refers to {_shorten(reference)}, {why}")
            # A circle of references shows with any value.
            list(self._validator.iter_errors({}))
        except jsonschema.SchemaError as error:
            raise _wrong(path, key, f"{error.json_path}: {_shorten(error.message)}") from None
        except RecursionError:
            raise _wrong(path, key, "it refers to itself without an end, or is nested too deeply") from None

    def check(self, body: bytes) -> None:
        """Check the bytes of a body that is JSON.

        Raises:
            Unsendable: It does not fit; names the place, and what is asked for there, never the value.
        """
        try:
            with decimal.localcontext(exact):
                errors = sorted(self._validator.iter_errors(read_exact(body)), key=lambda each: each.json_path)
            told = _explain(errors[0]) if errors else ""
        except Exception as error:
            # Whatever a schema and a value do to each other is about this one row.
            raise Unsendable(f"the schema cannot be checked: {type(error).__name__}") from error
        if errors:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            raise Unsendable(f"the body does not fit the schema: {errors[0].json_path} {told}{more}")


def _explain(error: jsonschema.ValidationError) -> str:
    """Say what a schema asks for, without the value that does not fit."""
    asked: Any = error.validator_value
    match error.validator:
        case "required":
            missing = [name for name in asked if isinstance(error.instance, Mapping) and name not in error.instance]
            return f"lacks {_shorten(', '.join(missing))}"
        case "type":
            return f"must be of type {asked if isinstance(asked, str) else ' or '.join(asked)}"
        case "enum":
            return f"must be one of {_show(asked)}"
        case "const":
            return f"must be {_show(asked)}"
        case "additionalProperties" | "unevaluatedProperties":
            return "holds a field that the schema does not know"
        case None:
            return "holds a field that is not allowed"
        case _:
            return f"breaks {error.validator}: {_show(asked)}"


def _show(asked: Any) -> str:
    return _shorten(simplejson.dumps(asked, use_decimal=True, ensure_ascii=False))


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _is_integer(value: object) -> bool:
    if isinstance(value, decimal.Decimal):
        return value == value.to_integral_value()
    return isinstance(value, int) and not isinstance(value, bool)


def _read_schema(path: Path, key: str) -> Any:
    try:
        schema = read_exact(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise _wrong(path, key, error.strerror or "it cannot be read") from error
    except (ValueError, ArithmeticError) as error:
        raise _wrong(path, key, f"it is not JSON: {error}") from error
    except RecursionError as error:
        raise _wrong(path, key, "it is nested too deeply") from error
    if not isinstance(schema, dict | bool):
        raise _wrong(path, key, "a schema is an object, or true or false")
    return schema


def _wrong(path: Path, key: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{key} cannot be used: {path.name}",
        why=why,
        hint=f"{key} is the path of a JSON Schema file, beside syncctl.toml",
    )
