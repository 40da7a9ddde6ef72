"""A JSON Schema dialect with bounded keywords: each checks the row's time, and pattern searches are limited by it."""

from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

from jsonschema.protocols import Validator
from jsonschema.validators import extend

from syncctl.partner.request.patterns import search
from syncctl.partner.request.row_time import row_time

Keyword = Callable[..., Any]


def bind_dialect(dialect: type[Validator]) -> type[Validator]:
    """Return a dialect of jsonschema with all of its keywords bounded."""
    bound: dict[str, Keyword] = {}
    keywords = {name: _check_first(_bind(function, bound)) for name, function in dialect.VALIDATORS.items()}
    return extend(dialect, validators=keywords)  # type: ignore[no-untyped-call, no-any-return]


def _bind(function: Any, bound: dict[str, Keyword]) -> Any:
    """Return a copy of a jsonschema function that uses our `re.search`, and whose comparisons check the time.

    jsonschema calls `re.search` in several keywords and in their helpers, and offers no way to choose the engine, so
    the functions are rebuilt with other globals.
    """
    if not isinstance(function, FunctionType) or not function.__module__.startswith("jsonschema."):
        return function
    name = f"{function.__module__}.{function.__qualname__}"
    if name in bound:
        return bound[name]
    names = dict(function.__globals__)
    made = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    bound[name] = _check_each(made) if function.__name__ == "equal" else made
    for used in {used for code in _list_code(function.__code__) for used in code.co_names} & names.keys():
        if used == "re":
            names[used] = SimpleNamespace(search=search)
        elif isinstance(names[used], ModuleType) and names[used].__name__.startswith("jsonschema."):
            names[used] = SimpleNamespace(**{key: _bind(value, bound) for key, value in vars(names[used]).items()})
        else:
            names[used] = _bind(names[used], bound)
    return bound[name]


def _list_code(code: Any) -> Iterator[Any]:
    yield code
    for inner in code.co_consts:
        if hasattr(inner, "co_names"):
            yield from _list_code(inner)


def _check_each(function: Keyword) -> Keyword:
    def checked(one: Any, two: Any) -> Any:
        row_time.check()
        return function(one, two)

    return checked


def _check_first(function: Keyword) -> Keyword:
    def keyword(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        row_time.check()
        yield from function(validator, value, instance, schema) or ()

    return keyword
