"""Sources, partners and streams: the values that the pipeline gets from the settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from syncctl.core.column_masks import Mask
from syncctl.core.mapping import FieldRule
from syncctl.core.outcome import OutcomeRules
from syncctl.core.quiet_hours import QuietHours
from syncctl.core.remote_values import find_remote_names

Mode = Literal["rowversion", "increasing", "change_tracking", "flag", "snapshot"]
SCANS: frozenset[Mode] = frozenset({"change_tracking", "flag", "snapshot"})
"""The modes without a cursor column: they read rows in the order of the key."""
CHANGE_TRACKING = "change_tracking"
"""The `cursor` of a child that is followed by the change tracking of its table."""
Decimals = Literal["number", "string"]
Ambiguous = Literal["retry", "fail"]
Order = Literal["latest", "strict", "none"]
Missing = Literal["fail", "create"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A SQL database that is read."""

    name: str
    #: An SQLAlchemy URL or an ODBC connection string; a secret.
    url: str = field(repr=False)
    login_timeout_seconds: float = 10.0
    query_timeout_seconds: float = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """How syncctl authenticates to a partner."""

    #: A kind of `partner/auth`.
    kind: str = "none"
    #: The settings of this kind, by key; secrets.
    values: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tls:
    """The TLS connections to a partner: paths of PEM files, empty if there is none."""

    #: The only certificate authorities to trust.
    ca: str = ""
    client_cert: str = ""
    #: Empty: in `client_cert`.
    client_key: str = ""
    client_key_password: str = field(default="", repr=False)
    verify: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakerRules:
    """When the breaker opens, and when it lets a probe through."""

    #: Minimum calls within a minute before the failure rate is judged.
    minimum_calls: int = 10
    #: The share of those calls that must have failed: without an answer, or with a 5xx.
    failure_rate: float = 0.7
    #: How long the breaker stays open before the first probe; doubles after each probe that fails.
    open_seconds: float = 30.0
    #: The limit of that doubling.
    longest_open_seconds: float = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Partner:
    """An HTTP API that is written to."""

    name: str
    #: The base of each stream's path.
    url: str
    auth: Credentials = Credentials()
    tls: Tls = Tls()
    #: The URL of an HTTP proxy, empty if there is none; may hold a password.
    proxy: str = field(default="", repr=False)
    #: Headers of every call; their values are secrets.
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: The deadline of a whole call.
    timeout_seconds: float = 30.0
    #: Calls, and the seconds in which all workers together may make them; None: no limit.
    rate: tuple[int, float] | None = None
    #: Concurrent calls of all workers together; None: as many as the partner keeps up with.
    max_in_flight: int | None = None
    breaker: BreakerRules = field(default_factory=BreakerRules)
    #: Its place in the settings, if not under `partners`.
    section: str = ""

    @property
    def settings_key(self) -> str:
        """The beginning of the keys that errors name."""
        return self.section or f"partners.{self.name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrySchedule:
    """When a call that may be repeated is repeated."""

    delays_seconds: tuple[float, ...]
    #: The share by which a delay varies at random.
    jitter: float = 0.2
    #: Repeat the last delay until this long after the first try; None: stop at the end of the delays.
    give_up_after_seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Batching:
    """How many rows are sent in one call, and where its answer has the result of each."""

    size: int = 1
    #: The field of the body that holds the rows; None: the body is the list.
    under: str | None = None
    #: The field of a row that holds its `Idempotency-Key`.
    key: str = "idempotency_key"
    #: The path to the answer's list of results, `$` for the answer itself; None: one result for all rows.
    results: str | None = None
    #: The path in a result to the key of its row; None: results are in the order of the rows.
    result_key: str | None = None
    #: The path in a result to a status like those of HTTP.
    result_status: str | None = None
    #: The condition on a result for its row to be accepted.
    result_accepted_when: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """Rows of another table that belong to a row and are sent in one of its fields: the lines of an order."""

    #: The field of the row that holds them.
    name: str
    #: Either `table` or `query` is set.
    table: str | None = None
    query: str | None = None
    #: Column of the child, column of the row: the values that belong together.
    on: tuple[tuple[str, str], ...]
    #: Empty: all columns but those of `on` and of `exclude`.
    columns: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    #: A condition in SQL.
    where: str | None = None
    #: The columns that order the rows of one parent.
    sort: tuple[str, ...] = ()
    #: An object, or null, in place of a list; a second row fails the record.
    one: bool = False
    #: More rows of one parent fail its record.
    max_rows: int = 10_000
    #: The column that orders changes, or `change_tracking`; None: a change of a child alone is not noticed.
    cursor: str | None = None
    #: How the values of a column are masked before they leave the source.
    mask: Mapping[str, Mask] = field(default_factory=dict)
    #: Columns whose text is JSON.
    json_columns: tuple[str, ...] = ()
    children: "tuple[Child, ...]" = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Lookup:
    """How the partner is asked whether it has an object for a row."""

    #: May hold `{column}` placeholders.
    path: str
    #: Where the object's values stand in the answer, by name.
    capture: Mapping[str, str]
    #: Doubt: after a call that may have created it. Always: before a first create too.
    when: Literal["doubt", "always"] = "doubt"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """A named flow from one table of a source to one endpoint of a partner."""

    name: str
    source: str
    partner: str

    #: Either `table` or `query` is set.
    table: str | None = None
    query: str | None = None
    #: Empty: the table's primary key.
    key: tuple[str, ...] = ()
    #: None: the safest mode that the table allows.
    mode: Mode | None = None
    #: None: the column that the mode finds.
    cursor: str | None = None
    #: `beginning`, `now`, or a cursor value as text.
    start: str = "beginning"
    lookback_seconds: float = 0.0
    gap_timeout_seconds: float = 3600.0
    #: Empty: all columns but those of `exclude`.
    columns: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    #: Columns whose text is a JSON document, which is sent as it is.
    json_columns: tuple[str, ...] = ()
    #: A condition in SQL.
    where: str | None = None
    #: How the values of a column are masked before they leave the source.
    mask: Mapping[str, Mask] = field(default_factory=dict)
    #: Rows of other tables that go with each row.
    children: tuple[Child, ...] = ()
    #: The key of the hashes of `mask`.
    mask_secret: str = field(default="", repr=False)
    #: Mode flag: the statement to run in the source after a row was delivered.
    acknowledge: str | None = None
    #: Mode flag: the statement to run in the source after a row has failed for good.
    acknowledge_failed: str | None = None
    #: By column of the row, the value that it gets from the record's outcome: a name from `core/write_backs.py`.
    write_back: Mapping[str, str] = field(default_factory=dict)
    max_delete_share: float = 0.5
    decimals: Decimals = "number"
    #: The IANA name of the time zone of times without an offset.
    timezone: str | None = None
    poll_every_seconds: float = 5.0
    page_size: int = 1000
    #: Text and binary values per page; a page of large rows ends early.
    page_bytes: int = 16 * 1024 * 1024

    method: str = "POST"
    #: May hold `{column}` placeholders.
    path: str = "/"
    #: None: deleted rows are sent to `method` and `path`.
    delete_method: str | None = None
    delete_path: str = "/"
    #: Rows for which the partner has an object are sent there; None: to `method` and `path`, like all others.
    update_method: str | None = None
    update_path: str = "/"
    #: What happens if the partner no longer has the object.
    missing: Missing = "fail"
    #: False: deleted rows are not sent.
    sends_deletes: bool = True
    #: Where values of the partner stand in its accepted answers, by name: `header:NAME`, or a path into the JSON.
    capture: Mapping[str, str] = field(default_factory=dict)
    #: How the partner is asked whether it has an object for a row; None: it is not asked.
    lookup: Lookup | None = None
    content_type: str | None = None
    #: Empty: the row unchanged.
    fields: tuple[FieldRule, ...] = ()
    #: A template in place of `fields`.
    body: str | None = None
    #: Templates, by the names of their headers.
    headers: Mapping[str, str] = field(default_factory=dict)
    #: The path of a JSON Schema file.
    body_schema: str | None = None

    #: Streams whose older due records go first.
    after: tuple[str, ...] = ()
    #: The hours in which nothing is sent; None: there are none.
    quiet_hours: QuietHours | None = None
    order: Order = "latest"
    #: Order strict: how long a failed version holds back newer ones; None: forever.
    strict_hold_seconds: float | None = None
    retry: RetrySchedule
    #: How many times in a row the same refusal, with nothing accepted in between, holds the stream; 0: never.
    pause_after_refusals: int = 20
    batch_size: int = 500
    #: Bytes of rows per batch; a batch of large rows holds fewer records.
    batch_bytes: int = 16 * 1024 * 1024
    batching: Batching = field(default_factory=Batching)
    window: int = 2000
    lease_seconds: float = 15.0
    append_only: bool = False
    #: The stream's own verdicts by status, where they differ from the usual ones.
    outcomes: OutcomeRules = field(default_factory=OutcomeRules)
    #: The condition on the JSON of a 2xx answer for a record to be accepted.
    accepted_when: str | None = None
    #: The condition on the JSON of a 2xx answer for a record to be rejected.
    rejected_when: str | None = None
    #: What happens to a record after a call without an answer.
    ambiguous: Ambiguous = "retry"

    @property
    def remote_names(self) -> tuple[str, ...]:
        """The names of the partner's values that may be known of a row."""
        return tuple(dict.fromkeys([*self.capture, *(self.lookup.capture if self.lookup is not None else ())]))

    @property
    def keeps_remote(self) -> bool:
        """Whether the ledger keeps the partner's answers about its object for a row."""
        return bool(self.capture) or self.update_method is not None or self.lookup is not None

    @property
    def waits_in_doubt(self) -> bool:
        """Whether, under order `latest`, a version waits for an older one that may bring the partner's values.

        With a lookup no version waits: the newest one asks for them itself.
        """
        needs_object = self.update_method is not None or bool(find_remote_names(self.delete_path))
        return self.order == "latest" and needs_object and self.lookup is None and not self.append_only

    @property
    def has_sequence(self) -> bool:
        """Whether some version of a row may have to wait for an older one."""
        return self.order == "strict" or self.waits_in_doubt

    @property
    def hold_seconds(self) -> float | None:
        """How long a failed version holds back newer ones; None: forever."""
        return self.strict_hold_seconds if self.order == "strict" else 0.0

    @property
    def command_name(self) -> str:
        """Its name in commands; a child that is read like a stream has the name of its stream."""
        return self.name.partition(".")[0]


def has_masks(source: Stream | Child) -> bool:
    """Tell whether a column of a stream or of a child is masked, or one of its children's."""
    return bool(source.mask) or any(has_masks(child) for child in source.children)
