"""Mode flag: the statements that tell the source how its rows ended, and their results."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from syncctl.core.rows import Value

Ending = Literal["delivered", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """The note that a statement is about to be committed; a process that then died may or may not have done so."""

    #: The version that the row has once the statement is committed; None if that is not known.
    version_after: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Acknowledgement:
    """A finished record that the source has to be told of."""

    id: str
    key_id: str
    key: Mapping[str, Value]
    #: The content of the row as it was read.
    hash: str
    #: The version that was read (`Row.acknowledge`).
    version: str
    ending: Ending
    #: An earlier statement was about to be committed, and its result is not known; else None.
    begun: Begun | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Acknowledged:
    """The result of the statement for one record."""

    id: str
    #: How many rows the statement changed: 0 if the row was edited since; None if the database does not tell.
    rows: int | None = 0
    #: The version that the row has afterwards; None if it was not changed, or cannot be found any more.
    version_after: str | None = None
    error: str | None = None
    #: The row was written to since it was read, and holds the same content: the version to test instead.
    new_version: str | None = None
