"""What a partner echoes of our secrets does not reach the ledger, however it spells them."""

import json
from urllib.parse import quote

import pytest

from syncctl.partner.redaction import STARS, make_redact

TOKEN = "abc/def+gh=="


@pytest.mark.parametrize(
    "echo",
    [TOKEN, json.dumps(TOKEN)[1:-1], r"abc\/def+gh==", quote(TOKEN, safe=""), quote(TOKEN)],
    ids=["as it is", "json", "json with its slash escaped", "in a query", "in a path"],
)
def test_a_secret_is_found_in_every_spelling(echo: str) -> None:
    assert make_redact([TOKEN])(f"Bearer {echo} is not valid") == f"Bearer {STARS} is not valid"
