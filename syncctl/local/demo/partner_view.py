"""What the demo asks its partner, from outside: its counts, its calls, its rows."""

import http.client
import json
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from syncctl.errors import ServiceUnavailable

TIMEOUT_SECONDS = 30.0


class PartnerView:
    """The partner's own account, read over HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._address = urlsplit(url).netloc

    def stats(self) -> dict[str, Any]:
        """Return its counts."""
        found: dict[str, Any] = self._ask("GET", "stats")
        return found

    def calls(self) -> list[dict[str, Any]]:
        """Return every call it has received, in order."""
        found: list[dict[str, Any]] = self._ask("GET", "log")["calls"]
        return found

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return what it holds of each row, numbers with all their digits."""
        found: dict[str, dict[str, Any]] = self._ask("GET", "rows")
        return found

    def fix(self) -> None:
        """Let it accept every valid call from now on."""
        self._ask("POST", "fix")

    def _ask(self, method: str, what: str) -> Any:
        connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT_SECONDS)
        try:
            connection.request(method, f"/_partner/{what}")
            return json.loads(connection.getresponse().read(), parse_float=Decimal)
        except (OSError, http.client.HTTPException) as error:
            raise ServiceUnavailable(
                "the demo's partner does not answer",
                service="partner",
                why=f"{self.url}: {error!r}",
                hint="run the demo again; if it stays so, report it with --keep",
            ) from error
        finally:
            connection.close()
