"""Templates: text made of a record, the same in every process."""

import decimal
import re
import traceback
from collections.abc import Iterator

from jinja2 import TemplateSyntaxError, meta, nodes
from jinja2.exceptions import SecurityError, UndefinedError

from syncctl.core.records import Record
from syncctl.core.stream import Decimals
from syncctl.partner.call import Unsendable
from syncctl.partner.encoding import choose_values
from syncctl.partner.shape.sandbox import GLOBALS, JSON_FILTERS, Columns, exact, open_sandbox

NAMES = ("row", "key", "op", "stream")
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]{4,}")
_TOLD = (UndefinedError, SecurityError, TypeError, ZeroDivisionError)
_ELSEWHERE = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


class TextTemplate:
    """A template of one setting, compiled.

    Args:
        title: What errors call it: `body`, or `header X-Region`.
        is_json: Whether it writes JSON, so that each value must go through `| json`.

    Raises:
        ValueError: It cannot be used; the text says where and why.
    """

    def __init__(
        self, source: str, *, title: str, decimals: Decimals = "number", is_json: bool = False, is_markup: bool = False
    ) -> None:
        self._title = title
        sandbox = open_sandbox(decimals, is_markup=is_markup)
        try:
            tree = sandbox.parse(source)
            self._template = sandbox.from_string(source)
        except TemplateSyntaxError as error:
            raise ValueError(f"line {error.lineno}: {error.message}") from None
        _check(tree, is_json=is_json)

    def render(self, record: Record) -> str:
        """Return the text of a record. Safe to repeat: the same record gives the same text.

        Raises:
            Unsendable: A column that is not there, or a value that cannot be written so.
        """
        row = Columns(choose_values(record))
        try:
            with decimal.localcontext(exact):
                text = self._template.render(row=row, key=Columns(record.key), op=record.op, stream=record.stream)
        except Exception as error:
            told = str(error) if isinstance(error, _TOLD) else type(error).__name__
            raise Unsendable(f"{self._title}, line {_find_line(error)}: {told}") from error
        if _ADDRESS.search(text) and not any(_ADDRESS.search(str(value)) for value in row.values()):
            raise Unsendable(f"{self._title} writes an object of Python, whose text is another in each process")
        return text


def _check(tree: nodes.Template, *, is_json: bool) -> None:
    for elsewhere in tree.find_all(_ELSEWHERE):
        raise ValueError(f"line {elsewhere.lineno}: a template stands alone; it cannot include or import another")
    unknown = sorted(meta.find_undeclared_variables(tree) - {*NAMES, *GLOBALS})
    if unknown:
        raise ValueError(f"there is no {unknown[0]}; a template knows {', '.join(NAMES)}, as in {{{{ row.id }}}}")
    if is_json:
        for each in _list_written(tree):
            if not _is_json(each):
                hint = "as in {{ row.name | json }}"
                raise ValueError(f"line {each.lineno}: the body is JSON, so each value must end in | json, {hint}")


def _list_written(tree: nodes.Template) -> Iterator[nodes.Expr]:
    for output in tree.find_all(nodes.Output):
        yield from output.nodes


def _is_json(expression: nodes.Expr | None) -> bool:
    """Tell whether an expression writes JSON, or text of the template itself; a value of the row must be encoded."""
    if isinstance(expression, nodes.CondExpr):
        return _is_json(expression.expr1) and _is_json(expression.expr2)
    if isinstance(expression, nodes.Filter):
        return expression.name in JSON_FILTERS
    if isinstance(expression, nodes.Call):
        return isinstance(expression.node, nodes.Name)
    return expression is None or isinstance(expression, nodes.TemplateData | nodes.Const)


def _find_line(error: BaseException) -> int:
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    return lines[-1] if lines else 1
