"""The files of an archive, `DIR/STREAM/2026-01-31.jsonl.zst`: no crash, and no second writer, loses a line."""

import errno
import os
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import BinaryIO

from syncctl.archive.frames import Damage, find_last_frame, make_frame, read_lines
from syncctl.errors import TroubleFound

SUFFIX = ".jsonl.zst"
MARK = "syncctl-archive"
"""The name of the file that marks a directory as an archive; it is missing if the archive's disk is not mounted."""
_MARK_TEXT = b"Records that syncctl cleanup has archived; without this file, it archives nothing here.\n"
PARTS_AT_MOST = 1000
_MAKE_ROOM = "make room and check the rights of the directory"
_UNLOCK = "let the other program end, or end it"
CREATE = "mount its disk; or, if there has never been an archive, run: syncctl archive create --archive {}"
LOCK_SECONDS = 60.0
LOCK_PAUSE_SECONDS = 0.05
_NOT_OURS_TO_SYNC = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS)
_NAME = re.compile(rf"(\d{{4}}-\d\d-\d\d)(?:\.(\d{{1,4}}))?{re.escape(SUFFIX)}")
_STREAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class ArchiveError(TroubleFound):
    """Records cannot be archived, so none of them may be removed."""


class _Locked(OSError):
    """Another program has kept a file locked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchivedFile:
    """One file of an archive."""

    path: Path
    stream: str
    day: date

    def read_lines(self) -> Iterator[bytes | Damage]:
        """Yield its lines and its damaged parts, as `frames.read_lines` does.

        Raises:
            TroubleFound: It cannot be opened.
        """
        try:
            with self.path.open("rb") as file:
                yield from read_lines(file)
        except OSError as error:
            raise TroubleFound(
                f"cannot read {self.path}", why=error.strerror or str(error), hint="check its rights and its disk"
            ) from error


def create_archive(directory: Path) -> bool:
    """Make a directory an archive, and create it if needed; False if it is an archive already. Safe to repeat.

    Raises:
        ArchiveError: It cannot be written.
    """
    try:
        _make_directory(directory)
        number = os.open(directory / MARK, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(number, "wb", buffering=0) as file:
            _write_whole(file, _MARK_TEXT)
            os.fsync(file.fileno())
        _sync_directory(directory)
    except FileExistsError:
        return False
    except OSError as error:
        raise ArchiveError(
            f"cannot make an archive of {directory}", why=error.strerror or str(error), hint=_MAKE_ROOM
        ) from error
    return True


def find_obstacle(directory: Path) -> str | None:
    """Return why nothing can be archived in a directory; None if, as far as can be seen, it can.

    A missing directory is not created: it may be on a disk that is not mounted, and the records would go to the disk
    below.
    """
    try:
        (directory / MARK).stat()
    except FileNotFoundError:
        return "there is no archive" if directory.is_dir() else "there is no such directory"
    except OSError as error:
        return error.strerror or str(error)
    return None if os.access(directory, os.W_OK | os.X_OK) else "this user may not write there"


def require_archive(directory: Path) -> None:
    """Check that records can be archived in a directory, as far as can be seen.

    Raises:
        ArchiveError: They cannot.
    """
    if (obstacle := find_obstacle(directory)) is not None:
        raise ArchiveError(
            f"cannot archive records in {directory}, so none is removed",
            why=obstacle,
            hint=CREATE.format(shlex.quote(str(directory))),
        )


def day_of(finished_at: datetime) -> date:
    """Return the day of the file to which a record belongs that finished at a time: the day in UTC."""
    return finished_at.astimezone(UTC).date()


def append_lines(directory: Path, stream: str, day: date, lines: Sequence[bytes]) -> None:
    """Append lines to the file of a stream and day; when this returns they are on the disk and were read back.

    A file that a crash has left unfinished is left alone, and the next part begins: records may be removed only if
    their lines were read back. Lines of the last frame are not repeated: a cleanup wrote them that was interrupted
    before it could remove their records. Safe to repeat, and by several processes at once.

    Raises:
        ArchiveError: They could not be written; the file is as it was.
    """
    place = directory / stream
    require_archive(directory)
    try:
        if _STREAM.fullmatch(stream) is None:
            raise OSError(0, f"{stream!r} cannot be the name of a directory")
        _make_directory(place)
        for number in range(1, PARTS_AT_MOST):
            path = place / f"{day.isoformat()}{f'.{number}' if number > 1 else ''}{SUFFIX}"
            if _append(path, lines):
                return
        raise OSError(0, f"there are {PARTS_AT_MOST:,} parts of one day")
    except OSError as error:
        raise ArchiveError(
            f"cannot archive records of {stream} in {directory}, so none of them is removed",
            why=error.strerror or str(error),
            hint=f"{_UNLOCK if isinstance(error, _Locked) else _MAKE_ROOM}; then run: syncctl cleanup",
        ) from error


def _make_directory(path: Path) -> None:
    """Make a directory, and those above it, readable by this user only; one that exists keeps its mode.

    Its entry is synced in either case: the process that made it may have died before that.
    """
    is_new = not path.is_dir()
    if is_new:
        if path.parent != path and not path.parent.exists():
            _make_directory(path.parent)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
    for parent in path.parents if is_new else [path.parent]:
        try:
            _sync_directory(parent)
        except OSError as error:
            # Ignored for a directory made by others: this user may not read it, or its file system cannot be synced.
            if (is_new and parent == path.parent) or error.errno not in _NOT_OURS_TO_SYNC:
                raise


def _sync_directory(path: Path) -> None:
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _lock(file: BinaryIO, path: Path) -> None:
    """Lock a file until it is closed, so that a second cleanup waits.

    Raises:
        _Locked: Another program has kept it locked all the time.
    """
    import fcntl

    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise _Locked(
                    0, f"another cleanup or program has kept {path} locked for {LOCK_SECONDS:.0f} s"
                ) from None
            time.sleep(LOCK_PAUSE_SECONDS)
        else:
            return


def _append(path: Path, lines: Sequence[bytes]) -> bool:
    """Append lines to one file; False if it does not end in a whole frame."""
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(number, "r+b", buffering=0) as file:
        _lock(file, path)
        size = file.seek(0, os.SEEK_END)
        known: set[bytes] = set()
        last: tuple[int, int] | None = None
        if size:
            last = find_last_frame(file, size)
            if last is None:
                return False
            known = {line for line in read_lines(file, *last) if isinstance(line, bytes)}
        else:
            _sync_directory(path.parent)
        missing = [line for line in lines if line not in known]
        if last is not None and len(missing) < len(lines):
            _write_again(file, last[0], size)
        if missing:
            _write(file, size, missing)
    return True


def _write_again(file: BinaryIO, begin: int, end: int) -> None:
    """Write a part of a file over itself, and sync it.

    The process that wrote it may have died before its sync, or after one that failed: the part can then be read, but is
    not on the disk. After a failed sync, another sync alone would write nothing and succeed.
    """
    file.seek(begin)
    content = bytearray()
    while len(content) < end - begin and (piece := file.read(end - begin - len(content))):
        content += piece
    file.seek(begin)
    _write_whole(file, content)
    os.fsync(file.fileno())


def _write_whole(file: BinaryIO, content: bytes | bytearray) -> None:
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def _write(file: BinaryIO, size: int, lines: Sequence[bytes]) -> None:
    """Write a frame at the end of a file, to the disk, and read it back; whatever fails leaves the file as it was."""
    frame = make_frame(lines)
    try:
        file.seek(size)
        _write_whole(file, frame)
        os.fsync(file.fileno())
        place = find_last_frame(file, size + len(frame))
        if place is None or list(read_lines(file, *place)) != list(lines):
            raise OSError(0, "the data read back differs from the data written")
    except OSError:
        try:
            os.ftruncate(file.fileno(), size)
            os.fsync(file.fileno())
        except OSError:
            # The next cleanup begins another part if the end is not whole; if it is, it writes the last frame again.
            pass
        raise


def list_files(
    directory: Path, *, streams: Sequence[str] = (), since: date | None = None, until: date | None = None
) -> list[ArchivedFile]:
    """Return the files of an archive, the oldest day first.

    Args:
        streams: Only these; if empty, all.
        since: The first day.
        until: The last day.

    Raises:
        TroubleFound: The directory cannot be read.
    """
    files: list[tuple[date, str, int, Path]] = []
    try:
        places = [place for place in directory.iterdir() if place.is_dir() and (not streams or place.name in streams)]
        for place in places:
            for path in place.iterdir():
                if (match := _NAME.fullmatch(path.name)) is None:
                    continue
                try:
                    day = date.fromisoformat(match[1])
                except ValueError:
                    continue
                if (since is None or day >= since) and (until is None or day <= until):
                    files.append((day, place.name, int(match[2] or 1), path))
    except OSError as error:
        raise TroubleFound(
            f"cannot read the archive in {directory}",
            why=error.strerror or str(error),
            hint="name its directory: --archive DIR, or retention.archive in syncctl.toml",
        ) from error
    return [ArchivedFile(path=path, stream=stream, day=day) for day, stream, _, path in sorted(files)]
