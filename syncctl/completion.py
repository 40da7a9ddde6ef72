"""The words that a shell completes after an option or in place of an argument: the names in the files, states, modes.

Files are read by their parsers alone: no settings model, no network. A file that cannot be read completes nothing.
"""

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from syncctl.core.states import SELECTABLE
from syncctl.core.stream import Mode

_WORD = re.compile(r"[a-z_]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One word that a shell may complete, as Typer takes it."""

    value: str
    help: str | None = None
    type: str = "plain"


def complete_names(texts: Mapping[str, str], incomplete: str) -> list[Completion]:
    """Return the names that begin with the incomplete word, with the text that shells show beside them."""
    return [Completion(value=name, help=text) for name, text in texts.items() if name.startswith(incomplete)]


def attach_completion(params: Iterable[Any], find_directory: Callable[[Any], Path]) -> None:
    """Make parameters complete the values that their metavar names, such as `STREAM` or `ID|STREAM`.

    Args:
        params: The options and arguments of a command.
        find_directory: Returns the directory with `.env` and `syncctl.toml` for a context.
    """
    for param in params:
        complete = _find_completion(param)
        if complete is not None:
            param.shell_complete = lambda ctx, incomplete, complete=complete: _complete(
                lambda: complete(find_directory(ctx)), incomplete
            )


def _find_completion(param: Any) -> Callable[[Path], Sequence[str]] | None:
    """Return the function that lists the values of a parameter; None if they cannot be known."""
    words = re.findall(r"[A-Z]+", param.metavar or "")
    section = next((_SECTIONS[word] for word in words if word in _SECTIONS), None)
    if section is not None:
        return lambda directory: list_names(directory, section)
    values = next((_VALUES[word] for word in words if word in _VALUES), None)
    if values is None:
        return None
    # Commands take different states, and the help of each names its own.
    named = _WORD.findall(param.help or "")
    return lambda _directory: [value for value in values if value in named]


def _complete(find_values: Callable[[], Sequence[str]], incomplete: str) -> list[Completion]:
    with suppress(Exception):
        return [Completion(value=value) for value in find_values() if value.startswith(incomplete)]
    return []


_SECTIONS: Mapping[str, str] = {"STREAM": "streams", "PARTNER": "partners", "SOURCE": "sources"}
"""By a word of the metavar, the table of `syncctl.toml` whose names complete it."""

_VALUES: Mapping[str, Sequence[str]] = {"STATE": SELECTABLE, "MODE": get_args(Mode)}


def list_names(directory: Path, section: str) -> list[str]:
    """Return the names that the environment, `.env` and `syncctl.toml` have in a table such as `streams`."""
    names = {"default"} if section != "streams" else set()
    with suppress(OSError, ValueError):
        table = tomllib.loads((directory / "syncctl.toml").read_text(encoding="utf-8-sig")).get(section, {})
        names |= set(table) if isinstance(table, dict) else set()
    for variable in (*os.environ, *_list_variables(directory / ".env")):
        first, _, rest = variable.lower().partition("__")
        if first == section and rest:
            names.add(rest.partition("__")[0])
    return sorted(names)


def _list_variables(path: Path) -> list[str]:
    from dotenv.parser import parse_stream

    with suppress(OSError, ValueError), path.open(encoding="utf-8-sig") as file:
        return [binding.key for binding in parse_stream(file) if binding.key]
    return []
