"""Retries of a statement that the server ended because of a deadlock, or refused while busy."""

import time
from collections.abc import Callable
from typing import TypeVar

from syncctl.errors import ServiceUnavailable
from syncctl.sources.driver_errors import is_transient

T = TypeVar("T")
PAUSES_SECONDS = (0.2, 1.0)
"""The pauses between the tries."""


def run_with_retries(run: Callable[[], T]) -> T:
    """Run something that reads; try again after a transient error.

    Raises:
        ServiceUnavailable: The error of the last try, or one that is not transient.
    """
    for pause in PAUSES_SECONDS:
        try:
            return run()
        except ServiceUnavailable as error:
            if error.__cause__ is None or not is_transient(error.__cause__):
                raise
            time.sleep(pause)
    return run()
