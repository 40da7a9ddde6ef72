"""The filters by which commands select records; each has the same name and meaning in every command."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from syncctl.commands.session import choose_known
from syncctl.commands.times import parse_window
from syncctl.core.spelling import find_near
from syncctl.core.states import SELECTABLE, State
from syncctl.errors import UsageError

if TYPE_CHECKING:
    from syncctl.pipeline.selection import Selection
    from syncctl.wiring.connections import Connections

States = Annotated[
    list[str] | None,
    typer.Option(
        "--state", metavar="STATE", help=f"{', '.join(SELECTABLE[:-1])} or {SELECTABLE[-1]}; may be repeated."
    ),
]
Key = Annotated[
    str | None, typer.Option("--key", metavar="KEY", help="Only versions of the row with this key: 5, or a=1,b=2.")
]
Error = Annotated[
    str | None,
    typer.Option(
        "--error",
        metavar="FINGERPRINT",
        help="Only records with this error; its first 6 digits are enough. Without --state, failed records only.",
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="At most N.")]

StreamArgument = Annotated[str | None, typer.Argument(metavar="STREAM", help="Name of a stream.")]
OneStream = Annotated[str | None, typer.Option("--stream", metavar="STREAM", help="The same as the argument.")]

FINGERPRINT_DIGITS = 12
_FINGERPRINT = re.compile(r"[0-9a-f]{6,12}")
_SHOWN_AT_MOST = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Filters:
    """The filters of one command line, read and checked as far as possible without a connection."""

    streams: tuple[str, ...] | None
    states: tuple[str, ...]
    #: The fingerprint of an error, or its first digits.
    error: str | None
    key: str | None
    since: datetime | None
    until: datetime | None
    limit: int | None

    def select(self, connections: "Connections", *, ids: Sequence[str] = ()) -> "Selection":
        """Return the selection that these filters describe.

        Args:
            ids: Ids of records, or the beginnings of ids.

        Raises:
            UsageError: A stream does not exist, or several ids or fingerprints begin with the given text.
        """
        from syncctl.pipeline.selection import Selection, complete_ids

        names = choose_known(connections, self.streams)
        error = self.error
        if error is not None and len(error) < FINGERPRINT_DIGITS:
            ledger = connections.prepared_ledger
            known = ledger.selections.find_fingerprints(
                names or sorted(ledger.streams.load_all()), error, limit=_SHOWN_AT_MOST + 1
            )
            error = complete_fingerprint(error, known)
        return Selection(
            ids=complete_ids(connections.ledger, ids) if ids else (),
            streams=names,
            states=self.states,
            since=self.since,
            until=self.until,
            error=error,
            key=self.key,
            limit=self.limit,
        )


def read_filters(
    *,
    streams: Sequence[str] | None = None,
    states: Sequence[str] | None = None,
    allowed: Sequence[str] = SELECTABLE,
    by_default: Sequence[str] = (State.FAILED.value,),
    error: str | None = None,
    key: str | None = None,
    since: str | None = None,
    until: str | None = None,
    limit: int | None = None,
) -> Filters:
    """Return the filters of a command line.

    Args:
        allowed: The states whose records the command accepts.
        by_default: The states that are selected if neither `--state` nor `--error` is given.

    Raises:
        UsageError: The value of a filter is invalid.
    """
    chosen = choose_states(states, allowed=allowed, by_default=(State.FAILED.value,) if error else by_default)
    mark = None if error is None else read_fingerprint(error, chosen)
    begin, end = parse_window(since, until)
    names = None if streams is None else tuple(streams)
    return Filters(streams=names, states=chosen, error=mark, key=key, since=begin, until=end, limit=limit)


def choose_states(
    states: Sequence[str] | None, *, allowed: Sequence[str] = SELECTABLE, by_default: Sequence[str]
) -> tuple[str, ...]:
    """Return the given states without duplicates, or the default if none is given.

    Raises:
        UsageError: A state does not exist, or the command does not accept records in it.
    """
    for state in states or ():
        if state not in allowed:
            why = "this command takes no such records" if state in SELECTABLE else "there is no such state"
            raise UsageError(f"--state {state} cannot be selected", why=why, hint=f"--state takes {', '.join(allowed)}")
    return tuple(dict.fromkeys(states or by_default))


def read_fingerprint(text: str, states: Sequence[str]) -> str:
    """Return the fingerprint of an error, or its first digits, in lower case.

    Raises:
        UsageError: The text is not a fingerprint, or it is incomplete and the states require a complete one.
    """
    mark = text.strip().lower()
    if _FINGERPRINT.fullmatch(mark) is None:
        raise UsageError(
            f"--error {text} is not the fingerprint of an error",
            why=f"a fingerprint has {FINGERPRINT_DIGITS} digits, 0 to 9 and a to f; the first 6 suffice if unique",
            hint="run: syncctl failures",
        )
    if len(mark) < FINGERPRINT_DIGITS and tuple(states) != (State.FAILED.value,):
        raise UsageError(
            f"--error {text} is not a complete fingerprint",
            why="its first digits suffice only for failed records",
            hint=f"give all {FINGERPRINT_DIGITS} digits",
        )
    return mark


def complete_fingerprint(beginning: str, known: Sequence[str]) -> str:
    """Return the only known fingerprint that begins with these digits, or the digits themselves if none does.

    Raises:
        UsageError: Several fingerprints do.
    """
    matches = sorted(mark for mark in known if mark.startswith(beginning))
    if len(matches) > 1:
        is_more = len(matches) > _SHOWN_AT_MOST
        count = f"more than {_SHOWN_AT_MOST}" if is_more else f"{len(matches)}"
        raise UsageError(
            f"--error {beginning} is ambiguous: {count} errors begin with it",
            why=", ".join(matches[:_SHOWN_AT_MOST]) + (", ..." if is_more else ""),
            hint="give more of its digits",
        )
    return matches[0] if matches else beginning


class Listing:
    """Iterates over a limited number of documents, and then knows whether there are more."""

    def __init__(self, documents: Iterator[Mapping[str, Any]], at_most: int | None) -> None:
        self._documents = documents
        self._at_most = at_most
        self.has_more = False

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        yield from islice(self._documents, self._at_most)
        self.has_more = self._at_most is not None and next(self._documents, None) is not None


def choose_actions(actions: Sequence[str] | None) -> tuple[str, ...]:
    """Return the given kinds of audit entries without duplicates.

    Raises:
        UsageError: A kind does not exist.
    """
    from syncctl.ledger.audit import ACTIONS

    for action in actions or ():
        if action not in ACTIONS:
            near = find_near(action, ACTIONS)
            raise UsageError(
                f"no such action: {action}",
                why=f"did you mean {near}?" if near else "no command does that",
                hint=f"--action takes {', '.join(ACTIONS)}",
            )
    return tuple(dict.fromkeys(actions or ()))


def merge_streams(positional: Sequence[str] | None, option: Sequence[str] | None) -> list[str] | None:
    """Return the streams that were named as arguments or with `--stream`; None if there are none."""
    return [*(positional or ()), *(option or ())] or None


def require_stream(positional: str | None, option: str | None, *, command: str) -> str:
    """Return the one stream that was named as an argument or with `--stream`.

    Raises:
        UsageError: No stream was named, or two different ones were.
    """
    if positional is not None and option is not None and positional != option:
        raise UsageError(
            f"two streams are named: {positional} and {option}",
            why=f"syncctl {command} takes one",
            hint="omit the argument or --stream",
        )
    name = positional if positional is not None else option
    if name is None:
        raise UsageError("no stream is named", why="it is required", hint=f"write: syncctl {command} STREAM")
    return name


def is_any_given(*values: object) -> bool:
    """Tell whether any filter was given."""
    return any(value not in (None, [], ()) for value in values)
