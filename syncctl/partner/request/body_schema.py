"""Check a body against a JSON Schema before it is sent. Documents to which the schema refers are never fetched."""

import decimal
from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import jsonschema
import simplejson
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from jsonschema_specifications import REGISTRY
from referencing import Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, specification_with

from syncctl.core.files import decode_utf8, read_file
from syncctl.errors import ConfigurationError
from syncctl.partner.call import Unsendable
from syncctl.partner.encoding import EXACT
from syncctl.partner.request.bounded_schema import bind_dialect
from syncctl.partner.request.patterns import compile_pattern, is_risky
from syncctl.partner.request.row_time import RowTimeExceeded, row_time

SCHEMA_AT_MOST_BYTES = 4 * 1024 * 1024
_LONGEST = 80
_TRIAL_SECONDS = 2.0
"""The computing time in which an empty object must be checked; a row gets less."""
_ERRORS_AT_MOST = 1000
_WHOLE_DIGITS_AT_MOST = 1000
"""Longer whole numbers stay decimals: Python refuses to write integers of several thousand digits."""
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


class BodySchema:
    """The JSON Schema of one stream.

    Args:
        path: The file.
        key: The name of its setting in errors.

    Raises:
        ConfigurationError: The file cannot be read, is not a JSON Schema, or refers to a schema outside of it.
    """

    def __init__(self, path: Path, *, key: str) -> None:
        schema = _read_schema(path, key)
        dialect = validator_for(schema, default=jsonschema.Draft202012Validator)
        numbers = dialect.TYPE_CHECKER.redefine("integer", lambda _, value: _is_integer(value))
        checked = extend(bind_dialect(dialect), type_checker=numbers)  # type: ignore[no-untyped-call]
        #: Patterns that can take a very long time with some values.
        self.risky_patterns: tuple[str, ...] = ()
        # Both sides use decimals, so that multipleOf = 0.01 is exact; this registry fetches nothing.
        self._validator: Validator = checked(schema, registry=REGISTRY)
        try:
            dialect.check_schema(schema)
            for reference, why in _find_dead_references(schema, dialect):
                raise _make_error(path, key, f"it refers to {_shorten(reference)}, {why}")
            # Circular references show with any value, and so do references that multiply.
            row_time.begin(_TRIAL_SECONDS)
            list(self._validator.iter_errors({}))
            self.risky_patterns = tuple(sorted(filter(is_risky, _check_patterns(schema, dialect))))
        except jsonschema.SchemaError as error:
            raise _make_error(path, key, f"{error.json_path}: {_shorten(error.message)}") from None
        except _BadPatternError as error:
            raise _make_error(path, key, str(error)) from None
        except RecursionError:
            raise _make_error(path, key, "it refers to itself without end, or is nested too deeply") from None
        except RowTimeExceeded:
            raise _make_error(path, key, f"even {{}} takes more than {_TRIAL_SECONDS:g} s to be checked") from None
        finally:
            row_time.end()

    def check(self, body: bytes) -> None:
        """Check the bytes of a body that is JSON.

        Raises:
            Unsendable: The body does not fit; the error names the place and the rule there, never the value.
        """
        try:
            with decimal.localcontext(EXACT):
                first_errors = islice(self._validator.iter_errors(read_exact(body)), _ERRORS_AT_MOST)
                errors = sorted(first_errors, key=lambda error: error.json_path)
            reason = _explain(errors[0]) if errors else ""
        except RowTimeExceeded as error:
            raise Unsendable(f"the schema cannot be checked: {error}") from error
        except Exception as error:
            # Any error of checking this value against the schema concerns this row only (invariant 9).
            raise Unsendable(f"the schema cannot be checked: {type(error).__name__}") from error
        if errors:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            raise Unsendable(f"the body does not fit the schema: {errors[0].json_path} {reason}{more}")


class _BadPatternError(Exception):
    """A pattern of the schema is not a regular expression that can be used."""


def _check_patterns(schema: Any, dialect: type[Validator]) -> set[str]:
    """Return the patterns in a schema.

    Raises:
        _BadPatternError: one of the patterns cannot be used.
    """
    specification = specification_with(str(dialect.META_SCHEMA.get("$schema")), default=DRAFT202012)
    waiting = [specification.create_resource(schema)]
    patterns: set[str] = set()
    while waiting:
        resource = waiting.pop()
        contents = resource.contents
        if isinstance(contents, Mapping):
            patterns |= {contents["pattern"]} if isinstance(contents.get("pattern"), str) else set()
            patterns |= set(contents.get("patternProperties", {}))
            waiting += resource.subresources()
    for pattern in patterns:
        try:
            compile_pattern(pattern)
        except ValueError as error:
            raise _BadPatternError(f"its pattern {_shorten(pattern)} cannot be used: {error}") from None
    return patterns


