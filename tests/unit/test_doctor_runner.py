"""Running many checks: all of them, not all at once."""

import threading

from syncctl.doctor.check import Finding, Status, Unit, failed, passed
from syncctl.doctor.runner import AT_ONCE, Runner


def test_all_checks_run_and_never_too_many_at_once() -> None:
    lock, full = threading.Lock(), threading.Event()
    running, most = 0, 0

    def look() -> Finding:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == AT_ONCE:
                full.set()
        full.wait(60)
        with lock:
            running -= 1
        return passed("seen")

    checks = Runner([Unit(name=f"check {n}", look=look) for n in range(3 * AT_ONCE)], timeout_seconds=60.0).run()
    assert [check.status for check in checks] == [Status.OK] * 3 * AT_ONCE
    assert most == AT_ONCE


def test_checks_that_need_a_failed_check_are_skipped_however_many_there_are() -> None:
    first = Unit(name="ground", look=lambda: failed("gone", "bring it back"))
    others = [Unit(name=f"on it {n}", look=lambda: passed("never"), needs=("ground",)) for n in range(2 * AT_ONCE)]
    checks = Runner([first, *others], timeout_seconds=60.0).run()
    assert [check.status for check in checks] == [Status.FAIL, *[Status.SKIP] * 2 * AT_ONCE]
