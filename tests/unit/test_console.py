"""The output on stdout and stderr, and its forms."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncctl.console import format_time, to_document, to_json
from syncctl.console.csv_lines import to_csv_header, to_csv_lines
from syncctl.console.tables import Table, to_plain
from syncctl.core.safe_text import clean_text, make_safe
from syncctl.core.states import State
from tests.harness import commands
from tests.harness.commands import clean_environment

SCRIPT = "from syncctl.console import out\nfrom syncctl.errors import TroubleFound\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    at: datetime
    amount: Decimal
    state: State


def test_a_document_has_utc_times_exact_decimals_and_plain_states() -> None:
    at = datetime(2026, 1, 31, 9, 30, 0, 123456, tzinfo=timezone(timedelta(hours=1)))
    sample = Sample(at=at, amount=Decimal("1.10"), state=State.DELIVERED)
    expected = {"at": "2026-01-31T08:30:00.123Z", "amount": "1.10", "state": "delivered"}
    assert json.loads(to_json({"rows": (sample,)})) == {"rows": [expected]}


def test_a_value_without_a_form_in_json_is_null_or_an_error() -> None:
    assert to_document({"ratio": float("nan"), "day": date(2026, 1, 31)}) == {"ratio": None, "day": "2026-01-31"}
    with pytest.raises(TypeError):
        to_document(object())


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        format_time(datetime(2026, 1, 31))  # noqa: DTZ001


@given(st.text())
def test_json_survives_every_encoding(text: str) -> None:
    for encoding in ("utf-8", "ascii", "cp1252"):
        assert json.loads(to_json({"text": text}, encoding=encoding).encode(encoding).decode(encoding)) == {
            "text": text
        }


@given(st.text())
def test_no_text_drives_the_terminal(text: str) -> None:
    assert not set(make_safe(text)) & {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))}


def test_what_is_invisible_or_turns_text_around_is_shown_by_its_number() -> None:
    text = "a\u202eb\x9bc\u200bd\u2066e\ufefff\U000e0041"
    escaped = "a\\u202eb\\x9bc\\u200bd\\u2066e\\ufefff\\U000e0041"
    assert make_safe(text) == escaped
    assert clean_text(text) == "a b c d e f"
    assert to_plain(Table(columns=("x",), rows=[(text,)])).splitlines()[1] == escaped
    shown = to_json({"a": text})
    assert shown.isprintable() or set(shown) - set("\n") == set(filter(str.isprintable, shown))
    assert json.loads(shown) == {"a": text}


def test_a_plain_table_is_aligned_and_never_cut() -> None:
    long = "x" * 500
    table = Table(columns=("stream", "failed", "message"), rows=[("orders", 3, long), ("日本", None, "a\nb\x1b[31m")])
    assert to_plain(table).splitlines() == [
        "STREAM  FAILED  MESSAGE",
        f"orders       3  {long}",
        "日本         -  a\\nb\\x1b[31m",
    ]


def test_csv_has_a_header_gaps_and_no_formulas() -> None:
    text = to_csv_header(("a", "b", "c")) + to_csv_lines([("=1+1", None, 'x,"y"'), (-1, Decimal("0.10"), "é")])
    assert list(csv.reader(io.StringIO(text))) == [["a", "b", "c"], ["'=1+1", "", 'x,"y"'], ["-1", "0.10", "é"]]


def run_script(script: str, *, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", SCRIPT + script]
    return subprocess.run(command, env=clean_environment(env), capture_output=True, text=True, check=True)


def test_the_answer_is_on_stdout_and_everything_else_on_stderr() -> None:
    done = run_script("out.show('answer'); out.say('said'); out.warn('careful')")
    assert (done.stdout, done.stderr) == ("answer\n", "said\nwarning: careful\n")


def test_quiet_keeps_warnings_and_errors() -> None:
    done = run_script("out.quiet = True; out.say('said'); out.warn('careful'); out.error(TroubleFound('broken'))")
    assert (done.stdout, done.stderr) == ("", "warning: careful\nerror: broken\n")


def test_an_error_is_one_line_for_each_of_its_parts_and_causes() -> None:
    done = run_script(r"out.error(TroubleFound('broken', why='first\nsecond\x1b[2J', hint='repair it'))")
    assert done.stderr == "error: broken\n  cause: first\n         second\\x1b[2J\n   hint: repair it\n"


def test_a_text_that_stdout_cannot_encode_is_escaped() -> None:
    done = run_script("out.show('naïve 日本'); out.print_json({'a': '日本'})", env={"PYTHONIOENCODING": "ascii"})
    assert done.stdout.splitlines()[0] == "na\\xefve \\u65e5\\u672c"
    assert json.loads(done.stdout.split("\n", 1)[1]) == {"a": "日本"}


@pytest.mark.parametrize(
    ("env", "coloured"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "0"}, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_a_pipe_has_colour_only_if_the_environment_forces_it(env: dict[str, str], coloured: bool) -> None:
    done = run_script("out.warn('careful'); out.table(('n',), [(1,)], n='red')", env=env)
    assert ("\x1b[" in done.stderr) == coloured


@pytest.mark.parametrize(
    ("env", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"TERM": "xterm", "NO_COLOR": "1"}, False)],
)
def test_colour_on_a_terminal_is_decided_for_each_stream(env: dict[str, str], coloured: bool) -> None:
    script = "out.warn('careful'); out.table(('n',), [(1,)], n='red')"
    terminal, piped = run_on_terminal(script, env=env)
    assert ("\x1b[" in terminal) == coloured
    assert piped == "N\n1\n"


def test_a_question_is_asked_on_stderr_and_only_yes_is_yes() -> None:
    for answer, expected in (("y", True), ("yes", True), ("n", False), ("", False), ("sure", False)):
        terminal, piped = run_on_terminal("out.show(str(out.confirm('replay 3?')))", typed=f"{answer}\n")
        assert "replay 3? [y/N]" in terminal
        assert piped == f"{expected}\n"


def test_without_a_terminal_no_question_is_asked() -> None:
    done = run_script("out.show(str(out.confirm('replay 3?')))")
    assert (done.stdout, done.stderr) == ("False\n", "")


def run_on_terminal(script: str, *, env: Mapping[str, str] | None = None, typed: str = "") -> tuple[str, str]:
    """Run a script whose stdin and stderr are a terminal; return what the terminal and stdout showed."""
    command, environment = [sys.executable, "-c", SCRIPT + script], {"TERM": "xterm", **(env or {})}
    done = commands.run_on_terminal(command, env=environment, typed=typed, stdout=subprocess.PIPE)
    return done.stderr, done.stdout
