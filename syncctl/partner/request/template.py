"""Templates: text made of a record, the same in every process."""

import decimal
import re
import traceback
from typing import Any

from jinja2 import TemplateSyntaxError, meta, nodes
from jinja2.exceptions import SecurityError, UndefinedError

from syncctl.core.records import Record
from syncctl.core.stream import Decimals
from syncctl.partner.call import Unsendable
from syncctl.partner.encoding import choose_values
from syncctl.partner.request.bounds import QUOTA, bound_tree
from syncctl.partner.request.json_rule import check_json_rule
from syncctl.partner.request.limits import TEXT_AT_MOST, Quota, TooMuch
from syncctl.partner.request.sandbox import GLOBALS, Columns, exact, open_sandbox

NAMES = ("row", "key", "op", "stream")
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]{4,}")
_TOLD = (UndefinedError, SecurityError, TypeError, ZeroDivisionError, OverflowError)
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
            _check(tree)
            if is_json:
                check_json_rule(tree)
            self._template = sandbox.from_string(bound_tree(tree))
        except TemplateSyntaxError as error:
            raise ValueError(f"line {error.lineno}: {error.message}") from None
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        except AssertionError as error:
            # Jinja2's compiler loses names, as in {% set a | replace("b", row.c) %}.
            raise ValueError(f"Jinja2 cannot compile it: {error}") from None

    def render(self, record: Record) -> str:
        """Return the text of a record. Safe to repeat: the same record gives the same text.

        Raises:
            Unsendable: A column that is not there, a value that cannot be written so, or more than a call may hold.
        """
        row = Columns(choose_values(record))
        names = {"row": row, "key": Columns(record.key), "op": record.op, "stream": record.stream}
        try:
            with decimal.localcontext(exact):
                text = self._write(names)
        except Exception as error:
            told = str(error) if isinstance(error, _TOLD) else type(error).__name__
            raise Unsendable(f"{self._title}, line {_find_line(error)}: {told}") from error
        if _ADDRESS.search(text) and not any(_ADDRESS.search(str(value)) for value in row.values()):
            raise Unsendable(f"{self._title} writes an object of Python, whose text is another in each process")
        return text

    def _write(self, names: dict[str, Any]) -> str:
        """Return what the template writes, as it is written: what is too long is not made first."""
        parts, left = [], TEXT_AT_MOST
        for part in self._template.generate({**names, QUOTA: Quota()}):
            left -= len(part)
            if left < 0:
                raise TooMuch(f"it writes more than {TEXT_AT_MOST:,} characters")
            parts.append(part)
        return "".join(parts)


def _check(tree: nodes.Template) -> None:
    for elsewhere in tree.find_all(_ELSEWHERE):
        raise ValueError(f"line {elsewhere.lineno}: a template stands alone; it cannot include or import another")
    unknown = sorted(meta.find_undeclared_variables(tree) - {*NAMES, *GLOBALS})
    if unknown:
        raise ValueError(f"there is no {unknown[0]}; a template knows {', '.join(NAMES)}, as in {{{{ row.id }}}}")


def _find_line(error: BaseException) -> int:
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    return lines[-1] if lines else 1
