"""The deadline of a whole call: name lookup, connecting, TLS, sending and every read of the response.

A socket's own timeout starts anew with each read, so a partner that sends one byte a second would never be late.
The sockets here know when the call must end, and give each step the time that is left until then.
"""

import ipaddress
import socket
import ssl
import threading
import time
from queue import Empty, SimpleQueue
from typing import Any

SocketAddress = tuple[Any, ...]
"""One answer of `getaddrinfo`: family, type, protocol, canonical name, socket address."""

TOO_LATE = "the call's deadline has passed"


class CallDeadline(threading.local):
    """The deadline of the call that this thread is making."""

    ends_at: float = 0.0
    #: Whether the first byte of the request may have left; before that the partner has received nothing.
    sent: bool = False

    def begin(self, seconds: float) -> None:
        """Start the clock of a new call."""
        self.ends_at = time.monotonic() + seconds
        self.sent = False


call_deadline = CallDeadline()


def seconds_until(ends_at: float) -> float:
    """Return the time that is left, always above zero (zero would mean "do not wait at all").

    Raises:
        TimeoutError: no time is left.
    """
    left = ends_at - time.monotonic()
    if left <= 0:
        raise TimeoutError(TOO_LATE)
    return left


class TimedSocket(socket.socket):
    """A socket whose every step ends by the deadline of its call."""

    ends_at: float = 0.0

    def recv_into(self, *args: Any, **options: Any) -> int:
        """Read within the time that is left."""
        self.settimeout(seconds_until(self.ends_at))
        return super().recv_into(*args, **options)

    def sendall(self, *args: Any, **options: Any) -> None:
        """Send everything within the time that is left; a plain socket counts its timeout over the whole."""
        self.settimeout(seconds_until(self.ends_at))
        super().sendall(*args, **options)


class TimedTLSSocket(ssl.SSLSocket):
    """The same over TLS, where sending everything is a loop of sends, each with its own timeout."""

    ends_at: float = 0.0

    def recv_into(self, *args: Any, **options: Any) -> int:
        """Read within the time that is left."""
        self.settimeout(seconds_until(self.ends_at))
        return super().recv_into(*args, **options)

    def send(self, *args: Any, **options: Any) -> int:
        """Send a piece within the time that is left."""
        self.settimeout(seconds_until(self.ends_at))
        return super().send(*args, **options)


def connect_socket(host: str, port: int, *, ends_at: float) -> TimedSocket:
    """Connect to the first address of a host that answers, each with a fair share of the time that is left.

    The socket keeps the time that is left as its timeout, so that a TLS handshake on it ends in time too.

    Raises:
        OSError: the last address's error; `socket.gaierror`: unknown name; TimeoutError: too late.
    """
    addresses = resolve_host(host, port, ends_at=ends_at)
    last_error: OSError = OSError("the name has no address")
    for position, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = TimedSocket(family, kind, protocol)
        try:
            # One address that swallows packets must not use up the time of those behind it.
            sock.settimeout(seconds_until(ends_at) / (len(addresses) - position))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(address)
            sock.settimeout(seconds_until(ends_at))
        except OSError as error:
            sock.close()
            last_error = error
        except BaseException:
            sock.close()
            raise
        else:
            sock.ends_at = ends_at
            return sock
    raise last_error


def resolve_host(host: str, port: int, *, ends_at: float) -> list[SocketAddress]:
    """Look up a name, in a separate thread: the C library's resolver takes no timeout.

    Raises:
        socket.gaierror: the name is unknown.
        TimeoutError: no answer in time; the thread ends when the resolver gives up.
    """
    host = host.strip("[]")
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    else:
        return _look_up(host, port)
    answers: SimpleQueue[list[SocketAddress] | Exception] = SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(_look_up(host, port))
        except Exception as error:  # noqa: BLE001 - it is raised again, in the thread that waits
            answers.put(error)

    threading.Thread(target=look_up, name="resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=seconds_until(ends_at))
    except Empty:
        raise TimeoutError(TOO_LATE) from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _look_up(host: str, port: int) -> list[SocketAddress]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
