"""`.env`: its variables with the line of each, and changes of values that leave the rest of the file as it is."""

import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

from dotenv.parser import parse_stream

from syncctl.core.files import decode_utf8, read_file
from syncctl.errors import ConfigurationError
from syncctl.settings.problems import FILE_AT_MOST_BYTES, HINT, Problem

ENV_FILE = ".env"
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,~?&=!*;\[\]|^-]*")
_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?(?:'[^']+'|[^=#\s]+)[^\S\r\n]*=")
_REMARK = re.compile(r"[^\S\r\n]+#[^\r\n]*(?=[\r\n]*\Z)")
_LINE_END = re.compile(r"(?:\r\n|\n|\r)?\Z")


def read_dotenv(path: Path) -> tuple[dict[str, str], dict[str, int], list[Problem]]:
    """Return the variables of a `.env` file, the line of each, and the lines that cannot be read.

    The environment of this process stays as it is. A missing file is empty.

    Raises:
        ConfigurationError: when the file exists and cannot be read.
    """
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    problems: list[Problem] = []
    try:
        text = decode_utf8(read_file(path, at_most=FILE_AT_MOST_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return values, lines, problems
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(f"cannot read {path}", why=reason, hint=HINT) from None
    bindings = list(parse_stream(StringIO(text, newline=None)))
    for binding in bindings:
        # The parser counts blank lines and comments before a name as part of its binding.
        skipped = len(binding.original.string) - len(binding.original.string.lstrip())
        line = binding.original.line + binding.original.string[:skipped].count("\n")
        if binding.error:
            problems.append(Problem(key=f"line {line}", origin=ENV_FILE, text="cannot be read; write NAME=value"))
        elif binding.key is not None and binding.value is not None:
            values[binding.key] = binding.value
            lines[binding.key] = line
    return values, lines, problems


def quote_env(value: str) -> str:
    """Return a value as it is written in `.env`: plain, or in single quotes."""
    if _PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


class DotenvFile:
    """The `.env` of a directory, which may not exist yet.

    Raises:
        ConfigurationError: it exists and cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / ENV_FILE
        self._values, self._lines, _ = read_dotenv(path)
        #: The text of the file; None if there is none.
        self.text = decode_utf8(path.read_bytes()) if path.is_file() else None

    def find(self, name: str) -> str | None:
        """Return which variable of the file sets NAME: itself, in any case, or NAME_FILE; None if none does."""
        for wanted in (name, f"{name}_FILE"):
            spellings = [known for known in self._values if known.upper() == wanted and self._values[known].strip()]
            if spellings:
                return wanted if wanted in spellings else spellings[0]
        return None

    def has(self, name: str) -> bool:
        """Tell whether the file names a variable, in any case, even without a value."""
        return self._spell(name) in self._values

    def get(self, variable: str) -> str:
        """Return the value of a variable of the file, unquoted."""
        return self._values[variable]

    def locate(self, variable: str) -> str:
        """Return where a variable stands: `.env line 3`."""
        return f"{ENV_FILE} line {self._lines[variable]}"

    def change(self, values: Mapping[str, str]) -> str:
        """Return the text with the last line of each of these variables changed, and the rest unchanged."""
        wanted = {self._spell(name): value for name, value in values.items()}
        bindings = list(parse_stream(StringIO(self.text or "")))
        last = {binding.key: at for at, binding in enumerate(bindings) if binding.key in wanted}
        parts = [binding.original.string for binding in bindings]
        for name, at in last.items():
            head, value = _ASSIGNMENT.match(parts[at]), bindings[at].value
            if head is None or name is None:
                continue
            remark = _REMARK.search(parts[at]) if "#" not in (value or "") else None
            ending = _LINE_END.search(parts[at])
            parts[at] = (
                head[0] + quote_env(wanted[name]) + (remark[0] if remark else "") + (ending[0] if ending else "")
            )
        return "".join(parts)

    def _spell(self, name: str) -> str:
        """Return the name as the file writes it."""
        known = (spelling for spelling in (name, *self._values) if spelling in self._values)
        return next((spelling for spelling in known if spelling.upper() == name), name)
