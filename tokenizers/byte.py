"""A byte is a token: no training, and no unknown tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.protocols import Ids
from ._text import TextTokenizer, bpe_model, byte_symbols


class SingleByteTokenizer(TextTokenizer):
    """An id is a byte. Items are bytes, or str (encoded as UTF-8) if `text`."""

    def __init__(self, ends: bool = False, text: bool = False) -> None:
        super().__init__([bytes([value]) for value in range(256)], ends)
        self.text = text

    def tokens(self, item: bytes | str) -> Ids:
        data = item.encode() if isinstance(item, str) else item
        return np.frombuffer(data, np.uint8).astype(np.int64)

    def ids_of_bytes(self, data: bytes) -> Ids:
        return self.tokens(data)

    def decode(self, ids: Ids, side: Mapping[str, Any]) -> bytes | str:
        data = self.decode_bytes(ids)
        return data.decode("utf-8", errors="replace") if self.text else data

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        return {"ends": self.ends, "text": self.text}, {}

    def tokenizer_json(self) -> dict[str, Any]:
        flags = dict.fromkeys(("add_prefix_space", "trim_offsets", "use_regex"), False)
        level = {"type": "ByteLevel", **flags}
        model = bpe_model(byte_symbols(), byte_fallback=False)
        return self._as_tokenizer_json({"pre_tokenizer": level, "decoder": level, "model": model})


Tokenizer = SingleByteTokenizer
