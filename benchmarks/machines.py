"""Simulated machines: a worker with its own network and host name, as if it ran elsewhere.

Its loopback is not ours. It reaches our servers through Unix sockets alone, so nothing listens on another address.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import stop

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_ROOT = Path(__file__).parent.parent
#: The relay ends with the command, whose process is its parent.
_START = """
hostname "$1"; ip link set lo up
(cd "$2" && exec setpriv --pdeathsig TERM "$3" -m benchmarks.machines inside "$4") &
shift 4; exec "$@"
"""


def can_have_machines() -> bool:
    """Tell whether this user may create networks."""
    return os.geteuid() == 0 and not subprocess.run(["unshare", "--net", "--uts", "true"], check=False).returncode


def on_machine(name: str, sockets: Path) -> Sequence[str | Path]:
    """Return the beginning of a command line that runs the rest of it on a machine of this name.

    Args:
        sockets: The directory in which `serve_machines` gives access to our servers.
    """
    return ["unshare", "--net", "--uts", "sh", "-c", _START, "sh", name, _ROOT, sys.executable, sockets]


@contextmanager
def serve_machines(sockets: Path, ports: Sequence[int]) -> Iterator[None]:
    """Give all machines access to these ports of our loopback, under the same numbers on their own."""
    sockets.mkdir()
    command = [sys.executable, "-m", "benchmarks.machines", "outside", sockets, *map(str, ports)]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        stop(process)


async def _relay(own: _Streams, connecting: Awaitable[_Streams]) -> None:
    """Carry bytes both ways until both sides have ended."""
    reader, writer = own
    try:
        their_reader, their_writer = await connecting
    except OSError:
        writer.close()
        return
    await asyncio.gather(_copy(reader, their_writer), _copy(their_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def _listen(side: str, sockets: Path, ports: Sequence[int]) -> None:
    servers = []
    for port in ports or [int(path.name) for path in sockets.iterdir()]:
        path = sockets / str(port)
        if side == "outside":
            servers.append(
                await asyncio.start_unix_server(
                    lambda *own, port=port: _relay(own, asyncio.open_connection("127.0.0.1", port)), path
                )
            )
        else:
            servers.append(
                await asyncio.start_server(
                    lambda *own, path=path: _relay(own, asyncio.open_unix_connection(path)), "127.0.0.1", port
                )
            )
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(_listen(sys.argv[1], Path(sys.argv[2]), [int(port) for port in sys.argv[3:]]))
