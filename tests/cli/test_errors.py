"""Errors become exit codes; tracebacks and secrets stay hidden."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.commands import clean_environment

Run = Callable[..., Any]
PASSWORD = "hunter2-and-more"

RAISING = """
import sys
import syncctl.commands.status as module
from syncctl.commandline import Invocation
from syncctl.errors import *

def status(ctx: module.typer.Context) -> None:
    \"\"\"Fail.\"\"\"
    ctx.obj.settings()
    {statement}

module.status = status
from syncctl.cli import run
sys.exit(run({args!r}))
"""


def fail_with(statement: str, *args: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run `syncctl status` with a body that fails, in a directory whose MongoDB URL holds a password."""
    (cwd / ".env").write_text(f"MONGO_URL=mongodb://root:{PASSWORD}@localhost:1/logs\n")
    script = RAISING.format(statement=statement, args=["status", *args])
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=cwd, env=clean_environment(), capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("statement", "exit_code"),
    [
        ("raise TroubleFound('what', why='why', hint='hint')", 1),
        ("raise UsageError('what', why='why', hint='hint')", 2),
        ("raise ConfigurationError('what', why='why', hint='hint')", 2),
        ("raise ServiceUnavailable('what', service='redis', why='why', hint='hint')", 69),
        ("raise InternalError('what', why='why', hint='hint')", 70),
        ("raise LeaseHeld('what', why='why', hint='hint')", 75),
    ],
)
def test_an_error_is_three_lines_and_its_exit_code(statement: str, exit_code: int, tmp_path: Path) -> None:
    done = fail_with(statement, cwd=tmp_path)
    assert done.returncode == exit_code
    assert done.stdout == ""
    assert done.stderr == "error: what\n  cause: why\n   hint: hint\n"


def test_a_bug_is_exit_code_70_and_asks_for_debug(tmp_path: Path) -> None:
    done = fail_with("1 / 0", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (70, "")
    assert len(done.stderr.splitlines()) == 3
    assert "ZeroDivisionError" in done.stderr
    assert "--debug" in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = fail_with("1 / 0", "--debug", cwd=tmp_path)
    assert done.returncode == 70
    assert "Traceback" in done.stderr
    assert done.stderr.rstrip().splitlines()[-3].startswith("error:")


@pytest.mark.parametrize("flags", [(), ("--debug",)])
@pytest.mark.parametrize("kind", ["RuntimeError", "TroubleFound"])
def test_no_error_shows_a_password(flags: tuple[str, ...], kind: str, tmp_path: Path) -> None:
    done = fail_with(f"raise {kind}(f'cannot use {PASSWORD}')", *flags, cwd=tmp_path)
    assert "cannot use" in done.stderr
    assert PASSWORD not in done.stderr + done.stdout


def test_ctrl_c_is_exit_code_130_without_output(tmp_path: Path) -> None:
    done = fail_with("raise KeyboardInterrupt", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_sigterm_is_exit_code_143_and_cleans_up(tmp_path: Path) -> None:
    marker = tmp_path / "cleaned"
    statement = f"""import os, signal, pathlib
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    finally:
        pathlib.Path({str(marker)!r}).touch()"""
    done = fail_with(statement, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")
    assert marker.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_python_ends_shows_no_traceback(number: signal.Signals) -> None:
    """Fails where a second Ctrl-C raises in what a library does at exit."""
    script = f"""
import atexit, os, sys
sys.argv[1:] = ["--version"]
from syncctl.cli import main
atexit.register(lambda: os.kill(os.getpid(), {int(number)}))
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (-number, "")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    statement = "from syncctl.console import out; [out.show('x' * 1000) for _ in range(1000)]; raise SystemExit(0)"
    (tmp_path / ".env").write_text("")
    read, write = os.pipe()
    os.close(read)
    script = RAISING.format(statement=statement, args=["status"])
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, env=clean_environment(), stdout=write, stderr=subprocess.PIPE
    ) as popen:
        os.close(write)
        _, stderr = popen.communicate(timeout=60)
    assert (popen.returncode, stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_full_disk_is_an_error_of_the_output_alone(tmp_path: Path, stream: str) -> None:
    """Fails where output that cannot be written is a bug of syncctl, or a full stderr changes what the command did."""
    script = RAISING.format(
        statement="from syncctl.console import out; out.show('x' * 10_000); out.say('done')", args=["status"]
    )
    (tmp_path / ".env").write_text("")
    with Path("/dev/full").open("w") as full:
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: full}
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=clean_environment(), text=True, check=False, **streams
        )
    if stream == "stderr":
        assert done.returncode == 0
    else:
        assert done.returncode == 1
        assert done.stderr.startswith("error: cannot write the output\n  cause: No space left on device\n")


def test_streams_that_were_closed_are_opened(tmp_path: Path) -> None:
    """Fails where a closed stream is none: a worker ended, and a connection could be taken for stdout."""
    script = """
import os, sys
sys.argv[1:] = ["--version"]
import syncctl.cli as cli
cli.run = lambda _: int([stream.fileno() for stream in (sys.stdin, sys.stdout, sys.stderr)] != [0, 1, 2])
cli.main()
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *command], env=clean_environment(), check=False)
    assert done.returncode == 0


def test_a_service_that_is_away_is_exit_code_69(run_syncctl: Run, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"MONGO_URL=mongodb://root:{PASSWORD}@localhost:1/logs\n")
    result = run_syncctl("status", "--json", cwd=tmp_path)
    assert (result.exit_code, result.stdout) == (69, "")
    error = json.loads(result.stderr.splitlines()[-1])["error"]
    assert error["what"] == "cannot reach MongoDB at localhost:1"
    assert error["exit_code"] == 69
    assert error["hint"]
    as_text = run_syncctl("status", cwd=tmp_path)
    assert [line.split(":")[0].strip() for line in as_text.stderr.splitlines()][-3:] == ["error", "cause", "hint"]
    assert PASSWORD not in result.stderr + as_text.stderr
