"""Templates: text made from a record, the same in every process (invariant 7).

A template runs in Jinja2's sandbox, with a short list of filters and methods. It sees its record and nothing else: no
clock, no random numbers, no files, no internals of Python.
"""

import decimal
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined, meta, nodes, pass_context
from jinja2.exceptions import SecurityError, UndefinedError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Cycler, Joiner, Namespace
from jinja2.visitor import NodeTransformer

from syncctl.core.json_text import JsonNumber, JsonText
from syncctl.core.records import Record
from syncctl.core.remote_values import HOW_TO_CAPTURE, REMOTE
from syncctl.core.spelling import suggest
from syncctl.core.stream import Decimals
from syncctl.partner.call import Unsendable
from syncctl.partner.encoding import EXACT, choose_values, encode_text, write_raw
from syncctl.partner.request.form_rule import FORM_FILTERS, guard_form_values
from syncctl.partner.request.json_rule import JSON_FILTERS, QUOTED, check_json_rule
from syncctl.partner.request.nested import Columns, Fields, Items
from syncctl.partner.request.quota import (
    QUOTA,
    TEXT_AT_MOST,
    Quota,
    QuotaExceeded,
    call_counted,
    count_tree,
    find_quota,
    make_filters,
    make_tests,
)
from syncctl.partner.request.row_time import RowTimeExceeded

NAMES = ("row", "key", "op", "stream")
REMOTE_NAME = "remote"
"""The name of the partner's values in a template, if the stream captures any."""
FILTERS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "format", "groupby",
    "int", "items", "join", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace",
    "reverse", "round", "safe", "select", "selectattr", "sort", "string", "sum", "title", "trim", "truncate", "unique",
    "upper", "urlencode", "wordcount",
)  # fmt: skip
"""Filters that give the same text in every process."""
TEXT_METHODS = frozenset({
    "capitalize", "casefold", "center", "count", "endswith", "find", "isalnum", "isalpha", "isdecimal", "isdigit",
    "islower", "isnumeric", "isspace", "isupper", "ljust", "lower", "lstrip", "partition", "removeprefix",
    "removesuffix", "replace", "rfind", "rjust", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith",
    "strip", "title", "upper", "zfill",
})  # fmt: skip
LIST_ATTRIBUTES = frozenset({"count", "index", "grouper", "list"})
"""The last two are attributes of the groups that the filter `groupby` makes."""
OBJECT_METHODS = frozenset({"get", "items", "keys", "values"})
_OTHER_METHODS = frozenset({"changed", "cycle", "next", "reset"})
"""Methods of `loop` and `cycler`."""
_INSTEAD = {"format": "use ~ or the filter format", "join": "use the filter join"}
GLOBALS: Mapping[str, Any] = {
    "range": safe_range, "dict": dict, "namespace": Namespace, "joiner": Joiner, "cycler": Cycler,
}  # fmt: skip

JsonFilter = Callable[[Context, Any], str]

_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]{4,}")
_SHOWN = (UndefinedError, SecurityError, TypeError, ZeroDivisionError, OverflowError, RowTimeExceeded)
"""Errors whose text is stored in the record; the texts of others could contain a value."""
_STORED = "column as stored"
"""A filter that a template cannot name, because a name in a template has no blank."""
_WRITE_JSON = frozenset({*JSON_FILTERS, QUOTED})
_SHOWN_KINDS: Mapping[type, str] = {Fields: "an object", Items: "a list", JsonText: "a document"}
_OTHER_TEMPLATES = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


