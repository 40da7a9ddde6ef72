"""Where the secrets of a URL or a connection string are, and how it looks without them."""

import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus, unquote, unquote_plus

MASK = "***"
_SHORTEST = 3  # masking shorter ones would riddle every text, and tell what they are
_SECRET_PARAMETER = re.compile(
    r"pass(word|wd|phrase)?|pwd|secret|token|api_?key|access_?key|account_?key|shared_?key|signature|sig"
    r"|credential|authmechanismproperties|odbc_connect|.*(password|passwd|secret|token)",
    re.IGNORECASE,
)
_PARAMETER = re.compile(r"([?&;])([^=&;?#]+)=([^&;#]*)")
_ODBC = re.compile(
    r"((?:^|;)\s*(?:pwd|password|accesstoken|access token|clientsecret|[^;=]*password)\s*=\s*)"
    r"(\{(?:[^}]|\}\})*\}|[^;]*)",
    re.IGNORECASE,
)
_REFERENCES = re.compile(r"\{?(\$\{[A-Za-z_][A-Za-z0-9_]*\})+\}?")

Span = tuple[int, int]


def find_secret_spans(text: str) -> list[Span]:
    """Return where secrets stand in a URL or an ODBC connection string: password, secret parameters."""
    head, separator, rest = text.partition("://")
    if not separator or ";" in head:
        return [(match.start(2), match.end(2)) for match in _ODBC.finditer(text) if match[2]]
    offset = len(head) + 3
    spans = [(start + offset, end + offset) for start, end in _find_password(head, rest)]
    begin = spans[0][1] if spans else offset
    spans += [
        (match.start(3), match.end(3))
        for match in _PARAMETER.finditer(text, begin)
        if match[3] and _SECRET_PARAMETER.fullmatch(unquote(match[2]).strip())
    ]
    return spans


def _find_password(scheme: str, rest: str) -> list[Span]:
    """Find the password, also one whose `/`, `?`, `#` or `@` somebody forgot to encode."""
    end = min((at for at in (rest.find(mark) for mark in "/?#") if at >= 0), default=len(rest))
    at = rest.rfind("@", 0, end)
    if at < 0:
        port = rest[:end].rpartition(":")[2]
        unencoded = ":" in rest[:end] and (not port.isdigit() or not scheme.lower().startswith("http"))
        at = rest.rfind("@") if unencoded else -1
    colon = rest.find(":", 0, max(at, 0))
    return [(colon + 1, at)] if 0 <= colon < at - 1 else []


def mask_url(text: str) -> str:
    """Return a URL or a connection string with `***` in place of its secrets."""
    for start, end in sorted(find_secret_spans(text), reverse=True):
        text = text[:start] + MASK + text[end:]
    return text


def find_literal_secret(text: str) -> str | None:
    """Return a secret that is written out in the text, None where `${NAME}` stands for every secret."""
    for start, end in find_secret_spans(text):
        if not _REFERENCES.fullmatch(text[start:end]):
            return text[start:end]
    return None


def is_reference(text: str) -> bool:
    """Tell whether a text is `${NAME}` and nothing else."""
    return _REFERENCES.fullmatch(text) is not None


def find_secrets(text: str) -> set[str]:
    """Return the secrets of a URL or a connection string in every spelling they may come back in."""
    found: set[str] = set()
    for start, end in find_secret_spans(text):
        found |= spell_secret(text[start:end])
        if "odbc_connect" in text[:start].lower():
            found |= find_secrets(unquote_plus(text[start:end]))
    return found


def spell_secret(secret: str) -> set[str]:
    """Return the spellings of one secret: as it is, decoded, encoded for URLs, out of ODBC braces."""
    plain = {secret, unquote(secret), unquote_plus(secret)}
    if secret.startswith("{") and secret.endswith("}"):
        plain |= {secret[1:-1], secret[1:-1].replace("}}", "}")}
    encoded = {quote(text, safe="") for text in plain} | {quote_plus(text) for text in plain}
    return {text for text in plain | encoded if len(text) >= _SHORTEST}


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return the text with every secret masked, the longest first."""
    for secret in sorted((one for one in secrets if len(one) >= _SHORTEST), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text
