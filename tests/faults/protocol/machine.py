"""The state machine: rules that move actors and break things, in any order that Hypothesis likes."""

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from .actors import Actor
from .world import ACTORS_AT_MOST, World

KEYS = st.integers(min_value=1, max_value=3)
CONTENTS = st.sampled_from(["a", "b"])
REPLAYED = ("failed", "delivered", "superseded")
ANSWERS = st.sampled_from(["accept", "accept", "later", "reject", "unanswered", "delayed", "given up"])


class Protocol(World, RuleBasedStateMachine):
    """Poll, dispatch, deliver, upkeep and operators, interleaved at every write, killed and stalled anywhere."""

    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        World.__init__(self)

    @initialize()
    def begin_empty(self) -> None:
        self.empty_the_ledger()

    # What happens in the source.

    @rule(key=KEYS, content=CONTENTS)
    def write_row(self, key: int, content: str) -> None:
        if key not in self.source.locked():
            self.source.commit(self.source.begin({key: content}))

    @rule(changes=st.dictionaries(KEYS, CONTENTS, min_size=1, max_size=2))
    def begin(self, changes: dict[int, str]) -> None:
        if len(self.source.open) < 2 and not self.source.locked() & set(changes):
            self.source.begin(dict(changes))

    @precondition(lambda self: self.source.open)
    @rule(commits=st.booleans(), newest=st.booleans())
    def end_transaction(self, commits: bool, newest: bool) -> None:
        transaction = (max if newest else min)(self.source.open)
        (self.source.commit if commits else self.source.roll_back)(transaction)

    @rule(key=KEYS)
    def delete_row(self, key: int) -> None:
        if key not in self.source.locked():
            self.source.commit(self.source.begin({key: None}))

    # Actors.

    @rule(kind=st.sampled_from(["poll", "poll", "dispatch", "upkeep", "upkeep"]))
    def start(self, kind: str) -> None:
        if self._room():
            self._start(kind, {"poll": self._poll, "dispatch": self._dispatch, "upkeep": self._keep_up}[kind])

    @precondition(lambda self: self.messages)
    @rule(which=st.integers(min_value=0, max_value=3), keep=st.sampled_from([False, False, False, True]))
    def start_deliver(self, which: int, keep: bool) -> None:
        """Take a message, any of them (late ones come after newer ones), sometimes leaving a double behind."""
        if self._room():
            index = which % len(self.messages)
            _, token, ids = self.messages[index]
            if not keep:
                self.messages.pop(index)
            self._start("deliver", lambda: self._deliver(token, ids))

    @rule(
        kind=st.sampled_from(["replay failed", "replay delivered", "replay superseded", "discard", "clean up", "pause"])
    )
    def operate(self, kind: str) -> None:
        if not self._room():
            return
        if kind == "pause":
            if self.ledger.streams.is_paused("orders"):
                self._start(kind, lambda: self.ledger.streams.resume("orders"))
            else:
                self._start(kind, lambda: self.ledger.streams.pause("orders", who="$me", reason="$why"))
        elif kind == "discard":
            self._start(kind, self._discard)
        elif kind == "clean up":
            self._start(kind, self._clean_up)
        else:
            self._start(kind, lambda: self._replay((kind.removeprefix("replay "),)))

    @precondition(lambda self: any(not actor.done for actor in self.actors))
    @rule(which=st.integers(min_value=0, max_value=ACTORS_AT_MOST - 1), steps=st.integers(min_value=1, max_value=12))
    def step(self, which: int, steps: int) -> None:
        running = [actor for actor in self.actors if not actor.done]
        actor = running[which % len(running)]
        for _ in range(steps):
            actor.step()
        note(f"{actor.kind} is at {actor.at}")

    @precondition(lambda self: any(not actor.done for actor in self.actors))
    @rule(which=st.integers(min_value=0, max_value=ACTORS_AT_MOST - 1))
    def finish(self, which: int) -> None:
        running = [actor for actor in self.actors if not actor.done]
        running[which % len(running)].finish()

    @precondition(lambda self: any(not actor.done for actor in self.actors))
    @rule(which=st.integers(min_value=0, max_value=ACTORS_AT_MOST - 1))
    def kill(self, which: int) -> None:
        running = [actor for actor in self.actors if not actor.done]
        actor = running[which % len(running)]
        # Where the docs say the promise ends: a worker that stood still past its lease and past the time its call was
        # given to settle, then called, and died before it could say so.
        if not (actor.kind == "deliver" and actor.claim_tokens and self._outlived_settling(actor)):
            actor.kill()

    def _outlived_settling(self, actor: Actor) -> bool:
        return getattr(actor, "settles", self.settles) != self.settles or self.settles > 0

    # What breaks.

    @precondition(lambda self: self.messages)
    @rule()
    def flush_redis(self) -> None:
        self.messages.clear()

    @rule(what=st.sampled_from(["poll", "dispatch", "records", "records"]))
    def let_leases_end(self, what: str) -> None:
        self.end_leases(what)

    @rule(answers=st.lists(ANSWERS, min_size=1, max_size=4))
    def script_answers(self, answers: list[str]) -> None:
        self.partner.answers = list(answers)

    @precondition(lambda self: self.partner.delayed)
    @rule()
    def land_delayed(self) -> None:
        self.partner.land(self.partner.delayed.pop(0))

    @rule()
    def settle(self) -> None:
        self.settle_calls()

    def teardown(self) -> None:
        try:
            self.quiesce()
            self.check_account()
        finally:
            for actor in self.actors:
                actor.kill()
