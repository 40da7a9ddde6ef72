"""The pipeline around a real ledger and a real partner; only Celery is missing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from syncctl.core.batch_sizes import Sizes, decide_sizes
from syncctl.core.cursors import Basis, Witness
from syncctl.core.ids import content_hash, key_id, record_id
from syncctl.core.outcome import Outcome, Verdict
from syncctl.core.rows import Cursor, Page, Row, Value
from syncctl.core.schema_changes import DeclaredRelation
from syncctl.core.stream import Mode, Partner, RetrySchedule, Source, Stream
from syncctl.ledger.batches import Claim
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.mongo_client import new_token
from syncctl.ledger.records import NewRecord
from syncctl.partner.client import PartnerClient
from syncctl.pipeline.delivery.deliver import DeliveryLoop
from syncctl.pipeline.delivery.dispatch import Taken, take_batch
from syncctl.pipeline.delivery.stream_setup import StreamSetup
from syncctl.pipeline.maintenance.maintenance import Maintained, maintain_stream, rescue_leases
from syncctl.pipeline.polling.poll import Run, poll_stream
from syncctl.sources.reader import StreamReader
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


def claim_records(
    ledger: Ledger,
    ids: Sequence[str],
    *,
    worker: str = "worker",
    seconds: float = 300.0,
    mapping_hash: str = "mapping",
    exclusive: bool = True,
    begun: bool = False,
) -> Claim:
    """Take due records into flight as one batch.

    Args:
        begun: Whether their calls may have begun.
    """
    claim = ledger.batches.take(
        "orders",
        ids,
        token=new_token(),
        mapping_hash=mapping_hash,
        seconds=seconds,
        worker=worker,
        exclusive=exclusive,
    )
    assert claim is not None, "none of the records could be taken"
    if begun:
        assert ledger.batches.begin(claim, [record.id for record in claim.records], seconds=seconds)
    return claim


def lose_records(ledger: Ledger, database: Any, ids: Sequence[str], *, worker: str = "dead") -> Claim:
    """Have a process take records, begin their calls and die, and bring back its records."""
    claim = claim_records(ledger, ids, worker=worker, begun=True)
    passing_time.expire_batch_leases(database)
    for batch in ledger.batches.seize_expired(["orders"], limit=10):
        lost = ledger.lease_rescue.find_lost(batch)
        ledger.lease_rescue.return_lost(batch, lost, after_seconds=0.0)
        assert ledger.batches.end_if_done(batch)
    return claim


@dataclass
class ListReader:
    """A source whose rows are given in a list; each poll reads all of them, whatever the cursor is."""

    rows: Sequence[Row]
    columns_fingerprint: str = "columns"
    advice: tuple[str, ...] = ()
    page_size: int = 100
    closed: bool = False
    mode: Mode = "increasing"
    cursor_kind = "values"
    telling_columns: frozenset[str] = frozenset()
    declared: tuple[DeclaredRelation, ...] = ()
    sent_columns: frozenset[str] = frozenset()
    reads_table = False
    basis = Basis(database="", table="main.orders", key=("id",), query=None, where=None, start="beginning")

    def first_warnings(self) -> tuple[str, ...]:
        return self.advice

    def start_cursor(self) -> Cursor:
        return {"mode": "list", "at": "start"}

    def pages(self, _: Cursor) -> Iterator[Page]:
        for start in range(0, len(self.rows), self.page_size):
            rows = tuple(self.rows[start : start + self.page_size])
            yield Page(rows=rows, cursor={"mode": "list", "at": rows[-1].at})

    def find_again(self, witnesses: Sequence[Witness]) -> list[Row | None]:
        return [None for _ in witnesses]

    def warnings(self) -> tuple[str, ...]:
        return self.advice

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
    #: The streams for which another process was to be woken.
    woken: list[str] = field(default_factory=list)

    @property
    def sizes(self) -> Sizes:
        """The stream's own sizes."""
        return decide_sizes(self.stream, self.partner)

    def change_stream(self, **changes: Any) -> None:
        """Change the stream's settings."""
        self.stream = replace(self.stream, **changes)

    def poll(
        self,
        reader: Any = None,
        *,
        ledger: Any = None,
        wake: Callable[[], bool] = lambda: False,
        **options: Any,
    ) -> Run:
        """Poll the stream from its source, or from this reader; wake no worker unless asked to."""
        return poll_stream(
            ledger=ledger or self.ledger,
            stream=self.stream,
            open_reader=lambda stream: reader or StreamReader(self.source, stream),  # type: ignore[arg-type]
            wake=wake,
            worker="poller",
            **options,
        )

    def take(self, **changes: Any) -> Taken:
        """Take due records into flight as one batch, and make no call."""
        options: dict[str, Any] = {"mapping_hash": "mapping", "worker": "taker"}
        return take_batch(
            ledger=self.ledger,
            stream=self.stream,
            partner=self.partner,
            **{"sizes": self.sizes, **options, **changes},
        )

    def take_rows(self, **changes: Any) -> list[int]:
        """Take one batch; return the numbers of its rows, in its order."""
        claim = self.take(**changes).claim
        return [] if claim is None else [int(str(record.key["id"])) for record in claim.records]

    def take_all(self) -> list[list[int]]:
        """Take batches until there is nothing to take; return the numbers of the rows of each."""
        taken = []
        while rows := self.take_rows():
            taken.append(rows)
        return taken

    def give_back(self, claim: Claim | None) -> None:
        """Give back a batch of which nothing was sent."""
        assert claim is not None
        self.ledger.batches.release(claim, [record.id for record in claim.records])
        self.ledger.batches.end(claim.token)

    def make_setup(self, name: str = "orders", *, client: PartnerClient | None = None, rate: Any = None) -> StreamSetup:
        """Return the setup of the stream's delivery."""
        assert name == self.stream.name
        return StreamSetup(
            stream=self.stream,
            partner=self.partner,
            client=client or PartnerClient(self.partner, self.stream),
            sizes=self.sizes,
            rate=rate,
        )

    def make_loop(self, *, client: PartnerClient | None = None, rate: Any = None, **changes: Any) -> DeliveryLoop:
        """Return a delivery loop for this stream alone."""
        options: dict[str, Any] = {
            "streams": {self.stream.name: self.stream},
            "partners": {self.partner.name: self.partner},
            "make_setup": partial(self.make_setup, client=client, rate=rate),
            "worker": "worker",
            "wake": self.woken.append,
        }
        return DeliveryLoop(ledger=self.ledger, **{**options, **changes})

    def deliver(self, *, client: PartnerClient | None = None, **changes: Any) -> dict[str, int]:
        """Deliver until nothing is due; return the counts of the results.

        Args:
            client: Makes the calls; by default a real client of the stream.
        """
        own = client or PartnerClient(self.partner, self.stream)
        try:
            return dict(self.make_loop(client=own, **changes).run(self.stream.name).get(self.stream.name, {}))
        finally:
            if client is None:
                own.close()

    def maintain(self, **changes: Any) -> Maintained:
        """Do the maintenance of the stream."""
        options: dict[str, Any] = {"partner": self.partner, "wake": lambda: 0}
        return maintain_stream(ledger=self.ledger, stream=self.stream, **{**options, **changes})

    def rescue(self) -> int:
        """Bring back the records of batches whose lease ran out, as every delivery loop does."""
        streams: Mapping[str, Stream] = {self.stream.name: self.stream}
        done = rescue_leases(ledger=self.ledger, streams=streams, partners={self.partner.name: self.partner})
        return done.get(self.stream.name, 0)

    def let_leases_expire(self) -> int:
        """Let the leases of all batches run out; return how many there were."""
        return passing_time.expire_batch_leases(self.database)

    def make_retries_due(self) -> None:
        """Make all pending records due now."""
        passing_time.make_retries_due(self.database)

    def settle_calls(self) -> None:
        """Let the time run out in which calls without an answer may still take effect."""
        passing_time.settle_calls(self.database)

    def records(self, **query: Any) -> list[dict[str, Any]]:
        """Return the stored records, in the order in which they were observed."""
        return list(self.database.records.find(query, sort=[("seq", 1)]))

    def record(self, number: int) -> dict[str, Any]:
        """Return the one record of row `number`."""
        (record,) = self.records(key_id=key_id({"id": number}))
        return record

    def states(self) -> dict[int, list[str]]:
        """Return, by row, the states of its records, oldest first."""
        states: dict[int, list[str]] = {}
        for record in self.records():
            states.setdefault(record["key"]["id"], []).append(record["state"])
        return states

    def cursor(self) -> Any:
        """Return the text of the stored cursor."""
        return self.database.streams.find_one({"_id": self.stream.name}).get("cursor", {}).get("at")


def id_of(number: int, version: str) -> str:
    """Return the id of a record whose source names its versions."""
    return record_id("orders", key_id({"id": number}), version)
