"""The judge of every write and every call: what each may change, and what must be true at that moment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from syncctl.core.outcome import GIVEN_UP_STATUSES
from syncctl.ledger.partners import Partners
from syncctl.ledger.streams import Streams
from syncctl.partner.call_runner import WaitingCall

from .actors import Actor, current_actor

Doc = dict[str, Any]

FIELDS = (
    "state", "lease", "in_flight_key", "key_id", "seq", "claims", "due_at", "losses", "superseded_by", "history",
    "error", "waits_for", "generation",
)  # fmt: skip
TERMINAL = ("delivered", "failed", "superseded", "discarded")
OPENERS = {
    "delivered": ("replay", "poll", "deliver"),
    "failed": ("replay", "discard", "deliver"),
    "superseded": ("replay",),
    "discarded": ("replay",),
}
"""The actors that may change a terminal state: operators, a rewind with `resend`, a late outcome (invariants 3 and 5),
and a process that finds that a refusal was not about the record, or that delivers a newer version."""
RESCUERS = ("rescue", "upkeep")
PAUSES = {"streams": ("orders", ("breaker", "paused")), "partners": ("default", ("paused",))}
"""The kinds of pauses that the document of a collection has."""
LOSSES_AT_MOST = 3


@dataclass
class Removed:
    """A record that a cleanup has removed."""

    state: str
    version: str
    key_id: str
    seq: int


@dataclass
class Oracle:
    """Sees the ledger after each write of an actor.

    Args:
        database: The ledger's database, without gates.
        order: The stream's order rule.
        has_keys: Whether the stream keeps `keys`: not with `append_only`.
        losses_at_most: After how many losses a record is failed.
    """

    database: Any
    order: str
    has_keys: bool
    losses_at_most: int = LOSSES_AT_MOST
    #: Whether outcomes are written back into the source, which changes rows but not their content.
    writes_back: bool = False
    #: Whether an operator had unchanged rows sent again.
    resends: bool = False
    seen: dict[str, Doc] = field(default_factory=dict)
    removed: dict[str, Removed] = field(default_factory=dict)
    #: Every record that was ever logged.
    logged: set[str] = field(default_factory=set)
    #: Every record whose call has begun, with the batch.
    begun: set[tuple[str, str]] = field(default_factory=set)
    #: By record: for each loss since its last outcome, whether it was in flight alone.
    losses: dict[str, list[bool]] = field(default_factory=dict)
    #: The current probes, by collection and kind of pause.
    probes: dict[tuple[str, str], Doc] = field(default_factory=dict)
    #: The partner's `max_in_flight`.
    calls_at_most: int | None = None
    #: The calls in progress to the partner, each with its process, dead or alive, until its deadline has passed.
    under_way: dict[WaitingCall, str] = field(default_factory=dict)
    #: How often each event happened, so that tests can check that something was at stake.
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, what: str) -> None:
        """Count an event."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def look(self) -> dict[str, Doc]:
        """Return the records as they are."""
        fields = dict.fromkeys(FIELDS, True)
        return {document["_id"]: document for document in self.database.records.find({}, fields)}

    def watch(self, at: str, arguments: Sequence[Any]) -> None:
        """Judge a write that the current actor has just made."""
        collection = at.partition(".")[0]
        if collection in PAUSES and any(pause in str(arguments) for pause in PAUSES[collection][1]):
            self._watch_probes(collection)
        if collection != "records":
            return
        before, self.seen = self.seen, self.look()
        actor = current_actor()
        kind = "" if actor is None else actor.kind.split()[0]
        for record_id in before.keys() | self.seen.keys():
            old, new = before.get(record_id), self.seen.get(record_id)
            if old == new:
                continue
            if old is None:
                self.logged.add(record_id)
                if self.writes_back and not self.resends:
                    self._judge_logged(record_id)
            elif new is None:
                self._judge_removed(old, kind)
            else:
                self._judge(old, new, kind, actor)
        self._check_flights()

    def _judge_logged(self, record_id: str) -> None:
        """A row is logged because its content has changed, and not because its outcome was written back."""
        new = self.database.records.find_one({"_id": record_id})
        key = self._load_key(new)
        if key.get("seq", 0) > new["seq"]:
            # A poll that was taken over read the row long ago.
            return
        is_same = (key.get("hash"), key.get("op")) == (new["hash"], new["op"])
        assert not is_same, f"{new} is logged, and its row is as its key knows it: {key}"

    def _watch_probes(self, collection: str) -> None:
        """One record at a time probes whether a pause may end, unless its right to do so has lapsed."""
        document_id, pauses = PAUSES[collection]
        fields = {f"{pause}.probe": True for pause in pauses}
        document = self.database[collection].find_one({"_id": document_id}, fields) or {}
        for pause in pauses:
            place, probe = (collection, pause), document.get(pause, {}).get("probe")
            before = self.probes.pop(place, None)
            if probe is None:
                continue
            self.probes[place] = probe
            if before is None or before["token"] != probe["token"]:
                self.count("probes")
                assert before is None or before["until"] <= datetime.now(UTC), f"{before} and {probe} probe together"

    def forget_probes(self) -> None:
        """Make the rights of the current probes lapse."""
        self.probes.clear()

    def _check_flights(self) -> None:
        """Invariant 5: never two versions of a key in flight together; and a record's fields agree on its flight."""
        keys: dict[str, str] = {}
        for record in self.seen.values():
            is_in_flight = "lease" in record
            assert is_in_flight == ("in_flight_key" in record) == (record["state"] == "sending"), (
                f"{record} is half in flight"
            )
            if not is_in_flight or self.order == "none":
                continue
            other = keys.setdefault(record["key_id"], record["_id"])
            assert other == record["_id"], f"{other} and {record['_id']} of one key in flight together (invariant 5)"

    def _judge_removed(self, old: Doc, kind: str) -> None:
        assert kind == "cleanup", f"{kind} removed {old}"
        assert old["state"] in TERMINAL, f"{old} was removed and is not finished"
        self.removed[old["_id"]] = Removed(
            state=old["state"], version=old["_id"], key_id=old["key_id"], seq=int(old["seq"])
        )

    def _judge(self, old: Doc, new: Doc, kind: str, actor: Actor | None) -> None:
        if any(entry.get("late") for entry in new.get("history", ())[len(old.get("history", ())) :]):
            self.count("late")
        if "lease" in old:
            if self._flight(old) != self._flight(new):
                self._judge_end_of_flight(old, new, kind, actor)
        elif "lease" in new:
            self._judge_taken(old, new, actor)
        elif old["state"] in TERMINAL and new["state"] != old["state"] and kind:
            allowed = OPENERS[old["state"]]
            assert kind in allowed, f"{kind} made {new['state']} of {old} (invariant 3)"
            if kind == "deliver" and new["state"] == "superseded":
                assert self.order == "latest", f"{old} was passed over: {new}"
                assert self._load_key(new)["delivered_seq"] > old["seq"], f"{old} is superseded by nothing newer: {new}"
                self.count("failed and superseded")
            elif kind == "deliver" and old["state"] == "failed":
                assert new["history"][-1]["action"] == "taken_back", f"{old} came back as {new}"
                self.count("taken back")
            if kind == "replay":
                self.losses.pop(new["_id"], None)

    @staticmethod
    def _flight(document: Doc) -> tuple[Any, ...]:
        return document["state"], document.get("lease", {}).get("token"), document.get("in_flight_key")

    def _judge_taken(self, old: Doc, new: Doc, actor: Actor | None) -> None:
        assert old["state"] == "pending", f"{old} was taken"
        if actor is not None:
            assert actor.process is not None, f"{actor.kind} took {old}"
            assert new["lease"]["worker"] == actor.process.name, f"{new} was taken for another (invariant 3)"
        self.count("taken")

    def _judge_end_of_flight(self, old: Doc, new: Doc, kind: str, actor: Actor | None) -> None:
        """Invariant 3: only the holder ends a flight, or a process that seized its batch after the lease ran out."""
        lease = old["lease"]
        assert "lease" not in new, f"{new} went from one flight into another: {old}"
        holder = actor.process.name if actor is not None and actor.process is not None else None
        if holder == lease["worker"]:
            self._judge_outcome(old, new)
            return
        assert actor is None or kind in RESCUERS, f"{kind} ({holder}) changed what {lease} holds (invariant 3)"
        batch = self.database.batches.find_one({"_id": lease["token"]})
        if batch is None:
            assert (old["_id"], lease["token"]) not in self.begun, f"{old} was brought back, and its batch is gone"
            self._judge_given_back(old, new)
            self.count("orphans")
            return
        assert "seized_until" in batch, f"{old} was brought back from a batch that was not seized (invariant 3)"
        assert batch["until"] <= datetime.now(UTC), f"{old} was brought back before its lease ran out (invariant 3)"
        if old["_id"] in batch["begun"]:
            self._judge_lost(old, new, is_alone=len(batch["ids"]) == 1)
            return
        self._judge_given_back(old, new)

    def _judge_given_back(self, old: Doc, new: Doc) -> None:
        """Invariant 13: nothing was sent, so there is nothing to wait for."""
        given_back = (new["state"], new["claims"], new["due_at"], new.get("losses"))
        expected = ("pending", old["claims"] - 1, old["due_at"], old.get("losses"))
        assert given_back == expected, f"{old} was not begun and came back as {new}"
        self.count("given back")

    def _judge_outcome(self, old: Doc, new: Doc) -> None:
        """Invariant 5: the key knows of a call before its record is no longer in flight."""
        history = new.get("history", ())
        if len(history) == len(old.get("history", ())):
            self.count("released")
            return
        entry = history[-1]
        if entry["action"] != "attempt":
            return
        self.losses.pop(new["_id"], None)
        self.count("outcomes")
        if "lookup" in entry:
            self.count(entry["lookup"])
            # It changes nothing at the partner.
            return
        if not self.has_keys:
            return
        key = self._load_key(new)
        if entry["outcome"] == "accepted":
            assert key.get("delivered_seq", 0) >= new["seq"], f"{new} was delivered before its key {key} knew of it"
        elif entry["outcome"] == "ambiguous" or entry["status"] in GIVEN_UP_STATUSES:
            assert key.get("reached_seq", 0) >= new["seq"], f"{new} may land, and its key {key} does not know of it"

    def _judge_lost(self, old: Doc, new: Doc, *, is_alone: bool) -> None:
        """A record is poison once it was lost alone three times; or twice, if it had been lost in company before that.

        A loss in company is counted once, and only if it is the first: any of the others may have killed the process.
        """
        self.count("lost")
        entry = new["history"][-1]
        assert entry["action"] == "lost", f"{old} was lost, and its history does not say so: {new}"
        assert entry["n"] == old["claims"], f"{old} was lost under another number (invariant 4): {entry}"
        if self.has_keys and self.order != "none":
            reached = self._load_key(new).get("reached_seq", 0)
            assert reached >= new["seq"], f"{new} was lost, and its key does not know that it may land (invariant 5)"
        losses = self.losses.setdefault(new["_id"], [])
        losses.append(is_alone)
        counted = sum(losses) + (1 if not losses[0] else 0)
        if new["state"] == "failed":
            self.count("poison")
            assert counted >= self.losses_at_most, f"{new} is poison after {losses}"
        else:
            assert new["state"] == "pending", f"{old} was lost and is {new}"
            assert counted < self.losses_at_most, f"{new} was lost {losses} and is sent once more"

    def _load_key(self, record: Mapping[str, Any]) -> Doc:
        return self.database["keys"].find_one({"_id": f"orders:{record['key_id']}"}) or {}

    def check_start(self, call: WaitingCall) -> None:
        """Judge a call that may begin at this moment: its lease is held, and its beginning is noted."""
        token = call.owner.batch.claim.token
        batch = self.database.batches.find_one({"_id": token})
        assert batch is not None, f"a call begins, and batch {token} is gone"
        assert "seized_until" not in batch, f"a call begins of a batch that was seized: {batch} (invariant 3)"
        assert batch["until"] > datetime.now(UTC), f"a call begins after the lease has run out: {batch} (invariant 3)"
        for record in call.bulk.records:
            assert record.id in batch["begun"], f"the call of {record.id} begins and is not noted: {batch}"
            self.begun.add((record.id, token))
        self.count("calls")

    def check_admitted(self, call: WaitingCall) -> None:
        """Judge a call that may begin: the state of the pauses that its process has read is recent, and admits it."""
        gate, token = call.owner.lane.gate, call.owner.batch.claim.token
        assert not gate.is_stale, f"a call of {token} begins on what was seen long ago"
        seen = (gate.of_stream.breaker, gate.of_stream.hold, gate.of_partner.hold)
        assert all(pause.admits(token) for pause in seen), (
            f"a call of {token} begins, and {seen} lets probes through only"
        )
        now = (Streams(self.database, "").load_gate("orders"), Partners(self.database, "").load_gate("default"))
        if now[0].breaker.probe == token or token in (now[0].hold.probe, now[1].hold.probe):
            self.count("calls that probe")

    def check_permit(self, call: WaitingCall, process: str) -> None:
        """Judge a call that begins: no more than `max_in_flight` calls are in progress, each under a permit."""
        self.under_way[call] = process
        if self.calls_at_most is None:
            return
        assert len(self.under_way) <= self.calls_at_most, f"{list(self.under_way.values())} all call at once"
        partner = self.database.partners.find_one({"_id": "default"}) or {}
        live = [permit for permit in partner.get("permits", ()) if permit["until"] > datetime.now(UTC)]
        assert sum(permit["calls"] for permit in live) <= self.calls_at_most, f"too many permits: {live}"
        held = sum(permit["calls"] for permit in live if permit["token"] == process)
        own = sum(other == process for other in self.under_way.values())
        assert own <= held, f"{process} makes {own} calls, and holds {held} permits: {live}"
        if held < self.calls_at_most and len(live) > 1:
            self.count("calls beside another's permits")

    def let_calls_end(self, processes: Sequence[str] | None) -> None:
        """Forget the calls of some processes, or of all including dead ones, because their deadlines have passed."""
        self.under_way = {
            call: process
            for call, process in self.under_way.items()
            if processes is not None and process not in processes
        }

    def holds(self, record_id: str, token: str) -> Doc | None:
        """Return a record if this batch holds it at this moment."""
        record: Doc | None = self.database.records.find_one({"_id": record_id, "lease.token": token})
        held = {"_id": token, "seized_until": {"$exists": False}, "until": {"$gt": datetime.now(UTC)}}
        return record if record is not None and self.database.batches.find_one(held) is not None else None
