"""Any files as bytes: a token is one byte."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

from ..core.data.byte_stream import ByteStream
from ..core.data.source import Source
from ..core.errors import ConfigError
from ..core.protocols import Sequence
from ..tokenizers.byte import SingleByteTokenizer
from ._text.running import Running
from ._text.spans import Spans


class ByteTask(Running):
    name = "byte"
    about = "any files, a byte at a time"
    default_tokenizer = "byte"
    binary = True
    rows_unasked = False

    @classmethod
    def claims(cls, path: Path, head: bytes) -> float:
        return 0.1

    def default_source(self) -> Source:
        """The source files at the top level of this Python's standard library."""
        library = Path(sysconfig.get_paths()["stdlib"])
        files = tuple(str(path) for path in sorted(library.glob("*.py")))
        return Source(files, about="the source files of Python's standard library")

    def value(self, data: bytes, where: tuple[ByteStream, int] | None = None) -> bytes:
        return data

    def fit_tokenizer(self, spec: str, train: Spans) -> SingleByteTokenizer:
        if spec != "byte":
            raise ConfigError(f"--tokenizer {spec}: the byte task reads bytes; use --task text")
        return SingleByteTokenizer(ends=not self.running)

    def prompt(self, data: bytes | None, tokenizer: SingleByteTokenizer, sampling: Any) -> Sequence:
        return Sequence(tokenizer.encode(data or b"").ids[: 1 + len(data or b"")])


Task = ByteTask
