"""The ids of a drawn text, one by one, to bytes as soon as they are certain."""

from __future__ import annotations

import codecs

import numpy as np

from ...core.protocols import ByteTokenizer


class TextDecoder:
    """A `StreamDecoder`; with `utf8`, of whole characters only, invalid ones as U+FFFD."""

    def __init__(self, tokenizer: ByteTokenizer, utf8: bool) -> None:
        self.tokenizer, self.utf8 = tokenizer, utf8
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.ids: list[int] = []  # of a tokenizer whose ids are no bytes by themselves
        self.data = b""

    def feed(self, id: int) -> bytes:
        if self.tokenizer.byte_level:
            data = self.tokenizer.decode_bytes(np.array([id]))
            return self._new(self.decoder.decode(data).encode() if self.utf8 else data)
        self.ids.append(id)
        whole: bytes = self.tokenizer.decode(np.array(self.ids), {}).encode()
        unsure = whole.endswith("\ufffd".encode()) or not whole.startswith(self.data)
        return b"" if unsure else self._new(whole[len(self.data) :])

    def finish(self) -> bytes:
        if self.ids:
            whole: bytes = self.tokenizer.decode(np.array(self.ids), {}).encode()
            return self._new(whole[len(self.data) :])
        return self._new(self.decoder.decode(b"", final=True).encode() if self.utf8 else b"")

    def item(self) -> bytes:
        return self.data

    def _new(self, data: bytes) -> bytes:
        self.data += data
        return data
