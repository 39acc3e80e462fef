"""The text in the bytes of a file, in the encodings that tables come in."""

from __future__ import annotations

import codecs

from ...core.errors import DataError


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
