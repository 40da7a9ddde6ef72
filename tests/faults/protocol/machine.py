"""The state machine: moves and failures of actors, in any order that Hypothesis draws."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from .actors import Actor, Process
from .scenes import KEYS, Draw, Scenes
from .simulation_cases import line_of

CONTENTS = st.sampled_from(["a", "b", "c"])
ANSWERS = st.sampled_from([
    "accept", "accept", "accept", "later", "reject", "unanswered", "delayed", "delayed", "given up", "unauthorized",
    "gone",
])  # fmt: skip
OBJECT_ANSWERS = st.sampled_from([
    "accept", "accept", "accept", "accept", "later", "reject", "unanswered", "unanswered", "delayed", "given up",
    "unauthorized", "gone", "broken", "conflict", "no id", "several",
])  # fmt: skip
"""The answers of a partner with its own ids, as far as they mean anything to a call."""
OUTAGE = ("later", "reject", "unauthorized", "gone")
"""The answers that a partner may give to every call."""
REPLAYED = ("failed", "delivered", "superseded", "discarded")
BUDGETS = st.sampled_from([1000, 1000, 1000, 1, 2])
"""After how many pages a poll is stopped; mostly it reaches its end before."""
TO_THE_END = 0
STEPS = st.one_of(st.just(TO_THE_END), st.integers(min_value=1, max_value=30))
"""How far an actor goes at once. Many must reach their end; otherwise no record ever gets as far as a call."""


class Protocol(Scenes, RuleBasedStateMachine):
    """Poll, deliver, rescue, maintenance and operators, interleaved at every access, killed and stalled anywhere.

    There is one rule, which draws among the possible moves. If each move were a rule, Hypothesis would leave most of
    them out of most examples, and none would have a weight: of 2500 steps nine were calls.
    """

    failures: ClassVar[list[str]]
    """The moves that were made and the error that followed, because a second run of them may not fail again."""

    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        Scenes.__init__(self)

    @property
    def answers(self) -> Any:
        """The answers that the partner may give to a call."""
        if self.objects is None:
            return ANSWERS
        return OBJECT_ANSWERS.filter(self.is_told_apart)

    @initialize(contents=st.lists(CONTENTS, max_size=3), pauses=st.booleans())
    def begin_with_rows(self, contents: list[str], pauses: bool) -> None:
        self.empty_the_ledger()
        if pauses:
            self.let_pauses_begin()
        for key, content in enumerate(contents, start=1):
            self.source.commit(self.source.begin({key: content}))

    @rule(data=st.data())
    def move(self, data: Any) -> None:
        weights = self._weigh_moves()
        name = data.draw(st.sampled_from([name for name, weight in weights.items() for _ in range(weight)]))
        self.trail.append(name)
        with self._noting_failure():
            getattr(self, name)(data.draw)

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except AssertionError as error:
            type(self).failures.append("\n".join([*self.trail, str(error)]))
            raise

    def _weigh_moves(self) -> dict[str, int]:
        """Return the possible moves with their weights."""
        room, running, pauses = self.has_room(), self.list_running(), self.list_pauses()
        delivering = bool(self.processes)
        return {
            "write_row": 2,
            "write_and_poll": 7 if room else 0,
            "change_line": 3 if self.has_lines else 0,
            "change_line_while_read": 3 if self.has_lines and room else 0,
            "write_back_up_to": 4 if self.writes_back and room else 0,
            "create_in_doubt": 4 if self.objects is not None and room else 0,
            "begin_transaction": 1,
            "end_transaction": 2 if self.source.open else 0,
            "start_one": 2 if room else 0,
            "deliver": (6 if self.messages else 2) if room else 0,
            "deliver_up_to": 10 if room else 0,
            "rescue_up_to": 2 if room else 0,
            "crash_and_rescue": 3 if room else 0,
            "choose_together": 4 if room else 0,
            "step": 6 if running else 0,
            "run_process": 2 if delivering else 0,
            "kill": 2 if running else 0,
            "cut_connection": 2 if running else 0,
            "kill_process": 2 if delivering else 0,
            "stop_process": 1 if delivering else 0,
            "stall_process": 2 if delivering else 0,
            "let_time_pass": 2,
            "end_leases": 2,
            "operate": 1 if room else 0,
            "pause_or_resume": 5 if "stream" in pauses else 1,
            # Under a new key the partner would create a second object, unless it is asked first.
            "change_mapping": 1 if self.objects != "keys" else 0,
            "flush_redis": 1 if self.messages else 0,
            "script_answers": 2,
            "land_delayed": 2 if self.partner.delayed else 0,
            "settle": 1,
            "let_pauses_pass": 6 if pauses else 1,
            "make_due": 1,
        }

    def _draw_among(self, draw: Draw, choices: list[Any]) -> Any:
        return choices[draw(st.integers(min_value=0, max_value=11)) % len(choices)]

    # Changes in the source.

    def write_row(self, draw: Draw) -> None:
        """Write a row, or delete it, committed at once."""
        key, content = draw(KEYS), draw(st.sampled_from(["a", "b", "c", "a", "b", "c", None]))
        if self.append_only:
            key, content = self._new_key(), content or "a"
        if key not in self.source.locked():
            self.source.commit(self.source.begin({key: content}))

    def begin_transaction(self, draw: Draw) -> None:
        """Write rows in a transaction that stays open."""
        changes = draw(st.dictionaries(KEYS, CONTENTS, min_size=1, max_size=2))
        if self.append_only:
            changes = {self._new_key() + place: content for place, content in enumerate(changes.values())}
        if len(self.source.open) < 2 and not self.source.locked() & set(changes):
            self.source.begin(dict(changes))

    def _new_key(self) -> int:
        return max([0, *self.source.rows, *self.source.locked()]) + 1

    def change_line(self, draw: Draw) -> None:
        """Change the line of a row, committed at once or in a transaction that stays open."""
        line = line_of(draw(KEYS))
        if line not in self.source.locked():
            transaction = self.source.begin({line: draw(CONTENTS)})
            if len(self.source.open) > 2 or draw(st.sampled_from([True, True, False])):
                self.source.commit(transaction)

    def end_transaction(self, draw: Draw) -> None:
        """Commit the oldest or the newest open transaction, or roll it back."""
        transaction = (max if draw(st.booleans()) else min)(self.source.open)
        (self.source.commit if draw(st.booleans()) else self.source.roll_back)(transaction)

    # Actors.

    def start_one(self, draw: Draw) -> None:
        """Start a poll, maintenance or a rescue."""
        kind = draw(st.sampled_from(["poll", "poll", "upkeep", "upkeep", "rescue"]))
        if kind == "poll":
            self.page_budget = draw(BUDGETS)
        acts = {"poll": self.poll, "upkeep": self.maintain, "rescue": self.rescue}
        self._advance(self.start(kind, acts[kind]), draw(STEPS))

    def write_and_poll(self, draw: Draw) -> None:
        """Change a row and poll."""
        self.write_row(draw)
        self.page_budget = draw(BUDGETS)
        self._advance(self.start("poll", self.poll), draw(STEPS))

    def deliver(self, draw: Draw) -> None:
        """Start a process that delivers, for one of the messages if there is one."""
        process = self.begin_delivery(draw)
        steps = draw(STEPS)
        if steps == TO_THE_END:
            self._finish(process)
        else:
            self._advance(process.actors[0], steps)

    def run_process(self, draw: Draw) -> None:
        """Let a process continue to its end."""
        self._finish(self._draw_among(draw, self.processes))

    def operate(self, draw: Draw) -> None:
        """Do one of the operations of operators."""
        kinds = [*(f"replay {state}" for state in REPLAYED), "discard", "cleanup", "rewind", "rewind and resend"]
        if self.append_only:
            # Without keys, a row that is read again after its record was removed is a new one.
            kinds.remove("cleanup")
        kind = draw(st.sampled_from(kinds))
        acts: dict[str, Callable[[], None]] = {
            "discard": self.discard,
            "cleanup": self.clean_up_twice,
            "rewind": lambda: self.rewind(resend=False),
            "rewind and resend": lambda: self.rewind(resend=True),
        }
        act = acts.get(kind) or (lambda: self.replay((kind.removeprefix("replay "),)))
        self._advance(self.start(kind, act), draw(STEPS))

    def clean_up_twice(self) -> None:
        """Remove finished records twice; before the second time, the noted deletes become old."""
        self.clean_up()
        self.age_deletes()
        self.clean_up()

    def pause_or_resume(self, _draw: Draw) -> None:
        """Pause the stream, or resume it."""
        if self.ledger.streams.load_gate("orders").paused:
            self.ledger.streams.resume("orders")
        else:
            self.ledger.streams.pause("orders", who="$me", reason="$why")

    def step(self, draw: Draw) -> None:
        """Let an actor continue a little, or to its end."""
        actor = self._draw_among(draw, self.list_running())
        steps = draw(STEPS)
        if steps == TO_THE_END and actor.process is not None:
            steps = 30
        self._advance(actor, steps)

    def _advance(self, actor: Actor, steps: int) -> None:
        if steps == TO_THE_END:
            actor.finish()
        for _ in range(steps):
            actor.step()
        self.tell(f"{actor.kind} is at {'its end' if actor.done else actor.at}")

    def _finish(self, process: Process) -> None:
        process.finish()
        self.tell(f"{process.name} is at its end")

    # Failures.

    def kill(self, draw: Draw) -> None:
        """Kill an actor that does not belong to a process."""
        if self.actors:
            self._draw_among(draw, self.actors).kill()

    def cut_connection(self, draw: Draw) -> None:
        """Cut an actor's connection to MongoDB at its next read or write; MongoDB may have made the write."""
        actor = self._draw_among(draw, self.list_running())
        actor.cut = draw(st.sampled_from(["read", "before", "after"]))

    def kill_process(self, draw: Draw) -> None:
        """Kill a process that delivers, with all its calls."""
        self.kill_if_told(self._draw_among(draw, self.processes), on_the_wire=draw(st.booleans()))

    def stop_process(self, draw: Draw) -> None:
        """Ask a process to stop."""
        self._draw_among(draw, self.processes).is_stopping = True

    def stall_process(self, draw: Draw) -> None:
        """Let a process stand still for longer than a lease; the others continue and renew theirs."""
        self.pass_time(1.5, [self._draw_among(draw, self.processes)])

    def let_time_pass(self, draw: Draw) -> None:
        """Let time pass for all processes, even dead ones: after three such moves a lease ends that is not renewed."""
        self.pass_time(draw(st.sampled_from([0.4, 0.4, 1.5])))

    def end_leases(self, draw: Draw) -> None:
        """Let the lease of a poll, of a dispatch or of a rescue run out."""
        self.end_stream_lease(draw(st.sampled_from(["poll", "dispatch", "dispatch", "rescue"])))

    def change_mapping(self, _draw: Draw) -> None:
        """Change the mapping, which shapes the bytes; running processes keep the one that they began with."""
        self.mapping += 1

    def flush_redis(self, _draw: Draw) -> None:
        """Lose all messages."""
        self.messages = 0

    def script_answers(self, draw: Draw) -> None:
        """Decide what the partner answers to the next calls; at times it answers all of them alike."""
        if draw(st.sampled_from([True, False, False, False])):
            self.partner.answers = [draw(st.sampled_from(OUTAGE))] * 6
        else:
            self.partner.answers = draw(st.lists(self.answers, min_size=1, max_size=4))

    def land_delayed(self, draw: Draw) -> None:
        """Let one of the calls land that the partner has not acted on."""
        index = draw(st.integers(min_value=0, max_value=3)) % len(self.partner.delayed)
        self.partner.land(self.partner.delayed.pop(index))

    def settle(self, _draw: Draw) -> None:
        """Let all deadlines pass."""
        self.settle_calls()

    def let_pauses_pass(self, draw: Draw) -> None:
        """Make a probe of the partner due; at times the process that was about to probe loses its right."""
        (self.end_pauses if draw(st.sampled_from([False, False, True])) else self.make_probes_due)()

    def make_due(self, _draw: Draw) -> None:
        """Let every due time come."""
        self.testbed.make_retries_due()
        if self.writes_back:
            self.make_write_backs_due()

    def teardown(self) -> None:
        try:
            with self._noting_failure():
                self.quiesce()
                self.check_account()
        finally:
            for unit in [*self.actors, *self.processes]:
                unit.kill()
