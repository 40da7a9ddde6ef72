"""Every command of syncctl, and the examples in its help."""

import re
import textwrap
from typing import Any

import typer

from syncctl.cli import app
from syncctl.commandline import Invocation

_EXAMPLES = re.compile(r"^Examples:\n((?:[ \t]+\S.*\n?|\n(?=[ \t]))+)", re.MULTILINE)


def list_commands() -> list[tuple[str, ...]]:
    """Return every command and subcommand, as `("local", "up")`."""
    found: list[tuple[str, ...]] = []
    root, context = _root()
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        found.append((name,))
        if hasattr(command, "list_commands"):
            found += [(name, inner) for inner in command.list_commands(context)]
    return found


def find_command(path: tuple[str, ...]) -> Any:
    """Return the command of a path."""
    command, context = _root()
    for name in path:
        command = command.get_command(context, name)
    return command


def examples_of(path: tuple[str, ...]) -> list[str]:
    """Return the example command lines in a command's help, without the remarks beside them."""
    found = _EXAMPLES.search(textwrap.dedent(find_command(path).help))
    lines = textwrap.dedent(found[1]).splitlines() if found else []
    return [re.split(r" {2,}", line.strip())[0] for line in lines if line.strip()]


def flags_of(path: tuple[str, ...]) -> set[str]:
    """Return the long flags that a command has of its own."""
    return {
        opt
        for param in find_command(path).params
        if param.param_type_name == "option"
        for opt in (*param.opts, *param.secondary_opts)
        if opt.startswith("--") and opt != "--help"
    }


def _root() -> tuple[Any, Any]:
    root = typer.main.get_command(app)
    return root, root.make_context("syncctl", [], obj=Invocation())
