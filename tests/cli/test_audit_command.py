"""The audit: who changed what, when, and how many."""

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]


def test_what_operators_did_is_listed(run_syncctl: Run, polled: Path) -> None:
    nothing = run_syncctl("audit", cwd=polled)
    assert (nothing.exit_code, nothing.stdout) == (0, "no entries\n")
    run_syncctl("pause", "orders", "--reason", "wrong prices", cwd=polled)
    run_syncctl("discard", "--state", "pending", "--key", "2", "--reason", "test data", "--yes", cwd=polled)
    run_syncctl("resume", "--stream", "orders", cwd=polled)
    entries = run_syncctl("audit", "--json", cwd=polled).json["entries"]
    assert [(entry["action"], entry["count"]) for entry in entries] == [("resume", 1), ("discard", 1), ("pause", 1)]
    discard = entries[1]
    assert discard["who"].startswith(getpass.getuser() + "@")
    assert (discard["detail"]["key"], discard["detail"]["reason"], discard["error"]) == ("2", "test data", None)
    assert entries[2]["ended_at"] <= discard["at"] <= discard["ended_at"] <= entries[0]["at"]
    table = run_syncctl("audit", "--action", "pause", cwd=polled).stdout.splitlines()
    assert table[0].split() == ["AT", "ACTION", "WHO", "COUNT", "ENDED", "DETAIL"]
    assert 'streams=orders reason="wrong prices"' in table[1]
    assert run_syncctl("audit", "--until", "1h", "--json", cwd=polled).json == {"entries": [], "more": False}
    assert run_syncctl("audit", "--limit", "1", "--json", cwd=polled).json["more"] is True


def test_an_entry_without_an_end_says_so(run_syncctl: Run, polled: Path, mongo_database: Any) -> None:
    run_syncctl("pause", "orders", cwd=polled)
    mongo_database.audit.update_one({}, {"$unset": {"ended_at": True}})
    assert "not ended" in run_syncctl("audit", "--stream", "orders", cwd=polled).stdout


def test_an_unknown_action_is_refused(run_syncctl: Run, polled: Path) -> None:
    refused = run_syncctl("audit", "--action", "reply", cwd=polled)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "did you mean replay?" in refused.stderr


ROWS = 3
