"""The delivery loop: take due records, call the partner, write the outcomes, and continue while there is work."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from queue import SimpleQueue

from syncctl.core.adaptive_limit import AdaptiveLimit
from syncctl.core.stream import Partner, Stream
from syncctl.errors import ServiceUnavailable, SyncctlError
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.mongo_client import new_token
from syncctl.logs import get_logger
from syncctl.partner.call_runner import CallResult, CallRunner, take_results
from syncctl.pipeline.delivery.delivery_gate import Permits, look_through
from syncctl.pipeline.delivery.delivery_lane import DeliveryLane
from syncctl.pipeline.delivery.stream_setup import StreamSetup
from syncctl.pipeline.maintenance.maintenance import rescue_leases

log = get_logger(__name__)

RESCUE_EVERY_SECONDS = 2.0
OTHERS_EVERY_SECONDS = 1.0
"""How often the loop checks whether streams that it is not delivering have due records."""
TAKE_SECONDS = 0.5
"""How long batches are taken before calls begin: otherwise hundreds of streams would delay calls, and the renewal of
leases."""
HELP_EVERY_SECONDS = 1.0
AWAY_SECONDS = 1.0
"""How long the loop begins nothing new after MongoDB failed to answer."""
GIVE_UP_AFTER_SECONDS = 30.0
"""How long a loop that was asked to stop tries to write outcomes while MongoDB is away."""
TURN_SECONDS = 0.02


class DeliveryLoop:
    """Delivers the due records of all streams, in one process, until none are left.

    A call that hangs delays nothing else: the loop keeps taking records. It renews the lease of each batch; if it stops
    doing so, another process brings the records back.

    Args:
        streams: Every configured stream by name.
        partners: Every partner by name.
        make_setup: Returns the parts that a stream's delivery needs.
        worker: The name of this process.
        is_stopping: Whether the worker was asked to stop: then no call begins, unsent records are returned, and running
            calls finish.
        count_slots: How many delivery loops all workers run; they share a partner's `max_in_flight`.
        wake: Wakes another process to help with a stream; never raises.
        seconds: How long the loop takes records; after that the process is free for other work.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        streams: Mapping[str, Stream],
        partners: Mapping[str, Partner],
        make_setup: Callable[[str], StreamSetup],
        worker: str,
        is_stopping: Callable[[], bool] = lambda: False,
        count_slots: Callable[[], int] = lambda: 1,
        wake: Callable[[str], object] = lambda _: None,
        seconds: float = float("inf"),
    ) -> None:
        self._ledger = ledger
        self._streams = streams
        self._partners = partners
        self._make_setup = make_setup
        self._worker = worker
        self._asked_to_stop = is_stopping
        self._count_slots = count_slots
        self._wake = wake
        self._results: SimpleQueue[CallResult] = SimpleQueue()
        self._lanes: dict[str, DeliveryLane] = {}
        self._runners: dict[str, CallRunner] = {}
        self._limits: dict[str, AdaptiveLimit] = {}
        self._permits: dict[str, Permits] = {}
        self._token = new_token()
        self._ends_at = time.monotonic() + seconds
        self._is_retired = False
        self._others_at = 0.0
        self._rescue_at = 0.0
        self._help_at: dict[str, float] = {}
        #: How many batches were finished when the loop last looked at a stream.
        self._seen: dict[str, int] = {}
        self._bugs: dict[str, Exception] = {}
        self._away_until = 0.0
        self._away_since: float | None = None

    def run(self, first: str) -> dict[str, dict[str, int]]:
        """Deliver until no stream has due records and nothing is in flight here; return what was done, by stream.

        Args:
            first: The stream to begin with.

        Raises:
            ConfigurationError: That stream cannot be delivered.
            Exception: A bug in syncctl that one stream met; it is raised once the other streams are done.
        """
        try:
            self._open_lane(first)
            while not self._turn():
                pass
        finally:
            self._close()
        for error in self._bugs.values():
            raise error
        return {lane.name: lane.total for lane in self._lanes.values() if lane.total}

    @property
    def _is_stopping(self) -> bool:
        return self._asked_to_stop() or self._is_retired

    def _turn(self) -> bool:
        """Do one short round of sending, collecting results and writing; return whether all is done."""
        if time.monotonic() >= self._away_until:
            try:
                self._send()
            except ServiceUnavailable as error:
                self._note_away(error)
        self._collect()
        if time.monotonic() >= self._away_until:
            try:
                self._write()
                self._away_since = None
            except ServiceUnavailable as error:
                self._note_away(error)
        return self._is_done()

    def _send(self) -> None:
        """Take records and begin calls."""
        now = time.monotonic()
        if now > self._ends_at and not self._is_retired:
            self._is_retired = True
            for lane in self._lanes.values():
                if not lane.is_idle:
                    self._wake(lane.name)
        if not self._is_stopping:
            self._open_others(now)
        look_through(self._ledger, [lane.gate for lane in self._lanes.values() if lane.gate.may_look])
        self._keep_permits()
        # In random order: in a fixed one the first stream would always use up a partner's limit.
        lanes = random.sample(list(self._lanes.values()), len(self._lanes))
        if not self._is_stopping:
            self._take(lanes, now)
        for lane in lanes:
            if self._is_stopping:
                lane.give_back_planned()
            self._prepare(lane)
            lane.begin_calls()

    def _open_others(self, now: float) -> None:
        """Check whether streams that have no lane, or a dry one, have due records."""
        if now < self._others_at:
            return
        others = [name for name in self._streams if name not in self._lanes or self._lanes[name].is_dry]
        due = self._ledger.records.find_due_streams(others)
        for name in due:
            self._look_again(name)
        self._others_at = now + OTHERS_EVERY_SECONDS

    def _take(self, lanes: Sequence[DeliveryLane], now: float) -> None:
        until = time.monotonic() + TAKE_SECONDS
        for lane in lanes:
            if time.monotonic() > until:
                break
            if lane.name in self._bugs or not lane.wants_more():
                continue
            self._seen[lane.name] = self._count_ended()
            try:
                taken = lane.take()
            except ServiceUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - invariant 12
                self._note_bug(lane, error)
                continue
            if taken.has_more and now >= self._help_at.get(lane.name, 0.0):
                self._help_at[lane.name] = now + HELP_EVERY_SECONDS
                self._wake(lane.name)

    def _prepare(self, lane: DeliveryLane) -> None:
        try:
            lane.prepare_calls()
        except Exception as error:  # noqa: BLE001 - invariant 12
            self._note_bug(lane, error)
            lane.give_back_planned()

    def _note_bug(self, lane: DeliveryLane, error: Exception) -> None:
        """Take no more records of a stream that met a bug in syncctl; others continue, and it is raised at the end.

        A known error, such as a missing index, does the same, but is not reported as a bug.
        """
        self._bugs[lane.name] = error
        if isinstance(error, SyncctlError):
            self._note_impossible(lane.name, error)
            return
        log.exception("deliver.bug", stream=lane.name, error=type(error).__name__)
        self._note_failure(lane.name, f"a bug in syncctl: {type(error).__name__}")

    def _note_impossible(self, name: str, error: SyncctlError) -> None:
        log.warning("deliver.impossible", stream=name, error=str(error), hint=error.hint)
        self._note_failure(name, str(error))

    def _note_failure(self, name: str, error: str) -> None:
        """Note in the ledger that this process delivers nothing of a stream (invariant 12)."""
        with suppress(SyncctlError):
            self._ledger.streams.note_delivery_error(name, error, worker=self._worker)

    def _open_lane(self, name: str) -> None:
        try:
            setup = self._make_setup(name)
        except SyncctlError as error:
            self._note_impossible(name, error)
            raise
        partner = setup.partner
        if partner.name not in self._runners:
            limit = None if partner.max_in_flight else AdaptiveLimit()
            first = limit.limit if limit is not None else 0
            self._runners[partner.name] = CallRunner(self._results, limit=first, counts_slow=limit is None)
            if limit is not None:
                self._limits[partner.name] = limit
            else:
                share = -(-(partner.max_in_flight or 1) // max(1, self._count_slots()))
                self._permits[partner.name] = Permits(self._ledger, partner, token=self._token, share=share)
        permits = self._permits.get(partner.name)
        self._lanes[name] = DeliveryLane(
            self._ledger,
            setup,
            self._runners[partner.name],
            self._limits.get(partner.name),
            worker=self._worker,
            is_stopping=lambda: self._is_stopping,
            has_permit=(lambda: permits.is_fresh) if permits is not None else lambda: True,
        )

    def _keep_permits(self) -> None:
        for name, permits in self._permits.items():
            lanes = [lane for lane in self._lanes.values() if lane.setup.partner.name == name]
            keep_permits(permits, self._runners[name], lanes, is_stopping=self._is_stopping)

    def _collect(self) -> None:
        now = time.monotonic()
        timeout = TURN_SECONDS
        for lane in self._lanes.values():
            if lane.next_permit_at > now:
                timeout = min(timeout, lane.next_permit_at - now)
        if all(lane.is_idle for lane in self._lanes.values()):
            timeout = 0.005
        if any(lane.may_prepare for lane in self._lanes.values()):
            timeout = 0.0
        for call, outcomes in take_results(self._results, timeout_seconds=timeout):
            call.owner.lane.note_result(call, outcomes)

    def _write(self) -> None:
        for lane in self._lanes.values():
            lane.renew_leases()
        for lane in self._lanes.values():
            lane.write_outcomes()
        now = time.monotonic()
        for name, limit in self._limits.items():
            runner = self._runners[name]
            runner.set_limit(limit.judge(now=now, was_reached=runner.waiting > 0))
        if any(lane.has_lost_batch for lane in self._lanes.values()):
            # This process knows more of its calls than the ledger does: it writes that before leases are rescued.
            self._rescue_at = max(self._rescue_at, now + RESCUE_EVERY_SECONDS)
            for lane in self._lanes.values():
                lane.has_lost_batch = False
        if now >= self._rescue_at and not self._asked_to_stop():
            self._rescue_at = now + RESCUE_EVERY_SECONDS
            for name in rescue_leases(ledger=self._ledger, streams=self._streams, partners=self._partners):
                self._look_again(name)

    def _look_again(self, name: str) -> None:
        """Look at a stream whose records have just become due, before the loop can end."""
        if name not in self._lanes and not self._is_stopping:
            with suppress(SyncctlError):
                self._open_lane(name)
        if (lane := self._lanes.get(name)) is not None:
            lane.is_dry = False
            lane.next_look_at = 0.0

    def _note_away(self, error: ServiceUnavailable) -> None:
        """Begin nothing for a moment; the outcomes of running calls are written once MongoDB answers again."""
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            log.warning("deliver.without_ledger", error=str(error))
        self._away_until = now + AWAY_SECONDS
        self._rescue_at = max(self._rescue_at, now + RESCUE_EVERY_SECONDS)

    def _is_done(self) -> bool:
        is_away = self._away_since is not None and time.monotonic() - self._away_since > GIVE_UP_AFTER_SECONDS
        if any(not lane.is_idle for lane in self._lanes.values()):
            return is_away and self._asked_to_stop()
        if is_away or self._is_stopping:
            return True
        if any(permits.is_waiting for permits in self._permits.values()):
            return False
        is_dry = all(lane.is_dry or lane.name in self._bugs for lane in self._lanes.values())
        return is_dry and not self._look_again_where_waiting()

    def _look_again_where_waiting(self) -> bool:
        """Look again, before the loop can end, at streams that waited for records which have since been finished."""
        waiting = [
            lane for lane in self._lanes.values() if lane.is_waiting and self._seen[lane.name] != self._count_ended()
        ]
        for lane in waiting:
            self._look_again(lane.name)
        return bool(waiting)

    def _count_ended(self) -> int:
        return sum(lane.batches_ended for lane in self._lanes.values())

    def _close(self) -> None:
        """Return unsent records, wait for running calls, write their outcomes, and release the permits."""
        self._is_retired = True
        try:
            until = time.monotonic() + max((partner.timeout_seconds for partner in self._partners.values()), default=0)
            while any(not lane.is_idle for lane in self._lanes.values()) and time.monotonic() < until + AWAY_SECONDS:
                with suppress(ServiceUnavailable):
                    for lane in self._lanes.values():
                        lane.give_back_planned()
                        lane.write_outcomes(all_of_them=True)
                        lane.renew_leases()
                if any(not lane.is_idle for lane in self._lanes.values()):
                    self._collect()
        finally:
            for permits in self._permits.values():
                with suppress(ServiceUnavailable):
                    permits.release()


def keep_permits(permits: Permits, runner: CallRunner, lanes: Sequence[DeliveryLane], *, is_stopping: bool) -> None:
    """Hold permits of a partner's `max_in_flight` while its streams need them.

    They are returned once nothing is in hand. A loop without permits returns all unsent records, so that the loops that
    hold the permits can take them: otherwise they would wait here for as long as those loops have work (invariant 12).
    """
    is_idle = all(lane.is_idle for lane in lanes)
    if is_idle and (is_stopping or not any(lane.may_look for lane in lanes)):
        permits.release()
        runner.set_limit(0)
        return
    wanted = runner.under_way + runner.waiting + sum(lane.backlog for lane in lanes)
    runner.set_limit(permits.keep(wanted=wanted, most_under_way=runner.most_under_way, asks=not is_stopping))
    if runner.limit == 0:
        for lane in lanes:
            lane.give_back_planned()
