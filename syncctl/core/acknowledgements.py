"""Mode flag: the statements that report to the source how its rows ended, and their results."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from syncctl.core.rows import Value

Ending = Literal["delivered", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """The note that a statement is about to be committed. If the process then died, it may or may not have been."""

    #: The version that the row has once the statement is committed; None if that is not known.
    version_after: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Acknowledgement:
    """A finished record that has yet to be acknowledged in the source."""

    id: str
    key_id: str
    key: Mapping[str, Value]
    #: The hash of the row's content as it was read.
    hash: str
    #: The version that was read (`Row.acknowledge`).
    version: str
    ending: Ending
    #: The note of an earlier statement whose result is unknown; None if there is none.
    begun: Begun | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Acknowledged:
    """The result of the statement for one record."""

    id: str
    #: How many rows the statement changed: 0 if the row was edited since; None if the database does not report it.
    rows: int | None = 0
    #: The version that the row has afterwards; None if it was not changed, or cannot be found any more.
    version_after: str | None = None
    error: str | None = None
    #: The version to test instead, if the row was written to since it was read and still has the same content.
    new_version: str | None = None
