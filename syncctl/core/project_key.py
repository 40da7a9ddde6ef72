"""The key that signs the messages of a project."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProjectKey:
    """A key, and MongoDB's time when it was read."""

    #: Derived from the ledger's secret; never logged or shown.
    key: bytes
    #: In milliseconds since 1970.
    server_ms: int

    def __repr__(self) -> str:
        return "ProjectKey(...)"
