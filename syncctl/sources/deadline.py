"""A deadline for what has none of its own."""

import queue
import threading
from collections.abc import Callable
from typing import Any


def run_within(seconds: float, connect: Callable[[], Any]) -> Any:
    """Connect in a thread that is left behind when it takes too long.

    pyodbc asks the server for its types before any timeout but the login's can be set, and a server that lets
    everybody in and then says nothing more would hold it for ever.

    Raises:
        TimeoutError: It took longer.
    """
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((connect(), None))
        except BaseException as error:  # noqa: BLE001 - it is raised where the answer is waited for
            answers.put((None, error))

    threading.Thread(target=run, name="odbc connect", daemon=True).start()
    try:
        connection, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no connection within {seconds:g} s") from None
    if error is not None:
        raise error
    return connection
