"""The messages of the queues: their kinds, their signatures, and the check of everything that Redis hands out.

Anyone who can write to Redis can put anything into a queue (invariant 14). A message is only a task's name, its id and
a few arguments, signed with a key that only readers of the ledger have. Everything that comes out of Redis is read as
plain JSON and checked; Celery then gets a message that is rebuilt from those parts, so that no other field of the
envelope ever reaches it.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from syncctl.core.clock import boot_time
from syncctl.core.project_key import ProjectKey
from syncctl.errors import SyncctlError, UsageError
from syncctl.logs import get_logger

log = get_logger(__name__)

DELIVER, POLL, CONTROL = "deliver", "poll", "control"
QUEUES = (DELIVER, POLL, CONTROL)

HEADER = "syncctl"
MAX_BYTES = 16_384
MAX_AGE_SECONDS = 3600.0
"""A message that waited longer is dropped: Beat has sent the same message again long before."""
AHEAD_SECONDS = 60.0
KEY_KEPT_SECONDS = 60.0
"""A key is read again after this time: the ledger may have been replaced."""
KEY_RETRY_SECONDS = 5.0

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SIGNATURE = re.compile(r"[0-9a-f]{64}")
# Celery would act on each of these: postpone the task, drop it, decompress its body, call another task after it.
_EMPTY_HEADERS = (
    "compression", "eta", "expires", "group", "group_index", "retries", "shadow", "stamped_headers", "stamps",
    "replaced_task_nesting",
)  # fmt: skip
_NO_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class Reason(StrEnum):
    """Why a message was dropped."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    UNKNOWN_TASK = "unknown_task"
    UNKNOWN_STREAM = "unknown_stream"
    WRONG_QUEUE = "wrong_queue"
    FORGED = "forged"
    TOO_OLD = "too_old"
    UNVERIFIED = "unverified"
    FOREIGN_KEY = "foreign_key"


_HINTS = {
    Reason.UNKNOWN_STREAM: "this worker has no such stream: bring all machines to one syncctl.toml; restart workers",
    Reason.FORGED: "it was not signed with this ledger's key: an older version or somebody else writes to this Redis",
    Reason.TOO_OLD: "it waited for more than an hour; its work has been asked for again since",
    Reason.FOREIGN_KEY: "something else writes to this project's keys: find out what, or set another redis_prefix",
    Reason.UNVERIFIED: "MongoDB cannot be reached, so the key that messages are signed with is not known",
}


class MalformedError(Exception):
    """A message is not one that syncctl sends."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


def is_number(value: object) -> bool:
    """Tell whether a value of JSON is a finite number."""
    most = sys.float_info.max
    return isinstance(value, int | float) and not isinstance(value, bool) and -most <= value <= most


def _is_stream(args: Sequence[Any]) -> bool:
    return len(args) == 1 and isinstance(args[0], str)


def _are_two_numbers(args: Sequence[Any]) -> bool:
    return len(args) == 2 and all(is_number(value) for value in args)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of message: its queue, and the check of its arguments."""

    queue: str
    accepts: Callable[[Sequence[Any]], bool]
    has_result: bool = False


KINDS: Mapping[str, Kind] = {
    "syncctl.deliver": Kind(DELIVER, _is_stream),
    "syncctl.poll": Kind(POLL, _is_stream),
    "syncctl.upkeep": Kind(CONTROL, lambda args: not args),
    "syncctl.roll_up": Kind(CONTROL, lambda args: not args),
    "syncctl.cleanup": Kind(CONTROL, lambda args: not args),
    "syncctl.add": Kind(CONTROL, _are_two_numbers, has_result=True),
    "syncctl.add_and_sign": Kind(CONTROL, _are_two_numbers, has_result=True),
}


LoadKey = Callable[[], ProjectKey]
"""Reads the key from the ledger; SyncctlError if it cannot be read, or if the ledger belongs to another project."""


