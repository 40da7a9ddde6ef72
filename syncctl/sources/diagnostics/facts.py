"""Facts about a source, as values without judgement."""

from dataclasses import dataclass

from syncctl.sources.encryption import Encryption


@dataclass(frozen=True, kw_only=True, slots=True)
class Unseen:
    """What the login may not see, or the server does not tell. `grant` would show it; empty where no right would."""

    why: str
    grant: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """The database server. `is_old`: older than what syncctl is written for."""

    title: str
    driver: str
    is_old: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """The way to the server: what the server says of this connection, and what its connection string asks for."""

    is_encrypted: bool | Unseen
    asked: Encryption


@dataclass(frozen=True, kw_only=True, slots=True)
class Isolation:
    """How readers and writers of a database meet. `allows_snapshots`: ALLOW_SNAPSHOT_ISOLATION."""

    database: str
    reads_versions: bool
    allows_snapshots: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """Whether this is the copy that is written to. `is_frozen`: the database itself is read-only."""

    database: str
    is_secondary: bool
    is_frozen: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenTransaction:
    """A transaction that has written and not ended. `began` is by the server's own clock."""

    age_seconds: float
    began: str
    session: int | None = None
    login: str = ""
    host: str = ""
    program: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transactions:
    """What holds rowversions back.

    Args:
        held_back: How many rowversions were given out from the lowest one on that is not committed; 0: none.
        oldest: The oldest transaction that has written in this database; None: there is none.
    """

    held_back: int
    oldest: OpenTransaction | Unseen | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rights:
    """What a login may not do with a table. `grants` are the statements that allow it."""

    table: str
    user: str
    grants: tuple[str, ...]
    is_visible: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Indexed:
    """Whether an index begins with a column.

    Args:
        is_served: None where it cannot be told; `why` says why not.
        rows: None where only a scan would tell.
        create: The statement that makes one.
    """

    is_served: bool | None
    rows: int | None = None
    create: str = ""
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracking:
    """Change tracking of a table.

    Args:
        retention_seconds: None: changes are kept for ever.
        oldest: The version since which the table's changes are known.
    """

    database: str
    table: str
    is_on: bool
    retention_seconds: float | None
    oldest: int | Unseen
