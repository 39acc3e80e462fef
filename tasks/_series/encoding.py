"""The text in the bytes of a file, in the encodings that tables come in."""

from __future__ import annotations

import codecs
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from ...core.errors import DataError

BLOCK = 1 << 20  # bytes that are read at a time
HEAD = 1000  # bytes from which UTF-16 and other formats are found


@dataclass(frozen=True)
class Content:
    """The bytes of a file from `start` on: in memory, or read again each time, so that a large file
    need not be in memory as a whole. version: of the file, its size and the time of its change."""

    source: bytes | Path
    start: int = 0
    version: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, path: Path) -> Content:
        """A small file, or a stream, which can be read only once, is read into memory."""
        if not path.is_file() or path.stat().st_size < BLOCK:
            return cls(path.read_bytes())
        return cls(path, 0, _version(path.stat()))

    def after(self, size: int) -> Content:
        """What follows the first bytes."""
        return replace(self, start=self.start + size)

    def size(self) -> int:
        whole = len(self.source) if isinstance(self.source, bytes) else self.version[0]
        return whole - self.start

    def open(self) -> BinaryIO:
        """DataError for a file that has changed since it was first read."""
        if isinstance(self.source, bytes):
            file: BinaryIO = io.BytesIO(self.source)
        else:
            file = self.source.open("rb")
            if _version(os.fstat(file.fileno())) != self.version:
                file.close()
                raise DataError(f"{self.source}: the file was changed while it was read")
        file.seek(self.start)
        return file

    def head(self, size: int) -> bytes:
        with self.open() as file:
            return file.read(size)

    def data(self) -> bytes:
        if isinstance(self.source, bytes) and not self.start:
            return self.source
        with self.open() as file:
            return file.read()

    def text(self) -> str:
        """All of a content in UTF-8."""
        return self.data().decode()

    def blocks(self, size: int = BLOCK) -> Iterator[bytes]:
        """All bytes in blocks of whole lines, of about `size` bytes."""
        rest = list[bytes]()
        with self.open() as file:
            while block := file.read(size):
                end = block.rfind(b"\n") + 1
                if not end:
                    rest.append(block)
                    continue
                yield b"".join((*rest, block[:end]))
                rest = [block[end:]]
        if last := b"".join(rest):
            yield last


def _version(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


def as_utf8(content: Content, where: str) -> tuple[Content, str]:
    """(the text in UTF-8 without a mark, name of its encoding). DataError as for `decode`."""
    head = content.head(HEAD)
    other = head.startswith((b"PK", b"\xd0", b"\xff", b"\xfe")) or b"\0" in head
    if not other and head.lstrip()[:1] not in (b"", b"{", b"["):
        if all(map(_is_utf8, content.blocks())):
            mark = codecs.BOM_UTF8 if head.startswith(codecs.BOM_UTF8) else b""
            return content.after(len(mark)), "utf-8"
    text, encoding = decode(content.data(), where)
    return Content(text.encode()), encoding


def _is_utf8(block: bytes) -> bool:
    if block.isascii():
        return True
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def decode(data: bytes, where: str) -> tuple[str, str]:
    """(text, name of the encoding): by its byte order mark, else UTF-8, else cp1252 (Latin-1, as
    Windows extends it). DataError for data that is not text."""
    if data[:4] == b"PK\x03\x04":
        raise DataError(f"{where}: a ZIP archive or an Excel workbook; save the table as CSV")
    if data[:8] == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        raise DataError(f"{where}: an Excel workbook; save the table as CSV")
    if data.lstrip()[:1] in (b"{", b"[") and b'"' in data[:1000]:
        raise DataError(f"{where}: JSON; write the series as CSV, .tsf or parquet")
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark):
            return _decoded(data, name, where), name.removesuffix("-sig")
    head = data[:1000]
    if b"\0" in head:  # UTF-16 without a mark: most characters of a table have a zero byte
        for name, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
            if zeros.count(0) > 0.7 * len(zeros):
                return _decoded(data, name, where), name
        raise DataError(f"{where}: not text (a zero byte at byte {data.index(0)})")
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        controls = sum(byte < 32 and byte not in b"\t\n\r\f" for byte in head)
        if controls > 0:
            raise DataError(f"{where}: not text (not UTF-8 at byte {error.start})") from None
    try:
        return data.decode("cp1252"), "cp1252"
    except UnicodeDecodeError:
        return data.decode("latin-1"), "latin-1"


def _decoded(data: bytes, name: str, where: str) -> str:
    try:
        return data.decode(name)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: damaged {name} text at byte {error.start}") from None
