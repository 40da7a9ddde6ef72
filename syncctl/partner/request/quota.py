"""A template's quota: neither a mistake in it nor a value of a row can fill a worker's memory or use up its time.

Every construct of a template that makes text or a list counts its result, and every loop its rounds (invariants 11 and
14). Constructs that make more than they are given (`*`, `replace`, `join`, a field's width) are counted before they
run. Counting also checks the row's time. So that no single step takes long, there is a bound for all values nested in a
list (comparing or hashing sixty nested pairs would never end), and one for the text given to slow filters.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import Context, LoopContext, Macro, markup_join, str_join
from jinja2.tests import TESTS
from jinja2.visitor import NodeTransformer

from syncctl.partner.request.row_time import row_time

TEXT_AT_MOST = 16 * 1024 * 1024
"""The most characters that a template writes."""
MADE_AT_MOST = 4 * TEXT_AT_MOST
"""The most characters that a template makes in intermediate results."""
ROUNDS_AT_MOST = 100_000
"""The most rounds of all loops of a template, plus calls of its macros."""
ELEMENTS_AT_MOST = 100_000
"""The most values in one list, including nested ones; each thousand characters of a long text add one."""
DEPTH_AT_MOST = 100
"""The deepest nesting of lists."""
SLOW_TEXT_AT_MOST = 1024 * 1024
"""The most characters in a text for a filter that processes them one by one in Python."""
QUOTA = "_quota"
"""The name of a rendering's quota among its variables; a template that names it is refused."""

# The quota's own filters. A template cannot name them, because a name in a template has no blank.
_COUNTED, _JOINED, _ROUNDS, _PLAIN = "count text", "join texts", "count rounds", "plain "
_TICKS = 64
"""The clock is read each time this many values have been counted."""
_SLOW_FILTERS = frozenset({"title", "urlencode", "wordcount"})

_CHARACTERS_OF_AN_ELEMENT = 8
_TEXT_OF_AN_ELEMENT = 1000
"""How many characters of text take as long to compare as one value in a list."""
_CHARACTERS_OF_A_VALUE = 64
"""The size at which a value that is not text is counted, for its memory, even if it is written as 1."""
_BITS_AT_MOST = 10_000
_PRECISION_AT_MOST = 100
_WIDTH_AT_MOST = 999
_TOO_WIDE = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(?:\*|\d{4,}|\d*\.(?:\*|\d{4,}))")
_PADDING = frozenset({"center", "ljust", "rjust", "zfill"})
_SPLITTING = frozenset({"split", "rsplit", "splitlines"})
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_TEXT_FILTERS = frozenset(
    {"capitalize", "e", "escape", "lower", "safe", "string", "title", "trim", "truncate", "upper", "urlencode"}
)


class QuotaExceeded(SecurityError):
    """A template would exceed its quota."""


