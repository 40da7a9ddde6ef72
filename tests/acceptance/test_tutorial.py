"""The tutorial is true: its commands are run as they stand there, and print what it says they print."""

import fcntl
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.harness import servers
from tests.harness.commands import clean_environment
from tests.harness.waiting import eventually

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
PARTNER_PORT = "8099"
COLUMNS, LINES = 100, 50
_BLOCK = re.compile(r"(?:^<!-- ([\w ]+) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_READS = re.compile(r"syncctl (doctor|status|failures|show|records|report|reconcile)\b")
# What differs from run to run.
_VOLATILE = re.compile(
    "|".join(
        (
            r"orders-[0-9a-f]{32}\b",  # which record is the sample
            r"\d{4}-\d\d-\d\dT[\d:.]+Z|\b\d\d:\d\d:\d\d\.\d{3}\b|\b\d+[smh] ago",
            r"\b\d+\.\d+\.\d+\b|worker-\d+@\S+|(?<=127\.0\.0\.1:)\d+|(?<=port )\d+|(?<=pid )\d+",
            r"[\d.]+/s|[\d.]+ (?:min|ms|s)\b|\b\d+\.\d\b|\d+(?= +-$)",  # the last one: the milliseconds of a poll
            r"\S+(?=/syncctl\.toml|/\.syncctl)",
        )
    )
)
# What `status` shows for a minute only.
_SOMETIMES = re.compile(r", [\d.]+/s not accepted")


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Commands of the page, and what it says they print; None: the page says nothing."""

    note: str
    commands: str
    output: str | None


def read_steps() -> list[Step]:
    """Return the blocks of commands, each with the block of output that follows it."""
    blocks = [match.groups() for match in _BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]
    steps = []
    for (note, language, body), (_, next_language, next_body) in zip(
        blocks, [*blocks[1:], ("", "end", "")], strict=True
    ):
        if language == "sh":
            steps.append(Step(note=note or "", commands=body, output=next_body if next_language == "" else None))
    return steps


def mask(output: str) -> list[str]:
    """Return the lines of an output without what differs from run to run."""
    lines = _SOMETIMES.sub("", output).strip().splitlines()
    return [re.sub(r"\s+", " ", _VOLATILE.sub("~", line)).strip() for line in lines]


def matches(expected: str, actual: str) -> bool:
    """Tell whether an output is the expected one, in which `...` stands for any number of lines."""
    pattern = "".join(r"(?:.*\n)*?" if line == "..." else re.escape(line) + r"\n" for line in mask(expected))
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in mask(actual))) is not None


class Shell:
    """Terminals of one directory, in which the page's commands run."""

    def __init__(self, directory: Path, partner_port: int) -> None:
        self._directory = directory
        self._partner_port = str(partner_port)
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {**clean_environment({"TERM": "dumb"}), "PATH": programs}
        self._background: list[subprocess.Popen[bytes]] = []

    def _adapt(self, commands: str) -> str:
        """Return the commands with free ports, which is all that the page's differ in."""
        adapted = commands.replace(PARTNER_PORT, self._partner_port)
        return adapted.replace("local up --save", "local up --save --mongo-port 0 --redis-port 0")

    def start(self, commands: str) -> None:
        """Run commands in another terminal, until the end."""
        command = ["bash", "-c", f"exec {self._adapt(commands)}"]
        with (self._directory / f"terminal-{len(self._background)}.log").open("wb") as log:
            self._background.append(
                subprocess.Popen(command, cwd=self._directory, env=self._environment, stdout=log, stderr=log)
            )

    def run(self, commands: str) -> str:
        """Run commands on a terminal, and return what they write to it."""
        parent, child = pty.openpty()
        fcntl.ioctl(parent, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        with subprocess.Popen(
            ["bash", "-c", self._adapt(commands)], cwd=self._directory, env=self._environment,
            stdin=child, stdout=child, stderr=child, start_new_session=True,
        ):  # fmt: skip
            os.close(child)
            written = b""
            with suppress(OSError):
                # The end of a terminal is an error of its other side.
                while piece := os.read(parent, 65536):
                    written += piece
        os.close(parent)
        return written.decode().replace("\r\n", "\n").replace(self._partner_port, PARTNER_PORT)

    def stop(self) -> list[int]:
        """Interrupt what runs in other terminals, and return the exit codes."""
        for process in reversed(self._background):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        return [process.wait(60) for process in self._background]


@pytest.fixture
def shell() -> Iterator[Shell]:
    """A directory and its terminals; whatever they started is stopped at the end."""
    with servers.serve_redis():
        # Skips if no server is available, like every other test.
        pass
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Under a long path, the line that names it would be wrapped.
    with TemporaryDirectory(prefix="erp-", dir="/tmp") as directory:
        shell = Shell(Path(directory), port)
        try:
            yield shell
        finally:
            shell.stop()
            shell.run("syncctl local down --wipe --yes")


@pytest.mark.timeout(600)
def test_each_command_of_the_tutorial_prints_what_the_tutorial_says(shell: Shell) -> None:
    outputs = 0
    for step in read_steps():
        if step.note == "not run":
            continue
        if step.commands.startswith("syncctl local down"):
            assert shell.stop() == [0, 0]
        if step.note == "another terminal":
            shell.start(step.commands)
        elif step.output is None:
            assert shell.run(step.commands) == "", step.commands
        else:
            check(shell, step)
            outputs += 1
    assert outputs > 10


def check(shell: Shell, step: Step) -> None:
    """Run commands until they print what the page says; once, if they change something."""
    seen: list[str] = []

    def is_as_expected() -> bool:
        seen.append(shell.run(step.commands))
        return matches(step.output or "", seen[-1])

    if _READS.match(step.commands):
        with suppress(AssertionError):
            eventually(is_as_expected, 120.0, interval=1.0)
    else:
        is_as_expected()
    assert matches(step.output or "", seen[-1]), (
        f"{step.commands}\nthe page says:\n{step.output}\nit prints:\n{seen[-1]}"
    )


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ("a 3.1/s\n", "a   0.25/s\n", True),
        ("a\n...\nc\n", "a\nb\nb\nc\n", True),
        ("a\n...\nc\n", "a\nb\nd\n", False),
        ("orders  200  0\n", "orders  199  0\n", False),
        ("replayed 14 of 14 records\n", "replayed 13 of 14 records\n", False),
    ],
)
def test_an_output_is_compared_by_what_is_the_same_in_each_run(expected: str, actual: str, same: bool) -> None:
    assert matches(expected, actual) is same
