"""A mock partner: an HTTP server for the demo and for tests that is slow, fails at given rates, and records every call.

    python -m syncctl.local.mock_partner --port 0 --latency 20ms --too-many 0.05 --reject 0.01

prints {"url": "http://127.0.0.1:PORT", "pid": PID} as its first line, and serves until Ctrl-C or SIGTERM.
"""

import argparse
import asyncio
import errno
import json
import os
import signal
import stat
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from syncctl.core.durations import parse_duration
from syncctl.errors import ExitCode
from syncctl.local.mock_partner_behaviour import Account, PartnerConfig, ReceivedCall, show_call, show_rows
from syncctl.local.mock_partner_http import MockPartnerProtocol, Reply, Request
from syncctl.local.mock_partner_objects import ObjectAccount

__all__ = ["MockPartner", "PartnerConfig", "ReceivedCall"]

ADMIN = "/_partner/"
TOKEN_VARIABLE = "PARTNER_TOKEN"  # noqa: S105 - its name, not its value
STOP_WITHIN_SECONDS = 10.0
_METHODS = ("POST", "PUT", "PATCH", "DELETE")


class MockPartner:
    """The mock partner's HTTP server on the loopback, in its own thread.

    It also answers `GET /_partner/stats`, `/_partner/log`, `/_partner/rows` and `POST /_partner/fix`. These requests
    and OPTIONS are not recorded as calls.

    Raises:
        OSError: the server cannot listen on the port.
    """

    def __init__(self, config: PartnerConfig | None = None) -> None:
        config = config or PartnerConfig()
        self.account = ObjectAccount(config) if config.own_ids else Account(config)
        methods = ("GET", *_METHODS) if config.own_ids else _METHODS
        self._allowed = frozenset(methods)
        self._allow = {"Allow": ", ".join(("OPTIONS", *methods))}
        self._loop = asyncio.new_event_loop()
        self._connections: set[MockPartnerProtocol] = set()
        try:
            self._server = self._loop.run_until_complete(
                self._loop.create_server(self._make_protocol, "127.0.0.1", config.port, backlog=1024)
            )
        except BaseException:
            self._loop.close()
            raise
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._thread = threading.Thread(target=self._loop.run_forever, name="mock-partner", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Cut every connection and stop the server. Safe to repeat."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_WITHIN_SECONDS)
        self._loop.run_until_complete(self._shut_down())
        self._loop.close()

    def fix(self) -> None:
        """Stop failing: from now on every valid call is accepted."""
        self.account.fixed = True

    def stats(self) -> dict[str, Any]:
        """Return the counts."""
        return self.account.stats()

    def calls(self) -> list[ReceivedCall]:
        """Return every call so far, in order of arrival."""
        return list(self.account.calls)

    def rows(self) -> dict[str, bytes]:
        """Return the last applied body for each row, or for each id of a partner that has its own ids."""
        return dict(self.account.rows)

    def _make_protocol(self) -> MockPartnerProtocol:
        return MockPartnerProtocol(self._receive, self._connections)

    def _receive(self, request: Request) -> Reply:
        if request.target.startswith(ADMIN):
            return self._administer(request)
        if request.method == "OPTIONS":
            return Reply(status=204, headers=self._allow)
        if request.method not in self._allowed:
            return Reply(status=405, headers=self._allow)
        return self.account.receive(request)

    def _administer(self, request: Request) -> Reply:
        match request.method, request.target.removeprefix(ADMIN):
            case "GET", "stats":
                return Reply(status=200, body=json.dumps(self.stats()).encode())
            case "GET", "log":
                calls = [show_call(call) for call in self.account.calls]
                return Reply(status=200, body=json.dumps({"calls": calls}).encode())
            case "GET", "rows":
                return Reply(status=200, body=show_rows(self.account.rows))
            case "POST", "fix":
                self.fix()
                return Reply(status=200, body=json.dumps(self.stats()).encode())
            case _:
                return Reply(status=404)

    async def _shut_down(self) -> None:
        self._server.close()
        while self._connections:
            for connection in tuple(self._connections):
                if connection.transport is not None:
                    connection.transport.abort()
            await asyncio.sleep(0)
        await self._server.wait_closed()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; with `--end-with-parent` also until the parent or standard input ends."""
    chosen = parse_arguments(arguments)
    config = make_config(chosen)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    parent = os.getppid()
    try:
        partner = MockPartner(config)
    except OSError as error:
        sys.stderr.write(f"error: {_explain(error, config.port)}\n")
        return ExitCode.UNAVAILABLE
    with partner:
        sys.stdout.write(json.dumps({"url": partner.url, "pid": os.getpid()}) + "\n")
        sys.stdout.flush()
        if config.token:
            sys.stderr.write(f"every call must carry the token in {TOKEN_VARIABLE}\n")
        if chosen.end_with_parent:
            watch_input(stopping)
        while not stopping.wait(0.5):
            if chosen.end_with_parent and os.getppid() != parent:
                sys.stderr.write("stopped: the parent process has ended (--end-with-parent)\n")
                break
    return ExitCode.DONE


def _explain(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is already in use; --port 0 picks a free one"
    return f"cannot listen on port {port}: {error.strerror or error}"


def watch_input(stopping: threading.Event) -> None:
    """Stop when standard input ends, if it is a pipe or a socket."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return

    def read_to_end() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        stopping.set()

    threading.Thread(target=read_to_end, name="stdin", daemon=True).start()


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m syncctl.local.mock_partner",
        description=__doc__,
        epilog=f"""If the environment sets {TOKEN_VARIABLE}, every call must carry it as its bearer token;
otherwise the answer is 401.

GET /_partner/stats, /_partner/log and /_partner/rows show what was received.
POST /_partner/fix stops all failures.
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=_port, default=0, help="the port to listen on; 0 picks a free one")
    parser.add_argument("--seed", type=int, default=0, help="the same seed produces the same failures")
    parser.add_argument("--latency", type=_latency, default=0.0, metavar="20ms", help="delay before each answer")
    parser.add_argument(
        "--too-many", type=_rate, default=0.0, metavar="RATE", help="share of calls answered 429 with Retry-After"
    )
    parser.add_argument("--retry-after", type=int, default=1, metavar="SECONDS", help="the Retry-After of a 429")
    parser.add_argument("--error", type=_rate, default=0.0, metavar="RATE", help="share of calls answered 500")
    parser.add_argument("--drop-before", type=_rate, default=0.0, metavar="RATE", help="share cut before being applied")
    parser.add_argument("--drop-after", type=_rate, default=0.0, metavar="RATE", help="share cut after being applied")
    parser.add_argument(
        "--reject", type=_rate, default=0.0, metavar="RATE", help="share of rows answered 422 until fixed"
    )
    parser.add_argument(
        "--key",
        action="append",
        metavar="FIELD",
        help="a field of the body that identifies a row; may be repeated (default: id)",
    )
    parser.add_argument(
        "--own-ids",
        action="store_true",
        help="create an object for each POST, answer with its id, and ignore the Idempotency-Key",
    )
    parser.add_argument("--allow-keyless", action="store_true", help="accept calls without Idempotency-Key")
    parser.add_argument(
        "--end-with-parent",
        action="store_true",
        help="exit with the program that started it, or when a pipe on standard input closes",
    )
    return parser.parse_args(arguments)


def make_config(chosen: argparse.Namespace) -> PartnerConfig:
    """Build the configuration from the arguments; the token comes from the environment."""
    return PartnerConfig(
        port=chosen.port,
        seed=chosen.seed,
        latency_seconds=chosen.latency,
        too_many_rate=chosen.too_many,
        retry_after_seconds=chosen.retry_after,
        error_rate=chosen.error,
        drop_before_rate=chosen.drop_before,
        drop_after_rate=chosen.drop_after,
        reject_rate=chosen.reject,
        token=os.environ.get(TOKEN_VARIABLE, ""),
        require_key=not chosen.allow_keyless,
        row_key=tuple(chosen.key or ("id",)),
        own_ids=chosen.own_ids,
    )


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: use a number from 0 to 65535")
    return int(text)


def _latency(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share: use a number from 0 to 1")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
