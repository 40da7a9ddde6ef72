"""The pipeline around a real ledger and a real partner; Celery's messages are a list from which a test takes them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from syncctl.partner.batch import send_batch

from syncctl.core.ids import content_hash, key_id, record_id
from syncctl.core.outcome import Outcome, Verdict
from syncctl.core.rows import Cursor, Page, Row, Value
from syncctl.core.stream import Partner, RetrySchedule, Source, Stream
from syncctl.core.windows import Sizes
from syncctl.ledger.delivery_state import Claim
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.records import NewRecord
from syncctl.partner.client import PartnerClient
from syncctl.pipeline.deliver import Delivery, deliver_batch
from syncctl.pipeline.dispatch import dispatch_stream
from syncctl.pipeline.maintenance import Maintained, maintain_stream
from syncctl.pipeline.poll import Run, poll_stream
from syncctl.sources import open_reader
from tests.harness import passing_time
from tests.harness.cases import make_stream

NASTY = "$state"
"""A text that MongoDB takes for a field path unless it is marked as a literal."""

STREAM = make_stream(
    key=("id",),
    mode="increasing",
    cursor="id",
    retry=RetrySchedule(delays_seconds=(60.0, 600.0), jitter=0.0),
    page_size=100,
)


def new_record(number: int, content: Value = "a", **changes: Any) -> NewRecord:
    """Return the record of row `number`, about to be logged; `seq` is the number."""
    payload = {"id": number, "content": content}
    fields: dict[str, Any] = {
        "id": f"orders-{number}",
        "stream": "orders",
        "key_id": key_id({"id": number}),
        "key": {"id": number},
        "seq": number,
        "version": str(number),
        "hash": content_hash(payload, "upsert"),
        "columns_fingerprint": "columns",
        "op": "upsert",
        "payload": payload,
    }
    return NewRecord(**{**fields, **changes})


def outcome(verdict: Verdict = Verdict.ACCEPTED, **changes: Any) -> Outcome:
    """Return an outcome of 12 ms."""
    return Outcome(**{"verdict": verdict, "latency_ms": 12.0, **changes})


def claim_records(ledger: Ledger, ids: Sequence[str], *, worker: str = "worker", seconds: float = 300.0) -> Claim:
    """Queue and claim records, as dispatch and a worker do."""
    ledger.delivery_states.queue(ids, batch="batch", seconds=seconds, exclusive=True)
    return ledger.delivery_states.claim(
        "orders", ids, batch="batch", mapping_hash="mapping", seconds=seconds, worker=worker
    )


@dataclass
class ListReader:
    """A source that keeps versions of its own, of which only the last page of rows matters."""

    rows: Sequence[Row]
    columns_fingerprint: str = "columns"
    advice: tuple[str, ...] = ()
    page_size: int = 100
    closed: bool = False

    def start_cursor(self) -> Cursor:
        return {"mode": "list", "at": "start"}

    def pages(self, _: Cursor) -> Iterator[Page]:
        for start in range(0, len(self.rows), self.page_size):
            rows = tuple(self.rows[start : start + self.page_size])
            yield Page(rows=rows, cursor={"mode": "list", "at": rows[-1].at})

    def close(self) -> None:
        self.closed = True


def version_row(number: int, content: Value, version: str | None, **changes: Any) -> Row:
    """Return a row in a version that its source names."""
    payload = {"id": number, "content": content}
    return Row(**{"key": {"id": number}, "payload": payload, "version": version, "at": str(version), **changes})


@dataclass
class Testbed:
    """One stream with its ledger, its source and its partner: the work of a worker, one step at a time."""

    __test__ = False  # for pytest: no class of tests

    ledger: Ledger
    database: Any
    partner: Partner
    source: Source | None = None
    stream: Stream = STREAM
    threads: int = 2
    messages: list[tuple[str, list[str]]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    @property
    def sizes(self) -> Sizes:
        """The stream's own sizes."""
        return Sizes(
            batch=self.stream.batch_size,
            window=self.stream.window,
            retries=max(1, self.stream.window // 2),
            threads=self.threads,
            messages=max(1, -(-self.stream.window // self.stream.batch_size)),
            rows=self.stream.batching.size,
        )

    def change_stream(self, **changes: Any) -> None:
        """Change the stream's settings."""
        self.stream = replace(self.stream, **changes)

    def poll(
        self,
        reader: Any = None,
        *,
        ledger: Any = None,
        dispatch: Callable[[], int] = lambda: 0,
        **options: Any,
    ) -> Run:
        """Poll the stream from its source, or from this reader; dispatch nothing unless asked to."""
        return poll_stream(
            ledger=ledger or self.ledger,
            stream=self.stream,
            open_reader=lambda stream: reader or open_reader(self.source, stream),  # type: ignore[arg-type]
            dispatch=dispatch,
            worker="poller",
            **options,
        )

    def publish(self, _: str, token: str, ids: Sequence[str]) -> None:
        """Keep a message."""
        self.messages.append((token, list(ids)))

    def dispatch(self, **changes: Any) -> int:
        """Dispatch the stream; messages are kept until they are delivered."""
        options: dict[str, Any] = {
            "sizes": self.sizes,
            "publish": self.publish,
            "messages_waiting": lambda: len(self.messages),
            "worker": "dispatcher",
        }
        return dispatch_stream(ledger=self.ledger, stream=self.stream, **{**options, **changes})

    def deliver(self, message: tuple[str, list[str]] | None = None, **changes: Any) -> Delivery:
        """Deliver the oldest message, or this one, with the real client unless another is given."""
        token, ids = message or self.messages.pop(0)
        client = changes.get("client") or PartnerClient(self.partner, self.stream)
        options: dict[str, Any] = {"client": client, "send_batch": send_batch, "worker": "worker"}
        try:
            return deliver_batch(
                ledger=self.ledger,
                stream=self.stream,
                partner=self.partner,
                sizes=self.sizes,
                token=token,
                ids=ids,
                **{**options, **changes},
            )
        finally:
            if "client" not in changes:
                client.close()

    def send_all(self) -> list[Delivery]:
        """Dispatch and deliver until nothing is due."""
        done = []
        while self.dispatch():
            while self.messages:
                done.append(self.deliver())
        return done

    def maintain(self, **changes: Any) -> Maintained:
        """Do the maintenance of the stream."""
        options: dict[str, Any] = {
            "settle_seconds": self.partner.timeout_seconds,
            "messages_waiting": lambda: len(self.messages),
            "dispatch": lambda: 0,
        }
        return maintain_stream(ledger=self.ledger, stream=self.stream, **{**options, **changes})

    def expire_leases(self) -> None:
        """Let the leases of all records run out."""
        passing_time.expire_record_leases(self.database)

    def make_retries_due(self) -> None:
        """Let all due times have come."""
        passing_time.make_retries_due(self.database)

    def settle_calls(self) -> None:
        """Let the time run out in which calls without an answer may still take effect."""
        passing_time.settle_calls(self.database)

    def records(self, **query: Any) -> list[dict[str, Any]]:
        """Return the stored records, in the order in which they were observed."""
        return list(self.database.records.find(query, sort=[("seq", 1)]))

    def record(self, number: int) -> dict[str, Any]:
        """Return the one record of row `number`."""
        (found,) = self.records(key_id=key_id({"id": number}))
        return found

    def states(self) -> dict[int, list[str]]:
        """Return, by row, the states of its records, oldest first."""
        states: dict[int, list[str]] = {}
        for each in self.records():
            states.setdefault(each["key"]["id"], []).append(each["state"])
        return states

    def cursor(self) -> Any:
        """Return the text of the stored cursor."""
        return self.database.streams.find_one({"_id": self.stream.name}).get("cursor", {}).get("at")


def id_of(number: int, version: str) -> str:
    """Return the id of a record whose source names its versions."""
    return record_id("orders", key_id({"id": number}), version)