def read_exact(text: str | bytes) -> Any:
    """Return a JSON document with all digits: whole numbers, even written as 2.0, as integers, others as decimals.

    Raises:
        ValueError, ArithmeticError, RecursionError: the text is not JSON, or too large to be read.
    """
    return simplejson.loads(text, parse_int=_read_number, parse_float=_read_number)


def _read_number(text: str) -> int | Decimal:
    row_time.check()
    number = Decimal(text)
    if number.adjusted() < _WHOLE_DIGITS_AT_MOST and number == number.to_integral_value():
        return int(number)
    return number


def _is_integer(value: object) -> bool:
    if isinstance(value, Decimal):
        return value == value.to_integral_value()
    return isinstance(value, int) and not isinstance(value, bool)


def _read_schema(path: Path, key: str) -> Any:
    try:
        text = decode_utf8(read_file(path, at_most=SCHEMA_AT_MOST_BYTES))
    except (OSError, ValueError) as error:
        raise _make_error(path, key, getattr(error, "strerror", None) or str(error)) from error
    try:
        schema = read_exact(text)
    except (ValueError, ArithmeticError) as error:
        raise _make_error(path, key, f"it is not JSON: {error}") from error
    except RecursionError as error:
        raise _make_error(path, key, "it is nested too deeply") from error
    if not isinstance(schema, dict | bool):
        raise _make_error(path, key, "a schema is an object, or true or false")
    return schema


def _make_error(path: Path, key: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{key} cannot be used: {path.name}",
        why=why,
        hint=f"{key} is the path of a JSON Schema file, beside syncctl.toml",
    )


def _find_dead_references(schema: Any, dialect: type[Validator]) -> Iterator[tuple[str, str]]:
    """Yield each reference that does not lead to a schema, and why.

    A `$ref` is a reference only where the dialect expects a schema: in `const`, `enum` or `examples` it is a value.

    Args:
        dialect: The validator's class for the schema as a whole.
    """
    specification = specification_with(str(dialect.META_SCHEMA.get("$schema")), default=DRAFT202012)
    root = specification.create_resource(schema)
    waiting = [(root, REGISTRY.resolver_with_root(root))]
    seen: set[int] = set()
    while waiting:
        resource, resolver = waiting.pop()
        contents = resource.contents
        if not isinstance(contents, Mapping) or id(contents) in seen:
            continue
        seen.add(id(contents))
        for reference in (contents.get(keyword) for keyword in _REFERENCES):
            if not isinstance(reference, str):
                continue
            try:
                resolved = resolver.lookup(reference)
            except (Unresolvable, ValueError, TypeError) as error:
                # Subclasses of Unresolvable are about places within a document that exists.
                is_elsewhere = type(error) is Unresolvable
                yield reference, "and nothing is fetched: put that into $defs" if is_elsewhere else "which is not in it"
                continue
            if _is_schema(resolved.contents, dialect):
                target = Resource.from_contents(resolved.contents, default_specification=specification)
                waiting.append((target, resolved.resolver))
            else:
                yield reference, "which is not a schema"
        waiting += [(inner, resolver.in_subresource(inner)) for inner in resource.subresources()]


def _is_schema(target: Any, dialect: type[Validator]) -> bool:
    """Tell whether the target of a reference is a schema: it may be in a place where the dialect expects none."""
    if not isinstance(target, Mapping | bool):
        return False
    try:
        validator_for(target, default=dialect).check_schema(target)  # type: ignore[arg-type]  # true and false are too
    except jsonschema.SchemaError:
        return False
    return True


def _explain(error: jsonschema.ValidationError) -> str:
    """Return the rule of the schema that the body breaks, without the value."""
    rule: Any = error.validator_value
    match error.validator:
        case "required":
            missing = [name for name in rule if isinstance(error.instance, Mapping) and name not in error.instance]
            return f"lacks {_shorten(', '.join(missing))}"
        case "type":
            return f"must be of type {rule if isinstance(rule, str) else ' or '.join(rule)}"
        case "enum":
            return f"must be one of {_show(rule)}"
        case "const":
            return f"must be {_show(rule)}"
        case "additionalProperties" | "unevaluatedProperties":
            return "holds a field that the schema does not know"
        case None:
            return "holds a field that is not allowed"
        case _:
            return f"breaks {error.validator}: {_show(rule)}"


def _show(rule: Any) -> str:
    return _shorten(simplejson.dumps(rule, use_decimal=True, ensure_ascii=False))


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
