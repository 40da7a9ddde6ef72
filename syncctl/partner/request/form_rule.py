"""The rule for a template of a form: a value that holds one of its signs must go through `| urlencode`."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import nodes

from syncctl.partner.request.json_rule import find_safe_names, writes_own_text

_PLAIN, _ENCODED = "_in_form", "_null_in_form"
_SAFE_FILTERS = frozenset({"urlencode", "safe"})
_SIGNS = re.compile(r"[^\x21-\x7e]|[&=+%#;]")


def guard_form_values(tree: nodes.Template) -> None:
    """Have each value checked that a template writes without `| urlencode`; NULL is written as nothing."""
    macros, joiners = find_safe_names(tree)

    def guard(expression: nodes.Expr) -> nodes.Expr:
        match expression:
            case nodes.TemplateData() | nodes.Const():
                return expression
            case nodes.CondExpr():
                expression.expr1 = guard(expression.expr1)
                expression.expr2 = None if expression.expr2 is None else guard(expression.expr2)
                return expression
            case nodes.Concat():
                expression.nodes = [guard(part) for part in expression.nodes]
                return expression
            case nodes.Filter(name="urlencode") if expression.node is not None:
                expression.node = _filter(expression.node, _ENCODED)
                return expression
            case nodes.Filter() if expression.name in _SAFE_FILTERS:
                return expression
            case nodes.Call() if writes_own_text(expression, macros, joiners):
                return expression
        return _filter(expression, _PLAIN)

    for output in tree.find_all(nodes.Output):
        output.nodes = [guard(expression) for expression in output.nodes]


def _filter(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _check_value(value: Any) -> Any:
    sign = _SIGNS.search(value) if isinstance(value, str) else None
    if sign is not None:
        raise TypeError(f"a value holds U+{ord(sign[0]):04X}, which changes a form; write it with | urlencode")
    return value


def _write_null(value: Any) -> Any:
    return "" if value is None else value


FORM_FILTERS: Mapping[str, Callable[[Any], Any]] = {_PLAIN: _check_value, _ENCODED: _write_null}
