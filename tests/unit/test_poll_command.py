"""`syncctl poll --once`: what one stream meets keeps no other from being read."""

from types import SimpleNamespace
from typing import Any

import pytest

from syncctl.commands.poll import _poll_once
from syncctl.commands.stopping import StopSignal
from syncctl.pipeline.poll import Run


def test_a_bug_that_one_stream_meets_keeps_no_other_from_being_read(capsys: pytest.CaptureFixture[str]) -> None:
    def poll(name: str, **_: Any) -> Run:
        if name == "first":
            raise ZeroDivisionError("a bug")
        return Run(stream=name, read=3)

    services: Any = SimpleNamespace(poll=poll)
    with StopSignal() as stop, pytest.raises(ZeroDivisionError):
        _poll_once(services, ["first", "second"], stop, as_json=True)
    assert '"stream": "second"' in capsys.readouterr().out
