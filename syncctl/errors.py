"""Every error that syncctl raises on purpose.

SyncctlError                     what · why · hint · exit_code
├── TroubleFound            (1)  the command ran and found a problem
│   └── SourceError         (1)  a stream's table cannot be read as configured
│       └── SourceRestored  (1)  the source's versions went back: the database was restored
├── UsageError              (2)  the command line asks for something impossible
│   └── ConfigurationError  (2)  a setting is missing, unknown or wrong
├── ServiceUnavailable     (69)  MongoDB, Redis, the source or the partner cannot be reached
├── InternalError          (70)  a bug in syncctl
└── LeaseHeld              (75)  another process is doing this right now

A partner's answer is never an exception: it is an `Outcome` (core/outcome.py).
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of every command; sysexits.h defines those from 64 to 78."""

    DONE = 0
    TROUBLE = 1
    USAGE = 2
    UNAVAILABLE = 69
    BUG = 70
    LEASE_HELD = 75
    INTERRUPTED = 130
    TERMINATED = 143


class SyncctlError(Exception):
    """An error that says what to do next.

    Args:
        what: One line: what could not be done.
        why: One line: the cause, as close to the root as known. It never contains a secret.
        hint: One line: what the operator should do next.
    """

    exit_code: ExitCode = ExitCode.TROUBLE

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" if self.why else self.what


class TroubleFound(SyncctlError):
    """The command ran and found a problem."""


class SourceError(TroubleFound):
    """A stream's table or query cannot be read as it is configured."""


class SourceRestored(SourceError):
    """The source's versions went back: the database was restored."""


class UsageError(SyncctlError):
    """The command line asks for something impossible."""

    exit_code = ExitCode.USAGE


class ConfigurationError(UsageError):
    """A setting is missing, unknown or wrong."""


class ServiceUnavailable(SyncctlError):
    """A required service cannot be reached.

    Args:
        service: `redis`, `mongodb`, `source` or `partner`; the name of its doctor check.
    """

    exit_code = ExitCode.UNAVAILABLE

    def __init__(self, what: str, *, service: str, why: str = "", hint: str = "") -> None:
        super().__init__(what, why=why, hint=hint)
        self.service = service


class InternalError(SyncctlError):
    """A bug in syncctl."""

    exit_code = ExitCode.BUG


class LeaseHeld(SyncctlError):
    """Another process is doing this right now; try again later."""

    exit_code = ExitCode.LEASE_HELD
