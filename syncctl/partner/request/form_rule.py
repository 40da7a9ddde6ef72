"""The rule for form templates: a template writes its own text, and values that went through `| urlencode`.

Values without that filter are checked when they are written: they must not contain characters with a meaning in a form.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jinja2 import meta, nodes

from syncctl.partner.request.json_rule import find_safe_names, writes_own_text
from syncctl.partner.request.nested import Fields, Items

_ENCODE = "urlencode"
_PLAIN, _NULL = "_in_form", "_null_in_form"
_KEEPS_ENCODED = frozenset({"d", "default", "lower", "replace", "string", "trim", "upper"})
"""Filters whose result is part of a form if their arguments are."""
_SIGNS = re.compile(r"[^\x21-\x7e]|[&=+%#;]")
_NOT_IN_A_FORM = re.compile(r"[^\x21-\x7e]|%(?![0-9A-Fa-f]{2}|[0-9A-Fa-f]?$)")
_WAY_OUT = "write {{ value | urlencode }} where it is sent, or end it in | safe"


def guard_form_values(tree: nodes.Template) -> None:
    """Make a template check each value that it writes without `| urlencode`; NULL is written as nothing.

    Raises:
        ValueError: Text of the template cannot be part of a form, or the rule cannot follow where an encoded value
            goes, so that every row would be refused. The error names the line.
    """
    _Form(tree).guard()


class _Form:
    """A template of a form.

    Attributes:
        own: The names of variables that contain only form text.
    """

    def __init__(self, tree: nodes.Template) -> None:
        self._tree = tree
        self._macros, self._joiners = find_safe_names(tree)
        self._encodes = [node for node in tree.find_all(nodes.Filter) if node.name == _ENCODE]
        self._encoded_later = _list_encoded_blocks(tree, self._encodes)
        # Output inside these blocks is encoded as a whole.
        self._raw: list[nodes.Node] = [*self._encoded_later, *_list_encoding_blocks(tree)]
        self.own: set[str] = set()
        self._find_own()

    def guard(self) -> None:
        """Guard everything that the template writes."""
        followed = list(self._list_own_assignments())
        for output in _list_outputs(self._tree, self._raw):
            followed += output.nodes
            output.nodes = [self._guard_written(expression) for expression in output.nodes]
        self._refuse_lost(followed)
        for encode in self._encodes:
            if encode.node is not None:
                encode.node = _filter(encode.node, _NULL)

    def _refuse_lost(self, followed: Iterable[nodes.Node]) -> None:
        """Refuse a value that is encoded and then kept in a list, an argument or a loop: it would be checked again."""
        if any(node.name == "safe" for node in self._tree.find_all(nodes.Filter)):
            return
        reached = {id(node) for root in followed for node in _walk_encodes(root)}
        passed = [*self._raw, *_list_tests(self._tree)]
        reached |= {id(node) for part in passed for node in [part, *part.find_all(nodes.Filter)]}
        for encode in self._encodes:
            if id(encode) not in reached:
                raise ValueError(
                    f"line {encode.lineno}: syncctl cannot follow what becomes of this | urlencode; {_WAY_OUT}"
                )

    def _find_own(self) -> None:
        """Find the names whose every assignment is form text, directly or through other names."""
        assignments = list(self._tree.find_all(nodes.Assign))
        blocks = list(self._tree.find_all(nodes.AssignBlock))
        targets: list[nodes.Assign | nodes.AssignBlock] = [*assignments, *blocks]
        assigned = {id(node.target) for node in targets}
        others = {
            name.name for name in self._tree.find_all(nodes.Name) if name.ctx != "load" and id(name) not in assigned
        }
        others |= {_name_target(block) for block in self._encoded_later}
        others |= {_name_target(block) for block in blocks if block.filter and block.filter.name != _ENCODE}
        # The names of the record have a value before any assignment.
        others |= {"", *meta.find_undeclared_variables(self._tree)}
        names = {_name_target(node) for node in targets} - others
        while names != self.own:
            self.own = names
            names = names - {_name_target(node) for node in assignments if not self.is_form(node.node)}

    def _list_own_assignments(self) -> Iterator[nodes.Node]:
        for assignment in self._tree.find_all(nodes.Assign):
            if _name_target(assignment) in self.own:
                yield assignment.node

    def is_form(self, expression: nodes.Node | None) -> bool:
        """Tell whether an expression yields nothing but text of the template and encoded values."""
        match expression:
            case None | nodes.TemplateData() | nodes.Const():
                return True
            case nodes.CondExpr():
                return self.is_form(expression.expr1) and self.is_form(expression.expr2)
            case nodes.Or() | nodes.And():
                return self.is_form(expression.left) and self.is_form(expression.right)
            case nodes.Concat():
                return all(map(self.is_form, expression.nodes))
            case nodes.Filter(name="urlencode") if expression.node is not None:
                return True
            case nodes.Filter() if expression.name in _KEEPS_ENCODED:
                values = [expression.node, *expression.args, *(pair.value for pair in expression.kwargs)]
                return not (expression.dyn_args or expression.dyn_kwargs) and all(map(self.is_form, values))
            case nodes.Call():
                return writes_own_text(expression, self._macros, self._joiners)
            case nodes.Name():
                return expression.name in self.own
        return False

    def _guard_written(self, expression: nodes.Expr) -> nodes.Expr:
        match expression:
            case nodes.TemplateData(data=str(text)) | nodes.Const(value=str(text)):
                _check_own_text(text, expression.lineno)
            case nodes.CondExpr():
                expression.expr1 = self._guard_written(expression.expr1)
                expression.expr2 = None if expression.expr2 is None else self._guard_written(expression.expr2)
            case nodes.Concat():
                expression.nodes = [self._guard_written(part) for part in expression.nodes]
            case nodes.Filter(name="safe"):
                pass
            case _ if not self.is_form(expression):
                return _filter(expression, _PLAIN)
        return expression


def _name_target(assignment: nodes.Assign | nodes.AssignBlock) -> str:
    """Return the assigned name; empty if there are several, or it is a name within a namespace."""
    return assignment.target.name if isinstance(assignment.target, nodes.Name) else ""


def _list_encoded_blocks(tree: nodes.Template, encodes: list[nodes.Filter]) -> list[nodes.AssignBlock]:
    """Return the blocks `{% set name %}` whose text is encoded where it is written; values in them are raw.

    Raises:
        ValueError: One of them is also written without encoding.
    """
    values = [encode.node for encode in encodes if encode.node is not None]
    encoded = {id(name): name.name for value in values for name in _list_names(value)}
    tests = {id(name) for test in _list_tests(tree) for name in _list_names(test)}
    blocks = []
    for block in tree.find_all(nodes.AssignBlock):
        name = _name_target(block)
        if name not in encoded.values():
            continue
        blocks.append(block)
        for use in tree.find_all(nodes.Name):
            if use.name == name and use.ctx == "load" and id(use) not in encoded.keys() | tests:
                raise ValueError(f"line {use.lineno}: {name} is written with | urlencode and without; use two names")
    return blocks


def _list_names(expression: nodes.Node) -> list[nodes.Name]:
    return [expression] if isinstance(expression, nodes.Name) else list(expression.find_all(nodes.Name))


def _list_tests(tree: nodes.Template) -> Iterator[nodes.Node]:
    """Yield the conditions of a template, which write nothing."""
    yield from (node.test for node in tree.find_all(nodes.If))
    yield from (node.test for node in tree.find_all(nodes.CondExpr))


def _list_encoding_blocks(tree: nodes.Template) -> Iterator[nodes.Node]:
    """Yield the blocks `{% filter urlencode %}` and `{% set name | urlencode %}`."""
    yield from (block for block in tree.find_all(nodes.FilterBlock) if block.filter.name == _ENCODE)
    yield from (block for block in tree.find_all(nodes.AssignBlock) if block.filter and block.filter.name == _ENCODE)


def _list_outputs(node: nodes.Node, raw: list[nodes.Node]) -> Iterator[nodes.Output]:
    """Yield the outputs of a template outside of these blocks."""
    for child in node.iter_child_nodes():
        if any(child is block for block in raw):
            continue
        if isinstance(child, nodes.Output):
            yield child
        yield from _list_outputs(child, raw)


def _walk_encodes(expression: nodes.Node) -> Iterator[nodes.Filter]:
    """Yield the `urlencode` filters of an expression whose results it leaves unchanged."""
    match expression:
        case nodes.Filter(name="urlencode"):
            yield expression
        case nodes.Filter() if expression.name in _KEEPS_ENCODED and expression.node is not None:
            for part in [expression.node, *expression.args, *(pair.value for pair in expression.kwargs)]:
                yield from _walk_encodes(part)
        case nodes.CondExpr() | nodes.Or() | nodes.And() | nodes.Concat():
            for child in expression.iter_child_nodes():
                yield from _walk_encodes(child)


def _filter(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _check_own_text(text: str, line: int) -> None:
    match = _NOT_IN_A_FORM.search(text)
    if match is not None:
        line += text.count("\n", 0, match.start())
        raise ValueError(f"line {line}: the text holds U+{ord(match[0]):04X}, which must be percent-encoded in a form")


def _check_value(value: Any) -> Any:
    sign = _SIGNS.search(value) if isinstance(value, str) else None
    if sign is not None:
        raise TypeError(
            f"a value holds U+{ord(sign[0]):04X}, which has a meaning of its own in a form; write it with | urlencode"
        )
    return value


def _write_null(value: Any) -> Any:
    """Return the value to encode, with nothing in place of NULL, also among the columns of a row."""
    if isinstance(value, Mapping):
        # An object nested in another one has no text form, and raises an error when it is encoded.
        return {name: inner if isinstance(inner, Fields) else _write_null(inner) for name, inner in value.items()}
    if isinstance(value, Items) and any(isinstance(inner, Fields) for inner in value):
        raise TypeError("a list of objects cannot be sent in a form; encode its values one by one")
    return "" if value is None else value


FORM_FILTERS: Mapping[str, Callable[[Any], Any]] = {_PLAIN: _check_value, _NULL: _write_null}
