"""How a use case becomes a Celery task."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

from syncctl.celery_app import app
from syncctl.errors import SyncctlError
from syncctl.logs import get_logger

log = get_logger(__name__)

P = ParamSpec("P")


def task(name: str) -> Callable[[Callable[P, dict[str, Any]]], Callable[P, dict[str, Any]]]:
    """Return a decorator that makes a task whose known errors are one line in the log.

    The error does not cross the broker, and nothing is lost by it: leases and due times bring the work back.
    """

    def decorate(function: Callable[P, dict[str, Any]]) -> Callable[P, dict[str, Any]]:
        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
            try:
                return function(*args, **kwargs)
            except SyncctlError as error:
                log.warning("task.failed", task=name, args=list(args[:1]), error=str(error), hint=error.hint)
                return {"error": str(error)}

        made: Callable[P, dict[str, Any]] = app.task(name=name)(run)
        return made

    return decorate
