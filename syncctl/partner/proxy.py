"""The proxy to a partner: a `CONNECT` tunnel for https, the whole URL in the request for http (RFC 9110, 9.3.6)."""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from syncctl.core.error_causes import walk_causes
from syncctl.partner.address import parse_proxy_url, read_setting
from syncctl.partner.auth.basic import encode_basic


class ProxyError(Exception):
    """The proxy refused the call or failed: nothing reached the partner. The text is one line without a secret."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proxy:
    """The address of a proxy, and the header with our credentials for it."""

    host: str
    port: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Host and port for display."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_proxy(url: str, key: str) -> Proxy | None:
    """Return the proxy that a setting names; None if the setting is empty.

    Raises:
        ConfigurationError: the value is not the URL of an HTTP proxy; the error never shows it.
    """
    if not url:
        return None
    parts = read_setting(key, url, parse_proxy_url)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    credentials = f"Basic {encode_basic(user, password)}"
    headers = {"Proxy-Authorization": credentials} if user or password else {}
    return Proxy(host=parts.hostname or "", port=parts.port or 80, headers=headers)


def spell_proxy_secrets(url: str) -> set[str]:
    """Return a proxy's password in every form in which it is sent; nothing if the URL cannot be read."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return set()
    if not parts.password:
        return set()
    password = unquote(parts.password)
    return {parts.password, password, encode_basic(unquote(parts.username or ""), password)}


def find_proxy_error(error: BaseException, proxy: Proxy | None, host: str, *, sent: bool) -> ProxyError | None:
    """Return the error of a proxy; None if the cause lies behind the proxy, or there is no proxy.

    Args:
        host: The partner's host and port.
        sent: Whether the connection to the partner was established, so that the proxy is not the cause.
    """
    import aiohttp

    if proxy is None or sent:
        return None
    causes = tuple(walk_causes(error))
    for cause in causes:
        match cause:
            case aiohttp.ClientProxyConnectionError():
                reason = os.strerror(number) if (number := cause.os_error.errno or 0) > 0 else "unknown name"
                return ProxyError(f"cannot connect to the proxy {proxy.name}: {reason}")
            case aiohttp.ClientHttpProxyError():
                advice = ": check its user and password" if cause.status == 407 else ""
                return ProxyError(f"the proxy {proxy.name} refused {host} with HTTP {cause.status}{advice}")
            case ssl.SSLError():
                return None
            case TimeoutError():
                return ProxyError(f"no answer from the proxy {proxy.name} in time")
    if any(isinstance(cause, aiohttp.ClientError | aiohttp.http_exceptions.HttpProcessingError) for cause in causes):
        return ProxyError("the proxy did not answer in HTTP")
    return None
