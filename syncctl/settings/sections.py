"""The sections of the settings, every key with its type, its default and what it is for."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from syncctl.core.stream import Ambiguous, Decimals, Mode, Order
from syncctl.settings import fields

_SCHEDULE = ("5s", "1m", "5m", "30m", "2h", "6h", "12h", "24h")


def setting(default: Any, text: str, *, sample: Any = None, secret: bool = False) -> Any:
    """Declare a setting: its default, what it is for, a sample where the default is none."""
    return Field(default, description=text, examples=None if sample is None else [sample], repr=not secret)


class Section(BaseModel):
    """A table of settings: unknown keys are errors, values never change, errors show no input."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)


class SourceSettings(Section):
    """A SQL database that is read."""

    url: fields.SourceUrl = setting(
        None,
        "SQLAlchemy URL or ODBC connection string; default: SOURCE_URL",
        sample="${SOURCE_URL}",
        secret=True,
    )
    login_timeout: fields.Duration = setting("10s", "give up connecting after this")
    query_timeout: fields.Duration = setting("60s", "give up a query after this")


class AuthSettings(Section):
    """How a partner knows us."""

    type: Annotated[Literal["bearer", "none"], fields.Lower] = setting("bearer", "bearer | none")
    token: fields.Token = setting(
        None, "sent as Authorization: Bearer; default: PARTNER_TOKEN", sample="${PARTNER_TOKEN}", secret=True
    )


class BreakerSettings(Section):
    """When a partner counts as down, for all workers together."""

    calls: fields.Whole = setting(10, "so many calls in a minute tell something")
    failures: fields.Share = setting(0.7, "the share of them without an answer, or with a 5xx")
    pause: fields.Duration = setting("30s", "until one record asks again; twice as long each time")
    longest_pause: fields.Duration = setting("10m", "and never longer than this")


class PartnerSettings(Section):
    """An HTTP API that is written to."""

    url: fields.PartnerUrl = setting(
        None, "where the endpoints' paths begin; default: PARTNER_URL", sample="${PARTNER_URL}", secret=True
    )
    auth: AuthSettings = setting({}, "no token where none is set")
    timeout_seconds: fields.Seconds = setting(30.0, "of a whole call")
    rate: fields.Rate = setting(None, "shared by all workers; default: no limit", sample="50/second")
    max_in_flight: fields.Whole = setting(32, "calls at once, exact over all workers")
    breaker: BreakerSettings = setting({}, "stops calling a partner that is down; nobody uses up attempts")


class RetrySettings(Section):
    """When a call that may be repeated is repeated."""

    schedule: fields.Spans = setting(_SCHEDULE, "the delays; then the record is failed")
    give_up_after: fields.OptionalSpan = setting(
        None,
        "repeat the last delay until the first try lies so far back; default: the end of the schedule",
        sample="3d",
    )
    jitter: fields.Share = setting(0.2, "the share by which a delay varies, 0 to 1")


