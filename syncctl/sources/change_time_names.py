"""The names by which a column is recognised as the time of the last change, such as `updated_at`."""

import re

from syncctl.sources.catalog.relation import Column, Kind

_CHANGE = r"(?<!ex)(?:updated?|modif(?:y|ied|ication)|changed?)"
_WHEN = r"(?:at|on|date|time|datetime|timestamp|stamp|ts|utc)"
_NAMES_A_CHANGE = re.compile(rf"{_CHANGE}(?:[ _]?{_WHEN})*$|{_WHEN}[ _]?{_CHANGE}$|^mtime$", re.IGNORECASE)
# A text column may contain anything, so its name must speak of a time.
_NAMES_A_TIME = re.compile(rf"{_WHEN}$|{_WHEN}[ _]?{_CHANGE}$", re.IGNORECASE)


def may_be_change_time(column: Column) -> bool:
    """Tell whether a column may be the time of the last change: it has a name such as `updated_at`."""
    if column.kind not in (Kind.TIME, Kind.DATE, Kind.TEXT, Kind.OTHER) or not _NAMES_A_CHANGE.search(column.name):
        return False
    return column.kind in (Kind.TIME, Kind.DATE) or _NAMES_A_TIME.search(column.name) is not None
