"""Which headers a stream may set, and which texts HTTP has a form for."""

import re

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?")
_OURS = {
    "authorization", "connection", "content-encoding", "content-length", "content-type", "cookie", "date", "expect",
    "host", "idempotency-key", "keep-alive", "syncctl-attempt", "te", "trailer", "transfer-encoding", "upgrade",
    "webhook-id", "webhook-signature", "webhook-timestamp",
}  # fmt: skip
_SECRET = re.compile(
    r"auth|cookie|credential|passw|secret|signature|token|api-?key|access-?key|subscription-?key", re.IGNORECASE
)


def is_header_name(text: str) -> bool:
    """Tell whether HTTP allows a name (RFC 9110, 5.6.2)."""
    return _NAME.fullmatch(text) is not None


def is_header_value(text: str) -> bool:
    """Tell whether a value can be sent as it is: printable ASCII, so that no line break makes two headers of it."""
    return _VALUE.fullmatch(text) is not None


def is_ours(name: str) -> bool:
    """Tell whether a header is set by syncctl or by the partner's auth, and by nobody else."""
    return name.lower() in _OURS or name.lower().startswith("proxy-")


def looks_secret(name: str) -> bool:
    """Tell whether a header by its name carries what nobody should see."""
    return _SECRET.search(name) is not None
