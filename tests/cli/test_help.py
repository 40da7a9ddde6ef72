"""Every command has help that begins with examples and loads no heavy library."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from syncctl import __version__
from syncctl.cli import COMMAND_GROUPS, app
from syncctl.commandline import Invocation
from syncctl.core.stream import Mode
from tests.cli.catalogue import examples_of, find_command, list_commands

HEAVY = ("celery", "kombu", "pymongo", "bson", "sqlalchemy", "pyodbc", "requests", "redis", "rich")

Run = Callable[..., Any]


@pytest.mark.parametrize("path", list_commands(), ids=" ".join)
def test_help_of_every_command_begins_with_its_examples(
    path: tuple[str, ...], run_syncctl: Run, tmp_path: Path
) -> None:
    result = run_syncctl(*path, "--help", cwd=tmp_path)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout.startswith(f"Examples:\n  syncctl {path[0]}")
    assert f"Usage: syncctl {' '.join(path)}" in result.stdout


@pytest.mark.parametrize("path", list_commands(), ids=" ".join)
def test_every_example_in_the_help_is_understood(path: tuple[str, ...]) -> None:
    examples = examples_of(path)
    assert examples
    for example in examples:
        _parse(example)


def test_init_names_every_mode() -> None:
    (mode,) = [param for param in find_command(("init",)).params if param.name == "mode"]
    assert all(re.search(rf"\b{arg}\b", mode.help) for arg in get_args(Mode))


def test_the_parser_of_examples_refuses_a_wrong_flag() -> None:
    with pytest.raises(typer.exceptions.TyperException):
        _parse("syncctl status --no-such-flag")


def test_short_help_is_the_same_help(run_syncctl: Run, tmp_path: Path) -> None:
    assert run_syncctl("-h", cwd=tmp_path).stdout == run_syncctl("--help", cwd=tmp_path).stdout


def test_help_has_one_line_for_every_command(run_syncctl: Run, tmp_path: Path) -> None:
    lines = run_syncctl("--help", cwd=tmp_path).stdout.splitlines()
    commands = {path[0] for path in list_commands()}
    texts = {name: text for group in COMMAND_GROUPS.values() for name, text in group.items()}
    assert set(texts) == commands
    for name, text in texts.items():
        assert [line for line in lines if line.split() == [name, *text.split()]], name
    for title, group in COMMAND_GROUPS.items():
        begin = lines.index(f"{title}:")
        assert [line.split()[0] for line in lines[begin + 1 : begin + 1 + len(group)]] == list(group)


@pytest.mark.parametrize("path", [(), *list_commands()], ids=lambda path: " ".join(path) or "syncctl")
def test_help_says_in_a_word_what_each_option_takes(path: tuple[str, ...], run_syncctl: Run, tmp_path: Path) -> None:
    assert not re.search(r"<(?!\w+\||=)|\b(TEXT|INTEGER|FLOAT)\b", run_syncctl(*path, "--help", cwd=tmp_path).stdout)


def test_bare_syncctl_prints_help_on_stderr_and_exits_2(run_syncctl: Run, tmp_path: Path) -> None:
    result = run_syncctl(cwd=tmp_path)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == run_syncctl("--help", cwd=tmp_path).stdout


def test_version_prints_the_version(run_syncctl: Run, tmp_path: Path) -> None:
    result = run_syncctl("--version", cwd=tmp_path)
    assert (result.exit_code, result.stdout) == (0, f"syncctl {__version__}\n")


@pytest.mark.parametrize("path", [(), *list_commands()], ids=lambda path: " ".join(path) or "syncctl")
def test_help_imports_nothing_heavy(path: tuple[str, ...], tmp_path: Path) -> None:
    # Typer itself reads the options before a command's name with pydantic.
    heavy = HEAVY if path else (*HEAVY, "pydantic")
    script = f"""
import sys
from syncctl.cli import run
assert run({[*path, "--help"]!r}) == 0
sys.stderr.write(" ".join(name for name in {heavy!r} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_the_installed_script_is_the_same_command(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "syncctl"
    if not script.exists():
        pytest.skip("syncctl is not installed beside this Python")
    done = subprocess.run([script, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"syncctl {__version__}\n"


def _parse(example: str) -> None:
    """Parse an example as the command line does, without carrying it out."""
    words = shlex.split(re.split(r" (?:\||>>?) ", example)[0])
    root = typer.main.get_command(app)
    context = root.make_context("syncctl", words[1:], obj=Invocation())
    while hasattr(context.command, "resolve_command") and [*context._protected_args, *context.args]:
        name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
