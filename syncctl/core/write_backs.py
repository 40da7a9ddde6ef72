"""Write-back: the values that a row of the source gets from the outcome of its record."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from syncctl.core.remote_values import REMOTE
from syncctl.core.rows import Value
from syncctl.core.spelling import suggest
from syncctl.core.states import State

PLAIN = ("delivered_at", "error", "record_id", "state")


def check_value_name(name: str) -> str:
    """Return the name of a value that a column can get.

    Raises:
        ValueError: There is no such value.
    """
    if name in PLAIN or name.startswith(REMOTE):
        return name
    raise ValueError(f"{name} is not an outcome; {suggest(name, [*PLAIN, f'{REMOTE}NAME'])}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A record whose outcome has to be written back."""

    id: str
    key_id: str
    key: Mapping[str, Value]
    seq: int
    state: State
    #: When it got its outcome.
    since: datetime
    delivered_at: datetime | None = None
    #: Why it failed, or was discarded.
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteBack:
    """The values that one row gets, by the names that the stream's `write_back` gives them."""

    id: str
    key_id: str
    key: Mapping[str, Value]
    seq: int
    values: Mapping[str, Value | datetime]


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """The result of the statement for one record."""

    id: str
    #: How many rows the statement changed: 0 if the row is gone; None if the database does not tell.
    rows: int | None = None
    error: str | None = None


def choose_values(record: Ended, remote: Mapping[str, Value], wanted: Iterable[str]) -> dict[str, Value | datetime]:
    """Return the values that a row gets from an outcome; a value that is not among them stays as it is in the row.

    A failure leaves the time of the last delivery in place. The partner's values are written once they are known.

    Args:
        remote: The values from the partner's answers, by name.
        wanted: The names of the values that the stream writes.
    """
    plain: dict[str, Value | datetime] = {
        "error": None if record.state is State.DELIVERED else record.error or record.state.value,
        "record_id": record.id,
        "state": record.state.value,
    }
    if record.state is State.DELIVERED and record.delivered_at is not None:
        plain["delivered_at"] = record.delivered_at
    known = plain | {f"{REMOTE}{name}": value for name, value in remote.items()}
    return {name: known[name] for name in wanted if name in known}