class Seal:
    """Signs messages and results, and checks the signatures; times are MongoDB's, not this machine's (invariant 8).

    It has no locks, so that a fork can never inherit a held one: at worst two threads read the key at once.
    """

    def __init__(self, load: LoadKey) -> None:
        self._load = load
        self._known: tuple[ProjectKey, float] | None = None
        self._tried_at = float("-inf")

    def sign(self, task: str, task_id: str, args: Sequence[Any]) -> dict[str, Any]:
        """Return the header that proves where a message comes from.

        Raises:
            UsageError: There is no such message.
            ServiceUnavailable: The key cannot be read from the ledger.
        """
        kind = KINDS.get(task)
        if kind is None or not kind.accepts(args):
            raise UsageError(
                f"no worker would take this message: {task}",
                why="syncctl's queues carry syncctl's own tasks, with their own arguments",
                hint="for a try: from syncctl.tasks import add; add.delay(2, 3).get()",
            )
        at = self.now_ms()
        return {"at": at, "signature": self._compute("message", task, task_id, list(args), at)}

    def find_fault(self, task: str, task_id: str, args: Sequence[Any], at: int, signature: str) -> Reason | None:
        """Return why a message must not be trusted; None if it may be."""
        try:
            now = self.now_ms()
            if not self._is_genuine(signature, "message", task, task_id, list(args), at):
                return Reason.FORGED
        except SyncctlError:
            return Reason.UNVERIFIED
        age = (now - at) / 1000
        return None if -AHEAD_SECONDS <= age <= MAX_AGE_SECONDS else Reason.TOO_OLD

    def sign_result(self, task_id: str, result: Mapping[str, Any]) -> str:
        """Return the signature of a result."""
        return self._compute("result", task_id, dict(result))

    def is_own_result(self, task_id: str, result: Mapping[str, Any], signature: str) -> bool:
        """Tell whether a worker of this project wrote a result."""
        return self._is_genuine(signature, "result", task_id, dict(result))

    def now_ms(self) -> int:
        """Return MongoDB's time."""
        known, read_at = self._find_key()
        return known.server_ms + round((boot_time() - read_at) * 1000)

    def refresh(self) -> None:
        """Read the key before a message needs it.

        Raises:
            SyncctlError: It cannot be read, or the ledger belongs to another project.
        """
        self._read_key()

    def _is_genuine(self, signature: str, *parts: Any) -> bool:
        given = signature.encode("utf-8", "replace")
        if hmac.compare_digest(self._compute(*parts).encode(), given):
            return True
        # The ledger may have been replaced since the key was read. Forged messages cause a read only every few seconds.
        if boot_time() - self._tried_at < KEY_RETRY_SECONDS:
            return False
        self._read_key()
        return hmac.compare_digest(self._compute(*parts).encode(), given)

    def _compute(self, *parts: Any) -> str:
        known, _ = self._find_key()
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
        return hmac.new(known.key, text.encode(), hashlib.sha256).hexdigest()

    def _find_key(self) -> tuple[ProjectKey, float]:
        if self._known is None:
            return self._read_key()
        now = boot_time()
        if now - self._known[1] > KEY_KEPT_SECONDS and now - self._tried_at > KEY_RETRY_SECONDS:
            try:
                return self._read_key()
            except SyncctlError as error:
                log.debug("messages.key_not_read", error=str(error))
        return self._known

    def _read_key(self) -> tuple[ProjectKey, float]:
        self._tried_at = boot_time()
        known = self._load()
        self._known = (known, boot_time())
        return self._known


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a message that are used."""

    task: str
    id: str
    args: list[Any]
    at: int
    signature: str


class MessageCheck:
    """Decides which messages of the queues reach Celery; every other one is dropped, logged once, and counted."""

    def __init__(self, seal: Seal, streams: Collection[str]) -> None:
        self._seal = seal
        self._streams = streams
        self._dropped: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __json__(self) -> str:
        """Return the name of the class: `celery inspect stats` shows the transport's options, including this one."""
        return type(self).__name__

    def __call__(self, queue: str, raw: bytes) -> bytes | None:
        """Return the message as Celery is to see it; None if it was dropped. Never raises."""
        try:
            parts = _read_parts(raw)
            self._check(queue, parts)
        except MalformedError as error:
            self._drop(queue, raw, error.reason)
            return None
        # Whatever a message contains, it must not end the worker that reads it, nor the next one.
        except Exception as error:  # noqa: BLE001
            self._drop(queue, raw, Reason.MALFORMED, error=type(error).__name__)
            return None
        return _make_message(parts, queue)

    def note_removed(self, keys: Mapping[str, str]) -> None:
        """Log and count keys of another type, which were removed with everything that they held."""
        with self._lock:
            self._dropped[Reason.FOREIGN_KEY.value] += len(keys)
        for name, kind in keys.items():
            log.warning("broker.key_removed", key=name, type=kind, hint=_HINTS[Reason.FOREIGN_KEY])

    def take_dropped(self) -> dict[str, int]:
        """Return how many messages were dropped and keys removed since the last time, by reason."""
        with self._lock:
            dropped, self._dropped = self._dropped, Counter()
        return dict(dropped)

    def _check(self, queue: str, parts: _Parts) -> None:
        kind = KINDS.get(parts.task)
        if kind is None:
            raise MalformedError(Reason.UNKNOWN_TASK)
        if not kind.accepts(parts.args):
            raise MalformedError(Reason.MALFORMED)
        if queue != kind.queue:
            raise MalformedError(Reason.WRONG_QUEUE)
        if fault := self._seal.find_fault(parts.task, parts.id, parts.args, parts.at, parts.signature):
            raise MalformedError(fault)
        if kind.accepts is _is_stream and parts.args[0] not in self._streams:
            raise MalformedError(Reason.UNKNOWN_STREAM)

    def _drop(self, queue: str, raw: bytes, reason: Reason, **facts: Any) -> None:
        with self._lock:
            self._dropped[reason.value] += 1
        hint = _HINTS.get(reason, "syncctl sends no such message: find out who writes to this Redis")
        log.warning("broker.message_dropped", queue=queue, reason=reason.value, bytes=len(raw), hint=hint, **facts)


