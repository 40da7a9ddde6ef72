"""Sets the wall clock wrong; Python imports this module at its start if the directory is on PYTHONPATH."""

import datetime as module
import os
import time
from datetime import datetime as _datetime
from typing import Any

AHEAD_SECONDS = float(os.environ.get("SYNCCTL_TEST_CLOCK_AHEAD", "0"))
_time, _time_ns = time.time, time.time_ns


class _Shifting(type):
    def __instancecheck__(cls, instance: object) -> bool:
        # Extension modules create instances of the original class.
        return isinstance(instance, _datetime)


class _Datetime(_datetime, metaclass=_Shifting):
    @classmethod
    def now(cls, tz: module.tzinfo | None = None) -> Any:
        return _datetime.fromtimestamp(time.time(), tz)


time.time = lambda: _time() + AHEAD_SECONDS
time.time_ns = lambda: _time_ns() + int(AHEAD_SECONDS * 1e9)
module.datetime = _Datetime  # type: ignore[misc]
