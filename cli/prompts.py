"""Prompts: one from `-p`, or records of standard input as they arrive."""

from __future__ import annotations

import hashlib
import json
import queue
import sys
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..core.errors import DataError

BLOCK_BYTES = 1 << 16  # at most, of one read
MAX_QUEUED_BLOCKS = 16  # read ahead


@dataclass(frozen=True)
class Prompt:
    data: bytes | None  # None: no prompt, the task's default beginning
    id: Any = None  # as JSON has it: 0 is not "0"
    where: str | None = None  # the input line, for error messages

    @property
    def key(self) -> str:
        """The key of the prompt's random numbers: its id, else a hash of the prompt."""
        return hashlib.sha256(self.data or b"").hexdigest() if self.id is None else str(self.id)


class RecordReader:
    """Reads records from a stream as they arrive; a thread reads at most a few blocks ahead.

    The line end, LF or CR LF, is removed. A record longer than `max_bytes` (0: no limit) comes in
    pieces of about that many bytes, never cut inside a UTF-8 character.
    """

    def __init__(self, stream: BinaryIO, separator: bytes = b"\n", max_bytes: int = 0) -> None:
        self.stream, self.separator, self.max_bytes = stream, separator, max_bytes
        self.at_end = False
        self._blocks: queue.Queue[bytes | OSError] = queue.Queue(MAX_QUEUED_BLOCKS)
        self._records: deque[tuple[bytes, bool]] = deque()
        self._parts: list[bytes] = []  # of a record that has not ended
        self._size = 0
        threading.Thread(target=self._read, daemon=True).start()

    def take(self, wait: float | None = None) -> tuple[bytes, bool] | None:
        """The next (record or piece of one, whether it is the last piece). None if none arrives
        within `wait` seconds (None: no time limit) or the stream has ended (`at_end`)."""
        while not self._records and not self.at_end:
            try:
                block = self._blocks.get(wait != 0, wait)
            except queue.Empty:
                return None
            if isinstance(block, OSError):
                raise DataError(f"standard input: {block.strerror}") from block
            self._add(block)
        return self._records.popleft() if self._records else None

    def _read(self) -> None:
        try:
            while block := self.stream.read1(BLOCK_BYTES):  # type: ignore[attr-defined]
                self._blocks.put(block)
            self._blocks.put(b"")
        except OSError as error:
            self._blocks.put(error)

    def _add(self, block: bytes) -> None:
        *ended, rest = block.split(self.separator)
        for part in ended:
            data = b"".join((*self._parts, part))
            self._parts, self._size = [], 0
            self._records.append((data.removesuffix(b"\r") if self._lines else data, True))
        if rest:
            self._parts.append(rest)
            self._size += len(rest)
        if not block:
            self.at_end = True
            if self._parts:
                self._records.append((b"".join(self._parts), True))
        elif self.max_bytes and self._size >= self.max_bytes:
            data = b"".join(self._parts)
            cut = complete_characters(data)
            self._records.append((data[:cut], False))
            self._parts, self._size = [data[cut:]], len(data) - cut

    @property
    def _lines(self) -> bool:
        return self.separator == b"\n"


def complete_characters(data: bytes) -> int:
    """The number of bytes before a final CR or incomplete UTF-8 character, which the next block
    can continue."""
    if data.endswith(b"\r"):
        return len(data) - 1
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte >= 0xC0:  # the first byte of a character of 2 to 4 bytes
            length = 2 + (byte >= 0xE0) + (byte >= 0xF0)
            return len(data) - back if length > back else len(data)
        if byte < 0x80:
            break
    return len(data)


def piped_stdin() -> BinaryIO | None:
    """Standard input; None if it is closed or a terminal."""
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        return None
    return sys.stdin.buffer


def single_prompt(value: str | None, is_file: bool) -> Prompt | None:
    """The prompt of `-p TEXT`, `-p @FILE` or `-p -`; None without -p if each line of a piped
    standard input is a prompt. `is_file`: the task's prompts are files, named or piped. DataError
    for a file that cannot be read."""
    if value is None:
        stream = piped_stdin()
        if stream is not None and not is_file:
            return None
        return Prompt(stream.read() or None) if stream is not None else Prompt(None)
    if value == "-":
        return Prompt(sys.stdin.buffer.read())
    if not is_file and not value.startswith("@"):
        return Prompt(value.encode("utf-8", "surrogateescape"))
    try:
        return Prompt(Path(value.removeprefix("@")).read_bytes())
    except OSError as error:
        raise DataError(f"-p {value}: {error.strerror}") from error


class PromptReader:
    """The prompts of standard input: one per line, NUL-terminated text or JSON line."""

    def __init__(self, null: bool, json_in: bool) -> None:
        stream = piped_stdin()
        assert stream is not None
        self.records = RecordReader(stream, b"\0" if null else b"\n")
        self.null, self.json_in, self.number = null, json_in, 0
        self.first: Prompt | None = None

    def has_prompt(self) -> bool:
        """Waits for the first prompt, or for the end of the input."""
        self.first = self.take(wait=True)
        return self.first is not None

    def take(self, wait: bool) -> Prompt | None:
        """The next prompt; None at the end of the input, and without `wait` also if none has
        arrived yet. DataError for a line that is not a prompt."""
        if self.first is not None:
            prompt, self.first = self.first, None
            return prompt
        record = self.records.take(None if wait else 0)
        if record is None:
            return None
        self.number += 1
        where = f"standard input, {'record' if self.null else 'line'} {self.number}"
        return json_prompt(record[0], where) if self.json_in else Prompt(record[0], None, where)


def json_prompt(line: bytes, where: str) -> Prompt:
    """The prompt of {"prompt": TEXT, "id": ID}; `where` names the line in error messages."""
    try:
        record: Any = json.loads(line)
        data = record["prompt"].encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{where}: must be a JSON object with a string `prompt`") from error
    return Prompt(data, record.get("id"), where)
