"""The proxy to a partner: a `CONNECT` tunnel for https, the whole URL in the request for http (RFC 9110, 9.3.6)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from syncctl.partner.address import parse_proxy_url, read_setting
from syncctl.partner.auth.basic import encode_basic
from syncctl.partner.call_deadline import TimedSocket, call_deadline, connect_socket

HEAD_AT_MOST_BYTES = 16 * 1024
_END = b"\r\n\r\n"


class ProxyError(Exception):
    """The proxy refused or failed: nothing reached the partner. The text is one line, without a secret."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proxy:
    """The address of a proxy, and the header with our credentials for it."""

    host: str
    port: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Host and port, as people write them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_proxy(url: str, key: str) -> Proxy | None:
    """Return the proxy that a setting names; None where it is empty.

    Raises:
        ConfigurationError: it is not the URL of an HTTP proxy; never shows it.
    """
    if not url:
        return None
    parts = read_setting(key, url, parse_proxy_url)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    credentials = f"Basic {encode_basic(user, password)}"
    headers = {"Proxy-Authorization": credentials} if user or password else {}
    return Proxy(host=parts.hostname or "", port=parts.port or 80, headers=headers)


def spell_proxy_secrets(url: str) -> set[str]:
    """Return a proxy's password in every form in which it is sent; empty where the URL cannot be read."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return set()
    if not parts.password:
        return set()
    password = unquote(parts.password)
    return {parts.password, password, encode_basic(unquote(parts.username or ""), password)}


def connect_proxy(proxy: Proxy) -> TimedSocket:
    """Connect to the proxy itself, within `call_deadline`.

    Raises:
        ProxyError: it cannot be reached.
    """
    try:
        return connect_socket(proxy.host, proxy.port, ends_at=call_deadline.ends_at)
    except TimeoutError:
        raise ProxyError(f"no connection to the proxy {proxy.name} in time") from None
    except OSError as error:
        raise ProxyError(f"cannot connect to the proxy {proxy.name}: {error.strerror or 'unknown name'}") from error


def open_tunnel(proxy: Proxy, host: str, port: int) -> TimedSocket:
    """Return a socket to the partner through the proxy, within `call_deadline`.

    Raises:
        ProxyError: the proxy refuses, or does not answer in time.
    """
    sock = connect_proxy(proxy)
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [
        f"CONNECT {target} HTTP/1.1",
        f"Host: {target}",
        *(f"{name}: {text}" for name, text in proxy.headers.items()),
    ]
    try:
        sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        status = _read_status(sock)
        if not 200 <= status <= 299:
            advice = ": check its user and password" if status == 407 else ""
            raise ProxyError(f"the proxy {proxy.name} refused {target} with HTTP {status}{advice}")
    except TimeoutError:
        sock.close()
        raise ProxyError(f"no answer from the proxy {proxy.name} in time") from None
    except OSError as error:
        sock.close()
        raise ProxyError(f"the proxy {proxy.name} closed the connection") from error
    except BaseException:
        sock.close()
        raise
    return sock


def _read_status(sock: TimedSocket) -> int:
    """Read the head of the proxy's response and return its status; the bytes behind it are the partner's.

    Raises:
        ProxyError: it is not HTTP, or endless.
    """
    head = b""
    piece = bytearray(1)
    while not head.endswith(_END):
        # Byte by byte, once for each connection, so that no byte of the partner is consumed.
        if sock.recv_into(piece) == 0 or len(head) > HEAD_AT_MOST_BYTES:
            raise ProxyError("the proxy did not answer in HTTP")
        head += piece
    words = head.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ProxyError("the proxy did not answer in HTTP")
    return int(words[1])
