"""The sections of a stream: what is read, the shape of its calls, and how they are repeated."""

from typing import Annotated

from pydantic import Field

from syncctl.core.stream import Ambiguous, Decimals, Mode, Order
from syncctl.settings import endpoints, fields, mask_fields, request_fields
from syncctl.settings.outcomes import OutcomeTable
from syncctl.settings.section import Section, setting

_SCHEDULE = ("5s", "1m", "5m", "30m", "2h", "6h", "12h", "24h")


class RetrySettings(Section):
    """When a call that may be repeated is repeated."""

    schedule: fields.Spans = setting(_SCHEDULE, "the delays; then the record is failed")
    give_up_after: fields.OptionalDuration = setting(
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
        "rowversion | increasing | change_tracking | flag | snapshot; default: rowversion, else increasing by the key",
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
    mask: mask_fields.MaskTable = setting(
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
    endpoint: endpoints.Endpoint = setting("POST /", "method and path; {column} is filled in", sample="POST /orders")
    delete_endpoint: endpoints.DeleteEndpoint = setting(
        None,
        "of rows that are gone; DELETE has no body; none: they are not sent; default: endpoint, with the key",
        sample="DELETE /orders/{id}",
    )
    content_type: request_fields.ContentType = setting(
        None, "default: application/json", sample="application/vnd.shop+json"
    )
    body: fields.OptionalText = setting(
        None, "a Jinja2 template in place of fields", sample='{"order": {{ row.id | json }}}'
    )
    headers: request_fields.HeaderTable = setting(
        None, "more headers; their values are templates", sample={"X-Region": "{{ row.region }}"}
    )
    body_schema: fields.OptionalText = setting(
        None, "a JSON Schema file; a row that does not fit is failed and not sent", sample="orders.schema.json"
    )
    accept_conflict: bool = setting(False, "true: a 409 means that the partner has the record")
    outcomes: OutcomeTable = setting(
        {}, "what a status means, where not the usual: accepted | retry_later | rejected", sample={"403": "rejected"}
    )
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
    fields: request_fields.FieldTable = setting(
        None,
        "the JSON that is sent, place by place; default: every column as it is",
        sample={"order.id": "id", "order.kind": {"const": "order"}},
    )
