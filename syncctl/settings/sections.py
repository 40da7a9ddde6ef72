"""The sections of the settings, every key with its type, its default and what it is for."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from syncctl.core.stream import Ambiguous, Decimals, Mode, Order
from syncctl.settings import fields, masking, shaping

_SCHEDULE = ("5s", "1m", "5m", "30m", "2h", "6h", "12h", "24h")


def setting(default: Any, text: str, *, sample: Any = None, secret: bool = False, written_as: str | None = None) -> Any:
    """Declare a setting: its default, what it is for, a sample where the default is none.

    Args:
        written_as: Its key, where that is a word that Python keeps for itself.
    """
    examples = None if sample is None else [sample]
    return Field(default, description=text, examples=examples, repr=not secret, alias=written_as)


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

    type: fields.AuthKind = setting("bearer", "bearer | api_key | basic | oauth2 | hmac | none")
    token: fields.Token = setting(
        None,
        "bearer: sent as Authorization: Bearer; default: PARTNER_TOKEN",
        sample="${PARTNER_TOKEN}",
        secret=True,
    )
    name: fields.OptionalText = setting(None, "api_key: of the header or the parameter", sample="X-Api-Key")
    place: Annotated[Literal["header", "query"], fields.Lower] = setting(
        "header", "api_key: header | query", written_as="in"
    )
    value: fields.Token = setting(None, "api_key: the key", sample="${PARTNER_VALUE}", secret=True)
    user: fields.OptionalText = setting(None, "basic", sample="syncctl")
    password: fields.Token = setting(None, "basic", sample="${PARTNER_PASSWORD}", secret=True)
    token_url: fields.TokenUrl = setting(
        None, "oauth2: where tokens come from", sample="https://login.partner.example/oauth2/token"
    )
    client_id: fields.OptionalText = setting(None, "oauth2", sample="syncctl")
    client_secret: fields.Token = setting(None, "oauth2", sample="${PARTNER_CLIENT_SECRET}", secret=True)
    client_auth: Annotated[Literal["header", "body"], fields.Lower] = setting(
        "header", "oauth2: header | body: where the token endpoint wants the two"
    )
    scope: fields.OptionalText = setting(None, "oauth2: where the partner asks for it", sample="orders.write")
    audience: fields.OptionalText = setting(
        None, "oauth2: where the partner asks for it", sample="https://api.partner.example"
    )
    secret: fields.Token = setting(
        None, "hmac (Standard Webhooks): whsec_... or plain text", sample="${PARTNER_SECRET}", secret=True
    )
    previous_secret: fields.Token = setting(
        None, "hmac: signs too while keys rotate", sample="${PARTNER_PREVIOUS_SECRET}", secret=True
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
    auth: AuthSettings = setting({}, "how the partner knows us; nothing is sent where nothing is set")
    headers: fields.Headers = setting(
        {}, "sent with each call; values are taken for secrets", sample={"X-Tenant": "${PARTNER_TENANT}"}, secret=True
    )
    ca: fields.OptionalText = setting(
        None, "PEM file of the only authorities to trust; default: the system's", sample="/etc/syncctl/partner-ca.pem"
    )
    client_cert: fields.OptionalText = setting(
        None, "PEM file of the certificate that we show", sample="/etc/syncctl/client.pem"
    )
    client_key: fields.OptionalText = setting(
        None, "PEM file of its key; default: in client_cert", sample="/etc/syncctl/client.key"
    )
    client_key_password: fields.Token = setting(
        None, "of the key, where it has one", sample="${PARTNER_CLIENT_KEY_PASSWORD}", secret=True
    )
    proxy: fields.ProxyUrl = setting(
        None, "never taken from the environment", sample="http://syncctl:${PROXY_PASSWORD}@proxy:3128", secret=True
    )
    verify: bool = setting(True, "false: anybody may answer in the partner's place; warned of in each run")
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


class BatchShapeSettings(Section):
    """How a call of many rows looks, and where its answer tells what became of each."""

    under: fields.OptionalText = setting(
        None, "the field of the body that holds the rows; default: the body is a list", sample="rows"
    )
    key: fields.Text = setting("idempotency_key", "the field of a row that holds its own Idempotency-Key")
    results: fields.JsonPath = setting(
        None, "path to the answer's list, $ for the answer itself; default: all rows alike", sample="results"
    )
    result_key: fields.JsonPath = setting(
        None, "path in an item to the row's key; default: they stand in the order of the rows", sample="idempotency_key"
    )
    result_status: fields.JsonPath = setting(None, "path in an item to a status like those of HTTP", sample="status")
    result_accepted_when: fields.Condition = setting(
        None, "what an item must say to count as accepted", sample="result=ok"
    )


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
    mask: masking.MaskTable = setting(
        {}, "drop | hash | last4, by column, before anything is written down", sample={"ssn": "drop", "iban": "last4"}
    )
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
    delete_endpoint: shaping.DeleteEndpoint = setting(
        None,
        "of rows that are gone; DELETE has no body; none: they are not sent; default: endpoint, with the key",
        sample="DELETE /orders/{id}",
    )
    content_type: shaping.ContentType = setting(None, "default: application/json", sample="application/vnd.shop+json")
    body: fields.OptionalText = setting(
        None, "a Jinja2 template in place of fields", sample='{"order": {{ row.id | json }}}'
    )
    headers: shaping.HeaderTable = setting(
        None, "more headers; their values are templates", sample={"X-Region": "{{ row.region }}"}
    )
    body_schema: fields.OptionalText = setting(
        None, "a JSON Schema file; a row that does not fit is failed and not sent", sample="orders.schema.json"
    )
    accept_conflict: bool = setting(False, "true: a 409 means that the partner has the record")
    accepted_when: fields.Condition = setting(
        None, "what the JSON of a 2xx must say to count as accepted", sample="result.status=ok"
    )
    ambiguous: Annotated[Ambiguous, fields.Lower] = setting(
        "retry", "sent and not answered: retry under the same Idempotency-Key | hold as failed"
    )
    order: Annotated[Order, fields.Lower] = setting(
        "latest", "latest: an older version never follows a newer one | strict: every version, one after another | none"
    )
    strict_hold: fields.OptionalSpan = setting(
        None, "order strict: how long a failed version holds the newer ones of its row; default: for ever", sample="1h"
    )
    retry: RetrySettings = setting({}, "ends in the state failed when the schedule is used up")
    batch: fields.Whole = setting(1, "rows in one call; the endpoint must take a list")
    batch_shape: BatchShapeSettings = setting({}, "how such a call looks, and how its answer is read")
    batch_size: fields.Whole = setting(100, "records per message")
    window: fields.Whole = setting(2000, "records in flight per stream")
    lease: fields.Duration = setting("5m", "how long a worker may hold a record; over twice timeout_seconds")
    # The last one: from here on its name hides the module of the types.
    fields: shaping.FieldTable = setting(
        None,
        "the JSON that is sent, place by place; default: every column as it is",
        sample={"order.id": "id", "order.kind": {"const": "order"}},
    )


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
