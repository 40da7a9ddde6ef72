"""The frames of an archive's file: Zstandard frames (RFC 8878), each followed by a seal that shows that it is whole.

A seal is a skippable frame, which every program that reads Zstandard passes over: `zstd -dc` prints the lines alone.
"""

import hashlib
import io
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEVEL = 6
FRAME_BYTES_AT_MOST = 128 * 1024 * 1024
"""The most bytes of lines in a frame, which is read at once. The largest record fits: 16 MiB of control characters are
96 MiB of JSON.
A frame that another program has written may be larger, and is skipped."""
_PIECE = 256 * 1024
_SKIPPABLE = 0x184D2A50
_SEAL_KIND = _SKIPPABLE + 0x0C
_MARK = b"syncctl1"
_SEAL = struct.Struct("<II8sQ32s")
"""Kind, length of what follows, mark, length of the frame before, and its SHA-256."""
_HEAD = struct.Struct("<II")


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """A part of a file that cannot be read."""

    #: Where it begins.
    at: int
    why: str


def make_frame(lines: Sequence[bytes]) -> bytes:
    """Return a frame of these lines, with its seal."""
    parameter = zstd.CompressionParameter
    options: dict[int, int] = {parameter.compression_level: LEVEL, parameter.checksum_flag: 1}
    compressor = zstd.ZstdCompressor(options=options)
    frame = compressor.compress(b"".join(lines), mode=zstd.ZstdCompressor.FLUSH_FRAME)
    seal = _SEAL.pack(_SEAL_KIND, _SEAL.size - _HEAD.size, _MARK, len(frame), hashlib.sha256(frame).digest())
    return frame + seal


def find_last_frame(file: BinaryIO, size: int) -> tuple[int, int] | None:
    """Return where the last frame of a file begins and ends; None if the file does not end in a whole sealed one."""
    if size < _SEAL.size:
        return None
    file.seek(size - _SEAL.size)
    seal = file.read(_SEAL.size)
    kind, _, mark, length, digest = _SEAL.unpack(seal)
    begin, end = size - _SEAL.size - length, size - _SEAL.size
    if (kind, mark) != (_SEAL_KIND, _MARK) or not 0 < length <= end:
        return None
    file.seek(begin)
    sha256, left = hashlib.sha256(), length
    while left and (piece := file.read(min(left, _PIECE))):
        sha256.update(piece)
        left -= len(piece)
    return (begin, end) if not left and sha256.digest() == digest else None


def read_lines(file: BinaryIO, begin: int = 0, end: int | None = None) -> Iterator[bytes | Damage]:
    """Yield the lines of whole frames, and the damaged parts; memory holds one frame at a time.

    After a damaged part, reading continues after the next seal.
    """
    file.seek(begin)
    at = begin
    while end is None or at < end:
        file.seek(at)
        head = file.read(_HEAD.size)
        if not head:
            return
        if len(head) == _HEAD.size and (_HEAD.unpack(head)[0] & 0xFFFFFFF0) == _SKIPPABLE:
            at += _HEAD.size + _HEAD.unpack(head)[1]
            continue
        file.seek(at)
        try:
            content, length = _read_frame(file)
        except _Broken as error:
            yield Damage(at=at, why=str(error))
            following = _find_seal(file, at)
            if following is None:
                return
            at = following
            continue
        yield from io.BytesIO(content)
        at += length


class _Broken(Exception):
    """A frame cannot be read."""


def _read_frame(file: BinaryIO) -> tuple[bytes, int]:
    """Return the content of a frame and the frame's own length; the file is at the frame's beginning."""
    decompressor, content, taken = zstd.ZstdDecompressor(), bytearray(), 0
    try:
        while not decompressor.eof:
            piece = b""
            if decompressor.needs_input:
                piece = file.read(_PIECE)
                taken += len(piece)
                if not piece:
                    raise _Broken(
                        "it is cut off: the cleanup that wrote it was interrupted, and removed none of these records, "
                        "or the file was truncated later and must be restored from a backup"
                    )
            content += decompressor.decompress(piece, _PIECE)
            if len(content) > FRAME_BYTES_AT_MOST:
                raise _Broken(f"a frame holds more than {FRAME_BYTES_AT_MOST:,} bytes: syncctl has not written it")
    except zstd.ZstdError as error:
        raise _Broken(f"it is damaged ({error})") from None
    return bytes(content), taken - len(decompressor.unused_data)


def _find_seal(file: BinaryIO, after: int) -> int | None:
    """Return where the next seal begins; None if there is none."""
    sign = _HEAD.pack(_SEAL_KIND, _SEAL.size - _HEAD.size) + _MARK
    at, tail = after + 1, b""
    file.seek(at)
    while piece := file.read(_PIECE):
        window = tail + piece
        if (offset := window.find(sign)) >= 0:
            return at - len(tail) + offset
        at += len(piece)
        tail = window[-(len(sign) - 1) :]
    return None
