"""`${NAME}`: values that stand in the environment, in `.env`, or in a file named by `NAME_FILE`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from syncctl.core.redaction import find_secret_spans

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCES = re.compile(r"\{?(\$\{[A-Za-z_][A-Za-z0-9_]*\})+\}?")
_LARGEST_FILE_BYTES = 65536


def has_reference(value: object) -> bool:
    """Tell whether a text, or one of a list or a table, takes the value of a name."""
    if isinstance(value, list | dict):
        return any(has_reference(one) for one in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and any(match[0] != "$${" for match in _REFERENCE.finditer(value))


def is_reference(text: str) -> bool:
    """Tell whether a text is `${NAME}` and nothing else."""
    return _REFERENCES.fullmatch(text) is not None


def find_literal_secret(url: str) -> str | None:
    """Return a secret that is written out in a URL, None where `${NAME}` stands for every secret."""
    secrets = (url[start:end] for start, end in find_secret_spans(url))
    return next((secret for secret in secrets if not is_reference(secret)), None)


class NotSetError(Exception):
    """A name is set nowhere."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"${{{name}}} is not set; set {name} in the environment or in .env, or name a file in {name}_FILE"
        )
        self.name = name


class NotReadableError(Exception):
    """A reference or a file that it leads to is broken; the text says how and never holds a value."""


@dataclass(kw_only=True)
class Names:
    """Look up names in the environment, then in `.env`; in each, NAME goes before the file of NAME_FILE.

    Every value that was looked up is kept in `used`, with its name, so that no error shows one.
    """

    environment: Mapping[str, str] = field(repr=False)
    dotenv: Mapping[str, str] = field(repr=False)
    directory: Path
    used: dict[str, str] = field(default_factory=dict, repr=False)

    def fill(self, text: str, *, within: tuple[str, ...] = ()) -> str:
        """Return the text with each `${NAME}` replaced; `$${` stands for a plain `${`.

        Raises:
            NotSetError: for a name that is set nowhere.
            NotReadableError: for a name that is none, that refers to itself, or whose file cannot be read.
        """

        def replace(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            if not match[2] or _NAME.fullmatch(match[1]) is None:
                raise NotReadableError("has a ${ that no NAME} follows; write $${ for a plain ${")
            if match[1] in within:
                raise NotReadableError(f"refers to itself through ${{{match[1]}}}")
            value = self._look_up(match[1], within)
            self.used[value] = match[1]
            return value

        return _REFERENCE.sub(replace, text)

    def _look_up(self, name: str, within: tuple[str, ...]) -> str:
        if value := self.environment.get(name):
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
        """Return what a file named by `name` holds, without the line ends behind it.

        Raises:
            NotReadableError: when it is missing, empty, not text, or over 64 KiB. The text does not show
                the path: people put the secret itself there.
        """
        try:
            with (self.directory / Path(file).expanduser()).open("rb") as stream:
                content = stream.read(_LARGEST_FILE_BYTES + 1)
        except (OSError, ValueError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or "its path is not usable"
            raise NotReadableError(f"the file that {name} names cannot be read: {reason}") from None
        try:
            text = content.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError:
            raise NotReadableError(f"the file that {name} names is not UTF-8 text") from None
        if len(content) > _LARGEST_FILE_BYTES:
            raise NotReadableError(f"the file that {name} names is over 64 KiB")
        if not text.strip():
            raise NotReadableError(f"the file that {name} names is empty")
        self.used.setdefault(text, name.removesuffix("_FILE"))
        return text
