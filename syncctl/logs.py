"""Structured log lines on stderr, each with a stable `action` key and with secrets redacted.

log = get_logger(__name__)
log.info("poll.page", stream="orders", read=1000)
"""

import json
import logging
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any, Literal

from syncctl.core.redaction import Redact
from syncctl.core.safe_text import make_safe

Format = Literal["auto", "text", "json", "short"]

_RESERVED = frozenset({"at", "level", "action", "pid", "logger", "message", "traceback"})
_CHATTY = ("pymongo", "urllib3", "sqlalchemy", "asyncio", "kombu", "amqp", "celery", "billiard", "multiprocessing")
_INFORMED = ("celery", "billiard", "multiprocessing")
"""Those of them whose ordinary lines are useful: that a worker is connected, that a process ended."""

ATTEMPTS = "syncctl.attempts"
"""The logger of single calls. Because they are many, it is silent unless they are asked for."""


class ActionLogger:
    """Log actions with fields: `log.warning("dispatch.publish_failed", stream=name, error=text)`."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, action: str, /, **fields: Any) -> None:
        """Log a detail for developers."""
        self._log(logging.DEBUG, action, fields)

    def info(self, action: str, /, **fields: Any) -> None:
        """Log an ordinary event."""
        self._log(logging.INFO, action, fields)

    def warning(self, action: str, /, **fields: Any) -> None:
        """Log a problem that an operator should look at eventually."""
        self._log(logging.WARNING, action, fields)

    def error(self, action: str, /, **fields: Any) -> None:
        """Log a problem that an operator should look at now."""
        self._log(logging.ERROR, action, fields)

    def trace(self, action: str, /, **fields: Any) -> None:
        """Log the traceback of the current exception as a detail for developers."""
        self._log(logging.DEBUG, action, fields, with_traceback=True)

    def shows_info(self) -> bool:
        """Tell whether ordinary events are logged; for callers whose fields cost much to collect."""
        return self._logger.isEnabledFor(logging.INFO)

    def exception(self, action: str, /, **fields: Any) -> None:
        """Log an error with the traceback of the current exception."""
        self._log(logging.ERROR, action, fields, with_traceback=True)

    def _log(self, level: int, action: str, fields: Mapping[str, Any], *, with_traceback: bool = False) -> None:
        extra = {"action": action, "fields": fields}
        self._logger.log(level, action, extra=extra, exc_info=with_traceback, stacklevel=3)


def get_logger(name: str) -> ActionLogger:
    """Return the logger of a module."""
    return ActionLogger(name)


def read_format(text: str) -> Format | None:
    """Return the format with a name that people write; None if there is no such format."""
    formats: dict[str, Format] = {"auto": "auto", "text": "text", "json": "json"}
    return formats.get(text.lower())


def configure_logging(
    *,
    level: str = "info",
    format: Format = "auto",  # noqa: A002
    attempts: bool = False,
    secrets: Collection[str] = (),
) -> None:
    """Send every log line of this process to stderr. Safe to repeat; the last call wins.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        format: `text` for people, `json` for machines, `auto` for text on a terminal and JSON elsewhere, `short`
            for commands that run briefly.
        attempts: Whether each call to a partner is logged too.
        secrets: Values that are redacted in messages, fields and tracebacks.
    """
    if format == "auto":
        format = "text" if sys.stderr.isatty() else "json"  # noqa: A001
    line_handler = _StderrHandler()
    line_handler.setFormatter(_FORMATTERS[format](secrets))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(line_handler)
    logging.captureWarnings(capture=True)
    root.setLevel(level.upper())
    for name in _CHATTY:
        # Also with `debug`: the inner workings of these libraries say nothing about the fate of a row.
        least = logging.INFO if name in _INFORMED else logging.WARNING
        logging.getLogger(name).setLevel(max(least, root.level))
    logging.getLogger(ATTEMPTS).setLevel(logging.INFO if attempts else logging.WARNING)


class _LineFormatter(logging.Formatter):
    """Collect a record's fields in order, redacted."""

    def __init__(self, secrets: Collection[str]) -> None:
        super().__init__()
        self._redact = Redact(secrets)

    def collect(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the fields of a line; a line of another library has its logger's name as the action."""
        line: dict[str, Any] = {"at": _format_time(record.created), "level": record.levelname.lower()}
        action = getattr(record, "action", None)
        if action is None:
            line |= {"action": record.name, "message": self.clean(record.getMessage())}
        else:
            line["action"] = action
            fields: Mapping[str, Any] = getattr(record, "fields", {})
            line |= {(f"{name}_" if name in _RESERVED else name): self.clean(value) for name, value in fields.items()}
        return line

    def traceback(self, record: logging.LogRecord) -> str:
        """Return the redacted traceback, or an empty text."""
        if record.exc_info and record.exc_info[0] is not None:
            return str(self.clean(self.formatException(record.exc_info)))
        return str(self.clean(record.exc_text)) if record.exc_text else ""

    def clean(self, value: Any) -> Any:
        """Return a value that JSON can represent, with every secret redacted."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, list | tuple | set | frozenset):
            return [self.clean(inner) for inner in value]
        return self._redact(_format_time(value.timestamp()) if isinstance(value, datetime) else str(value))


class JsonFormatter(_LineFormatter):
    """One JSON document per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = self.collect(record) | {"pid": record.process}
        if traceback := self.traceback(record):
            line["traceback"] = traceback
        return json.dumps(line, ensure_ascii=True, default=str)


class TextFormatter(_LineFormatter):
    """`time level action=... key=value`; a traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = self.collect(record)
        head = f"{line.pop('at')} {line.pop('level'):7}"
        text = " ".join([head, *(f"{name}={_quote_value(value)}" for name, value in line.items())])
        traceback = self.traceback(record)
        return text + "".join(f"\n    {make_safe(row)}" for row in traceback.split("\n") if row)


class ShortFormatter(_LineFormatter):
    """`warning: action key=value`, as commands write it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = self.collect(record)
        _, level, action = line.pop("at"), line.pop("level"), line.pop("action")
        return " ".join(
            [f"{level}: action={action}", *(f"{name}={_quote_value(value)}" for name, value in line.items())]
        )


_FORMATTERS: dict[str, type[_LineFormatter]] = {
    "text": TextFormatter,
    "json": JsonFormatter,
    "short": ShortFormatter,
}


aside: Callable[[], AbstractContextManager[None]] = nullcontext
"""The context in which a line is written; it makes room for the line if something is drawn on the terminal."""


class _StderrHandler(logging.StreamHandler[Any]):
    """Write to the current stderr; ignore a reader that has gone away."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        with aside():
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the name is logging's)
        if not isinstance(sys.exc_info()[1], BrokenPipeError | ValueError):
            super().handleError(record)


def _format_time(timestamp: float) -> str:
    moment = datetime.fromtimestamp(timestamp, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _quote_value(value: Any) -> str:
    """Return a value in logfmt; a single plain word is not quoted."""
    if isinstance(value, float):
        return f"{value:g}" if abs(value) < 1e6 else str(value)
    if not isinstance(value, str):
        return "null" if value is None else json.dumps(value, default=str)
    plain = value != "" and value.isprintable() and not any(letter in value for letter in ' "=')
    return value if plain else make_safe(json.dumps(value, ensure_ascii=False))
