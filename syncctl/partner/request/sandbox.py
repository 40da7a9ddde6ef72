"""What a template may do: look at its record, and write text. No clock, no chance, no file, no Python behind it."""

import decimal
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Undefined, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Cycler, Joiner, Namespace

from syncctl.core.stream import Decimals
from syncctl.partner.encoding import encode_text
from syncctl.partner.request.bounds import find_quota, list_filters
from syncctl.partner.request.limits import Quota, foresee_method
from syncctl.partner.request.quotes import JSON_FILTERS, QUOTED

# Names that stand for the same bytes in every process; those that draw lots or look elsewhere are left out.
_FILTERS = (
    "abs", "batch", "capitalize", "center", "count", "d", "default", "dictsort", "e", "escape", "first", "float",
    "format", "groupby", "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max", "min",
    "reject", "rejectattr", "replace", "reverse", "round", "safe", "select", "selectattr", "slice", "sort", "string",
    "sum", "title", "trim", "truncate", "unique", "upper", "urlencode", "wordcount",
)  # fmt: skip
GLOBALS: Mapping[str, Any] = {
    "range": safe_range, "dict": dict, "namespace": Namespace, "joiner": Joiner, "cycler": Cycler,
}  # fmt: skip

JsonFilter = Callable[[Context, Any], str]

_CHARACTERS_OF_A_VALUE = 64
"""What a value that is no text counts for: it takes memory even where it is written as 1."""
exact = decimal.Context(prec=100)
"""Decimals of 38 digits keep them in a sum or a product; whatever the process has set counts for nothing."""


class Columns(dict[str, Any]):
    """Columns of a record: `row.name` and `row["name"]` are values and never a method of a dictionary."""


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox, in which columns are columns, an unknown one is an error, and nothing grows without bounds."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator to values whose result is not too large."""
        find_quota(context).take_result(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call what the sandbox lets be called, where its result is not too large."""
        # The sandbox wraps `format`; what it wraps is the method.
        method = getattr(function, "__wrapped__", function)
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str | int):
            find_quota(context).take(foresee_method(owner, method.__name__, *args, **kwargs))
        return super().call(context, function, *args, **kwargs)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return a column, or what the sandbox lets through of anything else."""
        return self._find_column(obj, attribute) if isinstance(obj, Columns) else super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return a column, or what the sandbox lets through of anything else."""
        return self._find_column(obj, argument) if isinstance(obj, Columns) else super().getitem(obj, argument)

    def _find_column(self, columns: Columns, name: Any) -> Any:
        return columns[name] if name in columns else self.undefined(f"the record has no column {name}")


@lru_cache
def open_sandbox(decimals: Decimals, *, is_markup: bool = False) -> Sandbox:
    """Return the sandbox of templates.

    Args:
        is_markup: XML or HTML is written: values are escaped for it.
    """
    sandbox = Sandbox(
        undefined=StrictUndefined, autoescape=is_markup, finalize=show_text, trim_blocks=True, lstrip_blocks=True
    )
    to_json = make_json_filter(decimals)
    sandbox.filters = {**list_filters(_FILTERS), **dict.fromkeys(JSON_FILTERS, to_json), QUOTED: in_quotes(to_json)}
    sandbox.globals = dict(GLOBALS)
    return sandbox


def show_text(value: Any) -> Any:
    """Return what `{{ value }}` writes: nothing for NULL, all digits of a decimal.

    Raises:
        TypeError: A list or an object, whose text would be Python's, and not the same in every process.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, str | int | float | Undefined):
        return value
    raise TypeError(f"a {type(value).__name__} has no text; write it with | json or | join")


def make_json_filter(decimals: Decimals) -> JsonFilter:
    """Return the filter `json`: any text, NULL, exact numbers, lists and objects, as JSON."""

    @pass_context
    def to_json(context: Context, value: Any) -> str:
        return encode_text(_simplify(value, decimals, find_quota(context)))

    return to_json


def in_quotes(to_json: JsonFilter) -> JsonFilter:
    """Return `json` for a value that stands between quotes of the template: text would end them."""

    @pass_context
    def to_quoted(context: Context, value: Any) -> str:
        text = to_json(context, value)
        if '"' in text:
            raise TypeError('a text stands between quotes; leave them out, as in "name": {{ row.name | json }}')
        return text

    return to_quoted


def _simplify(value: Any, decimals: Decimals, quota: Quota) -> Any:
    quota.take(len(value) if isinstance(value, str) else _CHARACTERS_OF_A_VALUE)
    if isinstance(value, Undefined):
        # Its text is the error that says which name is unknown.
        return str(value)
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise TypeError(f"JSON has no form for {value}")
        return f"{value:f}" if decimals == "string" else value
    if isinstance(value, Mapping):
        return {str(name): _simplify(inner, decimals, quota) for name, inner in value.items()}
    if isinstance(value, list | tuple | Iterator | range):
        return [_simplify(inner, decimals, quota) for inner in value]
    return value
