"""The deadline of a whole call: name lookup, connecting, TLS, sending and every read of the response."""

import time
from contextvars import ContextVar
from dataclasses import dataclass

TOO_LATE = "the call's deadline has passed"


@dataclass(slots=True)
class _Call:
    ends_at: float = 0.0
    sent: bool = False


_call: ContextVar[_Call] = ContextVar("call")


class CallDeadline:
    """The call that this thread or this task is making; threads and tasks that it starts see the same one.

    `ends_at` is by the monotonic clock. `sent` becomes true when the first byte of the request may have been sent; a
    connection that ends before that has delivered nothing to the partner.
    """

    @property
    def ends_at(self) -> float:
        """When the call must have ended."""
        return self._current.ends_at

    @property
    def sent(self) -> bool:
        """Whether a byte of the request may have been sent."""
        return self._current.sent

    @sent.setter
    def sent(self, value: bool) -> None:
        self._current.sent = value

    def begin(self, seconds: float) -> None:
        """Start the clock of a new call."""
        _call.set(_Call(ends_at=time.monotonic() + seconds))

    @property
    def _current(self) -> _Call:
        call = _call.get(None)
        if call is None:
            call = _Call()
            _call.set(call)
        return call


call_deadline = CallDeadline()


def seconds_until(ends_at: float) -> float:
    """Return the time that is left, always above zero (zero would mean "do not wait at all").

    Raises:
        TimeoutError: No time is left.
    """
    left = ends_at - time.monotonic()
    if left <= 0:
        raise TimeoutError(TOO_LATE)
    return left
