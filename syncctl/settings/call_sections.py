"""The sections of a stream about its calls: retries, calls of several rows, and lookups."""

from typing import Annotated, Literal

from syncctl.core.remote_values import find_remote_names
from syncctl.settings import request_types
from syncctl.settings.field_types import Condition, JsonPath, Lower, OptionalDuration, OptionalText, Share, Spans, Text
from syncctl.settings.section import Broken, Section, rule, setting

_SCHEDULE = ("5s", "1m", "5m", "30m", "2h", "6h", "12h", "24h")


class RetrySettings(Section):
    """When a call that may be repeated is repeated."""

    schedule: Spans = setting(_SCHEDULE, "delays between attempts; the record fails after the last one")
    give_up_after: OptionalDuration = setting(
        None,
        "repeat the last delay until this long after the first attempt; default: stop at the end of the schedule",
        sample="3d",
    )
    jitter: Share = setting(0.2, "random variation of each delay, 0 to 1")

    @rule("schedule", "give_up_after")
    def _check_last_delay(self) -> Broken:
        if self.give_up_after and not self.schedule:
            text = 'write schedule = ["1m"], or remove give_up_after'
            yield "schedule", f"is empty, and give_up_after repeats its last delay; {text}"
        elif self.give_up_after and self.schedule[-1] == 0:
            text = "end it with a delay such as 1m"
            yield "schedule", f"ends in 0s, which give_up_after would repeat without a pause; {text}"


class BatchShapeSettings(Section):
    """The request of a call of several rows, and where its answer has the result of each row."""

    under: OptionalText = setting(
        None, "field of the body that holds the rows; default: the body is the list", sample="rows"
    )
    key: Text = setting("idempotency_key", "field of a row that holds its Idempotency-Key")
    results: JsonPath = setting(
        None,
        "path to the list of results in the answer, $ for the answer itself; default: one result for all rows",
        sample="results",
    )
    result_key: JsonPath = setting(
        None,
        "path in a result to the key of its row; default: results are in the order of the rows",
        sample="idempotency_key",
    )
    result_status: JsonPath = setting(None, "path in a result to a status like those of HTTP", sample="status")
    result_accepted_when: Condition = setting(
        None, "condition on a result for its row to be accepted", sample="result=ok"
    )

    @rule("results", "result_key", "result_status", "result_accepted_when")
    def _check_results(self) -> Broken:
        if self.results is None:
            for key in ("result_accepted_when", "result_key", "result_status"):
                if getattr(self, key) is not None:
                    yield key, 'is about an item of results; write results = "PATH" too, or remove it'
        elif self.result_status is None and self.result_accepted_when is None:
            text = 'write result_status = "PATH" or result_accepted_when too'
            yield "results", f"does not say which rows were accepted; {text}"


class LookupSettings(Section):
    """How the partner is asked whether it has an object of a row, so that none is created twice."""

    endpoint: request_types.LookupEndpoint = setting(
        None, "GET and path; {column} is replaced by the value of the column", sample="GET /orders?ref={id}"
    )
    capture: request_types.Capture = setting(
        {},
        "values of the object in the answer, as in capture; an answer without them means: not found",
        sample={"id": "items[0].id"},
    )
    when: Annotated[Literal["doubt", "always"], Lower] = setting(
        "doubt", "doubt: only after a call that may have created it | always: also before the first call"
    )

    @rule("endpoint", "capture", "when")
    def _check_parts(self) -> Broken:
        if self.endpoint is None and (self.capture or self.when != "doubt"):
            yield "endpoint", 'is missing; write endpoint = "GET /orders?ref={id}", or remove lookup'
        elif self.endpoint is not None and not self.capture:
            yield "capture", 'is missing: it tells what was found; write capture = { id = "items[0].id" }'
        if names := find_remote_names(self.endpoint or ""):
            yield "endpoint", f"has remote.{names[0]}, which the lookup is to find; name columns of the row"
