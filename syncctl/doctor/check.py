"""What a check finds, and what it is to run one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a check ended. `skip`: what it needs has failed, or there is nothing to look at."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


_RANK = (Status.SKIP, Status.OK, Status.WARN, Status.FAIL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What was found. `detail` has a line for each thing; `hint` is the command or the setting that puts it right."""

    status: Status
    detail: str
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
    """One check before it is run.

    Args:
        name: The group it belongs to, and what it looks at: `redis`, `redis eviction`, `source orders`.
        look: Finds out. What it raises is a failure.
        needs: The names of checks that must not have failed.
    """

    name: str
    look: Callable[[], Finding]
    needs: tuple[str, ...] = ()


def passed(detail: str, hint: str = "") -> Finding:
    """Return that all is well."""
    return Finding(status=Status.OK, detail=detail, hint=hint)


def warned(detail: str, hint: str) -> Finding:
    """Return that it works, and that somebody should look at it."""
    return Finding(status=Status.WARN, detail=detail, hint=hint)


def failed(detail: str, hint: str) -> Finding:
    """Return that it does not work, and what puts it right."""
    return Finding(status=Status.FAIL, detail=detail, hint=hint)


def skipped(detail: str, hint: str = "") -> Finding:
    """Return that there was nothing to look at."""
    return Finding(status=Status.SKIP, detail=detail, hint=hint)


def join_findings(findings: Sequence[Finding]) -> Finding:
    """Return several findings as one: the worst of their statuses, with every detail and every hint."""
    worst = max(findings, key=lambda each: _RANK.index(each.status))
    hints = dict.fromkeys(each.hint for each in findings if each.hint)
    return Finding(status=worst.status, detail="\n".join(each.detail for each in findings), hint="; ".join(hints))
