"""Random command lines over real servers. Each ends in time, with an exit code of the list, and without a traceback."""

import contextlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer

from syncctl.cli import COMMAND_GROUPS, app, run
from syncctl.errors import ExitCode
from tests.fuzz.trial import Hang, find_fault, limit_time
from tests.fuzz.values import UNDECODABLE, draw_text
from tests.harness.commands import clean_environment

SECONDS = 60.0
STOPPED_AFTER_SECONDS = 4.0
ENDLESS = ("worker", "beat", "demo", "poll", "status", "tail", "local")
"""Commands that run until they are stopped, or start processes: they run as processes of their own."""
AS_PROCESS = 0.05
"""The share of the others that run as processes too."""


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """The arguments of one call, and how it is made."""

    args: tuple[str, ...]
    as_process: bool


def draw_command(rng: random.Random) -> CommandLine:
    """Return a command line: mostly a command's own options with values that may be wrong."""
    kind = rng.random()
    if kind < 0.05:
        args = [draw_value(rng) for _ in range(rng.randint(0, 4))]
    else:
        # Those that run until they are stopped take seconds each.
        name = rng.choice(
            [name for group in COMMAND_GROUPS.values() for name in group if name not in ENDLESS or rng.random() < 0.3]
        )
        args = [*draw_globals(rng), name, *draw_arguments(rng, list_params(name)), *draw_globals(rng)]
    args = [arg for arg in args if "\0" not in arg]
    endless = bool(set(args) & set(ENDLESS)) or "--watch" in args or "-" in args
    return CommandLine(args=tuple(args), as_process=endless or rng.random() < AS_PROCESS)


def draw_globals(rng: random.Random) -> list[str]:
    """Return a few global options."""
    if rng.random() < 0.85:
        return []
    return rng.choice(
        (["--quiet"], ["--debug"], ["-C", "no/such"], ["-C", "."], ["--directory"], ["--help"], ["--version"])
    )


def draw_arguments(rng: random.Random, params: Sequence[Any]) -> list[str]:
    """Return arguments for some of a command's parameters."""
    args: list[str] = []
    for param in params:
        required = param.required or param.param_type_name == "argument"
        if rng.random() > (0.9 if required else 0.25):
            continue
        if param.param_type_name == "argument":
            args.append(draw_value(rng))
            continue
        option = rng.choice(param.opts)
        if option == "--help":
            continue
        args.append(option)
        if not param.is_flag:
            args.append(draw_value(rng))
    return args


def draw_value(rng: random.Random) -> str:
    """Return a value without a path that leads out of the directory."""
    if rng.random() < 0.3:
        return rng.choice(
            ("orders", "order lines", "1", "id=1", "failed", "configuration", "source", "default", "id", "x")
        )
    value = rng.choice(UNDECODABLE) if rng.random() < 0.02 else draw_text(rng)
    return "x" if value.startswith(("/", "~")) or ".." in value else value


@cache
def list_params(name: str) -> Sequence[Any]:
    """Return the parameters of a command; of a group, those of its commands together."""
    group: Any = typer.main.get_command(app)
    command = group.get_command(None, name)
    commands = getattr(command, "commands", None)
    return [param for inner in (commands.values() if commands else [command]) for param in inner.params]


def try_command(seed: int, number: int, template: Path) -> str | None:
    """Draw a command line and run it in a copy of a directory; return what is wrong with its end, if anything is."""
    line = draw_command(random.Random(f"{seed} command {number}"))
    with tempfile.TemporaryDirectory(prefix="syncctl-fuzz-") as name:
        home = Path(name)
        directory = Path(shutil.copytree(template, home / "work"))
        # A file where `syncctl local` wants its directory: no server is started.
        (directory / ".syncctl").touch()
        run_line = run_as_process if line.as_process else run_here
        try:
            exit_code, stderr = run_line(line.args, directory, home)
        except (Exception, Hang):  # noqa: BLE001 - whatever comes out is what the fuzz looks for
            return f"syncctl {line.args}\n{traceback.format_exc()}"
    fault = find_fault(exit_code, stderr, debug="--debug" in line.args)
    return fault and f"syncctl {line.args} ({'process' if line.as_process else 'here'}): {fault}\n{stderr[-3000:]}"


def run_here(args: Sequence[str], directory: Path, home: Path) -> tuple[int, str]:
    """Run a command in this process; return its exit code and what it wrote to stderr."""
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with _working_in(directory, home), contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            with limit_time(SECONDS):
                exit_code = run(args)
        except SystemExit as end:
            exit_code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return exit_code, stderr.buffer.getvalue().decode("utf-8", "replace")  # type: ignore[attr-defined]


@contextlib.contextmanager
def _working_in(directory: Path, home: Path) -> Iterator[None]:
    """Give the block a working directory, an environment and an empty stdin, and put back what it changes."""
    before, environment, stdin = Path.cwd(), dict(os.environ), sys.stdin
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(clean_environment({"HOME": str(home)}))
    sys.stdin = io.StringIO()
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)
        sys.stdin = stdin
        for number, handler in handlers.items():
            signal.signal(number, handler)


def run_as_process(args: Sequence[str], directory: Path, home: Path) -> tuple[int, str]:
    """Run a command as a process, which is asked to end when it runs on; return its exit code and its stderr."""
    with subprocess.Popen(
        [sys.executable, "-m", "syncctl", *(os.fsencode(arg) for arg in args)],
        cwd=directory,
        env=clean_environment({"HOME": str(home)}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        stopped = False
        try:
            _, stderr = process.communicate(timeout=STOPPED_AFTER_SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()
            stopped = True
            try:
                _, stderr = process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                _, stderr = process.communicate()
                raise Hang(
                    f"it did not end within {SECONDS:g} s of SIGTERM\n{stderr.decode(errors='replace')}"
                ) from None
    # Before the program has begun, and after it has ended, the signal ends Python itself.
    ended_early = stopped and process.returncode == -signal.SIGTERM
    return ExitCode.TERMINATED if ended_early else process.returncode, stderr.decode("utf-8", "replace")
