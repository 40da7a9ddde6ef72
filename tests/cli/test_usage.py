"""Refused command lines: three lines on stderr, exit code 2, nothing on stdout."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.commands import run_python

Run = Callable[..., Any]

REFUSED = {
    ("reprot",): ("no such command: reprot", "did you mean: syncctl report", "syncctl --help"),
    ("xyzzy",): ("no such command: xyzzy", "no command of that name", "syncctl --help"),
    ("--versoin",): ("no such option: --versoin", "usage: syncctl", "did you mean --version?"),
    ("poll", "--onec"): ("no such option: --onec", "usage: syncctl poll", "did you mean --once?"),
    ("poll", "--json"): ("--json needs --once", "polling does not end", "--once"),
    ("add", "2"): ("missing argument 'Y'", "usage: syncctl add [OPTIONS] X Y", "syncctl add --help"),
    ("add", "2", "three"): ("Y is not a number: three", "finite", "syncctl add 2 3"),
    ("add", "2", "inf"): ("Y is not a number: inf", "finite", "syncctl add 2 3"),
    ("add", "2", "3", "--timeout", "soon"): ("--timeout 'soon' is not a duration", "", "--timeout 30s"),
    ("discard", "a\udc80b", "--reason", "x"): (r"the argument 'a\udc80b' is not UTF-8 text", "", ""),
    ("discard", "abc"): ("missing option '--reason'", "usage: syncctl discard", "syncctl discard --help"),
    ("discard", "abc", "--reason", " "): ("--reason is empty", "", "give the reason"),
    ("health", "--max-age", "0s"): ("--max-age is zero", "no heartbeat is that recent", "--max-age 1m"),
    ("replay", "--since", "yesterday"): ("--since 'yesterday' is not a time", "", "--since 24h"),
    ("replay", "--since", "1h", "--until", "2h"): ("--since 1h is not before --until 2h", "", "swap"),
    ("report", "--by", "week"): ("invalid value for '--by'", "usage: syncctl report", "syncctl report --help"),
    ("report", "--json", "--csv"): ("--json and --csv cannot be combined", "one document", ""),
    ("report", "--timezone", "Berlin"): ("--timezone Berlin is not", "did you mean Europe/Berlin?", "Europe/Berlin"),
    ("report", "--html", "no/such/file"): ("cannot write no/such/file", "there is no directory no/such", "mkdir -p"),
    ("report", "--html", "."): ("cannot write .", "it is a directory", "--html ./report.html"),
    ("status", "--json", "--watch"): ("--json and --watch cannot be combined", "one document", ""),
    ("--install-completion", "tcsh"): ("there is no completion for tcsh", "bash, zsh", "--install-completion zsh"),
    ("local", "upp"): ("no such command 'upp'", "", ""),
    ("status", "--log-format", "xml"): ("--log-format 'xml' is not a format", "", "auto, text or json"),
    ("--directory", "no/such/place", "status"): ("cannot enter the directory no/such/place", "", "--directory"),
    ("status", "--directory", "no/such/place"): ("cannot enter the directory no/such/place", "", "--directory"),
}


def test_a_report_does_not_replace_a_pipe(run_syncctl: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "page.html")
    result = run_syncctl("report", "--html", "page.html", cwd=tmp_path)
    assert result.exit_code == 2
    assert "it is a device or a pipe" in result.stderr


@pytest.mark.parametrize("args", REFUSED, ids=" ".join)
def test_a_wrong_command_line_is_three_lines_and_exit_code_2(
    args: tuple[str, ...], run_syncctl: Run, tmp_path: Path
) -> None:
    result = run_syncctl(*args, cwd=tmp_path)
    assert result.exit_code == 2, result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    if "--json" in args:
        error = json.loads(result.stderr)["error"]
        assert error.pop("exit_code") == 2
        lines = list(error.values())
    else:
        assert [line.split(":")[0].strip() for line in lines] == ["error", "cause", "hint"]
    for line, expected in zip(lines, REFUSED[args], strict=True):
        assert expected in line


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("poll", "ordres", "--once"), ("no such stream: ordres", "did you mean orders?")),
        (("worker", "--queues", "delivr"), ("no such queue",)),
        (("worker", "--queues", ""), ("no such queue",)),
        (("worker", "--queues", "poll,nope"), ("no such queue",)),
        (("beat", "="), ("'=' is not an option of Celery's beat",)),
        (("worker", "--", "accept_content=pickle"), ("'accept_content=pickle' is not an option of Celery's worker",)),
        (
            ("worker", "--", "--no-such-celery-flag"),
            ("Celery rejected the arguments for its worker", "--no-such-celery-flag"),
        ),
    ],
    ids=" ".join,
)
def test_an_argument_that_the_settings_or_celery_refuse_is_exit_code_2(
    run_syncctl: Run, settings_dir: Path, args: tuple[str, ...], words: tuple[str, ...]
) -> None:
    result = run_syncctl(*args, cwd=settings_dir)
    assert (result.exit_code, result.stdout) == (2, "")
    for word in words:
        assert word in result.stderr


def test_no_stream_at_all_is_refused(run_syncctl: Run, tmp_path: Path) -> None:
    result = run_syncctl("poll", "--once", cwd=tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "nothing is configured" in result.stderr


def test_a_directory_is_where_the_settings_are(run_syncctl: Run, settings_dir: Path, tmp_path: Path) -> None:
    for args in (("-C", settings_dir, "poll", "x", "--once"), ("poll", "x", "--once", "--directory", settings_dir)):
        assert "the streams are orders" in run_syncctl(*args, cwd=tmp_path).stderr


def test_a_variable_names_the_directory_unless_an_option_does(
    run_syncctl: Run, settings_dir: Path, tmp_path: Path
) -> None:
    here = settings_dir.parent
    for args, named in (
        (("poll", "x", "--once"), settings_dir.name),
        (("-C", settings_dir.name, "poll", "x", "--once"), str(tmp_path)),
        (("poll", "x", "--once", "--directory", settings_dir.name), str(tmp_path)),
    ):
        result = run_syncctl(*args, cwd=here, env={"SYNCCTL_DIRECTORY": named})
        assert "the streams are orders" in result.stderr
    result = run_syncctl("status", cwd=here, env={"SYNCCTL_DIRECTORY": "no/such"})
    assert result.exit_code == 2
    assert "check SYNCCTL_DIRECTORY" in result.stderr


def test_celery_reads_the_settings_in_the_directory_that_the_variable_names(settings_dir: Path, tmp_path: Path) -> None:
    code = """
