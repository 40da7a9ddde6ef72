"""What a command that follows something says when a service does not answer: since when, why, and that it is back."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from syncctl.console import out
from syncctl.errors import ServiceUnavailable

ASKED_AFTER_SECONDS, ASKED_EVERY_SECONDS = 0.5, 1.0
"""When, and then how often, the services are asked for a sign of life while a reading takes long."""


class Patience:
    """Tells a reading that takes long from a service that does not answer.

    Args:
        prove_answering: Raises ServiceUnavailable if a service gives no sign of life.
    """

    def __init__(self, prove_answering: Callable[[], None]) -> None:
        self._prove_answering = prove_answering
        self._ask_at = ASKED_AFTER_SECONDS

    def look(self, waited_seconds: float) -> str | None:
        """Return why there is nothing to read, None if it only takes long.

        Args:
            waited_seconds: How long the present reading has taken.
        """
        if waited_seconds < ASKED_AFTER_SECONDS:
            self._ask_at = ASKED_AFTER_SECONDS
        if waited_seconds < self._ask_at:
            return None
        self._ask_at = waited_seconds + ASKED_EVERY_SECONDS
        try:
            self._prove_answering()
        except ServiceUnavailable as error:
            return str(error)
        return None


class Silence:
    """Says once on stderr since when a service is silent and why, and once that it answers again.

    Args:
        service: Its name, such as `MongoDB`.
        after: What else is true once it answers again.
    """

    def __init__(self, service: str, patience: Patience, *, after: str = "") -> None:
        self._service = service
        self._patience = patience
        self._after = after
        self._is_on = False

    def wait(self, waited_seconds: float) -> None:
        """Take how long the present reading has taken."""
        why = None if self._is_on else self._patience.look(waited_seconds)
        if why is not None:
            self.note(why, waited_seconds=waited_seconds)

    def note(self, why: str, *, waited_seconds: float = 0.0) -> None:
        """Take why it could not be reached."""
        if not self._is_on:
            since = f"since {began_at(waited_seconds):%H:%M:%S} UTC"
            out.warn(f"{why} ({since}); trying again until it answers, Ctrl-C ends")
        self._is_on = True

    def end(self) -> None:
        """Take that it has answered."""
        if self._is_on:
            out.say(f"{self._service} answers again{self._after}")
        self._is_on = False


def began_at(waited_seconds: float) -> datetime:
    """Return when something began that has taken so long."""
    return datetime.now(UTC) - timedelta(seconds=waited_seconds)
