"""What a source, a partner and a stream are, once the settings are read and checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from syncctl.core.breaker import BreakerRules
from syncctl.core.column_masks import Mask
from syncctl.core.mapping import FieldRule
from syncctl.core.outcome import Verdict

Mode = Literal["rowversion", "increasing", "change_tracking", "flag", "snapshot"]
SCANS: frozenset[Mode] = frozenset({"change_tracking", "flag", "snapshot"})
"""The modes that follow no cursor column: they go through rows in the order of the key."""
Decimals = Literal["number", "string"]
Ambiguous = Literal["retry", "hold"]
Order = Literal["latest", "strict", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A SQL database that is read.

    `url` is an SQLAlchemy URL or a raw ODBC connection string, and a secret.
    """

    name: str
    url: str = field(repr=False)
    login_timeout_seconds: float = 10.0
    query_timeout_seconds: float = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """How a partner knows us: a kind of `partner/auth`, and its settings, which are secrets."""

    kind: str = "none"
    values: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tls:
    """Whom a TLS connection trusts and who we are on it: paths of PEM files, empty where there is none."""

    ca: str = ""
    client_cert: str = ""
    client_key: str = ""
    client_key_password: str = field(default="", repr=False)
    verify: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Partner:
    """An HTTP API that is written to.

    `timeout_seconds` bounds a whole call. `rate` is (calls, seconds) or None. `headers` and `proxy` hold secrets.
    """

    name: str
    url: str
    auth: Credentials = Credentials()
    tls: Tls = Tls()
    proxy: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_seconds: float = 30.0
    rate: tuple[int, float] | None = None
    max_in_flight: int = 32
    breaker: BreakerRules = field(default_factory=BreakerRules)


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrySchedule:
    """When a call that may be repeated is repeated: delays in seconds, and the share they vary by.

    With `give_up_after_seconds` the last delay is repeated until the first try lies so far back; without it, the end of
    the delays is the end.
    """

    delays_seconds: tuple[float, ...]
    jitter: float = 0.2
    give_up_after_seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Batching:
    """How many rows go in one call, and where its answer tells what became of each.

    `under` is the field of the body that holds the rows; None: the body is the list. `key` is the field of a row that
    holds its own `Idempotency-Key`. `results` is the path to the answer's list, `$` where it is the answer itself;
    None: the answer is about all rows alike. `result_key`, `result_status` and `result_accepted_when` are about its
    items; without a `result_key` they stand in the order of the rows.
    """

    size: int = 1
    under: str | None = None
    key: str = "idempotency_key"
    results: str | None = None
    result_key: str | None = None
    result_status: str | None = None
    result_accepted_when: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """A named flow from one table of a source to one endpoint of a partner.

    Exactly one of `table` and `query` is set. `key` empty means: the table's primary key. `mode` and `cursor` None
    mean: the safest the table allows. `start` is `beginning`, `now` or a cursor value as text.
    `columns` empty means all but those of `exclude`. `where` is a condition in SQL.
    `mask` says by column what must not leave the source; `mask_secret` is what hashes are made with.
    `acknowledge` is the statement of mode flag that runs in the source once a row was delivered, `acknowledge_failed`
    the one once it failed for good. `timezone` is the IANA name of the zone that times without an offset are in.
    `outcomes`: what a status means, where not the usual. `accepted_when`: what a 2xx's JSON must say to count.
    `ambiguous`: what becomes of a record that was sent and not answered.
    `strict_hold_seconds`: under order strict, how long a failed version holds the newer ones; None means for ever.
    `method` and `path` are the endpoint; the path may hold `{column}` placeholders. `delete_method` and `delete_path`
    are that of rows that are gone, where they have one of their own; without `sends_deletes` nobody is told of these.
    `fields` empty means: the row as it is. `body` and the values of `headers` are templates. `body_schema` is the path
    of a JSON Schema file.
    """

    name: str
    source: str
    partner: str
    table: str | None = None
    query: str | None = None
    key: tuple[str, ...] = ()
    mode: Mode | None = None
    cursor: str | None = None
    start: str = "beginning"
    lookback_seconds: float = 0.0
    gap_timeout_seconds: float = 3600.0
    columns: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    where: str | None = None
    mask: Mapping[str, Mask] = field(default_factory=dict)
    mask_secret: str = field(default="", repr=False)
    acknowledge: str | None = None
    acknowledge_failed: str | None = None
    max_delete_share: float = 0.5
    decimals: Decimals = "number"
    timezone: str | None = None
    poll_every_seconds: float = 5.0
    page_size: int = 1000
    method: str = "POST"
    path: str = "/"
    delete_method: str | None = None
    delete_path: str = "/"
    sends_deletes: bool = True
    content_type: str | None = None
    fields: tuple[FieldRule, ...] = ()
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body_schema: str | None = None
    order: Order = "latest"
    strict_hold_seconds: float | None = None
    retry: RetrySchedule
    batch_size: int = 100
    batching: Batching = field(default_factory=Batching)
    window: int = 2000
    lease_seconds: float = 300.0
    append_only: bool = False
    outcomes: Mapping[int, Verdict] = field(default_factory=dict)
    accepted_when: str | None = None
    ambiguous: Ambiguous = "retry"
