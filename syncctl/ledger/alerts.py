"""The `alerts` collection: one document per alert with its state and its unsent messages, and one per channel.

An alert begins and ends with one write, which also stores the messages to send. So no message is sent twice because two
processes evaluate at once, and none is lost because a process dies before it sends it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pymongo import ReturnDocument, UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.ledger.expressions import in_future, or_zero
from syncctl.ledger.mongo_client import edge, new_token

Doc = dict[str, Any]

FIRING = "firing"
RESOLVED = "resolved"
MESSAGES_AT_MOST = 40
"""Unsent messages of one alert; the oldest are dropped."""
WATCHED_SECONDS = 180.0
"""A longer gap, in which no process notes that it watches, ends the time in which alerts were watched."""
RESTS_SECONDS = 300.0
"""How long an alert that ended does not begin again, so that processes with different settings send fewer messages."""
PLAN_KEPT_SECONDS = 60.0
"""How long after the last sign of one process another one with different settings begins to measure by its own."""
_CHANNEL = "channel:"
_WATCH = "watch"
_IS_KEPT: Doc = {"$gt": [{"$add": ["$$this.at", round(PLAN_KEPT_SECONDS * 1000)]}, "$$NOW"]}
_IS_WATCHED: Doc = {"$gt": [{"$add": ["$at", round(WATCHED_SECONDS * 1000)]}, "$$NOW"]}
_END = {"ended_at": "$$NOW", "lasted_since": "$condition_since"}


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertKey:
    """The subject of an alert: a rule, and the stream, partner or source that was measured, otherwise the project."""

    rule: str
    stream: str | None = None
    partner: str | None = None
    source: str | None = None

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "AlertKey":
        """Return the key that a document names, as `to_document` writes it."""
        return cls(
            rule=document["rule"],
            stream=document.get("stream"),
            partner=document.get("partner"),
            source=document.get("source"),
        )

    def to_document(self) -> dict[str, str | None]:
        """Return the subject as the ledger, logs and messages name it."""
        return asdict(self)

    @property
    def about(self) -> tuple[str, str] | None:
        """`stream`, `partner` or `source`, and its name; None: it is about the project."""
        kinds = {"stream": self.stream, "partner": self.partner, "source": self.source}
        return next(((kind, name) for kind, name in kinds.items() if name), None)

    @property
    def id(self) -> str:
        """The alert's `_id`."""
        return ":".join([self.rule, *(self.about or ["project"])])

    @property
    def subject(self) -> str:
        """The stream, the partner or the source; the project where it is about none of them."""
        return self.stream or " ".join(self.about or ["project"])


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertMessage:
    """A message that one channel has yet to send."""

    id: str
    channel: str
    key: AlertKey
    #: `firing` or `resolved`.
    state: str
    value: float
    threshold: float
    since: datetime
    #: When the alert fired, was repeated, or ended.
    at: datetime
    detail: str
    #: How often it was repeated; 0 for the first message.
    repeated: int
    #: How often it was tried.
    tries: int = 0
    #: How many of these tries may have reached people.
    ambiguous: int = 0
    #: It is not tried before this time.
    next_at: datetime | None = None


