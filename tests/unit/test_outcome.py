"""The outcome of an attempt."""

import pytest

from syncctl.core.outcome import Outcome, Verdict, decide_verdict

A, L, R, Q = Verdict.ACCEPTED, Verdict.RETRY_LATER, Verdict.REJECTED, Verdict.AMBIGUOUS


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        *((status, A) for status in (200, 201, 202, 204, 226, 299)),
        *((status, L) for status in (401, 403, 408, 410, 425, 429, 500, 501, 502, 503, 504, 507, 599)),
        *((status, R) for status in (300, 301, 302, 303, 304, 307, 308)),
        *((status, R) for status in (400, 404, 405, 409, 413, 422, 499)),
        *((status, Q) for status in (101, 199, 600, 999)),
    ],
)
def test_a_whole_answer_is_judged_by_its_status(status: int, verdict: Verdict) -> None:
    assert decide_verdict(status, sent=True, complete=True) is verdict


@pytest.mark.parametrize("status", [302, 400, 422, 429, 500, 503])
def test_a_refusal_that_broke_off_is_ambiguous(status: int) -> None:
    assert decide_verdict(status, sent=True, complete=False) is Q


def test_a_success_that_broke_off_is_accepted() -> None:
    assert decide_verdict(200, sent=True, complete=False) is A


def test_without_an_answer_it_depends_on_whether_anything_was_sent() -> None:
    assert decide_verdict(None, sent=True, complete=False) is Q
    assert decide_verdict(None, sent=False, complete=False) is L


def test_a_conflict_is_accepted_where_the_stream_says_so() -> None:
    assert decide_verdict(409, sent=True, complete=True, rules={409: A}) is A
    assert decide_verdict(409, sent=True, complete=False, rules={409: A}) is Q


@pytest.mark.parametrize(
    ("status", "halts"), [(401, "partner"), (403, "partner"), (410, "stream"), (422, None), (500, None), (None, None)]
)
def test_an_answer_that_every_record_would_get_stops_the_batch(status: int | None, halts: str | None) -> None:
    verdict = decide_verdict(status, sent=True, complete=True)
    assert Outcome(verdict=verdict, latency_ms=1.0, status=status).pauses == halts
