"""Streaming decoding of sampled text: ids in, one at a time; bytes out, once they are final."""

from __future__ import annotations

import codecs

import numpy as np

from ...core.protocols import ByteTokenizer


class TextDecoder:
    """A `StreamDecoder`. With `utf8`, output is complete characters; invalid bytes are U+FFFD."""

    def __init__(self, tokenizer: ByteTokenizer, utf8: bool) -> None:
        self.tokenizer, self.utf8 = tokenizer, utf8
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.ids: list[int] = []  # all so far, unless byte-level: they only decode together
        self.data = b""

    def feed(self, id: int) -> bytes:
        if self.tokenizer.byte_level:
            data = self.tokenizer.decode_bytes(np.array([id]))
            return self._append(self.decoder.decode(data).encode() if self.utf8 else data)
        self.ids.append(id)
        decoded: bytes = self.tokenizer.decode(np.array(self.ids), {}).encode()
        incomplete = decoded.endswith("\ufffd".encode()) or not decoded.startswith(self.data)
        return b"" if incomplete else self._append(decoded[len(self.data) :])

    def finish(self) -> bytes:
        if self.ids:
            decoded: bytes = self.tokenizer.decode(np.array(self.ids), {}).encode()
            return self._append(decoded[len(self.data) :])
        return self._append(self.decoder.decode(b"", final=True).encode() if self.utf8 else b"")

    def item(self) -> bytes:
        return self.data

    def _append(self, data: bytes) -> bytes:
        self.data += data
        return data
