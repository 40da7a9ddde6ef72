"""Redaction: texts from outside made fit to be kept, without secrets and control characters (invariant 10)."""

import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence

REDACTED = "***"
"""The mark that replaces a secret."""
Redact = Callable[[str], str]
"""Replaces the secrets in a text."""

_HTML_NAMES = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}
# C0 and C1 controls, line and paragraph separators, and the marks that change the direction of text.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]+")


def match_secret(secret: str) -> str:
    """Return a pattern for the forms in which an echo may carry a secret, and for echoes of echoes.

    Letters and digits appear unchanged. Other characters may be escaped for JSON, URLs or HTML, also several times;
    the number of times is bounded, because a partner may answer with nothing but backslashes.
    """
    return "".join(_match_character(character) for character in secret)


def _match_character(character: str) -> str:
    if character.isascii() and character.isalnum():
        return character
    units = character.encode("utf-16-be", "surrogatepass").hex()
    json_form = "".join(rf"\\{{1,8}}u{units[at : at + 4]}" for at in range(0, len(units), 4))
    url_form = "".join(f"%(?:25){{0,3}}{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))
    html_form = f"&(?:amp;){{0,3}}(?:#0*{ord(character)}|#x0*{ord(character):x}|{_HTML_NAMES.get(character, '#')});"
    plus = r"\+|" if character == " " else ""
    return rf"(?:{plus}\\{{0,8}}{re.escape(character)}|(?i:{json_form}|{url_form}|{html_form}))"


def make_redact(secrets: Iterable[str]) -> Redact:
    """Return a function that replaces every secret in a text, plain and in base64, the longest first."""
    known = set(filter(None, secrets))
    known |= {b64encode(secret.encode("utf-8", "surrogatepass")).decode("ascii") for secret in known}
    longest_first = sorted(known, key=lambda secret: (-len(secret), secret))
    if not longest_first:
        return lambda text: text
    pattern = re.compile("|".join(map(match_secret, longest_first)))
    return lambda text: pattern.sub(REDACTED, text)


def extend_redact(redact: Redact, secrets: Sequence[str]) -> Redact:
    """Return a redaction that also knows the secrets of a single call."""
    if not secrets:
        return redact
    # Letters and digits are never escaped: a text without a secret's longest run of them does not hold it.
    runs = [max(re.findall(r"[0-9A-Za-z]+", secret), key=len, default="") for secret in secrets]

    def redact_all(text: str) -> str:
        present = [secret for secret, run in zip(secrets, runs, strict=True) if run in text]
        return redact(make_redact(present)(text))

    return redact_all


def clean_text(text: str) -> str:
    """Return one line: each run of control characters becomes one blank, and half surrogate pairs are replaced."""
    return _CONTROLS.sub(" ", text.encode("utf-8", "replace").decode()).strip()
