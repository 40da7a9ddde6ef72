"""The story of a row, as `syncctl show` draws it: a timeline, and the fields that differ."""

from collections.abc import Sequence
from datetime import datetime
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from syncctl.commands.records import format_key, shorten_id
from syncctl.console import format_time, out, to_line
from syncctl.console.lines import Line, Part, cut_end, fill, measure
from syncctl.console.pictures import STATE_STYLES
from syncctl.core.safe_text import make_safe_line
from syncctl.core.states import State

if TYPE_CHECKING:
    from syncctl.pipeline.inspection.row_comparison import Comparison, Difference
    from syncctl.pipeline.inspection.timeline import TimelineEvent

WIDTH_OF_A_PIPE = 160
_FIELD_AT_MOST, _VALUE_AT_LEAST = 32, 12
_KEPT_BEFORE = 8
"""How many characters of the common beginning of two values are shown before their first difference."""
_LABELS = {"source": "source now", "newest": "newest version", "delivered": "delivered"}
_EVENT_NAMES = {"written_back": "written back", "write_back_failed": "not written", "taken_back": "taken back"}


def draw_timeline(events: "Sequence[TimelineEvent]") -> list[Line]:
    """Return a line for each event, and below it a line for the partner's answer if there is one."""
    has_versions = len({event.record for event in events}) > 1
    lines: list[Line] = [[("TIMELINE", "bold")]]
    day = None
    for event in events:
        if event.at is not None and event.at.date() != day:
            day = event.at.date()
            lines.append([(f"  {day} UTC", "dim")])
        lines += _draw_event(event, has_versions=has_versions)
    return lines


def _draw_event(event: "TimelineEvent", *, has_versions: bool) -> list[Line]:
    at = f"{event.at:%H:%M:%S}.{event.at.microsecond // 1000:03}" if event.at is not None else ""
    name = _EVENT_NAMES.get(event.event, event.event)
    name = name if event.attempt is None else f"attempt {event.attempt}"
    line: list[Part] = [(f"  {at:12}  ", "dim"), (fill(name, 12), "bold")]
    if has_versions:
        line.append((f"  {fill(shorten_id(event.record).rpartition('-')[2], 8)}", "dim"))
    style = STATE_STYLES.get(event.state or "", "")
    if event.event == State.SUPERSEDED:
        line.append((f"  by {event.by}", "dim"))
    elif event.outcome is not None:
        line.append((f"  {fill(event.state or '-', 10)}", style))
        latency = "" if event.latency_ms is None else f"{event.latency_ms:,.0f} ms"
        line.append((f"  {event.status or '-':>3}  {latency:>9}", ""))
        if event.error or event.detail:
            line.append((f"  {', '.join(part for part in (event.error, event.detail) if part)}", style))
    else:
        by = f"by {event.by}" if event.by else None
        parts = [part for part in (event.state, event.error, by, event.detail) if part]
        line.append((f"  {', '.join(parts)}", style))
    lines: list[Line] = [line]
    if event.excerpt:
        indent = " " * (30 + (10 if has_versions else 0))
        lines.append([(f"{indent}answer {event.excerpt}", "dim")])
    return lines


def draw_comparison(comparison: "Comparison", width: int) -> list[Line]:
    """Return a line each on the source, the newest and the delivered version, and a table of differing fields."""
    lines: list[Line] = [[(f"ROW  {comparison.stream} {format_key(comparison.key)}", "bold")]]
    lines += [[(f"  {fill(_LABELS[side], 15)}  ", ""), (text, style)] for side, text, style in _describe(comparison)]
    if not comparison.differences:
        if len(comparison.compared) > 1:
            lines.append([(f"  no field differs between {_join(comparison.compared)}", "green")])
        return lines
    sides = comparison.compared
    widest = max(measure(difference.field) for difference in comparison.differences)
    field_width = max(min(widest, _FIELD_AT_MOST), len("FIELD"))
    room = max((width - 2 - field_width) // len(sides) - 2, _VALUE_AT_LEAST)
    header = f"  {fill('FIELD', field_width)}" + "".join(f"  {fill(_LABELS[side].upper(), room)}" for side in sides)
    lines += [[], [(header.rstrip(), "bold")]]
    lines += [_draw_difference(difference, sides, field_width, room) for difference in comparison.differences]
    if comparison.more:
        lines.append([("  more fields differ", "dim")])
    return lines


def _describe(comparison: "Comparison") -> list[tuple[str, str, str]]:
    """Return a side, its description and the style of that, for each of the three sides."""
    error = comparison.source_error or ""
    sources = {
        "read": ("read now", ""),
        "gone": ("the source has no such row now", "yellow"),
        "unreadable": (f"could not be read: {error}", "yellow"),
        "unreachable": (f"not compared: {error}", "yellow"),
        "not_asked": ("not read", "dim"),
    }
    text, style = sources[comparison.source]
    delivered = comparison.delivered or "no delivered version is in the ledger"
    if comparison.delivered is not None and comparison.delivered == comparison.newest:
        delivered = "the newest version"
    return [("source", text, style), ("newest", comparison.newest or "-", ""), ("delivered", delivered, "")]


def _join(sides: Sequence[str]) -> str:
    names = [_LABELS[side] for side in sides]
    return ", ".join(names[:-1]) + f" and {names[-1]}"


def _draw_difference(difference: "Difference", sides: Sequence[str], field_width: int, room: int) -> Line:
    texts = {side: make_safe_line(_spell(difference, side)) for side in sides}
    longest = max(measure(text) for text in texts.values())
    skipped = 0
    if longest > room:
        # Skip most of the common beginning, so that the first difference is visible.
        common = _count_common([text for side, text in texts.items() if side not in difference.absent_in])
        skipped = max(common - _KEPT_BEFORE, 0)
    newest = texts.get("newest")
    line: list[Part] = [(f"  {fill(difference.field, field_width)}", "")]
    for side in sides:
        text = texts[side]
        if skipped and side not in difference.absent_in:
            text = f"…{text[skipped:]}"
        style = "dim" if side in difference.absent_in else "yellow" if texts[side] != newest else ""
        cut = cut_end(text, room)
        line.append((f"  {cut}{' ' * (room - measure(cut))}", style))
    return line


def _count_common(texts: Sequence[str]) -> int:
    """Return the length of the common beginning of these texts; 0 if they are all the same."""
    if len(set(texts)) < 2:
        return 0
    return next(at for at, letters in enumerate(zip_longest(*texts)) if len(set(letters)) > 1)


def _spell(difference: "Difference", side: str) -> str:
    if side in difference.absent_in:
        return "(absent)"
    value: Any = getattr(difference, side)
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, str):
        return value
    return "null" if value is None else to_line(value)


def show_story(timelines: "Sequence[Sequence[TimelineEvent]]", comparison: "Comparison | None") -> None:
    """Write the timeline of each row, and the comparison if there is one."""
    width = out.width if out.is_watched() else WIDTH_OF_A_PIPE
    for events in timelines:
        out.show_lines([[], *draw_timeline(events)])
    if comparison is not None:
        out.show_lines([[], *draw_comparison(comparison, width)])
