"""Secrets that a partner echoes do not reach the ledger, however they are spelled."""

import html
import json
from base64 import b64encode
from urllib.parse import quote, quote_plus

import pytest

from syncctl.core.redaction import REDACTED, extend_redact, make_redact

TOKEN = "abc/def+gh=="


AWKWARD = "a b/c+d&e\"f'g<h>%i\\j=é🚚"


@pytest.mark.parametrize(
    "echo",
    [
        AWKWARD,
        json.dumps(AWKWARD),
        json.dumps(json.dumps(AWKWARD, ensure_ascii=False)),
        json.dumps(json.dumps({"echo": AWKWARD}).replace("/", "\\/")),
        json.dumps(AWKWARD).replace("+", "\\u002B").replace("&", "\\u0026"),
        quote(AWKWARD, safe=""),
        quote(quote(AWKWARD)),
        quote_plus(AWKWARD).lower(),
        html.escape(AWKWARD),
        html.escape(html.escape(AWKWARD)),
        b64encode(AWKWARD.encode()).decode(),
    ],
    ids=["plain", "json", "json twice", "php", ".net", "url", "url twice", "form", "html", "html twice", "base64"],
)
def test_an_awkward_secret_is_found_however_often_it_was_escaped(echo: str) -> None:
    shown = make_redact([AWKWARD])(f"<{echo}>")
    assert REDACTED in shown
    assert "h>" not in shown.removesuffix(">")
    assert len(shown) < 20 or shown == json.dumps(json.dumps({"echo": REDACTED})).join("<>")


def test_a_text_of_backslashes_is_searched_in_no_time() -> None:
    # Without letters or digits nothing rules a secret out before it is searched for.
    text = "\\" * 64_000 + "%25" * 20_000 + "&amp;" * 10_000
    assert make_redact(["/%&?", "/%&secret", AWKWARD])(text) == text
    assert make_redact(["/%&secret"])(f"secret {text}") == f"secret {text}"


def test_a_secret_of_one_call_is_known_beside_the_lasting_ones() -> None:
    redact = extend_redact(make_redact(["lasting"]), ["young/one", "other"])
    assert redact(r"lasting young\/one and another") == f"{REDACTED} {REDACTED} and an{REDACTED}"
    assert redact("nothing") == "nothing"


@pytest.mark.parametrize(
    "echo",
    [TOKEN, json.dumps(TOKEN)[1:-1], r"abc\/def+gh==", quote(TOKEN, safe=""), quote(TOKEN)],
    ids=["as it is", "json", "json with its slash escaped", "in a query", "in a path"],
)
def test_a_secret_is_found_in_every_spelling(echo: str) -> None:
    assert make_redact([TOKEN])(f"Bearer {echo} is not valid") == f"Bearer {REDACTED} is not valid"