class Quota:
    """The remaining quota of one rendering."""

    def __init__(self) -> None:
        self._characters = MADE_AT_MOST
        self._rounds = ROUNDS_AT_MOST
        self._ticks = 0
        # Lists that contain lists, each with its number of elements and its depth. Keeping them keeps their ids unique.
        self._nested: dict[int, tuple[Any, int, int]] = {}

    def take(self, characters: int) -> None:
        """Count text that is about to be made.

        Raises:
            QuotaExceeded: the text is longer than the remaining quota.
        """
        self._characters -= max(0, characters)
        if self._characters < 0:
            raise QuotaExceeded(f"it makes more than {MADE_AT_MOST:,} characters of text and lists")
        self._ticks += 1
        if self._ticks >= _TICKS or characters > SLOW_TEXT_AT_MOST:
            self._ticks = 0
            row_time.check()

    def weigh(self, value: Any) -> tuple[int, int]:
        """Return how many elements a list or an object has, including nested ones, and how deep it is.

        Raises:
            QuotaExceeded: it has too many elements, or is too deep.
        """
        if not isinstance(value, list | tuple | dict):
            return 0, 0
        if (known := self._nested.get(id(value))) is not None:
            return known[1], known[2]
        inner = value if isinstance(value, list | tuple) else [*value.keys(), *value.values()]
        elements, depth = len(inner) + sum(_count_as(text) for text in inner if isinstance(text, str)), 1
        self._check_weight(elements, depth)
        if any(isinstance(element, list | tuple | dict) for element in inner):
            for element in inner:
                more, below = self.weigh(element)
                elements += more
                depth = max(depth, below + 1)
                self._check_weight(elements, depth)
            self._nested[id(value)] = (value, elements, depth)
        return elements, depth

    @staticmethod
    def _check_weight(elements: int, depth: int) -> None:
        if elements > ELEMENTS_AT_MOST:
            raise QuotaExceeded(f"it makes a list of more than {ELEMENTS_AT_MOST:,} values, or of texts that large")
        if depth > DEPTH_AT_MOST:
            raise QuotaExceeded(f"it makes lists that are nested more than {DEPTH_AT_MOST} times")

    def take_result(self, result: Any) -> None:
        """Count a text or a list that has been made."""
        if isinstance(result, str | list | tuple):
            self.take(_size(result))
        self.weigh(result)

    def take_value(self, value: Any) -> None:
        """Count the text of a single value."""
        if isinstance(value, str):
            self.take(len(value))
        else:
            self.take(_CHARACTERS_OF_A_VALUE + (value.bit_length() // 3 if isinstance(value, int) else 0))

    def take_text_of(self, *values: Any) -> int:
        """Count the text of values, including those in lists and objects; return the number of characters counted."""
        before = self._characters
        for value in values:
            self.take_value(value)
            if isinstance(value, Mapping):
                self.take_text_of(*value.keys(), *value.values())
            elif isinstance(value, list | tuple):
                self.take_text_of(*value)
        return before - self._characters

    def take_values(self, values: int) -> None:
        """Count the values of a list or an object of the row, when a template looks into it."""
        self.take(values * _CHARACTERS_OF_AN_ELEMENT)

    def take_round(self) -> None:
        """Count a round of a loop, or a call of a macro."""
        self._rounds -= 1
        if self._rounds < 0:
            raise QuotaExceeded(f"it loops more than {ROUNDS_AT_MOST:,} times")
        row_time.check()

    def count_rounds(self, values: Iterable[Any]) -> Iterator[Any]:
        """Yield the values of a loop as long as rounds are left."""
        for value in values:
            self.take_round()
            yield value

    def check_operator(self, operator: str, left: Any, right: Any) -> None:
        """Count the result that an operator is about to make."""
        match operator:
            case "*":
                self._take_product(left, right)
                self._take_product(right, left)
            case "**" if isinstance(left, int) and isinstance(right, int):
                _check_bits(left.bit_length() * right)
            case "+" if isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
                self.take(_size(left) + _size(right))
                self._check_weight(self.weigh(left)[0] + self.weigh(right)[0], 1)
            case "%" if isinstance(left, str):
                self.check_format(left, right)

    def _take_product(self, value: Any, times: Any) -> None:
        if not isinstance(times, int):
            return
        if isinstance(value, str | list | tuple):
            self.take(_size(value) * times)
            self._check_weight(self.weigh(value)[0] * times, 1)
        elif isinstance(value, int):
            _check_bits(value.bit_length() + times.bit_length())

    def check_format(self, text: Any, /, *values: Any, **named: Any) -> None:
        """Count the text that `text % values` is about to make."""
        text = str(text)
        if _TOO_WIDE.search(text):
            raise QuotaExceeded(f"it makes a field of more than {_WIDTH_AT_MOST} characters")
        self.take(len(text) + text.count("%") * (_WIDTH_AT_MOST + self.take_text_of(*values, *named.values())))

    def check_replace(self, text: Any, /, old: Any, new: Any, *_: Any, **__: Any) -> None:
        """Count the text that `replace` is about to make."""
        self.take_text_of(text)
        self.take(str(text).count(str(old)) * len(str(new)))

    def check_join(self, values: Any, separator: Any = "", /, *_: Any, **named: Any) -> None:
        """Count the text that `join` is about to make."""
        self.take(len(values) * len(str(named.get("d", separator))))
        self.take_text_of(*values)

    def check_call(self, function: Any, *values: Any) -> None:
        """Count the result that a call of a text's method or a macro is about to make."""
        self.weigh(values)
        if isinstance(function, Macro):
            self.take_round()
        text = getattr(function, "__self__", None)
        if isinstance(text, str) and function.__name__ in _PADDING:
            self.take(sum(abs(value) for value in values if isinstance(value, int)))
        elif isinstance(text, str) and function.__name__ == "replace":
            self.check_replace(text, *values)
        elif isinstance(text, str) and function.__name__ in _SPLITTING:
            self._check_split(text, function.__name__, *values)

    def _check_split(self, text: str, method: str, *values: Any) -> None:
        """Count the parts of a text before each of them becomes a value."""
        if method == "splitlines":
            parts = sum(map(text.count, _LINE_ENDS))
        else:
            separator = next((value for value in values if isinstance(value, str) and value), None)
            at_most = next((value for value in values if isinstance(value, int) and value >= 0), ELEMENTS_AT_MOST)
            parts = len(text.split(separator, min(at_most, ELEMENTS_AT_MOST)))
        self._check_weight(parts, 1)


def _size(value: str | list[Any] | tuple[Any, ...]) -> int:
    return len(value) if isinstance(value, str) else len(value) * _CHARACTERS_OF_AN_ELEMENT


def _count_as(text: str) -> int:
    """Return how many extra values a text in a list adds to the count: lists of long texts take longer to compare."""
    return len(text) // _TEXT_OF_AN_ELEMENT


def _check_bits(bits: int) -> None:
    if bits > _BITS_AT_MOST:
        raise QuotaExceeded(f"it makes a number of more than {_BITS_AT_MOST:,} bits")


def _check_round(_quota: Quota, _value: Any, /, precision: int = 0, *_: Any, **__: Any) -> None:
    if abs(precision) > _PRECISION_AT_MOST:
        raise QuotaExceeded(f"it rounds to more than {_PRECISION_AT_MOST} places")


def _check_sum(_quota: Quota, _value: Any, _attribute: Any = None, /, start: Any = 0, **_: Any) -> None:
    if isinstance(start, list | tuple):
        raise TypeError("sum adds numbers, not lists")


def _check_text(quota: Quota, value: Any, /, *_: Any, **__: Any) -> None:
    """Count a value from which a filter makes text."""
    quota.take_text_of(value)


def _check_characters(quota: Quota, value: Any, /, *_: Any, **__: Any) -> None:
    """Count a text that a filter splits into its characters."""
    if isinstance(value, str):
        quota.take(len(value) * _CHARACTERS_OF_AN_ELEMENT)


_CHECKS: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(_TEXT_FILTERS, _check_text),
    "format": Quota.check_format,
    "replace": Quota.check_replace,
    "join": Quota.check_join,
    "round": _check_round,
    "sum": _check_sum,
}


def find_quota(context: Context) -> Quota:
    """Return the quota of a rendering."""
    quota: Quota = context.parent[QUOTA]
    return quota


def make_filters(names: Iterable[str]) -> dict[str, Callable[..., Any]]:
    """Return filters of Jinja2, each of which counts its result, and the quota's own filters."""
    filters: dict[str, Callable[..., Any]] = {_COUNTED: _count, _JOINED: _join, _ROUNDS: _count_rounds}
    for name in names:
        filters[name] = _make_counted(name)
        filters[_PLAIN + name] = FILTERS[name]
    return filters


def _make_counted(name: str) -> Callable[..., Any]:
    check: Callable[..., Any] = _CHECKS.get(name, _check_characters)

    @pass_context
    def counted(context: Context, value: Any, /, *args: Any, **kwargs: Any) -> Any:
        quota = find_quota(context)
        row_time.check()
        if name in _SLOW_FILTERS and quota.take_text_of(value) > SLOW_TEXT_AT_MOST:
            raise QuotaExceeded(f"it makes {name} of more than {SLOW_TEXT_AT_MOST:,} characters")
        if name == "join":
            _check_characters(quota, value)
            value = list(value)
        check(quota, value, *args, **kwargs)
        result = context.environment.call_filter(_PLAIN + name, value, args, kwargs, context=context)
        if isinstance(result, list):
            quota.take_result(result)
        return result

    return counted


def make_tests() -> dict[str, Any]:
    """Return the tests of Jinja2, each of which checks the row's time: `select` calls a test for each value."""
    return {name: _make_timed(test) for name, test in TESTS.items()}


def _make_timed(test: Any) -> Any:
    if hasattr(test, "jinja_pass_arg"):
        return test

    def timed(*values: Any, **named: Any) -> Any:
        row_time.check()
        return test(*values, **named)

    return timed


@pass_context
def _count(context: Context, value: Any) -> Any:
    find_quota(context).take_result(value)
    return value


@pass_context
def _join(context: Context, values: list[Any]) -> str:
    find_quota(context).take_text_of(*values)
    return markup_join(values) if context.eval_ctx.autoescape else str_join(values)


@pass_context
def _count_rounds(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    return find_quota(context).count_rounds(values)


def call_counted(context: Context, call: Callable[..., Any], function: Any, args: Any, kwargs: Any) -> Any:
    """Make a call of a template, count its result, and return it."""
    quota = find_quota(context)
    if isinstance(function, LoopContext):
        # This is the next level of a recursive loop.
        values = kwargs.pop("iterable") if "iterable" in kwargs else args[0]
        args = [quota.count_rounds(values)]
    else:
        quota.check_call(function, *args, *kwargs.values())
    result = call(context, function, *args, **kwargs)
    quota.take_result(result)
    return result


def count_tree(tree: nodes.Template) -> nodes.Template:
    """Return a template whose loops, `~`, slices and set blocks are counted. The text that it writes stays the same."""
    counted: nodes.Template = _Counter().visit(tree)
    counted.set_environment(tree.environment)  # type: ignore[arg-type]
    return counted


class _Counter(NodeTransformer):
    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - the name of the node
        self.generic_visit(node)
        node.iter = _filter(_ROUNDS, cast("nodes.Expr", node.iter), node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filter(_JOINED, nodes.List(node.nodes, lineno=node.lineno), node.lineno)

    def visit_List(self, node: nodes.List) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _filter(_COUNTED, node, node.lineno)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _filter(_COUNTED, node, node.lineno) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _filter(_COUNTED, node, node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _filter(_COUNTED, node, node.lineno) if isinstance(node.arg, nodes.Slice) else node

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.AssignBlock:  # noqa: N802
        self.generic_visit(node)
        # A filter without a value applies to the text of the block.
        node.filter = _filter(_COUNTED, node.filter, node.lineno)
        return node


def _filter(name: str, value: nodes.Expr | None, line: int) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=line)
