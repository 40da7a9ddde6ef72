"""A TCP proxy between two parts of a deployment, which can refuse, cut, hang and delay connections."""

import asyncio
import contextlib
import struct
import threading
from collections.abc import Coroutine
from socket import SO_LINGER, SOL_SOCKET
from types import TracebackType
from typing import Any, Literal, Self

Mood = Literal["open", "refuse", "cut", "hang", "delay"]
CHUNK_BYTES = 65_536
ANSWER_WITHIN_SECONDS = 60.0


class Proxy:
    """Carries bytes to a port of this machine and back, in its own thread.

    `affected` counts the connections that were reset and the pieces that were held up or delayed.

    The mood decides how: `open` carries them at once; `refuse` stops listening and resets open connections; `cut`
    accepts a connection and resets it; `hang` accepts connections and carries nothing; `delay` carries pieces later.

    Args:
        port: The target.
        forgets: Connections that hung are reset when that ends, so that their bytes never arrive; otherwise they
            continue.
    """

    def __init__(self, port: int, *, forgets: bool = False) -> None:
        self._target = port
        self._forgets = forgets
        self._mood: Mood = "open"
        self._delay_seconds = 0.0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.port = 0
        self.affected = 0
        self._do(self._listen())

    def set(self, mood: Mood, *, delay_seconds: float = 0.0) -> None:
        """Change the mood from now on."""
        self._do(self._change(mood, delay_seconds))

    def close(self) -> None:
        """Cut every connection and stop. Safe to repeat."""
        if self._loop.is_closed():
            return
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ANSWER_WITHIN_SECONDS)
        self._loop.close()

    def _do(self, act: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(act, self._loop).result(ANSWER_WITHIN_SECONDS)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _change(self, mood: Mood, delay_seconds: float) -> None:
        hung = self._mood == "hang"
        self._mood, self._delay_seconds = mood, delay_seconds
        if mood in ("refuse", "cut") or (hung and self._forgets):
            await self._cut_all()
        if mood == "refuse" and self._server is not None:
            self._server.close()
            self._server = None
        if mood != "refuse" and self._server is None:
            await self._listen()
        if mood == "hang":
            self._flowing.clear()
        else:
            self._flowing.set()

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        self._mood = "cut"
        await self._cut_all()
        # A connection that was being accepted has a task of asyncio's first, then one of `_accept`, which cuts it.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        # A task cancelled just when its connection was made has never seen it; asyncio itself knows all of them.
        for transport in list(getattr(self._loop, "_transports", {}).values()):
            transport.abort()
        # A transport is closed in the next turn of the loop.
        await asyncio.sleep(0)

    async def _cut_all(self) -> None:
        self.affected += len(self._tasks)
        for writer in self._writers:
            reset(writer)
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        ours = [writer]
        self._writers.add(writer)
        try:
            if self._mood in ("cut", "refuse"):
                self.affected += 1
                return
            await self._flow()
            beyond_reader, beyond_writer = await asyncio.open_connection("127.0.0.1", self._target)
            ours.append(beyond_writer)
            self._writers.add(beyond_writer)
            await asyncio.gather(self._carry(reader, beyond_writer), self._carry(beyond_reader, writer))
        except (OSError, asyncio.CancelledError):
            # The end of one side ends the other; the task of a server can report to no caller.
            pass
        finally:
            for side in ours:
                reset(side)
                self._writers.discard(side)
            self._tasks.discard(task)

    async def _flow(self) -> None:
        if not self._flowing.is_set():
            self.affected += 1
            await self._flowing.wait()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            await self._flow()
            if self._mood == "delay":
                self.affected += 1
                await asyncio.sleep(self._delay_seconds)
            writer.write(chunk)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a reset instead of an orderly close; one that is already closed stays as it is."""
    raw = writer.get_extra_info("socket")
    if raw is not None and not writer.is_closing():
        with contextlib.suppress(OSError):
            raw.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