class TextTemplate:
    """The template of one setting, compiled.

    Args:
        title: Its name in errors: `body`, or `header X-Region`.
        is_json: Whether it writes JSON, so that each value must go through `| json`.
        is_markup: Whether it writes XML or HTML, so that values are escaped.
        is_form: Whether it writes a form, so that values with special characters must go through `| urlencode`.
        remote: The names of the partner's values that a stream captures; None if they are not known.

    Raises:
        ValueError: The template cannot be used; the text says where and why.
    """

    def __init__(
        self,
        source: str,
        *,
        title: str,
        decimals: Decimals = "number",
        is_json: bool = False,
        is_markup: bool = False,
        is_form: bool = False,
        remote: Sequence[str] | None = None,
    ) -> None:
        self._title = title
        self._remote = remote or ()
        sandbox = open_sandbox(decimals, is_markup=is_markup)
        try:
            tree = sandbox.parse(source)
            _check_names(tree, remote)
            self.remote_names = _find_remote_names(tree)
            """The names of the partner's values that the template writes; None if it may write any."""
            self.texts = [(text.lineno, text.data) for text in tree.find_all(nodes.TemplateData)]
            """The texts that the template itself writes, each with its line."""
            if is_json:
                check_json_rule(tree)
            if is_form:
                guard_form_values(tree)
            _check_methods(tree)
            self._template = sandbox.from_string(count_tree(_Stored().visit(tree)))
        except TemplateSyntaxError as error:
            raise ValueError(f"line {error.lineno}: {error.message}") from None
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        except AssertionError as error:
            # Jinja2's compiler loses names, for example in {% set a | replace("b", row.c) %}.
            raise ValueError(f"Jinja2 cannot compile it: {error}") from None

    def render(self, record: Record) -> str:
        """Return the text of a record. Safe to repeat: the same record gives the same text.

        Raises:
            Unsendable: A column does not exist, a value cannot be written, or the quota is exceeded.
        """
        values, quota = choose_values(record), Quota()
        remote = {name: record.remote.get(name) for name in self._remote}
        names = {
            "row": Columns(values, quota),
            "key": Columns(record.key, quota),
            "op": record.op,
            "stream": record.stream,
            "remote": Columns(remote, quota),
            QUOTA: quota,
        }
        try:
            with decimal.localcontext(EXACT):
                text = self._write(names)
        except Exception as error:
            reason = str(error) if isinstance(error, _SHOWN) else type(error).__name__
            raise Unsendable(f"{self._title}, line {_find_line(error)}: {reason}") from error
        shown = (*values.values(), *remote.values())
        if _ADDRESS.search(text) and not any(_ADDRESS.search(str(value)) for value in shown):
            raise Unsendable(f"{self._title} writes a Python object, whose text differs from process to process")
        return text

    def _write(self, names: dict[str, Any]) -> str:
        """Return the text of the template, and stop as soon as it is too long."""
        parts, left = [], TEXT_AT_MOST
        for part in self._template.generate(names):
            left -= len(part)
            if left < 0:
                raise QuotaExceeded(f"it writes more than {TEXT_AT_MOST:,} characters")
            parts.append(part)
        return "".join(parts)


def _check_names(tree: nodes.Template, remote: Sequence[str] | None) -> None:
    for statement in tree.find_all(_OTHER_TEMPLATES):
        raise ValueError(f"line {statement.lineno}: a template stands alone; it cannot include or import another")
    used = meta.find_undeclared_variables(tree)
    if REMOTE_NAME in used and remote is not None:
        if not remote:
            raise ValueError(f"{REMOTE_NAME} is not defined; {HOW_TO_CAPTURE}")
        if wrong := sorted((_find_remote_names(tree) or frozenset()) - set(remote)):
            raise ValueError(f"{REMOTE}{wrong[0]} is not captured; {suggest(wrong[0], remote)}")
    unknown = sorted(used - {*NAMES, *GLOBALS, REMOTE_NAME})
    if unknown:
        raise ValueError(f"{unknown[0]} is not defined; a template has {', '.join(NAMES)}, as in {{{{ row.id }}}}")


def _find_remote_names(tree: nodes.Template) -> frozenset[str] | None:
    """Return the names of the partner's values that a template uses; None if it may use any."""
    named = [(step.node, step.attr) for step in tree.find_all(nodes.Getattr)]
    named += [(step.node, step.arg.value) for step in tree.find_all(nodes.Getitem) if isinstance(step.arg, nodes.Const)]
    names = [name for node, name in named if isinstance(node, nodes.Name) and node.name == REMOTE_NAME]
    uses = sum(name.name == REMOTE_NAME and name.ctx == "load" for name in tree.find_all(nodes.Name))
    return frozenset(names) if uses == len(names) else None


def _check_methods(tree: nodes.Template) -> None:
    """Refuse a forbidden method before the first record; the sandbox refuses one that is hidden behind a variable."""
    allowed = TEXT_METHODS | LIST_ATTRIBUTES | OBJECT_METHODS | _OTHER_METHODS
    for call in tree.find_all(nodes.Call):
        method = call.node
        if not isinstance(method, nodes.Getattr) or method.attr in allowed:
            continue
        if not (isinstance(method.node, nodes.Name) and method.node.name == "self"):  # {{ self.block() }}
            hint = _INSTEAD.get(method.attr, "docs/request.md lists the methods")
            raise ValueError(f"line {call.lineno}: a template cannot call .{method.attr}(); {hint}")


class _Stored(NodeTransformer):
    """Makes `row.name | json` and `row["name"] | json` write the column as the record stores it."""

    def visit_Filter(self, node: nodes.Filter) -> nodes.Filter:  # noqa: N802 - the name of the node
        self.generic_visit(node)
        if node.name not in _WRITE_JSON:
            return node
        match node.node:
            case nodes.Getattr(node=nodes.Name(name="row") as row, attr=str(name)):
                node.node = nodes.Filter(row, _STORED, [nodes.Const(name)], [], None, None, lineno=node.lineno)
            case nodes.Getitem(node=nodes.Name(name="row") as row, arg=nodes.Const(value=str(name))):
                node.node = nodes.Filter(row, _STORED, [nodes.Const(name)], [], None, None, lineno=node.lineno)
        return node


