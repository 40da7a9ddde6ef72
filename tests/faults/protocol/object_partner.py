"""A partner with its own ids: an object for each row, which is created by POST and known by its id from then on."""

from dataclasses import dataclass, field, replace

from syncctl.core.outcome import Outcome, Verdict
from syncctl.partner.captured_values import make_failed_lookup

from .simulation_cases import REFUSALS, Answer, LoggedCall, ScriptedPartner, refuse


@dataclass
class ObjectPartner(ScriptedPartner):
    """Creates an object with each POST, or with each `Idempotency-Key` if it knows them.

    All other calls change nothing under a used key. If an accepted PUT took effect again after a newer one, the promise
    of order would end there, as the docs say.
    """

    knows_keys: bool = True
    #: Whether an object is lost when the partner answers 410 to its update.
    loses_objects: bool = False
    #: The row of each object that exists.
    objects: dict[str, int] = field(default_factory=dict)
    #: The row of each object that exists or existed.
    owners: dict[str, int] = field(default_factory=dict)
    #: The object that each `Idempotency-Key` has created.
    created: dict[str, str] = field(default_factory=dict)
    #: The rows for which the promise ends, as the docs say: a call came when it could no longer be expected.
    excused: set[int] = field(default_factory=set)

    def find(self, key: int) -> list[str]:
        """Return the objects of a row."""
        return [name for name, owner in self.objects.items() if owner == key]

    def land(self, call: LoggedCall) -> None:
        """Apply a call whose answer is lost."""
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
        """Answer a lookup with the objects of a row."""
        outcome = Outcome(verdict=Verdict.ACCEPTED, status=200, latency_ms=1.0)
        if how in ("later", "unauthorized"):
            return make_failed_lookup(refuse(how))
        if how in ("delayed", "unanswered"):
            return make_failed_lookup(replace(outcome, verdict=Verdict.AMBIGUOUS, status=None, error="no answer"))
        if how in ("given up", "broken"):
            return make_failed_lookup(replace(outcome, verdict=Verdict.RETRY_LATER, status=504, error="HTTP 504"))
        names = self.find(call.key)
        if how in ("reject", "gone", "several") or len(names) > 1:
            return make_failed_lookup(outcome, "it found 2 objects", is_final=True)
        if not names:
            return replace(outcome, lookup="not found")
        return replace(outcome, lookup="found", captured={"id": names[0]})
