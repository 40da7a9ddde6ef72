"""A check before, during and after it runs: its unit, its finding, its result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from syncctl.errors import ConfigurationError, ServiceUnavailable, SyncctlError


class Status(StrEnum):
    """How a check ended. `skip`: a check that it needs has failed, or there is nothing to check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


_RANK = (Status.SKIP, Status.OK, Status.WARN, Status.FAIL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The outcome of a check."""

    status: Status
    #: One line for each fact.
    detail: str
    #: The command or the setting that fixes the problem.
    hint: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """The result of one check; its fields are the keys of the JSON document."""

    name: str
    status: Status
    detail: str
    hint: str
    duration_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """One check before it is run."""

    #: Its group and its subject: `redis`, `redis eviction`, `source orders`.
    name: str
    #: Runs the check. An exception is a failure.
    look: Callable[[], Finding]
    #: The names of checks that must not have failed.
    needs: tuple[str, ...] = ()


def passed(detail: str, hint: str = "") -> Finding:
    """Return the finding that everything is as it should be."""
    return Finding(status=Status.OK, detail=detail, hint=hint)


def warned(detail: str, hint: str) -> Finding:
    """Return the finding that something works, but needs attention."""
    return Finding(status=Status.WARN, detail=detail, hint=hint)


def failed(detail: str, hint: str) -> Finding:
    """Return the finding that something does not work, with the fix as its hint."""
    return Finding(status=Status.FAIL, detail=detail, hint=hint)


def skipped(detail: str, hint: str = "") -> Finding:
    """Return the finding that there was nothing to check."""
    return Finding(status=Status.SKIP, detail=detail, hint=hint)


def explain(error: SyncctlError, *, hint: str = "") -> Finding:
    """Return an error as a failed check, with its own hint or a better one."""
    if isinstance(error, ServiceUnavailable):
        # Its hint ends with the advice to run the doctor.
        hint = hint or error.hint.partition(", then run: syncctl doctor")[0]
    return failed(str(error), hint or error.hint)


def join_findings(findings: Sequence[Finding]) -> Finding:
    """Return several findings as one: the worst of their statuses, with every detail and every hint."""
    worst = max(findings, key=lambda finding: _RANK.index(finding.status))
    hints = dict.fromkeys(finding.hint for finding in findings if finding.hint)
    detail = "\n".join(finding.detail for finding in findings)
    return Finding(status=worst.status, detail=detail, hint="; ".join(hints))


def report_unreadable_settings(error: ConfigurationError, chosen: Sequence[str]) -> list[Check]:
    """Return the failed configuration, which is always reported, and the other chosen checks as skipped."""
    failure = Check(
        name="configuration", status=Status.FAIL, detail=error.why or error.what, hint=error.hint, duration_ms=0.0
    )
    needs = "needs configuration, which failed"
    rest = [
        Check(name=name, status=Status.SKIP, detail=needs, hint=error.hint, duration_ms=0.0)
        for name in chosen
        if name.partition(" ")[0] != "configuration"
    ]
    return [failure, *rest]