import os
os.environ["SYNCCTL_DIRECTORY"] = "HERE"
from syncctl.celery_app import app
print(*app.settings.streams)
"""
    assert run_python(code.replace("HERE", str(settings_dir)), tmp_path) == "orders\n"


@pytest.mark.parametrize("args", [("--install-completion", "zsh"), ("--install-completion=zsh",)])
def test_completion_is_installed_for_the_shell_that_is_named(
    run_syncctl: Run, tmp_path: Path, args: tuple[str, ...]
) -> None:
    done = run_syncctl(*args, cwd=tmp_path, env={"HOME": str(tmp_path)})
    assert done.exit_code == 0, done.stderr
    assert "zsh completion installed" in done.stdout
    assert (tmp_path / ".zfunc" / "_syncctl").exists()
    assert not (tmp_path / ".bashrc").exists()


def test_a_completion_that_cannot_be_installed_is_no_bug(run_syncctl: Run, tmp_path: Path) -> None:
    (tmp_path / ".zfunc").write_text("")
    done = run_syncctl("--install-completion", "zsh", cwd=tmp_path, env={"HOME": str(tmp_path)})
    assert done.exit_code == 2
    assert "cannot install the completion" in done.stderr


@pytest.mark.parametrize("command", ["up", "down"])
def test_local_servers_need_a_directory_that_can_be_written(run_syncctl: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / ".syncctl").mkdir()
    (tmp_path / ".syncctl" / "lock").mkdir()
    done = run_syncctl("local", command, cwd=tmp_path)
    assert done.exit_code == 2, done.stderr
    assert f"error: cannot write to {tmp_path / '.syncctl' / 'lock'}" in done.stderr
