"""Charts as inline SVG: horizontal positions in percent and fixed heights, so that text has one size on all screens."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from syncctl.console.markup import Markup, element

HEIGHT = 140
AXIS_WIDTH = 64
_BASE = 18
"""The height below the bars for the labels of the times."""
_LABELS_AT_MOST = 6
_ROW = 22
_SECOND, _MINUTE, _HOUR, _DAY = 1e3, 6e4, 3.6e6, 8.64e7
_MARKS_MS = (
    0.1, 1, 10, 100, _SECOND, 10 * _SECOND, _MINUTE, 10 * _MINUTE, _HOUR, 6 * _HOUR, _DAY, 7 * _DAY, 30 * _DAY,
    365 * _DAY, 3650 * _DAY,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One series of values over time; None where a value is not known."""

    name: str
    #: The class in the style sheet that gives the series its colour.
    colour: str
    values: Sequence[float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """The units of time of a chart, and the format of its values."""

    #: One short label for each unit, some of which are drawn.
    labels: Sequence[str]
    #: One full name for each unit, shown beside its values.
    names: Sequence[str]
    show: Callable[[float], str]


def draw_bars(axis: Axis, stacked: Sequence[Series], *, title: str) -> Markup:
    """Return a bar chart in which several series are stacked."""
    sums = [sum(series.values[at] or 0 for series in stacked) for at in range(len(axis.names))]
    top = round_up(max(sums, default=0))
    width = 100 / max(1, len(sums))
    drawn = []
    for at, total in enumerate(sums):
        if not total:
            continue
        below = 0.0
        parts: list[Markup] = []
        for series in stacked:
            if value := series.values[at]:
                height = max(1.0, value / top * (HEIGHT - _BASE))
                parts.append(_bar(at * width, width, HEIGHT - _BASE - below - height, height, series.colour))
                below += height
        values = ", ".join(f"{series.name} {axis.show(series.values[at] or 0)}" for series in stacked)
        drawn.append(element("g", element("title", f"{axis.names[at]}: {values}"), parts))
    marks = [(HEIGHT - _BASE, "0"), ((HEIGHT - _BASE) / 2, axis.show(top / 2)), (0, axis.show(top))]
    return _frame(marks, drawn, axis, title)


def draw_lines(axis: Axis, lines: Sequence[Series], *, title: str) -> Markup:
    """Return lines over a logarithmic scale of milliseconds, interrupted where a value is not known."""
    known = [value for series in lines for value in series.values if value]
    marks = choose_marks(min(known, default=1), max(known, default=1))
    low, high = math.log(marks[0]), math.log(marks[-1])
    width = 100 / max(1, len(axis.names))

    def place(value: float) -> float:
        return round((high - math.log(value)) / (high - low) * (HEIGHT - _BASE - 8) + 4, 1)

    drawn: list[Markup] = []
    for series in lines:
        points = [(at, value) for at, value in enumerate(series.values) if value]
        for (at, value), (following, next_value) in pairwise(points):
            if following == at + 1:
                drawn.append(
                    element(
                        "line",
                        x1=_percent((at + 0.5) * width),
                        x2=_percent((following + 0.5) * width),
                        y1=place(value),
                        y2=place(next_value),
                        class_=f"line {series.colour}",
                    )
                )
        for at, value in points:
            label = element("title", f"{axis.names[at]}: {series.name} {axis.show(value)}")
            drawn.append(
                element("circle", label, cx=_percent((at + 0.5) * width), cy=place(value), r=2.5, class_=series.colour)
            )
    return _frame([(place(mark), axis.show(mark)) for mark in marks], drawn, axis, title)


def draw_distribution(names: Sequence[str], counts: Sequence[int], *, title: str, colour: str) -> Markup:
    """Return how often each range of values occurred, one bar below the other."""
    most, total = max(counts, default=0), sum(counts)
    rows = []
    for at, (name, count) in enumerate(zip(names, counts, strict=True)):
        y = at * _ROW
        share = f"{100 * count / max(1, total):.1f} %"
        rows.append(
            element(
                "g",
                element("title", f"{name}: {count:,} ({share})"),
                element("text", name, x="21%", y=y + 15, text_anchor="end"),
                element(
                    "rect",
                    x="23%",
                    y=y + 3,
                    height=_ROW - 6,
                    width=_percent(max(0.4, 50 * count / most) if count else 0),
                    class_=colour,
                ),
                element("text", f"{count:,} · {share}" if count else "0", x="100%", y=y + 15, text_anchor="end"),
            )
        )
    label = element("title", title)
    return element("svg", label, rows, role="img", class_="distribution", width="100%", height=len(rows) * _ROW)


def round_up(value: float) -> float:
    """Return the next of 1, 2 or 5 times a power of ten that is not below a value, and at least 2."""
    if value <= 2:
        return 2
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value)


def choose_marks(least_ms: float, most_ms: float) -> list[float]:
    """Return at least two and at most six marks of a logarithmic scale of durations that holds both values."""
    first = max(0, bisect_right(_MARKS_MS, least_ms) - 1)
    last = max(first + 1, bisect_left(_MARKS_MS, most_ms))
    last = min(last, len(_MARKS_MS) - 1)
    marks = list(_MARKS_MS[min(first, last - 1) : last + 1])
    return marks if len(marks) <= _LABELS_AT_MOST else [*marks[:-1:2], marks[-1]]


def choose_labels(labels: Sequence[str]) -> list[int]:
    """Return the indexes of the units that get a label: at regular intervals, at most six."""
    step = max(1, math.ceil(len(labels) / _LABELS_AT_MOST))
    step = next((interval for interval in (1, 2, 3, 4, 6, 12, 24, 48) if interval >= step), step)
    return list(range(0, len(labels), step))


def _frame(marks: Sequence[tuple[float, str]], drawn: Sequence[Markup], axis: Axis, title: str) -> Markup:
    """Return a drawing with a scale on its left and labels below it."""
    scale = [
        element("text", text, x=AXIS_WIDTH - 6, y=min(max(y + 4, 10), HEIGHT - _BASE), text_anchor="end")
        for y, text in marks
    ]
    grid = [element("line", x1="0", x2="100%", y1=round(y, 1), y2=round(y, 1), class_="grid") for y, _ in marks]
    width = 100 / max(1, len(axis.labels))
    labels = [
        element(
            "text",
            axis.labels[at],
            x=_percent(at * width),
            y=HEIGHT - 3,
            class_="minor" if order % 2 else None,
        )
        for order, at in enumerate(choose_labels(axis.labels))
    ]
    left = element("svg", scale, width=AXIS_WIDTH, height=HEIGHT, aria_hidden="true")
    plot = element("svg", element("title", title), grid, drawn, labels, role="img", width="100%", height=HEIGHT)
    return element("div", left, plot, class_="chart")


def _bar(x: float, width: float, y: float, height: float, colour: str) -> Markup:
    gap = width * 0.1
    return element(
        "rect",
        x=_percent(x + gap),
        y=round(y, 1),
        width=_percent(width - 2 * gap),
        height=round(height, 1),
        class_=colour,
    )


def _percent(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") + "%"
