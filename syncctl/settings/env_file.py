"""The `.env` that is there: what it says stays, what is missing is added, comments and order are kept."""

import re
from collections.abc import Collection, Mapping
from io import StringIO
from pathlib import Path

from dotenv.parser import parse_stream

from syncctl.settings.dotenv_file import ENV_FILE, read_dotenv
from syncctl.settings.render import CONNECTIONS, quote_env, render_connection, render_env

_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?(?:'[^']+'|[^=#\s]+)[^\S\r\n]*=")
_REMARK = re.compile(r"[^\S\r\n]+#[^\r\n]*(?=[\r\n]*\Z)")
_LINE_END = re.compile(r"(?:\r\n|\n|\r)?\Z")


class EnvFile:
    """The `.env` of a directory, which may not be there yet.

    Raises:
        ConfigurationError: it is there and cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / ENV_FILE
        self._values, self._lines, _ = read_dotenv(path)
        self.text = path.read_bytes().decode("utf-8-sig") if path.is_file() else None
        """What the file holds; None where there is none."""

    def find(self, name: str) -> str | None:
        """Return which variable of the file sets NAME: itself, in any case, or NAME_FILE; None where none does."""
        for wanted in (name, f"{name}_FILE"):
            spellings = [each for each in self._values if each.upper() == wanted and self._values[each].strip()]
            if spellings:
                return wanted if wanted in spellings else spellings[0]
        return None

    def get(self, variable: str) -> str:
        """Return the value of a variable as it is written, unquoted."""
        return self._values[variable]

    def locate(self, variable: str) -> str:
        """Return where a variable stands: `.env line 3`."""
        return f"{ENV_FILE} line {self._lines[variable]}"

    def merge(self, given: Mapping[str, str], *, elsewhere: Collection[str] = ()) -> str:
        """Return the file with these values, and with every connection that it lacks.

        Args:
            given: By name; they take the place of what the file says.
            elsewhere: Connections that another file sets, whose default would hide that.
        """
        if self.text is None:
            return render_env({name: value for name, value in given.items() if value})
        changes = {self._spell(name): value for name, value in given.items() if self._spell(name) in self._values}
        text = _change(self.text, changes)
        end = "\r\n" if "\r\n" in text else "\n"
        lines: list[str] = []
        for key in CONNECTIONS:
            name = key.upper()
            known = self._spell(name) in self._values or self.find(name) is not None
            if name in given and self._spell(name) not in self._values:
                lines += render_connection(key, given[name])
            elif not known and key not in elsewhere:
                lines += render_connection(key, None)
        if text and lines and not text.endswith(("\n", "\r")):
            text += end
        return text + "".join(f"{line}{end}" for line in lines)

    def _spell(self, name: str) -> str:
        """Return the name as the file writes it."""
        return next((each for each in (name, *self._values) if each in self._values and each.upper() == name), name)


def _change(text: str, values: Mapping[str, str]) -> str:
    """Return a `.env` with the last line of each of these names changed, and all else as it is."""
    bindings = list(parse_stream(StringIO(text)))
    last = {binding.key: at for at, binding in enumerate(bindings) if binding.key in values}
    parts = [binding.original.string for binding in bindings]
    for name, at in last.items():
        head, value = _ASSIGNMENT.match(parts[at]), bindings[at].value
        if head is None or name is None:
            continue
        remark = _REMARK.search(parts[at]) if "#" not in (value or "") else None
        ending = _LINE_END.search(parts[at])
        parts[at] = head[0] + quote_env(values[name]) + (remark[0] if remark else "") + (ending[0] if ending else "")
    return "".join(parts)
