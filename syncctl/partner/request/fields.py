"""Fields: the JSON of a record by the stream's mapping: selected, renamed, nested, with constants."""

from collections.abc import Mapping, Sequence
from typing import Any

from syncctl.core.mapping import REST, FieldRule, Target
from syncctl.core.records import Record
from syncctl.core.rows import Value
from syncctl.core.stream import Decimals
from syncctl.partner.call import Unsendable
from syncctl.partner.encoding import choose_values, encode_values, show_values


class FieldMap:
    """The mapping of one stream, ready to be applied. The order of the rules is that of the JSON."""

    def __init__(self, rules: Sequence[FieldRule], decimals: Decimals) -> None:
        self._rules = tuple(rules)
        self._decimals = decimals
        self._named = {rule.column for rule in rules}

    def encode(self, record: Record) -> bytes:
        """Return the JSON of a record. Safe to repeat: the same record gives the same bytes.

        A record without a row (a delete) has the columns of its key alone: fields of other columns are left out.

        Raises:
            Unsendable: a column that the row does not have, or a value that JSON has no form for.
        """
        values = show_values(choose_values(record), self._decimals)
        document: dict[str, Any] = {}
        for rule in self._rules:
            if rule.column == REST:
                self._put_rest(document, rule.target, values)
            elif rule.column is None:
                _find_object(document, rule.target[:-1])[rule.target[-1]] = rule.constant
            elif rule.column in values:
                _find_object(document, rule.target[:-1])[rule.target[-1]] = values[rule.column]
            elif record.payload is not None:
                place = ".".join(rule.target)
                raise Unsendable(f"field {place} needs column {rule.column}, which the row does not have")
        return encode_values(document)

    def _put_rest(self, document: dict[str, Any], target: Target, values: Mapping[str, Value]) -> None:
        """Put in what no rule names; where a rule has the same place, the rule counts."""
        own = {rule.target[len(target)] for rule in self._rules if _stands_inside(rule.target, target)}
        inside = _find_object(document, target)
        for column, value in values.items():
            if column not in self._named and column not in own:
                inside[column] = value


def _stands_inside(target: Target, above: Target) -> bool:
    return len(target) > len(above) and target[: len(above)] == above


def _find_object(document: dict[str, Any], path: Target) -> dict[str, Any]:
    """Return the object at a path, made where there is none."""
    for name in path:
        document = document.setdefault(name, {})
    return document
