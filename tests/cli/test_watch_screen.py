"""`syncctl status --watch` on a terminal: it follows its size, and gives it back as it was."""

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncctl import __version__
from syncctl.ledger.heartbeats import Heartbeats
from syncctl.ledger.migrations import VERSION
from syncctl.settings import load_settings
from syncctl.settings.describe import fingerprint_settings
from tests.cli.conftest import Settled
from tests.harness.commands import clean_environment, run_on_terminal

Eventually = Callable[..., Any]


class Screen:
    """A command on a terminal of a certain size; `shown` is what it has written."""

    def __init__(self, *args: str, cwd: Path, columns: int, lines: int) -> None:
        self.shown = ""
        self._parent, child = pty.openpty()
        self.resize(columns, lines)
        command = [sys.executable, "-m", "syncctl", *args]
        environment = clean_environment({"NO_COLOR": "1"})
        self.popen = subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=child, stdout=child, stderr=child, start_new_session=True
        )
        os.close(child)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._parent, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._parent, 65536)
            except OSError:
                return
            self.shown += piece.decode(errors="replace")

    def end(self, number: int) -> int:
        """Send a signal and return the exit code."""
        self.popen.send_signal(number)
        exit_code = self.popen.wait(timeout=60)
        self._reader.join(timeout=60)
        os.close(self._parent)
        return exit_code


def test_the_screen_follows_the_terminal_and_leaves_it_as_it_was(settled: Settled, eventually: Eventually) -> None:
    screen = Screen("status", "--watch", "--interval", "1s", cwd=settled.directory, columns=80, lines=24)
    try:
        eventually(lambda: "\x1b[24;1H" in screen.shown, timeout=60)
        assert screen.shown.startswith("\x1b[?25l\x1b[?1049h")
        assert "\x1b[25;1H" not in screen.shown
        (title,) = re.findall(r"\x1b\[1;1H\x1b\[K([^\x1b]*)", screen.shown)[:1]
        assert len(title) == 80
        screen.resize(120, 40)
        eventually(lambda: "\x1b[40;1H" in screen.shown, timeout=60)
        assert max(len(line) for line in re.findall(r"\x1b\[1;1H\x1b\[K([^\x1b]*)", screen.shown)) == 120
        assert "HTTP 422: this row is not valid" in screen.shown
    finally:
        exit_code = screen.end(signal.SIGINT)
    assert exit_code == 130
    assert screen.shown.endswith("\x1b[?7h\x1b[?1049l\x1b[?25h")


@pytest.mark.parametrize("name", ["syncctl.toml", ".env"])
def test_a_display_from_before_the_settings_changed_says_so_and_judges_no_process(
    run_syncctl: Any,
    start_syncctl: Any,
    settings_dir: Path,
    mongo_database: Any,
    eventually: Eventually,
    name: str,
) -> None:
    heartbeats = Heartbeats(mongo_database, "")

    def restart(worker: str) -> None:
        settings = fingerprint_settings(load_settings(directory=settings_dir, environment={}))
        facts = {"version": __version__, "settings": settings, "ledger": VERSION}
        heartbeats.record_worker(worker, {**facts, "queues": ["deliver", "poll", "control"]})
        heartbeats.record_beat(facts)

    restart("celery@one")
    plain = start_syncctl("status", "--watch", "--interval", "500ms", cwd=settings_dir)
    screen = Screen("status", "--watch", "--interval", "500ms", cwd=settings_dir, columns=80, lines=24)

    def wait_for(text: str) -> None:
        eventually(lambda: text in screen.shown and text in plain.log, timeout=60)

    warning = f"this display has older settings than {name}: start it again"
    try:
        wait_for("celery@one")
        assert "older settings" not in screen.shown + plain.log
        with (settings_dir / name).open("a") as file:
            file.write("[retention]\ndelivered = '31d'\n" if name == "syncctl.toml" else "RETENTION__DELIVERED=31d\n")
        wait_for(warning)
        restart("celery@two")
        wait_for("celery@two")
        # The plain status has its warnings after the workers.
        eventually(lambda: plain.log.count("celery@two") >= 2, timeout=60)
        assert "settings that differ" not in screen.shown + plain.log
    finally:
        assert screen.end(signal.SIGINT) == 130
    warnings = run_syncctl("status", cwd=settings_dir).stderr
    assert "celery@one runs with settings that differ from syncctl.toml: restart it" in warnings
    assert "celery@two" not in warnings


def test_an_interval_that_is_too_short_is_refused(run_syncctl: Any, settled: Settled) -> None:
    for interval, why in {"10ms": "each refresh asks", "often": "is not a duration"}.items():
        result = run_syncctl("status", "--watch", "--interval", interval, cwd=settled.directory)
        assert (result.exit_code, result.stdout) == (2, "")
        assert why in result.stderr


def test_the_plain_status_is_no_wider_than_the_terminal(settled: Settled) -> None:
    shown = run_on_terminal(
        [sys.executable, "-m", "syncctl", "status"], cwd=settled.directory, env={"NO_COLOR": "1", "TERM": "dumb"}
    )
    lines = shown.stderr.splitlines()
    assert any(line.startswith("rates    ") for line in lines)
    assert lines[1].startswith("orders  ")
    assert len(lines[1].split()) >= 5
