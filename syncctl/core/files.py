"""Files that settings and flags name: read within bounds of size and time, and written so that none is read half."""

import errno
import os
import select
import stat
import tempfile
import time
from pathlib import Path

PIPE_SECONDS = 5.0
"""How long a pipe or a terminal may take until it has been read to its end."""
_PIECE = 64 * 1024
_UTF32_MARKS = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_file(path: Path, *, at_most: int) -> bytes:
    """Return the content of a file, or of a pipe that another process is writing to.

    Raises:
        OSError: it cannot be read, is longer than `at_most` bytes, or is a pipe or device whose content does not end
            in time; the reason is in `strerror`.
        ValueError: the path is not valid.
    """
    # Opening a pipe would wait for its writer.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        is_regular = stat.S_ISREG(os.fstat(number).st_mode)
        until = time.monotonic() + PIPE_SECONDS
        content = bytearray()
        while is_regular or _wait(number, until):
            piece = os.read(number, _PIECE)
            content += piece
            if not piece:
                return bytes(content)
            if len(content) > at_most:
                raise OSError(errno.EFBIG, f"it is longer than {at_most:,} bytes")
        raise OSError(errno.ETIMEDOUT, f"it is a pipe or a device whose content did not end within {PIPE_SECONDS:g} s")
    finally:
        os.close(number)


def _wait(number: int, until: float) -> bool:
    """Wait until there is something to read or the content has ended; return False if the time runs out first."""
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(max(0.0, until - time.monotonic()) * 1000))


def stamp_file(path: Path) -> tuple[int, int] | None:
    """Return when a file was last written, in nanoseconds, and its size; None if there is no regular file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None


def decode_utf8(content: bytes) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: It is not UTF-8. Windows programs write UTF-16 and call it Unicode; PowerShell does by default.
    """
    # UTF-16 text without a byte order mark has a NUL beside each ASCII character.
    if content.startswith(_UTF32_MARKS) or b"\0\0\0" in content[:4]:
        raise ValueError("it is UTF-32 text; save it as UTF-8")
    if content.startswith(_UTF16_MARKS) or b"\0" in content[:2]:
        raise ValueError("it is UTF-16 text; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The error's position is counted from after the byte order mark.
        before = error.object[: error.start].decode()
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise ValueError(f"it is not UTF-8 text (line {line}, column {column}); save it as UTF-8") from None


def write_draft(path: Path, text: str, *, mode: int) -> Path:
    """Write a file beside its final place: no reader sees half of it, and only its owner reads it until it has `mode`.

    Raises:
        OSError: the directory cannot be written; nothing is left behind.
    """
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    draft = Path(name)
    try:
        with os.fdopen(number, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        draft.chmod(mode)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    return draft
