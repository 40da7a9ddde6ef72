"""A few trials of the fuzz; `python -m tests.fuzz` runs as many as one likes."""

import time

import pytest

from tests.fuzz.__main__ import main
from tests.fuzz.trial import Hang, find_fault, limit_time

pytestmark = pytest.mark.timeout(600)


def test_wrong_settings_end_in_no_traceback() -> None:
    assert main(["--settings", "300", "--commands", "0", "--seed", "7"]) == 0


def test_wrong_command_lines_end_in_no_traceback_and_no_bug() -> None:
    assert main(["--settings", "0", "--commands", "40", "--seed", "7"]) == 0


def test_what_the_fuzz_looks_for_is_found() -> None:
    assert find_fault(2, "error: x") is None
    assert find_fault(70, "") == "exit code 70"
    assert find_fault(-9, "") == "exit code -9"
    traceback = "Traceback (most recent call last):"
    assert find_fault(2, traceback) is not None
    assert find_fault(2, traceback, debug=True) is None
    with pytest.raises(Hang), limit_time(0.05):
        time.sleep(10)
