"""The building blocks of screens: a title, the path of the rows, counts, a progress bar, sparklines."""

from collections.abc import Iterable, Sequence

from syncctl.console.lines import Line, Part, cut_end, cut_middle, fill, measure

STATE_STYLES = {"retrying": "yellow", "delivered": "green", "failed": "red", "superseded": "dim"}
_BARS = "▁▂▃▄▅▆▇█"
_ARROW = " ──▶ "


def draw_title(title: str, remark: str, width: int) -> Line:
    """Return a line across the whole width with a title at its beginning and a remark at its end."""
    shown = cut_end(remark, max(width - measure(title) - 4, 0))
    rule = "─" * max(width - measure(title) - measure(shown) - 2, 0)
    return [(title, "bold"), (f" {rule} ", "dim"), (shown, "dim")]


def draw_path(stations: Sequence[Sequence[Part]], width: int) -> list[Line]:
    """Return the stations of the rows side by side, with arrows between their first lines."""
    station_width = (width - len(_ARROW) * (len(stations) - 1)) // len(stations)
    lines: list[Line] = []
    for at in range(max(len(station) for station in stations)):
        line: list[Part] = []
        for station in stations:
            text, style = station[at] if at < len(station) else ("", "")
            if line:
                line.append((_ARROW if at == 0 else " " * len(_ARROW), "dim"))
            line.append((_centre(text, station_width), style))
        lines.append(line)
    return lines


def _centre(text: str, width: int) -> str:
    cut = cut_middle(text, width)
    return fill(" " * ((width - measure(cut)) // 2) + cut, width)


def draw_counts(label: str, counts: Iterable[tuple[str, int, str]], *, label_width: int = 9) -> Line:
    """Return a line of (name, count, style of a count that is not 0)."""
    line: list[Part] = [(fill(label, label_width), "")]
    for name, count, style in counts:
        line += [(f"{name} ", "dim"), (f"{count:,}", style if count else "dim"), ("   ", "")]
    return line


def draw_progress(share: float, remark: str, width: int) -> Line:
    """Return a bar that is filled up to a share, and a remark at its end."""
    size = max(width - measure(remark) - 1, 0)
    done = round(min(max(share, 0.0), 1.0) * size)
    return [("━" * done, "green"), ("━" * (size - done), "dim"), (f" {remark}", "")]


def draw_sparkline(counts: Sequence[float]) -> str:
    """Return one bar for each count, its height relative to the largest count; a blank stands for zero."""
    largest = max(counts, default=0)
    if largest <= 0:
        return " " * len(counts)
    top = len(_BARS) - 1
    return "".join(_BARS[min(top, int(count / largest * len(_BARS)))] if count > 0 else " " for count in counts)


def format_rate(per_second: float) -> str:
    """Return a rate in few characters."""
    if per_second >= 100:
        return f"{per_second:,.0f}"
    return f"{per_second:.1f}" if per_second >= 0.1 or per_second == 0 else f"{per_second:.2f}"
