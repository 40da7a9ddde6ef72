"""A mock partner with its own ids: it creates an object for each POST, and changes and deletes it under its id.

It ignores the `Idempotency-Key`, as many APIs do: a repeated POST creates a second object. A lookup returns the objects
of a row: `GET /orders?ref=4711`.
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from syncctl.local.mock_partner_behaviour import Account, Fate, PartnerConfig, find_row
from syncctl.local.mock_partner_http import Reply, Request

SEARCHED = "ref"
"""The query parameter of a lookup: the row whose objects are asked for."""
Answer = tuple[int, Mapping[str, Any]]


class ObjectAccount(Account):
    """The memory of a partner with its own ids. `rows` holds its objects by their ids."""

    def __init__(self, config: PartnerConfig) -> None:
        super().__init__(config)
        #: The ids of the objects of each row.
        self._ids: dict[str, list[str]] = {}
        self._tries: Counter[tuple[str, str, str]] = Counter()
        self._created = 0

    def receive(self, request: Request) -> Reply:
        """Decide a call, record it, and return the reply."""
        parts = urlsplit(request.target)
        # /orders/P-000001: the collection and an id in it.
        collection, _, place = parts.path.strip("/").partition("/")
        place = unquote(place)
        ref = parse_qs(parts.query).get(SEARCHED, [""])[0]
        row = find_row(request, self.config.row_key) if request.body else ref or place
        fate = self._choose_fate(request, row)
        if fate not in {"applied", "dropped_after"}:
            return self._finish(request, row, fate)
        # A repeated update changes nothing; a repeated POST creates another object.
        is_repeat = request.method != "POST" and request.headers.get("idempotency-key") in self._applied
        status, document = self._read(place, ref) if request.method == "GET" else self._write(request, row, place)
        if request.method == "GET":
            fate = "found" if document.get("data") or document.get("items") else "not_found"
        elif status == 404:
            fate = "unknown"
        elif is_repeat and fate == "applied":
            fate = "repeated"
        headers = {"Location": f"/{collection}/{document['data']['id']}"} if status == 201 else {}
        return self._finish(request, row, fate, status, body=json.dumps(document).encode(), headers=headers)

    def stats(self) -> dict[str, Any]:
        """Return the counts."""
        return {**super().stats(), "created": self._created}

    def _choose_fate(self, request: Request, row: str) -> Fate:
        if not self._is_authorized(request):
            return "unauthorized"
        if self.fixed:
            return "applied"
        call = (request.method, request.target, request.headers.get("idempotency-key") or row)
        self._tries[call] += 1
        fate = self._draw(" ".join(call), str(self._tries[call]), row)
        if request.method != "GET":
            return fate
        # A lookup applies nothing, so it cannot be cut after that, and has no content to reject.
        return {"rejected": "applied", "dropped_after": "dropped_before"}.get(fate, fate)  # type: ignore[return-value]

    def _read(self, place: str, ref: str) -> Answer:
        if place:
            return (200, {"data": {"id": place}}) if place in self.rows else (404, {"message": "no such object"})
        return 200, {"items": [{"id": name} for name in self._ids.get(ref, ())]}

    def _write(self, request: Request, row: str, place: str) -> Answer:
        """Apply a call, whether or not its `Idempotency-Key` was seen before."""
        if request.method == "POST":
            self._created += 1
            place = f"P-{self._created:06}"
            self._ids.setdefault(row, []).append(place)
            status = 201
        elif place in self.rows:
            status = 200
        else:
            return 404, {"message": "no such object"}
        if key := request.headers.get("idempotency-key"):
            self._applied.setdefault(key, status)
        if request.method == "DELETE":
            del self.rows[place]
            self._ids = {owner: [name for name in names if name != place] for owner, names in self._ids.items()}
        else:
            self.rows[place] = request.body
        return status, {"data": {"id": place}}
