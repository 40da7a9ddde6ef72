"""Redaction: one mark replaces a secret in every text that leaves the process (invariant 10)."""

import re
from base64 import b64encode
from collections.abc import Callable, Iterable
from functools import lru_cache
from urllib.parse import unquote, unquote_plus

REDACTED = "***"
"""The mark that replaces a secret."""

SHORTEST_SECRET = 3
"""Shorter ones stay: replacing them would riddle every text, and give them away."""

Redact = Callable[[str], str]
"""Replaces the secrets in a text."""

Span = tuple[int, int]

_HTML_NAMES = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}
# C0 and C1 controls, line and paragraph separators, and the marks that change the direction of text.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]+")
_LETTERS_AND_DIGITS = re.compile(r"[0-9A-Za-z]+")
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


def make_redact(secrets: Iterable[str]) -> Redact:
    """Return a function that replaces every secret in a text, plain and in base64, the longest first."""
    known = {secret for secret in secrets if len(secret) >= SHORTEST_SECRET}
    known |= {b64encode(secret.encode("utf-8", "surrogatepass")).decode("ascii") for secret in known}
    # Letters and digits are never escaped: a text without a secret's longest run of them does not hold the secret.
    runs = [
        (secret, max(_LETTERS_AND_DIGITS.findall(secret), key=len, default=""))
        for secret in sorted(known, key=lambda secret: (-len(secret), secret))
    ]

    def redact_text(text: str) -> str:
        present = tuple(secret for secret, run in runs if run in text)
        return _match_any(present).sub(REDACTED, text) if present else text

    return redact_text


def extend_redact(redact: Redact, secrets: Iterable[str]) -> Redact:
    """Return a redaction that also knows the secrets of a single call."""
    redact_more = make_redact(secrets)
    return lambda text: redact(redact_more(text))


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return a text with the mark in place of every secret."""
    return make_redact(secrets)(text)


@lru_cache(maxsize=256)
def _match_any(secrets: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(_match_secret, secrets)))


def _match_secret(secret: str) -> str:
    """Return a pattern for the forms in which a text may carry a secret, and for echoes of echoes.

    Letters and digits appear unchanged. Other characters may be escaped for JSON, URLs or HTML, also several times;
    the number of times is bounded, because a partner may answer with nothing but backslashes.
    """
    return "".join(map(_match_character, secret))


def _match_character(character: str) -> str:
    if character.isascii() and character.isalnum():
        return character
    units = character.encode("utf-16-be", "surrogatepass").hex()
    json_form = "".join(rf"\\{{1,8}}u{units[at : at + 4]}" for at in range(0, len(units), 4))
    url_form = "".join(f"%(?:25){{0,3}}{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))
    html_form = f"&(?:amp;){{0,3}}(?:#0*{ord(character)}|#x0*{ord(character):x}|{_HTML_NAMES.get(character, '#')});"
    plus = r"\+|" if character == " " else ""
    return rf"(?:{plus}\\{{0,8}}{re.escape(character)}|(?i:{json_form}|{url_form}|{html_form}))"


def clean_text(text: str) -> str:
    """Return one line: each run of control characters becomes one blank, and half surrogate pairs are replaced."""
    return _CONTROLS.sub(" ", text.encode("utf-8", "replace").decode()).strip()


def spell_secret(secret: str) -> set[str]:
    """Return a secret as it is written, decoded from a URL, and out of the braces of an ODBC connection string."""
    spellings = {secret, unquote(secret), unquote_plus(secret)}
    if secret.startswith("{") and secret.endswith("}"):
        spellings |= {secret[1:-1], secret[1:-1].replace("}}", "}")}
    return {spelling for spelling in spellings if len(spelling) >= SHORTEST_SECRET}


def find_secrets(url: str) -> set[str]:
    """Return the secrets of a URL or a connection string in every spelling they may come back in."""
    found: set[str] = set()
    for start, end in find_secret_spans(url):
        found |= spell_secret(url[start:end])
        if "odbc_connect" in url[:start].lower():
            found |= find_secrets(unquote_plus(url[start:end]))
    return found


def mask_url(url: str) -> str:
    """Return a URL or a connection string with the mark in place of its secrets."""
    for start, end in sorted(find_secret_spans(url), reverse=True):
        url = url[:start] + REDACTED + url[end:]
    return url


def find_secret_spans(url: str) -> list[Span]:
    """Return where secrets stand in a URL or an ODBC connection string: its password and its secret parameters."""
    head, separator, rest = url.partition("://")
    if not separator or ";" in head:
        return [(match.start(2), match.end(2)) for match in _ODBC.finditer(url) if match[2]]
    offset = len(head) + 3
    spans = [(start + offset, end + offset) for start, end in _find_password(head, rest)]
    begin = spans[0][1] if spans else offset
    spans += [
        (match.start(3), match.end(3))
        for match in _PARAMETER.finditer(url, begin)
        if match[3] and _SECRET_PARAMETER.fullmatch(unquote(match[2]).strip())
    ]
    return spans


def _find_password(scheme: str, rest: str) -> list[Span]:
    """Find the password, also one whose `/`, `?`, `#` or `@` should have been encoded and was not."""
    end = min((at for at in (rest.find(mark) for mark in "/?#") if at >= 0), default=len(rest))
    at = rest.rfind("@", 0, end)
    if at < 0:
        port = rest[:end].rpartition(":")[2]
        unencoded = ":" in rest[:end] and (not port.isdigit() or not scheme.lower().startswith("http"))
        at = rest.rfind("@") if unencoded else -1
    colon = rest.find(":", 0, max(at, 0))
    return [(colon + 1, at)] if 0 <= colon < at - 1 else []