class StreamSettings(Section):
    """A named flow from one table or query of a source to one endpoint of a partner."""

    source: fields.Text = setting("default", "the name under [sources]")
    partner: fields.Text = setting("default", "the name under [partners]")
    table: fields.OptionalText = setting(None, "this or query", sample="dbo.orders")
    query: fields.OptionalText = setting(
        None,
        "instead of table; needs key and mode, and what the mode needs",
        sample="select * from dbo.orders where region = 'EU'",
    )
    start: fields.Start = Field(description="required: beginning | now | a cursor value", examples=["beginning"])
    key: fields.TextList = setting((), "default: the primary key", sample=["id"])
    mode: Annotated[Mode | None, fields.Lower] = setting(
        None,
        "rowversion | increasing | change_tracking | flag | snapshot; default: the safest the table allows",
        sample="rowversion",
    )
    cursor: fields.OptionalText = setting(
        None, "the column that tells new from old; default: what the mode finds", sample="row_version"
    )
    lookback: fields.Span = setting("5m", "mode increasing on a time: read this much again, for late commits")
    gap_timeout: fields.Span = setting("1h", "mode increasing on an identity: wait this long for numbers left out")
    where: fields.OptionalText = setting(
        None, "a condition in SQL: only these rows; in mode flag: the rows to deliver", sample="exported = 0"
    )
    columns: fields.TextList = setting((), "only these are sent; default: all", sample=["id", "total"])
    exclude: fields.TextList = setting((), "all columns but these", sample=["photo"])
    decimals: Annotated[Decimals, fields.Lower] = setting(
        "number", "number | string: how decimals are written in JSON, exact either way"
    )
    timezone: fields.TimeZone = setting(
        None, "the zone of times that have no offset, which they then get", sample="Europe/Berlin"
    )
    acknowledge: fields.OptionalText = setting(
        None,
        "mode flag: runs in the source after delivery; tests the version that was read",
        sample="update dbo.orders set exported = 1 where id = :id and row_version = :row_version",
    )
    acknowledge_failed: fields.OptionalText = setting(
        None,
        "mode flag: runs in the source once a record has failed for good",
        sample="update dbo.orders set exported = 9 where id = :id and row_version = :row_version",
    )
    max_delete_share: fields.Share = setting(0.5, "mode snapshot: stop when more of the known rows than this are gone")
    append_only: bool = setting(False, "true where rows are added and never changed")
    poll_every: fields.Duration = setting("5s", "the pause between two polls")
    page_size: fields.Whole = setting(1000, "rows per query")
    endpoint: fields.Endpoint = setting("POST /", "method and path; {column} is filled in", sample="POST /orders")
    accept_conflict: bool = setting(False, "true: a 409 means that the partner has the record")
    accepted_when: fields.Condition = setting(
        None, "what the JSON of a 2xx must say to count as accepted", sample="result.status=ok"
    )
    ambiguous: Annotated[Ambiguous, fields.Lower] = setting(
        "retry", "sent and not answered: retry under the same Idempotency-Key | hold as failed"
    )
    order: Annotated[Order, fields.Lower] = setting(
        "latest", "latest: an older version never follows a newer one | none"
    )
    retry: RetrySettings = setting({}, "ends in the state failed when the schedule is used up")
    batch_size: fields.Whole = setting(100, "records per message")
    window: fields.Whole = setting(2000, "records in flight per stream")
    lease: fields.Duration = setting("5m", "how long a worker may hold a record; over twice timeout_seconds")


class RetentionSettings(Section):
    """How long finished records are kept."""

    delivered: fields.Duration = setting("30d", "the partner has them")
    failed: fields.Duration = setting("90d", "the partner refused them, or the schedule was used up")
    superseded: fields.Duration = setting("7d", "a newer version made them pointless")
    discarded: fields.Duration = setting("90d", "an operator gave them up")

    @property
    def delivered_seconds(self) -> float:
        """Return how long a delivered record is kept."""
        return self.delivered

    @property
    def failed_seconds(self) -> float:
        """Return how long a failed record is kept."""
        return self.failed

    @property
    def superseded_seconds(self) -> float:
        """Return how long a superseded record is kept."""
        return self.superseded

    @property
    def discarded_seconds(self) -> float:
        """Return how long a discarded record is kept."""
        return self.discarded


class BeatSettings(Section):
    """How often Beat starts the standing work."""

    upkeep_every: fields.Duration = setting("5s", "return expired leases, dispatch what is due")
    roll_up_every: fields.Duration = setting("1m", "recompute the open hours of the reports")
    cleanup_every: fields.Duration = setting("10m", "remove what [retention] no longer keeps")

    @property
    def upkeep_every_seconds(self) -> float:
        """Return the interval of the upkeep."""
        return self.upkeep_every

    @property
    def roll_up_every_seconds(self) -> float:
        """Return the interval of the roll-up."""
        return self.roll_up_every

    @property
    def cleanup_every_seconds(self) -> float:
        """Return the interval of the cleanup."""
        return self.cleanup_every


class WorkerSettings(Section):
    """What `syncctl worker` starts where no flag says otherwise."""

    pool: Annotated[Literal["prefork", "threads", "solo"], fields.Lower] = setting(
        "prefork", "prefork | threads | solo"
    )
    concurrency: fields.Whole = setting(4, "processes or threads of one worker")


class LogSettings(Section):
    """What is logged, and how."""

    level: Annotated[Literal["debug", "info", "warning", "error"], fields.Lower] = setting(
        "info", "debug | info | warning | error"
    )
    format: Annotated[Literal["auto", "text", "json"], fields.Lower] = setting(
        "auto", "auto | text | json; auto is text on a terminal and json elsewhere"
    )
