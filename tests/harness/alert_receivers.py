"""The receivers of alerts in tests: a webhook and a mail server."""

import json
import socketserver
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from email.message import Message
from typing import Any, Self

from tests.harness.http_partner import HttpPartner


class WebhookReceiver(HttpPartner):
    """Keeps the posted messages, and answers with `status`, `delay` seconds after it has kept an accepted one."""

    def __init__(self) -> None:
        super().__init__()
        self.status = 200
        self.delay = 0.0
        #: The status for the messages of a rule.
        self.refuses: dict[str, int] = {}
        self.taken: list[dict[str, Any]] = []
        self.refused = 0

    def answer(self, headers: Message, body: bytes) -> tuple[int, bytes]:  # noqa: ARG002
        message = json.loads(body)
        status = self.refuses.get(message.get("rule"), self.status)
        if status >= 300:
            self.refused += 1
            return status, b'{"message": "no service"}'
        self.taken.append(message)
        time.sleep(self.delay)
        return status, b"ok"

    @property
    def states(self) -> list[tuple[str, str]]:
        """The rule and the state of each message, in their order."""
        return [(message["rule"], message["state"]) for message in self.taken]


class MailServer:
    """A mail server that keeps what it takes; serves while it is used as a context manager.

    Args:
        tls: The context for STARTTLS; None does not offer it.
        hang: Whether to send nothing more after the greeting.
        replies: The replies to commands, by the beginning of the command in capitals.
    """

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, hang: bool = False, replies: Mapping[str, str] | None = None
    ) -> None:
        self.mails: list[str] = []
        self.commands: list[str] = []
        self.secured: list[bool] = []
        server = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    self.converse()
                self.connection.close()

            def converse(self) -> None:
                self.say("220 test ESMTP")
                while line := self.rfile.readline():
                    if hang:
                        continue
                    server.commands.append(line.decode().strip())
                    self.obey(line.decode().strip().upper())

            def obey(self, command: str) -> None:
                reply = next((text for begin, text in (replies or {}).items() if command.startswith(begin)), None)
                if reply is not None:
                    self.say(reply)
                elif command.startswith("EHLO"):
                    is_secured = isinstance(self.connection, ssl.SSLSocket)
                    self.say("250-test")
                    self.say("250-STARTTLS" if tls and not is_secured else "250-8BITMIME")
                    self.say("250 AUTH PLAIN")
                elif command == "STARTTLS" and tls:
                    self.say("220 go ahead")
                    self.connection = tls.wrap_socket(self.connection, server_side=True)
                    self.rfile = self.connection.makefile("rb", -1)  # type: ignore[assignment]
                    self.wfile = self.connection.makefile("wb", 0)  # type: ignore[assignment]
                elif command == "DATA":
                    self.say("354 go ahead")
                    lines = []
                    while (line := self.rfile.readline()) not in (b".\r\n", b""):
                        lines.append(line.decode())
                    server.mails.append("".join(lines))
                    server.secured.append(isinstance(self.connection, ssl.SSLSocket))
                    self.say("250 taken")
                elif command.startswith("AUTH"):
                    self.say("235 welcome")
                else:
                    self.say("250 fine")

            def say(self, line: str) -> None:
                self.wfile.write(f"{line}\r\n".encode())

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
