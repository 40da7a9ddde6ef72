"""Secrets that a partner echoes do not reach the ledger, however they are spelled."""

import html
import json
import time
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote, quote_plus

import pytest

from syncctl.core.redaction import REDACTED, Redact

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
        html.escape(json.dumps(AWKWARD)[1:-1]),
        quote(json.dumps(AWKWARD)[1:-1]),
        b64encode(AWKWARD.encode()).decode(),
        repr(AWKWARD),
        ascii(AWKWARD),
        repr(AWKWARD.encode()),
        b64encode(AWKWARD.encode()).decode().rstrip("="),
        urlsafe_b64encode(AWKWARD.encode()).decode(),
        AWKWARD.encode().hex(),
        AWKWARD.encode().hex().upper(),
        AWKWARD.encode("utf-16").decode("utf-16"),
        AWKWARD.encode("utf-16-le").decode("utf-8", "replace"),
        AWKWARD.encode("utf-16-be").decode("utf-8", "replace"),
        AWKWARD.encode("latin-1", "replace").decode("utf-8", "replace"),
        AWKWARD.encode().decode("latin-1"),
    ],
    ids=[
        "plain", "json", "json twice", "php", ".net", "url", "url twice", "form", "html", "html twice",
        "json in html", "json in url", "base64",
        "repr", "ascii", "bytes", "base64 without padding", "base64 for URLs", "hex", "HEX", "UTF-16",
        "UTF-16 as UTF-8", "UTF-16 BE as UTF-8", "latin-1 as UTF-8", "UTF-8 as latin-1",
    ],
)  # fmt: skip
def test_an_awkward_secret_is_found_however_often_it_was_escaped(echo: str) -> None:
    shown = Redact([AWKWARD])(f"<{echo}>")
    assert REDACTED in shown
    assert "h>" not in shown.removesuffix(">")
    assert len(shown) < 20 or shown == json.dumps(json.dumps({"echo": REDACTED})).join("<>")


def test_a_text_of_backslashes_is_searched_in_no_time() -> None:
    # Without letters or digits nothing rules a secret out before it is searched for.
    text = "\\" * 64_000 + "%25" * 20_000 + "&amp;" * 10_000
    assert Redact(["/%&?", "/%&secret", AWKWARD])(text) == text
    assert Redact(["/%&secret"])(f"secret {text}") == f"secret {text}"


def test_a_short_secret_is_replaced_only_as_a_word_of_its_own() -> None:
    assert Redact(["red", "other"])("redis is another: red, other") == f"redis is another: {REDACTED}, {REDACTED}"
    assert Redact(["sixsix"])("asixsixb") == f"a{REDACTED}b"


def test_a_secret_of_one_call_is_known_beside_the_lasting_ones() -> None:
    redact = Redact(["young/one", "others"], after=Redact(["lasting"]))
    assert redact(r"lasting young\/one and anothers") == f"{REDACTED} {REDACTED} and an{REDACTED}"
    assert redact("nothing") == "nothing"


@pytest.mark.parametrize(
    "echo",
    [TOKEN, json.dumps(TOKEN)[1:-1], r"abc\/def+gh==", quote(TOKEN, safe=""), quote(TOKEN)],
    ids=["as it is", "json", "json with its slash escaped", "in a query", "in a path"],
)
def test_a_secret_is_found_in_every_spelling(echo: str) -> None:
    assert Redact([TOKEN])(f"Bearer {echo} is not valid") == f"Bearer {REDACTED} is not valid"


def test_a_secret_with_a_line_break_is_found_in_one_line() -> None:
    secret = "first line\nsecond\tline"
    shown = Redact([secret])
    for echo in (repr(secret), json.dumps({"a": secret}), " ".join(secret.split()), secret.replace("\n", "\r\n")):
        assert "second" not in shown(echo), echo


@pytest.mark.parametrize("before", ["", "u", "us", "user:"])
def test_a_secret_is_found_inside_of_a_longer_text_in_base64(before: str) -> None:
    shown = Redact([TOKEN * 2])(b64encode(f"{before}{TOKEN * 2} and more".encode()).decode())
    assert REDACTED in shown
    inner = b64encode((TOKEN * 2).encode()).decode()[4:-6]
    assert inner not in shown


@pytest.mark.parametrize(
    "echo",
    [
        "Bearer abc/def",
        "Bearer abc\\/def",
        "Bearer abc%2Fdef%2",
        "Bearer abc%2Fdef%",
        "Bearer abc\\u002fdef\\u00",
        "Bearer abc/def&#",
        f"Basic {b64encode(TOKEN.encode()).decode()[:9]}",
    ],
)
def test_the_beginning_of_a_secret_at_the_end_of_a_text_that_was_cut_is_replaced(echo: str) -> None:
    assert Redact([TOKEN])(echo, is_cut=True) == f"{echo.split(maxsplit=1)[0]} {REDACTED}"
    assert Redact([TOKEN])(echo) == echo
    assert Redact(["other"], after=Redact([TOKEN]))(echo, is_cut=True) == f"{echo.split(maxsplit=1)[0]} {REDACTED}"


def test_the_beginning_of_a_secret_within_a_text_is_replaced_from_eight_characters() -> None:
    shown = Redact(["sk-live/0123456789abcdef" * 100])
    assert shown('{"message": "no sk-live\\/0123"}', is_cut=True) == '{"message": "no ***"}'
    assert shown("of sk-live%2f0123456789abcdefsk-li and sk-live, too", is_cut=True) == "of *** and sk-live, too"


def test_a_cut_text_that_repeats_the_beginning_of_a_secret_is_searched_in_no_time() -> None:
    started = time.perf_counter()
    Redact(["e" * 2000])("e" * 64_000, is_cut=True)
    Redact(["\\" * 2000 + "x"])("\\" * 64_000, is_cut=True)
    assert time.perf_counter() - started < 2