def _find_line(error: BaseException) -> int:
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    return lines[-1] if lines else 1


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox with columns, an allow-list of methods, and a quota; an unknown column is an error."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator within the quota."""
        find_quota(context).check_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function that the sandbox allows, within the quota."""
        return call_counted(context, super().call, function, args, kwargs)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Tell whether a template may use an attribute; values have only the listed methods."""
        match obj:
            case str():
                return attr in TEXT_METHODS
            case list() | tuple():
                return attr in LIST_ATTRIBUTES
            case Mapping():
                return attr in OBJECT_METHODS
            case None | int() | float() | Decimal() | JsonText() | type():
                return False
            case _:
                return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """Leave `format` to `is_safe_attribute`, which refuses it."""
        del value

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return a column, a field of an object of the row, or an attribute that the sandbox allows."""
        if isinstance(obj, Columns):
            return self._find_column(obj, attribute)
        if isinstance(obj, Fields) and (attribute in obj or attribute not in OBJECT_METHODS):
            return self._find_field(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return a column, a field of an object of the row, or an item or attribute that the sandbox allows."""
        if isinstance(obj, Columns):
            return self._find_column(obj, argument)
        return self._find_field(obj, argument) if isinstance(obj, Fields) else super().getitem(obj, argument)

    def _find_column(self, columns: Columns, name: Any) -> Any:
        return columns[name] if name in columns else self.undefined(f"the record has no column {name}")

    def _find_field(self, fields: Fields, name: Any) -> Any:
        return fields[name] if name in fields else self.undefined(f"the object has no field {name}")

    def find_stored(self, obj: Any, name: Any) -> Any:
        """Return a column as the record stores it, so that a document is written without being parsed."""
        if isinstance(obj, Columns) and name in obj:
            return obj.find_stored(name)
        return self.getitem(obj, name)


@lru_cache
def open_sandbox(decimals: Decimals, *, is_markup: bool = False) -> Sandbox:
    """Return the sandbox for templates; with `is_markup` it escapes values for XML and HTML."""
    sandbox = Sandbox(
        undefined=StrictUndefined, autoescape=is_markup, finalize=show_text, trim_blocks=True, lstrip_blocks=True
    )
    to_json = make_json_filter(decimals)
    sandbox.filters = {**make_filters(FILTERS), **dict.fromkeys(JSON_FILTERS, to_json), QUOTED: in_quotes(to_json)}
    sandbox.filters |= FORM_FILTERS
    sandbox.filters[_STORED] = sandbox.find_stored
    sandbox.tests = make_tests()
    sandbox.globals = dict(GLOBALS)
    return sandbox


def show_text(value: Any) -> Any:
    """Return the text that `{{ value }}` writes: nothing for NULL, all digits of a decimal.

    Raises:
        TypeError: The value is a list or an object, whose text would be Python's, and differ between processes.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, str | int | float | Undefined):
        return value
    if isinstance(value, JsonText) and value.text[0] not in '[{"':
        # This is a number that is too large to compute with.
        return value.text
    kind = next((name for kind, name in _SHOWN_KINDS.items() if isinstance(value, kind)), type(value).__name__)
    raise TypeError(f"{kind} cannot be written as text; write it with | json or | join")


def make_json_filter(decimals: Decimals) -> JsonFilter:
    """Return the filter `json`, which writes text, NULL, exact numbers, lists and objects as JSON."""

    @pass_context
    def to_json(context: Context, value: Any) -> str:
        return encode_text(_simplify(value, decimals, find_quota(context)))

    return to_json


def in_quotes(to_json: JsonFilter) -> JsonFilter:
    """Return the filter `json` for values between the template's own quotes, which the quotes of a text would end."""

    @pass_context
    def to_quoted(context: Context, value: Any) -> str:
        text = to_json(context, value)
        if '"' in text:
            raise TypeError(
                'the filter json puts quotes around a text; leave yours out, as in "name": {{ row.name | json }}'
            )
        return text

    return to_quoted


def _simplify(value: Any, decimals: Decimals, quota: Quota) -> Any:
    """Count a value, and return it in the form that the JSON encoder accepts."""
    quota.take_value(value)
    if isinstance(value, JsonText):
        quota.take(len(value.text))
        return write_raw(value.text)
    if isinstance(value, JsonNumber):
        return write_raw(value.literal)
    if isinstance(value, Undefined):
        # Asking for its text raises the error that names the unknown column.
        return str(value)
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise TypeError(f"JSON cannot represent {value}")
        return f"{value:f}" if decimals == "string" else value
    if isinstance(value, Mapping):
        quota.take_text_of(*value)
        inside = value.list_stored() if isinstance(value, Columns) else value.items()
        return {str(name): _simplify(inner, decimals, quota) for name, inner in inside}
    if isinstance(value, list | tuple | Iterator | range):
        return [_simplify(inner, decimals, quota) for inner in value]
    return value
