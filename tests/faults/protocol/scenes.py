"""Scenes: moves of several steps to the critical places, which chance alone reaches too rarely."""

from collections.abc import Callable
from typing import Any

from hypothesis import note
from hypothesis import strategies as st

from .actors import Actor, Process
from .simulation import Simulation

Draw = Callable[[Any], Any]
Place = tuple[str, int]
"""A gate, and the number of the visit to it, counted from 1."""

BEFORE_NOTED: Place = ("before batches.update_one", 2)
"""Where a process stands before it notes which calls begin; the first such write is the batch itself."""
PLACES: tuple[Place, ...] = (
    # Between the batch, its records, and the notes of their calls.
    ("after batches.update_one", 1), ("before records.update_many", 1), ("after records.update_many", 1), BEFORE_NOTED,
    ("after batches.update_one", 2),
    # Between the notes, the calls and their answers.
    ("call waits", 1), ("before call", 1), ("before call", 2), ("after call", 1), ("after call", 2),
    # Between the writes of the keys and of the records.
    ("after keys.update_many", 1), ("after keys.bulk_write", 1), ("before records.bulk_write", 1),
    ("after records.bulk_write", 1), ("before batches.delete_one", 1),
)  # fmt: skip
WHILE_RESCUED: tuple[Place, ...] = (
    ("before records.update_many", 1), BEFORE_NOTED, BEFORE_NOTED, ("call waits", 1), ("before call", 1),
    ("after call", 1), ("after keys.update_many", 1), ("after keys.bulk_write", 1),
)  # fmt: skip
CHOOSING: tuple[Place, ...] = (("before batches.update_one", 1), ("before records.update_many", 1))
"""Where a process stands between seeing due records and taking them."""
LOOKING: tuple[Place, ...] = (("before keys.find", 1), ("before records.bulk_write", 1), *CHOOSING)
TAKEN: tuple[Place, ...] = (("after records.update_many", 1), ("before call", 1))
RESCUING = (
    "after batches.find_one_and_update", "before records.update_many", "after records.update_many",
    "before keys.bulk_write", "after keys.bulk_write", "before records.bulk_write", "after records.bulk_write",
    "before batches.delete_one",
)  # fmt: skip
WRITING_BACK = (
    "before write back", "before keys.bulk_write", "after keys.bulk_write", "before commit", "after commit",
    "before records.bulk_write", "after records.bulk_write",
)  # fmt: skip
"""Where a poll stands between reading outcomes, the source's commit, and noting that commit."""
READING_LINES = ("read place of lines", "read lines", "read lines that changed", "look for keys")
"""Where a poll stands between a row, its line, and the lines that have changed."""
DOUBTS = st.sampled_from(["unanswered", "unanswered", "delayed", "given up", "broken", "conflict", "reject"])
"""The answers that leave it open whether the partner has an object."""
AFTER_DOUBT = st.sampled_from([
    "accept", "accept", "later", "reject", "unanswered", "delayed", "given up", "broken", "several", "gone",
])  # fmt: skip
FATES = ("stands", "dies", "dies", "lapses", "is rescued", "is rescued", "is being rescued", "is being rescued")
ROUNDS_AT_MOST = 400
# Few keys, so that actors meet.
KEYS = st.sampled_from([1, 1, 1, 2, 2, 3, 4])
NEXT_CONTENT = {"a": "b", "b": "c"}


