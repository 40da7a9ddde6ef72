"""`syncctl.toml`: its values, and the line of each."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from pathlib import Path as FilePath
from typing import Any

from syncctl.core.files import decode_utf8, read_file
from syncctl.errors import ConfigurationError
from syncctl.settings.layers import Layer, Layers, is_too_deep
from syncctl.settings.model import Settings
from syncctl.settings.problems import FILE_AT_MOST_BYTES, HINT, make_depth_error
from syncctl.settings.request_types import NO_REFERENCE, takes_no_reference
from syncctl.settings.schema_paths import Path, is_credential
from syncctl.settings.variables import (
    NotReadableError,
    NotSetError,
    Variables,
    find_literal_secret,
    has_reference,
    is_reference,
)

TOML_FILE = "syncctl.toml"
_POSITION = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)
_TOKEN = re.compile(
    r"""\"{3}(?:\\[\s\S]|[^\\])*?\"{3,5}|'{3}[\s\S]*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|\#[^\n]*|[\[\]{}\n]"""
)
"""The tokens that decide where a statement ends: strings, comments, brackets and line ends."""
_ENDS_IN_REFERENCE = re.compile(r"^(\w+ )?\$\{\w+\}$")
"""A header may show its scheme: `Basic ${NAME}`."""
_URLS = ("url", "redis_url", "mongo_url", "source_url", "partner_url", "proxy", "smtp")


def read_toml(path: FilePath) -> tuple[dict[str, Any], dict[Path, int]]:
    """Return the content of a TOML file, and the line of each key and table; a missing file is empty.

    Raises:
        ConfigurationError: when the file cannot be read, is not TOML (with line and column), or is nested too deeply.
    """
    try:
        text = decode_utf8(read_file(path, at_most=FILE_AT_MOST_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return {}, {}
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}", why=error.strerror or "", hint=HINT) from None
    except ValueError as error:
        raise ConfigurationError(f"cannot read {path}", why=str(error), hint=HINT) from None
    text = text.replace("\r\n", "\n")
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = _POSITION.fullmatch(str(error))
        message = match[1] if match else "is not TOML"
        line, column = (int(match[2]), int(match[3])) if match and match[2] else _find_position(text)
        raise _make_syntax_error(message, line, column) from None
    except RecursionError:
        raise make_depth_error() from None
    except ValueError:
        why = f"{TOML_FILE}: a number has more digits than can be read"
        raise ConfigurationError(f"{TOML_FILE} cannot be used", why=why, hint=HINT) from None
    if is_too_deep(tree):
        raise make_depth_error()
    return tree, dict(_find_lines(text))


def _find_position(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _make_syntax_error(message: str, line: int, column: int) -> ConfigurationError:
    return ConfigurationError(
        f"{TOML_FILE} is not valid TOML",
        why=f"{TOML_FILE} line {line}, column {column}: {message}",
        hint='put text in quotes, as in start = "beginning"; correct the line, then run: syncctl config',
    )


def _find_lines(text: str) -> Iterator[tuple[Path, int]]:
    """Yield each path of a valid TOML text with its line, because tomllib does not report positions."""
    header: Path = ()
    for begun, statement in _split_statements(text):
        tree = tomllib.loads(statement)
        if statement.lstrip().startswith("["):
            header = max(_list_paths(tree, ()), key=len)
            yield from ((header[:depth], begun) for depth in range(1, len(header) + 1))
        else:
            yield from (((*header, *path), begun) for path in _list_paths(tree, ()))


def _split_statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield each statement with its first line; a statement ends at a line end outside of brackets and strings."""
    begin, line, depth = 0, 1, 0
    for token in _TOKEN.finditer(text + "\n"):
        if token[0] == "\n" and depth == 0:
            statement = text[begin : token.end()]
            yield line, statement
            line += statement.count("\n")
            begin = token.end()
        else:
            depth += token[0] in "[{"
            depth -= token[0] in "]}"


def _list_paths(tree: Mapping[str, Any], above: Path) -> Iterator[Path]:
    for key, value in tree.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from _list_paths(value, (*above, key))


class TomlReader:
    """Reads settings from the content of a TOML file: fills in `${NAME}`, and refuses secrets that are written out."""

    def __init__(self, lines: Mapping[Path, int], variables: Variables, layers: Layers) -> None:
        self.lines = lines
        self.variables = variables
        self.layers = layers
        self.layer = Layer()

    def read(self, tree: Mapping[str, Any], above: Path = ()) -> Layer:
        """Return the layer of a whole file, or of a table in it."""
        for key, value in tree.items():
            path = (*above, key)
            if isinstance(value, dict):
                self.layer.open_table(path, self._locate(path))
                self.read(value, path)
            elif not self._holds_secret(path, value):
                self._put(path, value)
        return self.layer

    def _locate(self, path: Path) -> str:
        for length in range(len(path), 0, -1):
            if line := self.lines.get(path[:length]):
                return f"{TOML_FILE} line {line}"
        return TOML_FILE

    def _put(self, path: Path, value: Any) -> None:
        if takes_no_reference(path) and has_reference(value):
            self._complain(path, NO_REFERENCE)
            return
        try:
            self.layer.put(path, self._fill(value), self._locate(path))
        except NotReadableError as error:
            self._complain(path, str(error))
        except NotSetError as error:
            self.layers.note_absent(path, self._locate(path), str(error))

    def _fill(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.variables.fill(value)
        if isinstance(value, list):
            return [self._fill(inner) for inner in value]
        if isinstance(value, dict):
            return {key: self._fill(inner) for key, inner in value.items()}
        return value.isoformat() if isinstance(value, datetime | date | time) else value

    def _holds_secret(self, path: Path, value: Any) -> bool:
        """Refuse a password or a token in a file that people commit."""
        if not isinstance(value, str) or not value:
            return False
        name = _suggest_name(path)
        is_header = path[2:3] == ("headers",)
        if (
            is_credential(Settings, path)
            and not is_reference(value)
            and not (is_header and _ENDS_IN_REFERENCE.search(value))
        ):
            kind = "token" if path[-1] in ("token", "partner_token") else "secret"
            self.layers.hidden.add(value)
            fix = f'write "${{{name}}}" and set {name} in .env or the environment'
            self._complain(path, f"the {kind} is written out; {fix}")
            return True
        secret = find_literal_secret(value) if path[-1] in _URLS else None
        if secret is not None:
            self.layers.hidden.add(secret)
            fix = f'write "${{{name}}}" for the whole URL, or ${{NAME}} for the password'
            self._complain(path, f"the password is written out; {fix}, and set it in .env or the environment")
        return secret is not None

    def _complain(self, path: Path, text: str) -> None:
        self.layers.complain(path, self._locate(path), text)


def _suggest_name(path: Path) -> str:
    if len(path) == 1:
        return path[0].upper()
    kind = path[0].removesuffix("s").upper()
    if len(path) == 2:
        return f"{kind}_{path[1].upper()}"
    name = "" if path[1] == "default" else f"{path[1].replace('-', '_').upper()}_"
    return f"{name or kind + '_'}{path[-1].replace('-', '_').upper()}"
