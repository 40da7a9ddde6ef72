"""What mode flag tells the source of a row, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from syncctl.core.rows import Value

Ending = Literal["delivered", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Acknowledgement:
    """One row to be told of: its key, the version that was read (`Row.acknowledge`), and how it ended."""

    id: str
    key: Mapping[str, Value]
    version: str
    ending: Ending


@dataclass(frozen=True, kw_only=True, slots=True)
class Acknowledged:
    """What became of it.

    Args:
        rows: How many rows the statement changed: none where the row was edited since; None where it does not tell.
    """

    id: str
    rows: int | None = 0
    error: str | None = None
