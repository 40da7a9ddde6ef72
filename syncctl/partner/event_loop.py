"""The event loop of a process: one thread carries hundreds of calls under way at once."""

import asyncio
import contextvars
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_loop: asyncio.AbstractEventLoop | None = None
_lock = threading.Lock()


def event_loop() -> asyncio.AbstractEventLoop:
    """Return the loop of this process, started in a thread of its own when it is first asked for."""
    global _loop
    with _lock:
        if _loop is None:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="partner-calls", daemon=True).start()
            _loop = loop
        return _loop


def run_on_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop and wait for its result; from any thread but the loop's own.

    It sees the caller's context: the deadline of the call that it belongs to.
    """
    loop, context = event_loop(), contextvars.copy_context()
    done: Future[T] = Future()

    def start() -> None:
        task = loop.create_task(coroutine, context=context)
        task.add_done_callback(lambda ended: _settle(done, ended))

    loop.call_soon_threadsafe(start)
    return done.result()


def _settle(done: "Future[T]", ended: "asyncio.Task[T]") -> None:
    error = ended.exception() if not ended.cancelled() else asyncio.CancelledError()
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(ended.result())


def _forget_after_fork() -> None:
    """Begin anew in a forked child: threads do not survive a fork, and a lock may have been held."""
    global _loop, _lock
    _loop, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_after_fork)
