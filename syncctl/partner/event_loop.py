"""The event loop of a process: one thread runs hundreds of calls at once."""

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

_loop: asyncio.AbstractEventLoop | None = None
_lock = threading.Lock()


def event_loop() -> asyncio.AbstractEventLoop:
    """Return the loop of this process; at the first call, start it in its own thread."""
    global _loop
    with _lock:
        if _loop is None:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="partner-calls", daemon=True).start()
            _loop = loop
        return _loop


def run_on_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop and wait for its result; may be called from any thread but the loop's own.

    The coroutine sees the caller's context, which has the deadline of the call that it belongs to.
    """
    loop, context = event_loop(), contextvars.copy_context()
    done: Future[T] = Future()

    def start() -> None:
        task = loop.create_task(coroutine, context=context)
        task.add_done_callback(lambda ended: _settle(done, ended))

    loop.call_soon_threadsafe(start)
    return done.result()


class WaitingRoom:
    """A few threads for functions of one client that may block, so that other clients do not wait for them.

    Safe after a fork, although the threads do not survive it.
    """

    THREADS_AT_MOST = 4

    def __init__(self, name: str) -> None:
        self._name = name
        self._pool: ThreadPoolExecutor | None = None
        self._pid = 0

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function in one of the threads; it sees the caller's context."""
        pool, context = self._pool, contextvars.copy_context()
        if pool is None or self._pid != os.getpid():
            self._pool = pool = ThreadPoolExecutor(self.THREADS_AT_MOST, self._name)
            self._pid = os.getpid()
        return await asyncio.get_running_loop().run_in_executor(pool, partial(context.run, function, *args))

    def close(self) -> None:
        """Let the threads end once their work is done."""
        pool, self._pool = self._pool, None
        if pool is not None and self._pid == os.getpid():
            pool.shutdown(wait=False)


def _settle(done: "Future[T]", ended: "asyncio.Task[T]") -> None:
    error = ended.exception() if not ended.cancelled() else asyncio.CancelledError()
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(ended.result())


def _forget_after_fork() -> None:
    """Start afresh in a forked child: threads do not survive a fork, and a lock may have been held."""
    global _loop, _lock
    _loop, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_after_fork)
