"""tail: follow attempts as they are written, each once, using an index on the time of a record's last change."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from syncctl.errors import ServiceUnavailable, UsageError
from syncctl.ledger.attempt_feed import Attempt, ChangedRecord
from syncctl.ledger.ledger import Ledger
from syncctl.pipeline.selection import find_key_ids

RECORDS_AT_ONCE = 500
SORTED_AT_ONCE = 20_000
"""How many attempts are held back so that they can be sorted by time."""
REMEMBERED_AT_MOST = 300_000
"""How many attempts are remembered so that none is shown twice."""
_Identity = tuple[str, datetime, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptFilter:
    """The attempts to follow."""

    #: The streams; empty for every stream.
    streams: tuple[str, ...] = ()
    #: The states that the records were in after the attempts; empty for any state.
    states: tuple[str, ...] = ()
    #: The fingerprint of the attempts' error, or its first digits.
    error: str | None = None
    #: The key of the attempts' row, as `5` or `a=1,b=2`.
    key: str | None = None

    def admits(self, attempt: Attempt) -> bool:
        """Tell whether an attempt passes the filters; the query applies those on stream and key."""
        if self.states and attempt.state not in self.states:
            return False
        return self.error is None or (attempt.fingerprint or "").startswith(self.error)


class AttemptFeed:
    """Yields each attempt once, over any number of readings.

    MongoDB stamps an attempt when its write begins, and shows it when the write is done, so an older stamp may become
    visible after a newer one. The last `SOON_SECONDS` are therefore read again each time, and now and then the last
    `LATE_SECONDS`: MongoDB gives up writes that take longer.

    Args:
        since: The time of the first attempts to follow, by MongoDB's clock.
    """

    SOON_SECONDS = 2.0
    LATE_SECONDS = 60.0
    LATE_EVERY = 15
    """One in this many readings goes back by `LATE_SECONDS`."""

    def __init__(self, ledger: Ledger, wanted: AttemptFilter, since: datetime) -> None:
        self._ledger = ledger
        self._wanted = wanted
        #: All wanted attempts before this time were yielded.
        self._floor = since
        #: The time of the last change that was seen.
        self._front = since
        #: How far a reading had come when an error of MongoDB interrupted it.
        self._reached: datetime | None = None
        self._readings = 0
        #: The attempts since the floor that were yielded, in the order in which they were found.
        self._yielded: dict[_Identity, None] = {}
        #: The ids of the wanted keys by stream; empty for a stream with other key columns.
        self._key_ids: dict[str, tuple[str, ...]] = {}

    def read(self) -> Iterator[list[Attempt]]:
        """Yield the attempts that are new since the last reading, in the order of their time.

        If there are many, they come in several lists, in the order in which their records last changed. After an error,
        the next reading continues where this one ended: no attempt is missed, and none comes twice.

        Raises:
            ServiceUnavailable: MongoDB cannot be reached.
        """
        goes_far = self._readings % self.LATE_EVERY == 0
        settled = self._floor
        if goes_far:
            settled = self._ledger.streams.server_time() - timedelta(seconds=self.LATE_SECONDS)
        start = self._reached or (
            self._floor if goes_far else max(self._floor, self._front - timedelta(seconds=self.SOON_SECONDS))
        )
        held: list[Attempt] = []
        try:
            for record in self._walk(start):
                held += [
                    attempt for attempt in record.attempts if self._is_new(attempt) and self._wanted.admits(attempt)
                ]
                if len(held) >= SORTED_AT_ONCE:
                    yield _sort(held)
                    held = []
        except ServiceUnavailable:
            if held:
                yield _sort(held)
            raise
        self._reached = None
        self._readings += 1
        self._floor = max(self._floor, settled)
        self._yielded = {identity: None for identity in self._yielded if identity[1] >= self._floor}
        if held:
            yield _sort(held)

    def _walk(self, start: datetime) -> Iterator[ChangedRecord]:
        streams, key_ids = self._wanted.streams, None
        if self._wanted.key is not None:
            rows = self._find_rows()
            if not rows:
                return
            streams, key_ids = tuple(rows), sorted({key_id for ids in rows.values() for key_id in ids})
        since, last_ids = start, list[str]()
        while page := self._ledger.attempts.read_page(
            changed_since=since,
            attempts_since=self._floor,
            streams=streams,
            key_ids=key_ids,
            without=last_ids,
            limit=RECORDS_AT_ONCE,
        ):
            yield from page
            # Several records may have changed in the same millisecond, and a page may end between them.
            last = page[-1].updated_at
            ids = [record.id for record in page if record.updated_at == last]
            last_ids = last_ids + ids if last == since else ids
            since = self._reached = last
            self._front = max(self._front, last)

    def _find_rows(self) -> dict[str, tuple[str, ...]]:
        """Return the ids of the wanted keys by stream; a stream may be polled for the first time only later.

        Raises:
            UsageError: At the first reading, the key fits no stream.
        """
        text, refused = self._wanted.key or "", None
        for stream in self._wanted.streams or self._ledger.streams.load_names():
            if stream not in self._key_ids:
                try:
                    self._key_ids |= find_key_ids(self._ledger, [stream], text)
                except UsageError as error:
                    self._key_ids[stream] = ()
                    refused = refused or error
        rows = {stream: ids for stream, ids in self._key_ids.items() if ids}
        if refused is not None and not rows and self._readings == 0:
            raise refused
        return rows

    def _is_new(self, attempt: Attempt) -> bool:
        identity = (attempt.id, attempt.at, attempt.attempt)
        if identity in self._yielded:
            return False
        self._yielded[identity] = None
        if len(self._yielded) > REMEMBERED_AT_MOST:
            del self._yielded[next(iter(self._yielded))]
        return True


def _sort(attempts: Sequence[Attempt]) -> list[Attempt]:
    return sorted(attempts, key=lambda attempt: (attempt.at, attempt.id, attempt.attempt))
