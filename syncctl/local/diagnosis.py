"""Why a server did not start, and what helps: read from its log and its exit code."""

import json
import re
import signal
from typing import NamedTuple

_MISSING_LIBRARY = re.compile(r"error while loading shared libraries: (\S+?):")
_PACKAGES = {
    "libcurl.so.4": "libcurl4",
    "libcrypto.so.3": "libssl3",
    "libssl.so.3": "libssl3",
    "liblzma.so.5": "liblzma5",
}
_OLD_GLIBC = re.compile(r"version `(GLIBC\S*)' not found")
_LOCKED = ("DBPathInUse", "Unable to lock the lock file")
_PORT_TAKEN = ("Address already in use", "Failed to set up listener")


class Diagnosis(NamedTuple):
    """The cause and the way out, one line each."""

    why: str
    hint: str
    port_taken: bool = False


def diagnose(log: str, *, exit_code: int | None, log_path: str, name: str) -> Diagnosis:
    """Return why a server did not start.

    Args:
        exit_code: How it ended; None when it ran, but never became ready.
    """
    library = _MISSING_LIBRARY.search(log)
    if library:
        package = _PACKAGES.get(library[1])
        return Diagnosis(
            f"the system library {library[1]} is missing",
            f"run: apt-get install {package}" if package else f"install the package that has {library[1]}",
        )
    glibc = _OLD_GLIBC.search(log)
    if glibc:
        return Diagnosis(f"it needs {glibc[1]}, this system is older", f"put a {name} for this system on PATH")
    if exit_code == -signal.SIGILL:
        return Diagnosis(
            "this machine's processor lacks an instruction that it needs (MongoDB 5 and later: AVX)",
            f"put a {name} that runs on this machine on PATH",
        )
    if any(sign in log for sign in _LOCKED):
        return Diagnosis("another mongod uses the same directory", "stop it, or work in another directory")
    ended = "it still runs, but is not ready" if exit_code is None else f"it ended with exit code {exit_code}"
    last = read_last_lines(log, count=3)
    return Diagnosis(
        f"{ended}; its log ends: {' | '.join(last)}" if last else f"{ended} and wrote nothing",
        f"see {log_path}",
        port_taken=exit_code is not None and any(sign in log for sign in _PORT_TAKEN),
    )


def read_last_lines(log: str, *, count: int) -> list[str]:
    """Return the last lines of a log; of mongod's, the errors first and without their JSON."""
    lines = [line for line in log.splitlines() if line.strip()]
    severe = [line for line in lines if re.search(r'"s":"[EF]"', line)]
    return [_shorten(line) for line in (severe or lines)[-count:]]


def _shorten(line: str) -> str:
    try:
        entry = json.loads(line)
        attributes = entry.get("attr", {})
        text = f"{entry['msg']} {json.dumps(attributes)}" if attributes else str(entry["msg"])
    except (ValueError, KeyError, TypeError, AttributeError):
        text = line.strip()
    return text if len(text) <= 200 else text[:200] + "..."
