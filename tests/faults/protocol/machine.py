"""The state machine: Hypothesis draws the moves of actors and the faults in any order."""

from collections.abc import Callable
from typing import Any

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from .actors import Actor
from .simulation import ACTORS_AT_MOST, Simulation

# Few, so that they meet.
KEYS = st.sampled_from([1, 1, 2])
CONTENTS = st.sampled_from(["a", "b", "c"])
ANSWERS = st.sampled_from(["accept", "accept", "later", "reject", "unanswered", "delayed", "delayed", "given up"])
REPLAYED = ("failed", "delivered", "superseded")
TO_THE_END = 0
STEPS = st.one_of(st.just(TO_THE_END), st.integers(min_value=1, max_value=25))
"""How far an actor goes at once. Many must come to their end, or no record ever gets as far as a call."""

Draw = Callable[[Any], Any]


class Protocol(Simulation, RuleBasedStateMachine):
    """Poll, dispatch, deliver, maintenance and operators, interleaved at every write, killed and stalled anywhere.

    There is one rule, which draws among the possible moves. With a rule for each move, Hypothesis would leave most of
    them out of most examples, and could not weigh them: of 2500 steps nine were calls.
    """

    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        Simulation.__init__(self)

    @initialize(contents=st.lists(CONTENTS, max_size=3))
    def begin_with_rows(self, contents: list[str]) -> None:
        self.empty_the_ledger()
        self.ledger.streams.ensure("orders")
        for key, content in enumerate(contents, start=1):
            self.source.commit(self.source.begin({key: content}))

    @rule(data=st.data())
    def move(self, data: Any) -> None:
        weights = self._weigh_moves()
        name = data.draw(st.sampled_from([each for each, weight in weights.items() for _ in range(weight)]))
        getattr(self, name)(data.draw)

    def _weigh_moves(self) -> dict[str, int]:
        """Return the moves that can be made, and how often each is to come."""
        running, room = self._running(), self._room()
        return {
            "write_row": 2,
            "write_and_poll": 6 if room else 0,
            "begin_transaction": 1,
            "end_transaction": 2 if self.source.open else 0,
            "start": 2 if room else 0,
            "deliver": 10 if room and self.messages else 0,
            "step": 5 if running else 0,
            "kill": 1 if running else 0,
            "operate": 1 if room else 0,
            "pause_or_resume": 5 if self.ledger.streams.load_gate("orders").paused else 1,
            "flush_redis": 1 if self.messages else 0,
            "expire_leases": 2,
            "script_answers": 1,
            "apply_delayed": 2 if self.partner.delayed else 0,
            "settle": 1,
        }

    def _running(self) -> list[Actor]:
        return [actor for actor in self.actors if not actor.done]

    def _draw_running(self, draw: Draw) -> Actor:
        running = self._running()
        return running[draw(st.integers(min_value=0, max_value=ACTORS_AT_MOST - 1)) % len(running)]

    # Moves of the source.

    def write_row(self, draw: Draw) -> None:
        """Write a row, or delete it, committed at once."""
        key, content = draw(KEYS), draw(st.sampled_from(["a", "b", "c", "a", "b", "c", None]))
        if key not in self.source.locked():
            self.source.commit(self.source.begin({key: content}))

    def begin_transaction(self, draw: Draw) -> None:
        changes = draw(st.dictionaries(KEYS, CONTENTS, min_size=1, max_size=2))
        if len(self.source.open) < 2 and not self.source.locked() & set(changes):
            self.source.begin(dict(changes))

    def end_transaction(self, draw: Draw) -> None:
        transaction = (max if draw(st.booleans()) else min)(self.source.open)
        (self.source.commit if draw(st.booleans()) else self.source.roll_back)(transaction)

    # Actors.

    def start(self, draw: Draw) -> None:
        kind = draw(st.sampled_from(["poll", "poll", "poll", "maintenance", "maintenance", "dispatch"]))
        acts = {"poll": self._poll, "dispatch": self._dispatch, "maintenance": self._maintain}
        self._advance(self._start(kind, acts[kind]), draw(STEPS))

    def write_and_poll(self, draw: Draw) -> None:
        self.write_row(draw)
        self._advance(self._start("poll", self._poll), draw(STEPS))

    def deliver(self, draw: Draw) -> None:
        """Take a message, any of them (late ones come after newer ones), sometimes leaving a double behind."""
        index = draw(st.integers(min_value=0, max_value=3)) % len(self.messages)
        token, ids = self.messages[index]
        if draw(st.sampled_from([True, True, True, False])):
            self.messages.pop(index)
        if draw(st.booleans()):
            self.script_answers(draw)
        actor = self._start("deliver", lambda: self._deliver(token, ids))
        actor.settles = self.settles
        self._advance(actor, draw(STEPS))

    def operate(self, draw: Draw) -> None:
        kind = draw(st.sampled_from([*(f"replay {state}" for state in REPLAYED), "discard", "clean up"]))
        acts = {"discard": self._discard, "clean up": self._clean_up}
        act = acts.get(kind) or (lambda: self._replay((kind.removeprefix("replay "),)))
        self._advance(self._start(kind, act), draw(STEPS))

    def pause_or_resume(self, _draw: Draw) -> None:
        if self.ledger.streams.load_gate("orders").paused:
            self.ledger.streams.resume("orders")
        else:
            self.ledger.streams.pause("orders", who="$me", reason="$why")

    def step(self, draw: Draw) -> None:
        self._advance(self._draw_running(draw), draw(STEPS))

    def _advance(self, actor: Actor, steps: int) -> None:
        if steps == TO_THE_END:
            actor.finish()
        for _ in range(steps):
            actor.step()
        note(f"{actor.kind} is at {'its end' if actor.done else actor.at}")

    def kill(self, draw: Draw) -> None:
        actor = self._draw_running(draw)
        # Where the docs say the promise ends: a worker that stood still past its lease and past the time its call was
        # given to settle, then called, and died before it could say so.
        if not (actor.kind == "deliver" and actor.claim_tokens and actor.settles != self.settles):
            actor.kill()

    # Faults.

    def flush_redis(self, _draw: Draw) -> None:
        self.messages.clear()

    def expire_leases(self, draw: Draw) -> None:
        self.end_leases(draw(st.sampled_from(["poll", "dispatch", "records", "records"])))

    def script_answers(self, draw: Draw) -> None:
        self.partner.answers = draw(st.lists(ANSWERS, min_size=1, max_size=4))

    def apply_delayed(self, _draw: Draw) -> None:
        self.partner.apply(self.partner.delayed.pop(0))

    def settle(self, _draw: Draw) -> None:
        self.settle_calls()

    def teardown(self) -> None:
        try:
            self.quiesce()
            self.check_account()
        finally:
            for actor in self.actors:
                actor.kill()