class Alerts:
    """The state of alerts; every time is MongoDB's (invariant 8)."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._alerts: Collection[Doc] = database["alerts"]
        self.hosts = hosts

    @edge
    def load_all(self) -> dict[str, Doc]:
        """Return the document of each alert by its id, also of those that have ended."""
        return {alert["_id"]: alert for alert in self._alerts.find({"rule": {"$exists": True}})}

    @edge
    def note_watched(self) -> None:
        """Note that a process watches; `load_watched_since` returns since when one has, without a long gap."""
        since = {"$cond": [_IS_WATCHED, {"$ifNull": ["$since", "$$NOW"]}, "$$NOW"]}
        self._alerts.update_one({"_id": _WATCH}, [{"$set": {"since": since, "at": "$$NOW"}}], upsert=True)

    @edge
    def claim_plan(self, fingerprint: str, *, process: str, started_at: datetime) -> bool:
        """Return whether a process may measure: if their settings differ, only those like the last one to start may.

        Safe to repeat. A process that may not measure is noted too, for `doctor`.

        Args:
            fingerprint: The fingerprint of the settings about alerts.
            started_at: When the process started, by MongoDB's clock.
        """
        mine = {"fingerprint": fingerprint, "process": process, "started_at": started_at}
        is_mine = {"$eq": ["$$this.fingerprint", {"$literal": fingerprint}]}
        known = {"$ifNull": ["$plans", []]}
        others = {"$filter": {"input": known, "cond": {"$and": [_IS_KEPT, {"$not": [is_mine]}]}}}
        same = {"$filter": {"input": known, "cond": {"$and": [_IS_KEPT, is_mine]}}}
        # Among processes with the same settings, the last one to start decides.
        newest = {"$max": [started_at, {"$max": {"$map": {"input": same, "in": "$$this.started_at"}}}]}
        stated: Doc = {name: {"$literal": value} for name, value in mine.items()}
        changes = {"plans": {"$concatArrays": [others, [{**stated, "started_at": newest, "at": "$$NOW"}]]}}
        watch: Any = self._alerts.find_one_and_update(
            {"_id": _WATCH}, [{"$set": changes}], {"plans": True}, upsert=True, return_document=ReturnDocument.AFTER
        )
        return bool(_list_newest_first(watch["plans"])[0]["fingerprint"] == fingerprint)

    @edge
    def load_plans(self) -> list[Doc]:
        """Return the distinct settings of the processes that watch, those that are in force first."""
        kept = {"plans": {"$filter": {"input": {"$ifNull": ["$plans", []]}, "cond": _IS_KEPT}}}
        watch: Doc = next(self._alerts.aggregate([{"$match": {"_id": _WATCH}}, {"$project": kept}]), {})
        return _list_newest_first(watch.get("plans", []))

    @edge
    def note_held(self, keys: Sequence[AlertKey]) -> None:
        """Note that something else holds the subjects of these alerts: their time begins when it no longer does."""
        held = [UpdateOne({"_id": key.id}, [{"$set": _name(key) | {"held_at": "$$NOW"}}], upsert=True) for key in keys]
        if held:
            self._alerts.bulk_write(held, ordered=False)

    @edge
    def load_watched_since(self) -> datetime | None:
        """Return since when a process has watched without a long gap; None if none watches now."""
        watch = self._alerts.find_one({"_id": _WATCH, "at": {"$type": "date"}, "$expr": _IS_WATCHED})
        since: datetime | None = watch["since"] if watch else None
        return since

    @edge
    def take_costly(self, *, seconds: float) -> bool:
        """Return whether to measure the costly rules now: one process does so, once in this many seconds."""
        self._alerts.update_one({"_id": _WATCH}, {"$setOnInsert": {"created": True}}, upsert=True)
        taken = [{"$set": {"costly_at": in_future(seconds)}}]
        return self._alerts.update_one({"_id": _WATCH, "$expr": _has_passed("costly_at")}, taken).matched_count == 1

    @edge
    def note_condition(self, key: AlertKey) -> None:
        """Note when the condition of a rule was first seen. Safe to repeat."""
        first = {"$ifNull": ["$condition_since", "$$NOW"]}
        self._alerts.update_one({"_id": key.id}, [{"$set": _name(key) | {"condition_since": first}}], upsert=True)

    @edge
    def clear_condition(self, alert: Doc) -> None:
        """Note that the condition of a rule has ended before the alert fired, and when it began and ended."""
        guard = {"_id": alert["_id"], "state": {"$ne": FIRING}, "condition_since": {"$exists": True}}
        self._alerts.update_one(guard, [{"$set": _END}, {"$unset": "condition_since"}])

    @edge
    def fire(
        self,
        key: AlertKey,
        known: Doc | None,
        *,
        value: float,
        threshold: float,
        since: datetime,
        detail: str,
        channels: Sequence[str],
    ) -> bool:
        """Begin an alert, with one message for each channel; False if it has just ended, or was changed since `known`.

        Args:
            known: The document of the alert when it was measured.
        """
        self._alerts.update_one({"_id": key.id}, {"$setOnInsert": key.to_document()}, upsert=True)
        facts = {"state": FIRING, "value": value, "threshold": threshold, "since": since, "detail": detail}
        begun: Doc = {name: {"$literal": fact} for name, fact in facts.items()}
        begun |= {"fired_at": "$$NOW", "repeated": 0, "condition_since": {"$literal": since}}
        begun["notified_at"] = "$$NOW" if channels else None
        changes = {**begun, **_revise(), "outbox": _append(channels, facts | {"repeated": 0})}
        ended_before = {"$subtract": ["$$NOW", round(RESTS_SECONDS * 1000)]}
        has_rested = {"$lte": [{"$ifNull": ["$resolved_at", None]}, ended_before]}
        guard = _guard(key.id, known, {"state": {"$ne": FIRING}, "$expr": has_rested})
        return self._alerts.update_one(guard, [{"$set": changes}, {"$unset": "resolved_at"}]).modified_count == 1

    @edge
    def refresh(self, known: Doc, *, value: float, threshold: float, detail: str) -> None:
        """Store the present value of an alert that fires."""
        facts = {"value": value, "threshold": threshold, "detail": detail}
        self._alerts.update_one(_guard(known["_id"], known, {"state": FIRING}), {"$set": facts})

    @edge
    def repeat(self, known: Doc, *, after_seconds: float, channels: Sequence[str]) -> bool:
        """Repeat the message of an alert that fires, if the last one is old enough and its channel has sent it.

        An alert without any message so far gets its first one now.
        """
        is_old = {"$lte": ["$notified_at", {"$subtract": ["$$NOW", round(after_seconds * 1000)]}]}
        guard = _guard(known["_id"], known, {"state": FIRING, "$expr": is_old})
        waiting = {message["channel"] for message in known.get("outbox", ())}
        facts = {name: known[name] for name in ("value", "threshold", "since", "detail")}
        is_first = known.get("notified_at") is None
        facts |= {"state": FIRING, "repeated": 0 if is_first else known.get("repeated", 0) + 1}
        free = [channel for channel in channels if channel not in waiting]
        changes = {"notified_at": "$$NOW", "repeated": facts["repeated"], **_revise(), "outbox": _append(free, facts)}
        return self._alerts.update_one(guard, [{"$set": changes}]).modified_count == 1

    @edge
    def resolve(self, known: Doc, *, value: float, detail: str, channels: Sequence[str]) -> bool:
        """End an alert, with one message for each channel; False if another process has changed it since `known`."""
        facts = {"state": RESOLVED, "value": value, "detail": detail}
        message = facts | {"threshold": known["threshold"], "since": known["since"], "repeated": 0}
        changes: Doc = {name: {"$literal": fact} for name, fact in facts.items()}
        changes |= {"resolved_at": "$$NOW", **_END, **_revise(), "outbox": _append(channels, message)}
        guard = _guard(known["_id"], known, {"state": FIRING})
        return self._alerts.update_one(guard, [{"$set": changes}, {"$unset": "condition_since"}]).modified_count == 1

    @edge
    def list_messages(self, channel: str | None = None) -> list[AlertMessage]:
        """Return the messages that a channel has yet to send, or that any has, the oldest first."""
        messages = [
            _read_message(alert, message)
            for alert in self._alerts.find({"outbox.channel": channel or {"$exists": True}})
            for message in alert["outbox"]
            if channel in (None, message["channel"])
        ]
        return sorted(messages, key=lambda message: message.at)

    @edge
    def note_sent(self, message: AlertMessage) -> None:
        """Remove a message that was sent from the unsent ones."""
        sent = {"$pull": {"outbox": {"id": message.id}}, "$currentDate": {"last_sent_at": True}}
        self._alerts.update_one({"_id": message.key.id}, sent)

    @edge
    def note_try(self, message: AlertMessage, *, is_ambiguous: bool, wait_seconds: float) -> None:
        """Note that the channel did not accept a message, and let the message wait."""
        tried = {
            "tries": message.tries + 1,
            "ambiguous": message.ambiguous + is_ambiguous,
            "next_at": in_future(wait_seconds),
        }
        is_it = {"$eq": ["$$this.id", {"$literal": message.id}]}
        entry = {"$cond": [is_it, {"$mergeObjects": ["$$this", tried]}, "$$this"]}
        changes = {"outbox": {"$map": {"input": "$outbox", "in": entry}}}
        self._alerts.update_one({"_id": message.key.id, "outbox.id": message.id}, [{"$set": changes}])

    @edge
    def give_up(self, message: AlertMessage, reason: str) -> None:
        """Remove a message that was never accepted from the unsent ones, and note that with its channel."""
        self._alerts.update_one({"_id": message.key.id}, {"$pull": {"outbox": {"id": message.id}}})
        facts = {**message.key.to_document(), "state": message.state, "reason": reason}
        given_up: Doc = {name: {"$literal": value} for name, value in facts.items()}
        changes = {"given_up": given_up | {"at": "$$NOW"}}
        self._alerts.update_one({"_id": _CHANNEL + message.channel}, [{"$set": changes}], upsert=True)

    @edge
    def forget_given_up(self, channel: str) -> None:
        """Forget the message that a channel gave up, because a person has tried the channel since."""
        self._alerts.update_one({"_id": _CHANNEL + channel}, {"$unset": {"given_up": True}})

    @edge
    def acquire_channel(self, channel: str, *, seconds: float) -> bool:
        """Take the right to send through a channel; False if another process has it, or the channel rests."""
        identity = {"_id": _CHANNEL + channel}
        self._alerts.update_one(identity, {"$setOnInsert": {"failures": 0}}, upsert=True)
        free = {"$and": [_has_passed("until"), _has_passed("next_at")]}
        taken = [{"$set": {"until": in_future(seconds)}}]
        return self._alerts.update_one({**identity, "$expr": free}, taken).matched_count == 1

    @edge
    def release_channel(self, channel: str) -> None:
        """Let another process send through a channel."""
        self._alerts.update_one({"_id": _CHANNEL + channel}, {"$unset": {"until": True}})

    @edge
    def note_channel(
        self, channel: str, error: str | None, *, rest_seconds: float = 0.0, refused: Mapping[str, str] | None = None
    ) -> None:
        """Note the result of the last message of a channel.

        Args:
            rest_seconds: How long the channel is left alone after an error.
            refused: The recipients that did not get an accepted message, each with the server's reply.
        """
        identity = {"_id": _CHANNEL + channel}
        if error is None:
            # In a list, because a field name should have no dots, and an address has some.
            listed = [{"recipient": recipient, "reply": reply} for recipient, reply in (refused or {}).items()]
            works: Doc = {"last_sent_at": "$$NOW", "failures": 0, "refused": {"$literal": listed}}
            unset = ["error", "failing_since", "next_at"]
            self._alerts.update_one(identity, [{"$set": works}, {"$unset": unset}], upsert=True)
            return
        fails = {
            "error": {"$literal": error},
            "failing_since": {"$ifNull": ["$failing_since", "$$NOW"]},
            "failures": {"$add": [or_zero("failures"), 1]},
            "next_at": in_future(rest_seconds),
        }
        self._alerts.update_one(identity, [{"$set": fails}], upsert=True)

    @edge
    def load_channels(self) -> dict[str, Doc]:
        """Return the document of each channel, by its name."""
        channels = self._alerts.find({"_id": {"$regex": f"^{_CHANNEL}"}})
        return {channel["_id"].removeprefix(_CHANNEL): channel for channel in channels}


def _name(key: AlertKey) -> Doc:
    return {name: {"$literal": value} for name, value in key.to_document().items()}


def _guard(alert: str, known: Doc | None, more: Doc) -> Doc:
    """Return the filter for an alert that no process has changed since it was read."""
    revision = (known or {}).get("revision")
    return {"_id": alert, "revision": {"$exists": False} if revision is None else revision, **more}


def _revise() -> Doc:
    return {"revision": {"$add": [or_zero("revision"), 1]}}


def _list_newest_first(plans: Sequence[Doc]) -> list[Doc]:
    return sorted(plans, key=lambda plan: (plan["started_at"], plan["fingerprint"]), reverse=True)


def _has_passed(field: str) -> Doc:
    return {"$not": [{"$gt": [{"$ifNull": [f"${field}", None]}, "$$NOW"]}]}


def _append(channels: Sequence[str], facts: Mapping[str, Any]) -> Doc:
    """Return the expression for the unsent messages, with one more for each of these channels."""
    stated = {name: {"$literal": fact} for name, fact in facts.items()}
    new = [{"id": new_token(), "channel": {"$literal": channel}, "at": "$$NOW", **stated} for channel in channels]
    every = {"$concatArrays": [{"$ifNull": ["$outbox", []]}, new]}
    return {"$slice": [every, -MESSAGES_AT_MOST]}


def _read_message(alert: Doc, message: Doc) -> AlertMessage:
    fields = ("id", "channel", "state", "value", "threshold", "since", "at", "detail", "repeated")
    tried = {name: message[name] for name in ("tries", "ambiguous", "next_at") if name in message}
    return AlertMessage(key=AlertKey.read(alert), **{name: message[name] for name in fields}, **tried)
