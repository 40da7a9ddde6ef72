"""Notices of commands that keep reading: since when a service does not answer, why, and that it answers again."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from syncctl.console import out
from syncctl.errors import ServiceUnavailable

ASKED_AFTER_SECONDS, ASKED_EVERY_SECONDS = 0.5, 1.0
"""When a reading takes this long, the services must prove that they answer, and again after each interval."""


class Patience:
    """Distinguishes a slow reading from a service that does not answer.

    Args:
        prove_answering: Raises ServiceUnavailable if a service does not answer.
    """

    def __init__(self, prove_answering: Callable[[], None]) -> None:
        self._prove_answering = prove_answering
        self._ask_at = ASKED_AFTER_SECONDS

    def look(self, waited_seconds: float) -> str | None:
        """Return why a service does not answer; None if the reading is only slow.

        Args:
            waited_seconds: How long the current reading has taken so far.
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
        service: The name of the service, such as `MongoDB`.
        after: Text that is appended to the notice that the service answers again.
    """

    def __init__(self, service: str, patience: Patience, *, after: str = "") -> None:
        self._service = service
        self._patience = patience
        self._after = after
        self._is_on = False

    def wait(self, waited_seconds: float) -> None:
        """Warn if a reading has taken long because the service does not answer."""
        why = None if self._is_on else self._patience.look(waited_seconds)
        if why is not None:
            self.note(why, waited_seconds=waited_seconds)

    def note(self, why: str, *, waited_seconds: float = 0.0) -> None:
        """Warn that the service cannot be reached, and why; only the first call of a silence does."""
        if not self._is_on:
            since = f"since {began_at(waited_seconds):%H:%M:%S} UTC"
            out.warn(f"{why} ({since}); trying again until it answers, Ctrl-C ends")
        self._is_on = True

    def end(self) -> None:
        """End the silence, if there is one, with the notice that the service answers again."""
        if self._is_on:
            out.say(f"{self._service} answers again{self._after}")
        self._is_on = False


def began_at(waited_seconds: float) -> datetime:
    """Return the time at which something began that has taken this long."""
    return datetime.now(UTC) - timedelta(seconds=waited_seconds)
