"""A request for display: with its secrets replaced, and as a `curl` command that people can run."""

import re
import shlex
from dataclasses import dataclass

from syncctl.core.records import Record
from syncctl.core.redaction import REDACTED
from syncctl.core.safe_text import make_safe, make_safe_line
from syncctl.partner.call import Call, Unsendable
from syncctl.partner.client import PartnerClient
from syncctl.partner.request_headers import looks_secret

_MADE_BY_CURL = {"content-length"}
_SPECIAL = re.compile(r'([\\"$`])')
_UNSEEN_LATIN = re.compile("[\x80-\x9f\xad]")
_NOT_PLAIN = re.compile(rb"[^ -~]|[\\'%]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """The request for a record. If there is none, `error` says why and the other fields are None."""

    method: str | None = None
    url: str | None = None
    headers: dict[str, str] | None = None
    body: str | None = None
    curl: str | None = None
    error: str | None = None


def show_request(client: PartnerClient, record: Record, *, variable: str | None = None) -> Request:
    """Return the exact request for a record, with its secrets replaced. Nothing is sent.

    For a stream with bulk calls, this is a call with this row alone.

    Args:
        variable: The environment variable that holds the one secret of the partner's auth, if it is known.
    """
    try:
        call = client.combine([(record, client.prepare(record))])[0].call
    except Unsendable as error:
        return Request(error=error.reason)
    own = {name.lower() for name in call.headers}
    shown = client.show(call)
    headers = {name: _mask(name, value) for name, value in shown.headers.items()}
    auth_headers = {name for name in shown.headers if name.lower() not in own}
    body = shown.body.decode(client.codec) if shown.body else None
    return Request(
        method=shown.method,
        url=shown.url,
        headers=headers,
        body=body,
        curl=_make_curl(shown, headers, body, {name.lower() for name in auth_headers}, variable),
    )


def _mask(name: str, value: str) -> str:
    """Return a header's value, replaced if its name says that it is a secret."""
    if not looks_secret(name) or REDACTED in value or name.lower() == "idempotency-key":
        return value
    return REDACTED


def _make_curl(
    call: Call, headers: dict[str, str], body: str | None, auth_headers: set[str], variable: str | None
) -> str:
    words = ["curl", "--globoff", "-X", call.method, _quote(call.url, variable if not auth_headers else None)]
    for name, value in headers.items():
        if name.lower() not in _MADE_BY_CURL:
            words += ["-H", _quote(f"{name}: {value}", variable if name.lower() in auth_headers else None)]
    if body is None:
        return " ".join(words)
    if body.encode() == call.body and "\0" not in body:
        return " ".join([*words, "--data-raw", _quote_exactly(body)])
    # The words of a shell are text, and a NUL would end them.
    plain = _NOT_PLAIN.sub(lambda match: b"%%" if match[0] == b"%" else b"\\%03o" % ord(match[0]), call.body)
    return " ".join([f"printf '{plain.decode('ascii')}' |", *words, "--data-binary", "@-"])


def _quote(text: str, variable: str | None) -> str:
    """Return a word for a shell; the stars in it become the variable that holds the secret."""
    if variable is None or REDACTED not in text:
        return _quote_exactly(text)
    return '"' + f"${{{variable}}}".join(_SPECIAL.sub(r"\\\1", part) for part in text.split(REDACTED)) + '"'


def _quote_exactly(text: str) -> str:
    """Return a word for a shell; if it has unseen characters, in the form that bash, ksh and zsh understand."""
    if make_safe(text) == text:
        return shlex.quote(text)
    # Written as \xad, these would be bytes, not characters.
    text = _UNSEEN_LATIN.sub(lambda match: f"\\u{ord(match[0]):04x}", text.replace("\\", "\\\\").replace("'", "\\'"))
    return f"$'{make_safe_line(text)}'"
