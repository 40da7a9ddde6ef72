"""What a partner said, made fit to be kept: no secrets, no control characters."""

import html
import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import quote, quote_plus

STARS = "***"

_BEYOND_DOTNET = re.compile(r"[^\w./:,;=@!?*()\[\]{} ~#$%^|-]", re.ASCII)

# C0 and C1 controls, line and paragraph separators, and what turns the direction of text around.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]+")


def spell_out(secret: str) -> set[str]:
    """Return the forms in which an echo may carry a secret: as it is, in JSON, in a URL, in HTML, in base64."""
    raw = secret.encode("utf-8", "replace")
    percent = {quote(secret, safe="", errors="replace"), quote(secret, errors="replace")}
    percent |= {quote_plus(secret, errors="replace"), quote(secret, safe="*", errors="replace")}
    forms = {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    forms |= {secret.replace("/", "\\/"), html.escape(secret), b64encode(raw).decode("ascii")} | percent
    # What the JSON writers of .NET (upper case) and Go (lower case) escape beyond JSON's own rules.
    forms.add(
        re.sub(r"[^\w./:,;=@!?*()\[\]{} ~#$%^|-]", lambda match: f"\\u{ord(match[0]):04X}", secret, flags=re.ASCII)
    )
    forms.add(re.sub(r"[&<>]", lambda match: f"\\u{ord(match[0]):04x}", secret))
    return forms | {_lower_escapes(form) for form in percent}


def _lower_escapes(text: str) -> str:
    return re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), text)


def make_redact(secrets: Iterable[str]) -> Callable[[str], str]:
    """Return a function that replaces every secret in a text, the longest first."""
    spelled = {form for secret in filter(None, secrets) for form in spell_out(secret)}
    longest_first = sorted(spelled, key=lambda each: (-len(each), each))
    if not longest_first:
        return lambda text: text
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    return lambda text: pattern.sub(STARS, text)


def extend_redact(redact: Callable[[str], str], secrets: Sequence[str]) -> Callable[[str], str]:
    """Return a redaction that also knows what only one call carried."""
    if not secrets:
        return redact
    own = make_redact(secrets)
    return lambda text: redact(own(text))


def clean_text(text: str) -> str:
    """Return one line without control characters; a run of them becomes one blank."""
    return _CONTROLS.sub(" ", text).strip()
