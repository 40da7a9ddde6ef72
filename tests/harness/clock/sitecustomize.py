"""Python imports this at its start where the directory is on PYTHONPATH: a machine whose wall clock is off."""

import datetime as module
import os
import time
from datetime import datetime as _datetime
from typing import Any

AHEAD_SECONDS = float(os.environ.get("SYNCCTL_TEST_CLOCK_AHEAD", "0"))
_time, _time_ns = time.time, time.time_ns


class _Shifting(type):
    def __instancecheck__(cls, instance: object) -> bool:
        # What extension modules make is of the class that was there before.
        return isinstance(instance, _datetime)


class _Datetime(_datetime, metaclass=_Shifting):
    @classmethod
    def now(cls, tz: module.tzinfo | None = None) -> Any:
        return _datetime.fromtimestamp(time.time(), tz)


time.time = lambda: _time() + AHEAD_SECONDS
time.time_ns = lambda: _time_ns() + int(AHEAD_SECONDS * 1e9)
module.datetime = _Datetime  # type: ignore[misc]
