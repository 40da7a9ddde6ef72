"""Progress: one line on a terminal, after a second, that leaves nothing behind."""

import subprocess
import sys

import pytest

from tests.harness.commands import run_on_terminal

SCRIPT = """
import os, signal, sys, time
from syncctl.console import out, progress
from syncctl.logs import configure_logging, get_logger
progress.AFTER_SECONDS, progress.EVERY_SECONDS, progress.LINE_EVERY_SECONDS = {after}, 0.01, {line_every}
configure_logging(format="short")
out.quiet, out.is_for_machines = {quiet}, {for_machines}
drawn = []
with out.progress("reading", total=10, unit="rows") as show:
    show(3)
    line = out._line
    until = time.monotonic() + {wait}
    while not (line and line._is_shown) and time.monotonic() < until:
        time.sleep(0.005)
    {within}
"""


def script(
    *, after: float = 0.0, wait: float = 20.0, line_every: float = 60.0, within: str = "", **flags: bool
) -> list[str]:
    values = {"quiet": False, "for_machines": False, **flags}
    made = SCRIPT.format(after=after, wait=wait, line_every=line_every, within=within or "pass", **values)
    return [sys.executable, "-c", made]


def test_a_terminal_shows_how_far_it_is_and_nothing_is_left_behind() -> None:
    done = run_on_terminal(script(after=0.2), env={"TERM": "xterm"})
    assert "\r\x1b[Kreading: 3 of 10 rows (30 %), 0 s" in done.stderr
    assert done.stderr.endswith("\r\x1b[K")


def test_what_is_written_meanwhile_has_lines_of_its_own() -> None:
    within = "out.say('said'); out.show('shown'); get_logger('x').warning('poll.note')"
    shown = run_on_terminal(script(within=within), env={"TERM": "xterm", "NO_COLOR": "1"}).stderr
    for text in ("said", "shown", "warning: action=poll.note"):
        assert f"\x1b[K{text}\r\n" in shown or f"\n{text}\r\n" in shown


def test_ctrl_c_leaves_a_clean_line() -> None:
    done = run_on_terminal(script(within="os.kill(os.getpid(), signal.SIGINT); time.sleep(60)"), env={"TERM": "xterm"})
    assert done.exit_code not in (0, None)
    assert "\x1b[KTraceback" in done.stderr


@pytest.mark.parametrize(
    ("flags", "term"),
    [({"after": 60.0}, "xterm"), ({"quiet": True}, "xterm"), ({"for_machines": True}, "xterm"), ({}, "dumb")],
)
def test_nothing_is_shown_within_a_second_or_to_whoever_does_not_want_it(flags: dict[str, float], term: str) -> None:
    assert run_on_terminal(script(wait=0.05, **flags), env={"TERM": term}).stderr == ""


@pytest.mark.parametrize(("line_every", "flags"), [(60.0, {}), (0.01, {"quiet": True}), (0.01, {"for_machines": True})])
def test_nothing_is_written_off_a_terminal_in_the_first_half_minute_or_to_whoever_does_not_want_it(
    line_every: float, flags: dict[str, bool]
) -> None:
    done = subprocess.run(script(wait=0.05, line_every=line_every, **flags), capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_long_work_off_a_terminal_writes_a_plain_line_now_and_then() -> None:
    within = "out.say('said')"
    done = subprocess.run(script(wait=0.5, line_every=0.05, within=within), capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert done.stdout == ""
    assert lines.count("reading: 3 of 10 rows (30 %), 0 s") >= 2
    assert set(lines) <= {"reading: 3 of 10 rows (30 %), 0 s", "reading: 3 of 10 rows (30 %), 1 s", "said"}
