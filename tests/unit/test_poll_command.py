"""`syncctl poll --once`: the error of one stream does not keep others from being read."""

from typing import Any

import pytest

from syncctl.commands.poll import _poll_once
from syncctl.commands.stop_signal import StopSignal
from syncctl.pipeline.polling.poll import Run


def test_a_bug_in_one_stream_does_not_keep_others_from_being_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def poll(_connections: object, name: str, **_: Any) -> Run:
        if name == "first":
            raise ZeroDivisionError("a bug")
        return Run(stream=name, read=3)

    monkeypatch.setattr("syncctl.wiring.row_path.poll", poll)
    connections: Any = None
    with StopSignal() as stop, pytest.raises(ZeroDivisionError):
        _poll_once(connections, ["first", "second"], stop, as_json=True)
    assert '"stream": "second"' in capsys.readouterr().out
