"""A service that does not answer while a command follows something."""

import os
import signal
import threading

import pytest

from syncctl.commands.silence import Patience, Silence
from syncctl.commands.stop_signal import StopSignal
from syncctl.errors import ExitCode, ServiceUnavailable


class Service:
    """Counts how often it is asked for a sign of life."""

    is_away = False
    asked = 0

    def prove_answering(self) -> None:
        self.asked += 1
        if self.is_away:
            raise ServiceUnavailable("cannot reach MongoDB", service="mongodb", why="timed out")


def test_a_long_reading_is_no_silence_and_asks_seldom() -> None:
    service = Service()
    patience = Patience(service.prove_answering)
    assert [patience.look(tenths / 10) for tenths in range(40)] == [None] * 40
    assert service.asked == 4
    service.is_away = True
    assert patience.look(0.1) is None
    assert patience.look(0.9) == "cannot reach MongoDB: timed out"


def test_a_silence_is_said_once_with_since_when_and_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    service = Service()
    silence = Silence("MongoDB", Patience(service.prove_answering), after="; no attempt was missed")
    silence.wait(5.0)
    silence.end()
    assert capsys.readouterr().err == ""
    service.is_away = True
    for waited in (5.0, 6.5, 8.0):
        silence.wait(waited)
    silence.note("cannot reach MongoDB: timed out")
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("warning: cannot reach MongoDB: timed out (since ")
    silence.end()
    silence.end()
    assert capsys.readouterr().err == "MongoDB answers again; no attempt was missed\n"


def test_a_signal_ends_the_wait_for_a_reading_that_hangs() -> None:
    hangs = threading.Event()
    with StopSignal(notice="") as stop:
        result = stop.await_result(hangs.wait, on_wait=lambda _waited: os.kill(os.getpid(), signal.SIGINT))
        hangs.set()
    assert result is None
    assert stop.exit_code is ExitCode.INTERRUPTED


def test_what_a_reading_returns_or_raises_comes_through() -> None:
    with StopSignal(notice="") as stop:
        assert stop.await_result(lambda: 3, on_wait=lambda _waited: None) == 3
        with pytest.raises(ZeroDivisionError):
            stop.await_result(lambda: 1 // 0, on_wait=lambda _waited: None)
