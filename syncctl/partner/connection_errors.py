"""Explain why a call got no response, in one line without secrets and without bytes from the partner."""

import os
import re
import socket
import ssl

import aiohttp

from syncctl.core.error_causes import walk_causes
from syncctl.partner.proxy import ProxyError

_REFUSED_IN_HANDSHAKE = re.compile(
    r"ALERT_(CERTIFICATE_REQUIRED|BAD_CERTIFICATE|CERTIFICATE_\w+|UNKNOWN_CA|ACCESS_DENIED|HANDSHAKE_FAILURE)"
)
"""With TLS 1.3, a server refuses our certificate after we have sent the request, but without having read it."""


class ClosedTransportError(Exception):
    """The client was closed before the call began."""


class NotHttpError(Exception):
    """The partner's bytes are not an HTTP response to the request."""


def was_refused_in_handshake(error: BaseException) -> bool:
    """Tell whether the server ended TLS because of our certificate; it has then read nothing of the request."""
    return any(
        isinstance(cause, ssl.SSLError) and _REFUSED_IN_HANDSHAKE.search(getattr(cause, "reason", None) or "")
        for cause in walk_causes(error)
    )


def explain_error(error: BaseException, *, host: str, seconds: float, sent: bool) -> str:
    """Return the root cause of a failed call.

    Args:
        host: The partner's host and port.
        seconds: The deadline of the whole call.
        sent: Whether a byte of the request may have been sent.
    """
    causes = tuple(walk_causes(error))
    for cause in causes:
        if isinstance(cause, ProxyError):
            return str(cause)
        text = _explain_sending(cause, host, seconds) if sent else _explain_connecting(cause, host, seconds)
        if text:
            return text
    return f"the call to {host} failed: {type(causes[-1]).__name__}"


def _explain_connecting(error: BaseException, host: str, seconds: float) -> str:
    match error:
        case ClosedTransportError():
            return "the client was closed before the call began"
        case socket.gaierror():
            return f"the name of {host} is unknown here"
        case aiohttp.ClientError():
            return ""  # the error behind it says more
        case ssl.SSLCertVerificationError():
            return f"the certificate of {host} is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS with {host} failed: {(error.reason or 'no reason given').replace('_', ' ').lower()}"
        case TimeoutError():
            return f"no connection to {host} within {seconds:g} s"
        case ConnectionRefusedError():
            return f"{host} refused the connection"
        case ConnectionResetError() | ConnectionAbortedError() | BrokenPipeError():
            return f"{host} closed the connection while it was being made"
        case OSError() if error.strerror:
            return f"cannot connect to {host}: {os.strerror(error.errno) if error.errno else error.strerror}"
    return ""


def _explain_sending(error: BaseException, host: str, seconds: float) -> str:
    match error:
        case TimeoutError():
            return f"no full answer from {host} within {seconds:g} s"
        case aiohttp.ClientPayloadError():
            return f"the answer of {host} broke off"
        case aiohttp.ClientResponseError() | aiohttp.http_exceptions.HttpProcessingError() | NotHttpError():
            return f"what {host} answered is not HTTP"
        case ssl.SSLError():
            return f"TLS with {host} broke: {(error.reason or 'no reason given').replace('_', ' ').lower()}"
        case aiohttp.ServerDisconnectedError() | ConnectionResetError() | ConnectionAbortedError() | BrokenPipeError():
            return f"{host} closed the connection without an answer"
    return ""
