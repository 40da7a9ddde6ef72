"""Whether rows are there: asked by key, many at once."""

from collections.abc import Mapping, Sequence

from syncctl.core.rows import Row, Value
from syncctl.errors import SourceError
from syncctl.sources.modes.reading import Reading
from syncctl.sources.pages import Found

Key = Mapping[str, Value]
PARAMETERS_AT_MOST = 1000
"""In one statement; SQL Server takes 2,100."""


def find_rows(reading: Reading, keys: Sequence[Key]) -> list[Row]:
    """Return the rows that have one of these keys now; a key that is no value of its column is no row's."""
    rows: list[Row] = []
    size = max(1, PARAMETERS_AT_MOST // len(reading.layout.key))
    for start in range(0, len(keys), size):
        rows += (each.row for each in _find(reading, keys[start : start + size]))
    return rows


def find_missing(reading: Reading, keys: Sequence[Key]) -> list[Key]:
    """Return the keys that no row has.

    The database compares texts in its own way, so one that did not come back in the same spelling is asked for alone.
    """
    there = {_spell(row.key) for row in find_rows(reading, keys)}
    return [key for key in keys if _spell(key) not in there and not _is_there(reading, key)]


def _is_there(reading: Reading, key: Key) -> bool:
    return bool(_find(reading, [key]))


def _find(reading: Reading, keys: Sequence[Key]) -> list[Found]:
    try:
        return reading.ask(lambda connection: reading.pages.find(connection, keys))
    except (ValueError, KeyError) as error:
        raise SourceError(
            f"stream {reading.stream.name} cannot look for rows by their key",
            why=f"the ledger knows keys that are none of this table: {error}",
            hint=f"was streams.{reading.stream.name}.key changed? Read it under a new stream name",
        ) from error


def _spell(key: Key) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, repr(value)) for name, value in key.items()))
