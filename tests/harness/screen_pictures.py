"""`python -m tests.harness.screen_pictures DIRECTORY`: pictures of the terminal, as SVG files that need nothing else.

`syncctl demo` runs, and what it shows at its end is drawn. Then the demo's servers, its unreliable partner, a worker
and Beat run for some minutes, while a program writes to the source. What `status --watch`, `tail` and `show` write to
a terminal is drawn as it is.
"""

import argparse
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from syncctl.local.demo.environment import STREAM, DemoEnvironment, isolated_settings

COLUMNS, LINES = 100, 28
SHOWN_LINES_AT_MOST = 100
_SCREEN_LINE = re.compile(r"\x1b\[(\d+);1H\x1b\[K")
_MOVE = re.compile(r"(\n|\x1b\[\d+A)")
_CURSOR = re.compile(r"\x1b\[(?:K|\?25[lh])")
_SCREEN_CLEARED = "\x1b[H\x1b[2J"
_PROGRESS = re.compile(r"\r\x1b\[K[^\r\n\x1b]*")
_FONT = re.compile(r"@font-face \{\{.*?\}\}\s*", re.DOTALL)


class Terminal:
    """A command on its own terminal, in a directory of settings."""

    def __init__(self, directory: Path, *args: str) -> None:
        self._written = b""
        self._parent, child = pty.openpty()
        fcntl.ioctl(self._parent, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        # The title of the screen names the directory.
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "syncctl", "-C", str(directory), *args],
            stdin=child,
            stdout=child,
            stderr=child,
            env={**os.environ, "TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.close(child)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                self._written += os.read(self._parent, 65536)
            except OSError:
                return

    def read(self) -> str:
        """Return everything that it has written so far, except its progress."""
        return _PROGRESS.sub("", self._written.decode(errors="replace").replace("\r\n", "\n"))

    def end(self) -> str:
        """Interrupt it if it still runs, and return everything that it has written."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> str:
        """Return everything that it has written up to its end."""
        self._popen.wait()
        self._reader.join()
        os.close(self._parent)
        return self.read()


def read_screen(written: str) -> list[str]:
    """Return the lines of a screen as they stand after everything that was written to it."""
    lines = [""] * LINES
    parts = _SCREEN_LINE.split(written.rpartition(_SCREEN_CLEARED)[2])
    for number, text in zip(parts[1::2], parts[2::2], strict=True):
        lines[int(number) - 1] = text.partition("\x1b[?")[0]
    return lines


def read_lines(written: str) -> list[str]:
    """Return the lines that stand after a command has redrawn some of them, as a progress display does."""
    lines = [""]
    at = 0
    for part in _MOVE.split(written.replace("\r", "")):
        if part == "\n":
            at += 1
            lines += [""] * (at + 1 - len(lines))
        elif _MOVE.fullmatch(part):
            at -= int(part[2:-1])
        elif part:
            lines[at] = _CURSOR.sub("", part)
    return lines


def draw_demo(pictures: Path) -> None:
    """Run the demo, and draw its last screen, its report and its account."""
    lines = read_lines(Terminal(pictures, "demo", "--seed", "7").wait())
    last_screen = max(number for number, line in enumerate(lines) if "syncctl demo" in line)
    draw(lines[last_screen:], "make demo", pictures / "demo.svg")


def draw(lines: Sequence[str], title: str, path: Path) -> None:
    """Write a picture of these lines."""
    from rich._export_format import CONSOLE_SVG_FORMAT
    from rich.console import Console
    from rich.text import Text

    with Path(os.devnull).open("w") as nothing:
        console = Console(record=True, width=COLUMNS, file=nothing, force_terminal=True, color_system="truecolor")
        for line in lines:
            console.print(Text.from_ansi(line), overflow="ellipsis", no_wrap=True)
        # The picture loads no font from elsewhere.
        code_format = _FONT.sub("", CONSOLE_SVG_FORMAT)
        svg = console.export_svg(title=title, code_format=code_format, unique_id=f"syncctl-{path.stem}")
    path.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")


def write_rows(environment: DemoEnvironment, *, seconds: float, rows: int) -> "subprocess.Popen[bytes]":
    """Start the program that writes to the source."""
    module = "syncctl.local.demo.writer"
    flags = ["--rows", str(rows), "--seconds", str(seconds), "--documents"]
    return subprocess.Popen(
        [sys.executable, "-m", module, str(environment.table.path), *flags], stdout=subprocess.DEVNULL
    )


def change_row(environment: DemoEnvironment, key: str) -> None:
    """Change an order and one of its lines in the source."""
    with closing(environment.table.connect()) as connection, connection:
        connection.execute("update orders set amount = amount + 1, note = 'changed just now' where id = ?", (key,))
        connection.execute("update order_lines set qty = qty + 1 where order_id = ? and line = 1", (key,))


def choose_record(connections: Any) -> dict[str, Any]:
    """Return the record with the most attempts among those that were replayed and delivered."""
    from syncctl.pipeline.selection import Selection, list_records

    selection = Selection(streams=(STREAM,), states=("delivered",))
    return max(
        list_records(connections.ledger, selection),
        key=lambda record: (bool(record.get("replays")), int(record["attempts"])),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the services, and draw what the commands show."""
    parser = argparse.ArgumentParser(prog="python -m tests.harness.screen_pictures", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long rows are written to the source")
    parser.add_argument("--rows", type=int, default=1500)
    chosen = parser.parse_args(arguments)
    chosen.directory.mkdir(parents=True, exist_ok=True)
    draw_demo(chosen.directory.absolute())
    with DemoEnvironment(rows=chosen.rows, fail=0.25, seed=7, keep=False, documents=True) as environment:
        environment.start_services()
        with isolated_settings(environment.directory):
            draw_all(environment, chosen.directory.absolute(), seconds=chosen.seconds, rows=chosen.rows)
    return 0


def draw_all(environment: DemoEnvironment, pictures: Path, *, seconds: float, rows: int) -> None:
    """Let rows be delivered, and draw what the commands show meanwhile and afterwards."""
    from syncctl.pipeline.selection import Selection
    from syncctl.settings import load_settings
    from syncctl.wiring.use_cases import open_connections, replay

    with open_connections(load_settings()) as connections:
        connections.ledger.prepare()
        environment.start_programs()
        writer = write_rows(environment, seconds=seconds, rows=rows)
        time.sleep(seconds * 0.5)
        replay(connections, Selection(streams=(STREAM,)), who="ops@example")
        time.sleep(seconds * 0.25)
        watch = Terminal(environment.directory, "status", "--watch")
        tail = Terminal(environment.directory, "tail")
        time.sleep(max(seconds * 0.1, 15.0))
        draw(read_screen(watch.read()), "syncctl status --watch", pictures / "status-watch.svg")
        tail_lines = [line for line in tail.read().splitlines() if not line.startswith("waiting for attempts")]
        draw(tail_lines[:1] + tail_lines[1:][-20:], "syncctl tail", pictures / "tail.svg")
        watch.end()
        tail.end()
        writer.wait()
        environment.partner.fix()
        replay(connections, Selection(streams=(STREAM,)), who="ops@example")
        time.sleep(15.0)
        record = choose_record(connections)
        # Without a poll, the source is ahead of the ledger.
        Terminal(environment.directory, "pause", STREAM, "--polls", "--reason", "a picture").wait()
        time.sleep(3.0)
        key = str(record["key"]["id"])
        change_row(environment, key)
        shown = Terminal(environment.directory, "show", STREAM, key).wait().splitlines()
        draw(shown[:SHOWN_LINES_AT_MOST], f"syncctl show {STREAM} {key}", pictures / "show.svg")


if __name__ == "__main__":
    raise SystemExit(main())
