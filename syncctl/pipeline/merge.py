"""An external sort: more lines than memory holds, in order, by way of sorted files."""

import errno
import heapq
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from syncctl.errors import SyncctlError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.ENOENT}
LINES_AT_ONCE = 50_000
FILES_AT_ONCE = 64


@contextmanager
def open_scratch() -> Iterator[Path]:
    """Give a directory of its own, which only this user may read; it is removed in the end.

    Raises:
        SyncctlError: There is no room for it.
    """
    try:
        with TemporaryDirectory(prefix="syncctl-") as directory:
            yield Path(directory)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise SyncctlError(
            "the temporary directory cannot be written",
            why=error.strerror or str(error),
            hint="it takes some 200 bytes for each row: make room, or set TMPDIR to a larger disk",
        ) from error


class SortedLines:
    """Takes lines in any order and gives them back sorted; no more than a chunk of them is in memory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._chunk: list[str] = []
        self._files: list[Path] = []
        self._written = 0

    def add(self, line: str) -> None:
        """Take a line, without its end."""
        self._chunk.append(line + "\n")
        if len(self._chunk) >= LINES_AT_ONCE:
            self._spill()

    def __iter__(self) -> Iterator[str]:
        """Yield all lines in order."""
        self._spill()
        yield from self._merge()

    def _spill(self) -> None:
        if self._chunk:
            self._chunk.sort()
            self._files.append(self._write(self._chunk))
            self._chunk = []
        if len(self._files) >= FILES_AT_ONCE:
            # As many files as rows need would be more than a process may open.
            merged = self._write(f"{line}\n" for line in self._merge())
            for path in self._files:
                path.unlink()
            self._files = [merged]

    def _merge(self) -> Iterator[str]:
        with ExitStack() as stack:
            for line in heapq.merge(*(stack.enter_context(path.open(encoding="utf-8")) for path in self._files)):
                yield line[:-1]

    def _write(self, lines: Iterable[str]) -> Path:
        path = self._directory / f"{self._written}.sorted"
        self._written += 1
        with path.open("w", encoding="utf-8") as file:
            file.writelines(lines)
        return path
