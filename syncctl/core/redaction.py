"""Redaction: one mark replaces a secret in every text that leaves the process (invariant 10)."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from urllib.parse import unquote, unquote_plus

REDACTED = "***"
"""The mark that replaces a secret."""

SHORTEST_SECRET = 3
"""Shorter secrets stay: replacing them would riddle every text, and give them away."""

SHORTEST_WITHIN_WORDS = 6
"""Shorter secrets are replaced only where they are whole words."""

Span = tuple[int, int]

SHORTEST_ENCODED = 8
"""Shorter parts of a secret would be found by chance, and are looked for only at the end of a cut text."""

_HTML_NAMES = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}
_SHORT_ESCAPES = {"\t": "t", "\n": "n", "\r": "r", "\b": "b", "\f": "f"}
_ESCAPE = r"(?:\\|%(?:25){0,3}5c)"
"""A backslash of JSON or of a programming language, which a URL may have encoded."""
_LONGEST_ESCAPE = 24
_PART_OF_ESCAPE = re.compile(r"%(?:25)*[0-9A-Fa-f]?|\\+(?:[uU][0-9A-Fa-f]*|x[0-9A-Fa-f]?)?|&[#\w]{0,8}")
_URL_SAFE = str.maketrans("+/", "-_")
_LETTERS_AND_DIGITS = re.compile(r"[0-9A-Za-z]+")
_SECRET_PARAMETER = re.compile(
    r"pass(word|wd|phrase)?|pwd|secret|token|api_?key|access_?key|account_?key|shared_?key|signature|sig"
    r"|credential|authmechanismproperties|odbc_connect|.*(password|passwd|secret|token)",
    re.IGNORECASE,
)
_PARAMETER = re.compile(r"([?&;])([^=&;?#]+)=([^&]*)")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+._-]*://")
_LONE_SECRETS = ("redis:", "rediss:")
"""Schemes in whose URLs a user without a password is really a password that lacks its colon."""
_AFTER_AUTHORITY = re.compile(r"[/?#]")
_ODBC_PAIR = re.compile(r"[^;={}]*=\s*(?:\{(?:[^}]|\}\})*\}[^;]*|[^;]*)|[^;]+")
_ODBC_SECRETS = ("pwd", "accesstoken", "access token", "clientsecret")
_ODBC_KEYWORDS = frozenset({
    "addr", "address", "app", "application name", "applicationintent", "authentication", "column encryption",
    "connectretrycount", "connectretryinterval", "database", "description", "driver", "dsn", "encrypt", "encryption",
    "failover_partner", "filedsn", "hostnameincertificate", "initial catalog", "ipaddresspreference", "keepalive",
    "keepaliveinterval", "language", "mars_connection", "multisubnetfailover", "network", "network address", "port",
    "quotedid", "regional", "server", "servercertificate", "serverspn", "tds_version", "timeout",
    "transparentnetworkipresolution", "trusted_connection", "trustservercertificate", "uid", "user", "user id", "wsid",
})  # fmt: skip


class Redact:
    """Replaces every secret in a text, plain and encoded, the longest first.

    Args:
        after: Another redaction, which is applied to the result.
    """

    def __init__(self, secrets: Iterable[str], *, after: Redact | None = None) -> None:
        self._secrets = frozenset(secret for secret in secrets if len(secret) >= SHORTEST_SECRET)
        self._after = after

    def __call__(self, text: str, *, is_cut: bool = False) -> str:
        """Return the text with the mark in place of every secret.

        Args:
            is_cut: Whether the text, or a text within it, may have been cut off: then the beginnings of secrets are
                replaced too, those of at least eight characters anywhere, and those of at least three at the end.
        """
        # UTF-16 text that was read in another encoding has a NUL beside each letter.
        text = text.replace("\x00", "")
        runs = _list_runs(self._secrets)
        present = tuple([form for form, run in runs if run in text])
        if present:
            text = _match_any(present).sub(REDACTED, text)
        if is_cut:
            text = _redact_beginnings(text, [form for form, _ in runs])
        return text if self._after is None else self._after(text, is_cut=is_cut)


@lru_cache(maxsize=256)
def _list_runs(secrets: frozenset[str]) -> list[tuple[str, str]]:
    """Return the forms of secrets, the longest first, each with its longest run of letters and digits.

    Letters and digits are never escaped, so a text without that run does not hold the secret.
    """
    forms = {form for secret in secrets for form in (secret, *_list_encoded(secret))}
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    return [(form, max(_LETTERS_AND_DIGITS.findall(form), key=len, default="")) for form in longest_first]


def _redact_beginnings(text: str, forms: Sequence[str]) -> str:
    for form in forms:
        head = form[:SHORTEST_ENCODED]
        if len(head) < len(form) and max(_LETTERS_AND_DIGITS.findall(head), key=len, default="") in text:
            text = _redact_beginning(text, form, head)
    ends = [begin for form in forms if (begin := _find_beginning_at_end(text, form)) is not None]
    return text[: min(ends)] + REDACTED if ends else text


def _redact_beginning(text: str, secret: str, head: str) -> str:
    """Return the text with the mark in place of the beginnings of a secret that have at least its head."""
    parts, at = [], 0
    for match in _match_any((head,)).finditer(text):
        if match.start() >= at:
            parts += [text[at : match.start()], REDACTED]
            at, _ = _follow(text, secret, match.end(), len(head))
    return "".join([*parts, text[at:]])


def _find_beginning_at_end(text: str, secret: str) -> int | None:
    """Return where a text ends with the beginning of a secret, of at least three characters."""
    first = _compile_character(secret[0])
    for match in first.finditer(text, max(0, len(text) - _LONGEST_ESCAPE * len(secret))):
        end, matched = _follow(text, secret, match.end(), 1)
        if matched >= SHORTEST_SECRET and (end == len(text) or _PART_OF_ESCAPE.fullmatch(text, end)):
            return match.start()
    return None


def _follow(text: str, secret: str, end: int, matched: int) -> tuple[int, int]:
    """Return where a text stops matching a secret, and how many characters match; the first `matched` end at `end`."""
    while matched < len(secret) and (match := _compile_character(secret[matched]).match(text, end)):
        end, matched = match.end(), matched + 1
    return end, matched


@lru_cache(maxsize=1024)
def _compile_character(character: str) -> re.Pattern[str]:
    return re.compile(_match_character(character))


def _list_encoded(secret: str) -> set[str]:
    """Return a secret in base64, also within a longer text, in hexadecimal, and as read in a wrong encoding."""
    plain = secret.encode("utf-8", "surrogatepass")
    whole = b64encode(plain).decode("ascii")
    forms = {whole, whole.rstrip("="), plain.hex(), plain.hex().upper()}
    for before in range(3):
        # The characters that depend on the secret alone, not on what stands before or after it.
        inner = b64encode(bytes(before) + plain).decode("ascii").rstrip("=")
        inner = inner[-(-before * 8 // 6) : (before + len(plain)) * 8 // 6]
        forms |= {inner} if len(inner) >= SHORTEST_ENCODED else set()
    forms |= {form.translate(_URL_SAFE) for form in forms}
    if not secret.isascii():
        forms |= {
            secret.encode(encoding, "replace").decode("utf-8", "replace").replace("\x00", "")
            for encoding in ("utf-16-le", "utf-16-be", "latin-1")
        }
        forms.add(plain.decode("latin-1"))
    return {form for form in forms if len(form) >= SHORTEST_SECRET}


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return a text with the mark in place of every secret."""
    return Redact(secrets)(text)


