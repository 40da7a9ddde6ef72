"""`.env`, read by python-dotenv, with the line of each name."""

from pathlib import Path

from dotenv.parser import parse_stream

from syncctl.errors import ConfigurationError
from syncctl.settings.problems import HINT, Problem

ENV_FILE = ".env"


def read_dotenv(path: Path) -> tuple[dict[str, str], dict[str, int], list[Problem]]:
    """Return the variables of a `.env` file, the line of each, and the lines that cannot be read.

    The environment of this process stays as it is. A file that is not there is empty.

    Raises:
        ConfigurationError: when the file is there and cannot be read.
    """
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    problems: list[Problem] = []
    try:
        with path.open(encoding="utf-8-sig") as stream:
            bindings = list(parse_stream(stream))
    except (FileNotFoundError, NotADirectoryError):
        return values, lines, problems
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigurationError(f"cannot read {path}", why=reason, hint=HINT) from None
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
