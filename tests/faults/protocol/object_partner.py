"""A partner with ids of its own: an object for each row, which is created by POST and known by its id from then on."""

from dataclasses import dataclass, field, replace

from syncctl.core.outcome import Outcome, Verdict
from syncctl.partner.captured_values import make_failed_lookup

from .simulation_cases import REFUSALS, Answer, LoggedCall, ScriptedPartner, refuse


@dataclass
class ObjectPartner(ScriptedPartner):
    """Creates an object with each POST, or with each `Idempotency-Key` where it knows them.

    That a call under a used key changes nothing holds for all but a POST: what a PUT does again that was accepted
    before, and after a newer one, is where the docs say that the promise of order ends.
    """

    knows_keys: bool = True
    #: Its objects are lost when it says so: what answers 410 to an update has no object any more.
    loses_objects: bool = False
    #: The objects there are: of which row each is.
    objects: dict[str, int] = field(default_factory=dict)
    #: Of which row each object is, or was.
    owners: dict[str, int] = field(default_factory=dict)
    #: The object that each `Idempotency-Key` has created.
    created: dict[str, str] = field(default_factory=dict)
    #: The rows of which a call came when nobody could expect it any more, as the docs say.
    excused: set[int] = field(default_factory=set)

    def find(self, key: int) -> list[str]:
        """Return the objects of a row."""
        return [name for name, owner in self.objects.items() if owner == key]

    def land(self, call: LoggedCall) -> None:
        """Apply a call whose answer nobody gets."""
        if call.method == "GET":
            self.log.append(call)
        else:
            self.apply(call)

    def apply(self, call: LoggedCall) -> Outcome:
        """Apply a call, and return its answer."""
        self.log.append(call)
        self.check_bytes(call)
        if call.object_id is None:
            return self._create(call)
        owner = self.owners.get(call.object_id)
        assert owner == call.key, f"{call} goes to the object of row {owner}"
        if call.object_id not in self.objects:
            is_done = call.method == "DELETE"
            verdict, error = (Verdict.ACCEPTED, None) if is_done else (Verdict.REJECTED, "HTTP 404 $no")
            return Outcome(verdict=verdict, status=404, latency_ms=1.0, error=error)
        if call.idempotency_key not in self.accepted:
            self._keep(call)
            if call.method == "DELETE":
                del self.objects[call.object_id]
        return Outcome(verdict=Verdict.ACCEPTED, status=200, latency_ms=1.0)

    def _create(self, call: LoggedCall) -> Outcome:
        assert call.content is not None, f"{call} deletes nothing that has an id"
        made = self.created.get(call.idempotency_key) if self.knows_keys else None
        if made is None:
            there = self.find(call.key)
            assert not there or call.key in self.excused, f"{call} creates a second object, and {there} is there"
            made = f"P-{len(self.owners) + 1}"
            self.created[call.idempotency_key] = made
            self.objects[made] = self.owners[made] = call.key
            self._keep(call)
        return Outcome(verdict=Verdict.ACCEPTED, status=201, latency_ms=1.0, captured={"id": made})

    def _keep(self, call: LoggedCall) -> None:
        self.accepted.add(call.idempotency_key)
        self.bodies[call.key] = call.body
        if call.content is None:
            self.holds.pop(call.key, None)
        else:
            self.holds[call.key] = call.content

    def answer(self, call: LoggedCall) -> Outcome:
        """Take a call in and answer it as the script says."""
        how = self.next_answer()
        if call.method == "GET":
            self.log.append(call)
            return self._look_up(call, how)
        if how in REFUSALS:
            if how == "gone" and call.method == "PUT" and self.loses_objects:
                self._lose(call)
            return refuse(how)
        if how in ("delayed", "given up"):
            self.delayed.append(call)
            status = None if how == "delayed" else 504
            verdict = Verdict.AMBIGUOUS if status is None else Verdict.RETRY_LATER
            return Outcome(verdict=verdict, status=status, latency_ms=1.0, error=f"HTTP {status}")
        if how == "conflict" and call.method == "POST":
            return Outcome(verdict=Verdict.REJECTED, status=409, latency_ms=1.0, error="HTTP 409 $there")
        outcome = self.apply(call)
        if how == "unanswered":
            return Outcome(verdict=Verdict.AMBIGUOUS, latency_ms=1.0, error="no answer")
        if how == "broken":
            return Outcome(verdict=Verdict.RETRY_LATER, status=500, latency_ms=1.0, error="HTTP 500")
        if how == "no id" and outcome.captured:
            return replace(outcome, captured={}, not_captured="data.id is not in the answer")
        return outcome

    def _lose(self, call: LoggedCall) -> None:
        if self.objects.pop(str(call.object_id), None) is not None:
            self.holds.pop(call.key, None)

    def _look_up(self, call: LoggedCall, how: Answer) -> Outcome:
        """Answer which objects there are of a row."""
        outcome = Outcome(verdict=Verdict.ACCEPTED, status=200, latency_ms=1.0)
        if how in ("later", "unauthorized"):
            return make_failed_lookup(refuse(how))
        if how in ("delayed", "unanswered"):
            return make_failed_lookup(replace(outcome, verdict=Verdict.AMBIGUOUS, status=None, error="no answer"))
        if how in ("given up", "broken"):
            return make_failed_lookup(replace(outcome, verdict=Verdict.RETRY_LATER, status=504, error="HTTP 504"))
        found = self.find(call.key)
        if how in ("reject", "gone", "several") or len(found) > 1:
            return make_failed_lookup(outcome, "it found 2 objects", is_final=True)
        if not found:
            return replace(outcome, lookup="not found")
        return replace(outcome, lookup="found", captured={"id": found[0]})