@lru_cache(maxsize=256)
def _match_any(secrets: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(_match_secret, secrets)))


def _match_secret(secret: str) -> str:
    """Return a pattern for the forms in which a text may carry a secret, and for echoes of echoes.

    Letters and digits appear unchanged. Other characters may be escaped for JSON, Python, URLs or HTML, also several
    times; the number of times is bounded, because a partner may answer with nothing but backslashes.
    """
    pattern = "".join(map(_match_character, secret))
    # A short secret would be found within ordinary words.
    return rf"(?<![0-9A-Za-z]){pattern}(?![0-9A-Za-z])" if len(secret) < SHORTEST_WITHIN_WORDS else pattern


def _match_character(character: str) -> str:
    if character.isascii() and character.isalnum():
        return character
    utf8 = character.encode("utf-8", "surrogatepass")
    units = character.encode("utf-16-be", "surrogatepass").hex()
    forms = [
        "".join(rf"{_ESCAPE}{{1,8}}u{units[at : at + 4]}" for at in range(0, len(units), 4)),
        rf"{_ESCAPE}{{1,8}}U{ord(character):08x}",
        "".join(rf"{_ESCAPE}{{1,8}}x{byte:02x}" for byte in utf8),
        f"{_ESCAPE}{{0,8}}" + "".join(f"%(?:25){{0,3}}{byte:02x}" for byte in utf8),
        rf"\\{{0,8}}&(?:amp;){{0,3}}(?:#0*{ord(character)}|#x0*{ord(character):x}|{_HTML_NAMES.get(character, '#')});",
    ]
    if 0x80 <= ord(character) <= 0xFF:
        forms.append(rf"{_ESCAPE}{{1,8}}x{ord(character):02x}")
    if short := _SHORT_ESCAPES.get(character):
        forms.append(rf"{_ESCAPE}{{1,8}}{short}")
    # A space becomes a plus in a form, and texts of several lines are shown on one.
    plain = r"\s{1,8}" if character.isspace() else rf"\\{{0,8}}{re.escape(character)}"
    plus = r"\+|" if character == " " else ""
    return rf"(?:{plus}{plain}|(?i:{'|'.join(forms)}))"


