"""Mode flag: the statements that tell the source how its rows ended, and their results."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from syncctl.core.rows import Value

Ending = Literal["delivered", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Acknowledgement:
    """A finished record that the source has to be told of."""

    id: str
    key: Mapping[str, Value]
    #: The version that was read (`Row.acknowledge`).
    version: str
    ending: Ending


@dataclass(frozen=True, kw_only=True, slots=True)
class Acknowledged:
    """The result of the statement for one record."""

    id: str
    #: How many rows the statement changed: 0 if the row was edited since; None if the database does not tell.
    rows: int | None = 0
    error: str | None = None
