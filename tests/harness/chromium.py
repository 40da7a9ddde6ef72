"""A headless Chromium, controlled through a pipe, which shows how wide a page is, what it loads and how it looks."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-dev-shm-usage", "--remote-debugging-pipe",
    "--force-color-profile=srgb",
)  # fmt: skip


class Chromium:
    """One tab of a browser, through the DevTools protocol."""

    def __init__(self, requests: int, answers: IO[bytes]) -> None:
        self._requests = requests
        self._answers = answers
        self._received = b""
        self._number = 0
        self._session: str | None = None
        #: Addresses that pages have asked for.
        self.requested: list[str] = []
        #: The complaints of the browser, such as the violation of a policy.
        self.complaints: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self._call(f"{domain}.enable")

    def open(
        self, page: Path, *, width: int, height: int = 900, media: str = "screen", scheme: str = "light", scale: int = 1
    ) -> None:
        """Show a file as a screen of this width, or a sheet of paper, shows it."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", media=media, features=features)
        self._call("Page.navigate", url=page.resolve().as_uri())
        self.evaluate(
            "new Promise(done => document.readyState == 'complete' ? done(1) : addEventListener('load', () => done(1)))"
        )

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def take_picture(self) -> bytes:
        """Return a PNG of the whole page."""
        taken = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(taken["data"])

    def _call(self, method: str, **parameters: Any) -> Mapping[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._requests, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                result: Mapping[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            piece = self._answers.read(65536)
            assert piece, "Chromium has ended"
            self._received += piece
        message, _, self._received = self._received.partition(b"\0")
        document: dict[str, Any] = json.loads(message)
        return document

    def _note(self, event: Mapping[str, Any]) -> None:
        if event.get("method") == "Network.requestWillBeSent":
            self.requested.append(event["params"]["request"]["url"])
        elif event.get("method") == "Log.entryAdded":
            self.complaints.append(event["params"]["entry"]["text"])


@contextmanager
def open_chromium(directory: Path) -> Iterator[Chromium]:
    """Start a browser whose profile is in this directory, and end it afterwards."""
    assert CHROMIUM is not None, "chromium is not installed"
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()

    def pass_pipes() -> None:
        # The browser reads from descriptor 3 and writes to 4; first move our ends out of the way of both.
        source, sink = os.dup2(theirs_in, 203), os.dup2(theirs_out, 204)
        os.dup2(source, 3)
        os.dup2(sink, 4)

    process = subprocess.Popen(
        [CHROMIUM, *_FLAGS, f"--user-data-dir={directory}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=False,
        preexec_fn=pass_pipes,  # noqa: PLW1509 - the only way to number a descriptor
        start_new_session=True,
        env={**os.environ, "HOME": str(directory)},
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        with os.fdopen(ours_in, "rb", buffering=0) as answers:
            yield Chromium(ours_out, answers)
    finally:
        os.close(ours_out)
        process.terminate()
        process.wait(30)