def spell_secret(secret: str) -> set[str]:
    """Return a secret as it is written, decoded from a URL, and without the braces of an ODBC connection string."""
    secret = secret.strip()
    spellings = {secret, unquote(secret), unquote_plus(secret)}
    if secret.startswith("{") and secret.endswith("}"):
        spellings |= {secret[1:-1], secret[1:-1].replace("}}", "}")}
    return {spelling for spelling in spellings if len(spelling) >= SHORTEST_SECRET}


def find_secrets(url: str) -> set[str]:
    """Return the secrets of a URL or a connection string in every spelling they may come back in."""
    secrets: set[str] = set()
    for start, end in find_secret_spans(url):
        secrets |= spell_secret(url[start:end])
        if "odbc_connect" in url[:start].lower():
            secrets |= find_secrets(unquote_plus(url[start:end]))
    return secrets


def mask_url(url: str) -> str:
    """Return a URL or a connection string with the mark in place of its secrets."""
    for start, end in sorted(find_secret_spans(url), reverse=True):
        url = url[:start] + REDACTED + url[end:]
    return url


def find_secret_spans(url: str) -> list[Span]:
    """Return where secrets stand in a URL or an ODBC connection string: its password and its secret parameters."""
    scheme = _SCHEME.match(url)
    if scheme is None:
        return list(_find_odbc_secrets(url))
    offset = scheme.end()
    spans = [(start + offset, end + offset) for start, end in _find_password(scheme[0], url[offset:])]
    begin = spans[0][1] if spans else offset
    spans += [
        (match.start(3), match.end(3))
        for match in _PARAMETER.finditer(url, begin)
        if match[3] and _SECRET_PARAMETER.fullmatch(unquote(match[2]).strip())
    ]
    return spans


def _find_password(scheme: str, rest: str) -> list[Span]:
    """Find the password, even if it holds a `/`, `?`, `#` or `@` that should have been encoded."""
    match = _AFTER_AUTHORITY.search(rest)
    end = match.start() if match else len(rest)
    at = rest.rfind("@", 0, end)
    if at < 0:
        port = rest[:end].rpartition(":")[2]
        unencoded = ":" in rest[:end] and (not port.isdigit() or not scheme.lower().startswith("http"))
        at = rest.rfind("@") if unencoded else -1
    elif "@" in rest[end:]:
        # Only the author of the URL knows whether the host follows the first @ or the last one.
        at = rest.rfind("@")
    colon = rest.find(":", 0, max(at, 0))
    if colon < 0 < at and scheme.lower().startswith(_LONE_SECRETS):
        return [(0, at)]
    return [(colon + 1, at)] if 0 <= colon < at - 1 else []


def _find_odbc_secrets(text: str) -> Iterator[Span]:
    """Yield the values of secret keywords, and the text after one that is no keyword: its `;` may lack the braces."""
    is_after_secret = False
    for pair in _ODBC_PAIR.finditer(text):
        name, equals, value = pair[0].partition("=")
        keyword = name.strip().lower()
        if equals and (keyword in _ODBC_SECRETS or keyword.endswith("password")):
            # In braces the end of a value is certain.
            is_after_secret = not value.lstrip().startswith("{")
            if value.strip():
                yield pair.end() - len(value.lstrip()), pair.end()
        elif is_after_secret and not (equals and keyword in _ODBC_KEYWORDS) and pair[0].strip():
            yield pair.span()
