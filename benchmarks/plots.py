"""`python -m benchmarks.plots RESULTS.json DIRECTORY`: a table in Markdown on stdout, and its charts as SVG files."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot

CHARTS: Mapping[str, tuple[str, ...]] = {
    "at-once": ("syncctl, 0 ms", "drt, 0 ms", "plain Celery, 0 ms"),
    "in-50-ms": (
        "syncctl, 50 ms, defaults",
        "syncctl, 50 ms, 128 in flight",
        "bare client, 50 ms, 128 threads",
        "syncctl, 50 ms, 32 in flight",
        "bare client, 50 ms, 32 threads",
    ),
}
OURS, THEIRS = "#1f6f8b", "#b8b8b8"


def main(arguments: Sequence[str]) -> int:
    """Print the table and draw the charts of one run; exit code 2 for wrong arguments."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    results = json.loads(Path(arguments[0]).read_text())
    directory = Path(arguments[1])
    directory.mkdir(parents=True, exist_ok=True)
    print(make_table(results))
    for name, bars in CHARTS.items():
        shown = [result for bar in bars for result in results if result["name"] == bar]
        if shown:
            draw(shown, directory / f"{name}.svg")
    return 0


def make_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the results as a table in Markdown."""
    lines = ["| measurement | rows/s | CPU µs a row, by process | more |", "|---|---|---|---|"]
    for result in results:
        cpu = ", ".join(f"{kind} {used:,.0f}" for kind, used in result["cpu_us"].items())
        more = ", ".join(f"{name} {value:,.1f}" for name, value in result["extra"].items())
        lines.append(f"| {result['name']} | {result['rows'] / result['seconds']:,.0f} | {cpu} | {more} |")
    return "\n".join(lines)


def draw(results: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw the rows per second of some results as bars."""
    pyplot.rcParams["svg.hashsalt"] = "syncctl"
    figure, axes = pyplot.subplots(figsize=(7, 0.5 + 0.45 * len(results)))
    names = [result["name"] for result in results]
    speeds = [result["rows"] / result["seconds"] for result in results]
    colours = [OURS if name.startswith("syncctl") else THEIRS for name in names]
    bars = axes.barh(names, speeds, color=colours)
    axes.bar_label(bars, labels=[f"{speed:,.0f} rows/s" for speed in speeds], padding=4, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.xaxis.set_visible(False)
    figure.savefig(file, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
