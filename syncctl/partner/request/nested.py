"""Lists and objects of a row as a template sees them: parts of a JSON document, and rows of other tables."""

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from syncctl.core.json_text import JsonText
from syncctl.partner.request.quota import Quota, QuotaExceeded

VALUES_AT_MOST = 250_000
"""How many values a document may have if a template looks into it; to be written with `| json`, it is not parsed."""
_NESTED = frozenset({list, dict, JsonText})


class Items(list[Any]):
    """A list in a row. It has no text form: a template writes it with `| json`."""

    __slots__ = ()

    def __repr__(self) -> NoReturn:
        raise TypeError("a list cannot be written as text; write it with | json or | join")

    __str__ = __repr__


class Fields(dict[str, Any]):
    """An object in a row: `customer.items` is the field of that name if there is one, otherwise a method."""

    __slots__ = ()

    def __repr__(self) -> NoReturn:
        raise TypeError("an object cannot be written as text; write it with | json or | join")

    __str__ = __repr__


class Columns(dict[str, Any]):
    """Columns of a record: `row.name` and `row["name"]` are values, never a dictionary's methods.

    A document is parsed when a template first looks into its column.
    """

    __slots__ = ("_quota",)

    def __init__(self, values: Mapping[str, Any], quota: Quota) -> None:
        super().__init__(values)
        self._quota = quota

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if type(value) in _NESTED:
            value = open_value(value, self._quota)
            super().__setitem__(name, value)
        return value

    def items(self) -> Any:
        """Return names and values, as a template sees them."""
        return {name: self[name] for name in self}.items()

    def values(self) -> Any:
        """Return the values, as a template sees them."""
        return [self[name] for name in self]

    def find_stored(self, name: str) -> Any:
        """Return a value as the record stores it."""
        return super().__getitem__(name)

    def list_stored(self) -> Iterator[tuple[str, Any]]:
        """Yield names and values as the record stores them."""
        return iter(super().items())


def open_value(value: Any, quota: Quota) -> Any:
    """Return a list or an object as a template sees it; other values unchanged.

    Raises:
        QuotaExceeded: The list or the object has too many values.
    """
    if isinstance(value, JsonText):
        return _open_document(value, quota)
    if isinstance(value, list):
        quota.take_values(len(value))
        return Items([open_value(inner, quota) if type(inner) in _NESTED else inner for inner in value])
    if isinstance(value, dict):
        quota.take_values(len(value))
        return Fields(
            {name: open_value(inner, quota) if type(inner) in _NESTED else inner for name, inner in value.items()}
        )
    return value


def _open_document(document: JsonText, quota: Quota) -> Any:
    # Counted before parsing: every value but the first follows one of these characters.
    if sum(map(document.text.count, ",[{")) > VALUES_AT_MOST:
        raise QuotaExceeded(f"it looks into a document of more than {VALUES_AT_MOST:,} commas and brackets")
    value = document.parse()
    if isinstance(value, JsonText):
        # This is a number that is too large to compute with.
        return value
    return open_value(value, quota)
