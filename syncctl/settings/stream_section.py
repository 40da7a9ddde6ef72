"""The section of a stream: the rows that it reads, the requests that it sends, and their retries."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationInfo

from syncctl.core.mapping import list_columns, parse_fields
from syncctl.core.quiet_hours import parse_quiet_hours
from syncctl.core.remote_values import HOW_TO_CAPTURE, REMOTE, find_remote_names, parse_capture
from syncctl.core.spelling import suggest
from syncctl.core.stream import (
    SCANS,
    Ambiguous,
    Batching,
    Decimals,
    Lookup,
    Missing,
    Mode,
    Order,
    RetrySchedule,
    Stream,
)
from syncctl.partner.address import parse_endpoint, parse_lookup_endpoint
from syncctl.partner.encoding import is_json
from syncctl.partner.endpoint import find_placeholders
from syncctl.settings import request_types
from syncctl.settings.call_sections import BatchShapeSettings, LookupSettings, RetrySettings
from syncctl.settings.child_section import ChildSettings, check_json_columns, is_among, list_child_problems
from syncctl.settings.field_types import (
    ChildName,
    Condition,
    Count,
    Duration,
    Lease,
    Lower,
    Masks,
    OptionalSpan,
    OptionalText,
    QuietSpan,
    Share,
    Span,
    Start,
    Text,
    TextList,
    TimeZone,
    Whole,
    WriteBack,
)
from syncctl.settings.section import Broken, Section, rule, setting

_NEEDS_LAST_STATE = "needs the last state of each row, which append_only does not keep; remove one of them"


def _known_in(kind: str) -> AfterValidator:
    """Return a validator that refuses the name of a section that does not exist."""

    def check(name: str, info: ValidationInfo) -> str:
        _check_known(kind, name, info)
        return name

    return AfterValidator(check)


def _all_known_in(kind: str) -> AfterValidator:
    """Return a validator that refuses a list with the name of a section that does not exist."""

    def check(names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for name in names:
            _check_known(kind, name, info)
        return tuple(dict.fromkeys(names))

    return AfterValidator(check)


def _check_known(kind: str, name: str, info: ValidationInfo) -> None:
    layers: Any = info.context
    known = layers.list_names(kind)
    if name not in known:
        raise ValueError(f"there is no [{kind}.{name}]; {suggest(name, known)}")


class StreamSettings(Section):
    """A named flow from one table or query of a source to one endpoint of a partner."""

    source: Annotated[Text, _known_in("sources")] = setting("default", "name of the source under [sources]")
    partner: Annotated[Text, _known_in("partners")] = setting("default", "name of the partner under [partners]")
    table: OptionalText = setting(None, "table to read; set either this or query", sample="dbo.orders")
    query: OptionalText = setting(
        None,
        "query to read in place of a table; needs key, mode, and the other settings that the mode requires",
        sample="select * from dbo.orders where region = 'EU'",
    )
    start: Start = setting(..., "required: beginning | now | a cursor value", sample="beginning")
    key: TextList = setting((), "columns of the key; default: the primary key", sample=["id"])
    mode: Annotated[Mode | None, Lower] = setting(
        None,
        "rowversion | increasing | change_tracking | flag | snapshot; default: rowversion, otherwise increasing by key",
        sample="rowversion",
    )
    cursor: OptionalText = setting(
        None, "column that orders changes; default: chosen by the mode", sample="row_version"
    )
    lookback: Span = setting("5m", "mode increasing on a time: read this much again, to catch late commits")
    gap_timeout: Span = setting("1h", "mode increasing on an identity: how long to wait for missing numbers")
    where: OptionalText = setting(
        None, "SQL condition that selects rows; mode flag: the rows that are not yet delivered", sample="exported = 0"
    )
    columns: TextList = setting((), "send only these columns; default: all", sample=["id", "total"])
    exclude: TextList = setting((), "send all columns except these", sample=["photo"])
    json_columns: TextList = setting(
        (), "columns whose text is JSON; it is sent as JSON, not as text", sample=["attributes"], written_as="json"
    )
    mask: Masks = setting(
        {},
        "drop | hash | last4 for each column, applied before anything is stored",
        sample={"ssn": "drop", "iban": "last4"},
    )
    children: dict[ChildName, ChildSettings] = setting(
        {}, "rows of other tables that go with each row; one table per child"
    )
    decimals: Annotated[Decimals, Lower] = setting(
        "number", "number | string: how decimals are written in JSON; both are exact"
    )
    timezone: TimeZone = setting(
        None, "time zone of times without an offset; the offset is added", sample="Europe/Berlin"
    )
    acknowledge: OptionalText = setting(
        None,
        "mode flag: statement to run in the source after delivery; must test the version that was read",
        sample="update dbo.orders set exported = 1 where id = :id and row_version = :row_version",
    )
    acknowledge_failed: OptionalText = setting(
        None,
        "mode flag: statement to run in the source after a record has failed for good",
        sample="update dbo.orders set exported = 9 where id = :id and row_version = :row_version",
    )
    write_back: WriteBack = setting(
        {},
        "columns of the table that get the outcome: remote.NAME | delivered_at | error | record_id | state",
        sample={"sent_at": "delivered_at", "sync_error": "error"},
    )
    max_delete_share: Share = setting(0.5, "mode snapshot: stop if more than this share of the known rows is gone")
    append_only: bool = setting(False, "true if rows are only added and never changed")
    poll_every: Duration = setting("5s", "pause between two polls")
    page_size: Whole = setting(1000, "rows per query")
    page_bytes: Whole = setting(16_777_216, "bytes of text and binary per query; a page of large rows ends early")
    endpoint: request_types.Endpoint = setting(
        "POST /", "method and path; {column} is replaced by the value of the column", sample="POST /orders"
    )
    delete_endpoint: request_types.DeleteEndpoint = setting(
        None,
        "for deleted rows; DELETE has no body; none: send nothing; default: endpoint, with only the key",
        sample="DELETE /orders/{id}",
    )
    capture: request_types.Capture = setting(
        {},
        "values of the partner, taken from its accepted answers and known as remote.NAME: path into the JSON | "
        "header:NAME",
        sample={"id": "data.id"},
    )
    update_endpoint: request_types.UpdateEndpoint = setting(
        None,
        "for rows for which the partner already has an object; default: endpoint",
        sample="PUT /orders/{remote.id}",
    )
    missing: Annotated[Missing, Lower] = setting(
        "fail", "after a 404 or 410 to update_endpoint: fail | create, which sends the record to endpoint again"
    )
    lookup: LookupSettings = setting(
        {}, "asks whether the partner has an object for a row, before one is created again"
    )
    fields: request_types.Fields = setting(
        None,
        "places in the JSON to send, and the column for each; default: every column under its own name",
        sample={"order.id": "id", "order.kind": {"const": "order"}},
    )
    content_type: request_types.ContentType = setting(
        None, "content type of the body; default: application/json", sample="application/vnd.shop+json"
    )
    body: request_types.Body = setting(
        None, "Jinja2 template in place of fields", sample='{"order": {{ row.id | json }}}'
    )
    headers: request_types.Headers = setting(
        None, "additional headers; values are Jinja2 templates", sample={"X-Region": "{{ row.region }}"}
    )
    body_schema: request_types.BodySchemaFile = setting(
        None, "JSON Schema file; a row that does not match it fails and is not sent", sample="orders.schema.json"
    )
    accept_conflict: bool = setting(False, "true: a 409 means that the partner already has the record")
    outcomes: request_types.Outcomes = setting(
        {},
        "what a status means instead of the default: accepted | retry_later | rejected; under upsert or delete, only "
        "for that operation",
        sample={"403": "rejected", "delete": {"404": "rejected"}},
    )
    accepted_when: Condition = setting(
        None,
        "condition on the JSON of a 2xx answer for the record to be accepted: path | !path | path=value | path!=value",
        sample="result.status=ok",
    )
    rejected_when: Condition = setting(
        None, "condition on the JSON of a 2xx answer for the record to fail at once", sample="error.code=duplicate"
    )
    ambiguous: Annotated[Ambiguous, Lower] = setting(
        "retry", "after a call without an answer: retry with the same Idempotency-Key | fail the record"
    )
    after: Annotated[TextList, _all_known_in("streams")] = setting(
        (),
        "streams whose older due records are sent first, such as those that these rows refer to",
        sample=["customers"],
    )
    quiet_hours: QuietSpan = setting(
        None,
        "hours in which no record is sent, but rows are read; a time zone may follow; default: timezone, "
        "otherwise the machine's",
        sample="22:00-06:00",
    )
    order: Annotated[Order, Lower] = setting(
        "latest", "latest: never an older version after a newer one | strict: every version, one after another | none"
    )
    strict_hold: OptionalSpan = setting(
        None, "order strict: how long a failed version holds back newer ones of its row; default: forever", sample="1h"
    )
    retry: RetrySettings = setting({}, "when calls are repeated; the record fails at the end of the schedule")
    pause_after_refusals: Count = setting(
        20, "hold the stream after this many identical refusals in a row; a probe resumes it; 0: never"
    )
    rows_per_call: Whole = setting(1, "rows per call; more than 1 needs an endpoint that accepts a list")
    batch_shape: BatchShapeSettings = setting({}, "the request and the answer of a call of several rows")
    batch_size: Whole = setting(500, "maximum number of records that a worker takes at once")
    batch_bytes: Whole = setting(16_777_216, "maximum bytes of the rows that a worker takes at once")
    window: Whole = setting(2000, "maximum number of records in flight")
    lease: Lease = setting(
        "15s", "time after which the records of a dead worker are taken over; a live worker renews it; at least 1s"
    )

    @rule("accepted_when", "rejected_when")
    def _check_conditions(self) -> Broken:
        if self.accepted_when and self.accepted_when == self.rejected_when:
            yield "rejected_when", "is also what accepted_when says; write !path or path!=value in one of the two"

    @rule("table", "query")
    def _check_origin(self) -> Broken:
        if self.table and self.query:
            yield "query", "cannot be combined with table; remove one of the two"
        elif not self.table and not self.query:
            yield "table", 'is missing; write table = "dbo.orders", or query = "select ..."'

    @rule("table", "query", "key", "mode", "cursor")
    def _check_query(self) -> Broken:
        needed = {"key": '["id"]', "cursor": '"updated_at"', "mode": '"increasing"'}
        if self.mode in SCANS:
            del needed["cursor"]
        for key, sample in needed.items():
            if self.query and not self.table and not getattr(self, key):
                yield key, f"is required with query; write {key} = {sample}"
        if self.query and self.mode == "change_tracking":
            yield "query", "cannot be read in mode change_tracking, which follows a table; set table"

    @rule("mode", "start")
    def _check_start(self) -> Broken:
        if self.mode in ("flag", "snapshot") and self.start != "beginning":
            yield "start", f'must be "beginning" in mode {self.mode}, which has no cursor to start at'

    @rule("mode", "append_only")
    def _check_append_only(self) -> Broken:
        if self.mode in SCANS and self.append_only:
            yield "append_only", f"cannot be used in mode {self.mode}, which must know every row; remove it"

    @rule("mode", "where", "acknowledge", "acknowledge_failed", "cursor")
    def _check_flag(self) -> Broken:
        samples = {
            "where": "exported = 0",
            "acknowledge": "update ... set exported = 1 where id = :id and row_version = :row_version",
            "cursor": "row_version",
        }
        for key, sample in samples.items() if self.mode == "flag" else ():
            if not getattr(self, key):
                yield key, f'is required in mode flag; write {key} = "{sample}"'
        for key in ("acknowledge", "acknowledge_failed") if self.mode != "flag" else ():
            if getattr(self, key):
                yield key, 'is for mode flag; set mode = "flag" or remove it'

    @rule("write_back", "query", "append_only")
    def _check_write_back(self) -> Broken:
        if self.write_back and self.query:
            yield (
                "write_back",
                "cannot be combined with query, whose rows cannot be written to; set table, or remove it",
            )
        elif self.write_back and self.append_only:
            yield "write_back", "changes rows, and append_only says that rows never change; remove one of the two"

    @rule("write_back", "key", "cursor", "columns")
    def _check_written_columns(self) -> Broken:
        reasons = {
            "key": "is in the key, by which rows are found; write to another column",
            "cursor": "is the cursor, which orders the changes; write to another column",
            "columns": "is sent, and a write would send its row again; remove it from columns",
        }
        for written in self.write_back:
            for place, reason in reasons.items():
                given = getattr(self, place) or ()
                names = (given,) if isinstance(given, str) else given
                if written.casefold() in {name.casefold() for name in names}:
                    yield "write_back", f"{written} {reason}"

    @rule("write_back", "mode", "where")
    def _check_written_condition(self) -> Broken:
        if self.mode not in ("snapshot", "change_tracking") or not self.where:
            return
        for column in self.write_back:
            if re.search(rf"(?<!\w){re.escape(column)}(?!\w)", self.where, re.IGNORECASE):
                yield (
                    "write_back",
                    f"{column} is in where, and a row that leaves it is taken for a deleted one; change where",
                )

    @rule("columns", "exclude")
    def _check_columns(self) -> Broken:
        if self.columns and self.exclude:
            yield "exclude", "cannot be combined with columns; remove one of the two"

    @rule("mask", "key", "cursor")
    def _check_mask(self) -> Broken:
        for place, columns in (("key", self.key), ("cursor", (self.cursor or "",))):
            for masked in self.mask:
                if masked.casefold() in {column.strip().casefold() for column in columns}:
                    yield (
                        "mask",
                        f"{masked} is in the {place}, which must stay unmasked; remove it from mask",
                    )

    @rule("json", "key", "cursor", "exclude", "columns", "mask", "write_back")
    def _check_json(self) -> Broken:
        if not self.json_columns:
            return
        elsewhere = {
            "key": (self.key, "which must stay text; remove it from json"),
            "write_back": (tuple(self.write_back), "so it is not sent; remove it from json"),
        }
        yield from check_json_columns(self, elsewhere)

    @rule("json", "endpoint", "delete_endpoint")
    def _check_json_in_path(self) -> Broken:
        for key, endpoint in (("endpoint", self.endpoint), ("delete_endpoint", self.delete_endpoint or "")):
            for column in self.json_columns:
                if is_among(column, find_placeholders(endpoint)):
                    yield key, f"names {column}, which is in json, and a path takes a single value; use another column"

    @rule("children", "mode", "append_only")
    def _check_children(self) -> Broken:
        yield from list_child_problems(self.children, mode=self.mode, is_append_only=self.append_only)

    @rule("fields", "body")
    def _check_body(self) -> Broken:
        if self.fields and self.body:
            yield "body", "cannot be combined with fields; remove one of the two"

    @rule("content_type", "body")
    def _check_content_type(self) -> Broken:
        if not self._is_json() and not self.body:
            yield (
                "content_type",
                f"is {self.content_type}, but the row is sent as JSON; write body, a template of that type",
            )

    @rule("rows_per_call", "batch_size", "window")
    def _check_sizes(self) -> Broken:
        if "batch_size" in self.model_fields_set and self.batch_size > self.window:
            shown = f"{self.batch_size} is more than the window of {self.window} records"
            yield "batch_size", f"{shown}; lower batch_size or raise window"
        if self.rows_per_call > self.batch_size:
            shown = f"{self.rows_per_call} is more than the {self.batch_size} records of a batch"
            yield "rows_per_call", f"{shown}; lower rows_per_call or raise batch_size"

    @rule("rows_per_call", "endpoint", "content_type")
    def _check_batch(self) -> Broken:
        if self.rows_per_call > 1 and "{" in self.endpoint:
            yield (
                "endpoint",
                "has a column in its path, but rows_per_call makes one call for several rows; remove the column",
            )
        if self.rows_per_call > 1 and not self._is_json():
            yield "rows_per_call", "needs JSON; remove content_type or rows_per_call"

    @rule("rows_per_call", "batch_shape")
    def _check_batch_shape(self) -> Broken:
        shape = self.batch_shape
        if self.rows_per_call == 1 and any(getattr(shape, key) for key in shape.model_fields_set):
            yield "batch_shape", "is for calls of several rows; set rows_per_call to more than 1, or remove it"

    @rule("order", "append_only", "strict_hold")
    def _check_order(self) -> Broken:
        if self.order == "strict" and self.append_only:
            yield "order", "strict has no effect with append_only, which knows one version of a row; remove one of them"
        if self.order != "strict" and self.strict_hold is not None:
            yield "strict_hold", 'is for order strict; set order = "strict" or remove it'

    @rule("update_endpoint", "lookup", "missing", "order", "append_only", "ambiguous")
    def _check_update(self) -> Broken:
        for key, is_set in (("update_endpoint", self.update_endpoint), ("lookup", self.lookup.endpoint)):
            if is_set and self.append_only:
                yield key, _NEEDS_LAST_STATE
            if is_set and self.order == "none":
                text = 'set order = "latest" or "strict"'
                yield key, f"needs to know which version of a row comes first, and order is none; {text}"
        if self.missing == "create" and not self.update_endpoint:
            yield "missing", "is about update_endpoint; set that too, or remove it"
        if self.lookup.endpoint and self.ambiguous == "fail":
            yield "lookup", "asks after a call without an answer, which ambiguous = fail makes fail; remove one of them"

    @rule("capture", "order", "append_only")
    def _check_capture(self) -> Broken:
        if self.capture and self.append_only:
            yield "capture", _NEEDS_LAST_STATE

    @rule("capture", "rows_per_call", "batch_shape")
    def _check_capture_in_bulk(self) -> Broken:
        if self.capture and self.rows_per_call > 1:
            if self.batch_shape.results is None:
                text = 'write batch_shape.results = "PATH" too, from where the paths of capture begin'
                yield "capture", f"needs the result of each row in a call of several; {text}"
            for name, place in self.capture.items():
                if parse_capture(place)[0] == "header":
                    yield "capture", f"{name} is in a header, which a call of several rows has once; write a path"

    @rule("capture", "lookup", "endpoint", "update_endpoint", "delete_endpoint", "fields", "write_back", "order")
    def _check_remote_names(self) -> Broken:
        known = tuple(dict.fromkeys([*self.capture, *self.lookup.capture]))
        columns = [column for column in list_columns(self.fields or {}) if column.startswith(REMOTE)]
        used = {
            "endpoint": find_remote_names(self.endpoint),
            "update_endpoint": find_remote_names(self.update_endpoint or ""),
            "delete_endpoint": find_remote_names(self.delete_endpoint or ""),
            "fields": [column[len(REMOTE) :] for column in columns],
            "write_back": [name[len(REMOTE) :] for name in self.write_back.values() if name.startswith(REMOTE)],
        }
        for key, names in used.items():
            for name in names:
                if name not in known:
                    how = f"is not captured; {suggest(name, known)}" if known else f"is not known; {HOW_TO_CAPTURE}"
                    yield key, f"has remote.{name}, which {how}"
            if names and self.order == "none" and key.endswith("endpoint"):
                text = 'set order = "latest" or "strict"'
                yield (
                    key,
                    f"uses remote.{names[0]}, but under order none a version may be sent before it is known; {text}",
                )

    @rule("endpoint", "lookup")
    def _check_first_call(self) -> Broken:
        names = find_remote_names(self.endpoint)
        if names and self.lookup.when != "always":
            text = 'write update_endpoint for the path with it, or lookup with when = "always"'
            yield "endpoint", f"has remote.{names[0]}, which is not known before a first call; {text}"

    def _is_json(self) -> bool:
        return is_json(self.content_type or "application/json")

    def make_stream(self, name: str, *, mask_secret: str, directory: Path) -> Stream:
        """Return the stream that is polled and delivered.

        Args:
            directory: The directory that the relative path of `body_schema` starts from.
        """
        method, path = parse_endpoint(self.endpoint)
        sends_deletes = self.delete_endpoint != request_types.NO_DELETES
        delete_method, delete_path = None, "/"
        if self.delete_endpoint and sends_deletes:
            delete_method, delete_path = parse_endpoint(self.delete_endpoint)
        update_method, update_path = parse_endpoint(self.update_endpoint) if self.update_endpoint else (None, "/")
        lookup = None
        if self.lookup.endpoint is not None:
            lookup = self.lookup.build(Lookup, path=parse_lookup_endpoint(self.lookup.endpoint)[1])
        return self.build(
            Stream,
            update_method=update_method,
            update_path=update_path,
            lookup=lookup,
            name=name,
            mask_secret=mask_secret,
            children=tuple(child.make_child(child_name) for child_name, child in self.children.items()),
            method=method,
            path=path,
            delete_method=delete_method,
            delete_path=delete_path,
            sends_deletes=sends_deletes,
            quiet_hours=parse_quiet_hours(self.quiet_hours, self.timezone) if self.quiet_hours else None,
            fields=parse_fields(self.fields) if self.fields else (),
            body_schema=str(directory / self.body_schema) if self.body_schema else None,
            retry=self.retry.build(RetrySchedule, delays_seconds=self.retry.schedule),
            outcomes=request_types.make_outcome_rules(self.outcomes, accepts_conflict=self.accept_conflict),
            batching=self.batch_shape.build(Batching, size=self.rows_per_call),
        )