def _read_parts(raw: bytes) -> _Parts:
    """Return the parts of a message after checking their types, and that no other field asks for anything."""
    if len(raw) > MAX_BYTES:
        raise MalformedError(Reason.TOO_LARGE)
    try:
        message = json.loads(raw)
        headers, properties = message["headers"], message["properties"]
        plain = message["content-type"] == "application/json" and message["content-encoding"] == "utf-8"
        if not plain or properties["body_encoding"] != "base64":
            raise MalformedError(Reason.MALFORMED)
        args, kwargs, embed = json.loads(base64.b64decode(message["body"], validate=True))
        proof = headers.get(HEADER) or {"at": 0, "signature": "0" * 64}
        parts = _Parts(headers["task"], headers["id"], args, proof["at"], proof["signature"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error):
        raise MalformedError(Reason.MALFORMED) from None
    is_sound = (
        isinstance(parts.task, str)
        and isinstance(parts.id, str)
        and _ID.fullmatch(parts.id)
        and isinstance(parts.args, list)
        and type(parts.at) is int
        and isinstance(parts.signature, str)
        and _SIGNATURE.fullmatch(parts.signature)
        and kwargs == {}
        and isinstance(embed, dict)
        and not any(embed.values())
        and not any(headers.get(name) for name in _EMPTY_HEADERS)
    )
    if not is_sound:
        raise MalformedError(Reason.MALFORMED)
    return parts


def _make_message(parts: _Parts, queue: str) -> bytes:
    """Return a message of Celery's protocol 2 that has these parts, and nothing else."""
    body = json.dumps([parts.args, {}, _NO_EMBED]).encode()
    headers = {
        "lang": "py", "task": parts.task, "id": parts.id, "shadow": None, "eta": None, "expires": None, "group": None,
        "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": parts.id, "parent_id": None,
        "argsrepr": repr(parts.args), "kwargsrepr": "{}", "origin": "", "replaced_task_nesting": 0,
        "stamped_headers": None, "stamps": {}, "ignore_result": not KINDS[parts.task].has_result,
        HEADER: {"at": parts.at, "signature": parts.signature},
    }  # fmt: skip
    properties = {
        "correlation_id": parts.id, "reply_to": "", "delivery_mode": 2, "priority": 0, "body_encoding": "base64",
        "delivery_info": {"exchange": "", "routing_key": queue}, "delivery_tag": str(uuid.uuid4()),
    }  # fmt: skip
    return json.dumps({
        "body": base64.b64encode(body).decode(), "content-type": "application/json", "content-encoding": "utf-8",
        "headers": headers, "properties": properties,
    }).encode()  # fmt: skip