class Scenes(Simulation):
    """The scenes: each brings processes or polls to a critical place, and then something happens to them."""

    def begin_delivery(self, draw: Draw) -> Process:
        """Start a process that delivers, for one of the messages if there is one."""
        self.messages = max(0, self.messages - draw(st.sampled_from([1, 1, 1, 0])))
        if draw(st.booleans()):
            self.script_answers(draw)
        process = self.start_delivery()
        process.writes_at_once = draw(st.booleans())
        return process

    def tell(self, text: str) -> None:
        """Note the next step, to help to find the cause of a failure."""
        self.trail.append(text)
        note(text)

    def script_answers(self, draw: Draw) -> None:
        """Decide what the partner answers to the next calls."""
        raise NotImplementedError

    def _begin(self, draw: Draw) -> Process:
        """Start a process that delivers; mostly it finds something to take."""
        if draw(st.sampled_from([True, True, True, False])):
            self._make_due(draw)
        return self.begin_delivery(draw)

    def _make_due(self, draw: Draw) -> int:
        """Make a record due, with nothing in its way; return the key of a row that is not in flight."""
        if draw(st.booleans()):
            self._bury_the_dead()
        self.end_stream_lease("dispatch")
        if self.list_pauses() and draw(st.booleans()):
            # One record is sent, as a probe for the others.
            self.end_pauses()
        else:
            self.lift_pauses()
        self.testbed.make_retries_due()
        key: int = draw(KEYS)
        in_flight = {document["key"]["id"] for document in self.database.records.find({"state": "sending"})}
        if key in in_flight:
            key = min(set(range(1, max(in_flight) + 2)) - in_flight)
        if not self.ledger.records.has_due("orders"):
            self._change_and_poll(key)
        return key

    def _bury_the_dead(self) -> None:
        """Bring back the records of dead processes."""
        alive = [process.name for process in self.processes if not process.done]
        dead = set(self.database.batches.distinct("worker")) - set(alive)
        self.shift_leases(1.5, sorted(dead))
        self.run("rescue", self.rescue)

    def _change_and_poll(self, key: int) -> None:
        """Change a row, unless a transaction has it, and read it."""
        if self.append_only:
            key = max([0, *self.source.rows, *self.source.locked()]) + 1
        if key not in self.source.locked():
            _, content = self.source.rows.get(key, (0, ""))
            self.source.commit(self.source.begin({key: NEXT_CONTENT.get(content, "a")}))
        self.page_budget = 1000
        self.run("poll", self.poll)

    def deliver_up_to(self, draw: Draw) -> None:
        """Let a process deliver up to a critical place, where it stands still, dies, or loses its lease."""
        fate = draw(st.sampled_from(FATES))
        process = self._begin(draw)
        self._go_to(process, draw(st.sampled_from(WHILE_RESCUED if fate == "is being rescued" else PLACES)))
        if process.done:
            return
        self.tell(f"{process.name} {fate}")
        if fate == "dies":
            self.kill_if_told(process, on_the_wire=draw(st.booleans()))
        elif fate != "stands":
            self.pass_time(1.5, [process])
        if fate == "is rescued":
            self.run("rescue", self.rescue)
        elif fate == "is being rescued":
            self._go_on_while_rescued(draw, process)

    def _go_on_while_rescued(self, draw: Draw, process: Process) -> None:
        """Let a process continue while another, which has seized its batch, stands still."""
        rescue = self.start("rescue", self.rescue)
        self._go_alone(rescue, draw(st.sampled_from(RESCUING)))
        self._go_to(process, draw(st.sampled_from(PLACES)))
        if draw(st.booleans()):
            rescue.finish()

    def choose_together(self, draw: Draw) -> None:
        """Let two processes choose records at once, because the lease of the dispatch ran out; the row changes."""
        key = self._make_due(draw)
        self.end_stream_lease("poll")
        self._change_and_poll(key)
        first = self.begin_delivery(draw)
        self._go_to(first, draw(st.sampled_from(CHOOSING)))
        self.end_stream_lease("dispatch")
        if draw(st.sampled_from([True, True, False])):
            self._change_and_poll(key)
        second = self.begin_delivery(draw)
        self._go_to(second, draw(st.sampled_from(LOOKING)))
        for process in [first, second] if draw(st.booleans()) else [second, first]:
            self._go_to(process, draw(st.sampled_from(TAKEN)))

    def crash_and_rescue(self, draw: Draw) -> None:
        """Kill one process after the other while it sends, and bring back its records."""
        for _ in range(draw(st.integers(min_value=1, max_value=3))):
            self._make_due(draw)
            process = self.start_delivery()
            self._go_to(process, draw(st.sampled_from(PLACES)))
            self.kill_if_told(process, on_the_wire=draw(st.booleans()))
            self.pass_time(1.5)
            self.run("rescue", self.rescue)

    def write_back_up_to(self, draw: Draw) -> None:
        """Let a poll write outcomes back up to a critical place; then it dies, the row changes, or another polls."""
        key = self._make_due(draw)
        process = self.begin_delivery(draw)
        process.finish()
        self.make_write_backs_due()
        self.end_stream_lease("poll")
        self.page_budget = 1000
        poll = self.start("poll", self.poll)
        self._go_alone(poll, draw(st.sampled_from(WRITING_BACK)))
        fate = draw(st.sampled_from(["dies", "lapses", "lapses", "row changes", "is replayed"]))
        self.tell(f"poll {fate}")
        if fate == "dies":
            poll.kill()
            return
        if fate == "is replayed":
            self.run("replay", lambda: self.replay(("delivered", "failed")))
        elif fate == "row changes" and key not in self.source.locked():
            self.source.commit(self.source.begin({key: draw(st.sampled_from(["a", "b", "c"]))}))
        elif fate == "lapses":
            self.end_stream_lease("poll")
            self._change_and_poll(key)
        if draw(st.booleans()):
            self.start_delivery().finish()
        if draw(st.booleans()):
            poll.finish()

    def change_line_while_read(self, draw: Draw) -> None:
        """Change a row and its line while a poll is between the two."""
        key = draw(KEYS)
        if not self.source.locked() & {key, -key}:
            self.source.commit(self.source.begin({key: draw(st.sampled_from(["a", "b", "c"]))}))
        self.end_stream_lease("poll")
        self.page_budget = 1000
        poll = self.start("poll", self.poll)
        self._go_alone(poll, draw(st.sampled_from(READING_LINES)))
        changes = {-key: draw(st.sampled_from(["a", "b", "c"]))}
        if draw(st.booleans()):
            changes[key] = draw(st.sampled_from(["a", "b", "c"]))
        if not self.source.locked() & changes.keys():
            self.source.commit(self.source.begin(dict(changes)))
        if draw(st.booleans()):
            poll.finish()

    def is_told_apart(self, how: str) -> bool:
        """Whether syncctl knows after such an answer to a create that there may be an object; a lookup always tells."""
        return self.objects == "lookup" or how not in ("no id", "broken")

    def create_in_doubt(self, draw: Draw) -> None:
        """Leave it open whether the partner has an object of a row; let newer versions of it come."""
        key = self._make_due(draw)
        for _ in range(draw(st.sampled_from([1, 1, 2]))):
            self.partner.answers = draw(st.lists(DOUBTS.filter(self.is_told_apart), min_size=1, max_size=3))
            process = self.start_delivery()
            if draw(st.sampled_from([True, True, False])):
                process.finish()
            else:
                self._go_to(process, draw(st.sampled_from(PLACES)))
            self.end_stream_lease("poll")
            self.end_stream_lease("dispatch")
            self._change_and_poll(key)
        self.partner.answers = draw(st.lists(AFTER_DOUBT, min_size=1, max_size=3))
        if draw(st.booleans()):
            self.settle_calls()
        if draw(st.sampled_from([True, True, False])):
            self.testbed.make_retries_due()
            self.start_delivery().finish()

    def rescue_up_to(self, draw: Draw) -> None:
        """Let a rescue continue to a critical place, and kill it there or leave it there."""
        rescue = self.start("rescue", self.rescue)
        self._go_alone(rescue, draw(st.sampled_from(RESCUING)))
        if draw(st.booleans()):
            rescue.kill()

    def _go_to(self, process: Process, place: Place) -> None:
        """Let a process continue until its actors have reached a place, or to its end."""
        at, times = place
        for _ in range(ROUNDS_AT_MOST):
            if process.done or not times:
                break
            times -= process.step(lambda actor: actor.at == at) is not None
        self.tell(f"{process.name} is at {'its end' if process.done else at}")

    def _go_alone(self, actor: Actor, place: str) -> None:
        while not actor.done and actor.at != place:
            actor.step()
        self.tell(f"{actor.kind} is at {'its end' if actor.done else place}")

    def kill_if_told(self, process: Process, *, on_the_wire: bool) -> None:
        """Kill a process, unless it alone knows of a call.

        The docs say that the promise ends there: a worker stood still past its lease and past the time that its call
        was given to settle, then called, and died before it could record the call.
        """
        if not process.late_calls:
            self.kill_delivery(process, on_the_wire=on_the_wire)
