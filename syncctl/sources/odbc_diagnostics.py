"""What a driver says of an error: SQLSTATE, SQL Server's own number, and whether trying again at once may help.

Numbers: learn.microsoft.com/azure/azure-sql/database/troubleshoot-common-errors-issues (transient faults), and
learn.microsoft.com/sql/relational-databases/errors-events/database-engine-events-and-errors.
"""

import re
from dataclasses import dataclass

from syncctl.core.causes import walk_causes

DEADLOCK = frozenset({1205})
CONFLICT = frozenset({3960})
"""A snapshot transaction met a row that was changed since it began."""
LOCKED = frozenset({1222})
"""A lock timeout that the login or the server sets; syncctl sets none."""
THROTTLED = frozenset({1204, 8645, 8651, 10928, 10929, 40501, 49918, 49919, 49920})
"""Too little memory, too few locks or workers, or more than an Azure database was bought for."""
MOVED = frozenset({615, 983, 4221, 40143, 40197, 40540, 40613})
"""The database changes its server: a failover, an upgrade, another size."""
CUT = frozenset({20, 64, 121, 233, 10053, 10054, 10060})
"""The connection broke; numbers of the network, so they count with a SQLSTATE of connections alone."""
PERMISSION = frozenset({229, 230, 262, 297, 300, 916})

TOO_SLOW = frozenset({"HYT00", "HYT01", "HY008"})
_SERIALIZATION = "40001"
_CUT_STATES = frozenset({"08S01", "08003", "08007", "01002"})
_TRANSIENT = DEADLOCK | CONFLICT | LOCKED | THROTTLED | MOVED
_NUMBER = re.compile(r"\((-?\d+)\)\s*\(SQL")
_LAST_NUMBER = re.compile(r"\((-?\d+)\)\s*$")
_STATE = re.compile(r"[0-9A-Z]{5}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnostic:
    """A driver's error. `numbers` are SQL Server's, the first is the cause; empty where the driver tells none."""

    state: str
    numbers: tuple[int, ...] = ()

    def is_among(self, numbers: frozenset[int]) -> bool:
        """Tell whether one of these numbers was given."""
        return any(number in numbers for number in self.numbers)

    @property
    def is_deadlock(self) -> bool:
        """Tell whether the query was ended to resolve a deadlock."""
        return self.is_among(DEADLOCK) or (self.state == _SERIALIZATION and not self.is_among(CONFLICT))

    @property
    def is_cut(self) -> bool:
        """Tell whether a connection that stood is gone."""
        return self.state in _CUT_STATES or (self.state.startswith("08") and self.is_among(CUT))

    @property
    def is_transient(self) -> bool:
        """Tell whether the same query, on a new connection, may well succeed a moment later."""
        return self.is_deadlock or self.is_cut or self.is_among(_TRANSIENT)


def read_diagnostic(cause: BaseException) -> Diagnostic | None:
    """Return what pyodbc tells: `('40001', '[40001] [Microsoft]...[SQL Server]... (1205) (SQLExecDirectW)')`.

    None where the error is none of a driver.
    """
    state = cause.args[0] if len(cause.args) > 1 else None
    if not isinstance(state, str) or not _STATE.fullmatch(state):
        return None
    text = " ".join(str(cause.args[-1]).split())
    found = _NUMBER.findall(text) or _LAST_NUMBER.findall(text)
    return Diagnostic(state=state, numbers=tuple(int(each) for each in found))


def is_transient(error: BaseException) -> bool:
    """Tell whether trying again at once, on a new connection, may help: a deadlock, throttling, a failover, a cut.

    A query that ran into its timeout is none: the same query would take as long again.

    Args:
        error: A driver's error, SQLAlchemy's around it, or ours that was raised from either.
    """
    return any(found is not None and found.is_transient for found in map(read_diagnostic, walk_causes(error)))
