"""Variables of the environment and of `.env`: the settings that they set, and `${NAME}` in other values."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from syncctl.core.files import decode_utf8, read_file
from syncctl.core.redaction import find_secret_spans
from syncctl.core.safe_text import has_surrogate
from syncctl.settings.layers import Layer, Layers
from syncctl.settings.model import Settings
from syncctl.settings.problems import DEEPEST
from syncctl.settings.request_types import NO_REFERENCE, takes_no_reference
from syncctl.settings.schema_paths import Path, is_table, is_value

_PREFIXES = ("STREAMS", "PARTNERS", "SOURCES", "RETENTION", "BEAT", "WORKER", "LOG")
_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_REFERENCES_ALONE = re.compile(r"\{?(\$\{[A-Za-z_][A-Za-z0-9_]*\})+\}?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LARGEST_FILE_BYTES = 65536


class NotSetError(Exception):
    """A variable is set nowhere."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"${{{name}}} is not set; set {name} in the environment or in .env, or name a file in {name}_FILE"
        )


class NotReadableError(Exception):
    """A reference is wrong, or its file cannot be read; the text says why, and never holds a value."""


@dataclass(kw_only=True)
class Variables:
    """The variables of the environment and of `.env`; in each, NAME takes precedence over the file of NAME_FILE.

    Every value that was looked up is kept in `used`, with its name, so that no error shows it.
    """

    environment: Mapping[str, str] = field(repr=False)
    dotenv: Mapping[str, str] = field(repr=False)
    directory: FilePath
    used: dict[str, str] = field(default_factory=dict, repr=False)
    #: The files that were read, by the NAME of NAME_FILE.
    files: dict[str, FilePath] = field(default_factory=dict)

    def fill(self, text: str, *, within: tuple[str, ...] = ()) -> str:
        """Return the text with each `${NAME}` replaced; `$${` stands for a plain `${`.

        Raises:
            NotSetError: for a name that is set nowhere.
            NotReadableError: for a text that is not a name, a name that refers to itself, or an unreadable file.
        """

        def replace(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            if not match[2] or _NAME.fullmatch(match[1]) is None:
                raise NotReadableError("has a ${ without NAME} after it; write $${ for a plain ${")
            if match[1] in within:
                raise NotReadableError(f"refers to itself through ${{{match[1]}}}")
            value = self._look_up(match[1], within)
            self.used[value] = match[1]
            return value

        return _REFERENCE.sub(replace, text)

    def _look_up(self, name: str, within: tuple[str, ...]) -> str:
        if value := self.environment.get(name):
            if has_surrogate(value):
                raise NotReadableError(f"refers to ${{{name}}}, whose value in the environment is not UTF-8 text")
            return value
        if file := self.environment.get(f"{name}_FILE"):
            return self.read_file(f"{name}_FILE", file)
        if value := self.dotenv.get(name):
            return self.fill(value, within=(*within, name))
        if file := self.dotenv.get(f"{name}_FILE"):
            return self.read_file(f"{name}_FILE", self.fill(file, within=(*within, name)))
        if name in self.environment or name in self.dotenv:
            return ""
        raise NotSetError(name)

    def read_file(self, name: str, file: str) -> str:
        """Return the text of a file named by `name`, without the line ends after it.

        Raises:
            NotReadableError: when it is missing, empty, not text, or over 64 KiB. The text does not show
                the path: people put the secret itself there.
        """
        try:
            path = self.directory / FilePath(file).expanduser()
            content = read_file(path, at_most=_LARGEST_FILE_BYTES)
        except (OSError, ValueError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or "its path is not usable"
            raise NotReadableError(f"the file that {name} names cannot be read: {reason}") from None
        try:
            text = decode_utf8(content).rstrip("\r\n")
        except ValueError as error:
            raise NotReadableError(f"the file that {name} names cannot be read: {error}") from None
        if not text.strip():
            raise NotReadableError(f"the file that {name} names is empty")
        self.used.setdefault(text, name.removesuffix("_FILE"))
        self.files[self.used[text]] = path
        return text


def has_reference(value: object) -> bool:
    """Tell whether `${NAME}` stands in a text, or in a text of a list or a table."""
    if isinstance(value, list | dict):
        return any(has_reference(inner) for inner in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and any(match[0] != "$${" for match in _REFERENCE.finditer(value))


def is_reference(text: str) -> bool:
    """Tell whether a text consists of `${NAME}` alone."""
    return _REFERENCES_ALONE.fullmatch(text) is not None


def find_literal_secret(url: str) -> str | None:
    """Return a secret that is written out in a URL; None if `${NAME}` stands for every secret."""
    secrets = (url[start:end] for start, end in find_secret_spans(url))
    return next((secret for secret in secrets if not is_reference(secret)), None)


@dataclass(kw_only=True)
class VariableReader:
    """Reads settings from the variables of the environment, or from those of `.env`.

    Args:
        locate: Returns where a variable stands.
        fill: Whether values may hold `${NAME}`: those of `.env` may, those of the environment are taken as they are.
        above: The layer that takes precedence: no file is read for a value that this layer sets. This process may not
            be allowed to read the file, for example if systemd passes the secrets of `.env` to a service.
    """

    variables: Variables
    layers: Layers
    locate: Callable[[str], str]
    fill: bool
    above: Layer = field(default_factory=Layer)
    layer: Layer = field(default_factory=Layer)

    def read(self, values: Mapping[str, str]) -> Layer:
        """Return the layer of these variables, without empty ones and those that are not settings."""
        seen: dict[Path, str] = {}
        for name, value in sorted(values.items(), key=lambda pair: pair[0] != pair[0].upper()):
            path = _find_path(name.upper())
            if path is None or not value.strip():
                continue
            path, from_file = _strip_file(path)
            if path in seen:
                if seen[path].upper() != name.upper():
                    self._complain(path, name, f"{seen[path]} sets it too; keep one of the two")
                continue
            seen[path] = name
            if from_file and path in self.above.origins:
                continue
            self._put(path, name, value, from_file)
        return self.layer

    def _put(self, path: Path, name: str, value: str, from_file: bool) -> None:
        # The content of a file was decoded when it was read.
        if not self.fill and has_surrogate(value):
            self._complain(path, name, "is not UTF-8 text; correct it")
            return
        # A setting that takes no reference is written alike in every place, with $${ for a plain ${.
        is_fixed = takes_no_reference(path) and not from_file
        if is_fixed and has_reference(value):
            self._complain(path, name, NO_REFERENCE)
            return
        try:
            text = self.variables.fill(value) if self.fill or is_fixed else value
            if from_file:
                text = self.variables.read_file(name, text)
        except NotReadableError as error:
            self._complain(path, name, str(error))
            return
        except NotSetError as error:
            self.layers.note_absent(path, self.locate(name), str(error))
            return
        origin = f"{self.locate(name)}, {name}" if from_file else self.locate(name)
        if not self.layer.put(path, _read_table(path, text), origin):
            self._complain(path, name, "is set as a single value and as a table of keys; keep one of the two")

    def _complain(self, path: Path, name: str, text: str) -> None:
        self.layers.complain(path, self.locate(name), text)


def _find_path(name: str) -> Path | None:
    first, *rest = name.split("__")
    if rest:
        # One level more than allowed is enough for the value to be refused.
        return tuple(part.lower() for part in (first, *rest[:DEEPEST])) if first in _PREFIXES else None
    key = name.lower()
    return (key,) if is_value(Settings, (key,)) or is_value(Settings, (key.removesuffix("_file"),)) else None


def _strip_file(path: Path) -> tuple[Path, bool]:
    stripped = (*path[:-1], path[-1].removesuffix("_file"))
    is_file = path[-1].endswith("_file") and not is_value(Settings, path)
    return (stripped, True) if is_file and is_value(Settings, stripped) else (path, False)


def _read_table(path: Path, text: str) -> Any:
    """Read JSON where a table belongs: `STREAMS__ORDERS__RETRY={"jitter": 0.5}`."""
    if is_table(Settings, path) and text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text
