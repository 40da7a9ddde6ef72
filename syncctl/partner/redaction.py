"""What a partner said, made fit to be kept: no secrets, no control characters."""

import json
import re
from collections.abc import Callable, Iterable
from urllib.parse import quote

from syncctl.core.stream import Partner

SHORTEST_SECRET = 6
"""Shorter header values ("2", "gzip") are no secrets, and would blank out half of what a partner says."""

STARS = "***"

# C0 and C1 controls, line and paragraph separators, and what turns the direction of text around.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]+")


def collect_secrets(partner: Partner) -> frozenset[str]:
    """Return what must never be shown: the token, and whatever the partner's own headers carry."""
    secrets = {partner.token} if partner.token else set()
    for name, value in partner.headers.items():
        secrets.add(value.strip())
        if name.lower() in {"authorization", "proxy-authorization"}:
            secrets.update(value.split()[1:])
    return frozenset(each for each in secrets if each == partner.token or len(each) >= SHORTEST_SECRET)


def spell_out(secret: str) -> set[str]:
    """Return the forms in which an echo may carry a secret: as it is, in JSON (some escape the slash), in a URL."""
    return {secret, json.dumps(secret)[1:-1], secret.replace("/", "\\/"), quote(secret, safe=""), quote(secret)}


def make_redact(secrets: Iterable[str]) -> Callable[[str], str]:
    """Return a function that replaces every secret in a text, the longest first."""
    spelled = {form for secret in filter(None, secrets) for form in spell_out(secret)}
    longest_first = sorted(spelled, key=lambda each: (-len(each), each))
    if not longest_first:
        return lambda text: text
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    return lambda text: pattern.sub(STARS, text)


def clean_text(text: str) -> str:
    """Return one line without control characters; a run of them becomes one blank."""
    return _CONTROLS.sub(" ", text).strip()
