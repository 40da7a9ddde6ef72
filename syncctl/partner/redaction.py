"""What a partner said, made fit to be kept: no secrets, no control characters."""

import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence

STARS = "***"
Redact = Callable[[str], str]
"""Takes secrets out of a text."""

_HTML_NAMES = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}
# C0 and C1 controls, line and paragraph separators, and what turns the direction of text around.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]+")


def match_secret(secret: str) -> str:
    """Return a pattern of the forms in which an echo may carry a secret, and of echoes of echoes.

    Letters and digits come as they are. What JSON, URLs and HTML escape may come escaped, also more than once; how
    often is bounded, for a partner may answer with nothing but backslashes.
    """
    return "".join(_match_character(each) for each in secret)


def _match_character(character: str) -> str:
    if character.isascii() and character.isalnum():
        return character
    units = character.encode("utf-16-be", "surrogatepass").hex()
    json_form = "".join(rf"\\{{1,8}}u{units[at : at + 4]}" for at in range(0, len(units), 4))
    url_form = "".join(f"%(?:25){{0,3}}{each:02x}" for each in character.encode("utf-8", "surrogatepass"))
    html_form = f"&(?:amp;){{0,3}}(?:#0*{ord(character)}|#x0*{ord(character):x}|{_HTML_NAMES.get(character, '#')});"
    plus = r"\+|" if character == " " else ""
    return rf"(?:{plus}\\{{0,8}}{re.escape(character)}|(?i:{json_form}|{url_form}|{html_form}))"


def make_redact(secrets: Iterable[str]) -> Redact:
    """Return a function that replaces every secret in a text, alone and in base64, the longest first."""
    known = set(filter(None, secrets))
    known |= {b64encode(each.encode("utf-8", "surrogatepass")).decode("ascii") for each in known}
    longest_first = sorted(known, key=lambda each: (-len(each), each))
    if not longest_first:
        return lambda text: text
    pattern = re.compile("|".join(map(match_secret, longest_first)))
    return lambda text: pattern.sub(STARS, text)


def extend_redact(redact: Redact, secrets: Sequence[str]) -> Redact:
    """Return a redaction that also knows what only one call carried."""
    if not secrets:
        return redact
    # Letters and digits are never escaped: a text without a secret's longest run of them does not hold it.
    telling = [max(re.findall(r"[0-9A-Za-z]+", each), key=len, default="") for each in secrets]

    def redact_all(text: str) -> str:
        found = [secret for secret, part in zip(secrets, telling, strict=True) if part in text]
        return redact(make_redact(found)(text))

    return redact_all


def clean_text(text: str) -> str:
    """Return one line without control characters, a run of them as one blank, and without halves of characters."""
    return _CONTROLS.sub(" ", text.encode("utf-8", "replace").decode()).strip()
