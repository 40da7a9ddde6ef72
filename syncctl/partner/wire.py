"""One host's connections: a request goes out, an answer comes back, within the deadline of `call_deadline`."""

import os
from collections.abc import Mapping
from urllib.parse import SplitResult

from requests import PreparedRequest

from syncctl.core.stream import Partner
from syncctl.partner.connection_errors import explain_trouble, was_refused_in_handshake
from syncctl.partner.deadline import call_deadline
from syncctl.partner.proxy import Proxy, ProxyTrouble, read_proxy
from syncctl.partner.response import BODY_AT_MOST_BYTES, Answer, read_answer
from syncctl.partner.transport import PartnerAdapter
from syncctl.partner.trust import make_tls_context


class Wire:
    """Connections to one host by the rules of one partner; safe to use from many threads, and after a fork.

    Args:
        answer_at_most: So many bytes of an answer are read.

    Raises:
        ConfigurationError: a certificate, a key or a proxy that cannot be used.
    """

    def __init__(
        self, partner: Partner, base: SplitResult, *, max_connections: int, answer_at_most: int = BODY_AT_MOST_BYTES
    ) -> None:
        self._partner = partner
        self._base = base
        self._max_connections = max_connections
        self._answer_at_most = answer_at_most
        self._tls = make_tls_context(partner) if base.scheme == "https" else None
        self._proxy = read_proxy(partner.proxy, f"partners.{partner.name}.proxy")
        self._adapter: PartnerAdapter | None = None
        self._pid = 0
        self._closed = False
        port = base.port or (443 if base.scheme == "https" else 80)
        name = base.hostname or ""
        self.host = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"

    def exchange(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[Answer | None, str | None]:
        """Send a request; return the answer, if one came, and what went wrong, if anything did."""
        request = PreparedRequest()
        request.method, request.url, request.body = method, target, body
        request.headers = dict(headers)  # type: ignore[assignment]
        if self._via_plain_proxy is not None:
            request.url = f"http://{self._base.netloc}{target}"
            request.headers |= self._via_plain_proxy.headers  # type: ignore[operator]
        answer: Answer | None = None
        error: Exception | None = None
        call_deadline.sent = False
        try:
            response = self._open_adapter().send_now(request)
            answer = read_answer(response.raw, response.status_code, self._answer_at_most)
            error = answer.error
            if answer.status == 407 and self._via_plain_proxy is not None:
                answer, error = None, ProxyTrouble(f"the proxy {self._via_plain_proxy.name} refused our credentials")
        except Exception as cause:  # noqa: BLE001 - whatever it is, it is told as an outcome
            error = cause
        if error is None:
            return answer, None
        if isinstance(error, ProxyTrouble) or was_refused_in_handshake(error):
            call_deadline.sent = False
        seconds = self._partner.timeout_seconds
        return answer, explain_trouble(error, host=self.host, seconds=seconds, sent=call_deadline.sent)

    @property
    def _via_plain_proxy(self) -> Proxy | None:
        return self._proxy if self._base.scheme == "http" else None

    def rest(self) -> None:
        """Close the idle connections; the next request opens another."""
        adapter, self._adapter = self._adapter, None
        if adapter is not None and self._pid == os.getpid():
            adapter.close()

    def close(self) -> None:
        """Close the idle connections; a call that is under way ends by itself."""
        self._closed = True
        if self._adapter is not None and self._pid == os.getpid():
            self._adapter.close()

    def _open_adapter(self) -> PartnerAdapter:
        """Return this process's adapter: connections are never shared with a parent process.

        Two threads may both make one in the same instant; the one that loses serves a call and is gone.
        """
        adapter = self._adapter
        if adapter is None or self._pid != os.getpid():
            adapter = PartnerAdapter(
                self._base, max_connections=self._max_connections, tls=self._tls, proxy=self._proxy
            )
            if self._closed:
                adapter.close()
            self._adapter, self._pid = adapter, os.getpid()
        return adapter
