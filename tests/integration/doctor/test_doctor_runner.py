"""The runner of checks: after those that they need, concurrently, and none beyond its deadline."""

import threading
from collections.abc import Callable

import pytest

from syncctl.doctor.check import Check, Finding, Unit, failed, join_findings, passed, skipped, warned
from syncctl.doctor.runner import Runner
from syncctl.errors import ServiceUnavailable


def run(*units: Unit, timeout_seconds: float = 20.0) -> dict[str, Check]:
    """Run the units and return the results by name, in the order in which they came."""
    return {check.name: check for check in Runner(units, timeout_seconds=timeout_seconds).run()}


def give(finding: Finding) -> Callable[[], Finding]:
    return lambda: finding


def test_results_keep_the_order_of_the_units_whoever_is_done_first() -> None:
    second_is_done = threading.Event()

    def wait() -> Finding:
        assert second_is_done.wait(20)
        return passed("slow")

    def tell() -> Finding:
        second_is_done.set()
        return passed("fast")

    # Were they run one after the other, the first would wait in vain.
    checks = run(Unit(name="a", look=wait), Unit(name="b", look=tell))
    assert [(check.name, check.detail) for check in checks.values()] == [("a", "slow"), ("b", "fast")]


def test_a_check_waits_for_what_it_needs() -> None:
    order: list[str] = []

    def note(name: str) -> Callable[[], Finding]:
        def look() -> Finding:
            order.append(name)
            return warned(name, "a warning is ground enough")

        return look

    units = (
        Unit(name="c", look=note("c"), needs=("b",)),
        Unit(name="b", look=note("b"), needs=("a",)),
        Unit(name="a", look=note("a")),
    )
    checks = run(*units)
    assert order == ["a", "b", "c"]
    assert list(checks) == ["c", "b", "a"]


@pytest.mark.parametrize("ground", [failed("down", "start it"), skipped("nothing there", "start it")])
def test_a_check_whose_need_failed_is_skipped_and_so_are_those_that_need_it(ground: Finding) -> None:
    never = Unit(name="b", look=lambda: pytest.fail("it has no ground"), needs=("a",))
    checks = run(Unit(name="a", look=give(ground)), never, Unit(name="c", look=never.look, needs=("b",)))
    assert [checks[name].status for name in "bc"] == ["skip", "skip"]
    how = "failed" if ground.status == "fail" else "was skipped"
    assert checks["b"].detail == f"needs a, which {how}"
    assert checks["c"].detail == "needs b, which was skipped"
    assert checks["c"].hint == "start it"


def test_a_needed_check_that_does_not_run_is_not_waited_for() -> None:
    assert run(Unit(name="b", look=give(passed("fine")), needs=("a",)))["b"].status == "ok"


def test_a_check_that_hangs_fails_and_is_left_behind() -> None:
    release = threading.Event()
    try:
        hanging = Unit(name="a", look=lambda: passed(str(release.wait(60))))
        units = (hanging, Unit(name="b", look=give(passed("fine"))), Unit(name="c", look=hanging.look, needs=("a",)))
        runner = Runner(units, timeout_seconds=0.2)
        checks = {check.name: check for check in runner.run()}
    finally:
        release.set()
    assert (checks["a"].status, checks["a"].detail) == ("fail", "no answer within 0.2 s")
    assert checks["b"].status == "ok"
    assert checks["c"].detail == "needs a, which failed"
    assert runner.left_behind == ["a"]


def test_an_error_is_a_failure_with_its_own_hint_and_a_bug_hides_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse() -> Finding:
        hint = "check REDIS_URL, then run: syncctl doctor redis"
        raise ServiceUnavailable("cannot reach Redis", service="redis", why="refused", hint=hint)

    def break_down() -> Finding:
        raise ZeroDivisionError("division by zero")

    checks = run(
        Unit(name="a", look=refuse), Unit(name="b", look=break_down), Unit(name="c", look=give(passed("fine")))
    )
    assert (checks["a"].detail, checks["a"].hint) == ("cannot reach Redis: refused", "check REDIS_URL")
    assert checks["b"].status == "fail"
    assert "ZeroDivisionError: division by zero" in checks["b"].detail
    assert "--debug" in checks["b"].hint
    assert checks["c"].status == "ok"
    assert [record.message for record in caplog.records] == ["doctor.check_broke"]


def test_findings_are_joined_to_the_worst_of_them() -> None:
    joined = join_findings([passed("one"), failed("two", "fix two"), warned("three", "fix three")])
    assert joined == Finding(status=joined.status, detail="one\ntwo\nthree", hint="fix two; fix three")
    assert joined.status == "fail"


def test_progress_is_reported_to_its_end() -> None:
    counts: list[int] = []
    units = [Unit(name=name, look=give(passed("fine"))) for name in "abc"]
    Runner(units, timeout_seconds=20, on_done=counts.append).run()
    assert counts == sorted(counts)
    assert counts[-1] == 3
